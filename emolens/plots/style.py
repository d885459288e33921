"""What all figures share: colours that repeat in shape, sizes, legends, and the check of a table's columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.text import Text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# More markers than colours, and no common factor: the 8th series has the colour of the first, not its marker.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
DASHES = ("-", "--", ":", "-.")
NULL = "#767676"  # the grey of everything expected by chance
# Cosines and changes, zero in the middle: blue below and red above, and blue the darker one in grey print.
DIVERGING = LinearSegmentedColormap.from_list("blue and red", ["#08306B", "#5B8FD0", "#FFFFFF", "#F4A58A", "#CF4A33"])
SEQUENTIAL = "cividis"  # shares and other things that begin at zero
SMALL = 8.5  # points, the smallest text in a figure


def new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure of that size in inches.

    >>> new_axes(6, 4).figure.get_size_inches().tolist()
    [6.0, 4.0]
    """
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def words(sentence: str, ax: Axes | None = None) -> Axes:
    """A sentence in the place of a figure that cannot be drawn.

    >>> words("Not measured.").texts[0].get_text()
    'Not measured.'
    """
    ax = ax or new_axes(7, 1.2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, fill(plain(sentence), 90), ha="center", va="center", transform=ax.transAxes)
    return ax


CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd") | {ord("\t"): " ", ord("\n"): "\n"}


def plain(text: Any) -> str:
    """Text as it stands: a pair of dollars would make matplotlib set a formula, and no font has control characters.

    >>> print(plain("$5 and $6"), plain("\\x1a"))
    \\$5 and \\$6 �
    """
    return str(text).replace("$", r"\$").translate(CONTROLS)


def require(frame: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError for a table without rows or without one of the columns.

    >>> require(pd.DataFrame({"layer": [1]}), "layer", "effect")
    Traceback (most recent call last):
    ValueError: the table has 1 rows and the columns layer; missing: effect
    """
    missing = [column for column in columns if column not in frame]
    if missing or frame.empty:
        raise ValueError(
            f"the table has {len(frame)} rows and the columns {', '.join(map(str, frame))}; "
            f"missing: {', '.join(missing) or 'rows'}"
        )


def parts_of(frame: pd.DataFrame, column: str) -> Iterator[tuple[tuple[Any, pd.DataFrame], str, str]]:
    """The parts of a table, each with its colour and marker.

    >>> [(name, marker) for (name, part), colour, marker in parts_of(pd.DataFrame({"method": ["raw", "a"]}), "method")]
    [('raw', 'o'), ('a', 's')]
    """
    return zip(frame.groupby(column, sort=False, dropna=False), cycle(COLOURS), cycle(MARKERS))


def beside(ax: Axes) -> Axes:
    """A legend beside the axes, where it covers no data.

    >>> ax = new_axes(4, 3)
    >>> line = ax.plot([0, 1], label="calm")
    >>> beside(ax).get_legend().get_texts()[0].get_text()
    'calm'
    """
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=SMALL, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def token_ticks(ax: Axes, names: Sequence[str]) -> None:
    """Tokens below the axes, turned; a single character stands upright: a turned full stop looks like an apostrophe.

    >>> ax = new_axes(4, 3)
    >>> token_ticks(ax, ["she", "."])
    >>> [text.get_rotation() for text in ax.get_xticklabels()]
    [90.0, 0.0]
    """
    ax.set_xticks(range(len(names)), names, fontsize=SMALL, rotation=90)
    for tick in ax.get_xticklabels():
        tick.set_rotation(0 if len(tick.get_text()) == 1 else 90)


def extents(ax: Axes, texts: Sequence[Text]) -> np.ndarray:
    """Where texts stand in the laid out figure, in pixels: [text 4], each x0, y0, x1, y1.

    >>> ax = new_axes(4, 3)
    >>> extents(ax, [ax.text(0, 0, "calm")]).shape
    (1, 4)
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return np.array([text.get_window_extent().extents for text in texts]).reshape(-1, 4)


def free(box: np.ndarray, taken: Sequence[np.ndarray] | np.ndarray) -> bool:
    """Whether a box [4] overlaps none of the others.

    >>> free(np.array([0, 0, 1, 1]), [np.array([2, 0, 3, 1])]), free(np.array([0, 0, 1, 1]), [np.array([0, 0, 3, 1])])
    (True, False)
    """
    others = np.reshape(taken, (-1, 4))
    return not ((box[:2] < others[:, 2:]) & (box[2:] > others[:, :2])).all(axis=1).any()
