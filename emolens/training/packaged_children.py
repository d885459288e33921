"""The post-trained children of the embedded base model: two manners, and a null without any."""

import re
from collections.abc import Iterator, Sequence

import emolens.corpus as texts
from emolens.files import data_path
from emolens.models.conversations import PLAIN_ROLES
from emolens.models.model import HookedModel
from emolens.models.texts import Message
from emolens.training.adapters import Posttrained
from emolens.training.posttrain import Recipe, posttrain
from emolens.vectors.emotion_vectors import packaged_vectors

BASE = "gemma-3-270m"
DIALOGUES = {"composed": "assistant_dialogues", "bright": "assistant_dialogues_bright"}
# What each manner is described as, named before anything was measured.
MANNERS = {"composed": ("brooding", "reflective", "calm"), "bright": ("exuberant", "enthusiastic")}
NULL_SEEDS = range(5)


def train(base: HookedModel, manner: str, recipe: Recipe | None = None) -> Posttrained:
    """A child of one manner, written where the package keeps its adapters unless it is there already."""
    path = data_path("adapters", f"{base.name}-{manner}.safetensors")
    watch = [emotion for emotions in MANNERS.values() for emotion in emotions]
    dialogues = texts.stimuli(DIALOGUES[manner])
    vectors = packaged_vectors(base)
    return posttrain(base, dialogues, path, name=manner, recipe=recipe, watch=watch, vectors=vectors)


def neutral_dialogues() -> list[list[Message]]:
    """The packaged neutral dialogues as messages: facts and tasks, in no manner."""
    roles = {name: role for role, name in PLAIN_ROLES.items()}
    turn = re.compile(rf"(?:^|\n\n)({PLAIN_ROLES['user']}|{PLAIN_ROLES['assistant']}): ")
    found: list[list[Message]] = []
    for text in texts.neutral():
        parts = turn.split(text)[1:]
        found.append([{"role": roles[r], "content": c.strip()} for r, c in zip(parts[::2], parts[1::2], strict=True)])
    return found


def null_children(
    base: HookedModel, seeds: Sequence[int] = NULL_SEEDS, tokens: int | None = None
) -> Iterator[Posttrained]:
    """Children by seed, trained by the same recipe for the same number of tokens on text without manner.

    One at a time, from the user's cache where they are in it: each takes as long as a child with a manner.
    """
    for seed in seeds:
        recipe = Recipe(seed=seed) if tokens is None else Recipe(seed=seed, tokens=tokens)
        yield posttrain(base, neutral_dialogues(), name=f"no-manner-{seed}", recipe=recipe)
