"""Intervals, nulls, and the result that every study returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class StudyResult:
    """What a study measured: the table with its nulls and intervals, and one sentence that says it in words."""

    name: str
    frame: pd.DataFrame
    sentence: str
    draw: Callable[..., Any]  # (frame, ax=...) -> matplotlib Axes

    def table(self) -> pd.DataFrame:
        return self.frame

    def verdict(self) -> str:
        return self.sentence

    def plot(self, ax: Any = None) -> Any:
        return self.draw(self.frame, ax=ax)


def bootstrap_mean(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: one number for each observation.
        groups: a code for each observation; whole groups are resampled, for observations that are not
            independent (the texts of one emotion).
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("no values: an interval needs at least one observation")
    _, code = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    total, count = np.bincount(code, values), np.bincount(code)
    picks = np.random.default_rng(seed).integers(0, len(count), (draws, len(count)))
    means = total[picks].sum(axis=1) / count[picks].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
