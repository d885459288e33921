"""Stories labelled with an emotion: `Story`, `Corpus`, and how they are read from a file."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, overload

from emolens.errors import did_you_mean
from emolens.files import data_path, read_text, write_atomic

EMOTIONS: tuple[str, ...] = tuple(data_path("corpus", "emotions.txt").read_text("utf-8").split("\n"))[:-1]
"""The paper's 171 emotion words, in alphabetical order."""


_KNOWN = frozenset(EMOTIONS)
LABELS = ("emotion", "register", "topic")
# What other data sets call these two, for the call that an error proposes.
EMOTION_KEYS = ("emotion", "emotions", "label", "labels", "feeling", "mood", "sentiment", "class", "category", "target")
TEXT_KEYS = ("text", "story", "content", "sentence", "utterance", "message", "body", "tweet", "comment", "document")
TABLES = {
    ".csv": "pandas.read_csv(path)",
    ".tsv": "pandas.read_csv(path, sep='\\t')",
    ".xlsx": "pandas.read_excel(path)",
    ".parquet": "pandas.read_parquet(path)",
}


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
        plain = [_by_name(row) for row in _rows_of(rows)]
        corpus = cls(tuple(_story(row, f"row {number} (the first is 0)") for number, row in enumerate(plain)))
        if plain and all(isinstance(row, (tuple, list)) for row in plain):
            _check_order(corpus.stories)
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
        return cls(tuple(_story(_by_name(row), where) for where, row in json_lines(path)))

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
            raise ValueError(f"the corpus has no story for {_listing(missing)}{near}: add some, or ask for fewer")
        if len(self.emotions) < 2:
            raise ValueError(
                f"the corpus has {len(self)} stories of {_listing(self.emotions) or 'no emotion'}: an "
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
                f"rows {_listing(repeated[0])} (the first is 0), {first.text[:60]!r} for {first.emotion!r}. Such a "
                "text counts more than once; where stories are left out or halved, its copies stay together",
                stacklevel=4,
            )


def wording(text: str) -> str:
    r"""A text without what nobody sees: two texts of one wording are the same text.

    >>> wording(" He  wept.\n") == wording("He wept.")
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def _listing(words: Collection[Any]) -> str:
    first = ", ".join(map(repr, list(words)[:5]))
    return first + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _bare(label: str) -> str:
    """A label without capitals and invisible characters."""
    visible = (character for character in label if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", "".join(visible)).strip().casefold()


def _one_spelling(stories: tuple[Story, ...]) -> tuple[Story, ...]:
    """The stories with one spelling of each label, and a warning where there were several."""
    for name in LABELS:
        spelling = {word: word for word in EMOTIONS} if name == "emotion" else {}
        labels = dict.fromkeys(getattr(story, name) for story in stories)
        changed = {label: to for label in labels if (to := spelling.setdefault(_bare(label), label)) != label}
        if changed:
            pairs = [f"{label!r} as {to!r}" for label, to in changed.items()]
            more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
            warnings.warn(f"the {name} {', '.join(pairs[:5])}{more}: read as one label", stacklevel=5)
            stories = tuple(
                replace(story, **{name: changed.get(getattr(story, name), getattr(story, name))}) for story in stories
            )
    return stories


def _rows_of(given: Any) -> Iterable[Any]:
    """The rows of what was given as rows: those of a table, else what an iterable yields."""
    kind = type(given).__name__
    if isinstance(given, (str, bytes, Path)):
        raise ValueError(f"{str(given)[:60]!r} is no list of rows; a file is read with Corpus.from_jsonl(path)")
    if isinstance(given, Mapping):
        keys = _listing(list(map(str, given)))
        if all(isinstance(given.get(key), str) for key in ("emotion", "text")):
            raise ValueError("this mapping is one story; give a list of them: Corpus.from_rows([row])")
        if {"emotion", "text"} <= set(given):
            way_out = 'Corpus.from_rows(zip(rows["emotion"], rows["text"]))'
        else:
            way_out = (
                "of texts by emotion, Corpus.from_rows((emotion, text) for emotion in rows for text in rows[emotion]); "
                "of a data set in splits, Corpus.from_rows(rows[split])"
            )
        raise ValueError(f"a mapping with the keys {keys} is no list of rows; use {way_out}")
    if hasattr(given, "columns"):
        names = list(map(str, given.columns))
        if len(set(names)) < len(names):
            raise ValueError(f"the table has a column twice: {_listing(names)}; keep one")
        if hasattr(given, "to_dicts"):
            return given.to_dicts()
        return given.to_dict("records") if hasattr(given, "to_dict") else given
    if hasattr(given, "to_frame"):
        raise ValueError(
            f"a {kind} is one column; give both: Corpus.from_rows(zip(emotions, texts)), or the table it is from"
        )
    if not isinstance(given, Iterable):
        raise ValueError(
            f"{given!r} of type {kind} is no list of rows; give stories, mappings or (emotion, text) pairs"
        )
    return given


def _by_name(row: Any) -> Any:
    """A row that has names as a mapping, of whatever kind it is; others as they are, arrays as lists."""
    if isinstance(row, (list, tuple)) and len(row) == 2 and hasattr(row[1], "to_dict"):
        row = row[1]  # of `DataFrame.iterrows`, which gives the row's index beside it
    if is_dataclass(row) and not isinstance(row, type):
        return asdict(row)
    for method in ("_asdict", "to_dict"):
        if hasattr(row, method):
            return getattr(row, method)()
    return row.tolist() if hasattr(row, "tolist") and not isinstance(row, str) else row


def _check_order(stories: tuple[Story, ...]) -> None:
    """Raise for pairs that are (text, emotion): of those, the second is the shorter and the more often repeated."""
    way_out = "a pair is (emotion, text); swap them: Corpus.from_rows((emotion, text) for text, emotion in rows)"
    for number, story in enumerate(stories):
        if _bare(story.text) in _KNOWN and " " in story.emotion and story.emotion not in _KNOWN:
            raise ValueError(f"row {number} (the first is 0): the text is the emotion {story.text!r}; {way_out}")
    emotions, texts = {story.emotion for story in stories}, {story.text for story in stories}
    longer = fmean(len(emotion.split()) for emotion in emotions) > fmean(len(text.split()) for text in texts)
    if len(texts) < len(emotions) and longer:
        raise ValueError(
            f"the {len(emotions)} emotions are longer than the {len(texts)} texts, such as {_listing(sorted(texts))}; "
            + way_out
        )


def _call(row: Mapping[Any, Any]) -> str:
    """The call that maps rows with such keys."""
    value = {}
    for name, keys in (("emotion", EMOTION_KEYS), ("text", TEXT_KEYS)):
        here = {str(key).casefold(): key for key in row}
        key = next((here[key] for key in keys if key in here), None)
        value[name] = "..." if key is None else f"row[{key!r}]"
        if name == "emotion" and key is not None and _is_class(row[key]):
            value[name] = f"names[row[{key!r}]]" if isinstance(row[key], int) else f"names[row[{key!r}][0]]"
    call = f"Corpus.from_rows({{'emotion': {value['emotion']}, 'text': {value['text']}}} for row in rows)"
    classes = ", with the names of the class numbers (of a Hugging Face data set: its features)"
    return call + (classes if "names" in value["emotion"] else "")


def _is_class(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_class, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _is_missing(value: Any) -> bool:
    """None, NaN, or what a data frame has for them."""
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def _story(row: object, where: str) -> Story:
    """A checked story; `where` names the row in errors."""
    if isinstance(row, (tuple, list)) and len(row) == 2:
        row = dict(zip(("emotion", "text"), row, strict=True))
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: {type(row).__name__} {str(row)[:40]!r} is no story; "
            "give a Story, a mapping with 'emotion' and 'text', or an (emotion, text) pair"
        )
    for key in ("emotion", "text"):
        if key not in row:
            keys = _listing(list(map(str, row))) or "none"
            raise ValueError(f"{where}: the key {key!r} is missing; there is {keys}. Map it: {_call(row)}")
    given = {key: row[key] for key in (*LABELS, "text") if key in row}
    optional = {"register": "default", "topic": ""}
    values = optional | {k: v for k, v in given.items() if k not in optional or not _is_missing(v)}
    for key, value in values.items():
        if not isinstance(value, str):
            call = f". Map it: {_call(row)}" if key == "emotion" and _is_class(value) else ""
            raise ValueError(f"{where}: {key!r} is {value!r}, which is not a string{call}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: half a surrogate pair in {key!r} at character {error.start}") from None
    story = Story(**values)
    if not story.emotion:
        raise ValueError(f"{where}: the emotion is empty")
    if not story.text.strip():
        raise ValueError(f"{where}: the text for {story.emotion!r} is empty")
    return story


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    r"""What stands on each line that is not blank, with "file, line n" for errors; of an array, its items.

    >>> _ = Path("rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    >>> list(json_lines(Path("rows.jsonl")))
    [('rows.jsonl, line 1', {'a': 1}), ('rows.jsonl, line 3', {'a': 2})]

    Raises:
        ValueError: no UTF-8, or a line that is no JSON, by file and line.
    """
    text = read_text(path)
    if (items := _array(text, path)) is not None:
        yield from ((f"{path}, item {number} (the first is 0)", item) for number, item in enumerate(items))
        return
    # Not splitlines: JSON allows U+2028 and its like inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: no JSON: {error.msg} at column {error.colno}{_hint(text)}") from None


def _array(text: str, path: Path) -> list[Any] | None:
    """The items of a file that is one JSON array of rows; None for JSON Lines."""
    if not text.lstrip().startswith("["):
        return None
    try:
        json.loads(text.lstrip().partition("\n")[0])
        whole = False  # the first line is JSON by itself
    except json.JSONDecodeError:
        whole = True
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        if not whole:
            return None
        raise ValueError(f"{path}, line {error.lineno}: no JSON array: {error.msg} at column {error.colno}") from None
    return items if whole or all(isinstance(item, (dict, list)) for item in items) else None


def _hint(text: str) -> str:
    """What to do about a file that is one JSON object over several lines."""
    try:
        keys = list(json.loads(text))
    except (json.JSONDecodeError, TypeError):
        return ""
    return f". The file is one JSON object ({_listing(keys)}), not JSON Lines: give its rows to Corpus.from_rows"


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
