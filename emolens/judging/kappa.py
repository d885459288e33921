"""Cohen's kappa: how far two lists of labels agree beyond chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

INVALID = "invalid"


@dataclass(frozen=True)
class CohensKappa:
    """Cohen's kappa of two lists of labels with its bootstrap interval, and the plain share of equal labels.

    >>> print(CohensKappa(0.75, 0.5, 0.875, share=0.9, n=40))
    kappa 0.75 [0.50, 0.88] over 40
    """

    kappa: float
    low: float
    high: float
    share: float
    n: int

    def __str__(self) -> str:
        return f"kappa {self.kappa:.2f} [{self.low:.2f}, {self.high:.2f}] over {self.n}"


def cohens_kappa(
    first: Sequence[str] | np.ndarray,
    second: Sequence[str] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> CohensKappa:
    """Cohen's kappa (Cohen 1960) of two judges, or of a judge and hand labels, over the same items.

    An `INVALID` label agrees with nothing, not with another one either. Kappa is NaN where both give every item
    the same one label: then there is nothing to agree on.

    Args:
        groups: a code for each item; whole groups are resampled (the replies to one scenario).

    Raises:
        ValueError: lists of different length or empty ones, a label that is no text, fewer than one draw, or a level
            that is no share.

    >>> found = cohens_kappa(["honest", "harsh", "honest", "harsh"], ["honest", "harsh", "honest", "honest"])
    >>> found.kappa, found.share, found.n
    (0.5, 0.75, 4)
    """
    if not len(first) == len(second) > 0 or (groups is not None and len(groups) != len(first)):
        counted = f"{len(first)} and {len(second)} labels" + (f", {len(groups)} groups" if groups is not None else "")
        raise ValueError(f"{counted}: agreement needs two lists of one length, not empty")
    for row in (first, second):
        for number, label in enumerate(row):
            if not isinstance(label, str):
                raise ValueError(
                    f"label {number} is {label!r}, not a text (the first is 0); an unread one is {INVALID!r}"
                )
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws={draws}, level={level}: at least one draw, and a level between 0 and 1")
    names = sorted({*first, *second} - {INVALID})
    # One column for each label, all zero for an invalid one.
    a, b = (np.array([[label == name for name in names] for label in row], dtype=float) for row in (first, second))
    keys = list(range(len(first))) if groups is None else list(groups)
    code = np.array([{key: n for n, key in enumerate(dict.fromkeys(keys))}[key] for key in keys])
    each = np.concatenate([a, b, (a * b).sum(axis=1, keepdims=True), np.ones((len(a), 1))], axis=1)
    sums = np.stack([each[code == group].sum(axis=0) for group in range(code.max() + 1)])  # group (labels twice, 2)
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    drawn = np.concatenate([sums.sum(axis=0)[None], sums[picks].sum(axis=1)])
    shares = drawn[:, :-1] / drawn[:, -1:]
    by_chance = (shares[:, : len(names)] * shares[:, len(names) : -1]).sum(axis=1)
    kappa = np.full(len(drawn), np.nan)
    np.divide(shares[:, -1] - by_chance, 1 - by_chance, out=kappa, where=by_chance < 1 - 1e-12)
    usable = kappa[1:][np.isfinite(kappa[1:])]
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2]) if len(usable) else (np.nan, np.nan)
    return CohensKappa(float(kappa[0]), float(low), float(high), float(shares[0, -1]), len(first))
