"""`dose_response`: what steering does to a measure, beside what directions that mean nothing do, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.results import StudyResult
from emolens.stats import Contrast, Verdict, contrast, finite, null_columns
from emolens.steering.measures import Measure, coherence
from emolens.steering.nulls import Nulls
from emolens.steering.steer import Where, steer
from emolens.vectors.direction import Direction


@dataclass(frozen=True)
class Doses:
    """What is steered and how: directions at strengths, at some blocks and tokens, beside directions that mean nothing.

    Attributes:
        directions: without coefficients; `strengths` are theirs, in mean residual norms.
        strengths: both signs, as a rule; 0 is the baseline and is left out.
        nulls: of `null_directions` for these directions. Without them there is no verdict.
        layers, where: of `steer`.

    Raises:
        ValueError: no direction, no strength besides 0, one that is not finite, nulls of another size.

    >>> Doses([shipped["calm"]], [-0.1, 0, 0.1]).strengths
    (-0.1, 0.1)
    """

    directions: Sequence[Direction]
    strengths: Sequence[float]
    nulls: Nulls = field(default_factory=Nulls)
    layers: int | Sequence[int] | None = None
    where: Where = "all"

    def __post_init__(self) -> None:
        strengths = tuple(float(s) for s in finite(self.strengths, "the strength") if s)
        if not strengths or not len(self.directions):
            raise ValueError(
                f"{len(self.directions)} directions, strengths {list(strengths)}: give at least one of each, and a "
                f"strength besides 0"
            )
        self.nulls.check(self.directions)
        object.__setattr__(self, "strengths", strengths)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the directions."""
        return tuple(direction.name for direction in self.directions)

    @property
    def place(self) -> dict[str, Any]:
        """Where the steering acts, as arguments of `steer`."""
        return {"layers": self.layers, "where": self.where}


def dose_response(
    model: HookedModel,
    measure: Measure,
    items: Sequence[Any],
    doses: Doses,
    *,
    bounds: tuple[float, float] | None = None,
    unit: str = "",
    seed: int = 0,
    **options: Any,
) -> StudyResult:
    """Effect of each direction at each strength on a measure, per-row batches over everything (paper, section 8).

    Args:
        measure, items: of `cells`; intervals resample the items.
        doses: what is steered. Without nulls no verdict is given.
        bounds: the least and greatest value that the measure can have: a baseline there can't be measured.
        unit: of the measure, written beside the axis of the figure.
        options: of `cells`: cost_prompts, rows_at_once, progress.

    Returns:
        A table with a row for each direction and strength: `effect` (the change from the `baseline`, a mean over
        the items) with its bootstrap interval; for each kind of null where 95 % of single null cells of that strength
        lie; the `slope` of the effect over the strengths, with interval, and its p against each kind (`null_columns`);
        the `verdict`; and the costs.

    Raises:
        ValueError: a measure that gives something else than a finite number for each row; the item is named.

    >>> odds = el.measures.log_odds([" happy"], [" sad"])
    >>> result = el.dose_response(model, odds, ["He feels"], Doses([vectors["happy"]], [-0.1, 0.1]), progress=False)
    >>> result.table()["verdict"].unique().tolist()
    ['no null']
    """
    values = cells(model, measure, items, doses, seed=seed, **options)
    frame = table(values, contrast(range(len(items)), seed=seed), bounds)
    figure_options = {"ylabel": unit or "effect", "nulls": list(values.nulls.kinds)}
    null = _null_sentence(doses.nulls)
    return StudyResult("dose_response", frame, headline(frame), null, "dose_response", figure_options)


@dataclass(frozen=True)
class Cells:
    """What a measure gave for every item: unsteered, the change under each direction and strength, and under nulls."""

    names: tuple[str, ...]
    strengths: Sequence[float]
    baseline: np.ndarray  # [direction item]
    effects: np.ndarray  # [direction strength item]
    nulls: Nulls  # whose effects are [draw direction strength item]
    costs: dict[str, np.ndarray]  # [direction strength]


def cells(
    model: HookedModel,
    measure: Measure,
    items: Sequence[Any],
    doses: Doses,
    cost_prompts: Sequence[Text] = (),
    rows_at_once: int = 96,
    seed: int = 0,
    progress: bool = True,
) -> Cells:
    """The values behind `dose_response`, for who wants several contrasts of them (see `stats.contrast`).

    Args:
        measure: `(model, item) -> a number for each row`, called under the steering; see `emolens.steering.measures`.
        items: what the measure is asked about: prompts, scenarios.
        cost_prompts: prompts for `measures.coherence`; without them there are no costs.

    >>> odds = el.measures.log_odds([" happy"], [" sad"])
    >>> cells(model, odds, ["He feels"], Doses([vectors["sad"]], [0.1]), progress=False).effects.shape
    (1, 1, 1)
    """
    if not len(items):
        raise ValueError("no item to measure anything on: give at least one")
    run = _Runner(model, measure, items, doses, rows_at_once)
    families = {kind: list(draws) for kind, draws in doses.nulls.families.items()}
    total = len(doses.strengths) * len(doses.directions) * (1 + sum(map(len, families.values())))
    with tqdm(total=total, unit="cell", disable=not progress) as bar:
        cost = coherence(model, cost_prompts, seed=seed) if cost_prompts else None
        baseline = run.grid([doses.directions], [0.0])[0][0]  # for each direction: a measure may depend on the name
        values, costs = run.grid([doses.directions], doses.strengths, bar, cost)
        effects = {kind: run.grid(draws, doses.strengths, bar)[0] - baseline for kind, draws in families.items()}
    return Cells(
        doses.names, doses.strengths, baseline[:, 0], values[0] - baseline, doses.nulls.measured(effects), costs
    )


class _Runner:
    """Runs cells (a direction and a strength) as rows of batches, over all items."""

    def __init__(self, model: HookedModel, measure: Measure, items: Sequence[Any], doses: Doses, rows: int) -> None:
        self.model, self.measure, self.items = model, measure, items
        self.place, self.rows = doses.place, rows

    def __call__(
        self, directions: Sequence[Direction], strengths: Sequence[float], cost: Any = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Values [cell item] and costs [cell]."""
        names = [
            f"{direction.name} at {strength:+g}" for direction, strength in zip(directions, strengths, strict=True)
        ]
        with steer(self.model, list(directions), list(strengths), **self.place):
            columns = []
            for number, item in enumerate(self.items):
                values = torch.as_tensor(self.measure(self.model, item)).detach().float().cpu()
                if values.shape != (len(directions),):
                    raise ValueError(
                        f"the measure gave {tuple(values.shape)} values for {len(directions)} rows, not one for each"
                    )
                columns.append(finite(values.numpy(), f"the measure of item {number} ({str(item)[:60]!r}),", names))
            return np.stack(columns, axis=1), cost(self.model) if cost else {}

    def grid(
        self, families: Sequence[Sequence[Direction]], strengths: Sequence[float], bar: Any = None, cost: Any = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values [family direction strength item], and the costs of all cells in that order."""
        steerings = [(direction, s) for family in families for direction in family for s in strengths]
        values, costs = [], []
        for part in _chunks(steerings, self.rows):
            value, cost_of = self([direction for direction, _ in part], [s for _, s in part], cost)
            values.append(value)
            costs.append(cost_of)
            if bar is not None:
                bar.update(len(part))
        shape = (len(families), len(families[0]), len(strengths), -1)
        joined = {key: np.concatenate([part[key] for part in costs]) for key in costs[0]}
        return np.concatenate(values).reshape(shape), joined


def _chunks(cells: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(cells), size):
        yield cells[start : start + size]


def slopes(effects: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    """Least-squares slope through 0 of effects [... strength item] over the strengths, for each item.

    >>> slopes(np.array([[-0.2], [0.2]]), [-0.1, 0.1]).tolist()
    [2.0]
    """
    s = np.asarray(strengths)
    return np.einsum("...si,s->...i", effects, s) / (s**2).sum()


def table(values: Cells, over: Contrast, bounds: tuple[float, float] | None = None) -> pd.DataFrame:
    """A row for each direction and strength, as `dose_response` describes it, of a contrast over the items.

    >>> effects = np.array([[[-0.2], [0.2]]])
    >>> one = Cells(("calm",), [-0.1, 0.1], np.zeros((1, 1)), effects, Nulls(), {})
    >>> table(one, contrast([0]))[["direction", "strength", "effect", "slope"]].values.tolist()[1]
    ['calm', 0.1, 0.2, 2.0]
    """
    steepness = slopes(values.effects, values.strengths)  # [direction item]
    means, (low, high), start = over.of(steepness), over.interval(steepness), over.of(values.baseline)
    drawn = {kind: over.of(effects) for kind, effects in values.nulls.effects.items()}  # [draw direction strength]
    bands = values.nulls.measured(drawn).band()
    tested = values.nulls.measured({kind: slopes(x[..., None], values.strengths)[..., 0] for kind, x in drawn.items()})
    p, verdicts = tested.p(means), tested.verdict(means)
    lows, highs = over.interval(values.effects)
    rows = []
    for at in np.ndindex(len(values.names), len(values.strengths)):
        number = at[0]
        stuck = bounds is not None and min(abs(start[number] - bound) for bound in bounds) < 1e-9
        row = {"direction": values.names[number], "strength": values.strengths[at[1]], "baseline": start[number]}
        row |= {"effect": over.of(values.effects[at]), "low": lows[at], "high": highs[at]}
        for kind, ends in bands.items():
            row |= dict(zip(null_columns(kind), (ends[0][at], ends[1][at]), strict=False))
        row |= {"slope": means[number], "slope_low": low[number], "slope_high": high[number]}
        row |= {null_columns(kind)[2]: p[kind][number] for kind in p}
        rows.append(row | {"verdict": Verdict.UNMEASURABLE if stuck else verdicts[number]})
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(values.costs)], axis=1)


def _null_sentence(nulls: Nulls) -> str:
    if not nulls:
        return "none: no nulls were given"
    counts = " and ".join(f"{len(draws)} families of {kind}" for kind, draws in nulls.families.items())
    return f"{counts}; the slope's distance from their centre against the furthest of each family"


def headline(frame: pd.DataFrame) -> str:
    """The direction of the steepest slope, and which directions are beyond every null.

    >>> table = pd.DataFrame({"direction": ["calm", "sad"], "slope": [0.5, -2.0], "verdict": list(Verdict)[:2]})
    >>> headline(table)
    'Of 2 directions, sad changes the measure most, by -0.200 for a strength of 0.1; beyond the null: calm.'
    """
    each = frame.drop_duplicates("direction").set_index("direction")
    verdicts = each["verdict"]
    if (verdicts == Verdict.UNMEASURABLE).all():
        return "The baseline lies at the end of the scale, so the effect of steering cannot be measured."
    steepest = each["slope"].abs().idxmax()
    change = f"{steepest} changes the measure most, by {each['slope'][steepest] / 10:+.3f} for a strength of 0.1"
    among = f"Of {len(each)} directions, {change}" if len(each) > 1 else change[0].upper() + change[1:]
    if (verdicts == Verdict.NO_NULL).all():
        return f"{among}; there is no null to hold this against."
    beyond = list(verdicts.index[verdicts == Verdict.BEYOND])
    named = f"{', '.join(beyond[:3])}{' and others' if len(beyond) > 3 else ''}" if beyond else "none"
    return f"{among}; beyond the null: {named}."
