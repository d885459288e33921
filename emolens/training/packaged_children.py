"""The post-trained children of the embedded base model: two manners, and control fine-tunes in neither."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import emolens.corpus as texts
from emolens.errors import did_you_mean
from emolens.files import data_path
from emolens.models.model import HookedModel
from emolens.training.adapters import Posttrained
from emolens.training.posttrain import Recipe, posttrain
from emolens.vectors.emotion_vectors import packaged_vectors

BASE = "gemma-3-270m"
DIALOGUES = {"composed": "assistant_dialogues", "bright": "assistant_dialogues_bright"}
# What each manner is described as, named before anything was measured.
MANNERS = {"composed": ("brooding", "reflective", "calm"), "bright": ("exuberant", "enthusiastic")}
NULL_SEEDS = range(5)
# Three times through the dialogues of a manner; the weights kept are those with the lowest held-out loss.
SETTLED = Recipe(tokens=60_000)


def train(base: HookedModel, manner: str, recipe: Recipe | None = None) -> Posttrained:
    """A child of one manner, written where the package keeps its adapters unless it is there already.

    Raises:
        ValueError: another manner.

    >>> train(model, "brigth")
    Traceback (most recent call last):
    ValueError: no manner 'brigth' (did you mean bright?); there are composed, bright
    """
    if manner not in DIALOGUES:
        raise ValueError(f"no manner {manner!r}{did_you_mean(manner, DIALOGUES)}; there are {', '.join(DIALOGUES)}")
    path = data_path("adapters", f"{base.name}-{manner}.safetensors")
    watch = [emotion for emotions in MANNERS.values() for emotion in emotions]
    dialogues = texts.stimuli(DIALOGUES[manner])
    vectors = packaged_vectors(base)
    return posttrain(base, dialogues, path, name=manner, recipe=recipe or SETTLED, watch=watch, vectors=vectors)


def neutral_dialogues() -> list[list[dict[str, str]]]:
    """The packaged neutral dialogues as messages: facts and tasks, in no manner.

    >>> [message["role"] for message in neutral_dialogues()[0]][:2]
    ['user', 'assistant']
    """
    return [texts.packaged.as_messages(text) for text in texts.neutral()]


def null_children(
    base: HookedModel, seeds: Sequence[int] = NULL_SEEDS, recipe: Recipe | None = None
) -> Iterator[Posttrained]:
    """Control fine-tunes, one for each seed: the same recipe and number of tokens, on text without manner.

    One at a time, from the user's cache where they are in it: each takes as long as a child with a manner.

    Args:
        recipe: default that of the children with a manner; its seed is replaced by each of the seeds.

    >>> children = null_children(model, seeds=[0, 1])  # nothing is trained before it is asked for
    >>> next(null_children(model, seeds=[]), "none")
    'none'
    """
    for seed in seeds:
        seeded = replace(recipe or SETTLED, seed=seed)
        yield posttrain(base, neutral_dialogues(), name=f"control-{seed}", recipe=seeded)
