"""One small panel for each question: the effect by the size of the model, its interval and its null."""

from __future__ import annotations

import re
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from emolens.plots.panels import panels
from emolens.plots.style import COLOURS, MARKERS, NULL, SMALL, beside, new_axes, plain, require

BEYOND = "beyond the null"
COLUMNS = "question", "model", "parameters", "unit", "effect", "low", "high", "null_low", "null_high", "verdict"
ACROSS, WIDTH = 4, 34  # panels beside each other, characters of a line of their titles
FAMILY = re.compile(r"[a-z]+")  # the letters that a model's name begins with


def size_ladder(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The effect of each question by the number of parameters, with the end of the null in grey: a panel for each.

    A colour and a marker for each family of models, which is what the names begin with; a line joins the models of one
    family alone, since between families more than the size differs. A point is filled where the question's own test
    says beyond the null; its interval need not agree.

    Args:
        frame: a row for each `question` and `model`: `parameters`, `unit`, `effect`, `low`, `high`, `null_low`,
            `null_high`, `verdict`, and where there is one `control`, whether a question ought to find nothing. Rows
            without an effect are left out.
        ax: for a table of one question.

    Returns:
        The first panel; the others are in its `figure.axes`.

    Raises:
        ValueError: no row with an effect, a column is missing, or several questions for one `ax`.

    >>> frame = pd.DataFrame({"question": "found", "model": ["a", "b"], "parameters": [1e8, 1e9], "unit": "share"})
    >>> frame = frame.assign(effect=[0.4, 0.6], low=[0.3, 0.5], high=[0.5, 0.7], null_low=0, null_high=0.1)
    >>> size_ladder(frame.assign(verdict="beyond the null")).get_ylabel()
    'share'
    """
    require(frame, *COLUMNS)
    frame = frame[frame["effect"].notna()]
    require(frame, *COLUMNS)
    questions = frame["question"].nunique()
    if questions == 1:
        return _panel(frame, ax or new_axes(5, 3))
    if ax is not None:
        raise ValueError(f"{questions} questions need a panel each: leave ax out, or give the rows of one question")
    wrapped = frame.assign(question=[fill(question, WIDTH) for question in frame["question"]])
    return panels(wrapped, "question", size_ladder, _title(frame), ACROSS, share_y=False)


def _title(frame: pd.DataFrame) -> str:
    """How many questions come out beyond their null in every model of those asked, and the control in how many."""
    control = frame["control"].astype(bool) if "control" in frame else pd.Series(False, frame.index)
    found, models = frame["verdict"].eq(BEYOND), frame["model"].nunique()
    beyond = found[~control].groupby(frame["question"], sort=False).all()
    title = f"{int(beyond.sum())} of {len(beyond)} questions come out beyond the null in all {models} models"
    return title + (f", the control in {found[control].sum() or 'none'}" if control.any() else "")


def _panel(frame: pd.DataFrame, ax: Axes) -> Axes:
    """One question."""
    frame = frame.sort_values("parameters")
    for number, (at, low, high) in enumerate(frame[["parameters", "null_low", "null_high"]].itertuples(index=False)):
        for end in {high, min(low, high)} if low < 0 else {high}:
            label = "" if number else "end of the null"
            ax.plot([at / 1.2, at * 1.2], [end, end], color=NULL, lw=2, label=label)
    families = frame["model"].map(_family)
    for number, family in enumerate(dict.fromkeys(families)):
        part, colour = frame[families.eq(family)], COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        ax.plot(part["parameters"], part["effect"], color=colour, lw=1, alpha=0.6)
        ax.vlines(part["parameters"], part["low"], part["high"], color=colour, lw=1.4)
        style: dict[str, Any] = {"marker": marker, "ls": "", "ms": 6, "mec": colour}
        for size, effect, verdict in part[["parameters", "effect", "verdict"]].itertuples(index=False):
            ax.plot(size, effect, mfc=colour if verdict == BEYOND else "white", **style)
        ax.plot([], [], mfc=colour, label=family, **style)
    ax.plot([], [], "o", ms=6, mec=NULL, mfc="white", label="hollow: p > 0.05 in its own test")
    ax.set(xscale="log", xlim=(frame["parameters"].min() / 1.5, frame["parameters"].max() * 1.5))
    ax.set_xlabel("model, by its parameters")
    ax.xaxis.set_minor_locator(NullLocator())
    named: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor", "fontsize": SMALL}
    ax.set_xticks(frame["parameters"], list(map(_short, frame["model"])), **named)
    ax.set_title(plain(frame["question"].iloc[0]), fontsize=SMALL + 1)
    ax.set_ylabel(plain(frame["unit"].iloc[0]), fontsize=SMALL)
    return beside(ax)


def _family(model: str) -> str:
    """What a model's name begins with.

    >>> _family("qwen2.5-coder-0.5b-instruct")
    'qwen'
    """
    found = FAMILY.match(model.lower())
    return found[0] if found else model


def _short(model: str) -> str:
    """A model's name without what all of them have.

    >>> _short("qwen2.5-coder-0.5b-instruct")
    'qwen2.5-coder-0.5b'
    """
    return model.removesuffix("-instruct")
