"""`dose_response`: what steering does to a measure, beside what directions that mean nothing do, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from emolens.models.encoding import Text
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Contrast, contrast
from emolens.steering.measures import Measure, coherence
from emolens.steering.nulls import LEVEL, Nulls, families_of, family_p
from emolens.steering.steer import Where, steer
from emolens.vectors.direction import Direction


def dose_response(
    model: HookedModel,
    measure: Measure,
    items: Sequence[Any],
    directions: Sequence[Direction],
    strengths: Sequence[float],
    nulls: Nulls | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    unit: str = "",
    seed: int = 0,
    **options: Any,
) -> StudyResult:
    """Effect of each direction at each strength on a measure, per-row batches over everything (paper, section 8).

    Args:
        measure, items, directions, strengths: of `cells`; intervals resample the items.
        nulls: of `null_directions`. Without them no verdict is given.
        bounds: the least and greatest value that the measure can have: a baseline there can't be measured.
        options: of `cells`: layers, where, cost_prompts, rows_at_once, progress.

    Returns:
        A table with a row for each direction and strength: `effect` (the change from the `baseline`, a mean over
        the items) with its bootstrap interval; `{kind}_low` and `{kind}_high`, where 95 % of single null cells of
        that strength lie; the `slope` of the effect over the strengths, with interval; `p_{kind}`, of its size
        against the largest of each null family; the `verdict`; and the costs.
    """
    found = cells(model, measure, items, directions, strengths, nulls, seed=seed, **options)
    frame = table(found, contrast(range(len(items)), seed=seed), bounds)
    options = {"ylabel": unit or "effect"}
    return StudyResult("dose_response", frame, _sentence(frame, len(items), unit), "dose_response", options)


@dataclass(frozen=True)
class Cells:
    """What a measure gave for every item: unsteered, the change under each direction and strength, and under nulls."""

    names: tuple[str, ...]
    strengths: list[float]
    baseline: np.ndarray  # [direction item]
    effects: np.ndarray  # [direction strength item]
    nulls: dict[str, np.ndarray]  # [draw direction strength item]
    costs: dict[str, np.ndarray]  # [direction strength]


def cells(
    model: HookedModel,
    measure: Measure,
    items: Sequence[Any],
    directions: Sequence[Direction],
    strengths: Sequence[float],
    nulls: Nulls | None = None,
    layers: int | Sequence[int] | None = None,
    where: Where = "all",
    cost_prompts: Sequence[Text] = (),
    rows_at_once: int = 96,
    seed: int = 0,
    progress: bool = True,
) -> Cells:
    """The values behind `dose_response`, for who wants several contrasts of them (see `stats.contrast`).

    Args:
        measure: `(model, item) -> a number for each row`, called under the steering; see `emolens.steering.measures`.
        items: what the measure is asked about: prompts, scenarios.
        directions: without coefficients; `strengths` are theirs, 0 being the baseline.
        cost_prompts: prompts for `measures.coherence`; without them there are no costs.
    """
    strengths = [float(s) for s in strengths if s]
    if not strengths or not len(directions) or not len(items):
        raise ValueError(
            f"{len(directions)} directions, {len(items)} items, strengths {strengths}: give at least one of each, "
            f"and a strength besides 0"
        )
    run = _Runner(model, measure, items, layers, where, rows_at_once)
    families = families_of(nulls, directions)
    total = len(strengths) * len(directions) * (1 + sum(map(len, families.values())))
    with tqdm(total=total, unit="cell", disable=not progress) as bar:
        cost = coherence(model, cost_prompts, seed=seed) if cost_prompts else None
        baseline = run.grid([list(directions)], [0.0])[0][0]  # its own for each: a measure may depend on the name
        values, costs = run.grid([list(directions)], strengths, bar, cost)
        null_effects = {kind: run.grid(draws, strengths, bar)[0] - baseline for kind, draws in families.items()}
    names = tuple(one.name for one in directions)
    return Cells(names, strengths, baseline[:, 0], values[0] - baseline, null_effects, costs)


class _Runner:
    """Runs cells (a direction and a strength) as rows of batches, over all items."""

    def __init__(
        self, model: HookedModel, measure: Measure, items: Sequence[Any], layers: Any, where: Any, rows: int
    ) -> None:
        self.model, self.measure, self.items = model, measure, items
        self.options, self.rows = {"layers": layers, "where": where}, rows

    def __call__(
        self, directions: Sequence[Direction], strengths: Sequence[float], cost: Any = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Values [cell item] and costs [cell]."""
        with steer(self.model, list(directions), list(strengths), **self.options):
            found = [torch.as_tensor(self.measure(self.model, item)).float() for item in self.items]
            for values in found:
                if values.shape != (len(directions),):
                    raise ValueError(
                        f"the measure gave {tuple(values.shape)} values for {len(directions)} rows, not one for each"
                    )
            return torch.stack(found, dim=1).numpy(), cost(self.model) if cost else {}

    def grid(
        self, families: list[Any], strengths: list[float], bar: Any = None, cost: Any = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values [family direction strength item], and the costs of all cells in that order."""
        cells = [(one, s) for family in families for one in family for s in strengths]
        found, costs = [], []
        for part in _chunks(cells, self.rows):
            values, cost_of = self([one for one, _ in part], [s for _, s in part], cost)
            found.append(values)
            costs.append(cost_of)
            if bar is not None:
                bar.update(len(part))
        values = np.concatenate(found).reshape(len(families), len(families[0]), len(strengths), -1)
        return values, {key: np.concatenate([part[key] for part in costs]) for key in costs[0]}


def _chunks(cells: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(cells), size):
        yield cells[start : start + size]


def slopes(effects: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    """Least-squares slope through 0 of effects [... strength item] over the strengths, for each item."""
    s = np.asarray(strengths)
    return np.einsum("...si,s->...i", effects, s) / (s**2).sum()


def table(found: Cells, over: Contrast, bounds: tuple[float, float] | None = None) -> pd.DataFrame:
    """A row for each direction and strength, as `dose_response` describes it, of a contrast over the items."""
    nulls = {kind: over.of(x) for kind, x in found.nulls.items()}  # [draw direction strength]
    steepest = {kind: np.abs(slopes(x[..., None], found.strengths)[..., 0]).max(axis=1) for kind, x in nulls.items()}
    rows = []
    for number, name in enumerate(found.names):
        slope = slopes(found.effects[number], found.strengths)
        mean, (low, high), start = over.of(slope), over.interval(slope), over.of(found.baseline[number])
        p = {f"p_{kind}": family_p(float(abs(mean)), draws) for kind, draws in steepest.items()}
        verdict = "no null"
        if bounds is not None and min(abs(start - bound) for bound in bounds) < 1e-9:
            verdict = f"cannot be measured (baseline at {start:g})"
        elif p:
            verdict = "above the null" if max(p.values()) <= LEVEL else "inside the null"
        lows, highs = over.interval(found.effects[number])
        for s, strength in enumerate(found.strengths):
            row = {"direction": name, "strength": strength, "baseline": start}
            row |= {"effect": over.of(found.effects[number, s]), "low": lows[s], "high": highs[s]}
            for kind, x in nulls.items():
                band = np.quantile(x[..., s], [LEVEL / 2, 1 - LEVEL / 2])
                row |= {f"{kind}_low": band[0], f"{kind}_high": band[1]}
            rows.append(row | {"slope": mean, "slope_low": low, "slope_high": high} | p | {"verdict": verdict})
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(found.costs)], axis=1)


def _sentence(frame: pd.DataFrame, items: int, unit: str) -> str:
    said = []
    kinds = [column.removeprefix("p_") for column in frame if column.startswith("p_")]
    for name, part in frame.groupby("direction", sort=False):
        row = part.iloc[0]
        p = ", ".join(f"p = {row[f'p_{kind}']:.3f} against {kind}" for kind in kinds)
        slope, low, high = row[["slope", "slope_low", "slope_high"]] / 10
        found = f"{name}: {slope:+.3f} [{low:+.3f}, {high:+.3f}] per 0.1 of strength, {row['verdict']}"
        said.append(found + (f" ({p})" if p else ""))
    few = f" In these {items} items: " if items < 8 else " "
    return f"Baseline {frame['baseline'].mean():.3f}{' ' + unit if unit else ''}.{few}" + "; ".join(said) + "."
