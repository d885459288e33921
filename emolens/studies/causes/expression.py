"""Does a steered model write what it is steered towards? Read by others than itself, with what it costs (section 8)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models.model import HookedModel
from emolens.reading.read import read
from emolens.results import StudyResult
from emolens.stats import LEVEL, bootstrap_mean, null_columns
from emolens.steering.dose_response import Doses, dose_response
from emolens.steering.measures import Measure, coherence, expressed
from emolens.steering.nulls import FEWEST, Nulls, null_directions, random_directions
from emolens.steering.steer import Where, steer
from emolens.studies._common import check_size, emotions_of, other_embedded
from emolens.studies.reading.documents import vader
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("calm", "desperate", "angry", "happy", "afraid", "loving")
POLES = ("happy", "desperate")  # whose difference in tone the conditions compare
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


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    other: tuple[HookedModel, EmotionVectors] | None = None,
    emotions: Sequence[str] = EMOTIONS,
    poles: tuple[str, str] = POLES,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """Dose-response of the expressed emotion, what it costs, and which way of steering expresses most.

    Args:
        size: "full" has ten families of each kind of null; "quick" two of the strengths, four openings, no null, and
            "tone" alone, or with `other` "emotion" too.
        other: another model with its vectors, which reads what is written. In "full" of an embedded model the other
            embedded one; where there is none, there is no "emotion".
        emotions: that are steered towards, of those that the vectors have.
        poles: two emotions whose difference in tone "conditions" looks at.

    Returns:
        "tone" (VADER's score of what is written) and "emotion" (read by `other`), as of `dose_response`; "unsteered",
        the costs without steering; "window", the strengths with an effect and coherent text; "conditions" and
        "by_layer", where steering acts most.

    Raises:
        NotForThisModel: vectors without two of the emotions, or in "full" without the poles.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    directions = [vectors[name] for name in emotions_of(vectors, emotions)]
    if size == "full":
        other, _ = other or other_embedded(model), emotions_of(vectors, poles)
    results = written(model, vectors, directions, size, other, seed, progress)
    if size == "full":
        results["unsteered"] = unsteered(model, seed)
        perplexity = results["unsteered"].table()["perplexity_own"].item()
        results["window"] = window(results["tone"], perplexity)
        results["conditions"] = conditions(model, vectors, poles, seed=seed)
        results["by_layer"] = by_layer(results["conditions"].table())
    return results


def written(
    model: HookedModel,
    vectors: EmotionVectors,
    directions: Sequence[Direction],
    size: str = "full",
    other: tuple[HookedModel, EmotionVectors] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """Dose-response of "tone", and with `other` of "emotion", on the same texts."""
    full, texts = size == "full", Written(seed=seed)
    openings, strengths = (OPENINGS, STRENGTHS) if full else (OPENINGS[:4], (-0.15, 0.15))
    nulls = null_directions(model, vectors, directions, FEWEST, seed=seed) if full else Nulls()
    doses = Doses(directions, strengths, nulls)
    options: dict[str, Any] = {"seed": seed, "progress": progress}
    costs: dict[str, Any] = {"cost_prompts": openings} if full else {}
    unit = "VADER's compound score"
    results = {"tone": dose_response(model, tone(texts), openings, doses, unit=unit, **costs, **options)}
    if other:
        measure, unit = read_by_other(texts, *other), "score by the other model"
        result = dose_response(model, measure, openings, doses, unit=unit, **options)
        title = {"title": f"Effect of steering, read by {other[0].name}"}
        results["emotion"] = replace(result, options=result.options | title)
    return results


class Written:
    """What a model writes under the steering in force. Kept, so that several measures read the same texts.

    >>> texts = Written(max_new_tokens=3)
    >>> texts(model, "he was") is texts(model, "he was")
    True
    """

    def __init__(self, max_new_tokens: int = TOKENS, seed: int = 0) -> None:
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.kept: dict[Any, list[str]] = {}

    def __call__(self, model: HookedModel, prompt: str) -> list[str]:
        under = [
            (s.layers, s.mode, s.operator, str(s.where), s.values.numpy().tobytes(), s.target.numpy().tobytes())
            for s in model.steering
        ]
        key = (model.fingerprint, prompt, *under)
        if key not in self.kept:
            self.kept[key] = model.generate([prompt] * model.rows, self.max_new_tokens, seed=self.seed)
        return self.kept[key]


def tone(texts: Any) -> Measure:
    """VADER's compound score of what is written, from -1 to 1.

    >>> tone(lambda model, prompt: ["What a wonderful day!"])(model, "he was").item() > 0.5
    True
    """
    return lambda model, prompt: torch.from_numpy(vader(texts(model, prompt))).float()


def read_by_other(texts: Any, other: HookedModel, vectors: EmotionVectors) -> Measure:
    """The score, by another model's vectors, of the emotion that each row is steered towards."""
    layer = vectors.chosen_layer("denoised")

    def measure(model: HookedModel, prompt: str) -> Float[Tensor, "row"]:
        lines = [text if text.strip() else "nothing" for text in texts(model, prompt)]
        scores = read(other, lines, vectors, layer, "document").scores
        return scores[torch.arange(len(lines)), [vectors.index(name) for name in model.steering[-1].names]]

    return measure


def unsteered(model: HookedModel, seed: int = 0) -> StudyResult:
    """What the costs are without any steering.

    >>> unsteered(model).table().columns.tolist()
    ['perplexity_own', 'perplexity_neutral', 'repeated', 'length']
    """
    costs = {name: float(value) for name, value in coherence(model, OPENINGS, seed=seed)(model).items()}
    frame = pd.DataFrame([costs])
    return StudyResult("unsteered", frame, unsteered_headline(frame), "none: what the steered texts are compared with")


def unsteered_headline(frame: pd.DataFrame) -> str:
    """The perplexity of what the model writes, and what it repeats.

    >>> unsteered_headline(pd.DataFrame([{"perplexity_own": 7.04, "repeated": 0.03}]))
    'Unsteered, the text that the model writes has for itself a perplexity of 7.0, and 3% of its 3-grams are repeated.'
    """
    row = frame.iloc[0]
    return (
        f"Unsteered, the text that the model writes has for itself a perplexity of {row['perplexity_own']:.1f}, and "
        f"{row['repeated']:.0%} of its 3-grams are repeated."
    )


def window(result: StudyResult, unsteered: float) -> StudyResult:
    """For each direction the strengths at which its effect lies outside all nulls while the text is still coherent.

    Args:
        result: "tone" of `run`, with nulls and costs.
        unsteered: the perplexity of the unsteered text without steering.

    Raises:
        ValueError: a result without nulls.
    """
    frame, kinds = result.table(), result.options["nulls"]
    if not kinds:
        raise ValueError("these effects were measured without nulls: run the study in full")
    ends = [null_columns(kind)[:2] for kind in kinds]
    outside = np.logical_and.reduce([~frame["effect"].between(frame[low], frame[high]) for low, high in ends])
    table = frame[["direction", "strength", "effect", "perplexity_own"]].assign(
        outside=outside, coherent=frame["perplexity_own"] <= COHERENT * unsteered
    )
    null = (
        f"95% of single nulls of each kind ({', '.join(kinds)}), which single cells leave by chance one in twenty times"
    )
    return StudyResult("window", table, window_headline(table), null)


def window_headline(frame: pd.DataFrame) -> str:
    """In how many cells there is an effect and coherent text.

    >>> frame = pd.DataFrame({"direction": ["calm", "sad"], "outside": [True, True], "coherent": [True, False]})
    >>> window_headline(frame)
    'In 1 of 2 cells the effect lies outside 95% of single nulls while the text stays coherent (calm); by chance it
    would in one of twenty.'
    """
    both = frame[frame["outside"].astype(bool) & frame["coherent"].astype(bool)]
    named = f" ({', '.join(dict.fromkeys(both['direction']))})" if len(both) else ""
    return (
        f"In {len(both)} of {len(frame)} cells the effect lies outside 95% of single nulls while the text stays "
        f"coherent{named}; by chance it would in one of twenty."
    )


def conditions(
    model: HookedModel,
    vectors: EmotionVectors,
    poles: tuple[str, str] = POLES,
    strength: float = 0.1,
    draws: int = FEWEST,
    seed: int = 0,
) -> StudyResult:
    """How far apart two emotions bring the tone, by block, with several blocks, while reading or writing.

    `effect` is the tone under the first less that under the second, a mean over the openings; `null_low` to `null_high`
    is the t prediction interval of that between two random directions, widened for the number of conditions, and `p`
    is corrected for it too.

    Raises:
        NotForThisModel: vectors without these two emotions.
    """
    first, second = (vectors[name] for name in emotions_of(vectors, poles))
    random = random_directions(first, 2 * draws, seed)
    rows, null = [], []
    for name, much, layers, where in _cells(model, vectors, strength):
        with steer(model, [first, second, *random], much, layers, where):
            tones = torch.stack([expressed(vader, TOKENS, seed=seed)(model, one) for one in OPENINGS], dim=1).numpy()
        gaps = tones[0::2] - tones[1::2]
        low, high = bootstrap_mean(gaps[0], seed=seed)
        null.append(gaps[1:].mean(axis=1))
        row = {"condition": name, "layer": layers if isinstance(layers, int) else vectors.default_layer}
        rows.append(row | {"effect": gaps[0].mean(), "low": low, "high": high})
    table = pd.DataFrame(rows)
    nulls = Nulls().measured({"random": np.stack(null, axis=1)})
    # So wide that by chance any of the cells lies outside in one of twenty studies.
    table["null_low"], table["null_high"] = nulls.band(1 - LEVEL / len(table))["random"]
    table["p"], table["verdict"] = nulls.p(table["effect"])["random"], nulls.verdict(table["effect"])
    said = f"{draws} pairs of random directions, corrected for {len(table)} conditions"
    return StudyResult("steering_conditions", table, conditions_headline(table), said)


def conditions_headline(frame: pd.DataFrame, what: str = "conditions") -> str:
    """The condition that brings the tones of the two emotions furthest apart.

    >>> conditions_headline(pd.DataFrame({"condition": ["block 3"], "effect": [0.4], "verdict": "inside the null"}))
    'Of 1 conditions, "block 3" brings the tone of the two emotions furthest apart, by +0.40 (inside the null).'
    """
    best = frame.loc[frame["effect"].idxmax()]
    return (
        f'Of {len(frame)} {what}, "{best["condition"]}" brings the tone of the two emotions furthest apart, by '
        f"{best['effect']:+.2f} ({best['verdict']})."
    )


def by_layer(frame: pd.DataFrame) -> StudyResult:
    """The single blocks of `conditions`, to be drawn.

    >>> row = {"effect": 0.4, "low": 0.1, "high": 0.6, "null_low": -0.5, "null_high": 0.5, "verdict": "no null"}
    >>> by_layer(pd.DataFrame([{"condition": "block 3", "layer": 3} | row])).headline()
    'Of 1 single blocks, "block 3" brings the tone of the two emotions furthest apart, by +0.40 (no null).'
    """
    table = frame[frame["condition"].str.fullmatch(r"block \d+")].drop_duplicates("layer")
    sentence = conditions_headline(table, "single blocks")
    options = {"ylabel": "difference of the tone", "title": "Effect of steering, by the block that is steered"}
    null = "pairs of random directions, corrected for all conditions"
    return StudyResult("steering_by_layer", table, sentence, null, "effect_by_layer", options)


def _cells(
    model: HookedModel, vectors: EmotionVectors, strength: float
) -> list[tuple[str, float, int | list[int], Where]]:
    """Name, strength, blocks and place of each condition."""
    layer, n = vectors.default_layer, model.n_layers
    five = [block for block in range(layer - 4, layer + 5, 2) if block in vectors.layers]
    cells: list[tuple[str, float, int | list[int], Where]] = [
        (f"block {block}", strength, block, "all") for block in range(1, n, max(1, n // 6)) if block in vectors.layers
    ]
    cells += [(f"block {layer} while {doing}", strength, layer, where) for doing, where in
              (("reading", "prompt"), ("writing", "generation"), ("reading and writing", "all"))]  # fmt: skip
    cells += [(f"{len(five)} blocks, {strength:g} each", strength, five, "all"),
              (f"{len(five)} blocks, {strength / len(five):g} each", strength / len(five), five, "all")]  # fmt: skip
    return cells


def samples(
    model: HookedModel,
    directions: Sequence[Direction],
    strengths: Sequence[float],
    opening: str = OPENINGS[0],
    seed: int = 0,
) -> pd.DataFrame:
    """What is written after one opening, a row for each direction and a column for each strength.

    Every text is written with the same random numbers, so that at strength 0 all are alike.

    >>> table = samples(model, [vectors["calm"], vectors["sad"]], [0, 0.1], "he was")
    >>> table.shape, table["+0"].nunique()
    ((2, 2), 1)
    """
    cells = [(direction, s) for direction in directions for s in strengths]
    with steer(model, [direction for direction, _ in cells], [s for _, s in cells]):
        texts = model.generate([opening] * len(cells), TOKENS, seed=[seed] * len(cells))
    table = np.array([" ".join(text.split()) for text in texts]).reshape(len(directions), len(strengths))
    return pd.DataFrame(
        table, index=[direction.name for direction in directions], columns=[f"{s:+g}" for s in strengths]
    )
