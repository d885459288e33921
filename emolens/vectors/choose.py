"""Layer and shrinkage are chosen by leaving stories out: fit on the others, recognise those left out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from emolens.corpus.stories import Corpus
from emolens.vectors.contrast import Layout, contrast_and_noise, group_mean
from emolens.vectors.direction import unit
from emolens.vectors.folds import FOLDS, Folds
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.pooling_rules import Rule
from emolens.vectors.story_means import document_start, means_from, story_means
from emolens.vectors.token_moments import Moments
from emolens.vectors.whitening import (
    SHRINKAGE,
    Whitening,
    check_shrinkage,
    noise_level,
    products,
    ridge_factor,
    smaller_square,
)

EXPLAINED = 0.5
# Choosing in float32 keeps three digits: of vectors and noise beside all that stories differ by, and of the ridge.
FAINT, LOUD = 1e-3, 3e-5

Scores = Callable[[Tensor, Tensor, Layout, Layout], dict[tuple[str, float | None], Tensor]]


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
        query, basis = means_from(pooled, start, layer).to(device), neutral.components(layer, EXPLAINED)
        read = _by_products if layout.noise_rows() < fitted.shape[1] else _by_directions
        score = read(fitted, query, basis, shrinkage)
        found: dict[tuple[str, float | None], list[Tensor]] = {}
        for number in range(parts.number):
            train, test = parts.fold != number, parts.fold == number
            known, held = layout.keep(train), layout.keep(test)
            if not (asked := _asked(known, held)).any():
                continue
            for key, scores in score(train.to(device), test.to(device), known, held).items():
                ranks = rank_matrix(scores.cpu()).gather(1, held.emotion[:, None])[:, 0]
                found.setdefault(key, []).append(ranks[asked])
        for (method, a), ranked in found.items():
            r = torch.cat(ranked)
            measured = {"first": (r <= 1).float(), "first_five": (r <= 5).float(), "mrr": 1 / r}
            rows.append(
                {"method": method, "layer": layer, "shrinkage": a} | {k: float(v.mean()) for k, v in measured.items()}
            )
    return rows


def _asked(known: Layout, held: Layout) -> Bool[Tensor, "held"]:
    """Which of the stories left out are asked for."""
    several = Layout(held.emotions, held.registers, held.emotion, held.register, held.register)
    return (several.told_beside_others() & known.told_beside_others())[held.emotion]


def _by_directions(fitted: Tensor, query: Tensor, basis: Tensor, shrinkage: Sequence[float]) -> Scores:
    """Scores `text emotion` of the stories left out, by method and shrinkage: for a narrow model, by the directions."""
    fitted, query, basis = fitted.double(), query.double(), basis.double()

    def score(train: Tensor, test: Tensor, known: Layout, held: Layout) -> dict[tuple[str, float | None], Tensor]:
        vectors, noise = contrast_and_noise(fitted[train], known)
        x, square = _centred(query[test], held), smaller_square(noise)
        found: dict[tuple[str, float | None], Tensor] = {
            ("raw", None): unit(vectors),
            ("denoised", None): unit(vectors - vectors @ basis.T @ basis),
        }
        for a in shrinkage:
            whitening = Whitening.of(noise, len(known.emotion), a, float(vectors.square().mean()), square)
            found["whitened", a] = whitening.directions(vectors)
        return {key: x @ matrix.T for key, matrix in found.items()}

    return score


def _by_products(fitted: Tensor, query: Tensor, basis: Tensor, shrinkage: Sequence[float]) -> Scores:
    """The same for a wide model, by the inner products of all stories, which are computed once for all folds.

    Vectors V and noise R are sums of stories with known weights, so that their inner products with each other and with
    a text x are sums of those of the stories; see `whitening` for how x W W v follows from them. Ranks take no more
    digits than float32 has, unless something is so loud that vectors, noise or ridge drown in its rounding.
    """
    exact = _by_directions(fitted, query, basis, shrinkage)
    shift = fitted.mean(dim=0)  # which every contrast takes away, so that it takes no digits
    fitted, query, width = fitted - shift, query - shift, fitted.shape[1]
    among, across = products(fitted), query @ fitted.T
    fitted_inside, query_inside = fitted @ basis.T, query @ basis.T

    def score(train: Tensor, test: Tensor, known: Layout, held: Layout) -> dict[tuple[str, float | None], Tensor]:
        v_f, r_f = contrast_and_noise(among[train][:, train], known)
        v_r, r_r = contrast_and_noise(r_f.T.contiguous(), known)
        v_v = contrast_and_noise(v_f.T, known)[0].diagonal()
        v_x, r_x = contrast_and_noise(_centred(across[test][:, train], held).T, known)
        v_b, x_b = contrast_and_noise(fitted_inside[train], known)[0], _centred(query_inside[test], held)
        norm, left = _root(v_v), _root(v_v - v_b.square().sum(dim=1))
        found: dict[tuple[str, float | None], Tensor] = {
            ("raw", None): v_x.T / norm,
            ("denoised", None): (v_x.T - x_b @ v_b.T) / left,
        }
        stories, size = len(known.emotion), float(v_v.mean()) / width
        level = noise_level(r_r, stories, width, size)
        faint = min(level, size) * width <= FAINT * float(among.diagonal()[train].mean())
        if faint or stories * min(shrinkage) * level <= LOUD * float(r_r.norm()):
            return exact(train, test, known, held)
        for a in shrinkage:
            solved = torch.cholesky_solve(v_r.T, ridge_factor(r_r, stories * a * level))
            whitened_norm = _root(v_v - (v_r.T * solved).sum(dim=0))
            found["whitened", a] = (v_x.T - r_x.T @ solved) / whitened_norm
        return found

    return score


def _centred(x: Float[Tensor, "held n"], held: Layout) -> Float[Tensor, "held n"]:
    """Texts less the mean of their register."""
    return x - group_mean(x, held.register, len(held.registers))[held.register.to(x.device)]


def _root(squares: Tensor) -> Tensor:
    """Norms, as divisors."""
    return squares.clamp(min=0).sqrt().clamp(min=1e-12)


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
