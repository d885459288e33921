"""Checks of notebook 13: an average that fades, what no alarm in thirty texts promises, an area, a null, a monitor."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float

from emolens.exercises._check import MISSING, checked
from emolens.stats import clopper_pearson
from emolens.watching.monitor import Monitor, smooth

CLOSE = 0.002
RATE = 0.05


@checked("The weight of a token halves with every half-life, and what came before the text counts as nothing.")
def fading(
    answer: Callable[[Float[np.ndarray, "pos"], float], Float[np.ndarray, "pos"]], scores: Float[np.ndarray, "pos"]
) -> str | None:
    """The exponential moving average of scores, from a function of scores and half-life.

    >>> fading(lambda scores, half_life: scores, np.array([1.0, 0.0, 0.5]))
    Not yet: nothing is averaged: the scores come back as they were.
    """
    for x, half_life in ((np.asarray(scores, dtype=float), 10.0), (np.array([1.0, 1.0, 0.0, -2.0]), 2.0)):
        said: Any = answer(x, half_life)
        if said is None or said is ...:
            return MISSING
        own, right = np.asarray(said, dtype=float), smooth(x, half_life)
        if own.shape != x.shape:
            return f"{len(x)} scores give {len(x)} averages; these have the shape {own.shape}."
        if np.allclose(own, right, atol=1e-5):
            continue
        if np.allclose(own, x):
            return "nothing is averaged: the scores come back as they were."
        keep = 0.5 ** (1 / half_life)
        if np.allclose(own, smooth(x, half_life) / (1 - keep), atol=1e-5):
            return "the new score counts in full here; what is kept and what is new must add up to 1."
        if np.allclose(own, smooth(x, half_life, before=x[0]), atol=1e-5):
            return "the average starts at the first score here; it starts at 0, where nothing has been read."
        return "after as many tokens as the half-life an old score must count half: how much is kept at each token?"
    return None


@checked("No alarm in few texts is a weak promise: the rate may be several times what one hopes for.")
def promised(answer: Any, texts: int) -> str | None:
    """What no alarm in so many quiet texts promises, and the smallest rate that they support.

    Args:
        answer: the largest rate at which no alarm still happens in one of forty samples of this size (the upper end of
            the interval of Clopper and Pearson), and the smallest rate for which a line can be drawn.

    >>> promised((0.1, 1 / 31), 30)
    Not yet: 0.1 is 3 / n, or near it: that leaves 5 % on one side. Of an interval of 95 % each side has 2.5 %.
    """
    own = np.asarray(answer, dtype=float)
    if own.shape != (2,):
        return f"two numbers are asked for, the upper end and the smallest rate; this has the shape {own.shape}."
    high, smallest = clopper_pearson(0, texts)[1], 1 / (texts + 1)
    if abs(own[0] - high) > CLOSE:
        if min(abs(own[0] - (1 - 0.05 ** (1 / texts))), abs(own[0] - 3 / texts)) <= CLOSE:
            return (
                f"{own[0]:.3g} is 3 / n, or near it: that leaves 5 % on one side. Of an interval of 95 % each side has "
                f"2.5 %."
            )
        return f"at a rate of {own[0]:.3g} no alarm in {texts} texts has another probability than 2.5 %."
    if abs(own[1] - smallest) > CLOSE / 10:
        if abs(own[1] - 1 / texts) <= CLOSE / 10:
            return "the new text must be counted too: how many places are there for it among the quiet ones?"
        return "with the line at the highest quiet text, how likely is it that one more text stands above all of them?"
    return None


@checked("The area is the share of pairs in which the loud text is the higher one; a tie is half of a pair.")
def area(
    answer: Callable[[np.ndarray, np.ndarray], float],
    loud: Float[np.ndarray, "loud"],
    quiet: Float[np.ndarray, "quiet"],
) -> str | None:
    """The area under the ROC curve, from a function of the heights of loud and of quiet texts.

    >>> area(lambda loud, quiet: (loud > quiet).mean(), np.array([1.0, 3.0]), np.array([2.0, 0.5]))
    Not yet: each loud text is compared with one quiet text here; compare it with every one of them.
    """
    ties = (np.array([2.0, 3.0, 3.0]), np.array([1.0, 3.0, 0.0]))
    for high, low in ((np.asarray(loud, dtype=float), np.asarray(quiet, dtype=float)), ties):
        said: Any = answer(high, low)
        if said is None or said is ...:
            return MISSING
        own, above = float(said), (high[:, None] > low).mean()
        right = above + 0.5 * (high[:, None] == low).mean()
        if abs(own - right) < 1e-6:
            continue
        if abs(own - (1 - right)) < 1e-6:
            return "this is the share in which the quiet text is the higher one."
        if abs(own - above) < 1e-6:
            return "two texts of the same height are a tie, which counts half."
        if len(high) == len(low) and abs(own - (high > low).mean()) < 1e-6:
            return "each loud text is compared with one quiet text here; compare it with every one of them."
        return f"{own:.3f} is not the share of all pairs of a loud and a quiet text."
    return None


@checked("Under the null it does not matter which twin is called the escalating one, so every swap is as likely.")
def swapped(
    answer: Callable[[np.ndarray, np.ndarray], float],
    loud: Float[np.ndarray, "pair"],
    quiet: Float[np.ndarray, "pair"],
) -> str | None:
    """The one-sided p value of the area when twins may be swapped, from a function of the heights of both twins.

    Every way to swap counts (2 to the power of the number of pairs), the one that was observed among them; p is the
    share of them whose area is at least as large.

    >>> swapped(lambda loud, quiet: 0.0, np.array([2.0, 3.0]), np.array([1.0, 0.0]))
    Not yet: p = 0 cannot be: to swap nothing is one of the ways, and it reaches what was observed.
    """
    rng = np.random.default_rng(0)
    for high, low in ((np.asarray(loud), np.asarray(quiet)), (rng.normal(0.5, 1, 6), rng.normal(0, 1, 6))):
        said: Any = answer(high, low)
        if said is None or said is ...:
            return MISSING
        own, right = float(said), _swaps(high, low)
        if own == 0:
            return "p = 0 cannot be: to swap nothing is one of the ways, and it reaches what was observed."
        if abs(own - right) <= 0.1 / 2 ** len(high) or (abs(own - right) < 0.01 and len(high) > 8):
            continue
        if abs(own - (1 - right)) < 0.01:
            return "this is the share of swaps below what was observed."
        return f"p = {own:.3f} is not the share of all swaps within pairs that reach the observed area."
    return None


def _swaps(loud: np.ndarray, quiet: np.ndarray) -> float:
    def of(a: np.ndarray, b: np.ndarray) -> float:
        return float((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())

    pairs, observed = np.stack([loud, quiet]), of(loud, quiet)
    columns = np.arange(len(loud))
    areas = [
        of(pairs[list(way), columns], pairs[[1 - s for s in way], columns]) for way in product((0, 1), repeat=len(loud))
    ]
    return float(np.mean(np.array(areas) >= observed - 1e-12))


@checked("A monitor watches any direction; the rate of false alarms is held on quiet texts, whatever it watches.")
def own_monitor(answer: Any, quiet: Sequence[Any]) -> str | None:
    """A monitor of a direction that is a sum of emotions, set on all of the quiet texts for one false alarm in twenty.

    >>> own_monitor("angry", [])
    Not yet: a Monitor is asked for, as el.Monitor.calibrate gives one; this is a str.
    """
    if not isinstance(answer, Monitor):
        return f"a Monitor is asked for, as el.Monitor.calibrate gives one; this is a {type(answer).__name__}."
    if len(answer.quiet) != len(quiet):
        return f"it was set on {len(answer.quiet)} quiet texts; take all {len(quiet)}."
    if abs(answer.rate - RATE) > 1e-9:
        return f"it was set for a rate of {answer.rate:g}, not of one in twenty."
    if len(terms := [getattr(each, "terms", ()) for each in answer.watched.items.values()]) != 1:
        return f"it watches {len(terms)} things; one direction is asked for."
    if len(terms[0]) < 2:
        return "it watches a single emotion; add up several, with el's vectors as with numbers."
    above = sum(height > answer.threshold for height in answer.quiet)
    return None if above <= RATE * len(quiet) else f"{above} of {len(quiet)} quiet texts give an alarm."
