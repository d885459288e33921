"""Checks of the exercises of notebook 01: vectors, denoising, whitening and the choice of a block, by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom

from emolens.exercises._check import MISSING, checked

CLOSE = 1e-3


def _vectors(x: pd.DataFrame, labels: pd.DataFrame, topics: bool = True) -> pd.DataFrame:
    """Raw vectors [emotion d_model] of stories, centred on their topics or on their registers alone."""
    groups = [labels["register"], labels["topic"]] if topics else [labels["register"]]
    cells = (x - x.groupby(groups).transform("mean")).groupby([labels["emotion"], labels["register"]]).mean()
    vectors = cells.groupby("emotion").mean()
    return vectors - vectors.mean()


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).clip(1e-12)


@checked(
    "Every emotion has a story on every topic, so the topics cancel from the means by themselves. Centring on topics "
    "matters where stories are missing, and for the noise that whitening needs."
)
def without_topics(answer: Any, x: pd.DataFrame, labels: pd.DataFrame) -> str | None:
    """The vectors when nothing but each register's mean is subtracted from the stories.

    Args:
        answer: [emotion d_model], the emotions in the order of the alphabet.
        x: [story d_model], a row for each story.
        labels: `register`, `topic` and `emotion` of each story.

    >>> labels = pd.DataFrame({"register": "plain", "topic": ["a", "a", "b", "b"], "emotion": ["calm", "sad"] * 2})
    >>> without_topics(np.zeros((2, 3)), pd.DataFrame(np.eye(4, 3)), labels)
    Not yet: all vectors are zero.
    """
    truth = _vectors(x, labels, topics=False)
    given = np.asarray(answer, dtype=float)
    if given.shape != truth.shape:
        return f"the answer has the shape {given.shape}, and {len(truth)} emotions need {truth.shape}."
    if not np.abs(given).max():
        return "all vectors are zero."
    size = float(np.abs(truth).to_numpy().max())
    if np.abs(given.mean(axis=0)).max() > CLOSE * size:
        return "the vectors are not centred: their mean over the emotions is not zero."
    if np.allclose(given, truth, atol=CLOSE * size):
        return None
    pooled = x.groupby(labels["emotion"]).mean()
    if np.allclose(given, pooled - pooled.mean(), atol=CLOSE * size):
        return "a register with more stories counts for more: average within each register first, then over registers."
    if _cosines(given, truth.to_numpy()).max() < -0.9:
        return "the sign is turned: it is the emotion's mean less the others'."
    return "these are not the means of the emotions' stories less the mean of each register."


@checked("This is the null of denoising: what is left after as many directions that mean nothing are projected out.")
def random_subspace(answer: Any, removed: int, d_model: int) -> str | None:
    """The share of a vector's length that is left when random directions are projected out.

    Args:
        answer: a number from 0 to 1.
        removed: how many directions, of `d_model`.

    >>> random_subspace(0.75, 25, 100)
    Not yet: that is the share of the squared length.
    >>> random_subspace(0.866, 25, 100)
    Right. This is the null of denoising: ...
    """
    share, left = float(answer), 1 - removed / d_model
    if not 0 <= share <= 1:
        return f"{share:g} is no share: it lies between 0 and 1."
    if abs(share - left**0.5) <= max(0.02, 0.1 * (1 - left**0.5)) and abs(share - left) > 1e-6:
        return None
    if abs(share - left) < 0.01:
        return "that is the share of the squared length."
    if abs(share - (removed / d_model) ** 0.5) < 0.01:
        return "that is the length of what is projected out, not of what is left."
    return "random directions leave another share: draw some, and project a random vector."


@checked("W need not be computed: W W is the inverse of S + c I, and a cosine needs W only twice at a time.")
def whitened_cosine(answer: Callable[..., Any]) -> str | None:
    """A function of a text, a vector, S and a: their cosine after both are multiplied by W = (S + a tr(S)/d I)^(-1/2).

    Args:
        answer: (x [d_model], v [d_model], s [d_model d_model], a) -> a number; tensors in float64.

    >>> whitened_cosine(lambda x, v, s, a: torch.cosine_similarity(x, v, dim=0))
    Not yet: nothing is whitened: that is the plain cosine.
    """
    draw = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    noise = torch.randn(40, 6, generator=draw, dtype=torch.float64) * torch.tensor([6.0, 3, 1, 1, 0.5, 0.2])
    s, a = noise.T @ noise / 40, 0.7
    given = answer(x, v, s, a)
    if given is None or given is ...:
        return MISSING
    said = float(given)
    eye = torch.eye(6, dtype=torch.float64)

    def power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
        values, turn = torch.linalg.eigh(matrix)
        return turn @ torch.diag(values**exponent) @ turn.T

    def cosine(matrix: torch.Tensor, exponent: float = -0.5) -> float:
        w = power(matrix, exponent)
        return float(torch.cosine_similarity(w @ x, w @ v, dim=0))

    right = s + a * s.trace() / 6 * eye
    w = power(right, -0.5)
    wrong = {
        "nothing is whitened: that is the plain cosine.": float(torch.cosine_similarity(x, v, dim=0)),
        "the ridge is a times the mean of the diagonal of S, not a alone.": cosine(s + a * eye),
        "the ridge is a times the mean of the diagonal of S, not a times its sum.": cosine(s + a * s.trace() * eye),
        "the ridge is missing: it is a times the mean of the diagonal of S.": cosine(s),
        "that is a whitening with the square of W on both sides.": cosine(right, -1.0),
        "that is a whitening with the root of W on both sides.": cosine(right, -0.25),
        "W makes noisy directions longer there: the power is negative.": cosine(right, 0.5),
        "that is a product and no cosine: divide by the whitened lengths of both.": float((w @ x) @ (w @ v)),
        "whitened is only one of the two.": float(torch.cosine_similarity(x, w @ v, dim=0)),
    }
    if abs(said - cosine(right)) < 1e-6:
        return None
    return next((what for what, value in wrong.items() if abs(said - value) < 1e-6), "another cosine was expected.")


@checked("That is how high the best of all blocks comes by luck. Hold it against what the best block found.")
def best_by_luck(answer: Any, texts: int, emotions: int, blocks: int) -> str | None:
    """The share found first that the best of several blocks exceeds by luck in 2.5 % of the cases.

    Args:
        answer: a share, from 0 to 1.
        texts: of which each is guessed right once in `emotions` times, in each of `blocks` independent blocks.

    >>> best_by_luck(0.0146, 342, 171, 30)
    Not yet: that is what a single block reaches: ...
    """
    share = float(answer)
    if not 0 <= share <= 1:
        return f"{share:g} is no share: it lies between 0 and 1."
    found, chance = share * texts, 1 / emotions
    right = binom.ppf(0.975 ** (1 / blocks), texts, chance)
    single = binom.ppf(0.975, texts, chance)
    if abs(found - right) <= 0.6:
        return None
    if abs(found - single) <= 0.6:
        return "that is what a single block reaches: the best of several is higher."
    if abs(found - texts * chance) <= 0.6:
        return "that is the mean, and half of all draws lie above it: an upper end is asked for."
    return f"the best of {blocks} blocks reaches {'less' if found > right else 'more'} than that by luck."


@checked("An emotion whose cosine is far below the others' rests on that topic.")
def without_a_topic(answer: Any, x: pd.DataFrame, labels: pd.DataFrame, topic: str) -> str | None:
    """The cosine of each emotion's raw vector with the one from all stories but those on one topic.

    Args:
        answer: [emotion], the emotions in the order of the alphabet.
        x, labels: as of `without_topics`.
        topic: that is left out, in every register.

    >>> labels = pd.DataFrame({"register": "plain", "topic": ["a", "a", "b", "b"], "emotion": ["calm", "sad"] * 2})
    >>> without_a_topic([1.0, 1.0], pd.DataFrame(np.eye(4, 3)), labels, "b")
    Not yet: all cosines are 1: the stories on that topic are still there.
    """
    keep = labels["topic"].ne(topic)
    truth = _cosines(_vectors(x, labels).to_numpy(), _vectors(x[keep], labels[keep]).to_numpy())
    given = np.asarray(answer, dtype=float)
    if given.shape != truth.shape:
        return f"the answer has the shape {given.shape}, and {len(truth)} emotions need {truth.shape}."
    if np.abs(given).max() > 1 + 1e-6:
        return "a cosine lies between -1 and 1."
    if np.allclose(given, truth, atol=2e-3):
        return None
    if np.allclose(given, 1, atol=1e-6):
        return "all cosines are 1: the stories on that topic are still there."
    only = _cosines(_vectors(x, labels).to_numpy(), _vectors(x[~keep], labels[~keep]).to_numpy())
    if np.allclose(given, only, atol=2e-3):
        return "these are from the stories on that topic alone; leave them out instead."
    if np.allclose(np.sort(given), np.sort(truth), atol=2e-3):
        return "the cosines are right, their order is not that of the alphabet."
    return "these are not the cosines of both sets of raw vectors."
