"""Checks of notebook 12: a test that leaks, pairs of prefixes, a ceiling, a random direction, what comes back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from emolens.exercises._check import MISSING, checked

CLOSE = 0.02
SIZES = ((118, 576), (30, 640), (5, 10))  # dimensions of a space, and of the space it lies in


@checked("An accuracy is one of texts that were not used to make the means; the others are told by heart.")
def not_by_heart(
    answer: Callable[[Float[np.ndarray, "text d"], Int[np.ndarray, "text"]], float],
    x: Float[np.ndarray, "text d"],
    truth: Int[np.ndarray, "text"],
) -> str | None:
    """The share of texts whose class has the nearest mean, each text left out of the mean of its own class.

    Args:
        answer: a function of texts and their classes.

    >>> not_by_heart(lambda x, truth: 1.0, np.random.default_rng(0).normal(size=(12, 40)), np.arange(12) % 3)
    Not yet: a share of 1.00 is what the mean of all texts gives: is the text that is judged still among them?
    """
    said: Any = answer(x, truth)
    if said is None or said is ...:
        return MISSING
    if not 0 <= float(said) <= 1:
        return f"{float(said):.2f} is no share of texts."
    for features in (x, np.random.default_rng(0).normal(size=x.shape)):
        own, left_out, by_heart = float(answer(features, truth)), _told(features, truth, True), _told(features, truth)
        if abs(own - left_out) > 1e-6:
            if abs(own - by_heart) < 1e-6:
                return (
                    f"a share of {own:.2f} is what the mean of all texts gives: is the text that is judged still "
                    f"among them?"
                )
            return f"a share of {own:.2f} is not that of the nearest mean of the other texts (squared distances)."
    return None


def _told(x: np.ndarray, truth: np.ndarray, without: bool = False) -> float:
    """The share of texts nearest to the mean of their own class, which holds the text itself or does not."""
    hits = []
    for n in range(len(x)):
        kept = np.arange(len(x)) != n if without else np.ones(len(x), dtype=bool)
        means = [x[kept & (truth == name)].mean(axis=0) for name in np.unique(truth)]
        hits.append(np.unique(truth)[np.argmin([((x[n] - mean) ** 2).sum() for mean in means])] == truth[n])
    return float(np.mean(hits))


@checked("Both prefixes of a pair end in the same sentence, so each pair is compared with itself.")
def paired_effect(
    answer: Callable[[Float[np.ndarray, "pair"], Float[np.ndarray, "pair"]], float],
    favourable: Float[np.ndarray, "pair"],
    unfavourable: Float[np.ndarray, "pair"],
) -> str | None:
    """The mean difference within pairs, in standard deviations of these differences.

    Args:
        answer: a function of both arrays.
        favourable, unfavourable: valence on the same tokens after either prefix.

    >>> a, b = np.array([2.0, 3.0, 9.0]), np.array([1.0, 1.0, 4.0])
    >>> paired_effect(lambda a, b: (a - b).mean(), a, b)
    Not yet: that is the mean difference itself; divide it by the standard deviation of the differences.
    >>> paired_effect(lambda a, b: (a - b).mean() / (a - b).std(), a, b)
    Right. Both prefixes of a pair end in the same sentence, so each pair is compared with itself.
    """
    said: Any = answer(favourable, unfavourable)
    if said is None or said is ...:
        return MISSING
    own, apart = float(said), favourable - unfavourable
    right = [apart.mean() / apart.std(ddof=ddof) for ddof in (0, 1)]
    if any(abs(own - value) <= 1e-4 * abs(value) for value in right):
        return None
    if any(abs(own + value) <= 1e-4 * abs(value) for value in right):
        return "above zero should mean more pleasant after the favourable prefix."
    if np.isclose(own, apart.mean()):
        return "that is the mean difference itself; divide it by the standard deviation of the differences."
    both = np.concatenate([favourable, unfavourable])
    spreads = [np.sqrt((favourable.var(ddof=n) + unfavourable.var(ddof=n)) / 2) for n in (0, 1)]
    if any(np.isclose(own, apart.mean() / spread) for spread in (*spreads, both.std(), both.std(ddof=1))):
        return "this is divided by the spread of the texts; the pairs differ less from each other than the texts do."
    if any(np.isclose(own, value * np.sqrt(len(apart))) for value in right):
        return "this is in standard errors, which shrink with the number of pairs; standard deviations are asked for."
    return "subtract within each pair first; then the mean of the differences, divided by their standard deviation."


@checked(
    "A cosine means something only beside the largest one that noise allows; then the two groupings can be compared."
)
def role_and_person(answer: Any, matrix: pd.DataFrame) -> str | None:
    """The cosines by role and by person, each as a share of their ceilings.

    Args:
        answer: two numbers: the sum of the two cosines of a group, divided by the sum of their two ceilings.
        matrix: `row`, `column` and `score` of the four sets, with the split halves on the diagonal.

    >>> names = ["present, user", "present, assistant", "other, user", "other, assistant"]
    >>> rows = [{"row": a, "column": b, "score": 0.8 if a == b else 0.2} for a in names for b in names]
    >>> role_and_person((0.2, 0.2), pd.DataFrame(rows))
    Not yet: these are the cosines; divide them by what two halves of the dialogues allow.
    """
    own = np.asarray(answer, dtype=float)
    if own.shape != (2,):
        return f"two numbers are asked for, by who is speaking and by person; this has the shape {own.shape}."
    cells = matrix.pivot(index="row", columns="column", values="score")
    groups = [
        [("present, user", "present, assistant"), ("other, user", "other, assistant")],
        [("present, user", "other, assistant"), ("present, assistant", "other, user")],
    ]
    cosines = np.array([[cells.loc[a, b] for a, b in group] for group in groups])
    halves = {name: max(float(cells.loc[name, name]), 0.0) for name in cells.index}
    most = np.array([[np.sqrt(halves[a] * halves[b]) for a, b in group] for group in groups])
    with np.errstate(divide="ignore", invalid="ignore"):
        right, each = cosines.sum(axis=1) / most.sum(axis=1), (cosines / most).mean(axis=1)
        product = cosines.sum(axis=1) / (most**2).sum(axis=1)
    if np.allclose(own, right, atol=CLOSE, equal_nan=True):
        return None
    if np.allclose(own[::-1], right, atol=CLOSE):
        return "these two are right in the other order: by who is speaking first, then by person."
    if np.allclose(own, cosines.mean(axis=1), atol=CLOSE) or np.allclose(own, cosines.sum(axis=1), atol=CLOSE):
        return "these are the cosines; divide them by what two halves of the dialogues allow."
    if np.allclose(own, product, atol=CLOSE):
        return "the ceiling is the square root of the product of the two agreements."
    if np.allclose(own, each, atol=CLOSE):
        return "add the two cosines up, and the two ceilings, before you divide: a tiny ceiling must not count most."
    return "which two pairs of sets are of one who speaks, and which of one person? Look at rows and columns once more."


@checked(
    "Nearly all of a random direction lies outside of any space that is small, so a large share outside is no sign."
)
def random_left(answer: Callable[[int, int], float]) -> str | None:
    """The share of the norm of a random direction that lies outside a space, from the dimensions of both.

    >>> random_left(lambda inside, d_model: 1 - inside / d_model)
    Not yet: that is the share of the squared norm; the norm itself is asked for.
    """
    for inside, whole in SIZES:
        said: Any = answer(inside, whole)
        if said is None or said is ...:
            return MISSING
        own, share = float(said), inside / whole
        if abs(own - np.sqrt(1 - share)) <= CLOSE:
            continue
        if abs(own - (1 - share)) <= CLOSE:
            return "that is the share of the squared norm; the norm itself is asked for."
        if abs(own - np.sqrt(share)) <= CLOSE:
            return "that is what lies inside the space."
        return f"of {whole} dimensions {inside} are taken away: {own:.2f} is not what is left of the norm, on average."
    return None


@checked(
    "The story is still in the context; compare with a question that has nothing to do with it before you conclude."
)
def comes_back(answer: Any, scores: Float[np.ndarray, "text emotion"], truth: Int[np.ndarray, "text"]) -> str | None:
    """The score of each text's own emotion less the mean of its scores on the other emotions.

    Args:
        scores: of the texts that were asked for the story once more.
        truth: the number of each text's emotion.

    >>> comes_back(np.zeros(2), np.array([[0.3, 0.1], [0.1, 0.4]]), np.array([0, 1]))
    Not yet: these are not the margins of these scores: own emotion less the mean of the others, text by text.
    """
    own, scores = np.asarray(answer, dtype=float), np.asarray(scores, dtype=float)
    if own.shape != (len(scores),):
        return f"one margin for each of {len(scores)} texts is asked for; this has the shape {own.shape}."
    mine = scores[np.arange(len(scores)), truth]
    right = mine - (scores.sum(axis=1) - mine) / (scores.shape[1] - 1)
    if np.allclose(own, right, atol=1e-3):
        return None
    if np.allclose(own, mine - scores.mean(axis=1), atol=1e-3):
        return "the emotion itself is among those that you take away: the others alone are asked for."
    if np.allclose(own, mine, atol=1e-3):
        return "that is the emotion's own score; what do the other emotions of the same text have?"
    return "these are not the margins of these scores: own emotion less the mean of the others, text by text."
