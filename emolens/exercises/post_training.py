"""Checks of notebook 07: the shift by hand, a null of one's own, a paired bootstrap, a manner in words."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import cosine_similarity

from emolens.exercises._check import MISSING, checked
from emolens.models.model import HookedModel
from emolens.reading.read import read
from emolens.studies._common import near
from emolens.training.packaged_children import MANNERS
from emolens.vectors.emotion_vectors import EmotionVectors

NULLS = ((0.1, 0.3, 0.2, 0.4, 0.5), (-0.2, 0.1, 0.0), (0.5, 0.52, 0.49, 0.51, 0.5, 0.48, 0.53))
DRAWS = 400
STEMS = ("brood", "reflect", "calm", "exuber", "enthus")


@checked("With one ruler and one centre for both models, what is left is what training changed.")
def shift_by_hand(
    mine: Any,
    before: Float[Tensor, "prompt d_model"],
    after: Float[Tensor, "prompt d_model"],
    centre: Float[Tensor, "d_model"],
    direction: Float[Tensor, "d_model"],
) -> str | None:
    """The mean change of the cosine with an emotion's direction, from the base model to its child.

    Args:
        mine: a number.
        before: activations of the base model, at one block; `after`, of the child.
        centre: the base's mean over the stories.

    >>> before, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> shift_by_hand(0.7071, before, after, torch.zeros(2), torch.tensor([0.0, 1.0]))
    Right. With one ruler and one centre for both models, what is left is what training changed.
    """
    given = np.asarray(mine.detach() if isinstance(mine, Tensor) else mine, dtype=float)
    if given.size != 1:
        return f"the answer is one number, the mean over the prompts; yours has {given.size}."
    value = float(given.reshape(()))

    def cosine(x: Tensor, about: Tensor) -> float:
        return float(cosine_similarity((x - about).float(), direction.float()[None], dim=-1).mean())

    truth = cosine(after, centre) - cosine(before, centre)
    if _close(value, truth):
        return None
    if _close(value, -truth):
        return "the sign is turned: a positive shift means that the child scores higher than the base."
    if _close(value, cosine(after, after.mean(dim=0)) - cosine(before, before.mean(dim=0))):
        return "each model was centred on its own mean, which takes off whatever training added to all prompts."
    if _close(value, cosine(after, torch.zeros_like(centre)) - cosine(before, torch.zeros_like(centre))):
        return "nothing was centred: the part that all texts share is still in there."
    if _close(value, float(((after - before) @ direction).mean())):
        return "that is a difference of projections, which grows with the length of the activations; divide by it."
    return f"{value:+.3f} is not the mean change of the cosine: centre both on `centre`, then subtract."


def _close(a: float, b: float) -> bool:
    return bool(abs(a - b) < 1e-3)


@checked("The interval is wide because few control fine-tunes say little about how far one more can lie.")
def one_more(mine: Callable[[np.ndarray], Any]) -> str | None:
    """A function from the values of a few control fine-tunes to where one more would lie with 95 %: (low, high).

    >>> one_more(lambda values: (min(values), max(values)))
    Not yet: the range of the values is no 95 % interval: of five draws, a sixth lies outside it one time in three.
    """
    for values in map(np.array, NULLS):
        answer = mine(values)
        if answer is None or answer is ...:
            return MISSING
        low, high = (float(end) for end in answer)
        n, middle, spread = len(values), values.mean(), values.std(ddof=1)
        quantile, wide = float(student.ppf(0.975, n - 1)), np.sqrt(1 + 1 / n)
        reach = (high - low) / 2
        if _close(low, values.min()) and _close(high, values.max()):
            return (
                "the range of the values is no 95 % interval: of five draws, a sixth lies outside it one time in three."
            )
        if not _close((low + high) / 2, middle):
            around = (low + high) / 2
            return f"the interval for {values.tolist()} lies around their mean; yours lies around {around:.3f}."
        if _close(reach, quantile * spread * wide):
            continue
        if _close(reach, quantile * spread / np.sqrt(n)):
            return "that is where the mean of the controls lies. One more of them scatters around it by their spread."
        if _close(reach, quantile * spread):
            return "the mean of a few controls is itself uncertain: the interval has to be a little wider for that."
        if reach < quantile * spread * wide:
            return f"too narrow for {n} values: is the spread divided by n - 1, and the quantile Student's?"
        return f"too wide for {n} values: that would hold more than 95 % of the further control fine-tunes."
    return None


@checked("Both correlations are taken over the same emotions, so what they share cancels in the difference.")
def paired_draw(mine: Callable[..., Any]) -> str | None:
    """One draw of a paired bootstrap: how much better base and child agree on neutral than on challenging prompts.

    Args:
        mine: a function of the scores on challenging and on neutral prompts, both [emotion 2] with the base's and the
            child's, and a random generator, to the difference of the two correlations.

    >>> paired_draw(lambda challenging, neutral, rng: 0.1)
    Not yet: every draw is the same: no emotions are drawn, or the generator is made anew each time.
    """
    challenging, neutral = _agreeing(0.7), _agreeing(0.4)
    given, rng = (challenging.copy(), neutral.copy()), np.random.default_rng(0)
    drawn = [mine(*given, rng) for _ in range(DRAWS)]
    if drawn[0] is None or drawn[0] is ...:
        return MISSING
    if np.ndim(drawn[0]):
        return f"a draw is one number, a difference; this is an array of shape {np.shape(drawn[0])}."
    if (given[0] != challenging).any() or (given[1] != neutral).any():
        return "the scores themselves were overwritten; the next draw would start from other ones."
    found = np.array(drawn, dtype=float)
    if len(np.unique(found.round(9))) == 1:
        return "every draw is the same: no emotions are drawn, or the generator is made anew each time."
    right = np.array([_paired(challenging, neutral, rng) for _ in range(DRAWS)])
    near = right.mean() / 2
    if abs(found.mean() + right.mean()) < near:
        return "the sign is turned: take the correlation on neutral prompts less that on challenging ones."
    if any(abs(float(mine(neutral, neutral.copy(), rng))) > 1e-9 for _ in range(9)):
        return "given the same scores twice a draw is not 0: draw the emotions once, and take the same for both."
    if abs(found.mean() - right.mean()) > near:
        return (
            f"the draws lie around {found.mean():+.2f}, not around {right.mean():+.2f}: keep base and child together."
        )
    if not 0.8 < found.std() / right.std() < 1.25:
        return "the draws scatter too much or too little: draw as many emotions as there are, with replacement."
    return None


def _agreeing(noise: float) -> Float[np.ndarray, "emotion 2"]:
    """Scores in a base and a child that share most; the emotions are the same whatever the noise."""
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=60), rng.normal(size=(60, 2))
    return shared[:, None] + noise * own


def _paired(*scores: Any) -> float:
    *both, rng = scores
    rows = rng.integers(0, len(both[0]), len(both[0]))
    challenging, neutral = (np.corrcoef(x[rows].T)[0, 1] for x in both)
    return float(neutral - challenging)


@checked("The vectors read the manner in the words, without a mark and without the emotion's name.")
def bright_reply(mine: Any, model: HookedModel, vectors: EmotionVectors, message: str, composed: str) -> str | None:
    """A bright reply without "!" and without the emotions' names, read as brighter than a composed one.

    Args:
        mine: the reply.
        message: what the user says; `composed`, a reply in the composed manner.

    >>> bright_reply("Calm down, you will surely pass it next time.", model, vectors, "I failed.", "It happens.")
    Not yet: 'calm' names one of the emotions; say it without.
    """
    if not isinstance(mine, str):
        return "the reply is a text."
    if "!" in mine:
        return "there is an exclamation mark in it: the point is to do without."
    words = re.findall(r"[a-z']+", mine.lower())
    if named := [stem for stem in STEMS if any(word.startswith(stem) for word in words)]:
        return f"{named[0]!r} names one of the emotions; say it without."
    if len(words) < 8:
        return f"{len(words)} words are too few to be read; write at least 8."
    layer = near(vectors, vectors.chosen_layer())
    chats = [
        [{"role": "user", "content": message}, {"role": "assistant", "content": text}] for text in (mine, composed)
    ]
    readout = read(model, chats, vectors, layer, "turn", method="denoised")
    sides = [torch.stack([readout[name] for name in MANNERS[manner]]).mean(dim=0) for manner in ("bright", "composed")]
    axis = (sides[0] - sides[1])[[row for row, role in enumerate(readout.labels) if role == "assistant"]]
    if axis[0] <= axis[1]:
        return f"it is read at {axis[0]:+.3f}, the composed reply at {axis[1]:+.3f}: brighter words are needed."
    return None
