"""Bars, steps and small multiples of a table's numbers."""

from __future__ import annotations

from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from emolens.plots.style import DASHES, HATCHES, NULL, SMALL, beside, new_axes, parts_of, plain, require


def detection_bars(frame: pd.DataFrame, chance: float, measure: str = "first", ax: Axes | None = None) -> Axes:
    """Share of texts found, as bars: a group for each register, a bar for each method.

    Args:
        frame: a row for each `register` and `method`: `{measure}`, `{measure}_low`, `{measure}_high`.
        chance: the share that guessing finds.

    >>> frame = pd.DataFrame({"register": "plain", "method": ["raw", "whitened"], "first": [0.3, 0.5],
    ...                       "first_low": [0.2, 0.4], "first_high": [0.4, 0.6]})
    >>> detection_bars(frame, chance=0.1).get_ylabel()
    'share of texts'
    """
    require(frame, "register", "method", measure, f"{measure}_low", f"{measure}_high")
    frame = frame.rename(columns={measure: "value", f"{measure}_low": "low", f"{measure}_high": "high"})
    ax = _bars(frame, "register", "method", "{:.0%}", ax)
    ax.axhline(chance, color="black", ls="--", lw=1.2, label=f"chance: {chance:.1%}")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    said = measure.replace("_", " ")
    title = f"Right emotion found ({said}), with 95 % intervals"
    ax.set(ylim=(0, None), ylabel="share of texts", xlabel="register", title=title)
    return beside(ax)


def component_bars(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Correlation of principal components with human ratings, by size, each with its interval and its null.

    Args:
        frame: a row for each `component` and `rating`: `r`, its interval `low` and `high`, and `null`, the
            upper quantile of |r| by chance; if present `random_high`, that of random directions, is a second line.
            Which way a component points is arbitrary, so where `r` is negative, it and its interval are drawn with
            the sign reversed.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"component": ["PC1", "PC2"], "rating": "valence", "r": [-0.8, 0.1], "low": [-0.9, -0.1],
    ...                       "high": [-0.7, 0.3], "null": 0.2})
    >>> component_bars(frame).get_ylabel()
    '|r|'
    """
    require(frame, "component", "rating", "r", "low", "high", "null")
    turned = np.where(frame["r"] < 0, -1, 1)
    ends = np.sort(np.stack([frame["low"] * turned, frame["high"] * turned]), axis=0)
    frame = frame.assign(value=frame["r"] * turned, low=ends[0], high=ends[1])
    ax = _bars(frame, "component", "rating", "{:.2f}", ax)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(ylabel="|r|", xlabel="principal component", title="Components and human ratings, with 95 % intervals")
    return beside(ax)


def rating_bars(frame: pd.DataFrame, title: str = "Agreement with human ratings", ax: Axes | None = None) -> Axes:
    """Correlation with human ratings of documents, a group for each kind, a bar for each that reads them.

    Args:
        frame: a row for each `kind` and `reader`: `r`, its interval `low` and `high`; `null`, if present, the upper
            quantile of r by chance, a line across the bar (missing where there is none).

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"kind": "films", "reader": ["vectors", "word list"], "r": [0.7, 0.4],
    ...                       "low": [0.6, 0.3], "high": [0.8, 0.5], "null": [0.6, np.nan]})
    >>> rating_bars(frame).get_ylabel()
    'r with the ratings'
    """
    require(frame, "kind", "reader", "r", "low", "high")
    ax = _bars(frame.rename(columns={"r": "value"}), "kind", "reader", "{:.2f}", ax)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(ylabel="r with the ratings", xlabel="kind of document", title=title)
    return beside(ax)


def agreement(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How well two sets of vectors agree: the cumulative share of emotions against their cosine.

    Args:
        frame: a row for each emotion (and `layer`, if present): `emotion`, `cosine`.

    >>> ax = agreement(pd.DataFrame({"emotion": ["calm", "sad"], "cosine": [0.99, 0.95]}))
    >>> ax.get_legend().get_texts()[0].get_text()
    'lowest 0.950 (sad)'
    """
    require(frame, "emotion", "cosine")
    ax = ax or new_axes(6.5, 4)
    parts = parts_of(frame.assign(layer="") if "layer" not in frame else frame, "layer")
    for ((layer, part), colour, marker), dash in zip(parts, cycle(DASHES)):
        part = part.sort_values("cosine")
        share = np.arange(1, len(part) + 1) / len(part)
        worst = part.iloc[0]
        label = f"lowest {worst['cosine']:.3f} ({worst['emotion']})"
        label = f"layer {layer}: {label}" if layer != "" else label
        style: dict[str, Any] = {"color": colour, "ls": dash, "marker": marker, "markevery": max(1, len(part) // 8)}
        ax.step(part["cosine"], share, where="post", label=label, **style)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set(ylim=(0, 1.02), xlabel="cosine of the two vectors of an emotion", ylabel="emotions at or below")
    ax.set_title("Agreement of two derivations")
    return beside(ax)


def value_curves(
    frame: pd.DataFrame,
    title: str = "Scores, by the number in the text",
    xlabel: str = "value",
    ax: Axes | None = None,
) -> Axes:
    """Scores of texts in which one number changes: a panel for each template, a curve for each emotion.

    Args:
        frame: a row for each `template`, `emotion` and `value`: `score`; if present `low` and `high`, its interval;
            `null`, the score by chance, drawn in grey in the emotion's line style; and `expected`, "+" or "-", the
            sign of the change that the meaning of the number lets expect. Values stand at equal distances, in order.
        xlabel: what the values are.
        ax: the space to fill; it becomes the frame of the panels, which are its figure's other axes.

    Raises:
        ValueError: no rows, a column is missing, or an `ax` that is no cell of a grid.

    >>> frame = pd.DataFrame({"template": "I took {} mg.", "emotion": "afraid", "value": [500, 8000],
    ...                       "score": [0.1, 0.4]})
    >>> len(value_curves(frame).figure.axes)  # the frame and a panel
    2
    """
    require(frame, "template", "emotion", "value", "score")
    parts = list(frame.groupby("template", sort=False))
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    ax = ax or new_axes(5.6 * columns, 2.9 * rows + 0.4)
    spec = ax.get_subplotspec()
    if spec is None:
        raise ValueError("value_curves needs an ax that plt.subplots or a grid made, to divide it into panels")
    ax.set_axis_off()
    ax.set_title(title, y=1, pad=0, va="top")
    grid = spec.subgridspec(rows + 1, columns, height_ratios=[0.1] + [1] * rows)  # the title stands in the first row
    first: Axes | None = None
    for number, (template, part) in enumerate(parts):
        panel = ax.figure.add_subplot(grid[1 + number // columns, number % columns], sharey=first)
        first = first or panel
        _value_panel(panel, part)
        panel.set_title(fill(plain(template), 44), fontsize=10, loc="left")
        panel.set_xlabel(xlabel, fontsize=SMALL)
        panel.set_ylabel("score" if number % columns == 0 else "")
        panel.tick_params(labelleft=number % columns == 0)
    return ax


def _value_panel(ax: Axes, part: pd.DataFrame) -> None:
    values = sorted(part["value"].unique())
    for ((emotion, curve), colour, marker), dash in zip(parts_of(part, "emotion"), cycle(DASHES)):
        curve = curve.sort_values("value")
        x = [values.index(value) for value in curve["value"]]
        expected = f" (expected {curve['expected'].iloc[0].replace('-', '−')})" if "expected" in curve else ""
        ax.plot(x, curve["score"], color=colour, marker=marker, ls=dash, ms=4.5, label=f"{plain(emotion)}{expected}")
        if {"low", "high"} <= set(curve):
            ax.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
        if "null" in curve:
            ax.plot(x, curve["null"], color=NULL, ls=dash, lw=1)
    if "null" in part:
        ax.plot([], [], color=NULL, lw=1, label="null (grey)")
    ax.axhline(0, color=NULL, lw=0.8)
    said = [f"{value:,.10g}" if isinstance(value, (int, float, np.number)) else plain(value) for value in values]
    ax.set_xticks(range(len(values)), said, fontsize=SMALL, rotation=90 if len(" ".join(said)) > 30 else 0)
    beside(ax)


def _bars(frame: pd.DataFrame, group: str, column: str, form: str, ax: Axes | None) -> Axes:
    """`value` as bars with the intervals `low` to `high`: side by side in each group, one for each of `column`.

    `null`, if present, is a line across each bar, with white edges: it must show on a bar of any colour. So is
    `random_high`, dashed. Values inside either are written below their bars, so that none is taken for the null's.
    """
    nulls: dict[str, tuple[str, Any]] = {"null": ("null, upper quantile", "-")}
    if "random_high" in frame:
        nulls = {"null": ("permuted ratings, 95 %", "-"), "random_high": ("random directions, 95 %", (0, (2.5, 1)))}
    nulls = {end: style for end, style in nulls.items() if end in frame}
    groups, names = (list(dict.fromkeys(frame[name])) for name in (group, column))
    ax = ax or new_axes(max(4.5, 0.7 * len(groups) * len(names) + 3), 4)
    width = 0.8 / len(names)
    for ((name, part), colour, _), hatch, number in zip(parts_of(frame, column), cycle(HATCHES), range(len(names))):
        x = np.array([groups.index(one) for one in part[group]]) + (number + 0.5) * width - 0.4
        value, low, high = (part[end].to_numpy() for end in ("value", "low", "high"))
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0, "label": plain(name)}
        ax.bar(x, value, width * 0.92, **style)
        ax.errorbar(x, value, yerr=np.abs([value - low, high - value]), fmt="none", ecolor="black", capsize=3, lw=1.2)
        for end, (label, dash) in nulls.items():
            for ink, wide, line in (("white", 4, "-"), ("black", 1.8, dash)):
                named = label if wide < 4 and not number else ""
                ax.hlines(part[end], x - width / 2, x + width / 2, color=ink, lw=wide, ls=line, label=named)
        below = (value <= part[list(nulls)].to_numpy().T).any(axis=0) if nulls else np.zeros(len(part), dtype=bool)
        for place, size, end, under in zip(x, value, np.where(below, np.fmin(low, 0), high), below, strict=True):
            where: dict[str, Any] = {"va": "top" if under else "bottom", "ha": "center", "fontsize": SMALL}
            ax.annotate(form.format(size), (place, end), (0, -3 if under else 3), textcoords="offset points", **where)
    ax.set_xticks(range(len(groups)), [plain(name) for name in groups])
    ax.margins(y=0.12)
    return ax
