"""A stream of documents, from files or any iterable, a bounded number held at a time, cut to the model's context."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from emolens.models.texts import Encoding, Text, gate, one_text
from emolens.vectors.story_means import READ_FROM_RANK, SHORT

log = logging.getLogger(__name__)

WINDOW = 256  # documents that are held at a time
CHARACTERS = 500_000  # a window ends early when its texts are longer together: a token takes 100 bytes or more
SUFFIXES = (".jsonl", ".md", ".txt")


def documents(path: str | Path) -> Iterator[dict[str, Any]]:
    """Documents of a .txt or .md file (one), a .jsonl file (one a line, with "text"), or a folder of such files.

    A folder is walked in the order of the names, with the folders in it; hidden ones are passed over.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a file of another kind, a folder without any, a line that is no JSON object with "text".

    Example:
        >>> Path("note.txt").write_text("she ran", encoding="utf-8")
        7
        >>> list(documents("note.txt"))
        [{'name': 'note.txt', 'text': b'she ran'}]
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}; give its texts as a list or generator")
    return _folder(path) if path.is_dir() else _file(path, path.name)


def _folder(path: Path) -> Iterator[dict[str, Any]]:
    found = False
    for home, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(home, name)
            if not name.startswith(".") and file.suffix.lower() in SUFFIXES:
                found = True
                yield from _file(file, file.relative_to(path).as_posix())
    if not found:
        raise ValueError(f"no {', '.join(SUFFIXES)} file in {path}")


def _file(path: Path, name: str) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() != ".jsonl":
        yield {"name": name, "text": path.read_bytes()}
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{name}:{number}"
            try:
                row = json.loads(line.decode("utf-8-sig")) if line.strip() else None
            except UnicodeDecodeError:
                row = {"text": line}  # reported and skipped as any other text that is not UTF-8
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: no JSON: {error.msg} at column {error.colno}") from None
            if row is not None:
                if not isinstance(row, dict) or "text" not in row:
                    raise ValueError(f"{path}, line {number}: {str(row)[:40]!r} is no object with 'text'")
                yield {"name": row.get("name") or where, "text": row["text"]}


@dataclass
class Window:
    """Documents that are run together; `taken` counts those that were skipped too.

    Example:
        >>> window = Source(["she ran !", "", "he was calm"]).window()
        >>> window.taken, window.skipped, window.numbers
        (3, 1, [0, 2])
    """

    taken: int = 0
    skipped: int = 0
    characters: int = 0
    numbers: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


class Source:
    """The documents in windows, never read further ahead, hashed so that a later run knows them again.

    Example:
        >>> source = Source(["she ran !", "he was calm"])
        >>> source.window().texts, source.taken, source.window()
        (['she ran !', 'he was calm'], 2, None)
    """

    def __init__(self, given: Any) -> None:
        if isinstance(given, (str, bytes, Mapping)):
            raise ValueError(f"{str(given)[:40]!r} is one document; give a list or generator of them, or a Path")
        if not isinstance(given, Path):
            if isinstance(given, (set, frozenset)) or not isinstance(given, Iterable) or hasattr(given, "columns"):
                gate(given)  # refuses it by name
            if hasattr(given, "read"):
                raise ValueError("an open file is no list of documents: give its Path, or [file.read()]")
            if hasattr(given, "texts"):
                raise ValueError(f"a {type(given).__name__} is no document: give its .texts")
        self.taken, self.digest = 0, hashlib.sha256()
        self.rows = self._read([given] if isinstance(given, Path) else given)

    def _read(self, given: Iterable[Any]) -> Iterator[tuple[str | None, Text]]:
        for item in (row for entry in given for row in (documents(entry) if isinstance(entry, Path) else (entry,))):
            name, text = None, item
            if isinstance(item, Mapping):
                if "text" not in item:
                    raise ValueError(
                        f"document {self.taken} has no 'text', only {', '.join(map(str, item)) or 'nothing'}"
                        + ("; a conversation is one document: put it in a list" if "role" in item else "")
                    )
                name, text = item.get("name"), item["text"]
                text = "" if text is None else text
            if not isinstance(text, (str, bytes)):
                text = self._other(text)
            data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
            data = data if isinstance(data, bytes) else b"\0" + json.dumps(data, default=str).encode()
            self.digest.update(b"%d:" % len(data) + data)
            self.taken += 1
            yield None if name is None else str(name), text if isinstance(text, list) else data

    def _other(self, text: Any) -> Text:
        """A conversation or token ids."""
        try:
            return list(one_text(text.ids if isinstance(text, Encoding) else text, "it"))
        except ValueError as error:
            kind = type(text).__name__
            raise ValueError(
                f"document {self.taken} is of type {kind}; a text is str or bytes, a conversation or token ids: {error}"
            ) from error

    def skip(self, documents: int, digest: str, path: Any) -> None:
        """Pass over the documents of an earlier run, whose state is in `path`.

        Raises:
            ValueError: they are others.

        Example:
            >>> first, again = Source(["she ran", "calm"]), Source(["she ran", "calm"])
            >>> window = first.window()
            >>> again.skip(first.taken, first.digest.hexdigest(), "state.json")
            >>> again.taken
            2
        """
        for _ in islice(self.rows, documents):
            pass
        if (self.taken, self.digest.hexdigest()) != (documents, digest):
            few = f"here are only {self.taken:,}" if self.taken < documents else "they are not the first ones here"
            raise ValueError(
                f"{path} is the state of a scan of {documents:,} other documents ({few}); give the same or another path"
            )

    def window(self) -> Window | None:
        """The next documents; None when there are no more.

        Example:
            >>> Source([]).window() is None
            True
        """
        window = Window()
        for name, data in self.rows:
            window.taken += 1
            text = self._decoded(name, data) if isinstance(data, bytes) else data
            if text and not (isinstance(text, str) and text.isspace()):
                window.numbers.append(self.taken - 1)
                window.names.append(name)
                window.texts.append(text)
                window.characters += len(text if isinstance(text, str) else str(text))
            else:
                window.skipped += 1
            if window.taken == WINDOW or window.characters >= CHARACTERS:
                break
        return window if window.taken else None

    def _decoded(self, name: str | None, data: bytes) -> str:
        """The text of a document; nothing, and a warning, where it is not UTF-8."""
        try:
            return data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            called = f"{self.taken - 1}" + (f" ({name})" if name else "")
            log.warning("document %s is skipped: byte %d is not UTF-8", called, error.start)
            return ""


class Piece(NamedTuple):
    """Token ids that fit into the context; the tokens from `first` on are scored.

    Example:
        >>> Piece(row=0, ids=[5, 6, 7], first=1, shift=0).ids[1:]
        [6, 7]
    """

    row: int  # of the document in its window
    ids: list[int]
    first: int
    shift: int  # rank in the document minus rank here


def split(row: int, ids: list[int], context: int, overlap: int, bos: int | None) -> list[Piece]:
    """One piece, or several so that each token from the first scored one on is scored in exactly one of them.

    Example:
        >>> [(piece.ids[0], len(piece.ids), piece.first) for piece in split(0, list(range(50)), 30, 10, None)]
        [(0, 30, 10), (20, 30, 10)]
    """
    pieces = [Piece(row, ids[:context], READ_FROM_RANK if len(ids) >= SHORT else 1, 0)]
    head, end = [i for i in ids[:1] if i == bos], context
    while end < len(ids):
        start = end - overlap
        body = ids[start : start + context - len(head)]
        pieces.append(Piece(row, head + body, len(head) + overlap, start - len(head)))
        end = start + len(body)
    return pieces
