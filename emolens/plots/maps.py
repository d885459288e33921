"""Maps of emotions in two dimensions, coloured by a human rating or by cluster."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_hex

from emolens.plots.heatmap import HTML
from emolens.plots.style import (
    DIVERGING,
    MARKERS,
    NULL,
    SEQUENTIAL,
    SMALL,
    extents,
    free,
    new_axes,
    parts_of,
    plain,
    require,
)

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
# Ten colours for ten clusters (Paul Tol's muted ones, and black); their markers repeat what they say.
CLUSTERS = (
    "#332288", "#CC6677", "#117733", "#88CCEE", "#DDCC77", "#882255", "#44AA99", "#999933", "#AA4499", "#000000",
)  # fmt: skip
RATED, UNRATED = "rated", "unrated"  # paints that stand beside the names of colours
MAP = (900, 640)  # pixels of a map in HTML
HOVER = (
    ".emolens-hover text{font:13px sans-serif;fill:#202020;pointer-events:none}"
    ".emolens-hover .point circle{stroke-width:.8}"
    ".emolens-hover .point text{visibility:hidden;paint-order:stroke;stroke:white;stroke-width:5px}"
    ".emolens-hover .point:hover text{visibility:visible}"
    ".emolens-hover .point:hover circle{stroke-width:3}"
)
MARK = 6  # points, the side of the square that a marker keeps free of names


def emotion_map(
    frame: pd.DataFrame,
    x: str = "x",
    y: str = "y",
    colour: str | None = None,
    cluster: str | None = None,
    first: Sequence[str] = (),
    centre: float | None = None,
    ax: Axes | None = None,
    **axes: str,
) -> Axes:
    """Points of a plane (components, UMAP), with the names that fit: none covers another name or a point.

    Names of what has a colour, and those far from the middle, find their room first. `hover_map` and `interactive_map`
    show every name.

    Args:
        frame: a row for each emotion: the columns `x`, `y` and `emotion`, and those of `colour` and `cluster`.
        colour: a column of numbers, drawn as colour; where the number is missing, a grey ring.
        cluster: a column of groups, drawn as markers, and without `colour` in colours too.
        first: names to find room for before all others.
        centre: the number of `colour` that is neither high nor low: it is white, less is blue and more is red.
        ax: the names are placed for the size it has now.
        axes: `title`, `xlabel` and `ylabel`, as of `Axes.set`; the labels are `x` and `y` where they are not given.

    Raises:
        ValueError: no rows, a column is missing, or a point without a place.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "x": [0.0, 1.0], "y": [1.0, 0.0], "valence": [0.8, -0.7]})
    >>> emotion_map(frame, colour="valence", centre=0).get_title()
    'Map of the emotions'
    """
    places = _places(frame, x, y, NAME, colour, cluster)
    ax = ax or new_axes(11, 9)
    rated = None
    for part, name, marker, paint in _parts(frame, colour, cluster):
        style: dict[str, Any] = {"color": paint}
        if colour and paint == RATED:
            painted, low, high = _scale(frame[colour], centre)
            style = {"c": part[colour], "cmap": painted, "vmin": low, "vmax": high, "edgecolors": "black", "s": 44}
        elif paint == UNRATED:
            style = {"facecolors": "none", "edgecolors": "#A0A0A0", "s": 20}
        points = ax.scatter(part[x], part[y], **{"s": 38, "lw": 0.8} | style, label=plain(name), marker=marker)
        rated = points if paint == RATED else rated
    if rated is not None:
        bar = ax.figure.colorbar(rated, ax=ax, shrink=0.6, aspect=28, pad=0.02)
        bar.set_label(f"{colour}" if centre is None else f"{colour} (white: {centre:g})")
    if names := ax.get_legend_handles_labels()[1]:
        columns = max(1, min(5, 100 // (max(map(len, names)) + 6)))  # wider than the axes, it would squeeze them
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=columns, fontsize=SMALL, frameon=False)
    ax.margins(0.06)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(**{"xlabel": x, "ylabel": y, "title": "Map of the emotions"} | axes)
    names = [str(name) for name in frame[NAME]]
    rank = [0 if name in first else 2 for name in names]
    if colour:  # names of what has a colour before those of rings
        rank = [min(one, 2 - int(rated)) for one, rated in zip(rank, frame[colour].notna(), strict=True)]
    _name_points(ax, places, names, rank)
    return ax


def interactive_map(
    frame: pd.DataFrame,
    x: str = "x",
    y: str = "y",
    colour: str | None = None,
    cluster: str | None = None,
    label: str = "emotion",
    title: str = "Map of the emotions",
    centre: float | None = None,
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
            marker |= {"color": part[colour], "coloraxis": "coloraxis", "line": {"color": "#404040", "width": 0.6}}
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
    if colour and frame[colour].notna().any():
        painted, low, high = _scale(frame[colour], centre)
        steps = [[step, to_hex(painted(step))] for step in np.linspace(0, 1, 11).tolist()]
        bar = {"title": html.escape(colour)}
        look |= {"coloraxis": {"colorscale": steps, "cmin": low, "cmax": high, "colorbar": bar}}
    return figure.update_layout(**named, **look)


def hover_map(
    frame: pd.DataFrame,
    x: str = "x",
    y: str = "y",
    colour: str | None = None,
    also: Sequence[str] = (),
    centre: float | None = None,
    title: str = "Map of the emotions",
) -> HTML:
    """The same map as HTML without script: pointing at a point names it, on a page that is only read too.

    Args:
        frame, x, y, colour, centre: as of `emotion_map`.
        also: columns that are said beside the name.

    Raises:
        ValueError: no rows, a column is missing, or a point without a place.

    >>> frame = pd.DataFrame({"emotion": ["calm", "sad"], "x": [0.0, 1.0], "y": [1.0, 0.0], "valence": [8.0, 2.0]})
    >>> hover_map(frame, colour="valence", centre=5).markup.count("<circle")
    2
    """
    places = _places(frame, x, y, NAME, colour, *also)
    low, high = places.min(axis=0), places.max(axis=0)
    wide, tall = MAP
    share = (places - low) / np.where(high > low, high - low, 1)
    at = np.stack([40 + share[:, 0] * (wide - 80), tall - 50 - share[:, 1] * (tall - 120)], axis=1)
    fills = _fills(frame[colour], centre) if colour else ["#5B8FD0"] * len(frame)
    drawn = []
    for (across, down), fill, (_, row) in zip(at, fills, frame.iterrows(), strict=True):
        told = ", ".join(f"{name} {_said(row[name])}" for name in ([colour] if colour else []) + list(also))
        name = html.escape(f"{row[NAME]}: {told}" if told else str(row[NAME]))
        end = "end" if across > wide / 2 else "start"  # the name stays on the map
        drawn.append(
            f'<g class="point"><circle cx="{across:.1f}" cy="{down:.1f}" r="5.5" {fill}/>'
            f'<text x="{across:.1f}" y="{down - 11:.1f}" text-anchor="{end}">{name}</text></g>'
        )
    names = (
        f'<text x="{wide / 2}" y="{tall - 10}" text-anchor="middle">{html.escape(x)} \u2192</text>'
        f'<text transform="translate(14 {tall / 2}) rotate(-90)" text-anchor="middle">{html.escape(y)} \u2192</text>'
        f'<text x="{wide / 2}" y="18" text-anchor="middle" font-weight="bold">{html.escape(title)}</text>'
        f'<text x="{wide / 2}" y="36" text-anchor="middle">{html.escape(_told(colour, centre))}</text>'
    )
    markup = (
        f'<svg class="emolens-hover" viewBox="0 0 {wide} {tall}" width="100%" style="max-width:{wide}px" role="img" '
        f'aria-label="{html.escape(title)}"><style>{HOVER}</style><rect width="100%" height="100%" fill="white"/>'
        f"{names}{''.join(drawn)}</svg>"
    )
    return HTML(markup, title)


def _told(colour: str | None, centre: float | None) -> str:
    """What the colours are, in words."""
    if colour is None:
        return ""
    ends = "yellow is high, dark blue is low" if centre is None else f"red is above {centre:g}, blue is below"
    return f"{colour}: {ends}; a ring has none"


def _said(value: Any) -> str:
    """A number or a word of the table, for a reader."""
    if isinstance(value, str):
        return value
    return "not rated" if pd.isna(value) else f"{value:.3g}"


def _fills(values: pd.Series, centre: float | None) -> list[str]:
    """The fill of each point in SVG: its colour, or a ring where there is no number."""
    ring = f'fill="white" stroke="{NULL}"'
    if values.isna().all():
        return [ring] * len(values)
    painted, low, high = _scale(values, centre)
    share = (values - low) / ((high - low) or 1)
    return [ring if np.isnan(one) else f'fill="{to_hex(painted(float(one)))}" stroke="#404040"' for one in share]


def _scale(values: pd.Series, centre: float | None) -> tuple[Colormap, float, float]:
    """The colours of numbers, with those drawn lowest and highest: red and blue around a centre, where there is one."""
    low, high = float(values.min()), float(values.max())
    if centre is None:
        return colormaps[SEQUENTIAL], low, high
    reach = max(high - centre, centre - low) or 1.0
    return DIVERGING, centre - reach, centre + reach


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
    for number, ((name, part), own, marker) in enumerate(parts_of(frame, cluster or "everything")):
        own = CLUSTERS[number % len(CLUSTERS)] if cluster else own
        name = (name if isinstance(name, str) else f"{cluster} {name}") if cluster else ""
        if colour is None:
            yield part, name, marker, own
            continue
        missing = part[colour].isna()
        if not missing.all():
            yield part[~missing], name, marker, RATED
        if missing.any():
            yield part[missing], f"{name}, no {colour}".removeprefix(", "), marker, UNRATED


def _name_points(ax: Axes, places: np.ndarray, names: Sequence[str], rank: Sequence[int]) -> None:
    """Give each name the nearest place that is free, those of a low rank first, and take away what finds none."""
    at: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "va": "bottom", "in_layout": False}
    texts = [ax.annotate(plain(name), place, (0, 0), **at) for name, place in zip(names, places, strict=True)]
    boxes, point = extents(ax, texts), ax.figure.dpi / 72  # pixels in a point
    middles = ax.transData.transform(places)
    marks = np.hstack([middles - MARK / 2 * point, middles + MARK / 2 * point])
    far = np.linalg.norm(middles - middles.mean(axis=0), axis=1)
    taken: list[np.ndarray] = []  # by names and lines
    for row in sorted(range(len(names)), key=lambda row: (rank[row], -far[row])):
        others = np.delete(marks, row, axis=0)
        half = (boxes[row, 2:] - boxes[row, :2]) / 2 + 0.5  # a little more: other resolutions round otherwise
        for reach, side in product(REACH, RING):
            step = np.array(side) * (half + reach * point / np.linalg.norm(side))
            box = np.hstack([middles[row] + step - half, middles[row] + step + half])
            end = step - np.sign(step) * half if reach > REACH[0] else 0 * step
            line = [np.tile(middles[row] + share * end, 2) for share in np.arange(0.1, 1, 0.1) if end.any()]
            inside = (box[:2] >= np.asarray(ax.bbox.min) + 3 * point).all() and (box[2:] <= ax.bbox.max).all()
            if inside and free(box, [*taken, *marks]) and all(free(dot, [*taken, *others]) for dot in line):
                taken += [box, *line]
                texts[row].set_position((step - half) / point)
                if line:
                    ax.annotate("", places[row], end / point, **LEADER)
                break
        else:
            texts[row].remove()
