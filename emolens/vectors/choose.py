"""Layer and shrinkage are chosen by leaving stories out: fit on the others, recognise those left out."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from emolens.corpus.stories import Corpus
from emolens.vectors.contrast import Layout, contrast, group_mean
from emolens.vectors.direction import unit
from emolens.vectors.folds import FOLDS, Folds
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.pooling_rules import Rule
from emolens.vectors.story_means import document_start, means_from, story_means
from emolens.vectors.token_moments import Moments
from emolens.vectors.whitening import SHRINKAGE, Whitening, check_shrinkage, smaller_square

EXPLAINED = 0.5

Readouts = dict[tuple[str, float | None], Tensor]


def rank_matrix(scores: Float[Tensor, "text emotion"]) -> Int[Tensor, "text emotion"]:
    """Rank of every emotion in each row, 1 being the highest score.

    >>> rank_matrix(torch.tensor([[0.1, 0.9, 0.5]]))
    tensor([[3, 1, 2]])
    """
    return scores.argsort(dim=1, descending=True).argsort(dim=1) + 1


def choose(
    pooled: PooledActivations,
    corpus: Corpus,
    neutral: Moments,
    shrinkage: Sequence[float] = SHRINKAGE,
    folds: int = FOLDS,
    progress: bool = True,
    rank: Rule | None = None,
    layers: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Leave topics out: fit on the others, recognise the emotion of the stories left out, for each layer and method.

    The stories left out are read as any text is (from rank 10, short ones from rank 1, centred on their set). Where
    topics cannot be left out, single stories are; see `Folds`. A story is not asked for when nothing of another
    emotion is left out in its register. Returns rows of method, layer, shrinkage, first, first_five and mean
    reciprocal rank (mrr); none where no story could be left out.

    >>> moments = el.token_moments(model, el.corpus.neutral(), [2], progress=False)
    >>> pooled = el.vectors.story_means.pool_stories(model, corpus, [2], cache=False, progress=False)
    >>> sweep = choose(pooled, corpus, moments, progress=False)
    >>> [(row["method"], row["shrinkage"]) for row in sweep[:3]]
    [('raw', None), ('denoised', None), ('whitened', 0.1)]

    Args:
        layers: those that are tried; default all that were pooled.

    Raises:
        ValueError: fewer than two folds, no shrinkage or one not above 0, a story too short for its register.
    """
    check_shrinkage(shrinkage)
    layout, parts = Layout.of(corpus), Folds.of(corpus, folds)
    start = torch.tensor([document_start(count) for count in pooled.counts.tolist()])
    device, rows = neutral.mean.device, []
    said = f"leaving {'topics' if parts.by == 'topic' else 'stories'} out"
    for layer in tqdm(pooled.layers if layers is None else layers, desc=said, disable=not progress):
        fitted = story_means(pooled, corpus, layer, rank).to(device)
        query = means_from(pooled, start, layer).to(device)
        basis, gram = neutral.components(layer, EXPLAINED), _gram(fitted)
        found: dict[tuple[str, float | None], list[Tensor]] = {}
        for number in range(parts.number):
            train, held = parts.fold != number, layout.keep(parts.fold == number)
            if not (asked := _asked(layout.keep(train), held)).any():
                continue
            part = None if gram is None else gram[train.to(device)][:, train.to(device)]
            x = query[(~train).to(device)].double()
            x = x - group_mean(x, held.register, len(held.registers))[held.register.to(device)]
            readouts = _readouts(fitted[train.to(device)], layout.keep(train), basis, shrinkage, part)
            for key, matrix in readouts.items():
                ranks = rank_matrix((x @ matrix.T).cpu()).gather(1, held.emotion[:, None])[:, 0]
                found.setdefault(key, []).append(ranks[asked])
        for (method, a), ranked in found.items():
            r = torch.cat(ranked)
            score = {"first": (r <= 1).float(), "first_five": (r <= 5).float(), "mrr": 1 / r}
            rows.append(
                {"method": method, "layer": layer, "shrinkage": a} | {k: float(v.mean()) for k, v in score.items()}
            )
    return rows


def _asked(known: Layout, held: Layout) -> Bool[Tensor, "held"]:
    """Which of the stories left out are asked for."""
    several = Layout(held.emotions, held.registers, held.emotion, held.register, held.register)
    return (several.told_beside_others() & known.told_beside_others())[held.emotion]


def _gram(x: Float[Tensor, "text d_model"]) -> Float[Tensor, "text text"] | None:
    """Inner products of all stories, from which those of the residuals of every fold follow; None for a narrow model.

    Less their mean, which every contrast takes away, so that it takes no digits.
    """
    if len(x) > x.shape[1]:
        return None
    x = x.double() - x.double().mean(dim=0)
    return x @ x.T


def _readouts(
    x: Float[Tensor, "text d_model"],
    layout: Layout,
    basis: Float[Tensor, "component d_model"],
    shrinkage: Sequence[float],
    gram: Float[Tensor, "text text"] | None,
) -> Readouts:
    """The directions of every method and shrinkage, fitted on these stories whose inner products may be known."""
    vectors, residual = contrast(x, layout)
    basis = basis.double()
    found: Readouts = {("raw", None): unit(vectors), ("denoised", None): unit(vectors - vectors @ basis.T @ basis)}
    if gram is not None and len(x) < x.shape[1]:
        # A residual is a sum of stories with known weights, from the left and from the right.
        square = contrast(contrast(gram, layout)[1].T, layout)[1]
    else:
        square = smaller_square(residual)
    size = float(vectors.square().mean())
    for a in shrinkage:
        found["whitened", a] = Whitening.of(residual, a, size, square).directions(vectors)
    return found


def best(sweep: Sequence[dict[str, Any]], method: str) -> dict[str, Any]:
    """The row of highest mean reciprocal rank for a method.

    >>> best([{"method": "raw", "layer": 1, "mrr": 0.2}, {"method": "raw", "layer": 2, "mrr": 0.3}], "raw")["layer"]
    2

    Raises:
        ValueError: no row of this method.
    """
    rows = [row for row in sweep if row["method"] == method]
    if not rows:
        raise ValueError(f"the sweep has no row of the method {method!r}")
    return max(rows, key=lambda row: row["mrr"])
