"""`StudyResult`: what every study returns, saved and loaded as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from emolens.errors import did_you_mean
from emolens.files import write_atomic

DIGITS = 4  # of the numbers in a results file
WIDTH = 100  # characters of a line of `StudyResult.details`


@dataclass(frozen=True)
class StudyResult:
    """What a study measured: the table with its nulls and intervals, and one sentence that a person can read aloud.

    Attributes:
        name: of the result, as in the results files.
        frame: the measured table.
        sentence: the headline: what came out and against which null, with at most four numbers.
        null: what the effects are held against, or a word why there is nothing.
        figure: the function of `emolens.plots` that draws the table; `options` are what else it is told.

    >>> table = pd.DataFrame({"emotion": ["calm"], "shift": [0.1234], "low": [0.05], "high": [0.2]})
    >>> result = StudyResult("shift", table, "Calm rises by 0.12.", "39 sets of vectors with shuffled labels")
    >>> print(result.headline(), result.details(), sep="\\n")
    Calm rises by 0.12.
    emotion shift [low, high]
       calm 0.123 [0.05, 0.2]
    Null: 39 sets of vectors with shuffled labels.
    """

    name: str
    frame: pd.DataFrame
    sentence: str
    null: str
    figure: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def headline(self) -> str:
        """One sentence with at most four numbers: what was found, and against which null."""
        return self.sentence

    def details(self, **only: Any) -> Details:
        """Every number with its null and interval, as a table that prints well at 100 columns.

        Args:
            only: the rows with these values, such as `layer=20` or `method=["denoised", "whitened"]`.

        Raises:
            ValueError: a column that the table does not have, or a value that occurs in no row.
        """
        frame = self.frame
        for column, wanted in only.items():
            if column not in frame:
                near = did_you_mean(column, list(map(str, frame)))
                raise ValueError(f"the result {self.name!r} has no column {column!r}{near}; it has {', '.join(frame)}")
            frame = frame[frame[column].isin(wanted if isinstance(wanted, (list, tuple)) else [wanted])]
            if frame.empty:
                raise ValueError(f"the result {self.name!r} has no row with {column}={wanted!r}")
        return Details(frame, self.null)

    def table(self) -> pd.DataFrame:
        """The measured table, to compute with."""
        return self.frame

    def plot(self, ax: Any = None) -> Any:
        """A matplotlib Axes. Raises ValueError for a result that is a table only."""
        from emolens import plots

        if not self.figure:
            raise ValueError(f"the result {self.name!r} is a table without a figure of its own; see .table()")
        return getattr(plots, self.figure)(self.frame, **self.options, ax=ax)


class Details:
    """A table for reading: numbers of three digits, intervals in brackets beside what they belong to.

    >>> print(Details(pd.DataFrame({"r": [0.5], "r_low": [0.41234], "r_high": [0.6]}), "none"))
                  r
    0.5 [0.412, 0.6]
    Null: none.
    """

    def __init__(self, frame: pd.DataFrame, null: str) -> None:
        self.null = null
        self.shown = _with_intervals(frame)

    def __repr__(self) -> str:
        text = self.shown.to_string(index=False, line_width=WIDTH, max_colwidth=48)
        return f"{text}\nNull: {self.null}."

    def _repr_html_(self) -> str:
        return f"{self.shown.to_html(index=False, border=0, max_rows=60)}<p>Null: {self.null}.</p>"


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as text, with `x_low` and `x_high` (or `low` and `high`, of the column before) joined to `x`."""
    columns = list(map(str, frame.columns))
    shown, taken = {}, set()
    for position, name in enumerate(columns):
        if name in taken:
            continue
        values = frame.iloc[:, position].map(_short)
        ends = (f"{name}_low", f"{name}_high")
        header = name
        if columns[position + 1 : position + 3] == ["low", "high"]:
            ends, header = ("low", "high"), f"{name} [low, high]"
        if set(ends) <= set(columns):
            low, high = (frame[end].map(_short) for end in ends)
            values = values + (" [" + low + ", " + high + "]").where(low + high != "", "")
            taken |= set(ends)
        shown[header] = values
    return pd.DataFrame(shown)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}"
    return str(value)


def save_results(path: str | Path, stamp: Mapping[str, Any], results: Mapping[str, StudyResult]) -> Path:
    """Write results as JSON, with the stamp of the vectors they were measured with.

    >>> result = StudyResult("shift", pd.DataFrame({"shift": [0.5]}), "It rises by 0.5.", "none: an example")
    >>> path = save_results("shift.json", {"model": "tiny"}, {"shift": result})
    >>> load_results(path)["shift"].headline()
    'It rises by 0.5.'
    """
    rows = {}
    for name, result in results.items():
        table = json.loads(result.frame.to_json(orient="records", double_precision=DIGITS))
        rows[name] = {
            "name": result.name,
            "headline": result.sentence,
            "null": result.null,
            "figure": result.figure,
            "options": result.options,
            "table": table,
        }
    stamp = {key: value for key, value in stamp.items() if key != "sweep"}
    return write_atomic(path, (json.dumps({"stamp": stamp, "results": rows}, indent=1) + "\n").encode())


def load_results(path: str | Path) -> dict[str, StudyResult]:
    """The results that `save_results` wrote, by name.

    Raises:
        ValueError: a file that holds no results of this version; says what is missing.

    >>> result = StudyResult("shift", pd.DataFrame({"shift": [0.5]}), "It rises.", "none: an example")
    >>> load_results(save_results("one.json", {"model": "tiny"}, {"shift": result}))["shift"].null
    'none: an example'
    """
    try:
        rows = json.loads(Path(path).read_text("utf-8"))["results"]
        return {
            name: StudyResult(
                row["name"], pd.DataFrame(row["table"]), row["headline"], row["null"], row["figure"], row["options"]
            )
            for name, row in rows.items()
        }
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no results of this version ({error!r}); measure them again") from error


def load_folder(folder: str | Path) -> dict[str, dict[str, StudyResult]]:
    """All results of a model that `emolens run` wrote: by study, then by name.

    Raises:
        ValueError: a folder without results; says how to measure them.

    >>> load_folder("results/tiny")
    Traceback (most recent call last):
    ValueError: no results in results/tiny: measure them with `emolens run --all --model tiny`
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ValueError(f"no results in {folder}: measure them with `emolens run --all --model {Path(folder).name}`")
    return {path.stem: load_results(path) for path in paths}


def named(results: StudyResult | Mapping[str, StudyResult]) -> dict[str, StudyResult]:
    """What a study returned, by name: a single result under its own.

    >>> list(named(StudyResult("shift", pd.DataFrame({"shift": [0.5]}), "It rises.", "none: an example")))
    ['shift']
    """
    return {results.name: results} if isinstance(results, StudyResult) else dict(results)
