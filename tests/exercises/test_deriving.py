"""Notebook 01: what is said to wrong, missing and right answers."""

import numpy as np
import pandas as pd
import pytest
import torch

from emolens.exercises import deriving
from emolens.exercises._check import MISSING

RNG = np.random.default_rng(0)
ROWS = [(r, t, e) for r, n in (("literary", 4), ("plain", 2)) for t in range(n) for e in ("afraid", "calm", "sad")]
LABELS = pd.DataFrame([(r, f"{r} {t}", e) for r, t, e in ROWS], columns=["register", "topic", "emotion"])
X = pd.DataFrame(RNG.normal(size=(len(ROWS), 5)))
RIGHT = "Right. "


def means(x, labels, *by):
    cells = (x - x.groupby([labels[name] for name in by]).transform("mean")).groupby(
        [labels["emotion"], labels["register"]]
    )
    vectors = cells.mean().groupby("emotion").mean()
    return vectors - vectors.mean()


def pooled(x, labels):
    found = x.groupby(labels["emotion"]).mean()
    return found - found.mean()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda: means(X, LABELS, "register"), RIGHT),
        (lambda: means(X, LABELS, "register", "topic").to_numpy(), RIGHT),  # crossed: the same
        (lambda: -means(X, LABELS, "register"), "Not yet: the sign"),
        (lambda: pooled(X, LABELS), "Not yet: a register with more stories"),
        (lambda: means(X, LABELS, "register") + 1, "Not yet: the vectors are not centred"),
        (lambda: means(X, LABELS, "register").T, "Not yet: the answer has the shape (5, 3)"),
        (lambda: means(X, LABELS, "register").iloc[::-1].to_numpy(), "Not yet: these are not the means"),
    ],
)
def test_vectors_without_topics(answer, said, capsys):
    deriving.without_topics(answer if answer is ... else answer(), X, LABELS)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ((1 - 33 / 576) ** 0.5, RIGHT),
        (0.9708, RIGHT),
        (1 - 33 / 576, "Not yet: that is the share of the squared length"),
        ((33 / 576) ** 0.5, "Not yet: that is the length of what is projected out"),
        (97, "Not yet: 97 is no share"),
        (0.85, "Not yet: random directions leave another share"),
    ],
)
def test_a_random_subspace(answer, said, capsys):
    deriving.random_subspace(answer, 33, 576)
    assert capsys.readouterr().out.startswith(said)


def ridged(s, a):
    return s + a * s.trace() / len(s) * torch.eye(len(s), dtype=s.dtype)


def solved(x, v, s, a):
    inverse = torch.linalg.inv(ridged(s, a))
    return (x @ inverse @ v) / ((x @ inverse @ x) * (v @ inverse @ v)).sqrt()


def rooted(power):
    def cosine(x, v, s, a, ridge=ridged):
        values, turn = torch.linalg.eigh(ridge(s, a))
        w = turn @ torch.diag(values**power) @ turn.T
        return torch.cosine_similarity(w @ x, w @ v, dim=0)

    return cosine


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda x, v, s, a: ..., MISSING),
        (solved, RIGHT),
        (rooted(-0.5), RIGHT),
        (rooted(-1), "Not yet: that is a whitening with the square of W"),
        (rooted(0.5), "Not yet: W makes noisy directions longer"),
        (lambda x, v, s, a: torch.cosine_similarity(x, v, dim=0), "Not yet: nothing is whitened"),
        (lambda x, v, s, a: x @ torch.linalg.inv(ridged(s, a)) @ v, "Not yet: that is a product and no cosine"),
        (lambda x, v, s, a: solved(x, v, s, a * len(s) / s.trace()), "Not yet: the ridge is a times the mean"),
        (lambda x, v, s, a: solved(x, v, s, 0), "Not yet: the ridge is missing"),
        (lambda x, v, s, a: 0.123, "Not yet: another cosine was expected"),
    ],
)
def test_the_cosine_after_whitening(answer, said, capsys):
    deriving.whitened_cosine(answer)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (8 / 342, RIGHT),
        (5 / 342, "Not yet: that is what a single block reaches"),
        (1 / 171, "Not yet: that is the mean"),
        (0.3, "Not yet: the best of 30 blocks reaches less"),
        (8, "Not yet: 8 is no share"),
    ],
)
def test_the_best_block_by_luck(answer, said, capsys):
    deriving.best_by_luck(answer, 342, 171, 30)
    assert capsys.readouterr().out.startswith(said)


def test_the_best_of_many_blocks_is_that_of_drawn_ones(capsys):
    drawn = np.random.default_rng(1).binomial(342, 1 / 171, (20_000, 30)).max(axis=1)
    deriving.best_by_luck(np.quantile(drawn, 0.975) / 342, 342, 171, 30)
    assert capsys.readouterr().out.startswith(RIGHT)


def cosines(keep):
    whole, part = (means(x, labels, "register", "topic") for x, labels in ((X, LABELS), (X[keep], LABELS[keep])))
    lengths = np.linalg.norm(whole, axis=1) * np.linalg.norm(part, axis=1)
    return (whole.to_numpy() * part.to_numpy()).sum(axis=1) / lengths


LEFT = LABELS["topic"].ne("literary 1")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (cosines(LEFT), RIGHT),
        (torch.ones(3), "Not yet: all cosines are 1"),
        (cosines(~LEFT), "Not yet: these are from the stories on that topic alone"),
        (cosines(LEFT)[::-1], "Not yet: the cosines are right, their order"),
        (np.eye(3), "Not yet: the answer has the shape (3, 3)"),
        ([2.0, 0, 0], "Not yet: a cosine lies between"),
        ([0.1, 0.2, 0.3], "Not yet: these are not the cosines"),
    ],
)
def test_vectors_without_a_topic(answer, said, capsys):
    deriving.without_a_topic(answer, X, LABELS, "literary 1")
    assert capsys.readouterr().out.startswith(said)
