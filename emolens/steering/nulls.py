"""Directions that mean nothing, and how an effect is held against them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.stats import outside_draws, p_value
from emolens.steering.steer import default_layer
from emolens.vectors.derive import pool_stories
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import refit, stories_of

Nulls = Mapping[str, Sequence[Sequence[Direction]]]  # kind -> draw -> one direction for each that is looked at
BY_RANK = 39  # draws from which a p value is their rank: beating all of them is p = 1/40
LEVEL = 0.05


def random_directions(like: Direction, n: int, seed: int = 0) -> list[Direction]:
    """n directions drawn evenly from the sphere, in each layer of the norm that `like` has there."""
    generator = torch.Generator().manual_seed(seed)
    norm = like.values.norm(dim=-1, keepdim=True)
    drawn = torch.randn(n, *like.values.shape, generator=generator)
    return [replace(like, name=f"random {i}", values=norm * unit(x), terms=()) for i, x in enumerate(drawn)]


def shuffled(
    model: HookedModel,
    vectors: EmotionVectors,
    layers: Sequence[int],
    draws: int = 39,
    seed: int = 0,
    corpus: Corpus | None = None,
    **options: Any,
) -> Iterator[EmotionVectors]:
    """The null of shuffled labels: vectors refitted after the emotions were permuted within each topic.

    What such vectors read is what any 171 directions of this recipe would read. `options` as for `refit`.
    """
    corpus = stories_of(vectors, corpus)
    options.setdefault("pooled", pool_stories(model, corpus, progress=False))
    groups: dict[tuple[str, str], list[int]] = {}
    for number, story in enumerate(corpus):
        groups.setdefault((story.register, story.topic), []).append(number)
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        stories = list(corpus.stories)
        for rows in groups.values():
            for row, source in zip(rows, rng.permutation(rows).tolist(), strict=True):
                stories[row] = replace(corpus[row], emotion=corpus[source].emotion)
        yield refit(model, vectors, layers, corpus=Corpus(tuple(stories)), **options)


def null_directions(
    model: HookedModel,
    vectors: EmotionVectors,
    directions: Sequence[Direction],
    draws: int = BY_RANK,
    layers: int | Sequence[int] | None = None,
    seed: int = 0,
    **refit_options: Any,
) -> dict[str, list[list[Direction]]]:
    """Directions that mean nothing, in families as large as `directions`.

    "random" are drawn evenly from the sphere; "shuffled labels" are the same combinations of vectors that were
    refitted after the emotions were permuted within each topic.
    """
    at = default_layer(directions[0]) if layers is None else layers
    chosen = [at] if isinstance(at, int) else list(at)
    if unknown := [one.name for one in directions if not one.terms]:
        raise ValueError(f"{unknown[0]!r} is no combination of emotions, so it has no vectors with shuffled labels")
    found: dict[str, list[list[Direction]]] = {"random": [], "shuffled labels": []}
    for draw in range(draws):
        drawn = [random_directions(one, 1, seed + 1000 * draw + i)[0] for i, one in enumerate(directions)]
        # Under the name of what they stand for, so that a measure may ask for the emotion of a row.
        found["random"].append([replace(one, name=of.name) for one, of in zip(drawn, directions, strict=True)])
    for other in shuffled(model, vectors, chosen, draws, seed, **refit_options):
        family = []
        for one in directions:
            values = torch.stack([weight * other[emotion].values for emotion, weight in one.terms]).sum(dim=0)
            norm, centre = other.residual_norm, other.centre_stories
            family.append(replace(one, values=values, layers=other.layers, residual_norm=norm, centre=centre))
        found["shuffled labels"].append(family)
    return found


def families_of(nulls: Nulls | None, directions: Sequence[Direction]) -> dict[str, list[Sequence[Direction]]]:
    """The draws of each kind. Raises ValueError for fewer than ten, or families of another size."""
    families = {kind: list(draws) for kind, draws in (nulls or {}).items()}
    for kind, draws in families.items():
        if len(draws) < 10 or any(len(family) != len(directions) for family in draws):
            raise ValueError(f"the null {kind!r} needs at least 10 draws of {len(directions)} directions each")
    return families


def family_p(observed: float, largest: np.ndarray) -> float:
    """p of an absolute value against the largest of each null family.

    From 39 draws on their rank; with fewer, a t prediction interval for one more draw.
    """
    if len(largest) >= BY_RANK:
        return p_value(observed, largest)
    two_sided = float(outside_draws(np.asarray(observed), largest)[0])
    return two_sided / 2 if observed >= largest.mean() else 1 - two_sided / 2
