"""How often a reply is of one kind: unsteered, then under each steering beside its nulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emolens.judging.judge import SUFFICIENT
from emolens.judging.kappa import INVALID
from emolens.stats import Verdict, bootstrap_draws, wilson
from emolens.steering.nulls import Nulls

COSTS = ("input_tokens", "output_tokens", "seconds")


def rates(frame: pd.DataFrame, labels: Sequence[str], target: str, seed: int = 0) -> pd.DataFrame:
    """How often a reply is of the kind `target`, over the valid ones.

    Args:
        frame: a row for each reply, as `evals.logs.frame_of` has it.
        labels: all that count as valid.

    Returns:
        A row for the unsteered model, one for its controls, and one for each direction and strength: `samples`,
        how many are `invalid`, those of each label, the `rate` with Wilson's interval, which takes the replies as
        independent; the `effect`, a difference of rates, with a bootstrap interval over the scenarios; what
        `Nulls.columns` says of it, all directions and strengths being one family; the `verdict`; the mean costs.
    """
    plain, steered = frame[frame["strength"] == 0], frame[frame["strength"] != 0]
    base = plain[~plain["control"]]
    rows: list[dict[str, Any]] = [{"direction": "unsteered", "strength": 0.0} | _share(base, labels, target)]
    if len(base) < len(plain):
        controls = _share(plain[plain["control"]], labels, target)
        rows.append({"direction": "unsteered, controls", "strength": 0.0} | controls)
    if len(steered):
        rows += _steered(base, steered, labels, target, seed)
    table = pd.DataFrame(rows)
    kappa = frame["kappa"].dropna()
    if len(kappa):
        table["kappa"] = kappa.iloc[0]
        if kappa.iloc[0] < SUFFICIENT and "verdict" in table:
            table["verdict"] = table["verdict"].where(table["verdict"].isna(), Verdict.UNTRUSTED)
    return table


def _steered(
    base: pd.DataFrame, steered: pd.DataFrame, labels: Sequence[str], target: str, seed: int
) -> list[dict[str, Any]]:
    """A row for each direction and strength, beside its nulls."""
    own, ids = steered[steered["kind"] == ""], list(dict.fromkeys(base["scenario"]))
    names, strengths = (list(dict.fromkeys(own[column])) for column in ("direction", "strength"))
    before = _counts(base, ids, target)
    cells = {
        key: _counts(part, ids, target) for key, part in steered.groupby(["kind", "draw", "direction", "strength"])
    }
    rate = _ratio(before.sum(axis=0))

    def effects(kind: str, draw: int) -> list[list[float]]:
        """[direction strength]"""
        counts = [[cells.get((kind, draw, name, much)) for much in strengths] for name in names]
        return [[np.nan if c is None else float(_ratio(c.sum(axis=0)) - rate) for c in row] for row in counts]

    looked_at = np.array(effects("", 0))
    draws = steered.loc[steered["kind"] != "", ["kind", "draw"]].drop_duplicates().groupby("kind")["draw"]
    drawn = {kind: np.array([effects(kind, int(draw)) for draw in sorted(part)]) for kind, part in draws}
    valid = bool(drawn) and all(np.isfinite(values).all() for values in (looked_at, *drawn.values()))
    held = Nulls().measured(drawn).columns(looked_at) if valid else {}
    rows = []
    for at in np.ndindex(looked_at.shape):
        name, much = names[at[0]], strengths[at[1]]
        part = own[own["direction"].eq(name) & own["strength"].eq(much)]
        low, high = _interval(before, cells["", 0, name, much], seed)
        row = {"direction": name, "strength": much} | _share(part, labels, target)
        row |= {"effect": looked_at[at], "low": low, "high": high}
        row |= {column: values[at] for column, values in held.items()}
        # Few replies can leave all draws at one value, so that any other would lie outside: the interval must, too.
        if not valid or not np.isfinite([low, high]).all():
            row["verdict"] = Verdict.UNMEASURABLE if drawn else Verdict.NO_NULL
        elif row["verdict"] == Verdict.BEYOND and low <= 0 <= high:
            row["verdict"] = Verdict.INSIDE
        rows.append(row)
    return rows


def measurable(rate: float) -> bool:
    """Whether a rate can both rise and fall."""
    return bool(0 < rate < 1)


def _share(part: pd.DataFrame, labels: Sequence[str], target: str) -> dict[str, Any]:
    found = part["label"]
    times = {label: int(found.eq(label).sum()) for label in labels}
    n = sum(times.values())
    low, high = wilson(times[target], n) if n else (np.nan, np.nan)
    rate = {"rate": times[target] / n if n else np.nan, "rate_low": low, "rate_high": high}
    why = part.loc[found.eq(INVALID), "why"].value_counts()
    invalid = {"samples": len(found), "invalid": len(found) - n}
    costs = part[list(COSTS)].mean().to_dict()
    return invalid | times | rate | {f"invalid, {reason}": int(many) for reason, many in why.items() if reason} | costs


def _ratio(counts: np.ndarray) -> np.ndarray:
    """The share [...] of counts [... 2]; NaN of nothing."""
    return np.divide(counts[..., 0], counts[..., 1], out=np.full(counts.shape[:-1], np.nan), where=counts[..., 1] > 0)


def _counts(frame: pd.DataFrame, ids: Sequence[str], target: str) -> np.ndarray:
    """How many are of the kind, and how many valid: [scenario 2]."""
    out = np.zeros((len(ids), 2))
    at = frame["scenario"].map({name: i for i, name in enumerate(ids)}).to_numpy()
    np.add.at(out[:, 0], at, frame["label"].eq(target))
    np.add.at(out[:, 1], at, frame["label"].ne(INVALID))
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
    steered = table[~table["direction"].str.startswith("unsteered")]
    if "kappa" in table and base["kappa"] < SUFFICIENT:
        return f"{counted}; the judge has not proved itself (kappa {base['kappa']:.2f}), so there is no verdict."
    if not measurable(base["rate"]) and steered.empty:
        return f"{counted}, so what changes that cannot be measured: nothing was steered."
    if steered.empty:
        return f"{counted}; nothing was steered."
    beyond = steered[steered["verdict"] == Verdict.BEYOND]
    return f"{counted}; {len(beyond)} of {len(steered)} steerings change that beyond both nulls."


def null_of(frame: pd.DataFrame) -> str:
    """What the rates under steering are held against, in words."""
    kinds = sorted({kind for kind in frame["kind"] if kind})
    if not kinds:
        return "none: nothing was steered; Wilson's interval stands beside the rate"
    return f"single cells of {' and of '.join(kinds)} directions, the furthest of all cells of a draw"
