"""Does a number that changes what a sentence means change the emotions read from it? (paper, section 4)"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, correlation, sign_flip_p
from emolens.studies._common import READOUTS, against, check_size, chosen_row, layers_of, near, user, with_vectors
from emolens.vectors.emotion_vectors import EmotionVectors

NOTE = " This is note number {x} in my file."  # the null: the same number where it means nothing


def prompts(null: bool) -> list[str]:
    """Every template with each of its values; for the null with its median value, and the number in a note.

    >>> prompts(True)[0].endswith("This is note number 200 in my file.")
    True
    """
    out = []
    for row in texts.stimuli("intensity"):
        median = row["values"][len(row["values"]) // 2]
        for x in row["values"]:
            text = row["template"].replace("{x}", f"{median if null else x:,}")
            out.append(text + NOTE.replace("{x}", f"{x:,}") * null)
    return out


def curves(x: Float[Tensor, "text d_model"], vectors: EmotionVectors, layer: int, method: str) -> pd.DataFrame:
    """The score of every expected emotion that has a vector, for each value of each template, centred on the set.

    >>> x = activations(model, prompts(False), [2], "last")
    >>> curves(x[0], vectors, 2, "denoised").columns.tolist()
    ['template', 'emotion', 'expected', 'value', 'score']
    """
    scores = score(x, vectors, layer, method, x.mean(dim=0))
    rows, number = [], 0
    for row in texts.stimuli("intensity"):
        for value in row["values"]:
            for emotion, sign in row["expected"].items():
                if emotion in vectors.emotions:
                    entry = float(scores[number, vectors.index(emotion)])
                    rows.append((row["id"], emotion, sign, value, entry))
            number += 1
    return pd.DataFrame(rows, columns=["template", "emotion", "expected", "value", "score"])


def signs(curve: pd.DataFrame, seed: int = 0, draws: int = 2) -> tuple[dict[str, Any], pd.DataFrame]:
    """Share of expected signs that hold, tested by flipping whole templates; and rho of each curve.

    Args:
        draws: of the bootstrap over the values of a curve, for the interval of its rho.

    >>> curve = pd.DataFrame({"template": "dose", "emotion": "afraid", "expected": "+", "value": [1, 2, 3]})
    >>> signs(curve.assign(score=[0.1, 0.2, 0.3]))[0]["share"]
    1.0
    """
    rows = []
    for (template, emotion), part in curve.groupby(["template", "emotion"], sort=False):
        rho, low, high = correlation(part["value"], part["score"], ranks=True, draws=draws, seed=seed)
        sign = 1 if part["expected"].iloc[0] == "+" else -1
        rows.append((template, emotion, part["expected"].iloc[0], rho, low, high, rho * sign > 0))
    table = pd.DataFrame(rows, columns=["template", "emotion", "expected", "rho", "rho_low", "rho_high", "holds"])
    share = table.groupby("template", sort=False)["holds"].mean().to_numpy()
    low, high = bootstrap_mean(share, seed=seed)
    counts = {"templates": len(share), "curves": len(table)}
    held = {"share": float(np.mean(share)), "share_low": low, "share_high": high}
    return counts | held | {"p": sign_flip_p(share - 0.5, seed=seed)}, table


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> dict[str, StudyResult]:
    """Templates in the chat format, read right before the reply, by layer and readout, beside their null.

    Returns:
        "numbers", the share of expected signs that hold, by layer and readout; and "curves", the scores themselves.

    >>> results = run(model, vectors, "quick")
    >>> results["numbers"].headline()
    '...% of the expected signs hold right before the reply, ... the null of flipped signs (p ...); where the number
    means nothing, ...% do.'
    """
    check_size(size)
    vectors.check_model(model)
    layers, rows = layers_of(vectors, size), []
    expected = [name for row in texts.stimuli("intensity") for name in row["expected"]]
    with_vectors(expected, vectors, lambda name: {name}, "The sentences with numbers")
    real, null = (activations(model, [user(p) for p in prompts(null)], layers, "last") for null in (False, True))
    for method in READOUTS:
        for row, layer in enumerate(layers):
            held, _ = signs(curves(real[row], vectors, layer, method), seed)
            control, _ = signs(curves(null[row], vectors, layer, method), seed)
            effect = {"effect": held["share"], "low": held["share_low"], "high": held["share_high"], "p": held["p"]}
            band = {"null_low": control["share_low"], "null_high": control["share_high"], "null_p": control["p"]}
            counts = {"templates": held["templates"], "curves": held["curves"]}
            rows.append({"method": method, "layer": layer} | counts | effect | {"null_share": control["share"]} | band)
    frame = pd.DataFrame(rows)
    options = {"line": 0.5, "title": "Expected signs that hold", "ylabel": "share of signs"}
    null_words = "flips of the signs of whole templates, and the same number where it means nothing"
    return {
        "numbers": StudyResult("numbers", frame, headline(frame, vectors), null_words, "effect_by_layer", options),
        "curves": shown(model, vectors),
    }


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """The share of signs that hold, with the denoised readout.

    >>> row = {"method": "denoised", "layer": 2, "effect": 0.75, "p": 0.01, "null_share": 0.5}
    >>> headline(pd.DataFrame([row]), vectors.at(2))
    '75% of the expected signs hold right before the reply, beyond the null of flipped signs (p = 0.010); where the
    number means nothing, 50% do.'
    """
    row = chosen_row(frame, vectors)
    return (
        f"{row['effect']:.0%} of the expected signs hold right before the reply, {against(row['p'], 'flipped signs')}; "
        f"where the number means nothing, {row['null_share']:.0%} do."
    )


def shown(
    model: HookedModel, vectors: EmotionVectors, method: str = "denoised", layer: int | None = None
) -> StudyResult:
    """The curves themselves at one layer (default: the chosen one), with the null's beside them.

    >>> shown(model, vectors, layer=2).headline()
    '...% of the expected signs hold.'
    """
    layer = near(vectors, vectors.chosen_layer(method)) if layer is None else layer
    parts = []
    for null in (False, True):
        (x,) = activations(model, [user(p) for p in prompts(null)], [layer], "last")
        parts.append(curves(x, vectors, layer, method))
    frame = parts[0].assign(null=parts[1]["score"])
    return StudyResult(
        "number_curves", frame, of_curves(frame), "the same number where it means nothing", "value_curves"
    )


def of_curves(frame: pd.DataFrame) -> str:
    """The headline of the curves.

    >>> curve = pd.DataFrame({"template": "dose", "emotion": "afraid", "expected": "+", "value": [1, 2, 3]})
    >>> of_curves(curve.assign(score=[0.1, 0.2, 0.3]))
    '100% of the expected signs hold.'
    """
    held, _ = signs(frame)
    return f"{held['share']:.0%} of the expected signs hold."
