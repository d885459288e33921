"""Small multiples: one figure, a panel for each part of a table, where curves in one panel would overlap."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from emolens.plots.style import SMALL, plain, require

PANEL = (2.9, 2.3)  # inches


def panels(
    frame: pd.DataFrame,
    column: str,
    draw: Callable[..., Axes],
    title: str = "",
    across: int = 3,
    share_y: bool = True,
    size: tuple[float, float] = PANEL,
    **options: Any,
) -> Axes:
    """Any figure of a table, once for each entry of a column, on the same axes: each panel has its own null band.

    Args:
        frame: with `column` and what `draw` needs.
        draw: a function of this module's figures that takes a table and `ax`, such as `dose_response`.
        title: of the whole figure: what it found.
        across: panels beside each other.
        share_y: False where the panels' units differ.
        size: of a panel in inches, width and height.
        options: handed to `draw`.

    Returns:
        The first panel; the others are in its `figure.axes`.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> from emolens import plots
    >>> frame = pd.DataFrame({"layer": [1, 1], "effect": [0.1, 0.3], "low": [0, 0.2], "high": [0.2, 0.4]})
    >>> ax = panels(frame.assign(emotion=["calm", "sad"]), "emotion", plots.effect_by_layer, title="Both rise")
    >>> [panel.get_title() for panel in ax.figure.axes]
    ['calm', 'sad']
    """
    require(frame, column)
    parts = list(frame.groupby(column, sort=False))
    across = min(across, len(parts))
    down = int(np.ceil(len(parts) / across))
    figure, grid = plt.subplots(
        down,
        across,
        figsize=(size[0] * across + 1.6, size[1] * down + 0.5),
        sharex=True,
        sharey=share_y,
        squeeze=False,
        layout="constrained",
    )
    legend: dict[str, Any] = {}
    for (name, part), ax in zip(parts, grid.flat, strict=False):
        draw(part, ax=ax, **options)
        ax.set_title(plain(name), fontsize=SMALL + 1)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
        if ax.get_legend():
            ax.get_legend().remove()
        ax.tick_params(labelsize=SMALL)
    _name_once(grid, len(parts), share_y)
    if legend:
        figure.legend(legend.values(), legend.keys(), loc="outside right center", fontsize=SMALL, frameon=False)
    if title:
        figure.suptitle(fill(title, int(11 * (size[0] * across + 1.6))), fontsize=11)
    return grid[0, 0]


def _name_once(grid: np.ndarray, used: int, share_y: bool) -> None:
    """Names of axes at the left and below alone; no axes where there is no part."""
    across = grid.shape[1]
    for number, ax in enumerate(grid.flat):
        if number >= used:
            ax.remove()
            continue
        lowest = number + across >= used  # nothing below it
        ax.tick_params(labelbottom=lowest)
        if not lowest:
            ax.set_xlabel("")
        if number % across and share_y:
            ax.tick_params(labelleft=False)
            ax.set_ylabel("")
