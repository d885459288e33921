"""Figures on disk, and the page that shows them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emolens.files import write_atomic


def save(figure: Axes | Figure, path: str | Path, says: str = "", falsified_by: str = "") -> Path:
    """Write a figure as PNG; the same figure gives the same bytes.

    Args:
        says: what the figure shows, in a sentence.
        falsified_by: what one would have seen, had that been wrong. Both are kept in the PNG for `gallery`.

    >>> from emolens.plots.matrices import score_matrix
    >>> save(score_matrix([[0.5, 0.1]], ["calm"], ["calm", "sad"]), "scores.png", says="Calm texts score high.").name
    'scores.png'
    """
    root = figure.get_figure(root=True)
    if root is None or Path(path).suffix != ".png":
        raise ValueError(f"save writes figures as .png, not {Path(path).name!r}; HTML has a save of its own")
    root.set_label(says)
    buffer, said = io.BytesIO(), {"Description": says, "Comment": falsified_by}
    metadata = {"Software": None} | {key: value for key, value in said.items() if value}
    root.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata=metadata)
    return write_atomic(path, buffer.getvalue())


def described(figure: Axes | Figure) -> str:
    """A figure in words, for who cannot see it: what it says (once it was saved), its titles, and what its axes are.

    An axis with ticks that has no name is said to be unnamed; the tests of the notebooks look for that.

    >>> from emolens.plots.matrices import score_matrix
    >>> described(score_matrix([[0.5, 0.1]], ["calm"], ["calm", "sad"]))
    'Figure. ...'
    """
    root = figure.get_figure(root=True)
    assert root is not None
    parts = [str(root.get_label() or "Figure"), root.get_suptitle()]
    for ax in root.axes:
        title = ax.get_title() or ax.get_title("left")
        names = _axes_named(ax) if ax.axison and ax.get_label() != "<colorbar>" else []
        parts += ["; ".join(part for part in (title, *names) if part)]
    return shorten(" ".join(part.rstrip(".") + "." for part in parts if part).replace("\n", " "), 800)


def _axes_named(ax: Axes) -> list[str]:
    """What the two axes are, of those that show ticks."""
    found = []
    for called, axis, side in (("across", ax.xaxis, "labelbottom"), ("up", ax.yaxis, "labelleft")):
        if axis.get_visible() and len(axis.get_ticklocs()) and axis.get_tick_params().get(side, True):
            found.append(f"{called}: {axis.get_label_text() or 'unnamed'}")
    return found


def describe_in_notebook() -> None:
    """Give every figure that a notebook shows a text in its place, for who cannot see it; nothing outside of one.

    >>> describe_in_notebook()
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    plt.switch_backend(matplotlib.get_backend())  # which registers how Jupyter draws a figure
    formatter = shell.display_formatter.formatters["image/png"]
    try:
        draw = formatter.lookup_by_type(Figure)
    except KeyError:  # shown in a window, or as something else than PNG
        return
    if getattr(draw, "describes", False):
        return

    def show(figure: Figure) -> tuple[Any, dict[str, str]]:
        return draw(figure), {"alt": described(figure)}

    show.describes = True  # type: ignore[attr-defined]
    formatter.for_type(Figure, show)


def gallery(folder: str | Path) -> Path:
    """Write `README.md` in a folder of figures: each with what it says and what would have falsified it.

    >>> from emolens.plots.matrices import score_matrix
    >>> _ = save(score_matrix([[0.5, 0.1]], ["calm"], ["calm", "sad"]), "scores.png", says="Calm texts score high.")
    >>> "Calm texts score high." in gallery(".").read_text()
    True
    """
    from PIL import Image

    parts = [
        "# Figures\n\nGenerated from the figures that the notebooks wrote; the numbers behind them are in `data/`.\n"
    ]
    for path in sorted(Path(folder).glob("*.png")):
        with Image.open(path) as image:
            says, falsified_by = (image.info.get(key, "") for key in ("Description", "Comment"))
        title = path.stem.replace("_", " ")
        parts.append(f"## {title}\n\n![{title}]({path.name})\n\n{says}\n")
        if falsified_by:
            parts.append(f"*What would have falsified it:* {falsified_by}\n")
    return write_atomic(Path(folder) / "README.md", "\n".join(parts).encode())
