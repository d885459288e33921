"""Exercises on how the vectors are arranged: neighbours, clusters, components, and two arrangements."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_rand_score, rand_score
from torch import Tensor

from emolens.exercises._check import MISSING, checked
from emolens.vectors.geometry import alike, neighbour_share

CLOSE = 1e-3
DRAWS = 999


@checked("An emotion's neighbours are counted without itself, and each emotion has the same weight.")
def share_of_neighbours(
    answer: Callable[..., Any], similarity: Float[Tensor, "emotion emotion"], labels: Int[Tensor, "emotion"], k: int = 5
) -> str | None:
    """The share of each emotion's k nearest neighbours that are in its own cluster, from a matrix of cosines.

    Args:
        answer: a function (similarity, labels, k) -> number.
        similarity: cosines of all pairs, 1 on the diagonal.
        labels: the cluster of each emotion.

    >>> from emolens.vectors.geometry import neighbour_share
    >>> share_of_neighbours(neighbour_share, shipped.similarity(20), torch.arange(171) % 3)
    Right. An emotion's neighbours are counted without itself, and each emotion has the same weight.
    """
    before = similarity.clone()
    mine = answer(similarity.clone(), labels.clone(), k)
    if mine is None or mine is ...:
        return MISSING
    if (mine := _number(mine)) is None:
        return "give one number, the mean over all emotions."
    truth = neighbour_share(before, labels, k)
    if abs(mine - truth) < CLOSE:
        return None
    with_self = before.topk(k, dim=1).indices
    if abs(mine - float((labels[with_self] == labels[:, None]).float().mean())) < CLOSE:
        return "an emotion is its own nearest neighbour in your list: its cosine with itself is 1."
    if abs(mine - k * truth) < CLOSE or abs(mine - k * len(labels) * truth) < 0.5:
        return "that is a count: divide by the number of neighbours that were looked at."
    furthest = before.topk(k, dim=1, largest=False).indices
    if abs(mine - float((labels[furthest] == labels[:, None]).float().mean())) < CLOSE:
        return "those are the furthest emotions: a larger cosine is nearer."
    return "it is another number: for each row take the k largest cosines, and look up the labels of those columns."


@checked("Ten clusters by k-means are one of many cuts: another start gives another one.")
def stability(answer: Any, runs: Sequence[Any]) -> str | None:
    """How far several clusterings of the same emotions agree: the mean adjusted Rand index over all pairs of runs.

    Args:
        answer: a number.
        runs: the labels [emotion] of each run, at least two.

    >>> stability(1.0, [[0, 0, 1], [1, 1, 0]])  # the same clusters under other numbers
    Right. Ten clusters by k-means are one of many cuts: another start gives another one.
    """
    if (mine := _number(answer)) is None:
        return "give one number, the mean over the pairs of runs."
    labels = [np.asarray(run) for run in runs]
    every = [adjusted_rand_score(a, b) for a, b in combinations(labels, 2)]
    truth = float(np.mean(every))
    if abs(mine - truth) < CLOSE:
        return None
    with_self = (2 * sum(every) + len(labels)) / len(labels) ** 2
    if abs(mine - with_self) < CLOSE:
        return "a run agrees perfectly with itself: leave those pairs out."
    if abs(mine - np.mean([rand_score(a, b) for a, b in combinations(labels, 2)])) < CLOSE:
        return "that is the Rand index without the adjustment: two cuts at random would score high as well."
    if abs(mine - np.mean([(a == b).mean() for a, b in combinations(labels, 2)])) < CLOSE:
        return "the numbers of clusters mean nothing: cluster 3 of one run may be cluster 7 of another."
    if abs(mine - np.mean(every[: len(labels) - 1])) < CLOSE:
        return "you compared all runs with the first one only: take every pair."
    return "it is another number: take every pair of runs once, and average the adjusted Rand index."


@checked("Without what the dimensions share, the first component explains far less.")
def without_structure(
    answer: Callable[..., Any], vectors: Float[Tensor, "emotion d_model"], seed: int = 0
) -> str | None:
    """A null for the share of variance: vectors whose dimensions keep their values and lose what they share.

    Args:
        answer: a function (vectors, rng) -> shuffled vectors of the same shape; `rng` is a numpy generator.

    >>> def each_dimension(vectors, rng):
    ...     return torch.stack([column[torch.from_numpy(rng.permutation(len(column)))] for column in vectors.T], dim=1)
    >>> without_structure(each_dimension, shipped.vectors(20))
    Right. Without what the dimensions share, the first component explains far less.
    """
    mine = answer(vectors.clone(), np.random.default_rng(seed))
    if mine is None or mine is ...:
        return MISSING
    made, given = (np.asarray(x, dtype=float) for x in (mine, vectors))
    if made.shape != given.shape:
        return f"the shape is {list(made.shape)}, not {list(given.shape)}: give a vector for each emotion."
    if np.allclose(made, given):
        return "nothing was moved."
    if not np.allclose(np.sort(made, axis=0), np.sort(given, axis=0), atol=1e-4):
        if np.allclose(np.sort(made, axis=1), np.sort(given, axis=1), atol=1e-4):
            return "you shuffled within each emotion: then a dimension does not keep its own values and variance."
        return "each dimension has to keep its own values, in another order."
    true, null = (_first_share(x) for x in (given, made))
    if abs(true - null) < CLOSE:
        return "whole vectors changed places: the cloud of points is the same, and so are its components."
    again = np.asarray(answer(vectors.clone(), np.random.default_rng(seed + 1)), dtype=float)
    if np.allclose(again, made):
        return "another generator gives the same order: draw the order from `rng`."
    if null > 0.9 * true:
        return "neighbouring dimensions still move together: draw a new order for each dimension."
    return None


@checked("Each component alone is wrong one time in twenty; the best of five is wrong far more often.")
def best_of_five(
    answer: Any, places: Float[np.ndarray, "word component"], human: Float[np.ndarray, "word"], level: float = 0.05
) -> str | None:
    """How often ratings that mean nothing pass a test that looks at each component alone and reports the best.

    Args:
        answer: a share, from 0 to 1.
        places: coordinates of the rated words on each component.
        human: their ratings.
        level: that of the test of a single component.

    >>> rng = np.random.default_rng(0)
    >>> best_of_five(0.05, rng.normal(size=(40, 5)), rng.normal(size=40))
    Not yet: that is how often a single component passes: the colleague looks at all of them.
    """
    if (mine := _number(answer)) is None:
        return "give one number, the share of permuted ratings that pass."
    if not 0 <= mine <= 1:
        return f"{mine:g} is no share: divide by the number of permutations."
    rng = np.random.default_rng(12345)
    null = np.abs(_correlations(places, np.stack([rng.permutation(human) for _ in range(DRAWS)])))
    bars = np.quantile(null, 1 - level, axis=0)
    truth = float((null > bars).any(axis=1).mean())
    if abs(mine - truth) < max(0.04, 4 * np.sqrt(truth * (1 - truth) / DRAWS)):
        return None
    if abs(mine - level) < 0.02:
        return "that is how often a single component passes: the colleague looks at all of them."
    if abs(mine - (1 - truth)) < 0.05:
        return "that is how often none of them passes."
    if abs(mine - places.shape[1] * level) < 0.015:
        return "adding the levels counts twice what passes on two components: count the permutations instead."
    return "it is another share: permute the ratings, and count how often any component is beyond its own bar."


@checked("Two arrangements of the same emotions can be compared, though their spaces have other dimensions.")
def representational(
    answer: Callable[..., Any], first: Float[Tensor, "emotion _"], second: Float[Tensor, "emotion _"]
) -> str | None:
    """How alike two arrangements are: the correlation of their cosines over the pairs of emotions.

    Args:
        answer: a function (first, second) -> number.
        first, second: vectors of the same emotions, in spaces that need not be the same.

    >>> from emolens.vectors.geometry import alike
    >>> representational(lambda a, b: alike([a, b])["pearson"][0, 1], shipped.matrix(18), shipped.matrix(20))
    Right. Two arrangements of the same emotions can be compared, though their spaces have other dimensions.
    """
    mine = answer(first.clone(), second.clone())
    if mine is None or mine is ...:
        return MISSING
    if (mine := _number(mine)) is None:
        return "give one number."
    truth = float(alike([first, second])["pearson"][0, 1])
    if abs(mine - truth) < CLOSE:
        return None
    cosines = [(x := torch.nn.functional.normalize(part.double(), dim=1)) @ x.T for part in (first, second)]
    products = [part.double() @ part.double().T for part in (first, second)]
    rows, columns = torch.triu_indices(len(first), len(first), 1)
    if abs(mine - _r(*(part.flatten() for part in cosines))) < CLOSE:
        return "the diagonal is 1 in both matrices, and each pair is there twice: take the pairs above the diagonal."
    if abs(mine - _r(*(part[rows, columns] for part in products))) < CLOSE:
        return "those are dot products: long vectors count more. Scale each vector to length 1 first."
    return "it is another number: make both matrices of cosines, take their pairs, and correlate."


def _number(answer: Any) -> float | None:
    """An answer as one number, if it is one."""
    try:
        return float(answer)
    except (TypeError, ValueError, RuntimeError):
        return None


def _first_share(x: np.ndarray) -> float:
    """The share of variance of the first component."""
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return float(values[0] / values.sum())


def _correlations(places: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """The correlation of each row of ratings [draw word] with each component [word component]."""
    x, y = ((part - part.mean(axis=0)) / part.std(axis=0) for part in (np.asarray(places, float), ratings.T))
    return y.T @ x / len(x)


def _r(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
