"""What is said to answers of notebook 05: right ones, wrong ones, and none."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.exercises import steering
from emolens.exercises._check import MISSING
from emolens.stats import false_discovery


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (lambda resid, u: ..., MISSING),
        (lambda resid, u: resid @ u, "Not yet: the residual stream has the shape [2, 5, 16]"),
        (lambda resid, u: (resid @ u)[..., None] * u, "Not yet: that is the component itself"),
        (lambda resid, u: resid - u, "Not yet: the same vector was taken from every token"),
        (lambda resid, u: resid - 0.5 * (resid @ u)[..., None] * u, "Not yet: there is still a component"),
        (lambda resid, u: 0 * resid, "Not yet: more than the component was changed."),
        (lambda resid, u: resid - (resid @ u)[..., None] * u, "Right. What is left has no component"),
    ],
)
def test_ablation_takes_the_component_and_nothing_else(answer, expected, said):
    assert said(steering.ablated, answer).startswith(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        ("sad", "Not yet: give a list of names."),
        (["proud"], "Not yet: 'proud' is no row of the matrix."),
        (["calm"], "Not yet: 'calm' raises its own word"),
        ([], "Not yet: 1 more are to be found on the diagonal."),
        (("sad",), "Right. One counterexample"),
    ],
)
def test_a_counterexample_is_below_zero_on_the_diagonal(answer, expected, said):
    matrix = pd.DataFrame({"row": ["calm", "calm", "sad", "sad"], "column": ["calm", "sad"] * 2})
    matrix = matrix.assign(score=[0.5, 1.0, -2.0, -1.0])
    assert said(steering.counterexamples, answer, matrix).startswith(expected)


def ranked(p):
    return p * len(p) / (p.argsort().argsort() + 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (lambda p: None, MISSING),
        (lambda p: p[:1], "Not yet: 4 p values need 4 q values"),
        (lambda p: p, "Not yet: nothing is corrected"),
        (lambda p: p * len(p), "Not yet: every p is multiplied by the number of tests"),
        (ranked, "Not yet: a larger p may not get a smaller q"),
        (lambda p: np.sort(false_discovery(p))[::-1], "Not yet: the numbers are right, but not in the order"),
        (lambda p: p / 2, "Not yet: for p = [0.01"),
        (false_discovery, "Right. With a q of at most 0.05"),
    ],
)
def test_q_values_are_those_of_benjamini_and_hochberg(answer, expected, said):
    assert said(steering.corrected, answer).startswith(expected)


def scaled(draw):
    def made(length, n, d, rng):
        x = draw(n, d, rng)
        return length * x / np.linalg.norm(x, axis=1, keepdims=True)

    return made


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (lambda length, n, d, rng: ..., MISSING),
        (lambda length, n, d, rng: rng.normal(size=(d, n)), "Not yet: 400 directions of 50 dimensions"),
        (lambda length, n, d, rng: rng.normal(size=(n, d)), "Not yet: their lengths differ"),
        (scaled(lambda n, d, rng: rng.random((n, d))), "Not yet: they point to the same side"),
        (scaled(lambda n, d, rng: np.eye(d)[rng.integers(0, d, n)]), "Not yet: some directions are likelier"),
        (scaled(lambda n, d, rng: rng.normal(size=(n, d))), "Right. Every direction is as likely"),
        (scaled(lambda n, d, rng: rng.normal(5, 1, size=(n, d)) - 5), "Right."),
    ],
)
def test_random_directions_are_as_long_and_even(answer, expected, said):
    assert said(steering.null_directions, answer).startswith(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (" ", "Not yet: give a text."),
        ("He feels ", "Not yet: let the text end without a space"),
        ("The door is", "Not yet: in 1 of 4 rows"),
        ("He feels", "Right. After your question, too"),
    ],
)
def test_a_question_of_ones_own_is_asked_of_the_model(answer, expected, said, monkeypatch):
    model = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    shipped = el.packaged_vectors("smollm2-135m-instruct")
    found = {"The door is": np.eye(4)[[0, 0, 0, 0]], "He feels": np.eye(4)[[0, 1, 0, 0]]}
    monkeypatch.setattr(steering, "changes", lambda model, directions, asked, strength, layer: [found[asked[0]]])
    assert said(steering.own_question, answer, model, [shipped["calm"]] * 4, 2).startswith(expected)
