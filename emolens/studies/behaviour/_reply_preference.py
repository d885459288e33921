"""A case study of two kinds of reply: what the model prefers, which emotions change that, and by which strengths.

Leverage, reward hacking, sycophancy (paper, section 8) and refusal are four of them. What is asked first is whether the
slopes of all emotions follow human valence (`studies._alignment`). The block, the control and the scale of that
question stand in the code of each study.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from emolens.judging.rubrics import conversation
from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.results import StudyResult
from emolens.stats import BY_RANK, LEVEL, Contrast, Verdict
from emolens.steering.dose_response import Doses, cells
from emolens.steering.dose_response import table as dose_table
from emolens.steering.nulls import Nulls, null_columns, null_directions
from emolens.steering.steer import Where
from emolens.studies._alignment import Gradients, align, ratings_of, results, unmeasurable
from emolens.studies._common import check_size, rating_weights
from emolens.studies.behaviour._candidate_replies import (
    OTHERS,
    OWN,
    Candidate,
    Preference,
    between,
    less_controls,
    prepare,
    reply_gradients,
)
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.shuffled_refits import shuffled_refits

DOSE = 0.1  # slopes are given per this strength
DRAWS = BY_RANK  # null families of each kind behind the slopes; a draw costs a refit, and no pass of the model
SINGLE = BY_RANK  # null directions of each kind whose effect is measured at full strength
CURVED = 4  # scenarios of a curve, at most, and emotions that get one: each null direction is run on all scenarios
FEW = 8  # scenarios, below which a headline says how few they are


@dataclass(frozen=True)
class Pair:
    """The kinds of reply that are compared, and in which scenarios (default all)."""

    favoured: str
    other: str
    scenarios: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Case:
    """What a case study asks.

    Attributes:
        rows: the scenarios, with their replies.
        pairs: the kinds of reply that are compared, by name; the first is the main one.
        emotions: that are tried one by one, and marked among all.
        control: the one of the headline, by name (`_candidate_replies`); the others stand beside it.
        most: other scenarios that are a control, default all.
        strengths: of the curves; none, no curves. `curves` names the pairs that get one, default all.
        context, twins: of `prepare`; by_length: of `between`.
        where: what is steered in the curves; the slopes are those of steering the reply.
        layer: the steered block; default the vectors' default one.
    """

    rows: Sequence[Mapping[str, Any]]
    pairs: Mapping[str, Pair]
    emotions: Sequence[str]
    strengths: Sequence[float] = ()
    curves: Sequence[str] | None = None
    context: Callable[[Mapping[str, Any]], Text] = conversation
    twins: Mapping[str, Mapping[str, Any]] | None = None
    control: str = OTHERS
    most: int | None = None
    by_length: bool = False
    where: Where = "generation"
    layer: int | None = None

    def contrasts(self, items: Sequence[Candidate], names: Iterable[str], seed: int) -> dict[str, Contrast]:
        """The pairs of these names as contrasts over the replies."""
        return {name: between(items, **vars(self.pairs[name]), by_length=self.by_length, seed=seed) for name in names}

    def items(self, model: HookedModel, rows: Sequence[Mapping[str, Any]], others: int | None) -> list[Candidate]:
        """The replies of all kinds that are compared, to some of the scenarios."""
        kinds = dict.fromkeys(kind for pair in self.pairs.values() for kind in (pair.favoured, pair.other))
        return prepare(model, rows, list(kinds), others, self.twins, self.context)


def measure(
    model: HookedModel,
    vectors: EmotionVectors,
    case: Case,
    size: str = "full",
    draws: int = DRAWS,
    nulls: Nulls | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """`baseline`, what `_alignment.results` gives, and `first_order`; in "full" with strengths `curve: NAME`, too.

    Args:
        size: "full" takes the contexts of all other scenarios as one control, looks at all blocks, and has `draws`
            families of each null for single emotions; "quick" takes one other context in turn, looks at the default
            block, and tests no single emotion. Curves take one in turn, too, and `CURVED` scenarios at most.
        nulls: of `null_directions` for these emotions, where they are at hand.
    """
    check_size(size)
    vectors.check_model(model)
    full = size == "full"
    layer = vectors.default_layer if case.layer is None else model.check_layer(case.layer)
    directions = [vectors[name] for name in case.emotions]
    items = case.items(model, case.rows, case.most if full else 1)
    over = case.contrasts(items, case.pairs, seed)
    layers = sorted({layer, vectors.default_layer, *(vectors.layers if full else ())})
    values, slopes = reply_gradients(model, items, layers, progress)
    if nulls is None:
        nulls = null_directions(model, vectors, directions, draws, layer, seed) if full else Nulls()
    at = np.stack([slopes[name][:, layers.index(layer)] for name in (OWN, case.control)]).astype(float)
    found = {"baseline": baselines(items, values, over, case.control)}
    known = [row for row, at_layer in enumerate(layers) if at_layer in vectors.layers]
    controls = {name: x[:, known] for name, x in less_controls(slopes, case.control).items()}
    scenarios = tuple(item.scenario for item in items)
    gradients = Gradients(tuple(layers[row] for row in known), controls, scenarios, over)
    found |= along_all(model, vectors, gradients, case.emotions, full, seed)
    found["first_order"] = first_order(items, at, over, directions, layer, nulls)
    if full and case.strengths:
        curves = curve(model, vectors, case, nulls, seed, progress)
        found |= {f"curve: {name}": result for name, result in curves.items()}
    return found


def along_all(
    model: HookedModel,
    vectors: EmotionVectors,
    gradients: Gradients,
    marked: Sequence[str],
    full: bool,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Whether the slopes of all emotions follow human ratings, in each control and block (`_alignment.results`).

    Sets with shuffled labels are a null of the full size alone: they need the stories' activations.
    """
    try:
        ratings_of(vectors.emotions)
        refits = shuffled_refits(model, vectors, seed=seed) if full else None
    except ValueError as reason:
        return unmeasurable(str(reason))
    found = align(gradients, vectors, refits, marked=marked, seed=seed)
    return results(found, "slope (nats per token for a strength of 0.1)")


def baselines(
    items: Sequence[Candidate],
    values: Mapping[str, Float[np.ndarray, "item"]],
    contrasts: Mapping[str, Contrast],
    control: str = OTHERS,
) -> StudyResult:
    """What the unsteered model prefers: a row for each contrast, in nats per token.

    The preference is that of the own context less `control`; beside it stands what each context gives by itself.
    """
    rows = []
    for name, over in contrasts.items():
        preferred = values[OWN] - values[control]
        row = {"contrast": name} | {context: over.of(x) for context, x in values.items()}
        row |= {"control": control, "preference": over.of(preferred)}
        row |= dict(zip(("low", "high"), over.interval(preferred), strict=True))
        rows.append(row | signs(items, over, preferred))
    frame = pd.DataFrame(rows)
    null = "none: a preference is compared with 0 by its interval over scenarios"
    return StudyResult("baseline", frame, baseline_headline(frame), null)


def baseline_headline(frame: pd.DataFrame) -> str:
    """The first contrast, with its interval."""
    row = frame.iloc[0]
    sure = "prefers" if row["low"] > 0 else "disprefers" if row["high"] < 0 else "neither prefers nor disprefers"
    return (
        f"Unsteered, the model {sure} {row['contrast'].replace(' over ', ' to ')} replies: {row['preference']:+.2f} "
        f"[{row['low']:+.2f}, {row['high']:+.2f}] nats per token."
    )


def signs(items: Sequence[Candidate], over: Contrast, values: Float[np.ndarray, "item"]) -> dict[str, Any]:
    """The sign of a contrast in each scenario that counts, in order, and how many there are."""
    scenario = np.array([item.scenario for item in items])
    sums = [(over.point * values)[scenario == name].sum() for name in dict.fromkeys(scenario[over.point != 0])]
    return {"signs": "".join("+" if value > 0 else "-" for value in sums), "scenarios": len(sums)}


def first_order(
    items: Sequence[Candidate],
    gradient: Float[np.ndarray, "place item d_model"],
    contrasts: Mapping[str, Contrast],
    directions: Sequence[Direction],
    layer: int,
    nulls: Nulls | None = None,
) -> StudyResult:
    """Effect of a small strength of each direction on each preference, with both nulls.

    Returns:
        A row for each contrast and direction: `effect` in nats per token for a strength of 0.1, with its interval, in
        the `own` context and in the `control` (the effect is the difference); the sign in each scenario; what
        `Nulls.columns` says of the effect, each emotion being one of a family; and `own_verdict`, what the same test
        would say of the own context without a control.
    """
    nulls = nulls or Nulls()

    def along(family: Sequence[Direction]) -> np.ndarray:  # [place direction item]
        return DOSE * np.einsum("pid,nd->pni", gradient, np.stack([_step(one, layer) for one in family]))

    drawn = {kind: np.stack([along(family) for family in draws]) for kind, draws in nulls.families.items()}
    placed = along(directions)
    effects = placed[0] - placed[1]
    rows = []
    for name, over in contrasts.items():
        null = {kind: over.of(x) for kind, x in drawn.items()}  # [draw place direction]
        observed, (own, control), (lows, highs) = over.of(effects), over.of(placed), over.interval(effects)
        held = nulls.measured({kind: x[:, 0] - x[:, 1] for kind, x in null.items()}).columns(observed)
        alone = nulls.measured({kind: x[:, 0] for kind, x in null.items()}).verdict(own)
        for number, direction in enumerate(directions):
            row = {"contrast": name, "direction": direction.name, "layer": layer, "effect": observed[number]}
            row |= {"low": lows[number], "high": highs[number]} | signs(items, over, effects[number])
            row |= {"own": own[number], "control": control[number]}
            row |= {column: values[number] for column, values in held.items()}
            rows.append(row | {"own_verdict": alone[number]})
    frame = pd.DataFrame(rows)
    options = {"nulls": list(nulls.kinds)}
    return StudyResult("first_order", frame, first_order_headline(frame), null_of(nulls), "effect_dots", options)


def null_of(nulls: Nulls) -> str:
    """What the effects are held against, in words."""
    if not nulls:
        return 'none: "quick" refits nothing'
    draws = max(map(len, nulls.families.values()))
    return (
        f"{draws} families of {' and of '.join(nulls.kinds)} directions; distances from their centre, furthest of each"
    )


def _step(direction: Direction, layer: int) -> Float[np.ndarray, "d_model"]:
    """What steering adds at strength 1."""
    return (direction.residual_norm[direction.layers.index(layer)] * direction.at(layer)).double().numpy()


def first_order_headline(frame: pd.DataFrame) -> str:
    """Which directions change the main contrast beyond both nulls."""
    contrast = frame["contrast"].iloc[0]
    part = frame[frame["contrast"] == contrast]
    few = f"In these {part['scenarios'].iloc[0]} scenarios, " if part["scenarios"].iloc[0] < FEW else ""
    most = part.loc[part["effect"].abs().idxmax()]
    most_words = f"{most['direction']} moves {contrast} most, by {most['effect']:+.4f} nats per token"
    if part["verdict"].eq(Verdict.NO_NULL).all():
        return f"{few}{most_words}; there is no null to hold it against."
    beyond = list(part.loc[part["verdict"] == Verdict.BEYOND, "direction"])
    return f"{few}{most_words}; beyond both nulls: {', '.join(beyond[:3]) or 'none'} of {len(part)} emotions."


def curve(
    model: HookedModel, vectors: EmotionVectors, case: Case, nulls: Nulls, seed: int = 0, progress: bool = True
) -> dict[str, StudyResult]:
    """The dose-response of each contrast, all from the same passes, beside what the slope at strength 0 foretells.

    The directions are those of the case and the axis of valence: the mean of pleasant less unpleasant vectors. A
    direction that means nothing has no sign, so the single nulls of each kind are run at the largest strength with
    either sign in turn, and their spread holds for both.

    Returns:
        Tables as of `dose_response`, without a test, which is that of the slopes: `linear` is the slope times the
        strength; where 95 % of single nulls lie stands in the rows of the largest strength.
    """
    layer = vectors.default_layer if case.layer is None else model.check_layer(case.layer)
    directions = [*(vectors[name] for name in case.emotions[:CURVED]), *axis_of_valence(vectors)]
    names = list(case.pairs if case.curves is None else case.curves)
    items = case.items(model, case.rows[:CURVED], 1)
    counted = sum(np.abs(over.point) for over in case.contrasts(items, names, seed).values())
    items = [item for item, weight in zip(items, counted, strict=True) if weight]
    contrasts = case.contrasts(items, names, seed)
    _, at = reply_gradients(model, items, [layer], progress)
    gradient = np.stack([at[OWN][:, 0], at[case.control][:, 0]]).astype(float)
    slopes = first_order(items, gradient, contrasts, directions, layer).table()
    top = max(map(abs, case.strengths))
    options: dict[str, Any] = {"rows_at_once": 32, "seed": seed, "progress": progress}
    looked_at = Doses(directions, case.strengths, layers=layer, where=case.where)
    costs = [case.context(row) for row in case.rows[:2]]
    preference = Preference(case.where, case.control)
    measured = cells(model, preference, items, looked_at, cost_prompts=costs, **options)
    drawn = {kind: _signed(draws) for kind, draws in nulls.families.items()}
    spread = {}  # [direction item]
    for kind, family in drawn.items():
        single = Doses(family, [top], layers=layer, where=case.where)
        spread[kind] = cells(model, preference, items, single, **options).effects[:, 0]
    linear = {
        kind: [(gradient[0] - gradient[1]) @ _step(one, layer) for one in family] for kind, family in drawn.items()
    }
    found = {}
    for name, over in contrasts.items():
        frame = dose_table(measured, over).drop(columns=["slope", "slope_low", "slope_high", "verdict"])
        at = slopes[slopes["contrast"] == name].set_index("direction").loc[frame["direction"]]
        frame["linear"] = at["effect"].to_numpy() * frame["strength"].to_numpy() / DOSE
        frame["scenarios"] = at["scenarios"].to_numpy()
        frame = _with_single_nulls(frame, over, top, spread, linear)
        null = f"{SINGLE} single directions of each kind ({', '.join(drawn)}) at strength {top:g}" if drawn else "none"
        figure: dict[str, Any] = {"ylabel": f"{name}\nlog-odds, nats per token", "nulls": list(drawn)}
        figure["title"] = "Effect of steering, by strength"
        sentence = curve_headline(frame, name, list(drawn))
        found[name] = StudyResult("dose_response", frame, sentence, null, "dose_response", figure)
    return found


def _with_single_nulls(
    frame: pd.DataFrame,
    over: Contrast,
    top: float,
    spread: Mapping[str, Float[np.ndarray, "direction item"]],
    linear: Mapping[str, Sequence[Float[np.ndarray, "item"]]],
) -> pd.DataFrame:
    """A curve's table with the band of each kind of null at the largest strength, and how well slopes foretell them."""
    strongest = frame["strength"].abs().eq(top).to_numpy()[:, None]
    for kind, effects in spread.items():
        low, high, _ = null_columns(kind)
        ends = np.where(strongest, np.quantile(over.of(effects), [LEVEL / 2, 1 - LEVEL / 2]), np.nan)
        frame[low], frame[high] = ends.T
        foretold = top * np.array([over.of(effect) for effect in linear[kind]])
        frame[f"{kind}_r"] = np.corrcoef(foretold, over.of(effects))[0, 1]
    return frame


def axis_of_valence(vectors: EmotionVectors) -> list[Direction]:
    """The mean of the pleasant less that of the unpleasant vectors, of length 1; none for too few rated emotions."""
    weights = rating_weights(vectors.emotions, middle=5.0)
    if not (weights > 0).any() or not (weights < 0).any():
        return []
    units = torch.stack([vectors.matrix(layer) for layer in vectors.layers], dim=1)
    axis = torch.einsum("e,eld->ld", weights, units)
    return [Direction.from_tensor(axis, vectors.layers, vectors, "axis of valence")]


def _signed(draws: Sequence[Sequence[Direction]]) -> list[Direction]:
    """Single directions that mean nothing, with either sign in turn."""
    return [one if n % 2 else -one for n, one in enumerate(islice(chain.from_iterable(draws), SINGLE))]


def curve_headline(frame: pd.DataFrame, name: str, kinds: Sequence[str]) -> str:
    """The largest change, and how many cells lie outside the bands of single nulls."""
    most = frame.loc[frame["effect"].abs().idxmax()]
    change = f"{name}: the largest change is {most['effect']:+.3f} nats per token, under {most['direction']} "
    if not kinds:
        return f"{change}at {most['strength']:+g}; there is no null to hold it against."
    tested = frame.dropna(subset=[null_columns(kind)[0] for kind in kinds])
    outside = np.logical_and.reduce(
        [~tested["effect"].between(*(tested[end] for end in null_columns(kind)[:2])) for kind in kinds]
    )
    counted = f"{int(outside.sum())} of {len(tested)} cells lie outside the bands of single nulls"
    return f"{change}at {most['strength']:+g}; {counted}."
