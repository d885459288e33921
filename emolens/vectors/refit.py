"""The same recipe once more, without a forward pass: on some of the stories, or with shuffled labels as a null."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.vectors.derive import fit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.pooling import RULES, PooledActivations, Rule, check_rule, pool


@dataclass(frozen=True)
class _Neutral:
    """The part of `TokenMoments` that `fit` needs, taken from vectors that were fitted with it."""

    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_model"]
    bases: Float[Tensor, "layer component d_model"]

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]:
        basis = self.bases[self.layers.index(layer)]
        return basis[basis.norm(dim=1) > 0.5]  # the rows of zeros fill up


def stories_of(vectors: EmotionVectors) -> Corpus:
    """The packaged stories. Raises ValueError for vectors that were derived from others."""
    packaged = texts.stories()
    if vectors.stamp.get("corpus", packaged.hash) != packaged.hash:
        raise ValueError("these vectors were not derived from the packaged stories: name theirs with corpus=")
    return packaged


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

    Args:
        register: the stories of this register only.
        keep: these stories only, of `corpus` (default: the packaged one).
        corpus, pooled: labels and activations, where they are not those of the packaged stories.
        rank: average every story from this rank on, or by another rule (see `pool`); default that of `vectors`.
    """
    corpus = stories_of(vectors) if corpus is None else corpus
    rank = vectors.stamp.get("recipe", {}).get("rank") if rank is None else rank
    rank = None if rank is None else check_rule(rank)
    rules = RULES if rank is None or rank in RULES else (*RULES, rank)
    pooled = pool(model, corpus.texts, rules=rules, progress=False) if pooled is None else pooled
    layers = vectors.layers if layers is None else tuple(layers)
    if register is not None:
        if register not in (known := {story.register for story in corpus}):
            raise ValueError(f"no story has the register {register!r}; there are {', '.join(sorted(known))}")
        keep = torch.tensor([story.register == register for story in corpus])
    at = vectors.at(*layers)
    neutral = _Neutral(tuple(layers), at.centre_neutral, at.neutral_basis)
    shrinkage = vectors.stamp.get("chosen", {}).get("whitened", {}).get("shrinkage", 1.0)
    return fit(pooled, corpus, neutral, shrinkage, keep=keep, layers=layers, stamp=vectors.stamp, rank=rank)
