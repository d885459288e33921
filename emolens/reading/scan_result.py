"""What a scan finds: the best passages of each emotion, in memory and on disk."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.files import write_atomic
from emolens.models.encoding import Tokens
from emolens.reading.document_stream import Window

BEFORE, AFTER = 30, 15  # tokens of a passage around its best one
FORMAT = "emolens-scan-2"


@dataclass(frozen=True)
class Hit:
    """A passage that scores high on an emotion.

    Example:
        >>> hit = Hit(0.4, document=0, name=None, text="so very calm now", span=(8, 12), rank=2)
        >>> hit.marked()
        'so very [calm] now'
    """

    score: float
    document: int  # its place in what was scanned, from 0, those skipped counted
    name: str | None
    text: str  # the passage
    span: tuple[int, int]  # characters [start, end) of `text` that the best token holds; all of it for a document
    rank: int | None  # of the best token in its document; None where documents were scored as a whole

    def marked(self, left: str = "[", right: str = "]") -> str:
        """The passage with the best token between two marks."""
        start, end = self.span
        return self.text[:start] + left + self.text[start:end] + right + self.text[end:]


@dataclass(frozen=True)
class Scan:
    """The best passages of each emotion, and what was scanned for them.

    Attributes:
        settings: model, vectors and options; another scan can go on only with the same.
        hits: for each emotion at most k, best first, no two from one document.
        documents: how many were taken, those skipped among them.
        tokens: of all documents, each counted once.
        split: documents that were longer than the context.
        skipped: documents that are empty, hold nothing after the first token, or are not UTF-8.
        seconds: of work, over all runs.
        digest: SHA-256 over the documents.

    Example:
        >>> found = el.scan(model, vectors, ["she ran !", "he was very calm ."], k=1, progress=False)
        >>> [hit.document for hit in found.top("calm")], found.frame().shape, found.documents
        ([...], (6, 8), 2)
        >>> Scan.load(found.save("scan.json")) == found
        True
    """

    settings: dict[str, Any]
    hits: dict[str, tuple[Hit, ...]]
    documents: int = 0
    tokens: int = 0
    split: int = 0
    skipped: int = 0
    seconds: float = field(default=0.0, compare=False)
    digest: str = hashlib.sha256().hexdigest()

    def __repr__(self) -> str:
        return (
            f"Scan({self.documents:,} documents, {self.split:,} of them split and {self.skipped:,} skipped; "
            f"{self.tokens:,} tokens in {self.seconds:,.0f} s; {len(self.hits)} emotions)"
        )

    def top(self, emotion: str, k: int | None = None) -> list[Hit]:
        """The best passages of one emotion, best first. Raises ValueError with the nearest names."""
        if emotion not in self.hits:
            raise ValueError(f"{emotion!r} was not scanned for{did_you_mean(emotion, self.hits)}")
        return list(self.hits[emotion][:k])

    def frame(self) -> pd.DataFrame:
        """One row for each emotion and hit: place (1 is the best), score, document, name, text, span, rank."""
        rows = [
            {"emotion": emotion, "place": place} | asdict(hit)
            for emotion, hits in self.hits.items()
            for place, hit in enumerate(hits, 1)
        ]
        return pd.DataFrame(rows, columns=["emotion", "place", *(f.name for f in fields(Hit))])

    def save(self, path: str | Path) -> Path:
        """Write JSON with a checksum, whole or not at all."""
        state = asdict(self)
        return write_atomic(path, json.dumps({"format": FORMAT, "sha256": _sha256(state)} | state).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Scan":
        """Read what `save`, or `scan(path=...)`, wrote. Raises ValueError for a damaged file or another format."""
        try:
            state = json.loads(Path(path).read_bytes())
            if (found := state.pop("format")) != FORMAT:
                raise ValueError(f"another format, {found!r}")
            if state.pop("sha256") != _sha256(state):
                raise ValueError("its checksum does not match")
            hits = {
                emotion: tuple(Hit(**hit | {"span": tuple(hit["span"])}) for hit in found)
                for emotion, found in state.pop("hits").items()
            }
            return cls(hits=hits, **state)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no scan, or a damaged one ({error}); delete it to start again") from error


def _sha256(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _passage(tokens: Tokens, rank: int) -> tuple[str, tuple[int, int]]:
    """The text around a token, or with rank -1 at the beginning, and the characters of the token in it."""
    n = len(tokens.ids)
    around = range(max(0, rank - BEFORE), min(n, (rank if rank >= 0 else BEFORE) + AFTER + 1))

    def first_of(places: Iterable[int]) -> tuple[int, int] | None:
        return next((span for place in places if (span := tokens.characters(place))), None)  # None: special

    first, last = first_of(around), first_of(reversed(around))
    start, end = (first[0], last[1]) if first and last else (0, 0)
    best = tokens.characters(rank) if rank >= 0 else None
    if best:
        return tokens.text[start:end], (best[0] - start, best[1] - start)
    return tokens.text[start:end], (0 if rank < 0 else end - start, end - start)


def join(done: Scan, part: Scan, digest: str) -> Scan:
    """`done` and the scan of the documents that come next, `digest` being that of all of them.

    Which scans are joined first makes no difference: hits go by score and, among equals, by document.

    Example:
        >>> one = Scan({"k": 1}, {"calm": (Hit(0.2, 0, None, "a", (0, 1), 0),)}, documents=1)
        >>> two = Scan({"k": 1}, {"calm": (Hit(0.4, 1, None, "b", (0, 1), 0),)}, documents=1)
        >>> both = join(one, two, "of both")
        >>> both.documents, [hit.text for hit in both.top("calm")]
        (2, ['b'])
    """
    counts = {name: getattr(done, name) + getattr(part, name) for name in ("documents", "tokens", "split", "skipped")}
    hits = {emotion: _strongest([*old, *part.hits[emotion]], done.settings["k"]) for emotion, old in done.hits.items()}
    return replace(done, hits=hits, digest=digest, **counts)


def _strongest(hits: list[Hit], k: int) -> tuple[Hit, ...]:
    return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.document))[:k])


def merge(
    hits: dict[str, tuple[Hit, ...]],
    scores: Float[Tensor, "document emotion"],
    where: Int[Tensor, "document emotion"],
    window: Window,
    tokens: Sequence[Tokens],
    k: int,
) -> dict[str, tuple[Hit, ...]]:
    """The best k of each emotion; among equals the first document.

    Example:
        >>> from emolens.models.encoding import tokens_of
        >>> window = Window(taken=1, numbers=[7], names=[None], texts=["she ran !"])
        >>> tokens = tokens_of(model.tokenizer, window.texts)
        >>> merge({"calm": ()}, torch.tensor([[0.5]]), torch.tensor([[1]]), window, tokens, k=3)["calm"][0].marked()
        'she [ran] !'
    """
    best = scores.sort(dim=0, descending=True, stable=True)
    values, rows = best.values[:k].T.tolist(), best.indices[:k].T.tolist()
    out = {}
    for column, (emotion, old) in enumerate(hits.items()):
        floor = old[-1].score if len(old) == k else -torch.inf
        new = []
        for value, row in zip(values[column], rows[column], strict=True):
            if not value > floor:
                break
            rank = int(where[row, column])
            passage, span = _passage(tokens[row], rank)
            new.append(Hit(value, window.numbers[row], window.names[row], passage, span, rank if rank >= 0 else None))
        out[emotion] = _strongest([*old, *new], k) if new else old
    return out
