"""Slopes of a preference along all emotions: against human ratings, and how well they go together block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from emolens.plots.doses import scatter
from emolens.plots.layers import effect_by_layer
from emolens.plots.style import COLOURS, NULL, SMALL, extents, free, plain, require
from emolens.plots.training import shift_dots
from emolens.stats import LEVEL, Verdict, outside_draws

IN_WORDS = {
    "others": "less the other contexts",
    "neutral": "less a neutral exchange",
    "twin": "less the scenario's twin",
    "own": "own context alone",
}  # the controls of a case study
SIXES = (
    {"afraid", "angry", "calm", "desperate", "happy", "loving"},
    {"angry", "calm", "desperate", "happy", "nervous", "sad"},
)  # that the paper steers in its case studies


def slope_scatter(
    frame: pd.DataFrame,
    contrast: str,
    control: str,
    labels: int = 16,
    x: str = "valence",
    rings: str = "",
    ax: Axes | None = None,
    **axes: Any,
) -> Axes:
    """A slope of each emotion against its human valence, with the line through them and the null's wedge.

    Args:
        frame: a row for each `contrast`, `control` and `emotion`: its `valence`, `effect` and whether it is `marked`;
            `null_r`, the correlation that 97.5 % of the draws of the widest null lie below, or `null_low` and
            `null_high`, between which 95 % of them lie.
        labels: how many of the steepest are named at the most; marked emotions have a ring, and a name where there is
            room.
        x: another column than valence; emotions without it are left out.
        rings: what the marked emotions are, for the legend; default "the six of the paper" where they are those, else
            "tried one by one".
        axes: `xlabel`, `ylabel` (what the effect is, with its unit) and `title`, as of `Axes.set`.
        ax: of one panel of several (`panels`): the legend leaves out the numbers, which differ between panels.

    Raises:
        ValueError: a column is missing, or there is no row of that contrast and control with an `x`.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "valence": [7.0, 2.0], "effect": [0.1, -0.1]})
    >>> frame = frame.assign(contrast="a over b", control="own", marked=False, null_r=0.4)
    >>> slope_scatter(frame, "a over b", "own").get_xlabel()
    'human valence of the word (1 to 9)'
    """
    frame = frame if "null_high" in frame or "null_r" not in frame else _both_sides(frame)
    require(frame, "contrast", "control", "emotion", x, "effect", "marked", "null_low", "null_high")
    alone = ax is None
    part = frame[frame["contrast"].eq(contrast) & frame["control"].eq(control) & frame[x].notna()]
    require(part, x)
    along, effect = part[x].to_numpy(float), part["effect"].to_numpy(float)
    r = float(np.corrcoef(along, effect)[0, 1]) if len(part) > 2 and effect.std() > 0 < along.std() else None
    title = f"{contrast}, {IN_WORDS.get(control, control)}".strip(", ")
    title = title[:1].upper() + title[1:] + ("" if r is None else f": r = {r:+.2f}")
    ylabel = "slope (nats per token for a strength of 0.1)"
    axes = {"xlabel": "human valence of the word (1 to 9)", "ylabel": ylabel, "title": title} | axes
    ax = scatter(part, x, "effect", label="emotion", labels=labels, ax=ax, **axes)
    marked = part[part["marked"].astype(bool)]
    rings = rings or ("the six of the paper" if set(marked["emotion"]) in SIXES else "tried one by one")
    ring: dict[str, Any] = {"ms": 7, "mfc": "none", "mec": COLOURS[1], "mew": 1.6, "label": rings}
    if len(marked):
        ax.plot(marked[x], marked["effect"], "o", **ring)
        _name(ax, part, marked, x)
    ends = np.array([along.min(), along.max()])
    if r is not None:
        per_r = effect.std() / along.std() * (ends - along.mean())
        low, high = (effect.mean() + float(part[end].iloc[0]) * per_r for end in ("null_low", "null_high"))
        said = f": r from {part['null_low'].iloc[0]:+.2f} to {part['null_high'].iloc[0]:+.2f}" if alone else ""
        ax.fill_between(ends, low, high, color=NULL, alpha=0.2, lw=0, label=f"95 % of the null{said}")
        fit = f"r = {r:+.2f}" if alone else "least squares"
        ax.plot(ends, effect.mean() + r * per_r, color=COLOURS[0], lw=1.4, label=fit)
        _above(ax)
    return ax


def _both_sides(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(null_low=-frame["null_r"], null_high=frame["null_r"])


def _name(ax: Axes, part: pd.DataFrame, marked: pd.DataFrame, x: str) -> None:
    """Names of marked emotions that have none yet, each where it covers no point and no other name."""
    written = [text for text in ax.texts if text.get_text()]
    points = ax.transData.transform(part[[x, "effect"]].to_numpy(dtype=float))
    taken = [*extents(ax, written), *(np.array([*(point - 4), *(point + 4)]) for point in points)]
    for row in marked[~marked["emotion"].isin([text.get_text() for text in written])].itertuples():
        at = (float(getattr(row, x)), float(row.effect))
        for offset, side in (((8, -3), "left"), ((-8, -3), "right"), ((0, 8), "center"), ((0, -15), "center")):
            how: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "ha": side, "color": COLOURS[1]}
            text = ax.annotate(plain(row.emotion), at, offset, **how)
            box = extents(ax, [text])[0]
            if free(box, taken):
                taken.append(box)
                break
            text.remove()


def _above(ax: Axes) -> None:
    """The legend in a row under the title, where it covers no point."""
    ax.legend(fontsize=SMALL, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, borderaxespad=0.1)
    ax.set_title(ax.get_title(), pad=22, fontsize=11)


def steering_dots(
    frame: pd.DataFrame, title: str = "", xlabel: str = "change by steering (Elo)", ax: Axes | None = None
) -> Axes:
    """What steering with each emotion does, and how far directions that mean nothing reach, the largest of them.

    The grey bar holds Student's prediction interval for one more direction of each kind of null, 95 % of the families
    of as many directions as there are emotions (Bonferroni); it is the wider of the kinds.

    Args:
        frame: a row for each `direction` and `kind` ("emotion", or that of a null): `effect`; for an emotion its
            interval `low` and `high`, and its `verdict`.
        title: default how many emotions are beyond all nulls.

    Raises:
        ValueError: no rows, a column is missing, or no emotion.

    >>> frame = pd.DataFrame({"direction": ["calm", "1", "2"], "kind": ["emotion", "random", "random"]})
    >>> frame = frame.assign(effect=[3.0, 0.1, -0.1], low=2.0, high=4.0, verdict=["beyond the null", None, None])
    >>> steering_dots(frame).get_title()
    '1 of 1 steered emotions are beyond the null directions'
    """
    require(frame, "direction", "kind", "effect", "low", "high", "verdict")
    own = frame[frame["kind"].eq("emotion")].rename(columns={"direction": "emotion", "effect": "shift"})
    require(own, "emotion")
    nulls = [part["effect"].to_numpy(float) for kind, part in frame.groupby("kind") if kind != "emotion"]
    ends = np.array([outside_draws(np.array(0.0), null, level=1 - LEVEL / len(own))[1:] for null in nulls])
    own = own.assign(counts=own["verdict"].eq(Verdict.BEYOND), group="an emotion, 95 %")
    if len(ends):
        own = own.assign(null_low=ends[:, 0].min(), null_high=ends[:, 1].max())
    title = title or f"{int(own['counts'].sum())} of {len(own)} steered emotions are beyond the null directions"
    said = f"null directions, furthest of {len(own)}, 95 %"
    ax = shift_dots(own, title, null=said, xlabel=xlabel, ax=ax)
    ax.set_ylabel("steered with")
    return ax


def slopes_by_layer(
    frame: pd.DataFrame, contrast: str, control: str, measure: str, ax: Sequence[Axes] | None = None
) -> Axes:
    """How the slopes go with a rating in each block: in the named control, and beside it in the own context alone.

    Args:
        frame: a row for each `contrast`, `control`, `layer` and `measure`: `effect`, `low`, `high`, and the widest
            null's `null_low` and `null_high`.
        ax: two to draw into.

    Returns:
        The left one.

    >>> frame = pd.DataFrame({"layer": [1, 2], "effect": [0.1, 0.3], "low": [0, 0.2], "high": [0.2, 0.4]})
    >>> frame = frame.assign(contrast="a", control="own", measure="valence", null_low=-0.2, null_high=0.2)
    >>> slopes_by_layer(frame, "a", "own", "valence").get_ylabel()
    'correlation with valence'
    """
    require(frame, "contrast", "control", "measure", "layer", "effect", "null_low", "null_high")
    kept = frame[frame["contrast"].eq(contrast) & frame["measure"].eq(measure)]
    shown = list(dict.fromkeys([control, "own"]))
    if ax is None:
        ax = plt.subplots(1, len(shown), figsize=(9.5, 3.6), sharey=True, layout="constrained", squeeze=False)[1][0]
    for number, (panel, name) in enumerate(zip(ax, shown, strict=True)):
        part = kept[kept["control"].eq(name)]
        require(part, "layer")
        title = f"{plain(contrast)},\n{IN_WORDS.get(name, name)}"
        label = f"correlation with {measure}" if number == 0 else ""
        effect_by_layer(part, ylabel=label, title=title, series="control", ax=panel)
        if legend := panel.get_legend():
            legend.remove()
    return ax[0]
