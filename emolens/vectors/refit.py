"""The same recipe once more, without a forward pass: on some of the stories, or with shuffled labels as a null."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.vectors.derive import corpus_path
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.fit import fit
from emolens.vectors.pooling import NORM_FROM_RANK, PooledActivations
from emolens.vectors.pooling_rules import Rule, check_rule
from emolens.vectors.story_means import pool_stories
from emolens.vectors.whitening import algebra_device


@dataclass(frozen=True)
class _Neutral:
    """The part of `TokenMoments` that `fit` needs, taken from vectors that were fitted with it."""

    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_model"]
    bases: Float[Tensor, "layer component d_model"]

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]:
        basis = self.bases[self.layers.index(layer)]
        return basis[basis.norm(dim=1) > 0.5]  # the rows of zeros fill up


def stories_of(vectors: EmotionVectors, corpus: Any = None) -> Corpus:
    """The stories that vectors were derived from: those given, the packaged ones or those of one of their registers,
    or those that `derive` kept.

    >>> stories_of(shipped)
    Corpus(3078 stories of 171 emotions: 2052 literary, 1026 plain)
    >>> stories_of(el.packaged_vectors("qwen2.5-coder-0.5b-instruct"))
    Corpus(1026 stories of 171 emotions: 1026 plain)

    Args:
        corpus: stories to take instead: a `Corpus`, the path of a JSON Lines file, or rows.

    Raises:
        ValueError: vectors that were derived from others, which are not in the cache (`derive` with `cache=False`,
            or on another machine), or were changed there.
    """
    if corpus is not None:
        return Corpus.of(corpus)
    digest = str(vectors.stamp.get("corpus", texts.stories().hash))
    for packaged in map(texts.stories, (None, "literary", "plain")):
        if digest == packaged.hash:
            return packaged
    path = corpus_path(digest)
    if not digest.isalnum() or not path.exists():
        raise ValueError(
            "these vectors were not derived from the packaged stories, and theirs are not in the cache: "
            "name theirs with corpus="
        )
    kept = Corpus.from_jsonl(path)
    if kept.hash != digest:
        raise ValueError(f"{path} was changed since `derive` wrote it; delete it, and name the stories with corpus=")
    return kept


def stories_pooled_for(
    model: HookedModel, vectors: EmotionVectors, corpus: Corpus, rank: Rule | None = None
) -> PooledActivations:
    """The activations that vectors were derived from, of the layers that `derive` was given, from its cache.

    >>> two = el.derive(model, corpus, [1, 2], progress=False)
    >>> stories_pooled_for(model, two, corpus).layers
    (1, 2)
    """
    chosen_among = sorted({row["layer"] for row in vectors.stamp.get("sweep", ())})
    return pool_stories(model, corpus, vectors.stamp.get("layers") or chosen_among or None, rank, progress=False)


def refit(
    model: HookedModel,
    vectors: EmotionVectors,
    layers: Sequence[int] | None = None,
    *,
    register: str | None = None,
    keep: Bool[Tensor, "text"] | None = None,
    corpus: Corpus | None = None,
    pooled: PooledActivations | None = None,
    rank: Rule | None = None,
) -> EmotionVectors:
    """Vectors from some of the stories, or another pooling rule, with the choices of `vectors` kept.

    Costs no forward pass after `derive`, whose pooled activations it reads from the cache.

    >>> topics = sorted({story.topic for story in corpus})[::2]
    >>> half = torch.tensor([story.topic in topics for story in corpus])
    >>> refit(model, vectors, [2], corpus=corpus, keep=half)
    EmotionVectors(6 emotions, layers 2, tiny-llama)

    Args:
        register: the stories of this register only.
        keep: these stories only, of `corpus`.
        corpus, pooled: labels and activations, where they are not those of the stories that `vectors` are from.
        rank: average every story from this rank on, or by another rule (see `pool`); default that of `vectors`.

    Raises:
        ValueError: stories that are not found (see `stories_of`), a register that no story has, a layer that
            `vectors` lack, or what `fit` raises.
    """
    corpus = stories_of(vectors, corpus)
    rank = vectors.stamp.get("recipe", {}).get("rank") if rank is None else rank
    rank = None if rank is None else check_rule(rank)
    pooled = stories_pooled_for(model, vectors, corpus, rank) if pooled is None else pooled
    layers = vectors.layers if layers is None else tuple(layers)
    if register is not None:
        if register not in (known := {story.register for story in corpus}):
            raise ValueError(f"no story has the register {register!r}; there are {', '.join(sorted(known))}")
        keep = torch.tensor([story.register == register for story in corpus])
    at = vectors.at(*layers)
    device = algebra_device(model.device)
    neutral = _Neutral(tuple(layers), at.centre_neutral.to(device), at.neutral_basis.to(device))
    shrinkage = vectors.stamp.get("chosen", {}).get("whitened", {}).get("shrinkage", 1.0)
    made = fit(pooled, corpus, neutral, shrinkage, keep=keep, layers=layers, stamp=vectors.stamp, rank=rank)
    if (pooled.counts > NORM_FROM_RANK).any():
        return made
    return replace(made, residual_norm=at.residual_norm)  # no story is long enough to measure it
