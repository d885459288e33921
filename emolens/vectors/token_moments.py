"""Mean and principal components of single tokens of neutral text: what is projected out of the vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from emolens.models.batching import pad, plan, ranks
from emolens.models.hooked import Layers
from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.vectors.pooling import NORM_FROM_RANK
from emolens.vectors.whitening import algebra_device, products

SAMPLE = 2048  # tokens that are kept of a model wider than this; of a narrower one the covariance is
SMALL = 1024  # all eigenvectors of a matrix of this size are a matter of a second
BLOCK, PASSES, ROUNDS, NEAR = 256, 4, 10, 1e-4  # of the subspace iteration: vectors, passes, relative error


@runtime_checkable
class Moments(Protocol):
    """What `fit` needs of neutral text: its mean, and the components that are projected out.

    >>> isinstance(TokenMoments((0,), torch.zeros(1, 2), torch.eye(2)[None]), Moments)
    True
    """

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the blocks."""

    @property
    def mean(self) -> Float[Tensor, "layer d_model"]:
        """Mean activation of a token; the algebra of `fit` and `choose` is computed on its device."""

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]:
        """What is projected out at a layer: orthonormal rows."""


@dataclass(frozen=True)
class TokenMoments:
    """Mean and covariance of single-token activations, for each layer; the material of the denoising.

    >>> moments = TokenMoments((0,), torch.zeros(1, 2), torch.tensor([[[4.0, 0.0], [0.0, 1.0]]]))
    >>> moments.components(0).abs(), moments.variance
    (tensor([[1., 0.]]), tensor([5.]))
    """

    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_model"]
    covariance: Float[Tensor, "layer d_model d_model"]

    @property
    def variance(self) -> Float[Tensor, "layer"]:
        """Sum of the variances of all dimensions."""
        return self.covariance.diagonal(dim1=1, dim2=2).sum(dim=1)

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]:
        """The first principal components that together explain this share of the variance (paper, section 3).

        >>> TokenMoments((0,), torch.zeros(1, 2), torch.eye(2)[None]).components(0, explained=0.9).shape
        torch.Size([2, 2])
        """
        return _leading(self.covariance[self.layers.index(layer)].double(), explained).T.float()


@dataclass(frozen=True)
class SampledMoments:
    """As `TokenMoments`, for a wide model: mean and variance of all tokens, components of a sample of them.

    The covariances of 80 layers of width 8,192 would take 43 GB; 2,048 tokens of each take an eighth of that, and the
    components of half of the variance are far fewer.

    >>> tokens = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])  # less their mean
    >>> SampledMoments((0,), torch.zeros(1, 3), torch.ones(1), tokens).components(0).abs()
    tensor([[1., 0., 0.]])
    """

    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_model"]
    variance: Float[Tensor, "layer"]
    tokens: Float[Tensor, "layer token d_model"]

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]:
        """The first principal components that together explain this share of the sample's variance.

        >>> rows = SampledMoments((0,), torch.zeros(1, 9), torch.ones(1), torch.randn(1, 4, 9)).components(0, 0.9)
        >>> torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
        True
        """
        x = self.tokens[self.layers.index(layer)].to(self.mean.device)
        return torch.nn.functional.normalize(_leading(products(x), explained).T @ x, dim=1)


def _leading(square: Float[Tensor, "n n"], explained: float) -> Float[Tensor, "n component"]:
    """The first eigenvectors of a covariance or a Gram matrix that make up this share of its trace.

    Of a large one by subspace iteration, which takes a tenth of the time of all its eigenvectors.
    """
    n, block = len(square), BLOCK
    while n > SMALL and block <= n // 4:
        draw = torch.Generator().manual_seed(0)
        q = torch.randn(n, block, generator=draw, dtype=square.dtype).to(square.device)
        for _ in range(ROUNDS):
            for _ in range(PASSES):
                q = torch.linalg.qr(square @ q).Q
            image = square @ q
            values, turn = torch.linalg.eigh(q.T @ image)
            values, turn = values.flip(0), turn.flip(1)
            number = int((values.clamp(min=0).cumsum(0) / square.trace() < explained).sum()) + 1
            if number > block // 2:
                break  # the share takes more of them than the block can give well
            first, moved = q @ turn[:, :number], image @ turn[:, :number]
            if (moved - first * values[:number]).norm() <= NEAR * values[:number].norm():
                return first
        block *= 2
    values, vectors = torch.linalg.eigh(square)
    values = values.flip(0).clamp(min=0)
    return vectors.flip(1)[:, : int((values.cumsum(0) / values.sum() < explained).sum()) + 1]


class _Sums:
    """What the hooks add up at each layer: tokens, and their squares or a sample of them."""

    def __init__(self, layers: int, d_model: int, tokens: int, device: torch.device) -> None:
        self.device, self.tokens = device, tokens
        self.total = torch.zeros(layers, d_model, dtype=torch.float64, device=device)
        self.whole = d_model <= SAMPLE
        if self.whole:
            self.square = torch.zeros(layers, d_model, d_model, dtype=torch.float64, device=device)
        else:
            self.square = torch.zeros(layers, d_model, dtype=torch.float64, device=device)
            # Every token has the same chance, whatever the batches; on the CPU, for it is large.
            drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))[:SAMPLE]
            self.drawn = torch.zeros(tokens, dtype=torch.bool).index_fill_(0, drawn, True)
            self.sample = torch.zeros(layers, len(drawn), d_model)
            self.held = [0] * layers

    def add(self, row: int, x: Float[Tensor, "token d_model"], drawn: Bool[Tensor, "_"]) -> None:
        x = x.to(self.device)
        self.total[row] += x.sum(dim=0).double()
        if self.whole:
            self.square[row] += (x.T @ x).double()
            return
        self.square[row] += x.square().sum(dim=0).double()
        kept = x[drawn.to(x.device)].cpu()
        self.sample[row, self.held[row] : self.held[row] + len(kept)] = kept
        self.held[row] += len(kept)

    def moments(self, layers: tuple[int, ...]) -> TokenMoments | SampledMoments:
        mean = self.total / self.tokens
        if self.whole:
            covariance = self.square / self.tokens - mean[:, :, None] * mean[:, None, :]
            return TokenMoments(layers, mean.float(), covariance.float())
        variance = (self.square / self.tokens - mean.square()).sum(dim=1)
        self.sample -= self.sample.mean(dim=1, keepdim=True)
        return SampledMoments(layers, mean.float(), variance.float(), self.sample)


def token_moments(
    model: HookedModel,
    texts: Text | Sequence[Text],
    layers: Layers | None = None,
    *,
    from_rank: int = NORM_FROM_RANK,
    token_budget: int = 2048,
    progress: bool = True,
) -> TokenMoments | SampledMoments:
    """First and second moments of the token activations of `texts`, summed inside the hooks.

    Tokens before `from_rank` are left out: the first one, an attention sink with a norm up to a hundred
    times that of the others, would be the first principal component and nothing else would be removed. Of a model
    wider than 2,048 the components are those of a random sample of 2,048 tokens.

    Raises:
        ValueError: fewer than two tokens, or an activation that is not finite, with its text and layer.

    >>> token_moments(model, ["she ran home and he was calm and cold and warm ."], [3], progress=False).mean.shape
    torch.Size([1, 32])
    """
    model.require_one_row("token_moments")
    blocks = model.check_layers(layers)
    encoded = [encoding.ids for encoding in model.encode_all(texts)]
    lengths = [len(ids) for ids in encoded]
    late = [max(0, length - from_rank) for length in lengths]
    if sum(late) < 2:
        raise ValueError(f"the texts have {sum(late)} tokens from rank {from_rank} on; give longer ones")
    sums = _Sums(len(blocks), model.d_model, sum(late), algebra_device(model.device))
    per_text = [] if sums.whole else sums.drawn.split(late)
    chosen, drawn, rows = torch.empty(0), torch.zeros(0, dtype=torch.bool), [0]

    def add(resid: Tensor, hook: Any, row: int) -> None:
        x = resid.detach()[chosen.to(resid.device)].float()
        if not x.isfinite().all():
            bad = (chosen.to(resid.device) & ~resid.isfinite().all(dim=-1)).any(dim=1)
            raise model.not_finite(rows[int(bad.int().argmax())], blocks[row])
        sums.add(row, x, drawn)

    hooks = [((layer, "resid_post"), lambda x, hook, row=row: add(x, hook, row)) for row, layer in enumerate(blocks)]
    with tqdm(total=sum(lengths), unit="token", unit_scale=True, desc="neutral", disable=not progress) as bar:
        for rows in plan(lengths, token_budget):
            batch = pad([encoded[row] for row in rows], "right", model.pad_token_id).to(model.device)
            chosen = ranks(batch.mask) >= from_rank
            if per_text:
                drawn = torch.cat([per_text[row] for row in rows])  # row by row, as `chosen` picks them
            model.forward(batch, stop_after=max(blocks), fwd_hooks=hooks)
            bar.update(sum(lengths[row] for row in rows))
    return sums.moments(blocks)
