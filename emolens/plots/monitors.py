"""Figures of monitors: areas under ROC curves, the curves themselves, and pairs over time."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from emolens.plots.style import COLOURS, MARKERS, NULL, beside, new_axes, parts_of, plain, require


def monitor_areas(frame: pd.DataFrame, ax: Sequence[Axes] | Axes | None = None) -> Axes:
    """Areas under the ROC curve with their intervals: a panel for whole texts and one for what stands before the onset.

    Args:
        frame: `detector`, `emotion`, `cut`, `area`, `low`, `high`.

    >>> row = {"detector": "VADER", "emotion": "angry", "cut": "whole", "area": 0.8, "low": 0.6, "high": 0.9}
    >>> monitor_areas(pd.DataFrame([row])).get_title()
    'whole'
    """
    require(frame, "detector", "emotion", "cut", "area", "low", "high")
    detectors, cuts = list(dict.fromkeys(frame["detector"])), list(dict.fromkeys(frame["cut"]))
    panels = _panels(ax, len(cuts), 5.5, 0.5 * len(detectors) + 1.4)
    for panel, cut in zip(panels, cuts, strict=True):
        part = frame[frame["cut"] == cut]
        panel.axvline(0.5, color=NULL, lw=1.2)
        for ((emotion, rows), colour, marker), shift in zip(
            parts_of(part, "emotion"), np.linspace(-0.3, 0.3, part["emotion"].nunique()), strict=True
        ):
            y = np.array([detectors.index(name) for name in rows["detector"]]) + shift
            reach = np.abs(rows[["low", "high"]].to_numpy().T - rows["area"].to_numpy())
            panel.errorbar(rows["area"], y, xerr=reach, fmt=marker, color=colour, ms=5, lw=1, label=plain(emotion))
        panel.set(title=plain(cut), xlabel="area under the ROC curve (0.5 is chance)", xlim=(0, 1.02))
        panel.set_yticks(range(len(detectors)), [plain(name) for name in detectors] if panel is panels[0] else [])
        panel.set_ylim(len(detectors) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    beside(panels[-1])
    return panels[0]


def roc_curves(frame: pd.DataFrame, ax: Sequence[Axes] | Axes | None = None) -> Axes:
    """ROC curves: a panel for each cut, a curve for each detector.

    Args:
        frame: `detector`, `cut`, `false`, `found`.

    >>> frame = pd.DataFrame({"detector": "VADER", "cut": "whole", "false": [0.0, 1.0], "found": [0.0, 1.0]})
    >>> roc_curves(frame).get_ylabel()
    'escalating conversations found'
    """
    require(frame, "detector", "cut", "false", "found")
    cuts = list(dict.fromkeys(frame["cut"]))
    panels = _panels(ax, len(cuts), 5, 4.2)
    for panel, cut in zip(panels, cuts, strict=True):
        panel.plot([0, 1], [0, 1], color=NULL, lw=1)
        for (name, part), colour, _ in parts_of(frame[frame["cut"] == cut], "detector"):
            panel.step(part["false"], part["found"], where="post", color=colour, label=plain(name))
        panel.set(title=plain(cut), xlabel="steady twins above the line", xlim=(0, 1), ylim=(0, 1.01))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("escalating conversations found")
    beside(panels[-1])
    return panels[0]


def monitor_curves(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How much higher the escalating twin is, by the tokens since the fork, with its interval.

    Args:
        frame: `emotion`, `token`, `difference`, `low`, `high`.

    >>> row = {"emotion": "angry", "token": [0, 5], "difference": [0.0, 1.0], "low": [-1.0, 0.2], "high": [1.0, 2.0]}
    >>> monitor_curves(pd.DataFrame(row)).get_xlabel()
    'tokens since the twins parted'
    """
    require(frame, "emotion", "token", "difference", "low", "high")
    ax = ax or new_axes(8, 4)
    ax.axhline(0, color=NULL, lw=1.2)
    for (name, part), colour, _ in parts_of(frame, "emotion"):
        ax.plot(part["token"], part["difference"], color=colour, label=plain(name))
        ax.fill_between(part["token"], part["low"], part["high"], color=colour, alpha=0.12, lw=0)
    ax.set(xlabel="tokens since the twins parted", ylabel="height, escalating less steady")
    ax.legend(frameon=False)
    return ax


def alarm_curves(
    frame: pd.DataFrame, threshold: float, marks: Mapping[str, int] | None = None, ax: Axes | None = None
) -> Axes:
    """Heights along the tokens of one or several texts, the line above which they are an alarm, and named places.

    Args:
        frame: `series`, `token`, `height`.
        marks: tokens by name, such as the act.

    >>> frame = pd.DataFrame({"series": "angry", "token": [0, 1], "height": [0.0, 4.0]})
    >>> alarm_curves(frame, 3.0, {"act": 1}).get_ylabel()
    'height (standard deviations of quiet text)'
    """
    require(frame, "series", "token", "height")
    ax = ax or new_axes(9, 3.6)
    ax.axhline(threshold, color="black", lw=1.2, ls="--", label="alarm")
    for (name, part), colour, _ in parts_of(frame, "series"):
        ax.plot(part["token"], part["height"], color=colour, lw=1.6, label=plain(name))
        above = np.flatnonzero((part["height"] > threshold).to_numpy())
        if len(above):
            first = part.iloc[above[0]]
            ax.plot(first["token"], first["height"], marker="v", color=colour, ms=10)
    for name, token in (marks or {}).items():
        ax.axvline(token, color=NULL, lw=1)
        ax.annotate(plain(name), (token, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right")
    ax.set(xlabel="token", ylabel="height (standard deviations of quiet text)")
    return beside(ax)


def watched_writing(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The share of replies with an alarm, live and in the text alone, by what the reply was steered with.

    Args:
        frame: `steered`, `strength`, `watched`; `live` and `alone`, the shares, each with `_low` and `_high`.

    >>> row = {"steered": "calm", "strength": 0.1, "watched": "calm", "live": 0.9, "alone": 0.2}
    >>> ends = {f"{part}_{end}": 0.5 for part in ("live", "alone") for end in ("low", "high")}
    >>> watched_writing(pd.DataFrame([row | ends])).get_ylabel()
    'replies with an alarm'
    """
    require(
        frame, "steered", "strength", "watched", "live", "live_low", "live_high", "alone", "alone_low", "alone_high"
    )
    ax = ax or new_axes(8, 4)
    x = np.arange(len(frame))
    for shift, (part, name), colour, marker in zip(
        (-0.12, 0.12),
        (("live", "while it writes, under the steering"), ("alone", "the finished text alone")),
        COLOURS,
        MARKERS,
        strict=False,
    ):
        value, ends = frame[part].to_numpy(), frame[[f"{part}_low", f"{part}_high"]].to_numpy().T
        ax.errorbar(x + shift, value, yerr=np.abs(ends - value), fmt=marker, color=colour, lw=1, label=name)
    names = [
        f"{row.steered} {row.strength:g}\nmonitor of {row.watched}"
        if row.strength
        else f"unsteered\nmonitor of {row.watched}"
        for row in frame.itertuples()
    ]
    ax.set_xticks(x, names, fontsize=8)
    ax.set(ylabel="replies with an alarm", ylim=(-0.02, 1.02))
    ax.legend(frameon=False)
    return ax


def _panels(ax: Sequence[Axes] | Axes | None, number: int, width: float, height: float) -> list[Axes]:
    """As many axes as there are panels: those given, or new ones side by side."""
    if ax is None:
        size = (width * number, height)
        return list(plt.subplots(1, number, squeeze=False, figsize=size, layout="constrained")[1][0])
    given = list(ax) if isinstance(ax, Sequence) else [ax]
    if len(given) != number:
        raise ValueError(f"{number} panels are drawn, and {len(given)} axes were given")
    return given
