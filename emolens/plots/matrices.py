"""Matrices as colours.

Zero is white, blue is negative and red positive; of two strong cells the negative one is the darker in grey print.
What does not lie around zero is drawn from dark to light. As many names are written as fit: a larger `ax` shows more.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ax: Axes | None = None,
) -> Axes:
    """A square matrix of cosines as colours.

    Args:
        matrix: [emotion emotion], symmetric where `clustered`.
        names: of rows and columns, any number from 2.
        clustered: reorder by hierarchical clustering (average linkage), neighbours alike.
        limit: the value drawn in full colour; None takes the largest size off the diagonal.

    Raises:
        ValueError: sizes that do not match, or numbers that are not finite.

    >>> names = ["calm", "peaceful", "furious"]
    >>> similarity_matrix(shipped[names].similarity(20), names).get_title()
    'Similarity of 3 emotions'
    """
    values, names = np.asarray(matrix, dtype=float), list(names)
    if len(names) < 2:
        raise ValueError(f"{len(names)} names: a similarity needs at least 2")
    _check(values, names, names)
    if clustered:
        order = _leaves(values)
        values, names = values[np.ix_(order, order)], [names[row] for row in order]
    limit = limit or float(np.abs(values[~np.eye(len(names), dtype=bool)]).max()) or 1.0
    ax = _draw(values, names, names, (-limit, limit), "cosine", ax, cell=0.2)
    ax.set_title(f"Similarity of {len(names)} emotions")
    return ax


def score_matrix(
    scores: Any,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "Scores, by row and column",
    lowest: float | None = None,
    ax: Axes | None = None,
    **axes: str,
) -> Axes:
    """A matrix of scores as colours: a dot marks the highest of each row, a frame the cell where names agree.

    The scores of up to five rows and columns are written; the highest of a row is bold then and has no dot.

    Args:
        scores: [row column]; or a table with the columns `row`, `column` and `score`, one row for each cell,
            which needs no `rows` and `columns`: they keep the table's order.
        lowest: the score drawn darkest, for scores that are all alike; by default zero is in the middle.
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
    limit = float(np.abs(values).max()) or 1.0
    span = (-limit, limit) if lowest is None else (lowest, float(values.max()))
    ax = _draw(values, rows, columns, span, "score", ax)
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
    extend = "max" if values.max() > span[1] else "neither"
    ax.figure.colorbar(image, ax=ax, shrink=0.7, extend=extend).set_label(unit)
    box = ax.get_window_extent()
    for axis, names, length in ((ax.xaxis, columns, box.width), (ax.yaxis, rows, box.height)):
        room = length / ax.figure.dpi * 72 * 0.9  # points, less what names take
        shown = range(0, len(names), int(np.ceil(len(names) * 1.2 * SMALL / room)))
        axis.set_ticks(shown, [plain(names[place]) for place in shown], fontsize=SMALL)
    ax.tick_params(axis="x", rotation=90)
    return ax


def _leaves(matrix: np.ndarray) -> list[int]:
    """Order of the leaves of a hierarchical clustering of cosines."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1 - (matrix + matrix.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)).tolist()
