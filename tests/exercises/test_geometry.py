"""What the checks of the geometry notebook say to answers that are missing, wrong and right."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, rand_score

from emolens.exercises import geometry
from emolens.exercises._check import MISSING
from emolens.vectors.geometry import alike, neighbour_share

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 6, generator=GENERATOR) + 2 * torch.eye(3, 6).repeat_interleave(8, dim=0)
UNITS = torch.nn.functional.normalize(X, dim=1)
COSINES, LABELS = UNITS @ UNITS.T, torch.arange(3).repeat_interleave(8)
RUNS = [np.random.default_rng(seed).integers(0, 3, 24) for seed in range(4)]
PLACES, HUMAN = np.random.default_rng(1).normal(size=(60, 5)), np.random.default_rng(2).normal(size=60)


def with_itself(similarity, labels, k):
    return (labels[similarity.topk(k, dim=1).indices] == labels[:, None]).float().mean()


def furthest(similarity, labels, k):
    return (labels[similarity.topk(k, dim=1, largest=False).indices] == labels[:, None]).float().mean()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda similarity, labels, k: ..., MISSING),
        (with_itself, "its own nearest neighbour"),
        (furthest, "a larger cosine is nearer"),
        (lambda similarity, labels, k: k * neighbour_share(similarity, labels, k), "that is a count"),
        (lambda similarity, labels, k: similarity, "give one number"),
        (lambda similarity, labels, k: -1.0, "another number"),
        (neighbour_share, "Right. "),
    ],
)
def test_share_of_neighbours(answer, said, capsys):
    geometry.share_of_neighbours(answer, COSINES, LABELS)
    assert said in capsys.readouterr().out


def mean_of(score, pairs):
    return float(np.mean([score(RUNS[a], RUNS[b]) for a, b in pairs]))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (mean_of(adjusted_rand_score, [(a, b) for a in range(4) for b in range(4)]), "with itself"),
        (mean_of(rand_score, combinations(range(4), 2)), "without the adjustment"),
        (mean_of(lambda a, b: (a == b).mean(), combinations(range(4), 2)), "mean nothing"),
        (mean_of(adjusted_rand_score, [(0, 1), (0, 2), (0, 3)]), "the first one only"),
        ([0.1, 0.2], "give one number"),
        (0.9, "another number"),
        (mean_of(adjusted_rand_score, combinations(range(4), 2)), "Right. "),
    ],
)
def test_stability(answer, said, capsys):
    geometry.stability(answer, RUNS)
    assert said in capsys.readouterr().out


LINE = torch.outer(torch.arange(40.0), torch.ones(12)) + torch.randn(40, 12, generator=GENERATOR)  # one component


def each_dimension(vectors, rng):
    return torch.from_numpy(rng.permuted(vectors.numpy(), axis=0))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda vectors, rng: None, MISSING),
        (lambda vectors, rng: vectors, "nothing was moved"),
        (lambda vectors, rng: vectors[:5], "the shape is"),
        (lambda vectors, rng: vectors[torch.from_numpy(rng.permutation(40))], "whole vectors changed places"),
        (lambda vectors, rng: rng.permuted(vectors.numpy(), axis=1), "within each emotion"),
        (lambda vectors, rng: torch.from_numpy(rng.normal(size=vectors.shape)), "keep its own values"),
        (lambda vectors, rng: each_dimension(vectors, np.random.default_rng(3)), "from `rng`"),
        (each_dimension, "Right. "),
    ],
)
def test_without_structure(answer, said, capsys):
    geometry.without_structure(answer, LINE)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ("often", "give one number"),
        (230, "is no share"),
        (0.05, "a single component"),
        (0.77, "none of them"),
        (0.5, "another share"),
        (1 - 0.95**5, "Right. "),
    ],
)
def test_best_of_five(answer, said, capsys):
    geometry.best_of_five(answer, PLACES, HUMAN)
    assert said in capsys.readouterr().out


OTHER = torch.cat([X, torch.randn(24, 3, generator=GENERATOR)], dim=1) * torch.linspace(1, 9, 24)[:, None]


def pairs_of(matrix):
    return matrix[tuple(torch.triu_indices(24, 24, 1))]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda a, b: ..., MISSING),
        (lambda a, b: geometry._r(pairs_of(a @ a.T), pairs_of(b @ b.T)), "dot products"),
        (
            lambda a, b: geometry._r(*(((u := x / x.norm(dim=1, keepdim=True)) @ u.T).flatten() for x in (a, b))),
            "above the diagonal",
        ),
        (lambda a, b: 2.0, "another number"),
        (lambda a, b: alike([a, b])["pearson"][0, 1], "Right. "),
    ],
)
def test_representational(answer, said, capsys):
    geometry.representational(answer, X, OTHER)
    assert said in capsys.readouterr().out
