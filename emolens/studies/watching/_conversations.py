"""The conversations that monitors are tried on, read once: half of the domains to set them, the other half to test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding
from emolens.reading.read import collect
from emolens.watching.monitor import fitting, places

CONDITIONS = ("escalating", "steady", "style", "benign")
MARKS = ("fork", "onset", "act")
NEUTRAL = {"full": 150, "quick": 40}  # dialogues beside the conversations, all quiet
PAIRS = {"full": None, "quick": 6}  # of each emotion


@dataclass(frozen=True)
class Conversation:
    """A conversation with its tokens: which are watched, and where its messages begin and end among those.

    `half` is which half of the domains it belongs to; twins and rewritings belong to the same.
    """

    id: str
    kind: str  # one of CONDITIONS, or "neutral"
    emotion: str | None
    bearer: str | None
    style: str
    pair: str | None
    half: int
    messages: tuple[dict[str, str], ...]
    encoding: Encoding
    ranks: tuple[int, ...]
    turn: tuple[int, ...]  # of each watched token
    marks: Mapping[str, int]  # messages, by MARKS; of a steady twin those of its pair

    def upto(self, message: int) -> int:
        """How many watched tokens stand before a message."""
        return sum(turn < message for turn in self.turn)

    @property
    def quiet(self) -> bool:
        return self.kind in ("steady", "benign", "neutral")


def conversations(
    model: HookedModel, rows: Sequence[Mapping[str, Any]] | None = None, size: str = "full"
) -> list[Conversation]:
    """The packaged conversations, or `rows` like them, and neutral dialogues.

    Raises:
        ValueError: a row without a twin, or whose marks are no messages of it, by its `id`.
    """
    rows = texts.stimuli("monitoring") if rows is None else list(rows)
    known = {row["id"]: row for row in rows}
    for row in rows:
        _check(row, known)
    names = {row["emotion"] for row in rows if row["emotion"]}
    order = {name: sorted({row["pair"] for row in rows if row["emotion"] == name}) for name in names}
    found = []
    benign = 0
    for row in rows:
        if row["pair"] and row["pair"] not in order[row["emotion"]][: PAIRS[size]]:
            continue
        messages = [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]
        if row["condition"] == "benign":
            half, benign = benign % 2, benign + 1
        else:
            half = order[row["emotion"]].index(row["pair"]) % 2
        marks = {mark: known[row["pair"]][mark]["message"] for mark in MARKS} if row["pair"] else {}
        found.append(_conversation(model, row, messages, half, marks))
    for number, text in enumerate(texts.neutral()[: NEUTRAL[size]]):
        row = {"id": f"neutral-{number}", "condition": "neutral", "style": "chat"}
        found.append(_conversation(model, row, texts.packaged.as_messages(text), number % 2, {}))
    return found


def emotions_in(found: Sequence[Conversation]) -> tuple[str, ...]:
    """The emotions of the conversations, in their order."""
    return tuple(dict.fromkeys(one.emotion for one in found if one.emotion))


def _check(row: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    called = f"conversation {row.get('id', '?')!r}"
    if row.get("condition") not in CONDITIONS:
        raise ValueError(f"{called} has the condition {row.get('condition')!r}; there are {', '.join(CONDITIONS)}")
    if row["condition"] == "benign":
        return
    own = known.get(row["pair"])
    if own is None or f"{row['pair']}-steady" not in known:
        raise ValueError(f"{called} belongs to the pair {row['pair']!r}, of which one twin is missing")
    for mark in MARKS:
        if mark not in own or not 0 <= own[mark]["message"] < len(own["turns"]):
            raise ValueError(f"conversation {own['id']!r} has no message {mark!r}: {own.get(mark)}")


def _conversation(
    model: HookedModel, row: Mapping[str, Any], messages: list[dict[str, str]], half: int, marks: Mapping[str, int]
) -> Conversation:
    encoding, cut = fitting(model, messages)
    if cut:
        raise ValueError(f"conversation {row['id']!r} is longer than the context of {model.name} ({model.n_ctx})")
    watched = places(encoding, [""] * len(encoding.ids))
    about = (row.get("emotion"), row.get("bearer"), row["style"], row.get("pair"))
    where = (tuple(place.rank for place in watched), tuple(int(place.turn or 0) for place in watched))
    return Conversation(row["id"], row["condition"], *about, half, tuple(messages), encoding, *where, marks)


def read_all(
    model: HookedModel, found: Sequence[Conversation], layers: Sequence[int], project: Any
) -> dict[int, list[Float[Tensor, "pos *kept"]]]:
    """What `project(x, layer)` keeps of the watched tokens of each conversation, for all layers in one pass."""
    each = [[(rank, rank + 1) for rank in one.ranks] for one in found]
    parts = collect(model, [one.encoding for one in found], each, layers, 2048, project)
    sizes = [len(part) for part in each]
    return {layer: list(part.split(sizes)) for layer, part in zip(layers, parts, strict=True)}


def message_means(x: Float[Tensor, "pos d_model"], one: Conversation, first: int) -> Float[Tensor, "message d_model"]:
    """The mean activation of each message from one on."""
    turn = np.array(one.turn)
    return torch.stack([x[turn == number].mean(dim=0) for number in range(first, len(one.messages))])
