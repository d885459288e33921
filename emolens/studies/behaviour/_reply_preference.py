"""A case study of two kinds of reply: what the model prefers, what a direction changes, and by which strengths.

Leverage, reward hacking and sycophancy (paper, section 8) are three of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from emolens.judging.rubrics import conversation
from emolens.models.encoding import Text
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Contrast
from emolens.steering.dose_response import cells
from emolens.steering.dose_response import table as dose_table
from emolens.steering.nulls import BY_RANK, LEVEL, Nulls, family_p, null_directions
from emolens.steering.steer import Where
from emolens.studies._common import check_size
from emolens.studies.behaviour._candidate_replies import Candidate, Preference, between, prepare, sensitivity
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

PLACES = ("own", "control")
DOSE = 0.1  # slopes are given per this strength
SEVERAL = 8  # scenarios from which a verdict speaks of more than these
DRAWS = BY_RANK  # null families of each kind behind the slopes; a draw costs a refit, and no pass of the model
SINGLE = BY_RANK  # null directions of each kind whose effect is measured at full strength
CURVED = 8  # scenarios of a curve, at most: its nulls cost passes


@dataclass(frozen=True)
class Pair:
    """The kinds of reply that are compared, and in which scenarios (default all)."""

    favoured: str
    other: str
    scenarios: tuple[str, ...] | None = None


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    rows: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, Pair],
    emotions: Sequence[str],
    *,
    same: Mapping[str, str] | None = None,
    context: Callable[[Mapping[str, Any]], Text] = conversation,
    by_length: bool = False,
    strengths: Sequence[float] = (),
    curves: Sequence[str] | None = None,
    where: Where = "generation",
    layer: int | None = None,
    size: str = "full",
    draws: int = DRAWS,
    nulls: Nulls | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """`baseline` and `first_order` for all pairs; and with strengths `curve: NAME` for each, in "full".

    Args:
        same, context: of `replies.prepare`; by_length: of `replies.between`.
        curves: the pairs whose curves are drawn, default all.
        nulls: of `null_directions` for these emotions, where they are at hand.
        where: what is steered in the curves; the slopes are those of steering the reply.
        size: "full" takes the contexts of all other scenarios as control for the slopes and has `draws` families of
            each null; "quick" takes one other context in turn and has no null. Curves take one in turn, too, and
            `CURVED` scenarios at most.
    """
    check_size(size)
    vectors.check_model(model)
    full = size == "full"
    layer = vectors.default_layer if layer is None else model.check_layer(layer)
    kinds = list(dict.fromkeys(kind for pair in pairs.values() for kind in (pair.favoured, pair.other)))
    directions = [vectors[name] for name in emotions]

    def contrasts(items: Sequence[Candidate], names: Iterable[str]) -> dict[str, Contrast]:
        return {name: between(items, **vars(pairs[name]), by_length=by_length, seed=seed) for name in names}

    items = prepare(model, rows, kinds, None if full else 1, same, context)
    over = contrasts(items, pairs)
    values, gradient = sensitivity(model, items, layer, progress)
    if nulls is None:
        nulls = null_directions(model, vectors, directions, draws, layer, seed) if full else {}
    slopes = first_order(items, gradient, over, directions, layer, nulls)
    found = {"baseline": baselines(items, values, over), "first_order": slopes}
    if full and strengths:
        names = list(pairs if curves is None else curves)
        few = prepare(model, rows[:CURVED], kinds, 1, same, context)
        weights = sum(np.abs(one.point) for one in contrasts(few, names).values())
        few = [item for item, weight in zip(few, weights, strict=True) if weight]
        costs = [context(row) for row in rows[:2]]
        drawn = curve(
            model, few, contrasts(few, names), directions, strengths, nulls, layer, where, costs, seed, progress
        )
        found |= {f"curve: {name}": result for name, result in drawn.items()}
    return found


def baselines(
    items: Sequence[Candidate], values: Float[np.ndarray, "place item"], contrasts: Mapping[str, Contrast]
) -> StudyResult:
    """What the unsteered model prefers: a row for each contrast, in nats per token."""
    rows = []
    for name, over in contrasts.items():
        preferred = values[0] - values[1]
        row = {"contrast": name} | dict(zip(PLACES, over.of(values), strict=True)) | {"preference": over.of(preferred)}
        rows.append(
            row | dict(zip(("low", "high"), over.interval(preferred), strict=True)) | signs(items, over, preferred)
        )
    said = "; ".join(
        f"{row['contrast']}: {row['preference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] (in the own context "
        f"{row['own']:+.3f}, in the control {row['control']:+.3f}; {_count(row)})"
        for row in rows
    )
    return StudyResult("baseline", pd.DataFrame(rows), f"Unsteered log-odds, nats per token. {said}.")


def signs(items: Sequence[Candidate], over: Contrast, values: Float[np.ndarray, "item"]) -> dict[str, Any]:
    """The sign of a contrast in each scenario that counts, in order, and how many there are."""
    scenario = np.array([item.scenario for item in items])
    each = [(over.point * values)[scenario == name].sum() for name in dict.fromkeys(scenario[over.point != 0])]
    return {"signs": "".join("+" if value > 0 else "-" for value in each), "scenarios": len(each)}


def _count(row: Mapping[str, Any]) -> str:
    return f"above 0 in {row['signs'].count('+')} of {row['scenarios']} scenarios"


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
        the `own` context and in the `control` (the effect is the difference); the sign in each scenario; where 95 % of
        single null directions lie, `p_{kind}` of its size against the largest of each null family; the `verdict`; and
        `own_verdict`, what the same test would say of the own context without a control.
    """

    def along(family: Sequence[Direction]) -> np.ndarray:  # [place direction item]
        return DOSE * np.einsum("pid,nd->pni", gradient, np.stack([_step(one, layer) for one in family]))

    drawn = {kind: np.stack([along(family) for family in draws]) for kind, draws in (nulls or {}).items()}
    parts = along(directions)
    effects = parts[0] - parts[1]
    rows = []
    for name, over in contrasts.items():
        placed = {kind: over.of(x) for kind, x in drawn.items()}  # [draw place direction]
        null = {kind: x[:, 0] - x[:, 1] for kind, x in placed.items()}
        lows, highs = over.interval(effects)
        for number, one in enumerate(directions):
            effect, (own, control) = float(over.of(effects[number])), over.of(parts[:, number])
            row = {"contrast": name, "direction": one.name, "layer": layer, "effect": effect}
            row |= {"low": lows[number], "high": highs[number]} | signs(items, over, effects[number])
            row |= {"own": own, "control": control}
            for kind, x in null.items():
                low, high = np.quantile(x, [LEVEL / 2, 1 - LEVEL / 2])
                row |= {f"{kind}_low": low, f"{kind}_high": high}
            p, alone = _ps(effect, null), _ps(own, {kind: x[:, 0] for kind, x in placed.items()})
            rows.append(row | p | {"verdict": _called(p), "own_verdict": _called(alone)})
    frame = pd.DataFrame(rows)
    return StudyResult("first_order", frame, verdict_of(frame), "effect_dots")


def _ps(effect: float, null: Mapping[str, np.ndarray]) -> dict[str, float]:
    """p of an effect's size against the largest of each family [draw direction], by kind."""
    return {f"p_{kind}": family_p(abs(effect), np.abs(x).max(axis=1)) for kind, x in null.items()}


def _called(p: Mapping[str, float]) -> str:
    return "no null" if not p else "above the null" if max(p.values()) <= LEVEL else "inside the null"


def _step(one: Direction, layer: int) -> Float[np.ndarray, "d_model"]:
    """What steering adds at strength 1."""
    return (one.residual_norm[one.layers.index(layer)] * one.at(layer)).double().numpy()


def verdict_of(frame: pd.DataFrame) -> str:
    """The table of `first_order` in words."""
    said = []
    kinds = [column.removeprefix("p_") for column in frame if column.startswith("p_")]
    for name, part in frame.groupby("contrast", sort=False):
        few = f"In these {part['scenarios'].iloc[0]} scenarios, " if part["scenarios"].iloc[0] < SEVERAL else ""
        each = []
        for row in part.to_dict("records"):
            p = ", ".join(f"p = {row[f'p_{kind}']:.3f} against {kind}" for kind in kinds)
            each.append(
                f"{row['direction']} {row['effect']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], {_count(row)}, "
                f"{row['verdict']}{f' ({p})' if p else ''}"
            )
        alone = ", ".join(part.loc[part["own_verdict"] == "above the null", "direction"]) or "none"
        without = f"; without the control, above the null: {alone}" if kinds else ""
        said.append(f"{few}{name}: {'; '.join(each)}{without}")
    at = f"for a strength of {DOSE:g} at block {frame['layer'].iloc[0]}"
    return f"Change of the log-odds in nats per token {at}, to first order. {'. '.join(said)}."


def curve(
    model: HookedModel,
    items: Sequence[Candidate],
    contrasts: Mapping[str, Contrast],
    directions: Sequence[Direction],
    strengths: Sequence[float],
    nulls: Nulls,
    layer: int,
    where: Where = "generation",
    cost_prompts: Sequence[Text] = (),
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """The dose-response of each contrast, all from the same passes, beside what the slope at strength 0 foretells.

    A direction that means nothing has no sign, so the single nulls of each kind are run at the largest strength
    with either sign in turn, and their spread holds for both.

    Returns:
        Tables as of `dose_response`, without a test, which is that of the slopes: `linear` is the slope times the
        strength; where 95 % of single nulls lie stands in the rows of the largest strength.
    """
    _, gradient = sensitivity(model, items, layer, progress)
    slopes = first_order(items, gradient, contrasts, directions, layer).table()
    top = max(map(abs, strengths))
    options: dict[str, Any] = {"layers": layer, "where": where, "rows_at_once": 32, "seed": seed, "progress": progress}
    found = cells(model, Preference(where), items, directions, strengths, cost_prompts=cost_prompts, **options)
    drawn = {
        kind: [one if n % 2 else -one for n, one in enumerate(islice(chain.from_iterable(draws), SINGLE))]
        for kind, draws in nulls.items()
    }
    spread = {
        kind: cells(model, Preference(where), items, some, [top], **options).effects[:, 0]
        for kind, some in drawn.items()
    }
    out = {}
    for name, over in contrasts.items():
        frame = dose_table(found, over).drop(columns=["slope", "slope_low", "slope_high", "verdict"])
        at = slopes[slopes["contrast"] == name].set_index("direction").loc[frame["direction"]]
        frame["linear"] = at["effect"].to_numpy() * frame["strength"].to_numpy() / DOSE
        for kind, x in spread.items():
            band = np.quantile(over.of(x), [LEVEL / 2, 1 - LEVEL / 2])
            ends = np.where(frame["strength"].abs().eq(top).to_numpy()[:, None], band, np.nan)
            frame[f"{kind}_low"], frame[f"{kind}_high"] = ends.T
        said = _bent(frame, name, int(at["scenarios"].iloc[0]))
        if drawn:
            linear = [
                top * over.of((gradient[0] - gradient[1]) @ _step(one, layer))
                for some in drawn.values()
                for one in some
            ]
            r = np.corrcoef(linear, over.of(np.concatenate(list(spread.values()))))[0, 1]
            said += f" For {len(linear)} null directions at {top:g}: r = {r:.3f}."
        options_of = {"ylabel": f"{name}\nlog-odds, nats per token", "title": "Effect of steering, by strength"}
        out[name] = StudyResult("dose_response", frame, said, "dose_response", options_of)
    return out


def _bent(frame: pd.DataFrame, name: str, scenarios: int) -> str:
    """The largest change, where the curve leaves both bands, and how it follows its slope at 0."""
    kinds = [str(column).removesuffix("_low") for column in frame if str(column).endswith("_low")]
    tested = frame.dropna(subset=[f"{kind}_low" for kind in kinds])
    outside = np.ones(len(tested), dtype=bool)
    for kind in kinds:
        outside &= ~tested["effect"].between(tested[f"{kind}_low"], tested[f"{kind}_high"])
    named = ", ".join(f"{row.direction} {row.strength:+g}" for row in tested[outside].itertuples())
    r = np.corrcoef(frame["effect"], frame["linear"])[0, 1]
    most = frame.loc[frame["effect"].abs().idxmax()]
    few = f"In these {scenarios} scenarios, " if scenarios < SEVERAL else ""
    return (
        f"{few}{name}: the largest change is {most['effect']:+.3f} [{most['low']:+.3f}, {most['high']:+.3f}] nats per "
        f"token, under {most['direction']} {most['strength']:+g}. "
        + (f"Outside 95% of single nulls of both kinds: {named or 'none'} of {len(tested)} cells. " if kinds else "")
        + f"All {len(frame)} changes and what the slopes at 0 foretell correlate at r = {r:.3f}."
    )
