"""What kind of state it is, in one table: the paper, the one open replication, and models with stored results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from emolens.stats import p_text

BLOCKS = (("locality", "half_life"), ("masked", "steering"))  # results that know the chosen block of their model
ALONE, TOLD = {"condition": "dialogue alone"}, {"condition": "after its scenario"}


@dataclass(frozen=True)
class Figure:
    """A published figure and where its counterpart stands.

    Attributes:
        paper, replication: as published; "" where there is none. The replication is that of traitinterp, on Llama 3.3
            70B (github.com/ewernn/traitinterp).
        of: the study and its result.
        only: the row.
        ceiling: the column that the value is held against, and what it is called.
    """

    question: str
    paper: str
    replication: str
    of: tuple[str, str]
    only: Mapping[str, str]
    column: str = "effect"
    ceiling: tuple[str, str] = ("ceiling", "ceiling")
    known: Mapping[str, Any] = field(default_factory=lambda: {"method": "denoised"})


def _pair(a: str, b: str) -> dict[str, str]:
    return {"pair": f"{a} with {b}"}


_BETWEEN, _SETS = ("user_assistant", "between"), ("speakers", "speakers")
FIGURES = (
    Figure("share of a story's emotion left in the next answer", "it returns", "", ("locality", "locality"),
           {"place": "after"}, "kept"),
    Figure("that answer's emotion, classified by regression", "0.39 to 0.83 (chance 0.07)", "",
           ("locality", "persistence"), {"place": "after", "features": "activations"},
           ceiling=("null", "permuted labels up to")),
    Figure("user's end and before the reply, r", "0.11", "0.63 to 0.72", _BETWEEN,
           {"pair": "user's end and before the reply"}),
    Figure("before the reply and reply, r", "0.87", "", _BETWEEN, {"pair": "before the reply and reply"}),
    Figure("user's end and reply, r", "0.59", "", _BETWEEN, {"pair": "user's end and reply"}),
    Figure("same tokens after two prefixes, standard deviations", "late blocks only", "", ("context", "context"),
           {"place": "target"}),
    Figure("end of the sentence: word above 0, meaning below", "meaning in late blocks", "", ("context", "context"),
           {"place": "end"}),
    Figure("present speaker, whoever speaks", "0.9 to 1.0", "0.30", _SETS,
           _pair("present, user", "present, assistant")),
    Figure("other speaker, whoever speaks", "alike", "0.15", _SETS, _pair("other, user", "other, assistant")),
    Figure("present and other, user's tokens", "0.15 to 0.25", "0.15", _SETS, _pair("present, user", "other, user")),
    Figure("present and other, assistant's tokens", "0.15 to 0.25", "0.14", _SETS,
           _pair("present, assistant", "other, assistant")),
    Figure("one person, user", "", "0.54", _SETS, _pair("present, user", "other, assistant")),
    Figure("one person, assistant", "", "0.45", _SETS, _pair("present, assistant", "other, user")),
    Figure("arousal of the two speakers, r", "-0.47", "", ("speakers", "affect"), {"scale": "arousal"}),
    Figure("valence of the two speakers, r", "0.07", "", ("speakers", "affect"), {"scale": "valence"}),
    Figure("hidden emotion with the stories', after its scenario", "about 0.05", "0.24", ("masked", "masked"),
           {"pair": "felt with stories"} | TOLD),
    Figure("hidden emotion with the stories', dialogue alone", "", "", ("masked", "masked"),
           {"pair": "felt with stories"} | ALONE),
    Figure("shown emotion with the stories', dialogue alone", "", "", ("masked", "masked"),
           {"pair": "shown with stories"} | ALONE),
    Figure("hidden emotion classified, dialogue alone", "", "", ("masked", "recognised"),
           {"told": "felt", "by": "masked vectors"} | ALONE, ceiling=("null_high", "permuted labels up to")),
    Figure("norm of hidden emotions outside the stories'", "about 0.80", "0.96", ("masked", "outside"),
           {"vectors": "felt"} | TOLD, ceiling=("random", "random direction")),
    Figure("the same, for the part that two halves share", "", "", ("masked", "outside"), {"vectors": "felt"} | TOLD,
           "reliable_left"),
)  # fmt: skip


def beside(models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The published figures, and for each model its own with interval and ceiling, at its chosen block.

    The figures of the paper that are given as a range, or with "about", are read off its figures. What is not stored
    of a model is "".

    Args:
        models: results of these studies by name, such as `page.second(...)` has, for each model.

    >>> beside({"tiny": {}}).loc["before the reply and reply, r"].tolist()
    ['0.87', '', '']
    """
    rows = {
        figure.question: [figure.paper, figure.replication, *(_told(studies, figure) for studies in models.values())]
        for figure in FIGURES
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["paper", "replication", *models])


def published(models: Mapping[str, Mapping[str, Any]], *results: str) -> pd.DataFrame:
    """The same numbers as a table for `plots.beside_published`: a row for each figure and model that has it.

    Args:
        models: as in `beside`.
        results: of which results the figures are wanted, such as "between"; default all.

    >>> published({"tiny": {}}).columns.tolist()[:5]
    ['question', 'model', 'value', 'low', 'high']
    """
    rows = []
    for figure in FIGURES:
        said = {f"{who}_{end}": value for who in ("paper", "replication")
                for end, value in zip(("low", "high"), _ends(getattr(figure, who)), strict=True)}  # fmt: skip
        for model, studies in models.items():
            row = None if results and figure.of[1] not in results else _found(studies, figure)
            if row is not None and not pd.isna(row.get(figure.column, np.nan)):
                value, low, high, limit = _numbers(row, figure)
                found = {"question": figure.question, "model": model, "value": value, "low": low, "high": high}
                rows.append(found | {"limit": limit, "limit_is": figure.ceiling[1]} | said)
    ends = [f"{who}_{end}" for who in ("paper", "replication") for end in ("low", "high")]
    return pd.DataFrame(rows, columns=["question", "model", "value", "low", "high", "limit", "limit_is", *ends])


def numbers(
    models: Mapping[str, Mapping[str, Any]],
    study: str,
    result: str,
    *columns: str,
    index: Sequence[str] = (),
    **only: Any,
) -> pd.DataFrame:
    """A small table for reading: of each model the rows at its chosen block, intervals beside what they belong to.

    Args:
        models: as in `beside`.
        columns: default "effect" and "p"; "null" is the band of the null, or the largest that it reaches.
        index: the columns that name a model's rows, after the model.
        only: the rows with this value, or one of these.

    >>> from emolens.results import StudyResult
    >>> frame = pd.DataFrame({"layer": [2], "place": "after", "effect": 0.1, "low": 0.05, "high": 0.15, "p": 0.0001})
    >>> block = StudyResult("steering", pd.DataFrame({"layer": [2]}), "Steered.", "none: an example")
    >>> tiny = {"masked": {"steering": block, "masked": StudyResult("masked", frame, "It is.", "none: an example")}}
    >>> print(numbers({"tiny": tiny}, "masked", "masked", place="after").to_string())
                         effect        p
    model
    tiny   0.100 [0.050, 0.150]  < 0.001
    """
    parts = []
    for model, studies in models.items():
        if not _has(studies, study, result) or (block := _block(studies)) is None:
            continue
        frame = studies[study][result].table()
        for column, wanted in ({"method": "denoised", "layer": block} | only).items():
            if column in frame:
                frame = frame[frame[column].isin(wanted if isinstance(wanted, (list, tuple)) else [wanted])]
        parts.append(frame.assign(model=model))
    if not parts:
        return pd.DataFrame(columns=list(columns))
    whole = pd.concat(parts).set_index(["model", *index])
    return pd.DataFrame({column: _written(whole, column) for column in columns or ("effect", "p")})


def _written(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as text: with its interval, the null as a band, and p as in a sentence."""
    if column == "p" or column.startswith("p_"):
        return frame[column].map(lambda p: "" if pd.isna(p) else p_text(p).removeprefix("p ").removeprefix("= "))
    low, high = ("low", "high") if column == "effect" else (f"{column}_low", f"{column}_high")
    parts = [part for part in (column, low, high) if part in frame]
    if not all(pd.api.types.is_numeric_dtype(frame[part]) for part in parts):
        return frame[column].astype(str)
    whole = bool((frame[parts].fillna(0) % 1 == 0).all().all())
    texts = [frame[part].map(lambda value: _short(value, 0 if whole else 3)) for part in parts]
    if column not in frame:
        return texts[0] + " to " + texts[1]
    return (texts[0] + " [" + texts[1] + ", " + texts[2] + "]").where(texts[0] != "", "") if texts[1:] else texts[0]


def _short(value: float, digits: int) -> str:
    """A number without a minus before zero; "" of what is missing."""
    return "" if pd.isna(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def _ends(said: str) -> tuple[float, float]:
    """The least and the largest number of a published figure, without what stands in brackets."""
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", said.split("(")[0])]
    return (min(numbers), max(numbers)) if numbers else (np.nan, np.nan)


def _told(studies: Mapping[str, Any], figure: Figure) -> str:
    if not _has(studies, *figure.of) or not any(_has(studies, *block) for block in BLOCKS):
        return ""
    row = _found(studies, figure)
    if row is None or pd.isna(row.get(figure.column, np.nan)):
        return "cannot be measured"
    value, low, high, most = _numbers(row, figure)
    said = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return said if pd.isna(most) else f"{said}, {figure.ceiling[1]} {most:.2f}"


def _found(studies: Mapping[str, Any], figure: Figure) -> Any:
    """The figure's row at the model's chosen block, or none."""
    block = _block(studies)
    if block is None or not _has(studies, *figure.of):
        return None
    return _row(studies[figure.of[0]][figure.of[1]].table(), figure, block)


def _block(studies: Mapping[str, Any]) -> int | None:
    """The model's chosen block, from the first result that knows it."""
    tables = [studies[study][name].table() for study, name in BLOCKS if _has(studies, study, name)]
    return int(tables[0]["layer"].iloc[0]) if tables else None


def _numbers(row: Any, figure: Figure) -> tuple[float, float, float, float]:
    """The value, its interval, and what it is held against (NaN where there is nothing)."""
    ends = ("low", "high") if figure.column == "effect" else (f"{figure.column}_low", f"{figure.column}_high")
    most = row.get(figure.ceiling[0], np.nan) if figure.column == "effect" else np.nan
    return float(row[figure.column]), float(row[ends[0]]), float(row[ends[1]]), float(most)


def _has(studies: Mapping[str, Any], study: str, name: str) -> bool:
    return study in studies and name in studies[study]


def _row(frame: pd.DataFrame, figure: Figure, layer: int) -> Any:
    """The figure's row at a block, or none."""
    only = {**figure.known, **figure.only, "layer": layer}
    keys: Sequence[str] = [key for key in only if key in frame]
    found = frame[np.logical_and.reduce([frame[key] == only[key] for key in keys])]
    return None if found.empty else found.iloc[0]
