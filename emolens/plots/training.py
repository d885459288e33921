"""Training curves, and the shifts of emotions that training brought."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from emolens.plots.style import COLOURS, DASHES, NULL, SMALL, beside, new_axes, parts_of, plain, require


def loss_curve(frame: pd.DataFrame, title: str = "Loss on the reply tokens", ax: Axes | None = None) -> Axes:
    """Loss of a training by tokens trained on: of each step as dots, on what is held out as a line.

    Args:
        frame: a row for each step and `series` ("trained on" or another): `tokens`, `loss`; rows without a
            loss, those of watched emotions, are passed over.

    >>> loss_curve(pd.DataFrame({"tokens": [100, 200], "series": "trained on", "loss": [3.0, 2.5]})).get_xlabel()
    'reply tokens trained on'
    """
    require(frame, "tokens", "series", "loss")
    ax = ax or new_axes(6.5, 3.8)
    for ((name, part), colour, marker), dash in zip(
        parts_of(frame[frame["loss"].notna()], "series"), cycle(DASHES[1:])
    ):
        steps = name == "trained on"
        style: dict[str, Any] = {"ls": "", "ms": 3, "alpha": 0.6} if steps else {"ls": dash, "ms": 5}
        ax.plot(part["tokens"], part["loss"], color=colour, marker=marker, label=plain(name), **style)
    ax.set(xlabel="reply tokens trained on", ylabel="loss (nats for each token)", title=title)
    return beside(ax)


def watched_curves(frame: pd.DataFrame, title: str = "Emotions read during training", ax: Axes | None = None) -> Axes:
    """Scores of emotions at the checkpoints of a training, each as the change since its beginning.

    Args:
        frame: a row for each checkpoint and `series`, the emotion: `tokens`, `score`; if present `child`, whose
            second and later entries are dashed.

    >>> watched_curves(pd.DataFrame({"tokens": [0, 200], "series": "calm", "score": [0.1, 0.2]})).get_ylabel()
    'change of the score (cosine)'
    """
    require(frame, "tokens", "series", "score")
    frame = frame[frame["score"].notna()]
    frame = frame if "child" in frame else frame.assign(child="")
    ax = ax or new_axes(7, 4)
    ax.axhline(0, color=NULL, lw=1.2)
    children = list(dict.fromkeys(frame["child"]))
    for (name, part), colour, marker in parts_of(frame, "series"):
        for child, curve in part.groupby("child", sort=False):
            curve = curve.sort_values("tokens")
            label = f"{name}, {child}" if child else str(name)
            change = curve["score"] - curve["score"].iloc[0]
            dash = DASHES[children.index(child) % len(DASHES)]
            ax.plot(curve["tokens"], change, color=colour, marker=marker, ls=dash, ms=4.5, label=plain(label))
    ax.set(xlabel="reply tokens trained on", ylabel="change of the score (cosine)", title=title)
    return beside(ax)


def shift_dots(
    frame: pd.DataFrame,
    title: str = "Shift of the emotions",
    k: int = 12,
    null: str = "one more control fine-tune, 95 %",
    xlabel: str = "shift of the score (cosine)",
    sort: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """The emotions that rose and fell most, from the top down, each with its interval and the null's.

    Args:
        frame: a row for each `emotion` (and `group`, if present; the first one orders): `shift`, `low`, `high`; if
            present `null_low` and `null_high`, a grey bar, and `counts`: a filled marker where it is true. Of a
            table of several children, places, rulers or layers the first one is drawn, with its first two groups.
        k: emotions at each end; all where there are at most twice as many.
        null: what the grey bars are.
        sort: False keeps the order of the table and draws all of it, as panels beside each other need.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "shift": [0.2, -0.1], "low": [0.1, -0.2], "high": [0.3, 0.0]})
    >>> [label.get_text() for label in shift_dots(frame).get_yticklabels()]
    ['calm', 'sad']
    """
    require(frame, "emotion", "shift", "low", "high")
    for column in ("of", "child", "place", "form", "ruler", "layer"):
        frame = frame[frame[column] == frame[column].iloc[0]] if column in frame else frame
    frame = frame if "group" in frame else frame.assign(group="shift")
    frame = frame if "counts" in frame else frame.assign(counts=True)
    first = frame[frame["group"] == frame["group"].iloc[0]]
    first = first.sort_values("shift", ascending=False) if sort else first
    cut = sort and len(first) > 2 * k
    names = [*first["emotion"][:k], *first["emotion"][-k:]] if cut else list(first["emotion"])
    groups = list(dict.fromkeys(frame["group"]))[:2]
    ax = ax or new_axes(7.5, 0.26 * len(names) + 1.4)
    ax.axvline(0, color="black", lw=0.8)
    for number, (group, colour, marker) in enumerate(zip(groups, cycle(COLOURS), cycle("os^D"))):
        part = frame[frame["group"] == group].set_index("emotion").loc[names]
        y = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * 0.7 / max(1, len(groups))
        if "null_low" in part and part["null_low"].notna().any():
            label = "" if number else null
            ax.hlines(y, part["null_low"], part["null_high"], color=NULL, lw=4, alpha=0.35, label=label)
        ax.hlines(y, part["low"], part["high"], color=colour, lw=1.2)
        fill = np.where(part["counts"].astype(bool), colour, "white")
        ax.scatter(part["shift"], y, c=fill, edgecolors=colour, marker=marker, s=22, zorder=3, label=plain(group))
    ax.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=SMALL)
    ax.set_ylim(len(names) - 0.4, -0.6)
    if cut:
        ax.axhline(k - 0.5, color=NULL, ls=":", lw=1)
    drawn = frame[frame["group"].isin(groups) & frame["emotion"].isin(names)]
    hollow = "" if drawn["counts"].astype(bool).all() else "\nhollow: does not count"
    ax.set(xlabel=f"{xlabel}{hollow}", ylabel="emotion", title=title)
    return beside(ax)
