"""The exercises of notebook 07: each wrong answer is told what is wrong with it."""

import numpy as np
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


def rows_of(scores, rng, n=None):
    return rng.integers(0, len(scores), n or len(scores))


def r(scores, rows=slice(None)):
    return np.corrcoef(scores[rows].T)[0, 1]


def bootstrap(n=None, turn=1):
    def draw(challenging, neutral, rng):
        rows = rows_of(neutral, rng, n)
        return turn * (r(neutral, rows) - r(challenging, rows))

    return draw


def each_drawn_anew(challenging, neutral, rng):
    return r(neutral, rows_of(neutral, rng)) - r(challenging, rows_of(neutral, rng))


def apart(challenging, neutral, rng):
    one, other = rows_of(neutral, rng), rows_of(neutral, rng)
    return np.subtract(*(np.corrcoef(x[one, 0], x[other, 1])[0, 1] for x in (neutral, challenging)))


def overwriting(challenging, neutral, rng):
    challenging += 1
    return bootstrap()(challenging, neutral, rng)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., MISSING),
        (lambda challenging, neutral, rng: None, MISSING),
        (bootstrap(), "Right. Both correlations are taken over the same emotions"),
        (lambda challenging, neutral, rng: neutral[:, 0], "Not yet: a draw is one number"),
        (overwriting, "Not yet: the scores themselves were overwritten"),
        (lambda challenging, neutral, rng: r(neutral) - r(challenging), "Not yet: every draw is the same"),
        (bootstrap(turn=-1), "Not yet: the sign is turned"),
        (each_drawn_anew, "Not yet: given the same scores twice"),
        (apart, "Not yet: the draws lie around"),
        (bootstrap(n=20), "Not yet: the draws scatter too much"),
    ],
)
def test_a_draw_of_a_paired_bootstrap(answer, expected, said):
    assert said(post_training.paired_draw, answer).startswith(expected)


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
