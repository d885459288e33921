"""Directions that mean nothing, and how an effect is held against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.stats import BY_RANK, LEVEL, Verdict, family_p, null_columns, outside_draws
from emolens.steering.steer import default_layer
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import refit, stories_of, stories_pooled_for
from emolens.vectors.shuffled_refits import shuffled_refits

FEWEST = 10  # draws of each kind, below which nothing is said of where one more would lie


@dataclass(frozen=True)
class Nulls:
    """Families of directions that mean nothing, by kind, and what they do to a measure once that is known.

    A family holds one direction for each that is looked at, so that the furthest of a family is what the furthest of
    those looked at is compared with. `null_directions` makes the families; `measured` adds their effects.

    Attributes:
        families: kind -> draw -> one direction for each that is looked at; empty where only effects are known.
        effects: kind -> effects [draw *family], of the shape of the effects that are looked at.

    >>> nulls = Nulls().measured({"random": np.random.default_rng(0).normal(0, 1, (39, 2))})
    >>> nulls.kinds, nulls.p([4.0, 0.1])["random"].round(3).tolist()[0]
    (('random',), 0.025)
    >>> nulls.verdict([4.0, 0.1])[0]
    <Verdict.BEYOND: 'beyond the null'>
    """

    families: Mapping[str, Sequence[Sequence[Direction]]] = field(default_factory=dict)
    effects: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.families or self.effects)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of null, such as "random" and "shuffled labels"."""
        return tuple(self.effects or self.families)

    def check(self, directions: Sequence[Direction]) -> Nulls:
        """These nulls, if they can stand beside `directions`.

        Raises:
            ValueError: fewer than ten draws of a kind, or families of another size.
        """
        for kind, draws in self.families.items():
            if len(draws) < FEWEST or any(len(family) != len(directions) for family in draws):
                raise ValueError(
                    f"the null {kind!r} needs at least {FEWEST} draws of {len(directions)} directions each; it has "
                    f"{len(draws)} draws of {sorted({len(family) for family in draws})}"
                )
        return self

    def measured(self, effects: Mapping[str, np.ndarray]) -> Nulls:
        """The same with the effects of the draws [draw *family], by kind."""
        return replace(self, effects={kind: np.asarray(values, dtype=float) for kind, values in effects.items()})

    def centre(self) -> dict[str, np.ndarray]:
        """Where each kind lies: the mean over its draws [*family]."""
        return {kind: np.asarray(values.mean(axis=0)) for kind, values in self.effects.items()}

    def spread(self) -> dict[str, np.ndarray]:
        """How far the draws of each kind scatter: their standard deviation [*family]."""
        return {kind: np.asarray(values.std(axis=0, ddof=1)) for kind, values in self.effects.items()}

    def band(self, level: float = 1 - LEVEL) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Where `level` of single draws lie [*family]: quantiles, or with fewer than 39 draws Student's interval."""
        bands = {}
        for kind, values in self.effects.items():
            if len(values) >= BY_RANK:
                low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
            else:
                _, low, high = outside_draws(values[0], values, level=level)
            bands[kind] = (np.asarray(low), np.asarray(high))  # a family of one, too
        return bands

    def limits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What an effect [*family] has to pass to be beyond a kind: `band`, widened for the size of the family."""
        limits = {}
        for kind, values in self.effects.items():
            if len(values) < BY_RANK:
                _, low, high = outside_draws(values[0], values, level=1 - LEVEL / values[0].size)
            else:
                centre, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
                distance = np.abs(values - centre) / np.where(spread > 0, spread, 1)
                reach = np.quantile(distance.reshape(len(values), -1).max(axis=1), 1 - LEVEL, method="higher")
                low, high = centre - reach * spread, centre + reach * spread
            limits[kind] = (low, high)
        return limits

    def p(self, observed: Any) -> dict[str, np.ndarray]:
        """p of each effect [*family] against each kind (see `stats.family_p`)."""
        return {kind: family_p(observed, values) for kind, values in self.effects.items()}

    def verdict(self, observed: Any) -> np.ndarray:
        """The verdict of each effect [*family]: an effect must be beyond every kind."""
        return _verdicts(self.p(observed), np.shape(observed))

    def columns(self, observed: Any) -> dict[str, np.ndarray]:
        """What a table says of each effect [*family]: the band and p of each kind (`null_columns`), and the verdict."""
        p = self.p(observed)
        out: dict[str, Any] = {}
        for kind, (low, high) in self.band().items():
            out |= dict(zip(null_columns(kind), (low, high, p[kind]), strict=True))
        return out | {"verdict": _verdicts(p, np.shape(observed))}


def _verdicts(p: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    verdicts = np.empty(shape, dtype=object)
    for at in np.ndindex(shape):
        verdicts[at] = Verdict.of(float(values[at]) for values in p.values())
    return verdicts


def random_directions(like: Direction, n: int, seed: int = 0) -> list[Direction]:
    """n directions drawn evenly from the sphere, in each layer of the norm that `like` has there.

    >>> [direction.name for direction in random_directions(shipped["calm"], 2)]
    ['random 0', 'random 1']
    """
    generator = torch.Generator().manual_seed(seed)
    norm = like.values.norm(dim=-1, keepdim=True)
    drawn = torch.randn(n, *like.values.shape, generator=generator)
    return [replace(like, name=f"random {i}", values=norm * unit(x), terms=()) for i, x in enumerate(drawn)]


def shuffled(
    model: HookedModel,
    vectors: EmotionVectors,
    layers: Sequence[int],
    draws: int = BY_RANK,
    seed: int = 0,
    corpus: Corpus | None = None,
    **options: Any,
) -> Iterator[EmotionVectors]:
    """The null of shuffled labels: vectors refitted after the emotions were permuted within each topic.

    What such vectors read is what any 171 directions of this recipe would read. `options` as for `refit`.

    >>> null = next(shuffled(model, vectors, [2], draws=1, corpus=corpus))
    >>> null.emotions == vectors.emotions, bool((null["calm", 2] - vectors["calm", 2]).norm() > 0.1)
    (True, True)
    """
    corpus = stories_of(vectors, corpus)
    options.setdefault("pooled", stories_pooled_for(model, vectors, corpus))
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
    corpus: Corpus | None = None,
) -> Nulls:
    """Directions that mean nothing, in families as large as `directions`.

    "random" are drawn evenly from the sphere. "shuffled labels" are the same combinations of vectors that were
    refitted after the emotions were permuted within each topic; a direction that is no combination of emotions, such
    as an imported one, has none, and then the random ones are the only null.

    >>> nulls = null_directions(model, vectors, [vectors["calm"]], 10, 2, corpus=corpus)
    >>> nulls.kinds, len(nulls.families["random"])
    (('random', 'shuffled labels'), 10)
    """
    at = default_layer(directions[0]) if layers is None else layers
    chosen = [at] if isinstance(at, int) else list(at)
    families: dict[str, list[list[Direction]]] = {"random": []}
    for draw in range(draws):
        drawn = [random_directions(like, 1, seed + 1000 * draw + i)[0] for i, like in enumerate(directions)]
        # Under the name of what they stand for, so that a measure may ask for the emotion of a row.
        families["random"].append([replace(null, name=like.name) for null, like in zip(drawn, directions, strict=True)])
    if all(direction.terms for direction in directions):
        corpus = stories_of(vectors, corpus)
        pooled = stories_pooled_for(model, vectors, corpus)
        refits = shuffled_refits(model, vectors, draws, seed, corpus, pooled)
        weights = torch.zeros(len(directions), len(vectors.emotions))
        for row, direction in enumerate(directions):
            for emotion, weight in direction.terms:
                weights[row, vectors.index(emotion)] += weight
        at_each = [torch.cat([weights @ unit(sets) for sets in refits.at(layer)]) for layer in chosen]
        values = torch.stack(at_each, dim=2)  # [draw direction layer d_model]
        there = vectors.at(*chosen)
        norm, centre = there.residual_norm, there.centre_stories
        families["shuffled labels"] = [
            [
                replace(direction, values=x, layers=there.layers, residual_norm=norm, centre=centre)
                for direction, x in zip(directions, family, strict=True)
            ]
            for family in values
        ]
    return Nulls(families)
