"""Checks of the exercises of notebook 06: Elo, the place and the activity, confounders, and nulls."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from emolens.exercises._check import MISSING, checked
from emolens.models.model import HookedModel
from emolens.studies.causes._pairs import Question, answer_tokens

CLOSE = 0.02
FEW, TRIALS = 39, 400  # null draws of the study, and families of new ones that a threshold is tried on


def _expected(a: float, b: float) -> float:
    return float(1 / (1 + 10 ** ((b - a) / 400)))


@checked("What one side wins the other loses, and a surprise moves more than a result that was expected.")
def elo_update(answer: Callable[..., Any]) -> str | None:
    """A function of two Elos, the result and k: both Elos after one comparison.

    Args:
        answer: (a, b, won, k) -> (new a, new b); `won` is 1 if the first one won, 0 if the second did, or the
            probability of the first.

    >>> elo_update(lambda a, b, won, k: (a + k * (won - 0.5), b - k * (won - 0.5)))
    Not yet: with 1700 against 1500 the first one is expected to win more than half of the time.
    """
    for a, b, won, k in ((1500, 1500, 1, 32), (1500, 1500, 0, 32), (1700, 1500, 1, 16), (1400, 1600, 0.7, 16)):
        given = answer(a, b, won, k)
        if given is None or given is ...:
            return MISSING
        if np.shape(given) != (2,):
            return "the function must return two Elos, that of the first and that of the second."
        first, second = (float(value) for value in given)
        if abs(first + second - a - b) > CLOSE:
            return "what the first one gains the second must lose: the sum of both stays as it was."
        gained, right = first - a, k * (won - _expected(a, b))
        if abs(gained - right) <= CLOSE:
            continue
        if abs(gained + right) <= CLOSE:
            return "the sign is turned: who wins goes up."
        if abs(gained - k * (won - _expected(b, a))) <= CLOSE:
            return "the expected result is that of the other side."
        if abs(gained - k * (won - 0.5)) <= CLOSE:
            return f"with {a} against {b} the first one is expected to win more than half of the time."
        natural = 1 / (1 + np.exp((b - a) / 400))
        if abs(gained - k * (won - natural)) <= CLOSE:
            return "Elo counts in powers of 10, not of e."
        return f"with {a} against {b}, won = {won} and k = {k} the first one should move by another amount."
    return None


@checked("The question asks for the same without letters. A preference for an activity would survive that change.")
def without_letters(answer: Any, model: HookedModel) -> str | None:
    """A `Question` whose answers are words and no letters, and that the model's tokenizer can tell apart.

    >>> without_letters(Question("{a} or {b}? Say A or B.", ("A", "B")), model)
    Not yet: the answers 'A' and 'B' are still letters.
    """
    if not isinstance(answer, Question):
        return f"the answer is a {type(answer).__name__}: give a preferences.Question(text, answers)."
    first, second = answer.answers
    if any(sum(letter.isalpha() for letter in word) < 2 for word in (first, second)):
        return f"the answers {first!r} and {second!r} are still letters."
    if not all(word.strip("( )").lower() in answer.text.lower() for word in (first, second)):
        return f"the question does not say that the answers are {first!r} and {second!r}."
    answer_tokens(model, answer)  # raises where the tokens do not tell them apart
    return None


@checked("What is left is the part of the correlation that the number of words does not explain.")
def partial_correlations(answer: Any, score: Any, strength: Any, words: Any) -> str | None:
    """The correlation of each emotion's score with strength, with the number of words held equal.

    Args:
        answer: [emotion].
        score: [activity emotion]; `strength` and `words` [activity].

    >>> rng = np.random.default_rng(0)
    >>> partial_correlations(0.5, rng.normal(size=(9, 2)), rng.normal(size=9), np.arange(9))
    Not yet: the answer has the shape (), and 2 emotions need (2,).
    """
    x, y, z = (np.asarray(values, dtype=float) for values in (score, strength, words))

    def rest(values: np.ndarray) -> np.ndarray:
        design = np.stack([np.ones(len(z)), z], axis=1)
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    def r(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a - a.mean(axis=0), b - b.mean()
        return (b @ a) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b)).clip(1e-12)

    given, truth = np.asarray(answer, dtype=float), r(rest(x), rest(y))
    if given.shape != truth.shape:
        return f"the answer has the shape {given.shape}, and {len(truth)} emotions need {truth.shape}."
    if np.allclose(given, truth, atol=1e-3):
        return None
    wrong = {
        "nothing is held equal: these are the plain correlations.": r(x, y),
        "the number of words is taken out of the strengths alone; the scores know it too.": r(x, rest(y)),
        "the number of words is taken out of the scores alone; the strengths know it too.": r(rest(x), y),
        "the sign is turned.": -truth,
    }
    near = (what for what, value in wrong.items() if np.allclose(given, value, atol=1e-3))
    return next(near, "these are not the correlations of what is left of both after a line on the number of words.")


@checked("So a high correlation can come from what a whole category shares: danger, length, topic. Look within them.")
def only_the_category(answer: Any, strength: Any, category: Any) -> str | None:
    """Scores that know nothing but the category of an activity, and correlate with strength as much as such scores can.

    Args:
        answer: [activity].
        strength: [activity]; `category` [activity], a name for each.

    >>> only_the_category([1, 2, 2, 2], [1.0, 2.0, 3.0, 4.0], ["x", "x", "y", "y"])
    Not yet: two activities of the category x have different scores: yours know more than the category.
    """
    given, y = np.asarray(answer, dtype=float), np.asarray(strength, dtype=float)
    names = pd.Series(list(category))
    if given.shape != y.shape:
        return f"the answer has the shape {given.shape}, and {len(y)} activities need {y.shape}."
    spread = pd.Series(given).groupby(names).agg(np.ptp)
    if spread.max() > 1e-6 * max(1.0, np.abs(given).max()):
        where = f"two activities of the category {spread.idxmax()} have different scores"
        return f"{where}: yours know more than the category."
    if np.ptp(given) == 0:
        return "all scores are alike: they correlate with nothing."
    best = pd.Series(y).groupby(names).transform("mean").to_numpy()
    most = np.corrcoef(best, y)[0, 1]
    r = np.corrcoef(given, y)[0, 1]
    if r < 0.99 * most:
        return f"your scores correlate at {r:.2f}; there are some that know the category alone and correlate more."
    return None


@checked("The more emotions are tried, the further the furthest lies by luck. It is that distance an effect must beat.")
def furthest_by_luck(answer: Callable[..., Any]) -> str | None:
    """A function of null effects and a number: how far the furthest of so many lies from their middle by luck.

    Args:
        answer: (null [draw], family) -> the distance that the furthest of `family` draws exceeds in 5 % of the cases.

    >>> furthest_by_luck(lambda null, family: np.quantile(np.abs(null - null.mean()), 0.95))
    Not yet: that is the distance for a single direction, whatever the family.
    """
    rng = np.random.default_rng(0)
    null, family = rng.normal(3.0, 1.5, 20_000), 22
    given = answer(null, family)
    if given is None or given is ...:
        return MISSING
    if np.shape(given) != ():
        return f"the function must return a single number, not an array of shape {np.shape(given)}."
    away = np.abs(null - null.mean())
    truth, said = float(np.quantile(away, 0.95 ** (1 / family))), float(given)
    if abs(said - truth) <= 0.07 * truth:
        passed = []
        for _ in range(TRIALS):
            few, new = rng.normal(3.0, 1.5, FEW), rng.normal(3.0, 1.5, family)
            passed.append(np.abs(new - few.mean()).max() > answer(few, family))
        if np.mean(passed) > 0.09:
            return (
                f"that holds for thousands of null draws. With {FEW} the furthest of {family} passes it in "
                f"{np.mean(passed):.0%} of the cases: resampling never goes beyond the furthest draw there is."
            )
        return None
    if said < 0:
        return "a distance is not negative."
    if abs(said - np.quantile(away, 0.95)) <= 0.07 * truth:
        return "that is the distance for a single direction, whatever the family."
    if abs(said - np.quantile(np.abs(null), 0.95 ** (1 / family))) <= 0.07 * truth:
        return "that is counted from zero; a null that is displaced has its middle elsewhere."
    return f"by luck the furthest of {family} lies {'less' if said > truth else 'more'} far from the middle."
