"""What is said to answers of notebook 04: right ones, wrong ones, and none."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.exercises import patching
from emolens.exercises._check import MISSING

# --- a share ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (lambda patched, alarming, calm: ..., MISSING),
        (lambda patched, alarming, calm: (patched - calm) / (alarming - calm), "Not yet: the share of all pairs"),
        (lambda patched, alarming, calm: (patched - calm).sum(), "Not yet: that is the change in nats"),
        (lambda patched, alarming, calm: ((patched - calm) / (alarming - calm)).mean(), "Not yet: that is the mean of"),
        (
            lambda patched, alarming, calm: (calm - patched).sum() / (alarming - calm).sum(),
            "Not yet: the sign is wrong",
        ),
        (
            lambda patched, alarming, calm: (alarming - patched).sum() / (alarming - calm).sum(),
            "Not yet: that is the part",
        ),
        (lambda patched, alarming, calm: patched.sum() / alarming.sum(), "Not yet: the log-odds have no natural zero"),
        (lambda patched, alarming, calm: 0.5, "Not yet: with patched (-2.94,)"),
        (
            lambda patched, alarming, calm: (patched - calm).mean() / (alarming - calm).mean(),
            "Right. 0 is the calm text",
        ),
    ],
)
def test_a_share_counts_from_the_calm_text(answer, expected, said):
    assert said(patching.share, answer).startswith(expected)


# --- foreseen --------------------------------------------------------------------------------------


def maps(score=1.0):
    rows = [(layer, position) for layer in (0, 1) for position in (0, 1, 2)]
    frame = pd.DataFrame(rows, columns=["layer", "position"])
    return frame.assign(share=[0.0, 1.0, 0.0, 0.0, 0.0, score])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        ([0, 1], "Not yet: give three shares in a list; these are 2."),
        ([1, 0, 1], "Not yet: the first is not so"),
        ([0, 1, 1], "Not yet: the second is not so"),
        ([0, 0, 0.5], "Not yet: the third is not so"),
        ((0, 0, 1), "Right. Attention looks only back"),
    ],
)
def test_three_shares_follow_from_the_architecture(answer, expected, said):
    assert said(patching.foreseen, answer, maps(), 1).startswith(expected)


def test_a_changed_first_token_has_none_before_it(said):
    assert said(patching.foreseen, [0, 0, 1], maps(), 0).startswith("Right.")


# --- a null ----------------------------------------------------------------------------------------


def draw(signs, share=True, largest=lambda x: np.abs(x).max()):
    def one(changes, whole, rng):
        return largest((changes * signs(changes, rng)).sum(axis=1) / (whole if share else 1))

    return one


def by_pair(changes, rng):
    return rng.choice([-1, 1], changes.shape[1])


def overwriting(changes, whole, rng):
    changes *= by_pair(changes, rng)
    return np.abs(changes.sum(axis=1) / whole).max()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (lambda changes, whole, rng: None, MISSING),
        (draw(by_pair, largest=np.abs), "Not yet: a draw is one number"),
        (overwriting, "Not yet: the changes themselves were overwritten"),
        (draw(lambda changes, rng: np.ones(4)), "Not yet: every draw is the same"),
        (draw(by_pair, largest=lambda x: x[1]), "Not yet: a share was negative"),
        (draw(by_pair, share=False), "Not yet: that is a change, not a share"),
        (draw(lambda changes, rng: rng.choice([-1, 1], changes.shape)), "Not yet: some draws cannot come from"),
        (draw(lambda changes, rng: rng.choice([-1, 1]) * np.array([1, 1, 1, rng.choice([-1, 1])])), "Not yet: both"),
        (draw(by_pair), "Right. All heads of a pair"),
    ],
)
def test_signs_are_flipped_for_whole_pairs(answer, expected, said):
    assert said(patching.flipped, answer).startswith(expected)


# --- this emotion's own ----------------------------------------------------------------------------

SINGLE = pd.DataFrame(
    {"layer": [0, 3, 6], "effect": [0.02, 0.1, 0.2], "low": [-0.1, 0.05, 0.1], "high": [0.1, 0.2, 0.3]}
).assign(others=[0.01, 0.04, 0.05])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (0.4, "Not yet: give a Series by block"),
        ({0: 0.5, 3: 0.4, 6: 0.25}, "Not yet: at block 0 the interval of the share covers zero"),
        ({3: 0.4}, "Not yet: block 6 is missing"),
        ({3: 0.04, 6: 0.05}, "Not yet: that is what the others carry of the whole change"),
        ({3: 0.6, 6: 0.75}, "Not yet: that is what the others do *not* carry"),
        ({3: 0.06, 6: 0.15}, "Not yet: that is what the others do *not* carry"),
        ({3: 2.5, 6: 4}, "Not yet: divide what the others carry"),
        (pd.Series({3: 0.4, 6: 0.25}), "Right. What an average other"),
    ],
)
def test_the_part_that_other_emotions_carry_too(answer, expected, said):
    assert said(patching.shared_part, answer, SINGLE).startswith(expected)


def test_where_nothing_was_measured_there_is_nothing_to_check(said):
    assert said(patching.shared_part, {0: 1.0}, pd.DataFrame()).startswith("Not yet: this was not measured")


# --- a pair of one's own ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


def heat(model, text):
    return {"he was cold and": 0.0, "he was warm and": 3.0, "he was calm and": 2.8}[text]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (("he was",), "Not yet: give two texts"),
        (("he was", "he was calm"), "Not yet: the first has 2 tokens, the second 3"),
        (("she ran and", "he was and"), "Not yet: they differ in 2 tokens"),
        (("he was cold", "he was warm"), "Not yet: the changed token is the last one"),
        (("he was cold and", "he was warm and"), "Not yet: the log-odds fall"),
        (("he was warm and", "he was calm and"), "Not yet: the log-odds rise by less than 1 nat"),
        (("he was warm and", "he was cold and"), "Right. One changed token"),
    ],
)
def test_a_pair_of_ones_own_can_be_patched(answer, expected, model, said):
    assert said(patching.own_pair, answer, model, heat).startswith(expected)
