"""Stories labelled with an emotion: `Story`, `Corpus`, and how they are read from a file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emolens.errors import did_you_mean
from emolens.files import data_path, write_atomic

EMOTIONS: tuple[str, ...] = tuple(data_path("corpus", "emotions.txt").read_text("utf-8").split("\n"))[:-1]
"""The paper's 171 emotion words, in alphabetical order."""


_KNOWN = frozenset(EMOTIONS)


@dataclass(frozen=True)
class Story:
    """A text in which somebody feels `emotion`; `register` is how it is told, `topic` what it is about."""

    emotion: str
    register: str
    topic: str
    text: str

    def to_json(self) -> str:
        """One line of a JSON Lines file, without the line feed."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Corpus:
    """Labelled texts, in order. Make one with `from_jsonl` or `from_rows`."""

    stories: tuple[Story, ...]

    @classmethod
    def from_rows(cls, rows: Iterable[Story | Mapping[str, str] | tuple[str, str]]) -> Corpus:
        """Stories, mappings with at least `emotion` and `text`, or (emotion, text) pairs.

        Raises:
            ValueError: a row that is none of these, lacks a key, or has an empty or unusable value; by index.
        """
        return cls(tuple(_story(row, f"row {i} (the first is 0)") for i, row in enumerate(rows)))

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Corpus:
        """Read JSON Lines in UTF-8: an object with at least `emotion` and `text` on each line.

        `register` and `topic` are "default" and "" where they are not given, other keys are passed over.

        Raises:
            ValueError: a line that does not parse or is no story; names the file and the line.
        """
        return cls(tuple(_story(row, where) for where, row in json_lines(Path(path))))

    def to_jsonl(self, path: str | Path) -> Path:
        """Write one JSON object for each story; `from_jsonl` reads back an equal corpus."""
        return write_atomic(path, "".join(f"{story.to_json()}\n" for story in self).encode())

    def __len__(self) -> int:
        return len(self.stories)

    def __iter__(self) -> Iterator[Story]:
        return iter(self.stories)

    def __getitem__(self, index: int) -> Story:
        return self.stories[index]

    def __repr__(self) -> str:
        registers = ", ".join(f"{n} {name}" for name, n in Counter(s.register for s in self).items())
        return f"Corpus({len(self)} stories of {len(self.emotions)} emotions: {registers or 'empty'})"

    @property
    def texts(self) -> list[str]:
        return [story.text for story in self]

    @cached_property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that occur: those of `EMOTIONS` in its order, then the others as they first occur."""
        found = dict.fromkeys(story.emotion for story in self)
        return tuple(e for e in EMOTIONS if e in found) + tuple(e for e in found if e not in _KNOWN)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the rows in their order; independent of how a file spelled them."""
        rows = [[story.emotion, story.register, story.topic, story.text] for story in self]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def where(
        self,
        *,
        emotion: str | Collection[str] | None = None,
        register: str | Collection[str] | None = None,
        topic: str | Collection[str] | None = None,
    ) -> Corpus:
        """The stories with one of the given values, e.g. `where(register="plain", emotion=["calm", "sad"])`.

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

        Args:
            emotions: those that must be in it.

        Raises:
            ValueError: one of `emotions` without a story; fewer than two emotions; a topic told for one
                emotion only.
        """
        if missing := [emotion for emotion in dict.fromkeys(emotions or ()) if emotion not in self.emotions]:
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
                raise ValueError(
                    f"register {register!r}, topic {topic!r}: {len(group)} stories, all of {group[0]!r}; "
                    "centring within topics would erase them. Tell the topic for another emotion too, or "
                    "leave the topics empty"
                )


def _listing(words: Collection[str]) -> str:
    first = ", ".join(map(repr, list(words)[:5]))
    return first + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _story(row: object, where: str) -> Story:
    """A checked story; `where` names the row in errors."""
    if isinstance(row, Story):
        row = asdict(row)
    elif isinstance(row, (tuple, list)) and len(row) == 2:
        row = dict(zip(("emotion", "text"), row, strict=True))
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: {type(row).__name__} {str(row)[:40]!r} is no story; "
            "give a Story, a mapping with 'emotion' and 'text', or an (emotion, text) pair"
        )
    for key in ("emotion", "text"):
        if key not in row:
            raise ValueError(f"{where}: the key {key!r} is missing; there is {_listing(list(map(str, row))) or 'none'}")
    values = {"register": "default", "topic": ""} | dict(row)
    for key in ("emotion", "register", "topic", "text"):
        if not isinstance(values[key], str):
            raise ValueError(f"{where}: {key!r} is {values[key]!r}, which is not a string")
        try:
            values[key].encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: half a surrogate pair in {key!r} at character {error.start}") from None
    story = Story(*(values[key] for key in ("emotion", "register", "topic", "text")))
    if not story.emotion.strip():
        raise ValueError(f"{where}: the emotion is empty")
    if not story.text.strip():
        raise ValueError(f"{where}: the text for {story.emotion!r} is empty")
    return story


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """What stands on each line that is not blank, with "file, line n" for errors."""
    data = path.read_bytes()
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    # Not splitlines: JSON allows U+2028 and its like inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: no JSON: {error.msg} at column {error.colno}") from None


def known_emotion(word: str, emotions: Collection[str] = EMOTIONS) -> str:
    """`word`, if it is one of `emotions`.

    Raises:
        ValueError: it is not; names the nearest.
    """
    if word not in emotions:
        raise ValueError(f"unknown emotion {word!r}{did_you_mean(word, emotions)}")
    return word
