"""Notebook 06: what is said to wrong, missing and right answers."""

import numpy as np
import pytest
from scipy.stats import t
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.exercises import preferences
from emolens.exercises._check import MISSING
from emolens.studies.causes._pairs import Question

RIGHT = "Right. "
RNG = np.random.default_rng(0)


def updated(power=10, scale=400):
    def update(a, b, won, k):
        moved = k * (won - 1 / (1 + power ** ((b - a) / scale)))
        return a + moved, b - moved

    return update


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda a, b, won, k: ..., MISSING),
        (updated(), RIGHT),
        (lambda a, b, won, k: np.array(updated()(a, b, won, k)), RIGHT),
        (updated(scale=-400), "Not yet: the expected result is that of the other side"),
        (updated(power=np.e), "Not yet: Elo counts in powers of 10"),
        (lambda a, b, won, k: updated()(b, a, won, k)[::-1], "Not yet: the sign is turned"),
        (lambda a, b, won, k: (a + k * (won - 0.5), b - k * (won - 0.5)), "Not yet: with 1700 against 1500 the first"),
        (lambda a, b, won, k: (updated()(a, b, won, k)[0], b), "Not yet: what the first one gains"),
        (lambda a, b, won, k: updated()(a, b, won, k)[0], "Not yet: the function must return two"),
    ],
)
def test_an_update_of_elo(answer, said, capsys):
    preferences.elo_update(answer)
    assert capsys.readouterr().out.startswith(said)


ASK = "One: {a}\nTwo: {b}\nAnswer with one or two."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (Question("{a} or {b}? Say calm or afraid.", ("calm", "afraid")), RIGHT),
        (Question("{a} or {b}? Answer with A or B.", ("(A)", "(B)")), "Not yet: the answers '(A)' and '(B)'"),
        (Question("{a} or {b}?", ("calm", "afraid")), "Not yet: the question does not say"),
        (Question("{a} or {b}? zebra or yak", ("zebra", "yak")), "Not yet: your answer raised ValueError"),
        (ASK, "Not yet: the answer is a str"),
    ],
)
def test_a_question_without_letters(answer, said, capsys):
    model = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    preferences.without_letters(answer, model)
    assert capsys.readouterr().out.startswith(said)


WORDS = RNG.integers(5, 20, 40)
SCORE, STRENGTH = RNG.normal(size=(40, 3)) + WORDS[:, None] / 4, RNG.normal(size=40) + WORDS / 5


def rest(values):
    return values - np.stack(
        [np.polyval(np.polyfit(WORDS, one, 1), WORDS) for one in np.atleast_2d(values.T)]
    ).T.reshape(values.shape)


def r(x, y):
    return np.array([np.corrcoef(column, y)[0, 1] for column in x.T])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (r(rest(SCORE), rest(STRENGTH)), RIGHT),
        (r(SCORE, STRENGTH), "Not yet: nothing is held equal"),
        (r(SCORE, rest(STRENGTH)), "Not yet: the number of words is taken out of the strengths alone"),
        (r(rest(SCORE), STRENGTH), "Not yet: the number of words is taken out of the scores alone"),
        (0.3, "Not yet: the answer has the shape ()"),
        ([0.9, 0.9, 0.9], "Not yet: these are not the correlations"),
    ],
)
def test_correlations_with_the_number_of_words_held_equal(answer, said, capsys):
    preferences.partial_correlations(answer, SCORE, STRENGTH, WORDS)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ([1.5, 1.5, 3.5, 3.5, 9, 9], RIGHT),
        ([0.15, 0.15, 0.35, 0.35, 0.9, 0.9], RIGHT),
        ([1, 2, 3, 4, 8, 10], "Not yet: two activities of the category z"),
        ([1, 1, 1, 1, 1, 1], "Not yet: all scores are alike"),
        ([9, 9, 3, 3, 1, 1], "Not yet: your scores correlate at -"),
        ([1, 1, 3], "Not yet: the answer has the shape (3,)"),
    ],
)
def test_scores_that_know_the_category_alone(answer, said, capsys):
    preferences.only_the_category(answer, [1.0, 2, 3, 4, 8, 10], ["x", "x", "y", "y", "z", "z"])
    assert capsys.readouterr().out.startswith(said)


def student(null, family):
    n = len(null)
    return t.ppf(1 - 0.025 / family, n - 1) * null.std(ddof=1) * np.sqrt(1 + 1 / n)


def resampled(null, family):
    draws = np.random.default_rng(1).choice(null, (4000, family))
    return np.quantile(np.abs(draws - null.mean()).max(axis=1), 0.95)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda null, family: None, MISSING),
        (student, RIGHT),
        (resampled, "Not yet: that holds for thousands of null draws. With 39 the furthest of 22 passes it in"),
        (
            lambda null, family: np.quantile(np.abs(null - null.mean()), 0.95),
            "Not yet: that is the distance for a single",
        ),
        (lambda null, family: np.quantile(np.abs(null), 0.95 ** (1 / family)), "Not yet: that is counted from zero"),
        (lambda null, family: -3.0, "Not yet: a distance is not negative"),
        (lambda null, family: null, "Not yet: the function must return a single number"),
        (lambda null, family: 99.0, "Not yet: by luck the furthest of 22 lies less far"),
    ],
)
def test_the_furthest_of_a_family_by_luck(answer, said, capsys):
    preferences.furthest_by_luck(answer)
    assert capsys.readouterr().out.startswith(said)
