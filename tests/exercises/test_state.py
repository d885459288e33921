"""What notebook 12's checks say to missing, wrong and right answers."""

import numpy as np
import pandas as pd
import pytest

from emolens.exercises import state
from emolens.exercises._check import MISSING

TRUTH = np.arange(24) % 4
TEXTS = np.random.default_rng(1).normal(size=(24, 60))
NAMES = ["present, user", "present, assistant", "other, user", "other, assistant"]
AGREE = [0.69, 0.81, 0.10, 0.25]
COSINES = [[0, 0.63, 0.05, 0.19], [0.63, 0, 0.03, 0.15], [0.05, 0.03, 0, 0.13], [0.19, 0.15, 0.13, 0]]
MATRIX = pd.DataFrame(
    [
        {"row": a, "column": b, "score": AGREE[i] if i == j else COSINES[i][j]}
        for i, a in enumerate(NAMES)
        for j, b in enumerate(NAMES)
    ]
)
TOPICS = np.random.default_rng(2).normal(size=30)
PREFIXES = TOPICS + 0.4 + 0.3 * np.random.default_rng(3).normal(size=30), TOPICS
SCORES = np.random.default_rng(0).normal(size=(6, 4))
OWN = np.array([0, 1, 2, 3, 0, 1])
MINE = SCORES[np.arange(6), OWN]


def by_heart(x, truth):
    means = np.stack([x[truth == name].mean(axis=0) for name in np.unique(truth)])
    return (((x[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1) == truth).mean()


def left_out(x, truth):
    hits = []
    for n in range(len(x)):
        kept = np.arange(len(x)) != n
        means = np.stack([x[kept & (truth == name)].mean(axis=0) for name in np.unique(truth)])
        hits.append(((x[n] - means) ** 2).sum(axis=1).argmin() == truth[n])
    return np.mean(hits)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (lambda x, truth: ..., MISSING),
        (by_heart, "is the text that is judged still among them?"),
        (lambda x, truth: 24, "24.00 is no share"),
        (lambda x, truth: 0.25, "is not that of the nearest mean"),
        (left_out, "Right. An accuracy"),
    ],
)
def test_a_text_is_not_told_by_heart(answer, part, said):
    assert part in said(state.not_by_heart, answer, TEXTS, TRUTH)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (lambda a, b: ..., MISSING),
        (lambda a, b: (a - b).mean(), "that is the mean difference itself"),
        (lambda a, b: (b - a).mean() / (a - b).std(), "more pleasant after the favourable"),
        (lambda a, b: (a - b).mean() / np.concatenate([a, b]).std(), "the spread of the texts"),
        (lambda a, b: (a - b).mean() / (a - b).std(ddof=1) * len(a) ** 0.5, "in standard errors"),
        (lambda a, b: 3.0, "subtract within each pair first"),
        (lambda a, b: (a - b).mean() / (a - b).std(), "Right. Both prefixes"),
        (lambda a, b: (a - b).mean() / (a - b).std(ddof=1), "Right. Both prefixes"),
    ],
)
def test_pairs_are_compared_with_themselves(answer, part, said):
    assert part in said(state.paired_effect, answer, *PREFIXES)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (0.8, "two numbers are asked for"),
        ((0.38, 0.11), "these are the cosines"),
        ((0.84, 0.55), "which two pairs"),
        ((0.31, 0.84), "by who is speaking first"),
        ((0.84, 0.31), "Right. A cosine"),
    ],
)
def test_cosines_are_shares_of_their_ceilings(answer, part, said):
    assert part in said(state.role_and_person, answer, MATRIX)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (lambda inside, whole: ..., MISSING),
        (lambda inside, whole: 1 - inside / whole, "squared norm"),
        (lambda inside, whole: (inside / whole) ** 0.5, "what lies inside"),
        (lambda inside, whole: 0.3, "is not what is left"),
        (lambda inside, whole: (1 - inside / whole) ** 0.5, "Right. Nearly all"),
    ],
)
def test_most_of_a_random_direction_is_outside(answer, part, said):
    assert part in said(state.random_left, answer)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (0.1, "one margin for each of 6 texts"),
        (MINE, "that is the emotion's own score"),
        (MINE - SCORES.mean(axis=1), "the others alone"),
        (np.zeros(6), "these are not the margins"),
        (MINE - (SCORES.sum(axis=1) - MINE) / 3, "Right. The story is still"),
    ],
)
def test_margins_are_own_less_others(answer, part, said):
    assert part in said(state.comes_back, answer, SCORES, OWN)
