"""Intervals, p values and contrasts, over finite numbers alone (law 12); a p is held against its null (law 14)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.stats import binomtest, false_discovery_control, norm, rankdata
from scipy.stats import t as student_t

LEVEL = 0.05  # of p, two-sided: what counts as beyond a null
BY_RANK = 39  # draws from which p is a rank: to lie further out than all of them is p = 1/40


def bootstrap_mean(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: one number for each observation.
        groups: a code for each observation; whole groups are resampled, for observations that are not
            independent (the texts of one emotion).

    Raises:
        ValueError: no value, or one that is not finite.

    >>> low, high = bootstrap_mean(np.array([0.1, 0.2, 0.3, 0.4]))
    >>> low < 0.25 < high
    True
    """
    values = finite(values, "the observation")
    if values.size == 0:
        raise ValueError("no values: an interval needs at least one observation")
    _, code = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    total, count = np.bincount(code, values), np.bincount(code)
    picks = np.random.default_rng(seed).integers(0, len(count), (draws, len(count)))
    means = total[picks].sum(axis=1) / count[picks].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def correlation(
    x: Any, y: Any, ranks: bool = False, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Pearson's r (Spearman's rho with `ranks`) of two columns, with its percentile bootstrap interval over rows.

    Raises:
        ValueError: columns of different length or shorter than 3, or a value that is not finite.

    >>> [round(value, 2) for value in correlation([1, 2, 3, 4], [1, 3, 2, 4], draws=200)][0]
    0.8
    """
    x, y = finite(x, "the first column"), finite(y, "the second column")
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"{len(x)} and {len(y)} values: a correlation needs two columns of at least 3")
    picks = np.random.default_rng(seed).integers(0, len(x), (draws, len(x)))
    rows = np.concatenate([np.arange(len(x))[None], picks])
    columns = [rankdata(column[rows], axis=1) if ranks else column[rows] for column in (x, y)]
    a, b = (column - column.mean(axis=1, keepdims=True) for column in columns)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    r = np.divide((a * b).sum(axis=1), spread, out=np.zeros(len(rows)), where=spread > 1e-12)
    low, high = np.quantile(r[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(r[0]), float(low), float(high)


def sign_flip_p(values: np.ndarray, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p of the hypothesis that `values` lie symmetrically around 0, by flipping their signs at random.

    Each value must be independent of the others: give one for each template, text or pair.

    >>> sign_flip_p(np.array([0.2, 0.3, 0.1, 0.4, 0.3, 0.2])) < 0.05
    True
    """
    values = finite(values, "the observation")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(values)))
    return tail_p(abs(values.mean()), np.abs((signs * values).mean(axis=1)))


def finite(values: Any, what: str = "the value", names: Sequence[Any] | None = None) -> np.ndarray:
    """The values as float64, of which every one is a finite number.

    Args:
        what: what they are, for the error.
        names: a name for each entry along the last axis, for the error.

    Raises:
        ValueError: one is NaN or infinite; says which.

    >>> finite([1, 2])
    array([1., 2.])
    >>> finite([1.0, float("nan")], "the change", ["calm", "sad"])
    Traceback (most recent call last):
    ValueError: the change of sad is nan, not a finite number: ...
    """
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f" of {names[at[-1]]}" if names is not None and at else f" at index {list(at)}" if at else ""
        raise ValueError(
            f"{what}{place} is {array[at]}, not a finite number: nothing is computed over it; "
            f"find where it comes from, or leave that item out"
        )
    return array


class Verdict(StrEnum):
    """How an effect came out against its nulls.

    >>> Verdict.BEYOND == "beyond the null"
    True
    """

    BEYOND = "beyond the null"
    INSIDE = "inside the null"
    NO_NULL = "no null"
    UNMEASURABLE = "cannot be measured"
    UNTRUSTED = "no verdict"  # of a judge that has not proved itself

    @classmethod
    def of(cls, p: Iterable[float]) -> Verdict:
        """The verdict of an effect with one p value for each kind of null: it must be beyond all of them.

        >>> Verdict.of([0.01, 0.2]), Verdict.of([])
        (<Verdict.INSIDE: 'inside the null'>, <Verdict.NO_NULL: 'no null'>)
        """
        values = list(p)
        return cls.NO_NULL if not values else cls.BEYOND if max(values) <= LEVEL else cls.INSIDE


def null_columns(kind: str) -> tuple[str, str, str]:
    """The columns of a table that hold the band of a kind of null, and p against it.

    >>> null_columns("random")
    ('random_low', 'random_high', 'p_random')
    """
    return f"{kind}_low", f"{kind}_high", f"p_{kind}"


def family_p(observed: Any, null: Any) -> np.ndarray:
    """p of each effect of a family: how far it lies from where its null lies, against the furthest of each draw.

    A distance is counted from the null's centre in units of its spread (law 14), so that effects of different scale
    share one scale, and an effect below a null that is itself displaced counts as far as one above it. From 39 draws
    on, p is a rank: centre and spread are those of the draws and the observation together, which makes the two
    exchangeable. With fewer draws, p comes from Student's prediction interval for one more draw, times the number of
    effects (Bonferroni).

    Args:
        observed: the effects [*family]; a single number is a family of one.
        null: what each draw of the null gave [draw *family].

    Returns:
        p [*family], two-sided, corrected for the size of the family.

    Raises:
        ValueError: a value that is not finite; fewer than two draws, or draws of another shape.

    >>> null = np.random.default_rng(0).normal(-2, 0.5, (99, 1))
    >>> family_p([1.8], null), family_p([-2.1], null).round(1)
    (array([0.01]), array([0.8]))
    """
    observed, null = finite(observed, "the observed effect"), finite(null, "the null draw")
    if len(null) < 2 or null.shape[1:] != observed.shape:
        raise ValueError(f"draws of shape {null.shape} for effects of shape {observed.shape}: give [draw, *effects]")
    if len(null) < BY_RANK:
        return np.asarray(np.minimum(1, outside_draws(observed, null)[0] * observed.size))
    both = np.concatenate([observed[None], null])
    spread = both.std(axis=0, ddof=1)
    distance = np.abs(both - both.mean(axis=0)) / np.where(spread > 0, spread, 1)
    furthest = distance[1:].reshape(len(null), -1).max(axis=1)
    reached = furthest >= distance[0][..., None] - 1e-9
    return np.asarray((1 + reached.sum(axis=-1)) / (1 + len(null)))


def p_value(observed: Any, null: Any) -> float:
    """The two-sided p of an effect, or of the furthest effect of a family: the least of `family_p`.

    >>> p_value(1.8, np.linspace(-2.5, -1.5, 39)), p_value(-4, np.linspace(-2.5, -1.5, 39))
    (0.025, 0.025)
    >>> p_value(float("nan"), [0.0, 0.1])
    Traceback (most recent call last):
    ValueError: the observed effect is nan, not a finite number: ...
    """
    return float(np.min(family_p(observed, null)))


def tail_p(observed: float, null: Any) -> float:
    """The one-sided p of a statistic that can only be large by an effect: hits, an absolute value, a greatest one.

    It is the share of draws that reach the observation, which itself counts as one of them.

    >>> tail_p(5, [1, 2, 5])
    0.5
    """
    reached = finite(null, "the null draw") >= float(finite(observed, "the observed statistic")) - 1e-12
    return float((1 + reached.sum()) / (1 + len(reached)))


def p_text(p: float) -> str:
    """How a p value is written in a sentence.

    >>> p_text(0.025), p_text(0.0001)
    ('p = 0.025', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _check_trials(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: an interval needs at least one trial, and 0 to n successes")


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), which stays sensible at 0 and n successes.

    Raises:
        ValueError: no trials, or successes that are not between 0 and n.

    >>> [round(end, 2) for end in wilson(0, 10)]
    [0.0, 0.28]
    """
    _check_trials(successes, n)
    z, share = norm.ppf(0.5 + level / 2), successes / n
    centre, spread = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)
    return float(max(low, 0.0)), float(min(high, 1.0))


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934): it holds the truth at least as often as it says.

    Raises:
        ValueError: no trials, or successes that are not between 0 and n.

    >>> [round(end, 3) for end in clopper_pearson(0, 30)]
    [0.0, 0.116]
    """
    _check_trials(successes, n)
    found = binomtest(successes, n).proportion_ci(level, "exact")
    return float(found.low), float(found.high)


def bootstrap_draws(values: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of each column over rows drawn with replacement, one row for each draw.

    >>> bootstrap_draws(np.ones((5, 2)), draws=3).shape
    (3, 2)
    """
    n = len(values)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    return times @ finite(values, "the observation") / n


@dataclass(frozen=True)
class Contrast:
    """A mean over observations, or a difference of two, as weights: `point` and a row of `draws` for each resample.

    >>> over = contrast(["a", "a", "b", "b"], [1, -1, 1, -1])
    >>> float(over.of(np.array([3, 1, 4, 2])))
    2.0
    >>> [float(end) for end in over.interval(np.array([3, 1, 4, 2]))]
    [2.0, 2.0]
    """

    point: np.ndarray  # [observation]
    draws: np.ndarray  # [draw observation]

    def of(self, values: np.ndarray) -> Any:
        """The contrast of values [... observation]."""
        return finite(values, "the observation") @ self.point

    def interval(self, values: np.ndarray, level: float = 0.95) -> tuple[Any, Any]:
        """Its percentile bootstrap interval."""
        drawn = finite(values, "the observation") @ self.draws.T
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=-1)
        return low, high


def contrast(
    groups: Sequence[Any] | np.ndarray,
    sign: Sequence[int] | np.ndarray | None = None,
    covariate: Sequence[float] | np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Contrast:
    """Mean over groups of the mean of their observations, of those with sign +1 less those with sign -1.

    The bootstrap draws groups, and then observations of each sign within each group that was drawn.

    Args:
        groups: the group (the scenario) of each observation.
        sign: +1, -1, or 0 for an observation that is left out; default +1 for all.
        covariate: a number for each observation, such as a length, that is held equal by least squares within groups.

    Raises:
        ValueError: a group in which one of the signs does not occur.

    >>> contrast(["a", "a", "b"]).point.tolist()  # each group counts as one
    [0.25, 0.25, 0.5]
    """
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    signs = np.ones(len(code), dtype=int) if sign is None else np.asarray(sign)
    kinds, names = sorted(set(signs) - {0}), np.unique(code[signs != 0])  # a group of zeros is left out
    n, rng = len(names), np.random.default_rng(seed)
    picks = rng.integers(0, n, (draws, n))
    times = np.concatenate([np.ones((1, n), dtype=int), np.stack([np.bincount(row, minlength=n) for row in picks])])
    weights = np.zeros((draws + 1, len(code)))
    for group, name in enumerate(names):
        for kind in kinds:
            own = np.flatnonzero((code == name) & (signs == kind))
            if not len(own):
                raise ValueError(f"group {np.unique(groups)[name]} has no observation with the sign {kind:+d}")
            weights[0, own] = kind / len(own) / n
            drawn = rng.multinomial(times[1:, group] * len(own), np.full(len(own), 1 / len(own)))
            weights[1:, own] = kind * drawn / len(own) / n
    if covariate is not None:
        weights = _adjusted(np.abs(weights), code, signs, np.asarray(covariate, dtype=float))
    return Contrast(weights[0], weights[1:])


def _adjusted(often: np.ndarray, code: np.ndarray, signs: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weights of the least-squares coefficient of the sign, beside a covariate and the groups, for rows of `often`."""
    inside = code == np.arange(code.max() + 1)[:, None]

    def centred(values: np.ndarray) -> np.ndarray:
        total = np.maximum(often @ inside.T, 1e-12)
        return values - (((often * values) @ inside.T) / total) @ inside

    k, x = centred((signs > 0).astype(float)), centred(x)
    kk, kx, xx = ((often * a * b).sum(axis=1, keepdims=True) for a, b in ((k, k), (k, x), (x, x)))
    rest = xx - kx**2 / np.maximum(kk, 1e-12)
    slope = np.divide(kx, xx, out=np.zeros_like(kx), where=rest > 1e-9 * xx)  # of the sign on the covariate
    residual = k - slope * x
    return often * residual / np.maximum((often * residual * k).sum(axis=1, keepdims=True), 1e-12)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """q values by Benjamini and Hochberg: of the results with q at most 0.05, 5 % are expected to be false.

    >>> false_discovery(np.array([0.01, 0.04])).tolist()
    [0.02, 0.04]
    """
    return false_discovery_control(finite(p, "p"), method="bh")


def outside_draws(
    value: np.ndarray, null: np.ndarray, difference: bool = False, level: float = 0.95
) -> tuple[np.ndarray, ...]:
    """Whether a value lies outside the spread of a few null draws: p, and the prediction interval of one more draw.

    Student's t with a draw less than there are as degrees of freedom. The first axis of `null` is the draws.

    Args:
        difference: the value is the difference of two independent draws, so the interval is centred on 0.

    Returns:
        p, and the lower and upper end of the interval, each of the shape of a draw.

    >>> p, low, high = outside_draws(np.array(3.0), np.array([0.0, 1.0, -1.0, 0.5, -0.5]))
    >>> bool(p < 0.05), bool(low < 0 < high)
    (True, True)
    """
    n, spread = len(null), null.std(axis=0, ddof=1)
    middle = np.zeros_like(spread) if difference else null.mean(axis=0)
    error = spread * np.sqrt(2 if difference else 1 + 1 / n)
    p = 2 * student_t.sf(np.abs(value - middle) / np.maximum(error, 1e-12), n - 1)
    reach = student_t.ppf((1 + level) / 2, n - 1) * error
    return tuple(np.asarray(part) for part in (p, middle - reach, middle + reach))
