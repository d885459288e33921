"""Matrices as colours.

Zero is white, blue is negative and red positive; of two strong cells the negative one is the darker in grey print.
What does not lie around zero is drawn from dark to light. As many names are written as fit: a larger `ax` shows more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from emolens.plots.style import DIVERGING, SEQUENTIAL, SMALL, new_axes, plain, require

WRITTEN = 5  # rows and columns of a matrix whose numbers are written


def similarity_matrix(
    matrix: Any,
    names: Sequence[str],
    clustered: bool = True,
    limit: float | None = None,
    lowest: float | None = None,
    groups: int = 0,
    unit: str = "cosine",
    ax: Axes | None = None,
    **axes: str,
) -> Axes:
    """A square matrix of cosines as colours; in the order of a clustering its tree stands beside it.

    Args:
        matrix: [name name], symmetric where `clustered`.
        names: of rows and columns, any number from 2.
        clustered: reorder by hierarchical clustering (average linkage), neighbours alike, and draw the tree.
        limit: the value drawn in full colour; None takes the largest size off the diagonal.
        lowest: the value drawn darkest, for values that are all alike; by default zero is in the middle.
        groups: how many groups the tree is cut into: each is framed, and those that have room are named below the
            matrix by their two most typical members and their size. 0 frames none.
        unit: what the colours are.
        axes: `title`, `xlabel` and `ylabel`, as of `Axes.set`.

    Raises:
        ValueError: sizes that do not match, numbers that are not finite, groups of what is not clustered, or more
            groups than names.

    >>> names = ["calm", "peaceful", "furious"]
    >>> similarity_matrix(shipped[names].similarity(20), names).get_title()
    'Similarity of 3 emotions'
    """
    values, names = np.asarray(matrix, dtype=float), list(names)
    if len(names) < 2:
        raise ValueError(f"{len(names)} names: a similarity needs at least 2")
    _check(values, names, names)
    if groups and (not clustered or groups > len(names)):
        raise ValueError(f"groups={groups} of {len(names)} names: give clustered=True and at most that many groups")
    tree, order = None, np.arange(len(names))
    if clustered:
        tree = _tree(values)
        order = _order(tree)
    values, names = values[np.ix_(order, order)], [names[row] for row in order]
    limit = limit or float(np.abs(values[~np.eye(len(names), dtype=bool)]).max()) or 1.0
    span = (-limit, limit) if lowest is None else (lowest, float(values.max()))
    ax = _draw(values, names, names, span, unit, ax, cell=0.2)
    if tree is not None:
        _draw_tree(ax, tree, unit)
        _frame_groups(ax, values, names, _cut(tree, groups)[order] if groups else np.array([]))
    across = "groups: the two most typical members (how many)" if groups else "emotion"
    ax.set(**{"title": f"Similarity of {len(names)} emotions", "xlabel": across, "ylabel": "emotion"} | axes)
    return ax


def score_matrix(
    scores: Any,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "Scores, by row and column",
    lowest: float | None = None,
    limit: float | None = None,
    unit: str = "score",
    ax: Axes | None = None,
    **axes: str,
) -> Axes:
    """A matrix of scores as colours: a dot marks the highest of each row, a frame the cell where names agree.

    The scores of up to five rows and columns are written; the highest of a row is bold then and has no dot.

    Args:
        scores: [row column]; or a table with the columns `row`, `column` and `score`, one row for each cell,
            which needs no `rows` and `columns`: they keep the table's order.
        lowest: the score drawn darkest, for scores that are all alike; by default zero is in the middle.
        limit: the score drawn in full colour where zero is in the middle; None takes the largest size.
        unit: what the colours are.
        axes: `xlabel` and `ylabel`, as of `Axes.set`.

    Raises:
        ValueError: a column is missing, a cell is missing or there twice, sizes that do not match, or
            numbers that are not finite.

    >>> ax = score_matrix([[0.5, -0.1], [0.0, 0.4]], ["calm", "sad"], ["calm", "sad"], ylabel="texts of")
    >>> ax.get_ylabel(), len(ax.patches), len(ax.texts)  # two frames and four numbers
    ('texts of', 2, 4)
    """
    if isinstance(scores, pd.DataFrame) and rows is None and columns is None:
        require(scores, "row", "column", "score")
        rows, columns = (list(dict.fromkeys(scores[name])) for name in ("row", "column"))
        if scores.duplicated(["row", "column"]).any():
            raise ValueError("the table has two scores for the same row and column")
        scores = scores.pivot(index="row", columns="column", values="score").loc[rows, columns]
    values = np.asarray(scores, dtype=float)
    rows, columns = (list(map(str, names or ())) for names in (rows, columns))
    _check(values, rows, columns)
    numbers = max(values.shape) <= WRITTEN
    limit = limit or float(np.abs(values).max()) or 1.0
    span = (-limit, limit) if lowest is None else (lowest, float(values.max()))
    ax = _draw(values, rows, columns, span, unit, ax)
    shade = ax.images[0]
    for row, column in enumerate(values.argmax(axis=1)):
        if not numbers:
            ax.add_patch(Circle((column, row), 0.2, fc="black", ec="white"))
    for (row, column), value in np.ndenumerate(values) if numbers else ():
        light = np.dot(shade.to_rgba(value)[:3], (0.3, 0.6, 0.1)) > 0.5
        how: dict[str, Any] = {"color": "black" if light else "white", "ha": "center", "va": "center"}
        ax.text(column, row, f"{value:.2f}", weight="bold" if column == values[row].argmax() else "normal", **how)
    same = [(columns.index(name), row) for row, name in enumerate(rows) if name in columns]
    for column, row in same:
        ax.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fc="none", ec="black", lw=1.4))
    told = ("bold" if numbers else "dot") + ": highest of its row" + "; frame: same name" * bool(same)
    ax.set(**axes, title=f"{title}\n{told}")
    ax.title.set_fontsize(11)
    return ax


def _check(values: np.ndarray, rows: Sequence[Any], columns: Sequence[Any]) -> None:
    if values.shape != (len(rows), len(columns)) or not values.size:
        raise ValueError(
            f"{len(rows)} names of rows and {len(columns)} names of columns need a matrix of that size; "
            f"got {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise ValueError("the matrix holds numbers that are not finite: a vector of length 0, or a missing cell?")


def _draw(
    values: np.ndarray,
    rows: Sequence[Any],
    columns: Sequence[Any],
    span: tuple[float, float],
    unit: str,
    ax: Axes | None,
    cell: float = 0.3,
) -> Axes:
    """The matrix, its colour bar, and the names that fit; `cell` in inches, where there is no `ax` yet."""
    if ax is None:
        height, width = (float(np.clip(cell * len(names) + 2, 4.5, 12)) for names in (rows, columns))
        ax = new_axes(width + 0.8, height)
    colours = DIVERGING if span[0] == -span[1] else SEQUENTIAL
    image = ax.imshow(values, cmap=colours, vmin=span[0], vmax=span[1], interpolation="nearest")
    beyond = (bool(values.min() < span[0]), bool(values.max() > span[1]))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(beyond, "both")
    ax.figure.colorbar(image, ax=ax, shrink=0.6, aspect=28, extend=extend).set_label(unit)
    box = ax.get_window_extent()
    for axis, names, length in ((ax.xaxis, columns, box.width), (ax.yaxis, rows, box.height)):
        room = length / ax.figure.dpi * 72 * 0.9  # points, less what names take
        shown = range(0, len(names), int(np.ceil(len(names) * 1.2 * SMALL / room)))
        axis.set_ticks(shown, [plain(names[place]) for place in shown], fontsize=SMALL)
    ax.tick_params(axis="x", rotation=90)
    return ax


def _tree(matrix: np.ndarray) -> np.ndarray:
    """The hierarchical clustering of cosines (average linkage), neighbours alike: as of `scipy`'s `linkage`."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1 - (matrix + matrix.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    return linkage(squareform(distance, checks=False), "average", optimal_ordering=True)


def _order(tree: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list

    return leaves_list(tree)


def _cut(tree: np.ndarray, groups: int) -> np.ndarray:
    """The number of each row's group, of so many groups."""
    from scipy.cluster.hierarchy import fcluster

    return fcluster(tree, groups, "maxclust")


def _draw_tree(ax: Axes, tree: np.ndarray, unit: str) -> None:
    """The tree at the right of the matrix, its leaves at the rows."""
    from scipy.cluster.hierarchy import dendrogram

    drawn, beside = dendrogram(tree, no_plot=True), ax.inset_axes((1.01, 0, 0.2, 1))
    for height, place in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        beside.plot(height, (np.array(place) - 5) / 10, color="#404040", lw=0.7)
    beside.set(ylim=ax.get_ylim(), xlim=(0, None), yticks=[], xlabel=f"tree: 1 \u2212 {unit}\nwhere groups join")
    beside.tick_params(labelsize=SMALL)
    beside.xaxis.label.set_fontsize(SMALL)
    beside.spines[["top", "left", "right"]].set_visible(False)


def _frame_groups(ax: Axes, values: np.ndarray, names: Sequence[str], numbers: np.ndarray) -> None:
    """Frames around the groups on the diagonal, and the names of those that have room for one below."""
    if not len(numbers):
        return
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    room = ax.get_window_extent().width / ax.figure.dpi * 72 / len(names)  # points for each column
    ticks: list[tuple[float, str]] = []
    for start, end in pairwise(bounds):
        ax.add_patch(Rectangle((start - 0.5, start - 0.5), end - start, end - start, fc="none", ec="black", lw=1.3))
        typical = values[start:end, start:end].mean(axis=0).argsort()[::-1][:2] + start
        middle, said = (start + end - 1) / 2, ", ".join(names[row] for row in typical)
        if (end - start) * room > 1.2 * SMALL:
            ticks.append((middle, f"{plain(said)} ({end - start})"))
    ax.set_xticks([place for place, _ in ticks], [said for _, said in ticks], fontsize=SMALL, rotation=40, ha="right")
    ax.tick_params(axis="x", rotation=40)
