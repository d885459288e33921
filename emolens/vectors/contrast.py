"""The contrast: emotion vectors from activations, with register and topic cancelled, and the noise that is left."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.corpus.stories import Corpus


@dataclass(frozen=True)
class Layout:
    """Which emotion, register and (register, topic) group each story belongs to.

    >>> layout = Layout.of(corpus)
    >>> layout.emotions[:2], layout.registers, len(layout.group.unique())
    (('afraid', 'angry'), ('plain',), 6)
    """

    emotions: tuple[str, ...]
    registers: tuple[str, ...]
    emotion: Int[Tensor, "text"]
    register: Int[Tensor, "text"]
    group: Int[Tensor, "text"]

    @classmethod
    def of(cls, corpus: Corpus) -> "Layout":
        """The layout of a corpus; see `Layout`."""
        emotions = tuple(corpus.emotions)
        registers = tuple(dict.fromkeys(story.register for story in corpus))
        groups = list(dict.fromkeys((story.register, story.topic) for story in corpus))
        row = {name: i for i, name in enumerate(emotions)}
        return cls(
            emotions,
            registers,
            torch.tensor([row[story.emotion] for story in corpus]),
            torch.tensor([registers.index(story.register) for story in corpus]),
            torch.tensor([groups.index((story.register, story.topic)) for story in corpus]),
        )

    def keep(self, rows: Bool[Tensor, "text"]) -> "Layout":
        """The same for some of the stories, with every emotion, register and group under its number.

        >>> layout = Layout.of(corpus)
        >>> layout.keep(layout.emotion == 2).emotion
        tensor([2, 2, 2, 2, 2, 2])
        """
        return Layout(self.emotions, self.registers, self.emotion[rows], self.register[rows], self.group[rows])

    def noise_rows(self) -> int:
        """How many rows `contrast_and_noise` gives: the stories less one for each emotion of a register.

        >>> Layout.of(corpus).noise_rows()
        30
        """
        return len(self.emotion) - len((self.register * len(self.emotions) + self.emotion).unique())

    def told_beside_others(self) -> Bool[Tensor, "emotion"]:
        """Which emotions have a story in a group that another emotion is in too; centring erases those of others.

        >>> Layout.of(corpus).told_beside_others().all()
        tensor(True)
        """
        there = torch.zeros(int(self.group.max()) + 1 if len(self.group) else 0, len(self.emotions), dtype=torch.bool)
        there[self.group, self.emotion] = True
        return (there & (there.sum(dim=1, keepdim=True) > 1)).any(dim=0)


def group_mean(x: Float[Tensor, "text d_model"], code: Int[Tensor, "text"], n: int) -> Float[Tensor, "group d_model"]:
    """Mean of the rows with each code; a group without rows is NaN.

    >>> group_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    tensor([[2.], [nan], [5.]])
    """
    code = code.to(x.device)
    total = torch.zeros(n, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, code, x)
    return total / torch.bincount(code, minlength=n)[:, None]


def contrast(
    x: Float[Tensor, "text d_model"], layout: Layout
) -> tuple[Float[Tensor, "emotion d_model"], Float[Tensor, "text d_model"]]:
    """Raw emotion vectors and what is left of each story.

    Stories are centred within register and topic, averaged over each emotion's stories within a register,
    then over registers with the same weight, so that register and topic cancel. The residual is the story
    less its topic's and its emotion's mean: the noise. An emotion without a story is NaN. Both come in float64, on
    the device of `x`.

    >>> raw, residual = contrast(torch.randn(len(corpus), 3), Layout.of(corpus))
    >>> raw.shape, bool(raw.mean(dim=0).abs().max() < 1e-6)
    (torch.Size([6, 3]), True)
    """
    vectors, centred, cell, means = _cells(x.double(), layout)
    return vectors, centred - means[cell]


def contrast_and_noise(
    x: Float[Tensor, "text d_model"], layout: Layout
) -> tuple[Float[Tensor, "emotion d_model"], Float[Tensor, "row d_model"]]:
    """As `contrast`, with fewer rows R for the residuals, of the same R'R: as many as there are stories less cells.

    The stories of an emotion in a register are turned so that one of them is their mean, which is left out
    (Helmert's contrasts). What is linear in R'R, such as the covariance, stays as it is. Computed in the dtype of `x`.

    >>> x, layout = torch.randn(len(corpus), 3), Layout.of(corpus)
    >>> residual, rows = contrast(x, layout)[1], contrast_and_noise(x.double(), layout)[1]
    >>> len(residual), len(rows), torch.allclose(residual.T @ residual, rows.T @ rows)
    (36, 30, True)
    """
    vectors, centred, cell, _ = _cells(x, layout)
    counts = torch.bincount(cell)[cell]
    rows = [centred[:0]]
    for count in sorted(set(counts.tolist()) - {1}):
        chosen = (counts == count).nonzero()[:, 0]
        chosen = chosen[cell[chosen].argsort(stable=True)].view(-1, count)
        rows.append((_helmert(count).to(x) @ centred[chosen]).flatten(0, 1))
    return vectors, torch.cat(rows)


def _helmert(n: int) -> Float[Tensor, "row n"]:
    """n - 1 orthonormal rows, each at right angles to the mean."""
    k = torch.arange(1, n, dtype=torch.float64)
    rows = torch.ones(n - 1, n, dtype=torch.float64).tril() - torch.diag_embed(k, offset=1)[:-1]
    return rows / (k * (k + 1)).sqrt()[:, None]


def _cells(
    x: Float[Tensor, "text d_model"], layout: Layout
) -> tuple[
    Float[Tensor, "emotion d_model"],
    Float[Tensor, "text d_model"],
    Int[Tensor, "text"],
    Float[Tensor, "cell d_model"],
]:
    """The vectors, the stories less their topic's mean, the cell of each (register and emotion), the cells' means."""
    group, n = layout.group.to(x.device), len(layout.emotions)
    centred = x - group_mean(x, group, int(group.max()) + 1)[group]
    cell = (layout.register * n + layout.emotion).to(x.device)
    means = group_mean(centred, cell, n * len(layout.registers))
    vectors = means.view(len(layout.registers), n, -1).nanmean(dim=0)
    present = torch.bincount(layout.emotion, minlength=n) > 0
    return vectors - vectors[present.to(x.device)].mean(dim=0), centred, cell, means
