"""Where a notebook stands on the way of the course, which is that of the paper."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from emolens.plots.saving import describe_in_notebook
from emolens.plots.style import COLOURS, NULL, SMALL, new_axes

# What is asked, in the paper's order, and the notebooks that ask it.
COURSE = {
    "Start": ("quickstart",),
    "Are there vectors?": ("deriving", "reading"),
    "How do they lie?": ("geometry",),
    "What do they cause?": ("patching", "steering", "preferences"),
    "What does training change?": ("post-training",),
    "Do they move behaviour?": ("leverage", "reward hacking", "sycophancy"),
    "What comes with size?": ("size",),
    "What kind of state?": ("state",),
    "Can one watch them?": ("watching",),
}
BREADTH, GAP = 1.2, 0.22
ROWS = (0, 0, 0, 0, 1, 1, 1, 1, 1)  # the row of each question


def course(here: int) -> Axes:
    """The notebooks in reading order, under the questions that they ask; one of them is marked.

    Args:
        here: the notebook's number.

    Raises:
        ValueError: there is no notebook of that number.

    >>> course(5).get_title("left")
    'You are here: 05 steering'
    """
    names = [name for notebooks in COURSE.values() for name in notebooks]
    if not 0 <= here < len(names):
        raise ValueError(f"there is no notebook {here}: they are numbered 0 to {len(names) - 1}")
    describe_in_notebook()  # it is the first figure of a notebook
    ax = new_axes(9.6, 1.75)
    number, place, row = 0, 0.0, 0
    for (question, notebooks), at in zip(COURSE.items(), ROWS, strict=True):
        if at != row:
            row, place = at, 0.0
        start = place
        for name in notebooks:
            _box(ax, place, -1.5 * row, f"{number:02d}\n{name}", number == here)
            number, place = number + 1, place + BREADTH + 0.08
        middle = (start + place - 0.08) / 2
        ax.text(middle, 0.78 - 1.5 * row, question, ha="center", fontsize=SMALL, color="#404040", style="italic")
        place += GAP + (0.7 if len(notebooks) == 1 else 0)
    ax.set(xlim=(-0.5, 12.6), ylim=(-1.6, 1.1))
    ax.set_axis_off()
    ax.set_title(f"You are here: {here:02d} {names[here]}", loc="left", fontsize=10)
    return ax


def _box(ax: Axes, left: float, bottom: float, text: str, marked: bool) -> None:
    """One notebook."""
    colour = COLOURS[0] if marked else "white"
    edge = COLOURS[0] if marked else NULL
    shape = FancyBboxPatch((left, bottom), BREADTH, 0.62, boxstyle="round,pad=0.02", facecolor=colour, edgecolor=edge)
    ax.add_patch(shape)
    written = "white" if marked else "#202020"
    ax.text(left + BREADTH / 2, bottom + 0.31, text, ha="center", va="center", fontsize=SMALL, color=written)
