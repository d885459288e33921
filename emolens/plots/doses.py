"""What interventions do: dose-response curves with their null, maps of patches, and two columns against each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from emolens.plots.style import (
    COLOURS,
    DASHES,
    DIVERGING,
    MARKERS,
    NULL,
    SMALL,
    beside,
    extents,
    free,
    new_axes,
    parts_of,
    plain,
    require,
    token_ticks,
)
from emolens.stats import Verdict, null_columns

# How the bands of the first, the second ... kind of null are told apart.
BANDS: tuple[dict[str, Any], ...] = (
    {"fc": (0.46, 0.46, 0.46, 0.25), "ec": "none", "lw": 0},
    {"fc": "none", "ec": NULL, "lw": 0.9, "ls": "--"},
)


def dose_response(
    frame: pd.DataFrame,
    ylabel: str = "effect",
    title: str = "Effect of steering, by strength",
    nulls: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Effect of each direction over the strengths, with intervals, and what directions do that mean nothing.

    Without steering there is no effect, so each curve goes through zero.

    Args:
        frame: a row for each `direction` and `strength`: `effect`, `low`, `high`.
        nulls: the kinds of null that the table has columns of (`stats.null_columns`), each drawn as a band of its
            own; of several directions the widest. With `plots.panels` each direction stands over its own band.
            Where a null was run at some strengths only, it is a bar at each of these and nothing in between, and
            the markers of strengths without any null are hollow.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"direction": "calm", "strength": [-0.1, 0.1], "effect": [-0.2, 0.2]})
    >>> dose_response(frame.assign(low=frame["effect"] - 0.1, high=frame["effect"] + 0.1)).get_ylabel()
    'effect'
    """
    require(frame, "direction", "strength", "effect", "low", "high")
    alone = ax is not None and frame["direction"].nunique() == 1  # a panel, which has the direction's name above it
    ax = ax or new_axes(7.5, 4.2)
    held: set[float] = set()  # strengths at which a null was run
    for kind, style in zip(nulls, cycle(BANDS)):
        ends = _widest(frame, [kind]).assign(strength=frame["strength"]).dropna()
        band = ends.groupby("strength").agg({"null_low": "min", "null_high": "max"})
        held |= set(band.index)
        band = _bars(band, frame["strength"]) if len(band) < frame["strength"].nunique() else _through_zero(band)
        label = f"95% of nulls: {kind}"
        ax.fill_between(band.index, band["null_low"], band["null_high"], label=label, **style)
    ax.axhline(0, color=NULL, lw=1.2)
    ax.axvline(0, color=NULL, lw=0.8, ls=":")
    spread = np.ptp(frame["strength"]) * 0.006
    for number, (((name, part), colour, marker), dash) in enumerate(zip(parts_of(frame, "direction"), cycle(DASHES))):
        part = part.sort_values("strength")
        shift = (number - (frame["direction"].nunique() - 1) / 2) * spread  # so that intervals stand apart
        curve = _through_zero(part.set_index("strength")[["effect"]])["effect"]
        ax.plot(curve.index + shift, curve, color=colour, ls=dash, lw=1.4)
        error = np.abs([part["effect"] - part["low"], part["high"] - part["effect"]])
        said = "effect, with its interval" if alone else plain(name)
        ax.errorbar(part["strength"] + shift, part["effect"], yerr=error, color=colour, marker=marker, ls="none",
                    ms=4.5, capsize=2, elinewidth=0.8, label=said)  # fmt: skip
        bare = part[~part["strength"].isin(held)] if nulls else part[:0]
        if len(bare):
            said = "_" if number else "a strength without a null"
            ax.plot(
                bare["strength"] + shift, bare["effect"], marker, mfc="white", mec=colour, ms=4.5, zorder=3, label=said
            )
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set(xlabel="strength (mean residual norms)", ylabel=ylabel, title=title)
    return beside(ax)


def _through_zero(curve: pd.DataFrame) -> pd.DataFrame:
    """The curve, by strength, with the strength 0, at which there is no effect."""
    curve = curve.copy()
    curve.loc[0.0] = 0.0
    return curve.sort_index()


def _bars(band: pd.DataFrame, strengths: pd.Series) -> pd.DataFrame:
    """A band that is a bar around each strength of its own, with gaps, as NaN, between them."""
    half = np.ptp(strengths) * 0.03
    ends = [band.set_axis(band.index + offset) for offset in (-half, half)]
    gaps = band.mul(np.nan).set_axis(band.index + 1.01 * half)
    return pd.concat([*ends, gaps]).sort_index()


def _widest(frame: pd.DataFrame, nulls: Sequence[str]) -> pd.DataFrame:
    """For each row the lowest and the highest end of the bands of these kinds of null."""
    lows, highs, _ = zip(*map(null_columns, nulls), strict=True)
    require(frame, *lows, *highs)
    ends = {"null_low": frame[list(lows)].min(axis=1), "null_high": frame[list(highs)].max(axis=1)}
    return pd.DataFrame(ends, index=frame.index)


def effect_dots(
    frame: pd.DataFrame,
    contrasts: Sequence[str] = (),
    title: str = "Change for a small strength of each direction",
    nulls: Sequence[str] = (),
    null: str = "95 % of single nulls",
    ax: Axes | None = None,
    **axes: str,
) -> Axes:
    """Effect of each direction on up to two contrasts, with intervals and where the null lies.

    Directions stand in the order of the table; in `panels`, in that of the first panel.

    Args:
        frame: a row for each `contrast` and `direction`: `effect`, `low`, `high`, and the `verdict`, by which a marker
            is filled (beyond the null, corrected where the verdict is) or hollow; if present `null_low` and
            `null_high`, a grey bar.
        contrasts: which; default the first two.
        nulls: the kinds of null that the table has columns of (`stats.null_columns`), drawn as the grey bar, the
            widest of the kinds.
        null: what the grey bar is.
        axes: `xlabel` and `ylabel`, as of `Axes.set`.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"contrast": "own reply", "direction": ["calm", "sad"], "effect": [0.2, -0.1]})
    >>> frame = frame.assign(low=frame["effect"] - 0.1, high=frame["effect"] + 0.1, verdict=Verdict.NO_NULL)
    >>> [text.get_text() for text in effect_dots(frame).get_yticklabels()]
    ['calm', 'sad']
    """
    require(frame, "contrast", "direction", "effect", "low", "high", "verdict")
    shown = list(contrasts) or list(dict.fromkeys(frame["contrast"]))[:2]
    frame = frame[frame["contrast"].isin(shown)].assign(**(_widest(frame, nulls) if nulls else {}))
    names = list(dict.fromkeys(map(str, frame["direction"])))
    ax = ax or new_axes(7.5, 0.26 * len(names) * max(1, len(shown)) ** 0.5 + 1.6)
    for panel in ax.get_shared_y_axes().get_siblings(ax):  # an earlier one has named the axis
        there = [text.get_text() for text in panel.get_yticklabels()]
        names = there if set(names) <= set(there) else names
    ax.axvline(0, color="black", lw=0.8)
    for number, (contrast, colour, marker) in enumerate(zip(shown, cycle(COLOURS), cycle(MARKERS))):
        part = frame[frame["contrast"] == contrast]
        y = np.array([names.index(str(name)) for name in part["direction"]]) + (number - (len(shown) - 1) / 2) * 0.35
        if "null_low" in part and part["null_low"].notna().any():
            ax.hlines(
                y, part["null_low"], part["null_high"], color=NULL, lw=5, alpha=0.35, label="" if number else null
            )
        ax.hlines(y, part["low"], part["high"], color=colour, lw=1.2)
        fill = np.where(part["verdict"] == Verdict.BEYOND, colour, "white")
        label = "effect, 95 % interval" if len(shown) == 1 else plain(contrast)
        ax.scatter(part["effect"], y, c=fill, edgecolors=colour, marker=marker, s=24, zorder=3, label=label)
    ax.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=SMALL)
    ax.set_ylim(len(names) - 0.4, -0.6)
    labels = {"xlabel": "nats per token, for a strength of 0.1\n(hollow: does not count)", "ylabel": "direction"}
    ax.set(title=title, **labels | axes)
    return beside(ax)


def null_draws(
    frame: pd.DataFrame, xlabel: str = "correlation", title: str = "", bins: int = 40, ax: Axes | None = None
) -> Axes:
    """What a null gives in its draws, as a histogram with the middle 95 % shaded, and what was observed.

    Args:
        frame: a row for each draw: its `value`, and what was `observed`, the same in all rows. With `panels` each null
            or each observation has its own.
        title: default whether the observation lies inside the middle 95 %, with the numbers.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"value": np.linspace(-0.5, 0.5, 101), "observed": 0.6})
    >>> null_draws(frame).get_title()
    'Observed +0.60, outside 95 % of the draws (-0.47 to +0.47)'
    """
    require(frame, "value", "observed")
    ax = ax or new_axes(7.2, 3.2)
    observed = float(frame["observed"].iloc[0])
    low, high = (float(end) for end in frame["value"].quantile([0.025, 0.975]))
    ax.axvspan(low, high, color=NULL, alpha=0.18, lw=0, label="95 % of the draws")
    ax.hist(frame["value"], bins=bins, color=NULL, alpha=0.7, label="draws of the null")
    ax.axvline(observed, color=COLOURS[1], lw=2, label="observed")
    side = "inside" if low <= observed <= high else "outside"
    ax.set(xlabel=xlabel, ylabel="draws")
    ax.locator_params(axis="x", nbins=5)
    ax.set_title(title or f"Observed {observed:+.2f}, {side} 95 % of the draws ({low:+.2f} to {high:+.2f})")
    return beside(ax)


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    group: str | None = None,
    label: str | None = None,
    null: str = "",
    labels: int = 12,
    ax: Axes | None = None,
    **axes: str,
) -> Axes:
    """Two columns against each other, of the rows that have both.

    Args:
        frame: with both columns; where it has `{column}_null_low` and `{column}_null_high` of one of them, dashed lines
            say between which ends one more null lies, the widest of the rows.
        group: the column whose entries get a colour and a marker each.
        label: the column with names; those of the most extreme rows are written, where there is room.
        null: what the rows without `x` are; then 95 % of their `y` is drawn as a grey band.
        labels: how many names at the most.
        axes: `xlabel`, `ylabel` and `title`, as of `Axes.set`; the labels are the columns where they are not given.

    >>> scatter(pd.DataFrame({"valence": [1.0, 9.0], "r": [-0.5, 0.5]}), "valence", "r").get_xlabel()
    'valence'
    """
    require(frame, x, y)
    ax = ax or new_axes(6.8, 4.6)
    if null:
        low, high = frame.loc[frame[x].isna(), y].quantile([0.025, 0.975])
        ax.axhspan(low, high, color=NULL, alpha=0.25, lw=0, label=f"95% of the {null}")
    frame = frame[frame[x].notna()]
    for draw, column in ((ax.axhline, y), (ax.axvline, x)):
        if frame[column].min() < 0 < frame[column].max():
            draw(0, color=NULL, lw=0.8)
    parts = parts_of(frame if group else frame.assign(_all="_"), group or "_all")
    for (name, part), colour, marker in parts:
        ax.plot(part[x], part[y], marker, color=colour, ms=5, alpha=0.8, mec="white", mew=0.4, label=plain(name))
    for draw, column in ((ax.axhline, y), (ax.axvline, x)):
        ends = [frame[name] for name in (f"{column}_null_low", f"{column}_null_high") if name in frame]
        for number, end in enumerate([ends[0].min(), ends[1].max()] if len(ends) == 2 else []):
            said = "" if number or column == x else "ends of the null, 95 %"
            draw(end, color=NULL, lw=1, ls="--", label=said)
    ax.set(**{"xlabel": x, "ylabel": y} | axes)
    if label:
        _write(ax, frame, x, y, label, labels)
    if group:
        return beside(ax)
    if null:
        ax.legend(fontsize=SMALL, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _write(ax: Axes, frame: pd.DataFrame, x: str, y: str, label: str, labels: int) -> None:
    """Names of the most extreme rows, each where it covers no other."""
    ax.margins(0.12)
    extents(ax, [])  # lays the figure out, so that the points are where they will be
    extreme = frame[y].rank(pct=True).sub(0.5).abs().sort_values(ascending=False).index[:labels]
    points = ax.transData.transform(frame[[x, y]].to_numpy(dtype=float))
    taken: list[Any] = [np.array([*(point - 4), *(point + 4)]) for point in points]
    for row in frame.loc[extreme].itertuples():
        at = (getattr(row, x), getattr(row, y))
        for offset, align in (((6, 3), "left"), ((-6, 3), "right"), ((6, -9), "left"), ((-6, -9), "right")):
            text = ax.annotate(
                plain(getattr(row, label)), at, offset, textcoords="offset points", fontsize=SMALL, ha=align
            )
            box = extents(ax, [text])[0]
            if free(box, taken):
                taken.append(box)
                break
            text.remove()


def patch_map(frame: pd.DataFrame, title: str = "", limit: float | None = None, ax: Axes | None = None) -> Axes:
    """Share of a change that each place carries: blocks over tokens, or over heads.

    Blue is a share below zero and red one above it. Grey are places that were not asked. Where the table says what
    chance reaches (`null`), a frame marks the places whose share passes it.

    Args:
        frame: what `patch` gives for one measure and site: `layer`, `share`, and `position` and `token`, or `head`;
            if present `null`, the size of a share that chance reaches over all places together.
        limit: the share drawn in full colour, for maps that stand beside each other; None takes the largest.

    Raises:
        ValueError: no rows, a column is missing, or several measures.

    >>> frame = pd.DataFrame({"layer": [0, 0], "position": [0, 1], "token": ["he", "ran"], "share": [0.2, 0.9]})
    >>> [text.get_text() for text in patch_map(frame).get_xticklabels()]
    ['he', 'ran']
    """
    require(frame, "layer", "share")
    if "measure" in frame and frame["measure"].nunique() > 1:
        raise ValueError(f"the table has several measures, {', '.join(frame['measure'].unique())}: draw one of them")
    across = "position" if frame["position"].notna().all() else "head"
    table = frame.pivot(index="layer", columns=across, values="share")
    ax = ax or new_axes(max(5, 0.36 * table.shape[1] + 2), 5)
    limit = limit or float(np.nanmax(np.abs(table.to_numpy()), initial=0)) or 1.0
    ax.set_facecolor("0.85")
    image = ax.imshow(table, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower",
                      interpolation="nearest")  # fmt: skip
    ax.figure.colorbar(image, ax=ax, shrink=0.8).set_label("share of the change")
    if "null" in frame:
        passed = table.abs() > frame.pivot(index="layer", columns=across, values="null")
        for row, column in np.argwhere(passed.to_numpy()):
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc="none", ec="black", lw=1.8))
        title = f"{title}\nframed: more than the largest gets by chance".strip()
    names = [f"{head:.0f}" for head in table.columns]
    if across == "position":
        tokens = frame.drop_duplicates("position").set_index("position")["token"]
        names = [plain(tokens[position].strip().replace("\n", "⏎") or "␣") for position in table.columns]
    if across == "position":
        token_ticks(ax, names)
    else:
        ax.set_xticks(range(len(names)), names, fontsize=SMALL)
    step = 5 if len(table) > 12 else 1
    ax.set_yticks(range(0, len(table), step), [str(layer) for layer in table.index[::step]], fontsize=SMALL)
    named = "head" if across == "head" else "token whose activation is replaced"
    ax.set(ylabel="layer (index of the block)", xlabel=named, title=title)
    return ax
