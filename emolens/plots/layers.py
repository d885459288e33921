"""Curves over the layers, each with its interval band, the null's band and the line of chance or zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from emolens.plots.panels import panels
from emolens.plots.style import DASHES, NULL, SMALL, beside, new_axes, parts_of, plain, require


def layer_sweep(
    frame: pd.DataFrame,
    chance: float,
    measures: Sequence[str] = ("first", "first_five"),
    chosen: int | Mapping[str, int] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Share of texts whose emotion is found, by layer and method: a panel for each measure.

    Args:
        frame: a row for each layer and method; `{measure}`, if present `{measure}_low` and `{measure}_high`
            for the band, `{measure}_null` for the upper quantile under permuted labels, and
            `{measure}_shuffled_highest` for the highest of the vectors from shuffled labels.
        chance: share found first by guessing; five times that is the chance of the first five.
        chosen: the layer to mark with a line, or that of each method, marked with a ring on its curve.
        title: default the best of the chosen layers on the first measure. The panels name the null of their best one.
        ax: to draw the first measure into; default a new figure with a panel for each.

    Returns:
        The panel of the first measure; the others are in its `figure.axes`.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"layer": [1, 2], "method": "denoised", "first": [0.2, 0.4]})
    >>> layer_sweep(frame, chance=0.1, measures=["first"]).get_ylabel()
    'share of texts'
    """
    require(frame, "layer", "method", *measures)
    title = title or _of_sweep(frame, measures[0], chosen)
    parts = [_one_measure(frame, measure, chance) for measure in measures]
    if ax is not None:
        ax = _sweep(parts[0], chosen, ax)
        ax.set_title(title)
        return beside(ax)
    ax = panels(pd.concat(parts), "measure", _sweep, title=title, across=2, share_y=False, chosen=chosen)
    return _sized(ax, 3.7 * min(2, len(parts)) + 2.2, 3.9 * -(-len(parts) // 2))


def _of_sweep(frame: pd.DataFrame, measure: str, chosen: int | Mapping[str, int] | None) -> str:
    """The best of the chosen layers, in words."""
    at = frame["layer"].eq(chosen) if isinstance(chosen, int) else frame["layer"].eq(frame["method"].map(chosen or {}))
    if not at.any():
        return "Right emotion found, by layer"
    row = frame.loc[frame.loc[at, measure].idxmax()]
    whose = f"{row['method'].capitalize()} vectors of block {row['layer']}"
    return f"{whose}: right emotion {measure.replace('_', ' ')} for {row[measure]:.0%} of the texts"


def _one_measure(frame: pd.DataFrame, measure: str, chance: float) -> pd.DataFrame:
    """The columns of one measure under the same names for all, with its name in words and its chance."""
    wanted = {f"{measure}{end}": f"share{end}" for end in ("", "_low", "_high", "_null", "_shuffled_highest")}
    part = frame[["layer", "method", *(name for name in wanted if name in frame)]].rename(columns=wanted)
    said = {"first": "right emotion first", "first_five": "right emotion among the first five"}
    level = chance * (5 if measure == "first_five" else 1)
    return part.assign(measure=said.get(measure, measure.replace("_", " ")), chance=level)


def _sweep(frame: pd.DataFrame, chosen: int | Mapping[str, int] | None, ax: Axes) -> Axes:
    """One measure: a curve for each method, the null as an area that reaches down to 0, chance as a line."""
    top = [frame["chance"].iloc[0]]
    at = frame["layer"].eq(frame["method"].map(chosen) if isinstance(chosen, Mapping) else chosen)
    marked = frame[at].nlargest(1, "share") if at.any() else frame  # whose null is named: that of the title
    if "share_null" in frame and frame["share_null"].notna().any():
        null = frame.groupby("layer")["share_null"].max()
        ax.fill_between(null.index, 0, null, fc="#BDBDBD", ec=NULL, lw=0.8, label="permuted labels, 97.5 %")
        top.append(marked["share_null"].max())
    ax.axhline(top[0], color="black", ls=(0, (1, 1.5)), lw=1.2, label="chance")
    for ((name, part), colour, marker), dash in zip(parts_of(frame, "method"), cycle(DASHES)):
        _line(ax, part, "share", color=colour, marker=marker, ls=dash, label=plain(name))
    if isinstance(chosen, Mapping):
        own = frame[frame["layer"].eq(frame["method"].map(chosen))]
        _ring(ax, own, "share", "chosen on the stories")
    if "share_shuffled_highest" in frame and frame["share_shuffled_highest"].notna().any():
        cross: dict[str, Any] = {"color": "black", "ms": 6, "label": "shuffled vectors, highest"}
        ax.plot(frame["layer"], frame["share_shuffled_highest"], "x", **cross)
        top.append(marked["share_shuffled_highest"].max())
    if isinstance(chosen, int):
        ax.axvline(chosen, color="black", ls=(0, (1, 3)), lw=1.2, label=f"chosen layer: {chosen}")
    whose = f" of block {marked['layer'].iloc[0]}" if at.any() else ""
    said = f"chance {top[0]:.1%}" + (f"\nnulls{whose} up to {max(top):.1%}" if len(top) > 1 else "")
    place = (frame["layer"].max(), np.nanmax([*top, *frame.get("share_null", [])]))
    ax.annotate(said, place, (0, 8), textcoords="offset points", ha="right", fontsize=SMALL, color="#404040")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(ylim=(0, None), ylabel="share of texts")
    return _by_layer(ax)


def reliability(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Cosine of vectors from two halves of the topics, by layer: a panel with its own null for each method.

    Args:
        frame: a row for each layer (and `method`, if present): `cosine`; `low` and `high` for the band over
            emotions; `null_low` and `null_high`, what vectors of different emotions or of shuffled labels give.
        title: default at how many of the places the mean lies above the null; a single other one is named.
        ax: to draw all methods into; default a new figure.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> ends = {"low": 0.6, "high": 0.9, "null_low": -0.1, "null_high": 0.1}
    >>> reliability(pd.DataFrame({"layer": [1, 2], "cosine": [0.7, 0.8], **ends})).get_ylabel()
    'split-half cosine'
    """
    require(frame, "layer", "cosine", "low", "high", "null_low", "null_high")
    frame = frame.assign(effect=frame["cosine"], series="same emotion: mean, 95 %")
    title = title or _of_halves(frame)
    options: dict[str, Any] = {"ylabel": "split-half cosine", "series": "series"}
    if ax is None and "method" in frame and frame["method"].nunique() > 1:
        ax = _sized(panels(frame, "method", _halves, title=title, **options), 10.5, 3.6)
    else:
        ax = _halves(frame, ax, title=title, **options | {"series": "method" if "method" in frame else "series"})
    ax.set_ylim(None, 1.02)
    return ax


def _of_halves(frame: pd.DataFrame) -> str:
    """Where the mean cosine lies above the null, in words.

    >>> _of_halves(pd.DataFrame({"layer": [1, 2], "cosine": [0.7, 0.2], "null_high": 0.3}))
    'Two halves agree beyond the null everywhere but at block 2'
    """
    inside = frame[~(frame["cosine"] > frame["null_high"])]
    if len(inside) == 1 < len(frame):
        row = inside.iloc[0]
        whose = f"for {row['method']} vectors " if "method" in frame else ""
        return f"Two halves agree beyond the null everywhere but {whose}at block {row['layer']:.0f}"
    where = "blocks and readouts" if "method" in frame else "blocks"
    return f"Two halves agree beyond the null at {len(frame) - len(inside)} of {len(frame)} {where}"


def _halves(frame: pd.DataFrame, ax: Axes | None, **options: Any) -> Axes:
    """`effect_by_layer` with the null under its name."""
    ax = effect_by_layer(frame, ax=ax, **options)
    for band in ax.collections[:1]:
        band.set_label("different emotions, 95 %")
    return beside(ax)


def effect_by_layer(
    frame: pd.DataFrame,
    ylabel: str = "effect",
    title: str = "Effect, by layer",
    line: float = 0.0,
    series: str = "method",
    marked: str = "",
    dashed: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A difference, correlation or share by layer, with its interval, against a line and what chance gives.

    Args:
        frame: a row for each layer (and `series`, if present): `effect`; `low` and `high`, its interval; if
            present `null_low` and `null_high`, drawn as one grey band, the widest over the series.
        ylabel: what the effect is, with its unit.
        line: where there is no effect.
        series: the column whose every entry gets a curve.
        marked: a column of truth values, such as "chosen": a ring on the curve where it is True.
        dashed: the ends of the null as dashed lines, where wide intervals would lie over a band.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"layer": [1, 2], "effect": [0.1, 0.3], "low": [0, 0.2], "high": [0.2, 0.4]})
    >>> effect_by_layer(frame, ylabel="correlation").get_ylabel()
    'correlation'
    """
    require(frame, "layer", "effect", "low", "high", *filter(None, [marked]))
    ax = ax or new_axes(7.5, 4)
    if {"null_low", "null_high"} <= set(frame):
        null = frame.groupby("layer").agg({"null_low": "min", "null_high": "max"})
        style: dict[str, Any] = {"color": NULL, "alpha": 0.25, "label": "null band"}
        if dashed:
            for end, label in (("null_low", "_"), ("null_high", "ends of the null")):
                ax.plot(null.index, null[end], color="black", ls="--", lw=1.1, label=label)
        else:
            _band(ax, null.index, null["null_low"], null["null_high"], 0.6, **style)
    ax.axhline(line, color=NULL, lw=1.2, label=f"no effect: {line:g}" if line else "")
    frame = frame if series in frame else frame.assign(**{series: ylabel})
    frame = frame.rename(columns={"low": "effect_low", "high": "effect_high"})
    if frame["layer"].nunique() == 1:  # no curves: the series side by side
        number = pd.factorize(frame[series])[0]
        ax.set_xlim(frame["layer"].iloc[0] - 1, frame["layer"].iloc[0] + 1)
        frame = frame.assign(layer=frame["layer"] + (number - number.max() / 2) * 0.15)
    band = "light band: 95 %"  # of draws or of items, as the table has it; named once
    for ((name, part), colour, marker), dash in zip(parts_of(frame, series), cycle(DASHES)):
        _line(ax, part, "effect", band, color=colour, marker=marker, ls=dash, label=plain(name))
        band = ""
    if marked:
        _ring(ax, frame[frame[marked]], "effect", marked)
    ax.set(ylabel=ylabel, title=title)
    return _by_layer(ax)


def _sized(ax: Axes, width: float, height: float) -> Axes:
    """The axes, after their figure was given that size in inches."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(width, height)
    return ax


def _line(ax: Axes, part: pd.DataFrame, column: str, band: str = "", *, color: str, **style: Any) -> None:
    """A curve over the layers, with its band where the table has one; `band` is what a legend calls it."""
    part = part.sort_values("layer")
    ax.plot(part["layer"], part[column], color=color, ms=4.5, **style)
    if f"{column}_low" in part:
        _band(
            ax, part["layer"], part[f"{column}_low"], part[f"{column}_high"], 0.04, color=color, alpha=0.15, label=band
        )


def _ring(ax: Axes, rows: pd.DataFrame, column: str, label: str) -> None:
    """A ring around the points of these rows."""
    style: dict[str, Any] = {"ms": 11, "mfc": "none", "mec": "black", "mew": 1.5, "label": plain(label)}
    ax.plot(rows["layer"], rows[column], "o", **style)


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
