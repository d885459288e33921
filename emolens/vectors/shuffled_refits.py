"""Vectors of very many label shufflings: the null of shuffled labels at the price of a sum for each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.vectors.contrast import Layout, group_mean
from emolens.vectors.emotion_vectors import EmotionVectors, check_method
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.refit import stories_of, stories_pooled_for
from emolens.vectors.story_means import story_means

BYTES_AT_ONCE = 2**26  # of the vectors that are held at once
METHODS = ("raw", "denoised")


@dataclass(frozen=True)
class ShuffledRefits:
    """Sets of vectors refitted after the emotions were permuted within each topic, block by block.

    The shufflings are the same at every block, so that a set can be followed through the blocks. What `at` gives is
    what `refit` gives for the shuffled stories, but no story is read twice and nothing is whitened: the mean of an
    emotion is a sparse matrix times the centred stories, and denoising the stories once denoises all the means.

    Attributes:
        order: the stories in the order of the emotion that each shuffling gives them.
        weights: what a story counts in its emotion's mean, in that order; `stops` is where each emotion begins.

    >>> refits = shuffled_refits(model, vectors, draws=20, corpus=corpus)
    >>> [tuple(sets.shape) for sets in refits.at(2)]
    [(20, 6, 32)]
    """

    vectors: EmotionVectors
    corpus: Corpus
    pooled: PooledActivations
    order: Int[Tensor, "draw text"]
    weights: Float[Tensor, "draw text"]
    stops: Int[Tensor, "emotion"]

    def __len__(self) -> int:
        return len(self.order)

    def at(self, layer: int, method: str = "denoised") -> Iterator[Float[Tensor, "draw emotion d_model"]]:
        """The vectors of all shufflings at one block, some draws at a time, not normalised.

        Args:
            method: "denoised" or "raw".

        Raises:
            ValueError: the whitened method, which needs the noise of each shuffling (use `refit`); another block than
                the vectors have; a story whose activations are not finite.

        >>> sets = next(shuffled_refits(model, vectors, draws=2, corpus=corpus).at(2, "raw"))
        >>> bool(sets.mean(dim=1).norm() < 1e-5 * sets.norm())
        True
        """
        if (method := check_method(method)) not in METHODS:
            raise ValueError(f"shuffled vectors are {' or '.join(METHODS)}, not {method}: whitening needs `refit`")
        stories = self._stories(layer, method)
        at_once = max(1, BYTES_AT_ONCE // (4 * len(self.stops) * stories.shape[1]))
        for order, weights in zip(self.order.split(at_once), self.weights.split(at_once), strict=True):
            starts = torch.arange(len(order))[:, None] * order.shape[1] + self.stops
            means = torch.nn.functional.embedding_bag(
                order.flatten(), stories, starts.flatten(), mode="sum", per_sample_weights=weights.flatten()
            ).view(len(order), len(self.stops), -1)
            yield means - means.mean(dim=1, keepdim=True)

    def _stories(self, layer: int, method: str) -> Float[Tensor, "text d_model"]:
        """The stories centred within register and topic, denoised."""
        basis = self.vectors.at(layer).neutral_basis[0].double()
        x = story_means(self.pooled, self.corpus, layer).double()
        if bad := (~x.isfinite()).any(dim=1).nonzero().flatten().tolist():
            raise ValueError(f"the activations of story number {bad[0]} are not finite at block {layer}")
        group = Layout.of(self.corpus).group
        x = x - group_mean(x, group, int(group.max()) + 1)[group]
        return (x - x @ basis.T @ basis if method == "denoised" else x).float()


def shuffled_refits(
    model: HookedModel,
    vectors: EmotionVectors,
    draws: int = 999,
    seed: int = 0,
    corpus: Corpus | None = None,
    pooled: PooledActivations | None = None,
) -> ShuffledRefits:
    """The null of shuffled labels for many draws: as `steering.nulls.shuffled`, with the same shufflings for a seed.

    Costs no forward pass after `derive`, whose pooled activations it reads from the cache. A set of one block takes
    milliseconds.

    Args:
        corpus, pooled: labels and activations, where they are not those of the packaged stories.

    Raises:
        ValueError: no draws, or vectors that were derived from other stories than `corpus`.

    >>> refits = shuffled_refits(model, vectors, draws=39, corpus=corpus)
    >>> len(refits), sum(len(sets) for sets in refits.at(3))
    (39, 39)
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: ask for at least one")
    vectors.check_model(model)
    corpus = stories_of(vectors) if corpus is None else corpus
    if corpus.emotions != vectors.emotions:
        raise ValueError(
            f"the stories have {len(corpus.emotions)} emotions and the vectors {len(vectors.emotions)}, or in another "
            f"order: give the stories that the vectors were derived from"
        )
    pooled = stories_pooled_for(model, vectors, corpus) if pooled is None else pooled
    layout = Layout.of(corpus)
    code = shuffled_codes(layout, draws, seed)
    order = code.argsort(dim=1, stable=True)
    count = torch.bincount(layout.emotion, minlength=len(layout.emotions))
    # A topic keeps its emotions, so however they are shuffled each register has as many stories of an emotion.
    cell = layout.register * len(layout.emotions) + layout.emotion
    per_cell = torch.bincount(cell, minlength=len(layout.registers) * len(layout.emotions))
    registers = (per_cell.view(len(layout.registers), -1) > 0).sum(dim=0)
    register, emotion = layout.register[order], code.gather(1, order)
    weights = 1 / (registers[emotion] * per_cell[register * len(layout.emotions) + emotion])
    return ShuffledRefits(vectors, corpus, pooled, order, weights, count.cumsum(0) - count)


def shuffled_codes(layout: Layout, draws: int, seed: int = 0) -> Int[Tensor, "draw text"]:
    """Each story's emotion, as its row, after the emotions were permuted within register and topic.

    >>> from emolens.vectors.contrast import Layout
    >>> codes = shuffled_codes(Layout.of(corpus), 3)
    >>> tuple(codes.shape) == (3, len(corpus)), codes.sort().values.unique(dim=0).shape[0]
    (True, 1)
    """
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(layout.group.tolist()):
        groups.setdefault(group, []).append(row)
    rng, emotion = np.random.default_rng(seed), layout.emotion.numpy()
    codes = np.empty((draws, len(emotion)), dtype=np.int64)
    for draw in range(draws):
        for rows in groups.values():
            codes[draw, rows] = emotion[rng.permutation(rows)]
    return torch.from_numpy(codes)
