"""Vectors from dialogues in which two emotions are crossed, with what few texts allow: halves, and dialogues left out.

Each dialogue has two emotions, such as that of the user and that of the assistant. The vector of an emotion in one of
these two roles is its coefficient when the activations are fitted by the sum of both roles' emotions, so that the other
role's emotion is balanced, also where a dialogue is missing. Vectors of a dozen dialogues are noisy: two of them have a
low cosine for that reason alone. So each cosine is taken between disjoint halves of the dialogues, which moreover share
no topic and no wording, and stands beside its ceiling: the geometric mean of how well the halves of either agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.vectors.direction import unit

SPLITS = 4
FEWEST = 4  # dialogues of an emotion in a role, two in each half


@dataclass(frozen=True)
class Crossed:
    """Weights that take each emotion's vector, in either role, from activations [dialogue d_model].

    Attributes:
        whole: from all dialogues.
        halves: from either half of them, for several splits.
        without: the halves once more, with one dialogue left out of the half in which it is.
    """

    labels: Int[np.ndarray, "dialogue 2"]
    whole: Float[Tensor, "role emotion dialogue"]
    halves: Float[Tensor, "split half role emotion dialogue"]
    without: Float[Tensor, "left split half role emotion dialogue"]


def crossed(
    labels: Int[np.ndarray, "dialogue 2"], names: Sequence[str], roles: Sequence[str], seed: int = 0
) -> Crossed:
    """The weights for dialogues with these two emotions each, as numbers of `names`.

    Raises:
        ValueError: an emotion in one role only, or in too few dialogues for two halves.
    """
    n = len(names)
    counts = [np.bincount(labels[:, role], minlength=n) for role in (0, 1)]
    for role, count in enumerate(counts):
        if not count.all():
            name = names[int(np.argmin(count))]
            raise ValueError(
                f"{name!r} is an emotion of the {roles[1 - role]} only, in no dialogue of the {roles[role]}: both "
                f"roles need the same emotions"
            )
        if count.min() < FEWEST:
            name, few = names[int(np.argmin(count))], int(count.min())
            raise ValueError(
                f"{name!r} is the emotion of the {roles[role]} in {few} dialogues; two halves of them need {FEWEST}"
            )
    rng, size = np.random.default_rng(seed), len(labels)
    sides = np.stack([_half(labels, counts, rng) for _ in range(SPLITS)])  # [split dialogue]
    halves = torch.stack([torch.stack([_weights(labels, n, side == half) for half in (0, 1)]) for side in sides])
    without = halves.expand(size, *halves.shape).clone()
    for left in range(size):
        for split, side in enumerate(sides):
            kept = (side == side[left]) & (np.arange(size) != left)
            without[left, split, side[left]] = _weights(labels, n, kept)
    return Crossed(labels, _weights(labels, n, np.ones(size, dtype=bool)), halves, without)


def _half(labels: Int[np.ndarray, "dialogue 2"], counts: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A random half of the dialogues in which no emotion of either role is rarer than it need be by more than one."""
    side = rng.permutation(np.arange(len(labels)) % 2)

    def uneven(side: np.ndarray) -> float:
        return sum(
            float(((np.bincount(labels[:, role], side, len(count)) - count / 2) ** 2).sum())
            for role, count in enumerate(counts)
        )

    now, tries = uneven(side), 0
    while now > sum(float((count % 2).sum()) / 4 for count in counts) + 1e-9 and tries < 20000:
        i, j = rng.integers(0, len(labels), 2)
        tries += 1
        if side[i] == side[j]:
            continue
        side[[i, j]] = side[[j, i]]
        new = uneven(side)
        if new <= now:
            now = new
        else:
            side[[i, j]] = side[[j, i]]
    return side


def _weights(labels: Int[np.ndarray, "dialogue 2"], n: int, kept: np.ndarray) -> Float[Tensor, "role emotion dialogue"]:
    """Least squares on the emotions of both roles, over some of the dialogues; each role's vectors have the mean 0."""
    rows = np.flatnonzero(kept)
    design = np.zeros((len(rows), 2 * n))
    for role in (0, 1):
        design[np.arange(len(rows)), role * n + labels[rows, role]] = 1
    each = np.linalg.pinv(design).reshape(2, n, len(rows))
    out = np.zeros((2, n, len(labels)))
    out[:, :, rows] = each - each.mean(axis=1, keepdims=True)
    return torch.from_numpy(out).float()


def vectors_of(weights: Float[Tensor, "*set emotion dialogue"], x: Float[Tensor, "dialogue d_model"]) -> Tensor:
    """The vectors [*set emotion d_model] that weights take from activations."""
    return weights @ x


def between(
    a: Float[Tensor, "*set half emotion d_model"], b: Float[Tensor, "*set half emotion d_model"]
) -> Float[Tensor, "*set emotion emotion"]:
    """Cosines of vectors `a` with vectors `b` of the other half, the mean of both ways."""
    a, b = unit(a), unit(b)
    return (
        a[..., 0, :, :] @ b[..., 1, :, :].transpose(-1, -2) + a[..., 1, :, :] @ b[..., 0, :, :].transpose(-1, -2)
    ) / 2


def same(cosines: Float[Tensor, "*set emotion emotion"]) -> Float[Tensor, "*set"]:
    """The mean cosine of the two vectors of an emotion."""
    return cosines.diagonal(dim1=-2, dim2=-1).mean(dim=-1)


def ceiling(first: Tensor, second: Tensor) -> Tensor:
    """The largest cosine that noise lets two sets have: of sets whose halves do not agree, 0."""
    return (first.clamp(min=0) * second.clamp(min=0)).sqrt()


def jackknife(
    without: Float[np.ndarray, "left *value"], observed: Float[np.ndarray, "*value"] | float
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a statistic from its values with one dialogue left out each: 1.96 standard errors to either side."""
    n = len(without)
    error = np.sqrt((n - 1) / n * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    return np.asarray(observed - 1.96 * error), np.asarray(observed + 1.96 * error)


def renamed(
    cosines: Float[np.ndarray, "row column"], draws: int, seed: int, value: Callable[[np.ndarray], float] = np.mean
) -> Float[np.ndarray, "draw"]:
    """The mean of the diagonal when the emotions of the columns are exchanged."""
    rng, n = np.random.default_rng(seed), len(cosines)
    return np.array([value(cosines[np.arange(n), rng.permutation(n)]) for _ in range(draws)])


def leaving_each_out(
    labels: Int[np.ndarray, "dialogue 2"], n: int, role: int
) -> Float[np.ndarray, "left emotion dialogue"]:
    """The weights of one role's vectors from all dialogues but one, for each that is left out."""
    size, rows = len(labels), np.arange(len(labels))
    design = np.zeros((size, 2 * n))
    for which in (0, 1):
        design[rows, which * n + labels[:, which]] = 1
    rest = design.T @ design - design[:, :, None] * design[:, None, :]
    each = np.linalg.pinv(rest, rcond=1e-9, hermitian=True)[:, role * n : (role + 1) * n] @ design.T
    each[rows, :, rows] = 0
    return each - each.mean(axis=1, keepdims=True)


def nearest_without(
    weights: Float[np.ndarray, "left emotion dialogue"],
    products: Float[np.ndarray, "dialogue dialogue"],
    excluded: Int[np.ndarray, "dialogue"],
) -> Int[np.ndarray, "dialogue"]:
    """The emotion whose vector, from the other dialogues, has the highest cosine with each dialogue.

    Args:
        products: dot products of the centred dialogues.
        excluded: an emotion of each dialogue that is no candidate.
    """
    rows = np.arange(len(products))
    along = weights @ products  # [left emotion dialogue]
    norms = np.sqrt(np.maximum((along * weights).sum(axis=2), 1e-24))
    cosines = along[rows, :, rows] / norms
    cosines[rows, excluded] = -np.inf
    return cosines.argmax(axis=1)


def within(labels: Int[np.ndarray, "dialogue 2"], role: int, draws: int, seed: int) -> list[np.ndarray]:
    """The labels with one role's emotions permuted among the dialogues that share the other role's."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(draws):
        shuffled = labels.copy()
        for name in np.unique(labels[:, 1 - role]):
            rows = np.flatnonzero(labels[:, 1 - role] == name)
            shuffled[rows, role] = labels[rng.permutation(rows), role]
        drawn.append(shuffled)
    return drawn
