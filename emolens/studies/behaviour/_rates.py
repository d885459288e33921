"""What the studies of behaviour share: many replies under many steerings, and how often they are of one kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emolens.judging.kappa import INVALID
from emolens.models.encoding import Message
from emolens.models.generation import Reply, replies
from emolens.models.model import HookedModel
from emolens.stats import bootstrap_draws, outside_draws, p_text, wilson
from emolens.steering.nulls import LEVEL, Nulls, families_of, family_p
from emolens.steering.steer import Where, steer
from emolens.vectors.direction import Direction

Replier = Callable[[Sequence[Message]], str | Reply]  # such as a model behind an interface, which samples anew
ROWS_AT_ONCE = 32  # each holds the keys and values of its own conversation


class Cell(NamedTuple):
    """One steering: a direction without coefficient and its strength, or none."""

    direction: Direction | None = None
    strength: float = 0.0


class Place(NamedTuple):
    """Where a steering acts; see `steer`."""

    layers: int | Sequence[int] | None = None
    where: Where = "all"


EVERYWHERE, UNSTEERED = Place(), (Cell(),)
Sample = Callable[[Sequence[Mapping[str, Any]], Sequence[Cell]], pd.DataFrame]


def answers(
    model: HookedModel | Replier,
    conversations: Sequence[Sequence[Message]],
    cells: Sequence[Cell],
    max_new_tokens: int,
    place: Place = EVERYWHERE,
    seed: int = 0,
) -> list[Reply]:
    """A reply to each conversation under its own steering, at temperature 0.8 and top-p 0.95.

    A text that a callable gives counts as whole; one that was cut off it gives as a `Reply`.

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
        with steer(model, directions, strengths, *place) if steered else nullcontext():
            asked = list(conversations[start : start + ROWS_AT_ONCE])
            out += replies(model, asked, max_new_tokens, seed=seed + start)
    return out


def _as_reply(said: Any) -> Reply:
    if not isinstance(said, (str, Reply)):
        raise TypeError(f"a model that is asked must give a text or a Reply, not {said!r}")
    return Reply(said, True) if isinstance(said, str) else said


class Grid(NamedTuple):
    """The steerings that are looked at, and the families of directions that mean nothing, by kind."""

    directions: Sequence[Direction] = ()
    strengths: Sequence[float] = ()
    nulls: Mapping[str, Sequence[Sequence[Direction]]] = {}

    @property
    def cells(self) -> list[Cell]:
        """Those that are looked at first, then each null family in the same order."""
        families = [self.directions, *(family for draws in self.nulls.values() for family in draws)]
        return [Cell(one, strength) for family in families for one in family for strength in self.strengths]


def grid(directions: Sequence[Direction], strengths: Sequence[float], nulls: Nulls | None) -> Grid:
    """The checked arguments. Raises ValueError for directions without strengths or nulls, or fewer than ten draws."""
    strengths = [float(strength) for strength in strengths if strength]
    if not directions:
        return Grid()
    if not strengths or not nulls:
        raise ValueError(
            f"{len(directions)} directions, strengths {strengths}, {len(nulls or ())} kinds of null: give strengths "
            f"besides 0, and nulls=null_directions(model, vectors, directions, 10), as no effect is shown without one"
        )
    return Grid(directions, strengths, families_of(nulls, directions))


def rates(
    sample: Sample,
    scenarios: Sequence[Mapping[str, Any]],
    base: pd.DataFrame,
    labels: Sequence[str],
    target: str,
    steerings: Grid,
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
        independent; the `effect`, a difference of rates, with a bootstrap interval over the scenarios; for each kind
        of null the t prediction interval of one more draw in that row, and p of the effect's size against the
        largest of each family; the `verdict`.
    """
    counted = [row for row in scenarios if not is_control(row)]
    ids = [row["id"] for row in counted]
    mine = base["scenario"].isin(ids)
    rows: list[dict[str, Any]] = [
        {"direction": "unsteered", "strength": 0.0} | _share(base.loc[mine, "label"], labels, target)
    ]
    if not mine.all():
        rows.append(
            {"direction": "unsteered, controls", "strength": 0.0} | _share(base.loc[~mine, "label"], labels, target)
        )
    if steerings.directions and measurable(rows[0]["rate"]):
        found = sample(counted, steerings.cells)
        before = _counts(base[mine].assign(cell=0), 1, ids, target)[0]
        rows += _steered(found, before, ids, labels, target, steerings, seed)
    return pd.DataFrame(rows)


def _steered(
    found: pd.DataFrame, before: np.ndarray, ids: Sequence[str], labels: Sequence[str], target: str, steerings: Grid,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    cells, shape = steerings.cells, (-1, len(steerings.directions), len(steerings.strengths))
    after = _counts(found, len(cells), ids, target)
    effects = (_ratio(after.sum(axis=1)) - _ratio(before.sum(axis=0))).reshape(shape)  # family direction strength
    drawn, start = {}, 1
    for kind, draws in steerings.nulls.items():
        drawn[kind], start = effects[start : start + len(draws)], start + len(draws)
    rows = []
    for number, at in enumerate(np.ndindex(effects.shape[1:])):
        row = {"direction": steerings.directions[at[0]].name, "strength": steerings.strengths[at[1]]}
        row |= _share(found.loc[found["cell"].eq(number), "label"], labels, target)
        interval = _interval(before, after[number], seed)
        rows.append(row | _against(effects[0][at], interval, {kind: x[:, *at] for kind, x in drawn.items()}, drawn))
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


def _against(
    effect: float, interval: tuple[float, float], null: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """An effect beside its nulls: draws of the same cell [draw], and of all of them [draw direction strength]."""
    row: dict[str, Any] = {"effect": effect, "low": interval[0], "high": interval[1]}
    for kind, x in null.items():
        _, low, high = outside_draws(np.asarray(effect), x)
        p = family_p(abs(effect), np.abs(drawn[kind]).max(axis=(1, 2)))
        row |= {f"{kind}_low": float(low), f"{kind}_high": float(high), f"p_{kind}": p}
    if not np.isfinite(list(row.values())).all():
        return row | {"verdict": "cannot be measured (nothing valid)"}
    # Few replies can leave all draws at one value, so that any other would lie outside: the interval must, too.
    above = max(row[f"p_{kind}"] for kind in null) <= LEVEL and not interval[0] <= 0 <= interval[1]
    return row | {"verdict": "above the null" if above else "inside the null"}


def sentences(table: pd.DataFrame, target: str, verdict: bool = True) -> list[str]:
    """What a table of `rates` says; without `verdict` it says the numbers alone."""
    said = []
    for _, row in table[table["direction"].str.startswith("unsteered")].iterrows():
        valid = int(row["samples"] - row["invalid"])
        found = f"{row['rate']:.2f} [{row['rate_low']:.2f}, {row['rate_high']:.2f}]" if valid else "no rate"
        name = f"{row['direction'].capitalize()}: {int(row[target])} of {valid} valid are {target!r}, {found}"
        said.append(f"{name} ({int(row['invalid'])} of {int(row['samples'])} invalid).")
    base = table["rate"].iloc[0]
    if not measurable(base):
        why = f"The unsteered rate is {base:g}" if np.isfinite(base) else "Nothing unsteered is valid"
        said.append(f"{why}, so this cannot measure what changes it: nothing was steered.")
    for _, row in table[~table["direction"].str.startswith("unsteered")].iterrows():
        found = f"{row['rate']:.2f}, {row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        kinds = [column.removeprefix("p_") for column in table if column.startswith("p_")]
        p = ", ".join(f"{p_text(row[f'p_{kind}'])} against {kind}" for kind in kinds)
        said.append(
            f"{row['direction']} at {row['strength']:+g}: {found}" + (f", {row['verdict']} ({p})." if verdict else ".")
        )
    return said
