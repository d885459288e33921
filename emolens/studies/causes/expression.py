"""Does a steered model write what it is steered towards? Read by others than itself, with what it costs (section 8)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models.model import HookedModel
from emolens.reading.read import read
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, outside_draws
from emolens.steering.dose_response import dose_response
from emolens.steering.measures import Measure, coherence, expressed
from emolens.steering.nulls import null_directions, random_directions
from emolens.steering.steer import Where, steer
from emolens.studies._common import check_size
from emolens.studies.reading.documents import vader
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("calm", "desperate", "angry", "happy", "afraid", "loving")
STRENGTHS = (-0.15, -0.075, 0.075, 0.15)
OPENINGS = (
    "I opened the door and",
    "It was Monday morning, and she",
    "They had been driving for an hour when",
    "He sat down at the table, looked at me and said that",
    "When I think about next week, I",
    "Dear diary, today I",
)
COHERENT = 2.0  # the perplexity of the model's own unsteered text may at most double
TOKENS = 24


class Written:
    """What a model writes under the steering in force. Kept, so that several measures read the same texts."""

    def __init__(self, max_new_tokens: int = TOKENS, seed: int = 0) -> None:
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.kept: dict[Any, list[str]] = {}

    def __call__(self, model: HookedModel, prompt: str) -> list[str]:
        under = [(one.layers, one.mode, one.operator, str(one.where), one.values.numpy().tobytes(),
                  one.target.numpy().tobytes()) for one in model.steering]  # fmt: skip
        key = (model.fingerprint, prompt, *under)
        if key not in self.kept:
            self.kept[key] = model.generate([prompt] * model.rows, self.max_new_tokens, seed=self.seed)
        return self.kept[key]


def tone(written: Written) -> Measure:
    """VADER's compound score of what is written, from -1 to 1."""
    return lambda model, prompt: torch.from_numpy(vader(written(model, prompt))).float()


def read_by_other(written: Written, other: HookedModel, vectors: EmotionVectors) -> Measure:
    """The score, by another model's vectors, of the emotion that each row is steered towards."""
    layer = vectors.chosen_layer("denoised")

    def measure(model: HookedModel, prompt: str) -> Float[Tensor, "row"]:
        texts = [text if text.strip() else "nothing" for text in written(model, prompt)]
        scores = read(other, texts, vectors, layer, "document").scores
        return scores[torch.arange(len(texts)), [vectors.index(name) for name in model.steering[-1].names]]

    return measure


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    other: tuple[HookedModel, EmotionVectors] | None = None,
    emotions: Sequence[str] = EMOTIONS,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """Dose-response of the expressed emotion: "tone" (VADER), and with `other` "emotion", read by another model.

    Args:
        size: "full" has ten families of each kind of null; "quick" two of the strengths, four openings, no null.
    """
    check_size(size)
    directions = [vectors[name] for name in emotions]
    full, written = size == "full", Written(seed=seed)
    openings, strengths = (OPENINGS, STRENGTHS) if full else (OPENINGS[:4], (-0.15, 0.15))
    nulls = null_directions(model, vectors, directions, 10, seed=seed) if full else None
    options: dict[str, Any] = {"seed": seed, "progress": progress}
    options |= {"cost_prompts": openings} if full else {}
    unit = "VADER's compound score"
    found = {"tone": dose_response(model, tone(written), openings, directions, strengths, nulls, unit=unit, **options)}
    if other:
        measure = read_by_other(written, *other)
        unit, options["cost_prompts"] = f"score by {other[0].name}", ()
        found["emotion"] = dose_response(model, measure, openings, directions, strengths, nulls, unit=unit, **options)
    return found


def unsteered(model: HookedModel, seed: int = 0) -> StudyResult:
    """What the costs are without any steering."""
    found = {name: float(value) for name, value in coherence(model, OPENINGS, seed=seed)(model).items()}
    said = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in found.items())
    return StudyResult("unsteered", pd.DataFrame([found]), f"Unsteered: {said}.")


def window(frame: pd.DataFrame, unsteered: float) -> StudyResult:
    """For each direction the strengths at which its effect lies outside both nulls while the text is still coherent.

    Args:
        frame: of `run`, with nulls and costs.
        unsteered: the perplexity of the unsteered text without steering.
    """
    kinds = [column.removeprefix("p_") for column in frame if column.startswith("p_")]
    outside = np.logical_and.reduce([
        (frame["effect"] < frame[f"{kind}_low"]) | (frame["effect"] > frame[f"{kind}_high"]) for kind in kinds
    ])  # fmt: skip
    table = frame[["direction", "strength", "effect", "perplexity_own"]].assign(
        outside=outside, coherent=frame["perplexity_own"] <= COHERENT * unsteered
    )
    said = []
    for name, part in table.groupby("direction", sort=False):
        both = part.loc[part["outside"] & part["coherent"], "strength"]
        said.append(f"{name}: {', '.join(f'{s:+g}' for s in both) if len(both) else 'none'}")
    sentence = (
        f"Strengths at which the effect lies outside 95% of single nulls of both kinds (so by chance at one cell in "
        f"twenty) and the perplexity of the unsteered text, {unsteered:.1f}, has at most grown {COHERENT:g}-fold: "
        f"{'; '.join(said)}."
    )
    return StudyResult("window", table, sentence)


def conditions(
    model: HookedModel, vectors: EmotionVectors, strength: float = 0.1, draws: int = 10, seed: int = 0
) -> StudyResult:
    """How far apart happy and desperate steering bring the tone, by block, with several blocks, reading or writing.

    `effect` is the tone under happy less that under desperate, a mean over the openings; `null_low` to `null_high` is
    the t prediction interval of that between two random directions, widened for the number of conditions.
    """
    layer, n = vectors.default_layer, model.n_layers
    five = [one for one in range(layer - 4, layer + 5, 2) if one in vectors.layers]
    cells: list[tuple[str, float, Any, Where]] = [
        (f"block {one}", strength, one, "all") for one in range(1, n, max(1, n // 6)) if one in vectors.layers
    ]
    cells += [(f"block {layer} while {doing}", strength, layer, where) for doing, where in
              (("reading", "prompt"), ("writing", "generation"), ("reading and writing", "all"))]  # fmt: skip
    cells += [(f"{len(five)} blocks, {strength:g} each", strength, five, "all"),
              (f"{len(five)} blocks, {strength / len(five):g} each", strength / len(five), five, "all")]  # fmt: skip
    rows = []
    for name, much, layers, where in cells:
        random = random_directions(vectors["happy"], 2 * draws, seed)
        with steer(model, [vectors["happy"], vectors["desperate"], *random], much, layers, where):
            found = torch.stack([expressed(vader, TOKENS, seed=seed)(model, one) for one in OPENINGS], dim=1).numpy()
        gaps = found[0::2] - found[1::2]
        low, high = bootstrap_mean(gaps[0], seed=seed)
        # So wide that by chance any of the cells lies outside in one of twenty studies.
        null = outside_draws(np.zeros(()), gaps[1:].mean(axis=1), level=1 - 0.05 / len(cells))[1:]
        row = {"condition": name, "layer": layers if isinstance(layers, int) else layer, "effect": gaps[0].mean()}
        rows.append(row | {"low": low, "high": high, "null_low": float(null[0]), "null_high": float(null[1])})
    return _outside(pd.DataFrame(rows), strength)


def _outside(table: pd.DataFrame, strength: float) -> StudyResult:
    """Says which of the conditions lie outside their null."""
    outside = (table["effect"] > table["null_high"]) | (table["effect"] < table["null_low"])
    above = table.loc[outside, "condition"].tolist()
    best = table.loc[table["effect"].idxmax()]
    sentence = (
        f"Tone under happy less tone under desperate, strength {strength:g}: largest for {best['condition']}, "
        f"{best['effect']:+.2f} [{best['low']:+.2f}, {best['high']:+.2f}] (random directions: {best['null_low']:+.2f} "
        f"to {best['null_high']:+.2f}). Outside that interval: {', '.join(above) if above else 'none'} of {len(table)}."
    )
    return StudyResult("steering_conditions", table, sentence)


def by_layer(frame: pd.DataFrame) -> StudyResult:
    """The single blocks of `conditions`, to be drawn."""
    table = frame[frame["condition"].str.fullmatch(r"block \d+")].drop_duplicates("layer")
    options = {"ylabel": "tone, happy less desperate", "title": "Effect of steering, by the block that is steered"}
    return StudyResult("steering_by_layer", table, "The single blocks of the conditions.", "effect_by_layer", options)


def samples(
    model: HookedModel,
    directions: Sequence[Direction],
    strengths: Sequence[float],
    opening: str = OPENINGS[0],
    seed: int = 0,
) -> pd.DataFrame:
    """What is written after one opening, a row for each direction and a column for each strength."""
    cells = [(one, s) for one in directions for s in strengths]
    with steer(model, [one for one, _ in cells], [s for _, s in cells]):
        texts = model.generate(opening, TOKENS, seed=seed)
    table = np.array([" ".join(text.split()) for text in texts]).reshape(len(directions), len(strengths))
    return pd.DataFrame(table, index=[one.name for one in directions], columns=[f"{s:+g}" for s in strengths])
