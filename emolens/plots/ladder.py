"""One small panel for each question: the effect by the size of the model, its interval and its null."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from emolens.plots.style import COLOURS, NULL, SMALL, plain, require

COLUMNS = 4
BEYOND = "beyond the null"


def size_ladder(frame: pd.DataFrame, ax: Sequence[Axes] | None = None) -> Axes:
    """The effect of each question by the number of parameters, with the null's band in grey.

    Args:
        frame: a row for each `question` and `model`: `parameters`, `unit`, `effect`, `low`, `high`, `null_low`,
            `null_high`, `verdict`. Filled points are beyond the null; rows without an effect are left out.
        ax: one for each question that has one.

    Returns:
        The first.

    >>> frame = pd.DataFrame({"question": "found", "model": ["a", "b"], "parameters": [1e8, 1e9], "unit": "share"})
    >>> frame = frame.assign(effect=[0.4, 0.6], low=[0.3, 0.5], high=[0.5, 0.7], null_low=0, null_high=0.1)
    >>> size_ladder(frame.assign(verdict="beyond the null")).get_ylabel()
    'share'
    """
    require(
        frame, "question", "model", "parameters", "unit", "effect", "low", "high", "null_low", "null_high", "verdict"
    )
    questions = list(frame.loc[frame["effect"].notna(), "question"].unique())
    axes: list[Axes] = _panels(len(questions)) if ax is None else list(np.ravel(np.asarray(ax)))
    for place, question in zip(axes, questions, strict=False):
        _panel(place, question, frame)
    return axes[0]


def _panels(number: int) -> list[Axes]:
    columns = min(COLUMNS, number)
    rows = ceil(number / columns)
    size = (3.1 * columns, 2.6 * rows)
    axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)[1]
    for empty in axes.flat[number:]:
        empty.remove()
    return list(axes.flat[:number])


def _panel(ax: Axes, question: str, frame: pd.DataFrame) -> None:
    whole = frame[frame["question"].eq(question)]
    sizes = frame.drop_duplicates("model").set_index("model")["parameters"]
    part = whole[whole["effect"].notna()].sort_values("parameters")
    x = part["parameters"].to_numpy(float)
    for at, low, high in part[["parameters", "null_low", "null_high"]].itertuples(index=False):
        edges = [at / 1.2, at * 1.2]
        ax.fill_between(edges, low, high, color=NULL, alpha=0.3, lw=0)
        ax.plot(edges, [high, high], color=NULL, lw=1)
    ax.plot(x, part["effect"], color=COLOURS[0], lw=1, alpha=0.6)
    ax.vlines(x, part["low"], part["high"], color=COLOURS[0], lw=1.4)
    for size, effect, verdict in part[["parameters", "effect", "verdict"]].itertuples(index=False):
        ax.plot(size, effect, "o", ms=6, mec=COLOURS[0], mfc=COLOURS[0] if verdict == BEYOND else "white")
    ax.set_xscale("log")
    ax.set_xlim(sizes.min() / 1.5, sizes.max() * 1.5)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xticks(sizes, [_short(size) for size in sizes], fontsize=SMALL)
    ax.set_title(plain(question), fontsize=SMALL + 1)
    ax.set_ylabel(plain(whole["unit"].iloc[0]), fontsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def _short(parameters: float) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
