"""What the checks of notebook 02 say to the dots, to typical wrong answers and to the right ones."""

import numpy as np
import pandas as pd
import pytest
import torch

from emolens import packaged_vectors
from emolens.exercises import reading
from emolens.exercises._check import MISSING

LAYER = 20


def said(capsys):
    return capsys.readouterr().out.strip()


@pytest.fixture(scope="module")
def vectors():
    return packaged_vectors("smollm2-135m-instruct")[["sad", "calm"]]


@pytest.fixture
def tokens(vectors):
    centre, sad = vectors.at(LAYER).centre_stories[0], vectors["sad", LAYER]
    noise = torch.randn(30, len(sad), generator=torch.Generator().manual_seed(0))
    return centre + 5 * sad + noise


def test_the_score_of_a_text_is_the_cosine_of_the_centred_mean(vectors, tokens, capsys):
    centre, sad = vectors.at(LAYER).centre_stories[0], vectors["sad", LAYER]
    y = (tokens - centre).mean(dim=0)
    answers = {
        "Right. ": y @ sad / y.norm(),
        "you averaged cosines": torch.cosine_similarity(tokens - centre, sad[None], dim=1).mean(),
        "what all stories share": torch.cosine_similarity(tokens.mean(dim=0), sad, dim=0),
        "that is a projection": y @ sad,
        "is not the score": 0.123,
        "one number, not Tensor": tokens,
        MISSING: ...,
    }
    for message, answer in answers.items():
        reading.text_score(answer, tokens, vectors, "sad", LAYER)
        assert message in said(capsys)


def shuffled_rows(matrix, rng):
    order = rng.permutation(len(matrix))
    return int((matrix[order].argmax(axis=1) == np.arange(len(matrix))).sum())


def same_order_for_both(matrix, rng):
    order = rng.permutation(len(matrix))
    return int((matrix[order][:, order].argmax(axis=1) == np.arange(len(matrix))).sum()) - int(rng.random() < 0.1)


def in_place(matrix, rng):
    rng.shuffle(matrix)
    return int((matrix.argmax(axis=1) == np.arange(len(matrix))).sum())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (..., MISSING),
        (lambda matrix, rng: ..., MISSING),
        (shuffled_rows, "Right. "),
        (lambda matrix, rng: (rng.permutation(len(matrix)) == np.arange(len(matrix))).sum(), "Right. "),
        (lambda matrix, rng: int((matrix.argmax(axis=1) == np.arange(len(matrix))).sum()), "11 at every draw"),
        (same_order_for_both, "about what is really found"),
        (in_place, "changes the matrix"),
        (lambda matrix, rng: rng.permutation(matrix), "a count from 0 to 12"),
        (lambda matrix, rng: rng.random(), "a count from 0 to 12"),
    ],
)
def test_a_null_of_the_diagonal_hits_about_one_row(answer, message, capsys):
    matrix = np.eye(12) + 0.1 * np.random.default_rng(0).random((12, 12))
    matrix[3, 7] = 2
    reading.diagonal_null(answer, matrix)
    assert message in said(capsys)


TEXTS = ["I took one pill at once.", "I took two pills at once.", "I took a handful of pills at once."]
NULL = [text.replace("took", "saw") for text in TEXTS]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (..., MISSING),
        ({"texts": ..., "null": ...}, MISSING),
        ({"texts": TEXTS, "null": NULL}, "Right. "),
        (TEXTS, "a dictionary"),
        ({"texts": TEXTS[:2], "null": NULL[:2]}, "at least three"),
        ({"texts": [*TEXTS[:2], TEXTS[0]], "null": NULL}, "are the same"),
        ({"texts": [*TEXTS[:2], "I took 40 pills at once."], "null": NULL}, "holds a digit"),
        ({"texts": TEXTS, "null": [*NULL, "I saw them all at once."]}, "3 texts have 4 nulls"),
        ({"texts": TEXTS, "null": TEXTS}, "the same text"),
        ({"texts": TEXTS, "null": ["I saw a cat.", "I saw a dog.", "I saw a cow."]}, "'one pill' in the one"),
    ],
)
def test_doses_are_told_in_words_and_stand_in_the_null_too(answer, message, capsys):
    reading.doses_in_words(answer)
    assert message in said(capsys)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (..., MISSING),
        ((0.2, 0.1), "Right. "),
        ((-0.2, -0.1), "the other way round"),
        ((0.1, 0.2), "come first"),
        ((0.3, 0.1), "neither pleasant nor"),
        ((0.7, 0.7), "are not the means"),
        ((0.2,), "two numbers were asked for"),
        (0.2, "give two numbers"),
    ],
)
def test_drops_are_averaged_on_either_side_of_the_middle(answer, message, capsys):
    pairs = pd.DataFrame({"affirmed": [0.3, 0.4, 0.3, 0.7], "negated": [0.1, 0.2, 0.2, 0.2]})
    reading.by_valence(answer, pairs.assign(valence=[8, 7, 2, np.nan]))
    assert message in said(capsys)


def test_drops_that_are_not_both_above_zero_are_said_to_be_so(capsys):
    pairs = pd.DataFrame({"affirmed": [0.3, 0.2], "negated": [0.1, 0.3], "valence": [8, 2]})
    reading.by_valence((0.2, -0.1), pairs)
    assert "not both are above zero" in said(capsys)


def interval(first, second, human, draws=1000, paired=True):
    rng, n, found = np.random.default_rng(5), len(human), []
    for _ in range(draws):
        i = rng.integers(n, size=n)
        j = i if paired else rng.integers(n, size=n)
        found.append(np.corrcoef(first[i], human[i])[0, 1] - np.corrcoef(second[j], human[j])[0, 1])
    return np.quantile(found, [0.025, 0.975])


def test_two_readers_are_compared_on_the_same_texts(capsys):
    rng = np.random.default_rng(0)
    human = rng.normal(size=300)
    shared = human + rng.normal(size=300)
    first, second = shared + 0.3 * rng.normal(size=300), shared + 0.6 * rng.normal(size=300)
    low, high = interval(first, second, human)
    answers = [
        (..., MISSING),
        ((low, high), "Right. "),
        ((-high, -low), "second less the first"),
        (interval(first, second, human, paired=False), "too wide"),
        ((low + 0.4 * (high - low), high - 0.4 * (high - low)), "too narrow"),
        ((low + 0.3, high + 0.3), "lies elsewhere"),
        ((high, low), "the lower one"),
        (0.1, "two numbers"),
    ]
    for answer, message in answers:
        reading.paired_difference(answer, first, second, human)
        assert message in said(capsys), message
