"""Figures on disk, and the page that shows them."""

from __future__ import annotations

import io
from pathlib import Path

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
    buffer, said = io.BytesIO(), {"Description": says, "Comment": falsified_by}
    metadata = {"Software": None} | {key: value for key, value in said.items() if value}
    root.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata=metadata)
    return write_atomic(path, buffer.getvalue())


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
