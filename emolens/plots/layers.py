"""Curves over the layers, each with its interval band, the null's band and the line of chance or zero."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from emolens.plots.style import DASHES, NULL, beside, new_axes, parts_of, plain, require


def layer_sweep(
    frame: pd.DataFrame,
    chance: float,
    measures: Sequence[str] = ("first", "first_five"),
    chosen: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of texts whose emotion is found, by layer and method, with interval bands.

    Args:
        frame: a row for each layer and method; `{measure}`, if present `{measure}_low` and `{measure}_high`
            for the band, and `{measure}_null` for the upper quantile under permuted labels.
        chance: share found first by guessing; five times that is the chance of the first five.
        chosen: the layer to mark.

    >>> frame = pd.DataFrame({"layer": [1, 2], "method": "denoised", "first": [0.2, 0.4]})
    >>> layer_sweep(frame, chance=0.1, measures=["first"]).get_ylabel()
    'share of texts'
    """
    require(frame, "layer", "method", *measures)
    ax = ax or new_axes(7.5, 4.2)
    for measure, dash in zip(measures, cycle(DASHES)):
        said = measure.replace("_", " ")
        level = chance * (5 if measure == "first_five" else 1)
        if f"{measure}_null" in frame:
            null = frame.groupby("layer")[f"{measure}_null"].max()
            edge: dict[str, Any] = {"ec": NULL, "ls": dash, "lw": 0.8, "label": f"permuted labels, {said}"}
            ax.fill_between(null.index, 0, null, fc=(0.5, 0.5, 0.5, 0.2), **edge)
        ax.axhline(level, color=NULL, ls=dash, lw=1.2, label=f"chance, {said}: {level:.1%}")
        for (method, part), colour, marker in parts_of(frame, "method"):
            _line(ax, part, measure, color=colour, marker=marker, ls=dash, label=f"{method}, {said}")
    if chosen is not None:
        ax.axvline(chosen, color="black", ls=(0, (1, 3)), lw=1.2, label=f"chosen layer: {chosen}")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(ylim=(0, None), ylabel="share of texts", title="Right emotion found, by layer")
    return _by_layer(ax)


def reliability(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Cosine of vectors from two halves of the topics, by layer.

    Args:
        frame: a row for each layer (and `method`, if present): `cosine`; `low` and `high` for the band over
            emotions; `null_low` and `null_high`, what vectors of different emotions or of shuffled labels give.

    >>> ends = {"low": 0.6, "high": 0.9, "null_low": -0.1, "null_high": 0.1}
    >>> reliability(pd.DataFrame({"layer": [1, 2], "cosine": [0.7, 0.8], **ends})).get_title()
    'Reliability of the vectors, by layer'
    """
    require(frame, "layer", "cosine", "low", "high", "null_low", "null_high")
    frame = frame if "method" in frame else frame.assign(method="all vectors")
    title = "Reliability of the vectors, by layer"
    ax = effect_by_layer(frame.rename(columns={"cosine": "effect"}), "split-half cosine", title, ax=ax)
    ax.set_ylim(None, 1.02)
    return ax


def effect_by_layer(
    frame: pd.DataFrame,
    ylabel: str = "effect",
    title: str = "Effect, by layer",
    line: float = 0.0,
    series: str = "method",
    ax: Axes | None = None,
) -> Axes:
    """A difference, correlation or share by layer, with its interval, against a line and what chance gives.

    Args:
        frame: a row for each layer (and `series`, if present): `effect`; `low` and `high`, its interval; if
            present `null_low` and `null_high`, drawn as one grey band, the widest over the series.
        ylabel: what the effect is, with its unit.
        line: where there is no effect.
        series: the column whose every entry gets a curve.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"layer": [1, 2], "effect": [0.1, 0.3], "low": [0, 0.2], "high": [0.2, 0.4]})
    >>> effect_by_layer(frame, ylabel="correlation").get_ylabel()
    'correlation'
    """
    require(frame, "layer", "effect", "low", "high")
    ax = ax or new_axes(7.5, 4)
    if {"null_low", "null_high"} <= set(frame):
        null = frame.groupby("layer").agg({"null_low": "min", "null_high": "max"})
        style: dict[str, Any] = {"color": NULL, "alpha": 0.25, "label": "null band"}
        _band(ax, null.index, null["null_low"], null["null_high"], 0.6, **style)
    ax.axhline(line, color=NULL, lw=1.2, label=f"no effect: {line:g}" if line else "")
    frame = frame if series in frame else frame.assign(**{series: ylabel})
    frame = frame.rename(columns={"low": "effect_low", "high": "effect_high"})
    if frame["layer"].nunique() == 1:  # no curves: the series side by side
        number = pd.factorize(frame[series])[0]
        ax.set_xlim(frame["layer"].iloc[0] - 1, frame["layer"].iloc[0] + 1)
        frame = frame.assign(layer=frame["layer"] + (number - number.max() / 2) * 0.15)
    for ((name, part), colour, marker), dash in zip(parts_of(frame, series), cycle(DASHES)):
        _line(ax, part, "effect", color=colour, marker=marker, ls=dash, label=plain(name))
    ax.set(ylabel=ylabel, title=title)
    return _by_layer(ax)


def _line(ax: Axes, part: pd.DataFrame, column: str, color: str, **style: Any) -> None:
    """A curve over the layers, with its band where the table has one."""
    part = part.sort_values("layer")
    ax.plot(part["layer"], part[column], color=color, ms=4.5, **style)
    if f"{column}_low" in part:
        _band(ax, part["layer"], part[f"{column}_low"], part[f"{column}_high"], 0.04, color=color, alpha=0.15)


def _band(ax: Axes, layers: Any, low: Any, high: Any, half: float, **style: Any) -> None:
    """Between two curves; over a single layer, where that has no area, so wide to either side."""
    layers, low, high = (np.asarray(values, dtype=float) for values in (layers, low, high))
    if len(layers) == 1:
        layers, low, high = layers + np.array([-half, half]), low.repeat(2), high.repeat(2)
    ax.fill_between(layers, low, high, lw=0, **style)


def _by_layer(ax: Axes) -> Axes:
    ax.set_xlabel("layer (index of the block)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return beside(ax)
