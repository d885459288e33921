"""What the vectors read: a score by hand, a null for a diagonal, doses in words, a flaw, and two readers compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.exercises._check import MISSING, checked
from emolens.vectors.emotion_vectors import EmotionVectors

DRAWS = 400  # of a reader's null
SIMULATED = 2000  # resamples of the interval that an answer is held against


@checked(
    "A text's score is the cosine of the mean, not the mean of the cosines: noise of the tokens averages out first."
)
def text_score(
    answer: Any, x: Float[Tensor, "token d_model"], vectors: EmotionVectors, emotion: str, layer: int
) -> str | None:
    """The score of a text for one emotion, from the activations of its tokens.

    Args:
        answer: a number.
        x: the tokens that the text is averaged over.

    >>> x = el.activations(model, "she was very calm", [2], at="tokens")[0]
    >>> text_score(x.mean(), x, vectors, "calm", 2)
    Not yet: ...
    """
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return f"a score is one number, not {type(answer).__name__}."
    direction, centre = vectors[emotion, layer], vectors.at(layer).centre_stories[0]
    y = x - centre
    truth = float(torch.cosine_similarity(y.mean(dim=0), direction, dim=0))
    if abs(value - truth) < 1e-3:
        return None
    if abs(value - float(torch.cosine_similarity(y, direction[None], dim=1).mean())) < 1e-3:
        return "you averaged cosines. What is averaged over the tokens comes before the cosine."
    if abs(value - float(torch.cosine_similarity(x.mean(dim=0), direction, dim=0))) < 1e-3:
        return "what all stories share is still in it."
    if abs(value - float(y.mean(dim=0) @ direction)) < 1e-3:
        return "that is a projection: a cosine does not depend on how long the activation is."
    return f"{value:.3f} is not the score. Which is averaged, which is taken away, which is divided by?"


@checked("With shuffled labels about one row hits by luck, whatever the number of rows. That is what to compare with.")
def diagonal_null(answer: Callable[..., Any], matrix: Any) -> str | None:
    """A function of a matrix and a random generator: rows that hit the diagonal after the labels were shuffled.

    Args:
        answer: called as `answer(matrix, rng)`, an array [row column] and a `numpy.random.Generator`; gives a count.

    >>> diagonal_null(lambda matrix, rng: 3, np.eye(3))
    Not yet: it gives 3 at every draw: nothing in it is random.
    """
    values = np.asarray(matrix, dtype=float)
    kept, rng = values.copy(), np.random.default_rng(0)
    hits = []
    for _ in range(DRAWS):
        hit = answer(values, rng)
        if hit is None or hit is ...:
            return MISSING
        if np.ndim(hit) or not 0 <= float(hit) <= len(kept) or float(hit) % 1:
            return f"it should give a count from 0 to {len(kept)}, not {hit!r}."
        hits.append(float(hit))
        if not np.array_equal(values, kept):
            return "it changes the matrix that it is given, so that the next draw begins with another one."
    if len(set(hits)) == 1:
        return f"it gives {hits[0]:.0f} at every draw: nothing in it is random."
    mean = np.mean(hits)
    if not 0.75 < mean < 1.25:
        found = float((kept.argmax(axis=1) == np.arange(len(kept))).mean() * len(kept))
        near = ": about what is really found, so the rows still know their labels" if abs(mean - found) < 1 else ""
        return f"on average {mean:.1f} rows hit{near}. How many should, if the labels say nothing?"
    return None


@checked("Both sets have the same doses, so what the words for a dose do by themselves shows in both of them.")
def doses_in_words(answer: Any) -> str | None:
    """Sentences in which a dose grows, in words, and the same doses where they mean nothing.

    Args:
        answer: `{"texts": [...], "null": [...]}`, each at least three sentences in the order of the dose.

    >>> doses_in_words({"texts": ["I took 1.", "I took 2.", "I took 3."], "null": ["I saw 1.", "I saw 2.", "I saw 3."]})
    Not yet: 'I took 1.' holds a digit. The doses are to be told in words.
    """
    if not isinstance(answer, Mapping) or {"texts", "null"} - set(answer):
        return "give a dictionary with the entries 'texts' and 'null'."
    if answer["texts"] is ... or answer["null"] is ...:
        return MISSING
    sets = [list(answer[name]) for name in ("texts", "null")]
    for name, sentences in zip(("texts", "null"), sets, strict=True):
        if len(sentences) < 3 or not all(isinstance(one, str) for one in sentences):
            return f"{name!r} needs at least three sentences."
        if len(set(sentences)) < len(sentences):
            return f"two sentences of {name!r} are the same: the dose does not grow."
        if digits := [one for one in sentences if any(character.isdigit() for character in one)]:
            return f"{digits[0]!r} holds a digit. The doses are to be told in words."
    texts, null = sets
    if len(texts) != len(null):
        return f"{len(texts)} texts have {len(null)} nulls: each dose needs both."
    if texts == null:
        return "the null is the same text, so any effect is in both."
    doses = [_changing(sentences) for sentences in sets]
    if doses[0] != doses[1]:
        return f"the doses of the null are others: {doses[0][0]!r} in the one, {doses[1][0]!r} in the other."
    return None


@checked(
    "An emotion falls when it is denied, a pleasant one and an unpleasant one. A push to one side would raise one."
)
def by_valence(answer: Any, pairs: pd.DataFrame) -> str | None:
    """How much lower the named emotion is when denied: the mean over the pleasant and over the unpleasant emotions.

    Args:
        answer: the two means, pleasant first.
        pairs: a row for each pair: `affirmed` and `negated`, the score of the named emotion; `valence`, from 1 to 9,
            missing where nobody rated the word.

    >>> pairs = pd.DataFrame({"affirmed": [0.3, 0.2], "negated": [0.1, 0.1], "valence": [8.0, 2.0]})
    >>> by_valence((0.2, 0.1), pairs)
    Right. An emotion falls when it is denied, ...
    """
    drop = pairs["affirmed"] - pairs["negated"]
    truth = np.array([drop[pairs["valence"] > 5].mean(), drop[pairs["valence"] < 5].mean()])
    try:
        given = np.array([float(one) for one in answer])
    except (TypeError, ValueError):
        return "give two numbers: the mean over the pleasant emotions, and that over the unpleasant ones."
    if given.shape != (2,):
        return f"two numbers were asked for, not {len(given)}."
    if np.allclose(given, truth, atol=1e-3):
        return None if (truth > 0).all() else "the numbers are right, but with this model not both are above zero."
    if np.allclose(given, -truth, atol=1e-3):
        return "the other way round: a drop is what the affirmed sentence has more."
    if np.allclose(given, truth[::-1], atol=1e-3):
        return "the pleasant emotions come first."
    rest = [drop[~(pairs["valence"] <= 5)].mean(), drop[~(pairs["valence"] >= 5)].mean()]
    if np.isclose(given, rest, atol=1e-3).any():
        return "a word that nobody rated is neither pleasant nor unpleasant: leave it out."
    return f"{given.round(3).tolist()} are not the means of the drops on the two sides of the scale's middle."


@checked(
    "Both readers saw the same texts, so the interval is that of the difference. If 0 is in it, neither is shown ahead."
)
def paired_difference(answer: Any, first: Any, second: Any, truth: Any) -> str | None:
    """The 95 % bootstrap interval of r(first, truth) less r(second, truth), both on the same texts.

    Args:
        answer: its two ends.

    >>> rng = np.random.default_rng(0)
    >>> human = rng.normal(size=200)
    >>> paired_difference((0.3, 0.1), human + rng.normal(size=200), human + rng.normal(size=200), human)
    Not yet: the first end is to be the lower one.
    """
    try:
        low, high = (float(one) for one in answer)
    except (TypeError, ValueError):
        return "an interval is two numbers: its lower and its upper end."
    if low >= high:
        return "the first end is to be the lower one."
    wanted = _difference(first, second, truth)
    width = wanted[1] - wanted[0]
    if np.allclose((low, high), wanted, atol=0.15 * width):
        return None
    if np.allclose((-high, -low), wanted, atol=0.15 * width):
        return "that is the second less the first."
    if high - low > 1.3 * width:
        return "too wide: is each draw of texts used for both readers, and are the ends at 2.5 % and 97.5 %?"
    if high - low < 0.7 * width:
        return "too narrow: are as many texts drawn as there are, with replacement, and are the ends those of 95 %?"
    return f"[{low:.3f}, {high:.3f}] lies elsewhere. Are both correlations those with the people's ratings?"


def _changing(sentences: Sequence[str]) -> list[str]:
    """What differs between sentences: each without the words that all begin and all end with.

    >>> _changing(["I took one pill now", "I took many pills now"])
    ['one pill', 'many pills']
    """
    words = [sentence.split() for sentence in sentences]
    start = _shared(words)
    end = _shared([list(reversed(one[start:])) for one in words])
    return [" ".join(one[start : len(one) - end]) for one in words]


def _shared(rows: list[list[str]]) -> int:
    """How many entries all rows begin with.

    >>> _shared([["a", "b"], ["a", "c"]])
    1
    """
    return next((n for n, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))


def _difference(first: Any, second: Any, truth: Any) -> tuple[float, float]:
    """The interval that an answer is held against."""
    a, b, y = (np.asarray(values, dtype=float) for values in (first, second, truth))
    rng, found = np.random.default_rng(1), []
    for _ in range(SIMULATED):
        rows = rng.integers(len(y), size=len(y))
        r = np.corrcoef(np.stack([y[rows], a[rows], b[rows]]))[0]
        found.append(r[1] - r[2])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
