"""The post-trained children of the embedded base model: two manners, and control fine-tunes."""

from collections.abc import Iterator, Sequence

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
    return posttrain(base, dialogues, path, name=manner, recipe=recipe, watch=watch, vectors=vectors)


def neutral_dialogues() -> list[list[dict[str, str]]]:
    """The packaged neutral dialogues as messages: facts and tasks, in neither manner.

    >>> [message["role"] for message in neutral_dialogues()[0]][:2]
    ['user', 'assistant']
    """
    return [texts.packaged.as_messages(text) for text in texts.neutral()]


def null_children(
    base: HookedModel, seeds: Sequence[int] = NULL_SEEDS, tokens: int | None = None
) -> Iterator[Posttrained]:
    """Control fine-tunes by seed: the same recipe and number of tokens, on dialogues in neither manner.

    One at a time, from the user's cache where they are in it: each takes as long as a child with a manner.

    >>> children = null_children(model, seeds=[0, 1])  # nothing is trained before it is asked for
    >>> next(null_children(model, seeds=[]), "none")
    'none'
    """
    for seed in seeds:
        recipe = Recipe(seed=seed) if tokens is None else Recipe(seed=seed, tokens=tokens)
        yield posttrain(base, neutral_dialogues(), name=f"no-manner-{seed}", recipe=recipe)
