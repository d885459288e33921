"""Figures of what kind of state an emotion is: how it falls after a story, and models beside published figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from emolens.plots.style import COLOURS, NULL, SMALL, beside, new_axes, parts_of, plain, require


def decay_curve(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What is left of a rise, token by token after its cause: the cause itself stands at the left, apart from the rest.

    Args:
        frame: `value`, the tokens since the end, the cause itself at -1; `score`, `low`, `high`.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> frame = pd.DataFrame({"value": [-1, 0, 4], "score": [0.4, 0.1, 0.0], "low": -0.1, "high": 0.5})
    >>> decay_curve(frame).get_title()
    'Half of the rise is gone 0 tokens after the story'
    """
    require(frame, "value", "score", "low", "high")
    ax = ax or new_axes(7, 3.8)
    cause, after = frame[frame["value"] < 0].iloc[0], frame[frame["value"] >= 0]
    at = -0.08 * max(10.0, float(after["value"].max()))
    ax.axhline(0, color=NULL, lw=1.2)
    reach = [[cause["score"] - cause["low"]], [cause["high"] - cause["score"]]]
    ax.errorbar([at], [cause["score"]], yerr=reach, fmt="s", color=COLOURS[1], ms=6, capsize=3, label="in the story")
    ax.axhline(cause["score"] / 2, color=COLOURS[1], ls=":", lw=1.2, label="half of its rise")
    ax.plot(after["value"], after["score"], color=COLOURS[0], marker="o", ms=4, label="after the story")
    ax.fill_between(after["value"], after["low"], after["high"], color=COLOURS[0], alpha=0.15, lw=0)
    below = after.loc[after["score"] <= cause["score"] / 2, "value"]
    fallen = f"is gone {below.min():.0f} tokens after the story" if len(below) else "is not gone in these tokens"
    ax.set(xlabel="tokens after the story", ylabel="above the answer before", title=f"Half of the rise {fallen}")
    return beside(ax)


def beside_published(
    frame: pd.DataFrame, title: str = "", xlabel: str = "mean cosine", line: float = 0.0, ax: Axes | None = None
) -> Axes:
    """What models gave, with intervals, beside the paper's figures and those of a replication.

    Args:
        frame: `question`, `model`, `value`, `low`, `high`; `limit`, what the value is held against, drawn as a short
            upright line (may be missing), and `limit_is`, what that is; `paper_low`, `paper_high`, `replication_low`,
            `replication_high`, both the same where a single figure was published, missing where none was.
        title: default how many of the intervals contain what the paper found.
        line: the value that means nothing, such as that of guessing.

    Raises:
        ValueError: no rows, or a column is missing.

    >>> row = {"question": "r", "model": "tiny", "value": 0.5, "low": 0.4, "high": 0.6, "limit": 0.9}
    >>> row |= {"limit_is": "ceiling"}
    >>> row |= {"paper_low": 0.1, "paper_high": 0.1, "replication_low": 0.63, "replication_high": 0.72}
    >>> beside_published(pd.DataFrame([row])).get_title()
    "None of 1 interval contains the paper's value"
    """
    ends = ["paper_low", "paper_high", "replication_low", "replication_high"]
    require(frame, "question", "model", "value", "low", "high", "limit", "limit_is", *ends)
    questions, models = (list(dict.fromkeys(frame[column])) for column in ("question", "model"))
    ax = ax or new_axes(8.6, 0.17 * len(questions) * (len(models) + 2) + 1.1)
    places = np.linspace(-0.32, 0.32, len(models) + 1)
    for ((model, part), colour, marker), place in zip(parts_of(frame, "model"), places[1:], strict=True):
        y = np.array([questions.index(name) for name in part["question"]]) + place
        reach = np.abs(part[["low", "high"]].to_numpy(float).T - part["value"].to_numpy(float))
        ax.errorbar(part["value"], y, xerr=reach, fmt=marker, color=colour, ms=4.5, lw=1.2, label=plain(model))
        ax.plot(part["limit"], y, "|", color=colour, ms=9, mew=1.5)
    for said in frame.loc[frame["limit"].notna(), "limit_is"].unique():
        ax.plot([], [], "|", color="black", ms=9, mew=1.5, label=plain(said))
    first = frame.drop_duplicates("question").set_index("question").loc[questions]
    for who, colour, marker in (("paper", "black", "D"), ("replication", NULL, "X")):
        low, high = first[f"{who}_low"].to_numpy(float), first[f"{who}_high"].to_numpy(float)
        y = np.arange(len(questions)) + places[0] + (0.12 if who == "replication" else 0)
        ax.hlines(y, low, high, color=colour, lw=3)
        if np.isfinite(low).any():
            ax.plot((low + high) / 2, y, marker, color=colour, ms=6, label=who)
    ax.set_yticks(range(len(questions)), [plain(name) for name in questions], fontsize=SMALL)
    ax.set_ylim(len(questions) - 0.5, -0.5)
    for row in range(1, len(questions)):
        ax.axhline(row - 0.5, color=NULL, lw=0.5, alpha=0.5)
    if ax.get_xlim()[0] < line < ax.get_xlim()[1]:
        ax.axvline(line, color=NULL, lw=0.8, ls="--" if line else "-", label=f"guessing: {line:g}" if line else "")
    ax.set(xlabel=xlabel, ylabel="what is compared", title=title or _held(frame))
    return beside(ax)


def _held(frame: pd.DataFrame) -> str:
    """How many intervals contain the paper's figure, or overlap its range."""
    known = frame.dropna(subset=["paper_low", "value"])
    held = int(((known["low"] <= known["paper_high"]) & (known["high"] >= known["paper_low"])).sum())
    return (
        f"{held or 'None'} of {len(known)} interval{'s' * (len(known) > 1)} contain{'s' * (held < 2)} the paper's value"
    )
