"""`StudyResult`: what every study returns, saved and loaded as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
