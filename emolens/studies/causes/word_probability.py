"""Does steering make the model name the emotion? Log-probability of emotion words after a question (section 4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emolens.models.log_probs import log_probs
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import BY_RANK, Verdict, bootstrap_mean, null_columns, p_value, tail_p
from emolens.steering.nulls import Nulls, null_directions
from emolens.steering.steer import steer
from emolens.studies._common import TWELVE, check_size, emotions_of
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

QUESTIONS = {
    "he": (
        "He put down the letter and looked out of the window. How does he feel? He feels",
        "A man is standing in the doorway. How does he feel right now? He feels",
        "He has been waiting in the corridor for an hour. How does he feel? He feels",
    ),
    "you": (
        "How do you feel at this moment? I feel",
        "Tell me honestly, how do you feel today? I feel",
        "Before we begin: how do you feel? I feel",
    ),
    "control": (
        "What colour is the door? The door is",
        "What is the weather like in the valley? The weather is",
        "How large is the table? The table is",
    ),
}
STRENGTH = 0.3


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    strength: float = STRENGTH,
    layer: int | None = None,
    emotions: Sequence[str] = TWELVE,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Change of each emotion word's log-probability under each emotion's vector, and under both nulls.

    Words are scored whole. A null draw is a family of as many directions as there are emotions.

    Args:
        size: "full" has 39 families of each kind of null, "quick" none.
        emotions: which are steered towards and asked for, of those that the vectors have.

    Returns:
        "word_probability", three rows for each kind of question: the mean change of a row's own word ("matching"), of
        the other words ("others"), both in nats, and in how many rows the own word rises most ("rows"), each with the
        nulls' band and p; and "matrix", all changes after the first kind of question.

    >>> results = run(model, vectors, "quick")
    >>> results["word_probability"].table()["measure"].unique().tolist()
    ['matching', 'others', 'rows']
    """
    check_size(size)
    vectors.check_model(model)
    directions = [vectors[name] for name in emotions_of(vectors, emotions)]
    layer = vectors.default_layer if layer is None else layer
    nulls = null_directions(model, vectors, directions, BY_RANK, layer, seed) if size == "full" else Nulls()
    matrices, rows = {}, []
    for question, asked in QUESTIONS.items():
        matrices[question] = changes(model, directions, asked, strength, layer).mean(axis=0)
        drawn = {
            kind: [summary(changes(model, family, asked, strength, layer).mean(axis=0)) for family in families]
            for kind, families in nulls.families.items()
        }
        place = {"question": question, "layer": layer, "strength": strength, "words": len(directions)}
        rows += [place | row for row in compared(matrices[question], drawn, seed)]
    table = pd.DataFrame(rows)
    draws = f"{BY_RANK} families of {len(directions)} directions of each kind: {', '.join(nulls.kinds)}"
    null = draws if nulls else "none: the quick size draws no nulls"
    return {
        "word_probability": StudyResult("word_probability", table, headline(table), null),
        "matrix": _as_result(next(iter(matrices.values())), [direction.name for direction in directions]),
    }


def changes(
    model: HookedModel, directions: Sequence[Direction], questions: Sequence[str], strength: float, layer: int
) -> np.ndarray:
    """Change of log-probability in nats [question direction word]; the words are the directions' names.

    >>> changes(model, [vectors["calm"], vectors["angry"]], ["he was"], 0.1, 2).shape
    (1, 2, 2)
    """
    words = [f" {direction.name}" for direction in directions]
    out = []
    for question in questions:
        with steer(model, [None, *directions], strength, layer):
            values = log_probs(model, question, words).numpy()
        out.append(values[1:] - values[:1])
    return np.stack(out)


def summary(matrix: np.ndarray) -> dict[str, float]:
    """Mean change of the matching and of the other words, and the rows whose own word rises most.

    >>> summary(np.array([[2.0, 0.0], [1.0, 0.0]]))
    {'matching': 1.0, 'others': 0.5, 'rows': 1.0}
    """
    diagonal = matrix.diagonal()
    others = (matrix.sum() - diagonal.sum()) / (matrix.size - len(matrix))
    rows = float((matrix.argmax(axis=1) == np.arange(len(matrix))).sum())
    return {"matching": float(diagonal.mean()), "others": float(others), "rows": rows}


def compared(matrix: np.ndarray, drawn: dict[str, list[dict[str, float]]], seed: int = 0) -> list[dict[str, Any]]:
    """A row for each measure of `summary`, with what it is under the draws of each kind of null.

    A change is held against where the null's changes lie, above or below; the count of rows against as many or more.

    >>> drawn = {"random": [summary(np.random.default_rng(seed).normal(-2, 1, (4, 4))) for seed in range(39)]}
    >>> [round(row["p_random"], 3) for row in compared(np.eye(4) - 0.5, drawn)]
    [0.025, 0.025, 0.025]
    """
    rows = []
    for measure, value in summary(matrix).items():
        row: dict[str, Any] = {"measure": measure, "value": value, "low": np.nan, "high": np.nan}
        if measure == "matching":
            row["low"], row["high"] = bootstrap_mean(matrix.diagonal(), seed=seed)
        null = {kind: np.array([draw[measure] for draw in draws]) for kind, draws in drawn.items()}
        p = {kind: (tail_p if measure == "rows" else p_value)(value, draws) for kind, draws in null.items()}
        for kind, (low, high) in Nulls().measured(null).band().items():
            row |= dict(zip(null_columns(kind), (float(low), float(high), p[kind]), strict=True))
        rows.append(row | {"verdict": Verdict.of(p.values())})
    return rows


def headline(frame: pd.DataFrame) -> str:
    """What happens to the own word after the first kind of question.

    >>> row = {"question": "he", "words": 12, "verdict": Verdict.BEYOND}
    >>> headline(pd.DataFrame([row | {"measure": "matching", "value": 1.79}, row | {"measure": "rows", "value": 11}]))
    'Steering towards an emotion changes the log-probability of its own word by +1.8 nats (beyond the null); in 11 of
    12 rows the own word rises most (beyond the null).'
    """
    first = frame[frame["question"] == frame["question"].iloc[0]].set_index("measure")
    matching, rows = first.loc["matching"], first.loc["rows"]
    return (
        f"Steering towards an emotion changes the log-probability of its own word by {matching['value']:+.1f} nats "
        f"({matching['verdict']}); in {rows['value']:.0f} of {rows['words']:.0f} rows the own word rises most "
        f"({rows['verdict']})."
    )


def matrix(
    model: HookedModel,
    vectors: EmotionVectors,
    question: str = "he",
    strength: float = STRENGTH,
    layer: int | None = None,
    emotions: Sequence[str] = TWELVE,
) -> StudyResult:
    """The changes after one kind of question: a row for each vector, a column for each word.

    >>> len(matrix(model, vectors, "you").table()) == 6 * 6
    True
    """
    layer = vectors.default_layer if layer is None else layer
    names = emotions_of(vectors, emotions)
    directions = [vectors[name] for name in names]
    return _as_result(changes(model, directions, QUESTIONS[question], strength, layer).mean(axis=0), names)


def _as_result(matrix: np.ndarray, words: Sequence[str]) -> StudyResult:
    names = np.array(words)
    table = pd.DataFrame(
        {"row": names.repeat(len(names)), "column": np.tile(names, len(names)), "score": matrix.ravel()}
    )
    mean = summary(matrix)
    sentence = (
        f"The matching words change by {mean['matching']:+.1f} nats, the others by {mean['others']:+.1f}; in "
        f"{mean['rows']:.0f} of {len(names)} rows the own word rises most."
    )
    options = {"ylabel": "steered towards", "xlabel": "word", "title": "Change of log-probability (nats)"}
    null = "none: the nulls of these means are in the result word_probability"
    return StudyResult("word_probability_matrix", table, sentence, null, "score_matrix", options)
