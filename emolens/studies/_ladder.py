"""The size ladder: what each question gives on models of different size, side by side, each with its null."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emolens.results import StudyResult, load_results
from emolens.stats import Verdict, wilson
from emolens.studies._common import READOUTS

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Rung:
    """A question of the ladder, and where its answer stands in the table that a study wrote.

    Attributes:
        unit: what is counted, for the axis.
        result: the name of the study's result; `{}` stands for the readout.
        rows: the values of columns that its row has; the layer comes from the stamp.
        steered: whether it is of the layer that is steered by default, and not of the one chosen for the readout.
        value, low, high: columns.
        null: the columns of the null's upper edge (the largest counts), or of its two edges; a number as it is.
        p: columns of p, which must all be small.
        per: a column with the number of trials, where the value counts successes; its interval is Wilson's.
        size: whether the sign means nothing.
        control: whether there ought to be nothing to find.
    """

    question: str
    unit: str
    study: str
    result: str
    rows: Mapping[str, Any] = field(default_factory=dict)
    steered: bool = False
    value: str = "effect"
    low: str = "low"
    high: str = "high"
    null_low: float | str | None = None
    null: tuple[float | str, ...] = ()
    p: tuple[str, ...] = ("p",)
    per: str | None = None
    size: bool = False
    control: bool = False


IN_WORDS = {
    "right emotion of 171 found first": "vignettes, first",
    "implied emotion, over the message": "implicit, rows on the diagonal",
}  # question -> the same in `studies.lexical`
PERMUTED = ("first_null", "first_shuffled_highest")
THREE_NULLS = ("p_random gradients", "p_shuffled replies", "p_shuffled labels")


def _slopes(question: str, study: str, contrast: str, control: str, p: tuple[str, ...] = THREE_NULLS) -> Rung:
    rows = {"contrast": contrast, "control": control, "measure": "valence, glasgow"}
    return Rung(
        question, "r with valence", study, "alignment", rows, True, null_low="null_low", null=("null_high",), p=p
    )


RUNGS = (
    Rung(
        "right emotion of 171 found first", "share of texts", "detection", "detection",
        value="first", low="first_low", high="first_high", null_low=0.0, null=PERMUTED, p=("first_shuffled_p",),
    ),
    Rung(
        "implied emotion, over the message", "share of 24 emotions", "implicit", "implicit", {"place": "turn"},
        value="on_diagonal", null_low=0.0, null=("null",), per="rows",
    ),
    Rung(
        "implied emotion, before the reply", "share of 24 emotions", "implicit", "implicit", {"place": "last"},
        value="on_diagonal", null_low=0.0, null=("null",), per="rows",
    ),
    Rung("numbers that change the meaning", "share of expected signs", "numbers", "numbers", null=(0.5,)),
    Rung(
        "the same numbers where they mean nothing", "share of expected signs", "numbers", "numbers",
        value="null_share", low="null_low", high="null_high", null=(0.5,), p=("null_p",), control=True,
    ),
    Rung("negation lowers the emotion", "cosine", "negation", "negation", {"place": "end"}, null=(0.0,)),
    Rung("emotion of the person named last", "cosine", "binding", "binding", null=(0.0,)),
    Rung("change at the marked passage", "cosine", "transcripts", "transcripts", null=(0.0,)),
    Rung(
        "first component against valence", "|r|", "circumplex", "plain_{}",
        {"source": "glasgow", "scale": "valence", "component": 1}, value="r", null_low=0.0, null=("null",), size=True,
    ),
    Rung(
        "a step along an emotion raises its word", "share of other vectors beaten", "word_probability", "all_rows",
        {"word": "all words"}, True, value="share", null_low="random_low", null=("random_high", "shuffled labels_high"),
        p=("p_random", "p_shuffled labels"),
    ),
    _slopes("harsh over honest replies", "sycophancy", "harsh over honest", "others"),
    _slopes("sycophantic over honest replies", "sycophancy", "sycophantic over honest", "others"),
    _slopes(
        "preference of an activity", "preferences", "preference of an activity", "own",
        ("p_random gradients", "p_shuffled labels"),
    ),
)  # fmt: skip


def ladder(folder: str | Path, models: Sequence[str] | None = None, readout: str = "whitened") -> StudyResult:
    """What each question gives on each model whose results are in a folder, by size, against its null.

    Nothing is measured here: the numbers are those that `emolens run --all --model NAME --out FOLDER` wrote. The layer
    is the one that was chosen on the stories for the readout, or for what is steered the default one.

    Args:
        folder: a folder for each model, as `emolens run` writes them.
        models: names of folders; default all.
        readout: "whitened" or "denoised", for what is read.

    Raises:
        ValueError: no folder with results, a name that is not among them, or an unknown readout.

    >>> ladder("results")
    Traceback (most recent call last):
    ValueError: no results of any model in results: measure them with `emolens run --all --model NAME --out results`
    """
    if readout not in READOUTS:
        raise ValueError(f"readout={readout!r} is none of {', '.join(READOUTS)}")
    there = sorted(path.name for path in Path(folder).glob("*") if any(path.glob("*.json")))
    if not there:
        raise ValueError(
            f"no results of any model in {folder}: measure them with `emolens run --all --model NAME --out {folder}`"
        )
    if absent := [name for name in models or () if name not in there]:
        raise ValueError(f"no results of {', '.join(absent)} in {folder}; there are those of {', '.join(there)}")
    rows = [row for name in models or there for row in _of_model(Path(folder) / name, readout)]
    frame = pd.DataFrame(rows)
    order = {rung.question: number for number, rung in enumerate(RUNGS)}
    frame = frame.sort_values(
        ["question", "parameters"], key=lambda column: column.map(order) if column.name == "question" else column
    ).reset_index(drop=True)
    null = "the null of each question, as its study names it; p at one layer that was chosen on the stories"
    return StudyResult("ladder", frame, headline(frame), null, "size_ladder")


def words_alone(folder: str | Path, readout: str = "whitened") -> pd.DataFrame:
    """What a model's token embeddings alone give on questions of the ladder, beside what the model gives.

    Returns:
        A row for each `question` and `model` that has both: `effect` with `low` and `high`, and `words` with
        `words_low` and `words_high` (NaN where no interval was measured).

    >>> words_alone("results")
    Traceback (most recent call last):
    ValueError: no results of any model in results: measure them with `emolens run --all --model NAME --out results`
    """
    rows = []
    for row in ladder(folder, readout=readout).table().to_dict("records"):
        path = Path(folder) / row["model"] / "lexical.json"
        if row["question"] not in IN_WORDS or not path.exists():
            continue
        table = load_results(path)["lexical"].table().query("null == 'token embeddings' and method == @readout")
        words = table.set_index("measure").loc[IN_WORDS[row["question"]]]
        known = {key: row[key] for key in ("question", "model", "effect", "low", "high")}
        rows.append(known | {"words": words["value"], "words_low": words["low"], "words_high": words["high"]})
    return pd.DataFrame(rows)


def _of_model(folder: Path, readout: str) -> Iterator[dict[str, Any]]:
    """The rows of one model; those of questions that were not measured hold NaN."""
    stamps = {path.stem: json.loads(path.read_text("utf-8"))["stamp"] for path in folder.glob("*.json")}
    parameters = max((stamp.get("parameters", np.nan) for stamp in stamps.values()), default=np.nan)
    for rung in RUNGS:
        known: dict[str, Any] = {"question": rung.question, "unit": rung.unit, "model": folder.name}
        known["control"] = rung.control
        known |= {"parameters": parameters, "readout": "slopes" if rung.steered else readout}
        row = None
        if rung.study in stamps:
            result = load_results(folder / f"{rung.study}.json").get(rung.result.format(readout))
            row = None if result is None else _row(rung, result.frame, stamps[rung.study], readout)
        yield known | (_measured(rung, row) if row is not None else {"layer": None, "verdict": NOT_MEASURED})


def _row(rung: Rung, frame: pd.DataFrame, stamp: Mapping[str, Any], readout: str) -> pd.Series | None:
    """The row of a question, at the layer that its stamp says; None where the study has none such."""
    wanted = dict(rung.rows)
    if not rung.steered and "method" in frame:
        wanted["method"] = readout
    keep = np.all([frame[column].eq(value).to_numpy() for column, value in wanted.items()], axis=0)
    part = frame[keep]
    if part.empty:
        return None
    layer = stamp["default_layer"] if rung.steered else stamp["chosen"][readout]["layer"]
    return part.iloc[int((part["layer"] - layer).abs().to_numpy().argmin())]


def _measured(rung: Rung, row: pd.Series) -> dict[str, Any]:
    def number(column: float | str | None) -> float:
        if isinstance(column, (int, float)):
            return float(column)
        found = row.get(column) if column else None
        return np.nan if found is None or pd.isna(found) else float(found) / (row[rung.per] if rung.per else 1)

    value = number(rung.value)
    edges = [number(edge) for edge in rung.null]
    p = [float(row[column]) for column in rung.p if column in row and not pd.isna(row[column])]
    low, high = (number(rung.low), number(rung.high))
    if rung.per:
        low, high = wilson(int(row[rung.value]), int(row[rung.per]))
    return {
        "layer": int(row["layer"]),
        "effect": abs(value) if rung.size else value,
        "low": low,
        "high": high,
        "null_low": number(rung.null_low) if rung.null_low is not None else np.nanmin(edges),
        "null_high": np.nanmax(edges),
        "p": max(p, default=np.nan),
        "verdict": str(Verdict.of(p)),
    }


def headline(frame: pd.DataFrame) -> str:
    """How many questions come out beyond their null on all models, and on the largest one alone; the control apart.

    >>> rows = [("a", 1, "beyond the null"), ("a", 2, "beyond the null"), ("b", 1, "inside the null")]
    >>> frame = pd.DataFrame([*rows, ("b", 2, "beyond the null")], columns=["question", "parameters", "verdict"])
    >>> headline(frame.assign(model=frame["parameters"].map({1: "small", 2: "large"})))
    'Of 2 questions that were asked of all 2 models, 1 come out beyond the null on each, and 1 on the largest alone.'
    """
    models = frame.sort_values("parameters")["model"].unique()
    control = frame["control"] if "control" in frame else pd.Series(False, frame.index)
    checked = frame.loc[control & frame["verdict"].ne(NOT_MEASURED), "verdict"].eq(str(Verdict.BEYOND))
    frame = frame[~control]
    verdicts = frame.pivot(index="question", columns="model", values="verdict")[list(models)]
    asked = verdicts[~verdicts.isin([NOT_MEASURED]).any(axis=1)]
    beyond = asked.eq(str(Verdict.BEYOND))
    alone = beyond.iloc[:, -1] & ~beyond.iloc[:, :-1].any(axis=1)
    return (
        f"Of {len(asked)} questions that were asked of all {len(models)} models, {int(beyond.all(axis=1).sum())} come "
        f"out beyond the null on each, and {int(alone.sum())} on the largest alone."
    ) + (f" The control comes out beyond it on {checked.sum()} of {len(checked)}." if len(checked) else "")
