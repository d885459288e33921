"""The exercises of notebook 07: each wrong answer is told what is wrong with it."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.exercises import post_training
from emolens.exercises._check import MISSING

EMOTIONS = ["brooding", "reflective", "calm", "exuberant", "enthusiastic", "sad", "happy", "afraid"]


@pytest.fixture(scope="module")
def activations():
    torch.manual_seed(0)
    before, direction = torch.randn(6, 16), torch.randn(16)
    return before, before + 0.5 + 0.1 * torch.randn(6, 16), torch.full((16,), 0.3), direction / direction.norm()


def cosine(x, about, direction):
    return float(torch.cosine_similarity(x - about, direction[None], dim=-1).mean())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a, b, c, d: ..., MISSING),
        (lambda a, b, c, d: cosine(b, c, d) - cosine(a, c, d), "Right. With one ruler"),
        (lambda a, b, c, d: torch.tensor(cosine(b, c, d) - cosine(a, c, d)), "Right. With one ruler"),
        (lambda a, b, c, d: cosine(a, c, d) - cosine(b, c, d), "Not yet: the sign is turned"),
        (
            lambda a, b, c, d: cosine(b, b.mean(0), d) - cosine(a, a.mean(0), d),
            "Not yet: each model was centred on its",
        ),
        (lambda a, b, c, d: cosine(b, 0 * c, d) - cosine(a, 0 * c, d), "Not yet: nothing was centred"),
        (lambda a, b, c, d: ((b - a) @ d).mean(), "Not yet: that is a difference of projections"),
        (lambda a, b, c, d: (b - a) @ d, "Not yet: the answer is one number, the mean over the prompts; yours has 6."),
        (lambda a, b, c, d: 9.0, "Not yet: +9.000 is not the mean change"),
    ],
)
def test_the_shift_by_hand(answer, said, activations, capsys):
    post_training.shift_by_hand(answer(*activations), *activations)
    assert capsys.readouterr().out.startswith(said)


def prediction(values, quantile=None, wide=None):
    n = len(values)
    reach = (quantile or t.ppf(0.975, n - 1)) * values.std(ddof=1) * (np.sqrt(1 + 1 / n) if wide is None else wide(n))
    return values.mean() - reach, values.mean() + reach


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda values: ..., MISSING),
        (prediction, "Right. "),
        (lambda values: (values.min(), values.max()), "Not yet: the range of the values is no 95 % interval"),
        (lambda values: prediction(values, wide=lambda n: n**-0.5), "Not yet: that is where the mean of the controls"),
        (lambda values: prediction(values, wide=lambda n: 1.0), "Not yet: the mean of a few controls is itself"),
        (lambda values: prediction(values, quantile=1.96), "Not yet: too narrow for 5 values"),
        (lambda values: prediction(values, quantile=9), "Not yet: too wide for 5 values"),
        (lambda values: prediction(values - values.mean()), "Not yet: the interval for [0.1, 0.3, 0.2, 0.4, 0.5] lies"),
        (lambda values: 0.5, "Not yet: your answer raised TypeError"),
    ],
)
def test_where_one_more_control_would_lie(answer, said, capsys):
    post_training.one_more(answer)
    assert capsys.readouterr().out.startswith(said)


RULERS = pd.DataFrame(
    {
        "child": ["a", "a", "a", "b", "b", "b"],
        "ruler": ["post", "base", "raw"] * 2,
        "r_challenging": [0.8, 0.6, 0.9, 0.8, 0.7, 0.5],
        "r_neutral": [0.7, 0.7, 0.8, 0.9, 0.8, 0.6],
    }
)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ({"post", "raw"}, "Right. "),
        (["raw", "post"], "Right. "),
        (["post"], "Not yet: those are right, and 1 more is to be found."),
        (["post", "raw", "base"], "Not yet: under 'base' every child agrees better"),
        (["pots"], "Not yet: 'pots' is no ruler of the table; there are base, post, raw."),
        ("post", "Not yet: give a list"),
    ],
)
def test_the_rulers_that_speak_against_the_order(answer, said, capsys):
    post_training.against_the_order(answer, RULERS)
    assert capsys.readouterr().out.startswith(said)


def test_where_no_ruler_was_measured_that_is_said(capsys):
    post_training.against_the_order(["base"], pd.DataFrame())
    assert "were not measured on this model" in capsys.readouterr().out


@pytest.fixture(scope="module")
def read_by(few_dialogues):
    model = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    stories = el.corpus.stories("plain").where(emotion=EMOTIONS)
    return model, el.derive(model, stories, cache=False, progress=False)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (7, "Not yet: the reply is a text."),
        ("What a day!", "Not yet: there is an exclamation mark"),
        ("So enthusiastically she ran on and on and on", "Not yet: 'enthus' names one of the emotions"),
        ("she ran", "Not yet: 2 words are too few"),
    ],
)
def test_a_reply_that_is_not_what_was_asked_for(answer, said, read_by, capsys):
    post_training.bright_reply(answer, *read_by, "she was angry", "he was warm but afraid")
    assert capsys.readouterr().out.startswith(said)


def test_of_two_replies_the_brighter_one_is_right(read_by, capsys):
    texts = ["the river the river was very cold and", "she ran and ran and walked she ran"]
    for mine, other in (texts, texts[::-1]):
        post_training.bright_reply(mine, *read_by, "the door .", other)
    said = sorted(line.split(":")[0].split(".")[0] for line in capsys.readouterr().out.splitlines())
    assert said == ["Not yet", "Right"]
