"""What is said to answers of notebook 00."""

from types import SimpleNamespace

import pytest

import emolens as el
from emolens.exercises import quickstart
from emolens.exercises._check import MISSING

LAYER = 20


@pytest.fixture(scope="module")
def vectors():
    return el.packaged_vectors("smollm2-135m-instruct")


def test_a_score_is_a_centred_cosine(vectors, capsys):
    direction = vectors["calm", LAYER]
    centre = vectors.at(LAYER).centre_stories[0]
    x = centre + 3 * direction + 20 * vectors["sad", LAYER]
    y = x - centre
    right = float(y @ direction / y.norm() / direction.norm())
    for answer, said in (
        (..., MISSING),
        (float(x @ direction / x.norm() / direction.norm()), "the cosine of the activation as it is"),
        (float(y @ direction), "something is not divided yet"),
        (right + 0.1, "not the cosine of the centred activation"),
        (right, "Right. "),
        (y @ direction / y.norm() / direction.norm(), "Right. "),  # a tensor
    ):
        quickstart.own_score(answer, x, vectors, LAYER, "calm")
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (10 / 171, "for a single text"),
        (40 / 171, "at least one of the texts"),
        (3.0, "between 0 and 1"),
        (0.5, "begin with one text"),
        ((10 / 171) ** 4, "Right. "),
    ],
)
def test_chance_multiplies(answer, said, capsys):
    quickstart.chance_of_all(answer, texts=4, best=10, of=171)
    assert said in capsys.readouterr().out


def test_a_push_is_as_long_as_the_sum_of_two_arrows(vectors, capsys):
    mixed = 0.05 * vectors["calm"] - 0.05 * vectors["angry"]
    cosine = float(vectors.similarity(LAYER)[vectors.index("calm"), vectors.index("angry")])
    for answer, said in (
        (..., MISSING),
        (0.1, "exactly the same direction"),
        (0.0, "the coefficients alone do not say it"),
        (0.05 * 2**0.5, "at right angles"),
        (-0.08, "not negative"),
        (0.05, "too short"),
        (0.05 * (2 - 2 * cosine) ** 0.5, "Right. "),
    ):
        quickstart.push(answer, mixed, LAYER)
        assert said in capsys.readouterr().out


def test_a_sentence_of_ones_own_does_not_name_its_emotion(vectors, tiny, capsys, monkeypatch):
    order = ["afraid", *(name for name in vectors.emotions if name not in ("afraid", "calm")), "calm"]
    found = SimpleNamespace(top=lambda k: [(name, 0.1) for name in order[:k]])
    monkeypatch.setattr(quickstart, "read", lambda *args, **options: found)
    text = "The stairs creaked twice, and nobody else was in the house."
    for answer, said in (
        (..., MISSING),
        (text, "two texts in a tuple"),
        (("afraidd", text), "did you mean afraid"),
        (("afraid", "I was afraid that the stairs would creak again."), "names the emotion ('afraid')"),
        (("afraid", "The stairs creaked."), "3 words are few"),
        (("calm", text), "calm has place 171 of 171; afraid comes first"),
        (("afraid", text), "Right. "),
    ):
        quickstart.unnamed(answer, tiny, vectors, LAYER)
        assert said in capsys.readouterr().out
