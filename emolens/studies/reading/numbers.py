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
from emolens.stats import bootstrap_mean, correlation, p_text, sign_flip_p
from emolens.studies._common import READOUTS, chosen_rows, layers_of, near, user
from emolens.vectors.emotion_vectors import EmotionVectors

NOTE = " This is note number {x} in my file."  # the null: the same number where it means nothing


def prompts(null: bool) -> list[str]:
    """Every template with each of its values; for the null with its median value, and the number in a note."""
    out = []
    for row in texts.stimuli("intensity"):
        median = row["values"][len(row["values"]) // 2]
        for x in row["values"]:
            text = row["template"].replace("{x}", f"{median if null else x:,}")
            out.append(text + NOTE.replace("{x}", f"{x:,}") * null)
    return out


def curves(x: Float[Tensor, "text d_model"], vectors: EmotionVectors, layer: int, method: str) -> pd.DataFrame:
    """The score of every expected emotion for each value of each template, centred on the set."""
    scores = score(x, vectors, layer, method, x.mean(dim=0))
    rows, number = [], 0
    for row in texts.stimuli("intensity"):
        for value in row["values"]:
            for emotion, sign in row["expected"].items():
                entry = float(scores[number, vectors.index(emotion)])
                rows.append((row["id"], emotion, sign, value, entry))
            number += 1
    return pd.DataFrame(rows, columns=["template", "emotion", "expected", "value", "score"])


def signs(curve: pd.DataFrame, seed: int = 0, draws: int = 2) -> tuple[dict[str, Any], pd.DataFrame]:
    """Share of expected signs that hold, tested by flipping whole templates; and rho of each curve.

    Args:
        draws: of the bootstrap over the values of a curve, for the interval of its rho.
    """
    rows = []
    for (template, emotion), part in curve.groupby(["template", "emotion"], sort=False):
        rho, low, high = correlation(part["value"], part["score"], ranks=True, draws=draws, seed=seed)
        sign = 1 if part["expected"].iloc[0] == "+" else -1
        rows.append((template, emotion, part["expected"].iloc[0], rho, low, high, rho * sign > 0))
    table = pd.DataFrame(rows, columns=["template", "emotion", "expected", "rho", "rho_low", "rho_high", "holds"])
    share = table.groupby("template", sort=False)["holds"].mean().to_numpy()
    low, high = bootstrap_mean(share, seed=seed)
    found = {"templates": len(share), "curves": len(table), "share": float(np.mean(share))}
    return found | {"share_low": low, "share_high": high, "p": sign_flip_p(share - 0.5, seed=seed)}, table


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> StudyResult:
    """Templates in the chat format, read right before the reply, by layer and readout, beside their null."""
    vectors.check_model(model)
    layers, rows = layers_of(vectors, size), []
    real, null = (activations(model, [user(p) for p in prompts(null)], layers, "last") for null in (False, True))
    for method in READOUTS:
        for row, layer in enumerate(layers):
            found, _ = signs(curves(real[row], vectors, layer, method), seed)
            control, _ = signs(curves(null[row], vectors, layer, method), seed)
            control = {f"null_{key}": control[key] for key in ("share", "share_low", "share_high", "p")}
            rows.append({"method": method, "layer": layer} | found | control)
    frame = pd.DataFrame(rows)
    said = []
    for readout, at in chosen_rows(frame, vectors):
        said.append(
            f"{readout}: {at['share']:.0%} [{at['share_low']:.0%}, {at['share_high']:.0%}] of the "
            f"expected signs hold (chance 50%, {p_text(at['p'])}; where the number means nothing "
            f"{at['null_share']:.0%} [{at['null_share_low']:.0%}, {at['null_share_high']:.0%}])"
        )
    verdict = f"{frame['templates'].iloc[0]} templates, read right before the reply. " + "; ".join(said) + "."
    shares = frame.rename(columns={"share": "effect", "share_low": "low", "share_high": "high"})
    shares = shares.rename(columns={"null_share_low": "null_low", "null_share_high": "null_high"})
    options = {"line": 0.5, "title": "Expected signs that hold", "ylabel": "share of signs"}
    return StudyResult("numbers", shares, verdict, "effect_by_layer", options)


def shown(
    model: HookedModel, vectors: EmotionVectors, method: str = "denoised", layer: int | None = None
) -> StudyResult:
    """The curves themselves at one layer (default: the chosen one), with the null's beside them."""
    layer = near(vectors, vectors.chosen_layer(method)) if layer is None else layer
    parts = []
    for null in (False, True):
        (x,) = activations(model, [user(p) for p in prompts(null)], [layer], "last")
        parts.append(curves(x, vectors, layer, method))
    frame = parts[0].assign(null=parts[1]["score"])
    found, _ = signs(parts[0])
    return StudyResult("number_curves", frame, f"{found['share']:.0%} of the expected signs hold.", "value_curves")
