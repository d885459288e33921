"""Fitting: raw, denoised and whitened vectors of every layer, their reliability, and the noise of some layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.corpus.stories import Corpus
from emolens.vectors.choose import EXPLAINED
from emolens.vectors.contrast import Layout, contrast, contrast_and_noise, group_mean
from emolens.vectors.direction import position_of
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, unit
from emolens.vectors.folds import Folds
from emolens.vectors.pooling import NORM_FROM_RANK, PooledActivations
from emolens.vectors.pooling_rules import Rule
from emolens.vectors.story_means import story_means
from emolens.vectors.token_moments import Moments
from emolens.vectors.whitening import Whitening, stack_noise

NOISE_BYTES = 160_000_000  # of the noise that vectors hold; that of other layers is computed when it is asked for


def fit(
    pooled: PooledActivations,
    corpus: Corpus,
    neutral: Moments,
    shrinkage: float = 1.0,
    keep: Bool[Tensor, "text"] | None = None,
    layers: Sequence[int] | None = None,
    stamp: dict[str, Any] | None = None,
    rank: Rule | None = None,
) -> EmotionVectors:
    """Emotion vectors from pooled stories (paper, section 3), with the whitened readout of this project beside them.

    Whitening a text takes the noise of the stories at its layer. Kept is that of the layers around the chosen block
    and the default one, as many as 160 MB hold; that of others is computed from `pooled` when it is asked for.

    The reliability of an emotion is NaN where it cannot be measured: a single text cannot be halved. Its mean over
    emotions is therefore taken with `nanmean`.

    >>> moments = el.token_moments(model, el.corpus.neutral(), [2], progress=False)
    >>> pooled = el.vectors.story_means.pool_stories(model, corpus, [2], cache=False, progress=False)
    >>> fit(pooled, corpus, moments).raw.shape
    torch.Size([6, 1, 32])

    Args:
        keep: fit on these stories only (half of the topics, one register, ...).
        shrinkage: a of the whitening.
        rank: average every story from this rank on, or by another rule that was pooled (see `pool`): "last",
            "mean", a function; default from rank 50 on for long registers, from 10 on for short ones.

    Raises:
        ValueError: stories of fewer than two emotions; a story too short; a layer, rule or corpus that was not pooled.
    """
    layers = pooled.layers if layers is None else tuple(layers)
    if not layers:
        raise ValueError("layers is empty: give at least one block, or None for all that were pooled")
    keep = torch.ones(len(corpus), dtype=torch.bool) if keep is None else check_keep(keep, corpus)
    kept = Corpus(tuple(story for story, chosen in zip(corpus, keep.tolist(), strict=True) if chosen))
    stories = FittedStories(pooled, corpus, keep, rank, shrinkage, neutral.mean.device)
    halves, noises = halves_of(kept), dict[int, tuple[Tensor, Tensor]]()
    per_layer: list[tuple[Tensor, ...]] = []
    near = nearest_first(layers, stamp)
    for layer in near:
        x, layout, whitening, vectors = stories.whitened(layer)
        if not noises or _size(noises) * (1 + 1 / len(noises)) <= NOISE_BYTES:
            noises[layer] = whitening.kept()
        basis = neutral.components(layer, EXPLAINED)
        mean = group_mean(x, layout.register, len(layout.registers)).nanmean(dim=0)
        reliability = _split_half(x, layout, halves, basis, whitening)
        per_layer.append((vectors, whitening.directions(vectors), basis, *reliability, mean))
    order = [near.index(layer) for layer in layers]
    raw, whitened, bases, same, others, centre = (
        [part[place].float().cpu() for place in order] for part in zip(*per_layer, strict=True)
    )
    width = max(len(basis) for basis in bases)
    noise_layers = tuple(layer for layer in layers if layer in noises)
    noise_basis, noise_scale = stack_noise([noises[layer] for layer in noise_layers], raw[0].shape[1])
    return EmotionVectors(
        emotions=Layout.of(kept).emotions,
        layers=tuple(layers),
        raw=torch.stack(raw, dim=1),
        whitened=torch.stack(whitened, dim=1),
        neutral_basis=torch.stack([torch.nn.functional.pad(b, (0, 0, 0, width - len(b))) for b in bases]),
        noise_basis=noise_basis,
        noise_scale=noise_scale,
        centre_stories=torch.stack(centre),
        centre_neutral=neutral.mean[[position_of(neutral.layers, layer) for layer in layers]].cpu(),
        residual_norm=_residual_norm(pooled, neutral, layers),
        reliability=torch.stack(same, dim=2),
        reliability_null=torch.stack(others, dim=2),
        stamp=stamp or {"fingerprint": pooled.stamp["fingerprint"]},
        noise_layers=noise_layers,
        noise_source=None if len(noise_layers) == len(layers) else stories,
    )


@dataclass(frozen=True, eq=False)
class FittedStories:
    """The stories that vectors were fitted on: what their noise at a layer is computed from when it is asked for.

    >>> pooled = el.vectors.story_means.pool_stories(model, corpus, [2], cache=False, progress=False)
    >>> everything = torch.ones(len(corpus), dtype=torch.bool)
    >>> rows, scale = FittedStories(pooled, corpus, everything, None, 1.0, torch.device("cpu"))(2)
    >>> rows.shape
    torch.Size([30, 32])
    """

    pooled: PooledActivations
    corpus: Corpus
    keep: Bool[Tensor, "text"]
    rank: Rule | None
    shrinkage: float
    device: torch.device
    last: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # of the layer that was asked for last

    def whitened(self, layer: int) -> tuple[Tensor, Layout, Whitening, Tensor]:
        """Each story's mean, the layout, the whitening and the raw vectors at a layer."""
        kept = zip(self.corpus, self.keep.tolist(), strict=True)
        layout = Layout.of(Corpus(tuple(story for story, chosen in kept if chosen)))
        x = story_means(self.pooled, self.corpus, layer, self.rank)[self.keep].to(self.device)
        vectors, noise = contrast_and_noise(x.double(), layout)
        size = float(vectors.square().mean())
        return x, layout, Whitening.of(noise, len(x), self.shrinkage, size), vectors

    def __call__(self, layer: int) -> tuple[Tensor, Tensor]:
        """The noise of a layer."""
        if layer not in self.last:
            noise = self.whitened(layer)[2].kept()
            self.last.clear()
            self.last[layer] = noise
        return self.last[layer]


def nearest_first(layers: Sequence[int], stamp: dict[str, Any] | None) -> list[int]:
    """The layers, those nearest to the chosen block of the whitened readout or to the default one first.

    >>> nearest_first(range(6), {"default_layer": 4, "chosen": {"whitened": {"layer": 1}}})
    [1, 4, 0, 2, 3, 5]
    """
    chosen = (stamp or {}).get("chosen", {}).get("whitened", {}).get("layer")
    wanted = (chosen, (stamp or {}).get("default_layer"))
    anchors = [layer for layer in layers if layer in wanted] or [layers[len(layers) // 2]]
    return sorted(layers, key=lambda layer: min(abs(layer - anchor) for anchor in anchors))


def _size(noises: dict[int, tuple[Tensor, Tensor]]) -> int:
    return sum(rows.numel() * rows.element_size() for rows, _ in noises.values())


def _residual_norm(pooled: PooledActivations, neutral: Moments, layers: Sequence[int]) -> Float[Tensor, "layer"]:
    """Mean norm of the stories' tokens from rank 10 on; where no story is so long, that of the neutral tokens."""
    if not hasattr(neutral, "variance") or (pooled.counts > NORM_FROM_RANK).any():
        return pooled.residual_norm[[position_of(pooled.layers, layer) for layer in layers]]
    rows = [position_of(neutral.layers, layer) for layer in layers]
    return (neutral.variance[rows] + neutral.mean[rows].square().sum(dim=1)).sqrt().cpu()


def check_keep(keep: Bool[Tensor, "kept"], corpus: Corpus) -> Bool[Tensor, "text"]:
    """`keep`, if it says of each story whether it is kept, and keeps two emotions; else ValueError.

    >>> check_keep(torch.ones(len(corpus), dtype=torch.bool), corpus).sum()
    tensor(36)
    """
    if keep.shape != (len(corpus),):
        raise ValueError(f"keep has {len(keep)} entries and the corpus {len(corpus)} stories: give one for each story")
    emotions = {story.emotion for story, chosen in zip(corpus, keep.tolist(), strict=True) if chosen}
    if len(emotions) < 2:
        raise ValueError(f"keep leaves stories of {len(emotions)} emotions; at least two are needed")
    return keep


def halves_of(corpus: Corpus) -> tuple[Int[Tensor, "text"], Bool[Tensor, "emotion"]]:
    """Which half each story is in for the split-half reliability, and for which emotions it can be measured.

    >>> half, measured = halves_of(corpus)
    >>> half.bincount(), measured.all()
    (tensor([18, 18]), tensor(True))
    """
    half, layout = Folds.of(corpus, 2).fold, Layout.of(corpus)
    first, second = (layout.keep(half == side).told_beside_others() for side in (0, 1))
    return half, first & second


def _split_half(
    x: Float[Tensor, "text d_model"],
    layout: Layout,
    halves: tuple[Int[Tensor, "text"], Bool[Tensor, "emotion"]],
    basis: Float[Tensor, "component d_model"],
    whitening: Whitening,
) -> tuple[Float[Tensor, "method emotion"], Float[Tensor, "method bound"]]:
    """Cosine of each emotion's vectors from two halves (raw, denoised, whitened by the W of all stories).

    And its null: the 2.5 and 97.5 % quantiles of the cosines between different emotions. NaN where not measured.
    """
    half, measured = halves
    same, bounds = torch.full((len(METHODS), len(measured)), torch.nan), torch.full((len(METHODS), 2), torch.nan)
    if measured.any():
        there = [half.to(x.device) == side for side in (0, 1)]
        one, two = (contrast(x[rows], layout.keep(rows.cpu()))[0][measured.to(x.device)] for rows in there)
        basis = basis.double()
        denoised = [unit(v - v @ basis.T @ basis) for v in (one, two)]
        ways = [unit(one) @ unit(two).T, denoised[0] @ denoised[1].T, whitening.cosines(one, two)]
        cosines = torch.stack(ways).float().cpu()
        same[:, measured] = cosines.diagonal(dim1=1, dim2=2)
        others = cosines[:, ~torch.eye(cosines.shape[1], dtype=torch.bool)]
        if others.shape[1]:
            bounds = others.quantile(torch.tensor([0.025, 0.975]), dim=1).T
    return same, bounds
