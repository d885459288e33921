"""Checks of notebook 00: a score by hand, what chance does, the length of a mixed push, a sentence of one's own."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from emolens.corpus.audit import mention
from emolens.errors import did_you_mean
from emolens.exercises._check import checked
from emolens.models.model import HookedModel
from emolens.reading.read import read, score
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

BEST = 10  # places among which an emotion counts as found
FEWEST = 8  # words of a sentence that can show something


@checked("A score is a cosine, after what all stories share was taken away from the activation.")
def own_score(
    answer: Any, x: Float[Tensor, "d_model"], vectors: EmotionVectors, layer: int, emotion: str
) -> str | None:
    """The score of an activation on one emotion, with denoised vectors, centred on the stories.

    Args:
        answer: a number.
        x: an activation at `layer`.

    >>> x = shipped.at(20).centre_stories[0] + shipped["calm", 20]
    >>> own_score(1.0, x, shipped, 20, "calm")
    Right. A score is a cosine, after what all stories share was taken away from the activation.
    """
    value, direction = float(answer), vectors.vectors(layer)[vectors.index(emotion)].double()
    x = x.double()
    centred = x - vectors.at(layer).centre_stories[0].double()
    truth = float(score(x[None], vectors, layer)[0, vectors.index(emotion)])
    if np.isclose(value, truth, atol=2e-3):
        return None
    if np.isclose(value, float(x @ direction / x.norm() / direction.norm()), atol=2e-3):
        return "that is the cosine of the activation as it is. What do all texts have in common, whatever they tell?"
    if abs(value) > 1 or np.isclose(value, float(centred @ direction), rtol=1e-2):
        return "a cosine does not grow with the length of what is compared: something is not divided yet."
    return "this is a number between -1 and 1, but not the cosine of the centred activation and this emotion's vector."


@checked("Chance rarely does that. But chance did not choose the sentences: we did.")
def chance_of_all(answer: Any, texts: int, best: int, of: int) -> str | None:
    """The probability that random orders put the meant emotion among the `best` first ones in each of the texts.

    Args:
        answer: a number.
        of: how many emotions there are.

    >>> chance_of_all(0.25, texts=2, best=1, of=2)
    Right. Chance rarely does that. But chance did not choose the sentences: we did.
    """
    value, one = float(answer), best / of
    if np.isclose(value, one**texts, rtol=0.02, atol=0):
        return None
    if not 0 <= value <= 1:
        return "a probability lies between 0 and 1."
    if np.isclose(value, one, rtol=0.02):
        return "that is the probability for a single text. Here it has to happen with every one."
    if np.isclose(value, texts * one, rtol=0.02) or np.isclose(value, 1 - (1 - one) ** texts, rtol=0.02):
        return "that is about how likely it is with at least one of the texts. Here it has to happen with every one."
    return "begin with one text: of all places that its emotion can have, how many count?"


@checked("Two pushes add like arrows: how long the sum is depends on the angle between them.")
def push(answer: Any, direction: Direction, layer: int) -> str | None:
    """How far a direction pushes, in mean residual norms: its length at a layer.

    Args:
        answer: a number.

    >>> push(0.05, 0.05 * shipped["calm"], 20)
    Right. Two pushes add like arrows: how long the sum is depends on the angle between them.
    """
    value, truth = float(answer), float(direction.at(layer).norm())
    if np.isclose(value, truth, rtol=0.01):
        return None
    weights = [weight for _, weight in direction.terms]
    if value < 0:
        return "a length is not negative."
    if np.isclose(value, sum(map(abs, weights)), rtol=0.01):
        return "that would be so if all parts pushed in exactly the same direction."
    if np.isclose(value, np.hypot.reduce(weights), rtol=0.01):
        return "that would be so if the vectors stood at right angles. Look up their cosine."
    if np.isclose(value, abs(sum(weights)), rtol=0.01, atol=1e-6):
        return "the coefficients alone do not say it: a push that takes an emotion away is a push, too."
    return f"{value:.3g} is too {'short' if value < truth else 'long'}."


@checked("It is read from what happens, since the emotion is never named. One sentence of your choice is an example.")
def unnamed(answer: Any, model: HookedModel, vectors: EmotionVectors, layer: int) -> str | None:
    """A sentence whose emotion is among the ten best, though the sentence never names it.

    Args:
        answer: `(emotion, sentence)`.

    >>> unnamed(("calm", "I felt calm while the rain fell on the lake."), model, vectors, 2)
    Not yet: the sentence names the emotion ('calm'). Show what somebody does, feels in the body, or sees.
    """
    if not (isinstance(answer, (tuple, list)) and len(answer) == 2 and all(isinstance(part, str) for part in answer)):
        return "give two texts in a tuple: an emotion, and the sentence."
    emotion, text = answer
    if emotion not in vectors.emotions:
        return f"there is no vector for {emotion!r}{did_you_mean(emotion, vectors.emotions)}."
    if found := mention(emotion, text):
        return f"the sentence names the emotion ({found!r}). Show what somebody does, feels in the body, or sees."
    if len(text.split()) < FEWEST:
        return f"{len(text.split())} words are few: write a sentence of at least {FEWEST}."
    ranked = [name for name, _ in read(model, text, vectors, layer, at="document", method="whitened").top(len(vectors))]
    place = ranked.index(emotion) + 1
    if place > BEST:
        return f"{emotion} has place {place} of {len(ranked)}; {ranked[0]} comes first. What would give it away sooner?"
    return None
