"""Checks of notebook 11: a difference of two effects, a slope through four points, what is not size, a fifth model."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from emolens.exercises._check import checked

NORMAL = 1.96  # standard errors on either side of a mean, for an interval of 95 %


@checked("An effect beyond its null beside one inside its null can be the same effect. Compare the two.")
def difference(answer: Any, smaller: pd.Series, larger: pd.Series) -> str | None:
    """The effect of the larger model less that of the smaller one, with its interval of 95 %.

    Args:
        answer: `(difference, low, high)`.
        smaller, larger: `effect`, `low`, `high`.

    >>> rows = pd.DataFrame({"effect": [0.2, 0.5], "low": [0.1, 0.4], "high": [0.3, 0.6]})
    >>> difference((0.3, 0.159, 0.441), rows.iloc[0], rows.iloc[1])
    Right. An effect beyond its null beside one inside its null can be the same effect. Compare the two.
    """
    if wrong := _not_numbers(answer, 3, "the difference, and both ends of its interval"):
        return wrong
    value, low, high = map(float, answer)
    truth = larger["effect"] - smaller["effect"]
    widths = [(row["high"] - row["low"]) / 2 for row in (smaller, larger)]
    half = float(np.hypot(*widths))
    if not np.isclose(value, truth, atol=2e-3):
        return "take the smaller model's effect from the larger one's." + _other_sign(value, truth)
    if not low <= value <= high:
        return "the interval does not hold the difference."
    if np.allclose([low, high], [truth - half, truth + half], rtol=0.03, atol=2e-3):
        return None
    if np.isclose((high - low) / 2, sum(widths), rtol=0.02):
        return "too wide: two errors seldom lie at their ends together. Which sum of them do independent errors follow?"
    if np.isclose((high - low) / 2, widths, rtol=0.02).any():
        return "that is the uncertainty of one of the two effects. The other one is uncertain as well."
    return f"the interval is too {'narrow' if (high - low) / 2 < half else 'wide'}."


@checked("Four points leave two degrees of freedom, so that only a very steady rise would be told from none.")
def slope(answer: Any, x: Any, y: Any) -> str | None:
    """The slope of a straight line through few points, with its interval of 95 %.

    Args:
        answer: `(slope, low, high)`.
        x, y: the points.

    >>> slope((1.0, -0.93, 2.93), [1, 2, 3, 4], [1, 3, 2, 4.4])
    Not yet: the slope of the line is another one: divide the sum of the products by the sum of the squares of x.
    """
    if wrong := _not_numbers(answer, 3, "the slope, and both ends of its interval"):
        return wrong
    value, low, high = map(float, answer)
    line = stats.linregress(x, y)
    if not np.isclose(value, line.slope, rtol=0.02, atol=1e-4):
        return "the slope of the line is another one: divide the sum of the products by the sum of the squares of x."
    half, free = (high - low) / 2, len(x) - 2
    truth = stats.t.ppf(0.975, free) * line.stderr
    if not np.isclose((high + low) / 2, value, atol=0.03 * abs(truth) + 1e-4):
        return "the interval does not lie around the slope."
    if np.isclose(half, truth, rtol=0.03, atol=1e-4):
        return None
    if np.isclose(half, NORMAL * line.stderr, rtol=0.03):
        return "too narrow: that is the interval for many points. The scatter is estimated from few points here."
    if np.isclose(half, line.stderr, rtol=0.03):
        return "that is the standard error, and not yet an interval."
    if np.isclose(half, truth * np.sqrt(free / len(x)), rtol=0.03):
        return "the scatter is too small: a line with two free numbers lies nearer to its points than it should."
    return f"the interval is too {'narrow' if half < truth else 'wide'}."


@checked("Taken alone, this pair has the smaller model ahead. Now count how many pairs you could have looked at.")
def not_size(answer: Any, table: pd.DataFrame) -> str | None:
    """A question on which a smaller model comes out above a larger one, by more than the interval of the difference.

    Args:
        answer: `(question, smaller model, larger model)`, any that fits.
        table: of the ladder: `question`, `model`, `parameters`, `effect`, `low`, `high`.

    >>> table = pd.DataFrame({"question": "found", "model": ["a", "b"], "parameters": [1e8, 1e9]})
    >>> table = table.assign(effect=[0.6, 0.4], low=[0.55, 0.35], high=[0.65, 0.45])
    >>> not_size(("found", "b", "a"), table)
    Not yet: b is the larger of the two.
    """
    if not (isinstance(answer, (tuple, list)) and len(answer) == 3):
        return "give three names in a tuple: the question, the smaller model, the larger model."
    question, *names = answer
    rows = table[table["question"].eq(question) & table["effect"].notna()].set_index("model")
    if rows.empty:
        return f"no model was asked the question {question!r}."
    if missing := [name for name in names if name not in rows.index]:
        return f"{missing[0]} has no answer to this question."
    smaller, larger = (rows.loc[name] for name in names)
    if smaller["parameters"] >= larger["parameters"]:
        return f"{names[0]} is the larger of the two."
    gap = smaller["effect"] - larger["effect"]
    if gap <= 0:
        return "the larger model's effect is at least as large, which size could explain."
    if gap <= np.hypot(smaller["high"] - smaller["low"], larger["high"] - larger["low"]) / 2:
        return "the smaller model lies above the larger one, but the interval of the difference holds 0."
    return None


@checked("The prediction holds nearly all that is possible: four models do not foretell a fifth.")
def fifth(answer: Any, x: Any, y: Any, at: float) -> str | None:
    """Where the effect of one more model lies with 95 %, if a straight line through the others holds.

    Args:
        answer: `(low, high)`, of a new model and not of the line; not cut at what is possible.
        x, y: the points.
        at: where on the axis of x the new model is.

    >>> fifth((0.4, 0.6), [1, 2, 3, 4], [0.4, 0.5, 0.4, 0.5], 5)
    Not yet: the interval is too narrow.
    """
    if wrong := _not_numbers(answer, 2, "both ends of the interval"):
        return wrong
    low, high = map(float, answer)
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    line, n = stats.linregress(x, y), len(x)
    centre = line.intercept + line.slope * at
    scatter = np.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / (n - 2))
    of_line = np.sqrt(1 / n + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    truth = stats.t.ppf(0.975, n - 2) * scatter * np.hypot(1, of_line)
    if not np.isclose((low + high) / 2, centre, atol=0.03 * truth + 1e-3):
        return f"its middle is not where the line is at {at:.3g}. Is x on the axis of the points?"
    half = (high - low) / 2
    if np.isclose(half, truth, rtol=0.03, atol=1e-4):
        return None
    if np.isclose(half, truth / np.hypot(1, of_line) * of_line, rtol=0.03):
        return "that is where the line lies. A new model scatters around the line, as the four do."
    return f"the interval is too {'narrow' if half < truth else 'wide'}."


def _not_numbers(answer: Any, n: int, what: str) -> str | None:
    """What is wrong with an answer that is not `n` numbers."""
    if not isinstance(answer, (tuple, list, np.ndarray)) or len(answer) != n:
        return f"give {n} numbers in a tuple: {what}."
    return None if np.isfinite(np.asarray(answer, dtype=float)).all() else "one of the numbers is not finite."


def _other_sign(value: float, truth: float) -> str:
    return " Yours has the other sign." if np.isclose(value, -truth, atol=2e-3) and truth else ""
