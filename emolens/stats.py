"""Intervals, nulls, and the result that every study returns."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emolens.files import write_atomic

DIGITS = 4  # of the numbers in a results file


@dataclass(frozen=True)
class StudyResult:
    """What a study measured: the table with its nulls and intervals, and one sentence that says it in words.

    `figure` names the function of `emolens.plots` that draws the table, `options` what else it is told.
    """

    name: str
    frame: pd.DataFrame
    sentence: str
    figure: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        return self.frame

    def verdict(self) -> str:
        return self.sentence

    def plot(self, ax: Any = None) -> Any:
        """A matplotlib Axes. Raises ValueError for a result that is a table only."""
        from emolens import plots

        if not self.figure:
            raise ValueError(f"the result {self.name!r} is a table without a figure of its own; see .table()")
        return getattr(plots, self.figure)(self.frame, **self.options, ax=ax)


def save_results(path: str | Path, stamp: Mapping[str, Any], results: Mapping[str, StudyResult]) -> Path:
    """Write results as JSON, with the stamp of the vectors they were measured with."""
    rows = {}
    for name, result in results.items():
        table = json.loads(result.frame.to_json(orient="records", double_precision=DIGITS))
        rows[name] = {
            "name": result.name,
            "verdict": result.sentence,
            "figure": result.figure,
            "options": result.options,
            "table": table,
        }
    stamp = {key: value for key, value in stamp.items() if key != "sweep"}
    return write_atomic(path, (json.dumps({"stamp": stamp, "results": rows}, indent=1) + "\n").encode())


def load_results(path: str | Path) -> dict[str, StudyResult]:
    """The results that `save_results` wrote, by name."""
    return {
        name: StudyResult(row["name"], pd.DataFrame(row["table"]), row["verdict"], row["figure"], row["options"])
        for name, row in json.loads(Path(path).read_text("utf-8"))["results"].items()
    }


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
