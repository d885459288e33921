"""What the studies of behaviour share: many replies under many steerings, and how often they are of one kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emolens.judging.judge import Judge
from emolens.judging.kappa import INVALID
from emolens.models.generation import Reply, replies
from emolens.models.model import HookedModel
from emolens.models.texts import Message
from emolens.results import StudyResult
from emolens.stats import Verdict, bootstrap_draws, wilson
from emolens.steering.dose_response import Doses
from emolens.steering.steer import steer
from emolens.vectors.direction import Direction

Replier = Callable[[Sequence[Message]], str | Reply]  # such as a model behind an interface, which samples anew
ROWS_AT_ONCE = 32  # each holds the keys and values of its own conversation


class Cell(NamedTuple):
    """One steering: a direction without coefficient and its strength, or none."""

    direction: Direction | None = None
    strength: float = 0.0


UNSTEERED = (Cell(),)
Sample = Callable[[Sequence[Mapping[str, Any]], Sequence[Cell]], pd.DataFrame]


def answers(
    model: HookedModel | Replier,
    conversations: Sequence[Sequence[Message]],
    cells: Sequence[Cell],
    max_new_tokens: int,
    place: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Reply]:
    """A reply to each conversation under its own steering, at temperature 0.8 and top-p 0.95.

    A text that a callable gives counts as whole; one that was cut off it gives as a `Reply`.

    Args:
        place: where the steering acts (`Doses.place`), default everywhere.

    Raises:
        ValueError: a direction for a model that is not hooked.
        TypeError: a callable gave no text.
    """
    if not isinstance(model, HookedModel):
        if any(cell.direction is not None for cell in cells):
            raise ValueError("only a HookedModel can be steered: leave out directions, or load the model with el.load")
        return [_as_reply(model(conversation)) for conversation in conversations]
    out: list[Reply] = []
    for start in range(0, len(cells), ROWS_AT_ONCE):
        part = cells[start : start + ROWS_AT_ONCE]
        directions, strengths = [cell.direction for cell in part], [cell.strength for cell in part]
        steered = any(one is not None for one in directions)
        with steer(model, directions, strengths, **place or {}) if steered else nullcontext():
            asked = list(conversations[start : start + ROWS_AT_ONCE])
            out += replies(model, asked, max_new_tokens, seed=seed + start)
    return out


def _as_reply(said: Any) -> Reply:
    if not isinstance(said, (str, Reply)):
        raise TypeError(f"a model that is asked must give a text or a Reply, not {said!r}")
    return Reply(said, True) if isinstance(said, str) else said


class Sampling(NamedTuple):
    """How much is written: replies to each scenario (default by the study's size), tokens of each, the seed."""

    samples: int | None = None
    max_new_tokens: int | None = None
    seed: int = 0


class Judged(NamedTuple):
    """Who labels what is written: a judge, what `judge.validate` found of it, and the seconds it may take for a reply.

    `second` is another judge, whose agreement with the first on the unsteered replies is reported.
    """

    judge: Judge | None = None
    validation: StudyResult | None = None
    second: Judge | None = None
    seconds: float = 60


def cells_of(doses: Doses) -> list[Cell]:
    """Each direction that is looked at, at each strength; then those of each null family, in the same order."""
    families = [doses.directions, *(family for draws in doses.nulls.families.values() for family in draws)]
    return [Cell(direction, strength) for family in families for direction in family for strength in doses.strengths]


def require_nulls(doses: Doses | None) -> None:
    """Raise ValueError for directions without nulls, as no effect is shown without one."""
    if doses is not None and not doses.nulls:
        raise ValueError(
            f"{len(doses.directions)} directions and no nulls: give Doses(..., nulls=null_directions(model, vectors, "
            f"directions, 10)), as no effect is shown without one"
        )


def rates(
    sample: Sample,
    scenarios: Sequence[Mapping[str, Any]],
    base: pd.DataFrame,
    labels: Sequence[str],
    target: str,
    doses: Doses | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How often a reply is of the kind `target`, over the valid ones: unsteered, then under each steering.

    Nothing is steered where the unsteered rate is 0 or 1, or nothing was valid. A scenario that is a control is
    counted by itself, and never steered.

    Args:
        sample: `(scenarios, cells) -> a row for each reply`, with `cell` (its number), `scenario` and `label`.
        base: what it gave unsteered, for all scenarios.
        labels: all that count as valid.

    Returns:
        A row for the unsteered model, one for its controls, and one for each direction and strength: `samples`,
        how many are `invalid`, those of each label, the `rate` with Wilson's interval, which takes the replies as
        independent; the `effect`, a difference of rates, with a bootstrap interval over the scenarios; what
        `Nulls.columns` says of it, all directions and strengths being one family; the `verdict`.
    """
    counted = [row for row in scenarios if not is_control(row)]
    ids = [row["id"] for row in counted]
    of_occasions = base["scenario"].isin(ids)
    rows: list[dict[str, Any]] = [
        {"direction": "unsteered", "strength": 0.0} | _share(base.loc[of_occasions, "label"], labels, target)
    ]
    if not of_occasions.all():
        controls = _share(base.loc[~of_occasions, "label"], labels, target)
        rows.append({"direction": "unsteered, controls", "strength": 0.0} | controls)
    if doses is not None and measurable(rows[0]["rate"]):
        replies = sample(counted, cells_of(doses))
        before = _counts(base[of_occasions].assign(cell=0), 1, ids, target)[0]
        after = _counts(replies, len(cells_of(doses)), ids, target)
        shares = [
            _share(replies.loc[replies["cell"].eq(number), "label"], labels, target)
            for number in range(len(doses.directions) * len(doses.strengths))
        ]
        rows += _steered(before, after, shares, doses, seed)
    return pd.DataFrame(rows)


def _steered(
    before: np.ndarray, after: np.ndarray, shares: Sequence[dict[str, Any]], doses: Doses, seed: int
) -> list[dict[str, Any]]:
    """A row for each direction and strength, beside its nulls.

    Args:
        before, after: counts [scenario 2] and [cell scenario 2], of the kind that is looked for and of all valid.
        shares: of each direction and strength, what `_share` says.
    """
    shape = (-1, len(doses.directions), len(doses.strengths))
    effects = (_ratio(after.sum(axis=1)) - _ratio(before.sum(axis=0))).reshape(shape)  # family direction strength
    drawn, start = {}, 1
    for kind, draws in doses.nulls.families.items():
        drawn[kind], start = effects[start : start + len(draws)], start + len(draws)
    valid = bool(np.isfinite(effects).all())
    held = doses.nulls.measured(drawn).columns(effects[0]) if valid else {}
    rows = []
    for number, at in enumerate(np.ndindex(effects.shape[1:])):
        low, high = _interval(before, after[number], seed)
        row = {"direction": doses.names[at[0]], "strength": doses.strengths[at[1]]} | shares[number]
        row |= {"effect": effects[0][at], "low": low, "high": high}
        row |= {column: values[at] for column, values in held.items()}
        # Few replies can leave all draws at one value, so that any other would lie outside: the interval must, too.
        if not valid or not np.isfinite([low, high]).all():
            row["verdict"] = Verdict.UNMEASURABLE
        elif row["verdict"] == Verdict.BEYOND and low <= 0 <= high:
            row["verdict"] = Verdict.INSIDE
        rows.append(row)
    return rows


def is_control(scenario: Mapping[str, Any]) -> bool:
    """Whether what is counted has no occasion in it: no threat, a task that can be solved."""
    return scenario.get("condition") in ("no_threat", "solvable")


def measurable(rate: float) -> bool:
    """Whether a rate can both rise and fall."""
    return bool(0 < rate < 1)


def _share(found: pd.Series, labels: Sequence[str], target: str) -> dict[str, Any]:
    times = {label: int(found.eq(label).sum()) for label in labels}
    invalid = int(found.eq(INVALID).sum())
    n = len(found) - invalid
    low, high = wilson(times[target], n) if n else (np.nan, np.nan)
    rate = {"rate": times[target] / n if n else np.nan, "rate_low": low, "rate_high": high}
    return {"samples": len(found), "invalid": invalid} | times | rate


def _ratio(counts: np.ndarray) -> np.ndarray:
    """The share [...] of counts [... 2]; NaN of nothing."""
    return np.divide(counts[..., 0], counts[..., 1], out=np.full(counts.shape[:-1], np.nan), where=counts[..., 1] > 0)


def _counts(frame: pd.DataFrame, cells: int, ids: Sequence[str], target: str) -> np.ndarray:
    """How many are of the kind, and how many valid: [cell scenario 2]."""
    out = np.zeros((cells, len(ids), 2))
    at = frame["cell"].to_numpy(), frame["scenario"].map({name: i for i, name in enumerate(ids)}).to_numpy()
    np.add.at(out[..., 0], at, frame["label"].eq(target))
    np.add.at(out[..., 1], at, frame["label"].ne(INVALID))
    return out


def _interval(before: np.ndarray, after: np.ndarray, seed: int) -> tuple[float, float]:
    means = bootstrap_draws(np.concatenate([before, after], axis=1), seed=seed)
    changes = _ratio(means[:, 2:]) - _ratio(means[:, :2])
    low, high = np.nanquantile(changes, [0.025, 0.975]) if np.isfinite(changes).any() else (np.nan, np.nan)
    return float(low), float(high)


def headline(table: pd.DataFrame, target: str) -> str:
    """What a table of `rates` says in one sentence: the unsteered rate, and what lies beyond the nulls."""
    base = table.iloc[0]
    valid = int(base["samples"] - base["invalid"])
    if not valid:
        return f"None of {int(base['samples'])} unsteered replies is valid, so nothing can be measured."
    counted = f"Unsteered, {int(base[target])} of {valid} valid replies are {target!r}"
    if not measurable(base["rate"]):
        return f"{counted}, so what changes that cannot be measured: nothing was steered."
    steered = table[~table["direction"].str.startswith("unsteered")]
    if steered.empty:
        return f"{counted}; nothing was steered."
    if steered["verdict"].eq(Verdict.UNTRUSTED).any():
        return f"{counted}; the judge has not proved itself (kappa {base['kappa']:.2f}), so there is no verdict."
    beyond = steered[steered["verdict"] == Verdict.BEYOND]
    return f"{counted}; {len(beyond)} of {len(steered)} steerings change that beyond both nulls."


def null_of(doses: Doses | None) -> str:
    """What the rates under steering are held against, in words."""
    if doses is None:
        return "none: nothing was steered; Wilson's interval stands beside the rate"
    return f"single cells of {' and of '.join(doses.nulls.kinds)} directions, the furthest of all cells of a draw"
