"""Every figure: functions that take a table or a matrix and return a matplotlib Axes, or HTML for token heat maps.

Colours are Okabe and Ito's, safe for colour-blind readers; markers, line styles or hatching repeat what they say,
for print in grey. Without `ax` a function makes a figure of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from emolens.files import write_atomic
from emolens.heatmap import HTML, circuitsvis_view, heatmap

__all__ = [
    "HTML",
    "agreement",
    "circuitsvis_view",
    "detection_bars",
    "gallery",
    "heatmap",
    "layer_sweep",
    "reliability",
    "save",
    "similarity_matrix",
    "token_scores",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
DASHES = ("-", "--", ":", "-.")
NULL = "#767676"  # the grey of everything expected by chance
SMALL = 8.5  # points, the smallest text in a figure


def layer_sweep(
    frame: pd.DataFrame,
    chance: float,
    measures: Sequence[str] = ("first", "first_five"),
    chosen: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of texts whose emotion is found, by layer and method, with interval bands.

    Args:
        frame: a row for each layer and method; `{measure}`, if present `{measure}_low` and `{measure}_high`
            for the band, and `{measure}_null` for the upper quantile under permuted labels.
        chance: share found first by guessing; five times that is the chance of the first five.
        chosen: the layer to mark.
    """
    _require(frame, "layer", "method", *measures)
    ax = ax or _axes(7.5, 4.2)
    for measure, dash in zip(measures, cycle(DASHES)):
        said = measure.replace("_", " ")
        level = chance * (5 if measure == "first_five" else 1)
        if f"{measure}_null" in frame:
            null = frame.groupby("layer")[f"{measure}_null"].max()
            edge: dict[str, Any] = {"ec": NULL, "ls": dash, "lw": 0.8, "label": f"permuted labels, {said}"}
            ax.fill_between(null.index, 0, null, fc=(0.5, 0.5, 0.5, 0.2), **edge)
        ax.axhline(level, color=NULL, ls=dash, lw=1.2, label=f"chance, {said}: {level:.1%}")
        for (method, part), colour, marker in _series(frame, "method"):
            _line(ax, part, measure, color=colour, marker=marker, ls=dash, label=f"{method}, {said}")
    if chosen is not None:
        ax.axvline(chosen, color="black", ls=(0, (1, 3)), lw=1.2, label=f"chosen layer: {chosen}")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(ylim=(0, None), ylabel="share of texts", title="Right emotion found, by layer")
    return _by_layer(ax)


def reliability(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Cosine of vectors from two halves of the topics, by layer.

    Args:
        frame: a row for each layer (and `method`, if present): `cosine`; `low` and `high` for the band over
            emotions; `null_low` and `null_high`, what vectors of different emotions or of shuffled labels give.
    """
    frame = frame if "method" in frame else frame.assign(method="all vectors")
    _require(frame, "layer", "cosine", "low", "high", "null_low", "null_high")
    ax = ax or _axes(7.5, 4)
    null = frame.groupby("layer").agg({"null_low": "min", "null_high": "max"})
    ax.fill_between(null.index, null["null_low"], null["null_high"], color=NULL, alpha=0.25, lw=0, label="null band")
    frame = frame.rename(columns={"low": "cosine_low", "high": "cosine_high"})
    for (method, part), colour, marker in _series(frame, "method"):
        _line(ax, part, "cosine", color=colour, marker=marker, label=method)
    ax.axhline(0, color=NULL, lw=0.8)
    ax.set(ylim=(None, 1.02), ylabel="split-half cosine", title="Reliability of the vectors, by layer")
    return _by_layer(ax)


def detection_bars(frame: pd.DataFrame, chance: float, measure: str = "first", ax: Axes | None = None) -> Axes:
    """Share of texts found, as bars: a group for each register, a bar for each method.

    Args:
        frame: a row for each `register` and `method`: `{measure}`, `{measure}_low`, `{measure}_high`.
        chance: the share that guessing finds.
    """
    _require(frame, "register", "method", measure, f"{measure}_low", f"{measure}_high")
    registers = list(dict.fromkeys(frame["register"]))
    methods = list(dict.fromkeys(frame["method"]))
    ax = ax or _axes(max(4.5, 0.7 * len(registers) * len(methods) + 3), 4)
    width = 0.8 / len(methods)
    for number, ((method, part), colour, _) in enumerate(_series(frame, "method")):
        x = np.array([registers.index(register) for register in part["register"]]) + (number + 0.5) * width - 0.4
        share, low, high = (part[column].to_numpy() for column in (measure, f"{measure}_low", f"{measure}_high"))
        hatch = HATCHES[number % len(HATCHES)]
        ax.bar(x, share, width * 0.92, color=colour, hatch=hatch, edgecolor="white", lw=0, label=method)
        ax.errorbar(x, share, yerr=np.abs([share - low, high - share]), fmt="none", ecolor="black", capsize=3, lw=1.2)
        for place, value, top in zip(x, share, high, strict=True):
            ax.annotate(f"{value:.0%}", (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=SMALL)
    ax.axhline(chance, color="black", ls="--", lw=1.2, label=f"chance: {chance:.1%}")
    ax.set_xticks(range(len(registers)), registers)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.margins(y=0.12)
    said = measure.replace("_", " ")
    ax.set(ylim=(0, None), ylabel="share of texts", title=f"Right emotion found ({said}), with 95 % intervals")
    return _legend(ax)


def agreement(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How well two sets of vectors agree: the cumulative share of emotions against their cosine.

    Args:
        frame: a row for each emotion (and `layer`, if present): `emotion`, `cosine`.
    """
    _require(frame, "emotion", "cosine")
    ax = ax or _axes(6.5, 4)
    parts = _series(frame.assign(layer="") if "layer" not in frame else frame, "layer")
    for ((layer, part), colour, marker), dash in zip(parts, cycle(DASHES)):
        part = part.sort_values("cosine")
        share = np.arange(1, len(part) + 1) / len(part)
        worst = part.iloc[0]
        label = f"lowest {worst['cosine']:.3f} ({worst['emotion']})"
        label = f"layer {layer}: {label}" if layer != "" else label
        every = max(1, len(part) // 8)
        ax.step(
            part["cosine"],
            share,
            where="post",
            color=colour,
            ls=dash,
            marker=marker,
            markevery=every,
            label=label,
        )
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set(ylim=(0, 1.02), xlabel="cosine of the two vectors of an emotion", ylabel="emotions at or below")
    ax.set_title("Agreement of two derivations")
    return _legend(ax)


def similarity_matrix(
    matrix: Any,
    names: Sequence[str],
    clustered: bool = True,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A square matrix of cosines as colours.

    Blue is negative, yellow positive, and lightness rises from one to the other, so that the sign survives
    grey print. As many names are written as fit: a larger `ax` shows more.

    Args:
        matrix: [emotion emotion], symmetric where `clustered`.
        names: of rows and columns, any number from 2.
        clustered: reorder by hierarchical clustering (average linkage), neighbours alike.
        limit: the value drawn in full colour; None takes the largest size off the diagonal.

    Raises:
        ValueError: sizes that do not match, or numbers that are not finite.
    """
    values, names = np.asarray(matrix, dtype=float), list(names)
    if values.shape != (len(names), len(names)) or len(names) < 2:
        raise ValueError(f"{len(names)} names need a matrix of that size, and at least 2; got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("the matrix holds numbers that are not finite: a vector of length 0?")
    if clustered:
        order = _leaves(values)
        values, names = values[np.ix_(order, order)], [names[row] for row in order]
    side = float(np.clip(0.2 * len(names) + 2, 4.5, 12))
    ax = ax or _axes(side + 0.8, side)
    limit = limit or float(np.abs(values[~np.eye(len(names), dtype=bool)]).max()) or 1.0
    image = ax.imshow(values, cmap="cividis", vmin=-limit, vmax=limit, interpolation="nearest")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, extend="max" if values.max() > limit else "neither")
    bar.set_label("cosine")
    room = ax.get_window_extent().height / ax.figure.dpi * 72 * 0.9  # points, less what names take
    shown = range(0, len(names), int(np.ceil(len(names) * 1.2 * SMALL / room)))
    ax.set_xticks(shown, [names[row] for row in shown], rotation=90, fontsize=SMALL)
    ax.set_yticks(shown, [names[row] for row in shown], fontsize=SMALL)
    ax.set_title(f"Similarity of {len(names)} emotions")
    return ax


def token_scores(readout: Any, emotions: Sequence[str], ax: Axes | None = None) -> Axes:
    """The scores of a short text's tokens, a row for each emotion: a heat map for where HTML is not shown.

    Args:
        readout: a `Readout` of one text at "tokens", of at most 60 tokens.

    Raises:
        ValueError: more tokens, for which `heatmap` is made.
    """
    if len(readout) > 60:
        raise ValueError(f"{len(readout)} tokens do not fit side by side (at most 60); use plots.heatmap")
    values = np.stack([np.asarray(readout[emotion]) for emotion in emotions])
    ax = ax or _axes(max(6.5, 0.2 * len(readout) + 2), 0.3 * len(emotions) + 1.8)
    limit = float(np.abs(values).max())
    image = ax.imshow(values, cmap="cividis", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, pad=0.01).set_label("score")
    labels = [label.strip().replace("$", r"\$") or "␣" for label in readout.labels]
    ax.set_xticks(range(len(readout)), labels, rotation=90, fontsize=SMALL)
    ax.set_yticks(range(len(emotions)), emotions)
    ax.set_title(f"Block {readout.layer}, {readout.method}, centred on {readout.centre!r}")
    return ax


def save(figure: Axes | Figure, path: str | Path, says: str = "", falsified_by: str = "") -> Path:
    """Write a figure as PNG; the same figure gives the same bytes.

    Args:
        says: what the figure shows, in a sentence.
        falsified_by: what one would have seen, had that been wrong. Both are kept in the PNG for `gallery`.
    """
    root = figure.get_figure(root=True)
    if root is None or Path(path).suffix != ".png":
        raise ValueError(f"save writes figures as .png, not {Path(path).name!r}; HTML has a save of its own")
    buffer, said = io.BytesIO(), {"Description": says, "Comment": falsified_by}
    metadata = {"Software": None} | {key: value for key, value in said.items() if value}
    root.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata=metadata)
    return write_atomic(path, buffer.getvalue())


def gallery(folder: str | Path) -> Path:
    """Write `README.md` in a folder of figures: each with what it says and what would have falsified it."""
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


def _axes(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _require(frame: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing or frame.empty:
        raise ValueError(
            f"the table has {len(frame)} rows and the columns {', '.join(map(str, frame))}; "
            f"missing: {', '.join(missing) or 'rows'}"
        )


def _series(frame: pd.DataFrame, column: str) -> Iterator[tuple[tuple[Any, pd.DataFrame], str, str]]:
    """The parts of a table, each with its colour and marker."""
    return zip(frame.groupby(column, sort=False), cycle(COLOURS), cycle(MARKERS))


def _line(ax: Axes, part: pd.DataFrame, column: str, color: str, **style: Any) -> None:
    """A curve over the layers, with its band where the table has one."""
    part = part.sort_values("layer")
    ax.plot(part["layer"], part[column], color=color, ms=4.5, **style)
    if f"{column}_low" in part:
        ax.fill_between(part["layer"], part[f"{column}_low"], part[f"{column}_high"], color=color, alpha=0.15, lw=0)


def _by_layer(ax: Axes) -> Axes:
    ax.set_xlabel("layer (index of the block)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _legend(ax)


def _legend(ax: Axes) -> Axes:
    """Beside the axes, where it covers no data."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=SMALL, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _leaves(matrix: np.ndarray) -> list[int]:
    """Order of the leaves of a hierarchical clustering of cosines."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1 - (matrix + matrix.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)).tolist()
