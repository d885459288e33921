"""What a text gives away beside its emotion: the word itself, other emotion words, punctuation, person."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from statistics import fmean, median

from emolens.corpus.packaged import stories, vignettes
from emolens.corpus.stories import EMOTIONS, Corpus, Story

ENDINGS = "s|es|ed|er|est|ing|ly|edly|ingly|ness|edness|edom|ety|ity|ion|ment|ful|fully|less|ously|ousy"
# Words that say the emotion as well, where an ending does not lead to them.
RELATED = {
    "angry": "anger", "anxious": "anxiety", "compassionate": "compassion", "ecstatic": "ecstasy",
    "empathetic": "empathy", "enthusiastic": "enthusiasm", "envious": "envy", "euphoric": "euphoria",
    "furious": "fury", "gloomy": "gloom", "grateful": "gratitude", "greedy": "greed",
    "grief-stricken": "grief", "guilty": "guilt", "hateful": "hatred", "heartbroken": "heartbreak",
    "horrified": "horror", "hysterical": "hysteria", "joyful": "joy", "miserable": "misery",
    "mortified": "mortification", "nostalgic": "nostalgia", "optimistic": "optimism", "panicked": "panic",
    "proud": "pride", "satisfied": "satisfaction", "suspicious": "suspicion", "sympathetic": "sympathy",
    "terrified": "terror", "trapped": "trap", "vengeful": "vengeance",
}  # fmt: skip


@cache
def _forms(emotion: str) -> re.Pattern[str]:
    *before, word = map(re.escape, re.split(r"[\s-]+", emotion.strip()))
    # sad, sadly, sadder, sadden
    forms = rf"{word}{word[-1:]}?(?:{ENDINGS}|en|ened|ening)?"
    # happy, happier, happiness; worried, worry, worrying
    if match := re.fullmatch(r"(\w{3,})(?:y|ied)", word):
        forms += rf"|{match[1]}(?:y|ying|i(?:{ENDINGS}))"
    # loving, love; shocked, shock; a short stem needs an ending, or "hope" would forbid "hop"
    elif match := re.fullmatch(r"(\w{3,}?)(?:ed|ing|ful|ous|e)", word):
        forms += rf"|{match[1]}(?:e|{ENDINGS}){'?' if len(match[1]) > 3 else ''}"
    # patient, patience
    elif word.endswith("nt"):
        forms += f"|{word[:-1]}c[ey]"
    phrase = r"[\s-]+".join([*before, f"(?:{forms})"])
    related = rf"|{RELATED[emotion]}\w*" if emotion in RELATED else ""
    return re.compile(rf"\b(?:{phrase}{related})\b", re.IGNORECASE)


def mention(emotion: str, text: str) -> str | None:
    """Where `text` first names the emotion, by the word or an inflection of it ("happily"); None if nowhere.

    The rule goes by spelling and is rather too strict than too lax: for "pleased" it also finds "please".

    >>> mention("happy", "They lived happily."), mention("happy", "They lived.")
    ('happily', None)
    """
    found = _forms(emotion).search(text)
    return found and found.group()


def _narration(text: str) -> str:
    return re.sub(r'"[^"]*"', "", text)


TRAITS: dict[str, Callable[[str], bool]] = {
    "an exclamation mark": lambda text: "!" in text,
    "a question mark": lambda text: "?" in text,
    "direct speech": lambda text: '"' in text,
    "first person": lambda text: bool(re.search(r"\b(?:I|me|my|mine|myself)\b", _narration(text))),
    "second person": lambda text: bool(re.search(r"\byou(?:rs?|rself)?\b", _narration(text), re.IGNORECASE)),
}


def audit(corpus: Corpus | None = None) -> list[dict[str, str | int | None]]:
    """Measure what the texts give away; one row for each measure, one column for each register.

    Person is judged outside direct speech. "explained by emotion" is the share of a trait's variance that
    lies between emotions, in percent and adjusted for chance (epsilon squared): about 0 if the emotion tells
    nothing of the trait, below 0 if it is balanced within emotions, None with one text for each emotion.

    >>> audit(Corpus.from_rows([("sad", "He wept!"), ("calm", "She sat, sad no more.")]))[3]
    {'measure': 'another of the 171 words, %', 'default': 50}

    Args:
        corpus: by default the packaged stories and vignettes, whose figures stand in `data/README.md`.

    Raises:
        ValueError: a corpus without a story.
    """
    if corpus is None:
        corpus = Corpus(stories().stories + vignettes().stories)
    if not len(corpus):
        raise ValueError("the corpus has no story, so there is nothing to measure")
    columns = {name: list(corpus.where(register=name)) for name in dict.fromkeys(s.register for s in corpus)}
    measures = {name: _measures(texts) for name, texts in columns.items()}
    names = dict.fromkeys(key for column in measures.values() for key in column)
    return [{"measure": key, **{name: column[key] for name, column in measures.items()}} for key in names]


def _measures(texts: list[Story]) -> dict[str, str | int | None]:
    others = [_other_emotions(story) for story in texts]
    measures: dict[str, str | int | None] = {
        "texts": len(texts),
        "words, median": round(median(len(story.text.split()) for story in texts)),
        "texts that name their own emotion": sum(mention(story.emotion, story.text) is not None for story in texts),
        "another of the 171 words, %": _percent(fmean(map(bool, others))),
        "most frequent of these, in texts": _most_frequent(word for words in others for word in words),
        "most frequent in one topic": _most_frequent(
            f"{word}, {story.topic}"
            for words, story in zip(others, texts, strict=True)
            for word in words
            if story.topic
        ),
    }
    for trait, has in TRAITS.items():
        values = [has(story.text) for story in texts]
        measures[f"{trait}, %"] = _percent(fmean(values))
        measures[f"{trait}, explained by emotion, %"] = _explained(values, [story.emotion for story in texts])
    return measures


_ANY = re.compile(rf"\b(?:{'|'.join(map(re.escape, EMOTIONS))})\b", re.IGNORECASE)


def _other_emotions(story: Story) -> set[str]:
    return {word.lower() for word in _ANY.findall(story.text)} - {story.emotion}


def _most_frequent(words: Iterable[str]) -> str | None:
    counts = Counter(sorted(words))  # sorted, so that of several the first in the alphabet stands for them
    return next((f"{word}: {count}" for word, count in counts.most_common(1)), None)


def _percent(share: float) -> int:
    return round(100 * share)


def _explained(values: list[bool], emotions: list[str]) -> int | None:
    groups: dict[str, list[bool]] = defaultdict(list)
    for value, emotion in zip(values, emotions, strict=True):
        groups[emotion].append(value)
    total, within = _squares(values), sum(map(_squares, groups.values()))
    if len(groups) == len(values) or total == 0:
        return None
    return _percent(1 - within / (len(values) - len(groups)) / (total / (len(values) - 1)))


def _squares(values: list[bool]) -> float:
    """The sum of squared differences from the mean."""
    share = fmean(values)
    return len(values) * share * (1 - share)
