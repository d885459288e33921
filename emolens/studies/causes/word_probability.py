"""Does steering make the model name the emotion? Log-probability of emotion words after a question (section 4)."""

import numpy as np
import pandas as pd

from emolens.models.log_probs import log_probs
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, p_text, p_value
from emolens.steering.nulls import null_directions
from emolens.steering.steer import steer
from emolens.studies._common import TWELVE, check_size
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
    seed: int = 0,
) -> StudyResult:
    """Change of each emotion word's log-probability under each emotion's vector, and under both nulls.

    Words are scored whole. A null draw is a family of as many directions as there are emotions; `matching` is the mean
    change of a row's own word, `others` that of the other words, `rows` in how many rows the own word rises most.

    Args:
        size: "full" has 39 families of each kind of null, "quick" none.
    """
    check_size(size)
    own, directions = np.empty(0), [vectors[name] for name in TWELVE]
    layer = vectors.default_layer if layer is None else layer
    nulls = null_directions(model, vectors, directions, 39, layer, seed) if size == "full" else {}
    families = {"emotions": [directions]} | nulls
    rows = []
    for kind, questions in QUESTIONS.items():
        found = {}
        for name, draws in families.items():
            matrices = [changes(model, family, questions, strength, layer).mean(axis=0) for family in draws]
            found[name] = pd.DataFrame([summary(matrix) for matrix in matrices])
            own = matrices[0] if name == "emotions" else own
        low, high = bootstrap_mean(own.diagonal(), seed=seed)
        row = {"question": kind, "layer": layer, "strength": strength, "low": low, "high": high}
        for measure in ("matching", "others", "rows"):
            value = row[measure] = float(found["emotions"][measure].iloc[0])
            for name in nulls:
                row[f"{measure}_{name}"] = float(found[name][measure].mean())
                row[f"{measure}_{name}_p"] = p_value(abs(value), found[name][measure].abs().to_numpy())
        rows.append(row)
    table = pd.DataFrame(rows)
    return StudyResult("word_probability", table, _sentence(table, list(nulls)))


def changes(
    model: HookedModel, directions: list, questions: tuple[str, ...], strength: float, layer: int
) -> np.ndarray:
    """Change of log-probability in nats [question direction word]."""
    words = [f" {name}" for name in TWELVE]
    out = []
    for question in questions:
        with steer(model, [None, *directions], strength, layer):
            found = log_probs(model, question, words).numpy()
        out.append(found[1:] - found[:1])
    return np.stack(out)


def summary(matrix: np.ndarray) -> dict[str, float]:
    """Mean change of the matching and of the other words, and the rows whose own word rises most."""
    own = matrix.diagonal()
    others = (matrix.sum() - own.sum()) / (matrix.size - len(matrix))
    rows = float((matrix.argmax(axis=1) == np.arange(len(matrix))).sum())
    return {"matching": float(own.mean()), "others": float(others), "rows": rows}


def matrix(
    model: HookedModel,
    vectors: EmotionVectors,
    question: str = "he",
    strength: float = STRENGTH,
    layer: int | None = None,
) -> StudyResult:
    """The changes of one kind of question: a row for each vector, a column for each word."""
    layer = vectors.default_layer if layer is None else layer
    found = changes(model, [vectors[name] for name in TWELVE], QUESTIONS[question], strength, layer).mean(axis=0)
    names = np.array(TWELVE)
    table = pd.DataFrame(
        {"row": names.repeat(len(names)), "column": np.tile(names, len(names)), "score": found.ravel()}
    )
    s = summary(found)
    sentence = (
        f"At block {layer}, strength {strength:g}, the matching words change by {s['matching']:+.1f} nats, the others "
        f"by {s['others']:+.1f}; in {s['rows']:.0f} of {len(names)} rows the own word rises most."
    )
    options = {"ylabel": "steered towards", "xlabel": "word", "title": "Change of log-probability (nats)"}
    return StudyResult("word_probability_matrix", table, sentence, "score_matrix", options)


def _sentence(table: pd.DataFrame, nulls: list[str]) -> str:
    said = []
    for row in table.to_dict("records"):
        chance = "; ".join(
            f"{name} directions {row[f'matching_{name}']:+.1f} and {row[f'others_{name}']:+.1f}, "
            f"{row[f'rows_{name}']:.1f} rows, {p_text(row[f'rows_{name}_p'])}"
            for name in nulls
        )
        said.append(
            f"{row['question']}: matching words {row['matching']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}], others "
            f"{row['others']:+.1f}, own word first in {row['rows']:.0f} of {len(TWELVE)}"
            + (f" ({chance})" if chance else "")
        )
    at = table.iloc[0]
    return (
        f"Change of log-probability in nats at block {at['layer']}, strength {at['strength']:g}. "
        + ". ".join(said)
        + "."
    )
