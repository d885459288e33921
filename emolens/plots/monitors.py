"""Figures of monitors: areas and ROC curves, alarms in time and for nothing, and pairs over time."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator, PercentFormatter

from emolens.plots.style import COLOURS, DASHES, MARKERS, NULL, SMALL, beside, new_axes, parts_of, plain, require
from emolens.stats import clopper_pearson

MEAN = "all four"  # the row of a table that is the mean over the emotions
NAMED = ("vectors, chosen", "probe of conversations", "token embeddings", "VADER")  # in the title of the areas


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
            how: dict[str, Any] = {"color": colour, "ms": 4.5, "lw": 1, "label": plain(emotion)}
            how |= {"color": "black", "ms": 7, "lw": 2.2} if emotion == MEAN else {}
            panel.errorbar(rows["area"], y, xerr=reach, fmt=marker, **how)
        least = min(0.45, float(frame["low"].min()) - 0.02)
        panel.set(title=plain(cut), xlabel="area under the ROC curve (0.5 is chance)", xlim=(least, 1.02))
        panel.set_yticks(range(len(detectors)), [plain(name) for name in detectors])
        panel.tick_params(labelleft=panel is panels[0])
        panel.set_ylim(len(detectors) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("detector")
    beside(panels[-1])
    mean = frame[(frame["emotion"] == MEAN) & (frame["cut"] == cuts[-1])]
    if ax is None and len(mean):
        areas = mean.set_index("detector")["area"].sort_values(ascending=False)
        shown = areas[areas.index.isin(NAMED)] if areas.index.isin(NAMED).any() else areas[:1]
        title = f"Mean area {cuts[-1]}: " + "; ".join(f"{name} {area:.2f}" for name, area in shown.items())
        panels[0].figure.suptitle(plain(title), fontsize=11)
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
        for ((name, part), colour, _), dash in zip(parts_of(frame[frame["cut"] == cut], "detector"), cycle(DASHES)):
            panel.step(part["false"], part["found"], where="post", color=colour, ls=dash, label=plain(name))
        panel.set(title=plain(cut), xlabel="steady twins above the line", xlim=(0, 1), ylim=(0, 1.01))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("escalating conversations found")
    panels[-1].set_ylabel("escalating conversations found")
    beside(panels[-1])
    few = frame[(frame["cut"] == cuts[-1]) & (frame["false"] <= 0.1)].groupby("detector")["found"].max()
    if ax is None and len(few):
        found = "; ".join(f"{name} {share:.0%}" for name, share in few.sort_values(ascending=False).items())
        title = f"{cuts[-1]}, found with one steady twin in ten above the line:\n{found}"
        panels[0].figure.suptitle(plain(title[0].upper() + title[1:]), fontsize=11)
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
    for ((name, part), colour, _), dash in zip(parts_of(frame, "emotion"), cycle(DASHES)):
        label = plain(name) if frame["emotion"].nunique() > 1 else ""
        ax.plot(part["token"], part["difference"], color=colour, ls=dash, label=label)
        ax.fill_between(part["token"], part["low"], part["high"], color=colour, alpha=0.12, lw=0)
    ax.set(xlabel="tokens since the twins parted", ylabel="escalating less steady")
    ax.set_title("How much higher the escalating twin has been, at most")
    ax.spines[["top", "right"]].set_visible(False)
    return beside(ax) if frame["emotion"].nunique() > 1 else ax


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
    said = []
    for ((name, part), colour, _), dash in zip(parts_of(frame, "series"), cycle(("-", "-.", ":"))):
        ax.plot(part["token"], part["height"], color=colour, ls=dash, lw=1.6, label=plain(name))
        above = np.flatnonzero((part["height"] > threshold).to_numpy())
        said.append(f"{name}, none")
        if len(above):
            first = part.iloc[above[0]]
            ax.plot(first["token"], first["height"], marker="v", color=colour, ms=10)
            said[-1] = f"{name}, at token {first['token']:.0f}"
    for name, token in (marks or {}).items():
        ax.axvline(token, color=NULL, lw=1)
        ax.annotate(plain(name), (token, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right")
    ax.set(xlabel="token", ylabel="height (standard deviations of quiet text)")
    ax.set_title(plain("First alarm: " + "; ".join(said)))
    return beside(ax)


def alarm_rates(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The share of quiet texts with an alarm, with its interval, beside what the calibration promised.

    Args:
        frame: a row for each `monitor` (and `reader`, if present): `alarms`, the share of its `texts`;
            `promised_low` (default 0) and `promised_high`; if present `rate`, what it was set for.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> row = {"monitor": "angry", "alarms": 0.1, "texts": 100, "promised_low": 0.01, "promised_high": 0.09}
    >>> alarm_rates(pd.DataFrame([row])).get_title()
    '0 of 1 lie within what was promised'
    """
    require(frame, "monitor", "alarms", "texts", "promised_high")
    frame = frame if "promised_low" in frame else frame.assign(promised_low=0.0)
    names = list(dict.fromkeys(frame["monitor"]))
    readers = frame["reader"] if "reader" in frame else pd.Series("on new texts", index=frame.index)
    ax = ax or new_axes(7.5, 0.17 * len(names) * (1 + readers.nunique()) + 1.3)
    frame = frame.assign(reader=readers, within=frame["alarms"].between(frame["promised_low"], frame["promised_high"]))
    band = frame.drop_duplicates("monitor")
    how: dict[str, Any] = {"color": NULL, "alpha": 0.3, "height": 0.7, "label": "promised"}
    ax.barh(range(len(names)), band["promised_high"] - band["promised_low"], left=band["promised_low"], **how)
    places, most = np.linspace(-0.22, 0.22, readers.nunique()) if readers.nunique() > 1 else [0.0], 0.0
    for ((reader, part), colour, marker), place in zip(parts_of(frame, "reader"), places, strict=True):
        y = np.array([names.index(name) for name in part["monitor"]]) + place
        counts = zip(np.rint(part["alarms"] * part["texts"]).astype(int), part["texts"], strict=True)
        low, high = np.array([clopper_pearson(int(k), int(n)) for k, n in counts]).T
        most = max(most, float(high.max()))
        ax.hlines(y, low, high, color=colour, lw=1.2)
        fill = np.where(part["within"], colour, "white")
        ax.scatter(part["alarms"], y, c=fill, edgecolors=colour, marker=marker, s=32, zorder=3)
        ax.plot([], [], marker, color=colour, ms=5.5, label=plain(reader))  # filled, also where the first point is not
    if "rate" in frame:
        ax.axvline(frame["rate"].iloc[0], color="black", ls="--", lw=1, label=f"set for {frame['rate'].iloc[0]:.0%}")
    ax.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=SMALL)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.scatter([], [], c="white", edgecolors="black", label="hollow: not within")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.xaxis.set_major_locator(MultipleLocator(0.05))
    ax.set(xlabel="quiet texts with an alarm", ylabel="monitor")
    ax.set_xlim(-0.005, max(ax.get_xlim()[1], 1.04 * most))  # of panels that share it, for the widest
    ax.set_title(f"{frame['within'].sum()} of {len(frame)} lie within what was promised")
    return beside(ax)


def found_in_time(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The share of escalating conversations that give an alarm: at all, before the act, before the first open word.

    Args:
        frame: a row for each `emotion`: `caught`, `before_act`, `before_onset`, and `false`, the share of steady twins.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> row = {"emotion": "angry", "caught": 0.9, "before_act": 0.7, "before_onset": 0.4, "false": 0.1}
    >>> found_in_time(pd.DataFrame([row])).get_title()
    'Found 90%, before the act 70%, before the first open word 40%'
    """
    shown = {
        "caught": "found at all",
        "before_act": "before the act",
        "before_onset": "before the first open word",
        "false": "steady twin, for nothing",
    }
    require(frame, "emotion", *shown)
    names = list(frame["emotion"])
    ax = ax or new_axes(7.5, 0.5 * len(names) + 1.2)
    y = np.arange(len(names))
    ax.hlines(y, frame["before_onset"], frame["caught"], color=NULL, lw=1)
    styles = zip(shown.items(), (*COLOURS[:3], "white"), (*MARKERS[:3], "D"), strict=True)
    for ((column, said), colour, marker), shift in zip(styles, (-0.21, -0.07, 0.07, 0.21), strict=True):
        ax.scatter(
            frame[column], y + shift, c=colour, marker=marker, s=45, zorder=3, label=said, edgecolors="black", lw=0.7
        )
    mean = frame.set_index("emotion").loc[MEAN if MEAN in names else names[0]]
    ax.set_yticks(y, [plain(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlim=(-0.03, 1.03), xlabel="conversations with an alarm", ylabel="emotion")
    ax.set_title(
        f"Found {mean['caught']:.0%}, before the act {mean['before_act']:.0%}, before the first open word "
        f"{mean['before_onset']:.0%}"
    )
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
    ax = ax or new_axes(11, 4)
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
        else f"nothing\nmonitor of {row.watched}"
        for row in frame.itertuples()
    ]
    ax.set_xticks(x, names, fontsize=SMALL)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(ylabel="replies with an alarm", xlabel="what is added to the activations", ylim=(-0.02, 1.04))
    most = frame[frame["strength"] == frame["strength"].max()][["live", "alone"]].mean()
    title = f"At the largest strength: {most['live']:.0%} give an alarm live, {most['alone']:.0%} from the text alone"
    ax.set_title(title, fontsize=11)
    return beside(ax)


def _panels(ax: Sequence[Axes] | Axes | None, number: int, width: float, height: float) -> list[Axes]:
    """As many axes as there are panels: those given, or new ones side by side."""
    if ax is None:
        size = (width * number, height)
        return list(plt.subplots(1, number, squeeze=False, figsize=size, layout="constrained")[1][0])
    given = list(ax) if isinstance(ax, Sequence) else [ax]
    if len(given) != number:
        raise ValueError(f"{number} panels are drawn, and {len(given)} axes were given")
    return given
