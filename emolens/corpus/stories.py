"""Stories labelled with an emotion: `Story`, `Corpus`, and how they are read from a file."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from emolens.corpus.rows import (
    LABELS,
    TABLES,
    bare_label,
    by_name,
    check_order,
    json_lines,
    listing,
    rows_of,
    values_of,
)
from emolens.errors import did_you_mean
from emolens.files import data_path, write_atomic

EMOTIONS: tuple[str, ...] = tuple(data_path("corpus", "emotions.txt").read_text("utf-8").split("\n"))[:-1]
"""The paper's 171 emotion words, in alphabetical order."""


_KNOWN = frozenset(EMOTIONS)


@dataclass(frozen=True)
class Story:
    """A text in which somebody feels `emotion`; `register` is how it is told, `topic` what it is about.

    White space around and within the three labels is reduced to single spaces, the text stays as it is.

    >>> Story("calm ", "plain", "rain", "She sat by the window.")
    Story(emotion='calm', register='plain', topic='rain', text='She sat by the window.')

    Raises:
        ValueError: a field that is no string.
    """

    emotion: str
    register: str
    topic: str
    text: str

    def __post_init__(self) -> None:
        for name in (*LABELS, "text"):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name!r} is {value!r}, which is not a string")
            if name != "text":
                object.__setattr__(self, name, " ".join(value.split()))

    def to_json(self) -> str:
        """One line of a JSON Lines file, without the line feed.

        >>> Story("calm", "plain", "rain", "She sat.").to_json()
        '{"emotion": "calm", "register": "plain", "topic": "rain", "text": "She sat."}'
        """
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Corpus:
    """Labelled texts, in order. Make one with `from_jsonl`, `from_rows`, or `of` where it may be either.

    Labels that differ in nothing but capitals or invisible characters are one label. They are read as the one of the
    171 emotions, else as the spelling that comes first, and a warning says so.

    >>> own = Corpus.from_rows([("sad", "He wept."), ("calm", "She sat."), ("calm", "It rained.")])
    >>> own
    Corpus(3 stories of 2 emotions: 3 default)
    >>> len(own), own[0].emotion, own.emotions, own.texts[1]
    (3, 'sad', ('calm', 'sad'), 'She sat.')
    >>> own[:2]
    Corpus(2 stories of 2 emotions: 2 default)
    """

    stories: tuple[Story, ...]

    def __post_init__(self) -> None:
        stories = tuple(self.stories)
        for number, story in enumerate(stories):
            if not isinstance(story, Story):
                raise ValueError(
                    f"row {number} (the first is 0) is of type {type(story).__name__} and no Story; "
                    "use Corpus.from_rows(rows)"
                )
        object.__setattr__(self, "stories", _one_spelling(stories))

    @classmethod
    def of(cls, given: Any) -> Corpus:
        """A corpus as it is, the path of a JSON Lines file, or rows as `from_rows` takes them.

        >>> Corpus.of([("sad", "He wept."), ("calm", "She sat.")])
        Corpus(2 stories of 2 emotions: 2 default)

        Raises:
            ValueError: a row or a line that is no story.
            FileNotFoundError: no such file.
        """
        if isinstance(given, cls):
            return given
        return cls.from_jsonl(given) if isinstance(given, (str, Path)) else cls.from_rows(given)

    @classmethod
    def from_rows(cls, rows: Any) -> Corpus:
        """Stories, mappings with at least `emotion` and `text`, or (emotion, text) pairs.

        What has names is read by them, whatever the order: named tuples, dataclasses, and the columns of a data frame.
        `register` and `topic` are "default" and "" where they are not given, None or NaN; other keys are passed over.

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"text": ["He wept.", "She sat."], "emotion": ["sad", "calm"]})
        >>> Corpus.from_rows(frame) == Corpus.from_rows([("sad", "He wept."), ("calm", "She sat.")])
        True

        Raises:
            ValueError: a row that is none of these, lacks a key, or has an empty or unusable value; by index. Pairs
                in the other order, (text, emotion).
        """
        plain = [by_name(row) for row in rows_of(rows)]
        corpus = cls(tuple(Story(**values_of(row, f"row {i} (the first is 0)")) for i, row in enumerate(plain)))
        if plain and all(isinstance(row, (tuple, list)) for row in plain):
            check_order([(story.emotion, story.text) for story in corpus], _KNOWN)
        return corpus

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Corpus:
        """Read JSON Lines in UTF-8: an object with at least `emotion` and `text` on each line. Or one array of them.

        `register` and `topic` are "default" and "" where they are not given or null, other keys are passed over.

        >>> _ = Path("mine.jsonl").write_text('{"emotion": "sad", "text": "He wept.", "topic": null}\\n')
        >>> Corpus.from_jsonl("mine.jsonl")[0]
        Story(emotion='sad', register='default', topic='', text='He wept.')

        Raises:
            ValueError: a line that does not parse or is no story, by file and line; a table such as a CSV file.
            FileNotFoundError: no such file.
        """
        path = Path(path)
        if (suffix := path.suffix.lower()) in TABLES:
            raise ValueError(f"{path} is a table, not JSON Lines; use Corpus.from_rows({TABLES[suffix]})")
        if not path.exists():
            raise FileNotFoundError(f"no file {path}; a corpus is a file of JSON Lines, a Corpus, or a list of rows")
        return cls(tuple(Story(**values_of(by_name(row), where)) for where, row in json_lines(path)))

    def to_jsonl(self, path: str | Path) -> Path:
        """Write one JSON object for each story; `from_jsonl` reads back an equal corpus.

        >>> path = corpus.to_jsonl("stories.jsonl")
        >>> Corpus.from_jsonl(path) == corpus
        True
        """
        return write_atomic(path, "".join(f"{story.to_json()}\n" for story in self).encode())

    def __len__(self) -> int:
        return len(self.stories)

    def __iter__(self) -> Iterator[Story]:
        return iter(self.stories)

    @overload
    def __getitem__(self, index: int) -> Story: ...
    @overload
    def __getitem__(self, index: slice) -> Corpus: ...
    def __getitem__(self, index: int | slice) -> Story | Corpus:
        return Corpus(self.stories[index]) if isinstance(index, slice) else self.stories[index]

    def __repr__(self) -> str:
        registers = ", ".join(f"{n} {name}" for name, n in Counter(s.register for s in self).items())
        return f"Corpus({len(self)} stories of {len(self.emotions)} emotions: {registers or 'empty'})"

    @property
    def texts(self) -> list[str]:
        """The texts alone, in order.

        >>> Corpus.from_rows([("sad", "He wept."), ("calm", "She sat.")]).texts
        ['He wept.', 'She sat.']
        """
        return [story.text for story in self]

    @cached_property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that occur: those of `EMOTIONS` in its order, then the others as they first occur.

        >>> corpus.emotions
        ('afraid', 'angry', 'calm', 'happy', 'proud', 'sad')
        """
        found = dict.fromkeys(story.emotion for story in self)
        return tuple(e for e in EMOTIONS if e in found) + tuple(e for e in found if e not in _KNOWN)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the rows in their order, as 64 hex digits; independent of how a file spelled them.

        >>> len(corpus.hash), corpus.hash == Corpus(corpus.stories[::-1]).hash
        (64, False)
        """
        rows = [[story.emotion, story.register, story.topic, story.text] for story in self]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def where(
        self,
        *,
        emotion: str | Collection[str] | None = None,
        register: str | Collection[str] | None = None,
        topic: str | Collection[str] | None = None,
    ) -> Corpus:
        """The stories with one of the given values.

        >>> corpus.where(register="plain", emotion=["calm", "sad"])
        Corpus(12 stories of 2 emotions: 12 plain)

        Raises:
            ValueError: a value that occurs nowhere in this corpus; names the nearest.
        """
        stories = self.stories
        for field, wanted in {"emotion": emotion, "register": register, "topic": topic}.items():
            if wanted is not None:
                wanted = {wanted} if isinstance(wanted, str) else set(wanted)
                present = {getattr(story, field) for story in self}
                if unknown := sorted(wanted - present):
                    near = did_you_mean(unknown[0], sorted(present))
                    raise ValueError(f"no story has the {field} {unknown[0]!r}{near}")
                stories = tuple(story for story in stories if getattr(story, field) in wanted)
        return Corpus(stories)

    def check(self, emotions: Iterable[str] | None = None) -> None:
        """Whether vectors can be derived from this corpus.

        A text that is there twice for one emotion counts twice, so a warning names it.

        >>> corpus.check(["calm", "clam"])
        Traceback (most recent call last):
        ValueError: the corpus has no story for 'clam' (did you mean calm?): add some, or ask for fewer

        Args:
            emotions: those that must be in it.

        Raises:
            ValueError: one of `emotions` without a story; fewer than two emotions; a topic told for one emotion
                only; one text under two emotions.
        """
        wanted = (emotions,) if isinstance(emotions, str) else dict.fromkeys(emotions or ())
        if missing := [emotion for emotion in wanted if emotion not in self.emotions]:
            near = did_you_mean(missing[0], self.emotions) if len(missing) == 1 else ""
            raise ValueError(f"the corpus has no story for {listing(missing)}{near}: add some, or ask for fewer")
        if len(self.emotions) < 2:
            raise ValueError(
                f"the corpus has {len(self)} stories of {listing(self.emotions) or 'no emotion'}: an "
                "emotion vector is a difference from the mean over emotions, so at least two are needed"
            )
        told: dict[tuple[str, str], list[str]] = defaultdict(list)
        for story in self:
            told[story.register, story.topic].append(story.emotion)
        for (register, topic), group in told.items():
            if len(set(group)) == 1:
                way_out = (
                    "Tell the topic for another emotion too, or leave the topics empty"
                    if topic
                    else "Tell another emotion in this register too, or leave the registers out"
                )
                raise ValueError(
                    f"register {register!r}, topic {topic!r}: {len(group)} stories, all of {group[0]!r}; "
                    f"centring within topics would erase them. {way_out}"
                )
        self._check_repeats()

    def _check_repeats(self) -> None:
        """Raise for one text under two emotions, warn of one that is there twice for one emotion."""
        rows: dict[str, list[int]] = defaultdict(list)
        for number, story in enumerate(self):
            rows[wording(story.text)].append(number)
        repeated = [numbers for numbers in rows.values() if len(numbers) > 1]
        for numbers in repeated:
            first = self[numbers[0]]
            for number in numbers[1:]:
                if self[number].emotion != first.emotion:
                    raise ValueError(
                        f"rows {numbers[0]} and {number} (the first is 0) are one text, {first.text[:60]!r}, under two "
                        f"emotions, {first.emotion!r} and {self[number].emotion!r}; keep it for one of them"
                    )
        if repeated:
            first = self[repeated[0][0]]
            warnings.warn(
                f"{sum(map(len, repeated)) - len(repeated)} of {len(self)} stories repeat the text of another, first "
                f"rows {listing(repeated[0])} (the first is 0), {first.text[:60]!r} for {first.emotion!r}. Such a "
                "text counts more than once; where stories are left out or halved, its copies stay together",
                stacklevel=4,
            )


def wording(text: str) -> str:
    r"""A text without what nobody sees: two texts of one wording are the same text.

    >>> wording(" He  wept.\n") == wording("He wept.")
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def _one_spelling(stories: tuple[Story, ...]) -> tuple[Story, ...]:
    """The stories with one spelling of each label, and a warning where there were several."""
    for name in LABELS:
        spelling = {word: word for word in EMOTIONS} if name == "emotion" else {}
        labels = dict.fromkeys(getattr(story, name) for story in stories)
        changed = {label: to for label in labels if (to := spelling.setdefault(bare_label(label), label)) != label}
        if changed:
            pairs = [f"{label!r} as {to!r}" for label, to in changed.items()]
            more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
            warnings.warn(f"the {name} {', '.join(pairs[:5])}{more}: read as one label", stacklevel=5)
            stories = tuple(
                replace(story, **{name: changed.get(getattr(story, name), getattr(story, name))}) for story in stories
            )
    return stories


def known_emotion(word: str, emotions: Collection[str] = EMOTIONS) -> str:
    """`word`, if it is one of `emotions`.

    >>> known_emotion("clam")
    Traceback (most recent call last):
    ValueError: unknown emotion 'clam' (did you mean calm...

    Raises:
        ValueError: it is not; names the nearest.
    """
    if word not in emotions:
        raise ValueError(f"unknown emotion {word!r}{did_you_mean(word, emotions)}")
    return word
