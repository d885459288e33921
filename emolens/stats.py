"""Intervals, p values and contrasts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, norm, rankdata
from scipy.stats import t as student_t


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
    """
    values = np.asarray(values, dtype=float)
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
    """Pearson's r (Spearman's rho with `ranks`) of two columns, with its percentile bootstrap interval over rows."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
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
    """
    values = np.asarray(values, dtype=float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(values)))
    return p_value(abs(values.mean()), np.abs((signs * values).mean(axis=1)))


def p_value(observed: float, null: np.ndarray) -> float:
    """Share of null draws that reach the observed value, which itself counts as one of them."""
    return float((1 + (np.asarray(null) >= observed - 1e-12).sum()) / (1 + len(null)))


def p_text(p: float) -> str:
    """How a p value is written in a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), which stays sensible at 0 and n successes.

    Raises:
        ValueError: no trials, or successes that are not between 0 and n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: an interval needs at least one trial, and 0 to n successes")
    z, share = norm.ppf(0.5 + level / 2), successes / n
    centre, spread = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)
    return float(max(low, 0.0)), float(min(high, 1.0))


def bootstrap_draws(values: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of each column over rows drawn with replacement, one row for each draw."""
    n = len(values)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    return times @ np.asarray(values, dtype=float) / n


@dataclass(frozen=True)
class Contrast:
    """A mean over observations, or a difference of two, as weights: `point` and a row of `draws` for each resample."""

    point: np.ndarray  # [observation]
    draws: np.ndarray  # [draw observation]

    def of(self, values: np.ndarray) -> Any:
        """The contrast of values [... observation]."""
        return np.asarray(values, dtype=float) @ self.point

    def interval(self, values: np.ndarray, level: float = 0.95) -> tuple[Any, Any]:
        """Its percentile bootstrap interval."""
        drawn = np.asarray(values, dtype=float) @ self.draws.T
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
    """q values by Benjamini and Hochberg: of the results with q at most 0.05, 5 % are expected to be false."""
    return false_discovery_control(np.asarray(p, dtype=float), method="bh")


def outside_draws(
    value: np.ndarray, null: np.ndarray, difference: bool = False, level: float = 0.95
) -> tuple[np.ndarray, ...]:
    """Whether a value lies outside the spread of a few null draws: p, and the prediction interval of one more draw.

    Student's t with a draw less than there are as degrees of freedom. The first axis of `null` is the draws.

    Args:
        difference: the value is the difference of two independent draws, so the interval is centred on 0.
    """
    n, spread = len(null), null.std(axis=0, ddof=1)
    middle = np.zeros_like(spread) if difference else null.mean(axis=0)
    error = spread * np.sqrt(2 if difference else 1 + 1 / n)
    p = 2 * student_t.sf(np.abs(value - middle) / np.maximum(error, 1e-12), n - 1)
    reach = student_t.ppf((1 + level) / 2, n - 1) * error
    return tuple(np.asarray(part) for part in (p, middle - reach, middle + reach))
