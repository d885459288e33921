"""Length-sorted batches under a token budget, and the rank of every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emolens.models.texts import Turn


class Batch(NamedTuple):
    """Padded token ids and the mask of the real ones; the turns of each row that is a conversation.

    Example:
        >>> batch = model.to_tokens(["she ran !", "calm"])
        >>> batch.ids.shape, batch.mask.tolist()
        (torch.Size([2, 3]), [[True, True, True], [True, False, False]])
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    turns: tuple[list[Turn], ...] = ()

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device.

        Example:
            >>> model.to_tokens("she ran").to("cpu").ids.device
            device(type='cpu')
        """
        return Batch(self.ids.to(device), self.mask.to(device), self.turns)


@dataclass(frozen=True)
class Pass:
    """Which texts a forward pass, or a whole generation, is about: for hooks that act on some of the tokens.

    A token's rank in its text is its column less `first`, the padding on the left.

    Example:
        >>> Pass.of(model.to_tokens(["she ran !", "calm"], padding_side="left")).first
        (0, 2)
    """

    first: tuple[int, ...]
    prompt: tuple[int, ...]  # tokens of each prompt; what follows is written, or scored as if it were
    turns: tuple[list[Turn], ...] = ()
    length: tuple[int, ...] = ()  # tokens of each text, where they are known
    start: int = 0  # columns that are in the key-value cache already
    only: int | None = None  # the row of the batch that this pass runs, where they run one by one
    fills_cache: bool = False  # nobody reads what this pass gives

    @classmethod
    def of(cls, batch: Batch) -> "Pass":
        """The pass over a batch that is all prompt.

        Example:
            >>> Pass.of(model.to_tokens(["she ran !", "calm"])).prompt
            (3, 1)
        """
        lengths = tuple(batch.mask.sum(dim=1).tolist())
        return cls(tuple(batch.mask.int().argmax(dim=1).tolist()), lengths, batch.turns, lengths)


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, as an int.

    Raises:
        ValueError: another value, a bool or a number with a fraction among them, by the name of the argument.

    Example:
        >>> whole("k", 3)
        3
        >>> whole("k", True)
        Traceback (most recent call last):
        ValueError: k is True; it must be a whole number of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return int(value)


def plan(lengths: Sequence[int], token_budget: int = 2048) -> list[list[int]]:
    """Group texts of similar length so that rows x longest row stays within the budget.

    The groups depend on the lengths alone (ties by index), longest first, so that memory runs out at
    once or not at all. A text longer than the budget gets a batch of its own.

    Args:
        lengths: tokens of each text.
        token_budget: tokens of a batch, padding counted.

    Raises:
        ValueError: a budget that is no whole number of at least 1.

    Example:
        >>> plan([3, 8, 2, 7], token_budget=16)
        [[1, 3], [0, 2]]
    """
    whole("token_budget", token_budget)
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def pad(rows: Sequence[Sequence[int]], side: str = "right", pad_id: int = 0) -> Batch:
    """Stack rows of token ids, filled up on the `side` "left" or "right".

    Raises:
        ValueError: another side, no rows.

    Example:
        >>> pad([[5, 6, 7], [8]], side="left").ids.tolist()
        [[5, 6, 7], [0, 0, 8]]
    """
    if side not in ("left", "right"):
        raise ValueError(f"padding side {side!r} is neither 'left' nor 'right'")
    if not rows:
        raise ValueError("a batch of no texts")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[number, place] = torch.tensor(row, dtype=torch.long)
        mask[number, place] = True
    return Batch(ids, mask)


def ranks(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Rank of each real token in its text, from 0; -1 in the padding.

    It comes from the cumulative sum of the mask, so that padding on either side gives the same ranks.

    Example:
        >>> ranks(torch.tensor([[False, True, True], [True, True, False]])).tolist()
        [[-1, 0, 1], [0, 1, -1]]
    """
    return torch.where(mask, mask.long().cumsum(dim=1) - 1, -1)


def per_text(where: Any) -> bool:
    """Whether spans or a mask are given for each text.

    Example:
        >>> per_text([(0, 2)]), per_text([[(0, 2)], [(1, 3)]])
        (False, True)
    """
    if isinstance(where, Tensor):
        return where.ndim == 2
    if isinstance(where, str) or not isinstance(where, (list, tuple)):
        return False
    return any(isinstance(part, (list, tuple)) and all(isinstance(s, (list, tuple)) for s in part) for part in where)
