"""Maps of emotions in two dimensions, coloured by a human rating or by cluster."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from emolens.plots.style import MARKERS, NULL, SMALL, extents, free, new_axes, parts_of, plain, require

NAME = "emotion"  # the column of the names
RING = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]  # sides of a point, best first
REACH = (4, 11, 18, 26)  # points from a marker's middle to its name; a line joins them beyond the first
LEADER: dict[str, Any] = {
    "textcoords": "offset points",
    "arrowprops": {"arrowstyle": "-", "color": NULL, "lw": 0.5, "shrinkA": 0, "shrinkB": 0},
}
# Plotly's names of MARKERS.
SYMBOLS = (
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "triangle-left", "triangle-right",
    "star", "pentagon",
)  # fmt: skip
RATED, UNRATED = "rated", "unrated"  # paints that stand beside the names of colours
MARK = 5  # points, the side of the square that a marker keeps free of names


def emotion_map(
    frame: pd.DataFrame,
    x: str = "x",
    y: str = "y",
    colour: str | None = None,
    cluster: str | None = None,
    first: Sequence[str] = (),
    title: str = "Map of the emotions",
    ax: Axes | None = None,
) -> Axes:
    """Points of a plane (components, UMAP), with the names that fit: none covers another name or a point.

    Names far from the middle find their room first. `interactive_map` shows every name on hovering.

    Args:
        frame: a row for each emotion: the columns `x`, `y` and `emotion`, and those of `colour` and `cluster`.
        colour: a column of numbers, drawn as colour; where the number is missing, a grey ring.
        cluster: a column of groups, drawn as markers, and without `colour` in colours too.
        first: names to find room for before all others.
        ax: the names are placed for the size it has now.

    Raises:
        ValueError: no rows, a column is missing, or a point without a place.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "x": [0.0, 1.0], "y": [1.0, 0.0], "valence": [0.8, -0.7]})
    >>> emotion_map(frame, colour="valence").get_title()
    'Map of the emotions'
    """
    places = _places(frame, x, y, NAME, colour, cluster)
    ax = ax or new_axes(11, 8)
    rated = None
    for part, name, marker, paint in _parts(frame, colour, cluster):
        style: dict[str, Any] = {"color": paint}
        if paint == RATED:
            style = {"c": part[colour], "cmap": "cividis", "vmin": frame[colour].min(), "vmax": frame[colour].max()}
        elif paint == UNRATED:
            style = {"facecolors": "none", "edgecolors": NULL}
        points = ax.scatter(part[x], part[y], s=24, lw=0.9, marker=marker, label=plain(name), **style)
        rated = points if paint == RATED else rated
    if rated is not None:
        ax.figure.colorbar(rated, ax=ax, shrink=0.7, pad=0.01).set_label(str(colour))
    if names := ax.get_legend_handles_labels()[1]:
        columns = max(1, min(5, 100 // (max(map(len, names)) + 6)))  # wider than the axes, it would squeeze them
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=columns, fontsize=SMALL, frameon=False)
    ax.margins(0.06)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel=x, ylabel=y, title=title)
    _name_points(ax, places, [str(name) for name in frame[NAME]], first)
    return ax


def interactive_map(
    frame: pd.DataFrame,
    x: str = "x",
    y: str = "y",
    colour: str | None = None,
    cluster: str | None = None,
    label: str = "emotion",
    title: str = "Map of the emotions",
) -> Any:
    """The same map as a plotly `Figure`, for a notebook with script: hovering names a point.

    Args: see `emotion_map`.

    Raises:
        ImportError: plotly is not installed.
        ValueError: no rows, a column is missing, or a point without a place.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "x": [0.0, 1.0], "y": [1.0, 0.0]})
    >>> type(interactive_map(frame)).__name__
    'Figure'
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ImportError("interactive_map needs plotly: pip install 'emolens[notebooks]'") from error

    _places(frame, x, y, label, colour, cluster)
    figure = graph_objects.Figure()
    for part, name, shape, paint in _parts(frame, colour, cluster):
        marker = {"size": 8, "symbol": SYMBOLS[MARKERS.index(shape)], "color": paint}
        said = [html.escape(str(one)) for one in part[label]]
        if colour and paint == RATED:
            said = [
                f"{one}<br>{html.escape(colour)} {value:.3g}" for one, value in zip(said, part[colour], strict=True)
            ]
            marker |= {"color": part[colour], "coloraxis": "coloraxis"}
        elif paint == UNRATED:
            marker |= {"symbol": f"{marker['symbol']}-open", "color": NULL}
        points: dict[str, Any] = {
            "x": part[x],
            "y": part[y],
            "mode": "markers",
            "marker": marker,
            "showlegend": bool(name),
        }
        figure.add_scatter(**points, text=said, hoverinfo="text", name=html.escape(name))
    named = {"title": html.escape(title), "xaxis_title": html.escape(x), "yaxis_title": html.escape(y)}
    look: dict[str, Any] = {"template": "plotly_white", "width": 900, "height": 700}
    look |= {"legend": {"orientation": "h", "y": -0.12}}
    look |= {"coloraxis": {"colorscale": "Cividis", "colorbar": {"title": html.escape(colour or "")}}}
    return figure.update_layout(**named, **look)


def _places(frame: pd.DataFrame, x: str, y: str, *columns: str | None) -> np.ndarray:
    """The points [row 2] of a table that has all the columns."""
    require(frame, x, y, *filter(None, columns))
    places = frame[[x, y]].to_numpy(float)
    if not np.isfinite(places).all():
        raise ValueError(f"{x} or {y} is missing in row {int(np.argmin(np.isfinite(places).all(axis=1)))} of the table")
    return places


def _parts(
    frame: pd.DataFrame, colour: str | None, cluster: str | None
) -> Iterator[tuple[pd.DataFrame, str, str, str]]:
    """The points that look alike: with their name in the legend, their marker and their paint."""
    frame = frame.sort_values(cluster, kind="stable") if cluster else frame.assign(everything="")
    for (name, part), own, marker in parts_of(frame, cluster or "everything"):
        name = f"{cluster} {name}" if cluster else ""
        if colour is None:
            yield part, name, marker, own
            continue
        missing = part[colour].isna()
        if not missing.all():
            yield part[~missing], name, marker, RATED
        if missing.any():
            yield part[missing], f"{name}, no {colour}".removeprefix(", "), marker, UNRATED


def _name_points(ax: Axes, places: np.ndarray, names: Sequence[str], first: Sequence[str]) -> None:
    """Give each name the nearest place that is free, and take away those that find none."""
    at: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "va": "bottom", "in_layout": False}
    texts = [ax.annotate(plain(name), place, (0, 0), **at) for name, place in zip(names, places, strict=True)]
    boxes, point = extents(ax, texts), ax.figure.dpi / 72  # pixels in a point
    middles = ax.transData.transform(places)
    marks = np.hstack([middles - MARK / 2 * point, middles + MARK / 2 * point])
    far = np.linalg.norm(middles - middles.mean(axis=0), axis=1)
    taken: list[np.ndarray] = []  # by names and lines
    for row in sorted(range(len(names)), key=lambda row: (names[row] not in first, -far[row])):
        others = np.delete(marks, row, axis=0)
        half = (boxes[row, 2:] - boxes[row, :2]) / 2 + 0.5  # a little more: other resolutions round otherwise
        for reach, side in product(REACH, RING):
            step = np.array(side) * (half + reach * point / np.linalg.norm(side))
            box = np.hstack([middles[row] + step - half, middles[row] + step + half])
            end = step - np.sign(step) * half if reach > REACH[0] else 0 * step
            line = [np.tile(middles[row] + share * end, 2) for share in np.arange(0.1, 1, 0.1) if end.any()]
            inside = (box[:2] >= ax.bbox.min).all() and (box[2:] <= ax.bbox.max).all()
            if inside and free(box, [*taken, *marks]) and all(free(dot, [*taken, *others]) for dot in line):
                taken += [box, *line]
                texts[row].set_position((step - half) / point)
                if line:
                    ax.annotate("", places[row], end / point, **LEADER)
                break
        else:
            texts[row].remove()
