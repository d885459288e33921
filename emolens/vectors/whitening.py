"""Whitening by the noise of the stories, as a Cholesky factor of the smaller of two matrices; no eigenvectors.

With S = R'R/n the covariance of the noise R of n stories in d dimensions, and c = a tr(S)/d, all that a readout asks
for is `W W = (S + c I)^-1`: the directions `W W v`, and the norm `|W x|`, whose square is `x W W x`. Where R has more
rows than dimensions, S + c I is factored. Else the Gram matrix R R' + n c I is, as
`(S + c I)^-1 = (I - R' (R R' + n c I)^-1 R) / c`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SHRINKAGE = (0.1, 0.3, 1.0, 3.0)


def algebra_device(device: torch.device) -> torch.device:
    """Where the algebra of a model on this device is computed: there, or on the CPU where float64 is unknown.

    >>> algebra_device(torch.device("mps"))
    device(type='cpu')
    """
    return torch.device("cpu") if device.type in ("mps", "meta") else device


def check_shrinkage(shrinkage: Sequence[float]) -> None:
    """Raise ValueError for no shrinkage, or one that is not a finite number above 0.

    >>> check_shrinkage([1.0, 0.0])
    Traceback (most recent call last):
    ValueError: shrinkage is [1.0, 0.0]; give finite numbers above 0, such as [0.1, 0.3, 1.0, 3.0]
    """
    if not len(shrinkage) or not all(0 < a < math.inf for a in shrinkage):
        raise ValueError(f"shrinkage is {list(shrinkage)}; give finite numbers above 0, such as {list(SHRINKAGE)}")


@dataclass(frozen=True)
class Whitening:
    """`W W = (S + c I)^-1` at one layer.

    Attributes:
        noise: R, rows with R'R = n S; without a row nothing is known of the noise, and W is the identity.
        stories: n.
        ridge: c.
        factor: lower Cholesky factor of R'R + n c I, or of R R' + n c I where that is smaller.

    >>> noise = torch.randn(50, 4)
    >>> whitening = Whitening.of(noise, 50, 1.0)
    >>> s = noise.double().T @ noise.double() / 50
    >>> x = torch.randn(3, 4).double()
    >>> expected = x @ torch.linalg.inv(s + s.trace() / 4 * torch.eye(4))
    >>> torch.allclose(whitening.solve(x), expected)
    True
    """

    noise: Float[Tensor, "row d_model"]
    stories: int
    ridge: float
    factor: Float[Tensor, "n n"]

    @classmethod
    def of(
        cls,
        noise: Float[Tensor, "row d_model"],
        stories: int,
        shrinkage: float,
        size: float = 0.0,
        square: Float[Tensor, "n n"] | None = None,
    ) -> "Whitening":
        """The whitening by the noise of so many stories.

        Args:
            shrinkage: a, with c = a tr(S)/d.
            size: mean square of the vectors, beside which noise that is but rounding is told from noise.
            square: R R' or R'R, whichever is smaller, where it is known (see `smaller_square`).

        Raises:
            ValueError: a shrinkage that is not above 0, or too small for the matrix to be inverted.
        """
        check_shrinkage([shrinkage])
        noise = noise.double()
        square = smaller_square(noise) if square is None else square
        level = noise_level(square, stories, noise.shape[1], size)
        if level == 0:
            return cls(noise[:0], stories, 1.0, noise.new_zeros(0, 0))
        return cls(noise, stories, shrinkage * level, ridge_factor(square, stories * shrinkage * level))

    @property
    def _is_gram(self) -> bool:
        return self.noise.shape[0] < self.noise.shape[1]

    def solve(self, x: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
        """`W W x` of every row, in float64.

        >>> Whitening.of(torch.zeros(3, 2), 3, 1.0).solve(torch.ones(1, 2))  # no noise
        tensor([[1., 1.]], dtype=torch.float64)
        """
        x, r = x.double(), self.noise
        if not len(r):
            return x
        if self._is_gram:
            return (x - torch.cholesky_solve(r @ x.T, self.factor).T @ r) / self.ridge
        return self.stories * torch.cholesky_solve(x.T, self.factor).T

    def directions(self, vectors: Float[Tensor, "emotion d_model"]) -> Float[Tensor, "emotion d_model"]:
        """`W W v / |W v|` of every row, in float64; a zero vector stays zero.

        >>> Whitening.of(torch.zeros(3, 2), 3, 1.0).directions(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]], dtype=torch.float64)
        """
        solved = self.solve(vectors)
        return solved / norms(vectors, solved)[:, None]

    def cosines(self, x: Float[Tensor, "k d_model"], y: Float[Tensor, "m d_model"]) -> Float[Tensor, "k m"]:
        """Cosines between the rows of x and of y after both are whitened.

        >>> Whitening.of(torch.zeros(3, 2), 3, 1.0).cosines(torch.ones(1, 2), torch.ones(1, 2))
        tensor([[1.0000]], dtype=torch.float64)
        """
        solved_x, solved_y = self.solve(torch.cat([x, y])).split([len(x), len(y)])
        return (solved_x / norms(x, solved_x)[:, None]) @ (y.double() / norms(y, solved_y)[:, None]).T

    def kept(self) -> tuple[Float[Tensor, "noise d_model"], Float[Tensor, "scale"]]:
        """Rows b and scales s, the last one t, with `|W x|^2 = sum (s^2 - t^2) (b x)^2 + t^2 |x|^2`, in float32.

        The form in which vectors keep their noise. The rows are eigenvectors of S in vectors that were made compact,
        here those of a triangular matrix: the inverse factor of S, or that of the Gram matrix times the residuals.

        >>> rows, scale = Whitening.of(torch.randn(50, 4), 50, 1.0).kept()
        >>> rows.shape, scale.tolist()
        (torch.Size([4, 4]), [1.0, 1.0, 1.0, 1.0, 0.0])
        """
        r = self.noise
        inside, outside = (0.0, self.ridge**-0.5) if self._is_gram else (1.0, 0.0)
        if not len(r):
            rows, outside = r, 1.0
        else:
            start = r if self._is_gram else self.stories**0.5 * torch.eye(r.shape[1], dtype=r.dtype, device=r.device)
            rows = torch.linalg.solve_triangular(self.factor, start, upper=False)
        return rows.float().cpu().contiguous(), torch.tensor([inside] * len(rows) + [outside])


def smaller_square(noise: Float[Tensor, "row d_model"]) -> Float[Tensor, "n n"]:
    """R R' or R'R, whichever is smaller.

    >>> smaller_square(torch.randn(5, 3)).shape, smaller_square(torch.randn(3, 5)).shape
    (torch.Size([3, 3]), torch.Size([3, 3]))
    """
    return products(noise if noise.shape[0] < noise.shape[1] else noise.T)


def products(x: Float[Tensor, "n d"], at_once: int = 512) -> Float[Tensor, "n n"]:
    """Inner products of all rows with all rows, each pair but once.

    >>> x = torch.randn(5, 3)
    >>> torch.allclose(products(x, 2), x @ x.T)
    True
    """
    out = x.new_empty(len(x), len(x))
    for start in range(0, len(x), at_once):
        rows = slice(start, start + at_once)
        part = x[rows] @ x[start:].T
        out[rows, start:], out[start:, rows] = part, part.T
    return out


def noise_level(square: Float[Tensor, "n n"], stories: int, d_model: int, size: float) -> float:
    """tr(S)/d from R R' or R'R; 0 where it is but rounding beside vectors whose mean square is `size`.

    >>> noise_level(torch.eye(2), 4, 2, 1.0), noise_level(1e-20 * torch.eye(2), 4, 2, 1.0)
    (0.25, 0.0)
    """
    level = float(square.diagonal().sum()) / max(1, stories * d_model)
    return level if level > 1e-12 * size else 0.0


def ridge_factor(square: Float[Tensor, "n n"], ridge: float) -> Float[Tensor, "n n"]:
    """Lower Cholesky factor of `square + ridge I`.

    >>> ridge_factor(torch.zeros(1, 1), 4.0)
    tensor([[2.]])

    Raises:
        ValueError: the ridge is too small beside the noise for the matrix to be inverted.
    """
    square = square.clone()
    square.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(square)
    if failed:
        raise ValueError(f"the noise can't be inverted with a ridge of {ridge:g}: the shrinkage is too small, raise it")
    return factor


def norms(x: Float[Tensor, "k d_model"], solved: Float[Tensor, "k d_model"]) -> Float[Tensor, "k"]:
    """`|W x|` of every row, from x and `W W x`; 1e-12 at least, as a divisor.

    >>> norms(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([5.], dtype=torch.float64)
    """
    return (x.double() * solved.double()).sum(dim=1).clamp(min=0).sqrt().clamp(min=1e-12)


def stack_noise(
    parts: Sequence[tuple[Float[Tensor, "_ d_model"], Float[Tensor, "_"]]], d_model: int
) -> tuple[Float[Tensor, "kept noise d_model"], Float[Tensor, "kept scale"]]:
    """The noise of several layers in two tensors; rows of zeros fill up a layer that has fewer.

    >>> one = Whitening.of(torch.randn(50, 4), 50, 1.0).kept()
    >>> rows, scale = stack_noise([one, Whitening.of(torch.zeros(50, 4), 50, 1.0).kept()], 4)
    >>> rows.shape, scale[1].tolist()
    (torch.Size([2, 4, 4]), [0.0, 0.0, 0.0, 0.0, 1.0])
    """
    if not parts:
        return torch.zeros(0, 0, d_model), torch.zeros(0, 1)
    width = max(len(rows) for rows, _ in parts)
    pad = torch.nn.functional.pad
    rows = [pad(rows, (0, 0, 0, width - len(rows))) for rows, _ in parts]
    scales = [torch.cat([pad(scale[:-1], (0, width + 1 - len(scale))), scale[-1:]]) for _, scale in parts]
    return torch.stack(rows), torch.stack(scales)
