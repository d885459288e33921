"""The scores of a text's tokens, for where HTML is not shown."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from emolens.plots.heatmap import shown, whole_characters
from emolens.plots.style import COLOURS, DASHES, DIVERGING, MARKERS, NULL, SMALL, beside, extents, free, new_axes, plain

MOST = 60  # tokens that fit side by side with their text
FIXED, ASPECT = "DejaVu Sans Mono", 0.602  # a font of fixed width that comes with matplotlib; width over size
BELOW, ABOVE = "#598CD6", "#E0635D"  # those of `heatmap`, as they look on white
Span = tuple[str, int, int]  # a name and tokens [start, end): a `Turn` is one


def token_scores(readout: Any, emotions: Sequence[str], ax: Axes | None = None) -> Axes:
    """The scores of a short text's tokens, a row for each emotion: a heat map for where HTML is not shown.

    Args:
        readout: a `Readout` of one text at "tokens", of at most 60 tokens. Tokens that make up one character are
            shown as one, with their mean.

    Raises:
        ValueError: more tokens, for which `heatmap` is made.

    Example:
        >>> ax = token_scores(el.read(model, "she ran !", vectors), ["calm", "afraid"])
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['she', 'ran', '!']
    """
    if len(readout) > MOST:
        raise ValueError(f"{len(readout)} tokens do not fit side by side (at most {MOST}); use plots.heatmap")
    by_token = np.stack([np.asarray(readout[emotion]) for emotion in emotions], axis=1)
    labels, means = whole_characters(readout.labels, by_token)
    values = means.T
    ax = ax or new_axes(max(6.5, 0.2 * len(labels) + 2), 0.3 * len(emotions) + 1.8)
    limit = float(np.abs(values).max())
    image = ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, pad=0.01).set_label("score")
    _name_tokens(ax, labels)
    ax.set_yticks(range(len(emotions)), emotions)
    ax.set(xlabel="token", ylabel="emotion", title=_read_how(readout))
    return ax


def token_curves(
    readout: Any,
    emotions: str | Sequence[str] | None,
    turns: Sequence[Span] | None = None,
    marks: Sequence[Span] | None = None,
    smooth: int = 1,
    ax: Axes | None = None,
) -> Axes:
    """Scores over the tokens of a text or conversation of any length, a curve for each emotion.

    Args:
        readout: a `Readout` of one text at "tokens".
        emotions: the curves; None shows the six with the highest mean.
        turns: `(role, start, end)`, tokens [start, end), as `model.encode_chat(messages).turns`: borders.
        marks: `(name, start, end)`, spans to shade: where a drug's dose is named, say.
        smooth: mean over so many tokens, the token itself in the middle.

    Raises:
        ValueError: several texts, an unknown emotion, a span outside the text, `smooth` below 1.

    Example:
        >>> ax = token_curves(el.read(model, "she ran !", vectors), ["calm", "afraid"], smooth=2)
        >>> ax.get_ylabel()
        'score, mean over 2 tokens'
    """
    if smooth < 1:
        raise ValueError(f"smooth={smooth}: a mean is over at least 1 token")
    _, scores, names, columns = shown(readout, emotions)
    turns, marks = list(turns or ()), list(marks or ())
    _check_spans([*turns, *marks], len(scores))
    ax = ax or new_axes(10, 4)
    every = max(1, len(scores) // 12)
    for column, colour, marker, dash in zip(columns, cycle(COLOURS), cycle(MARKERS), cycle(DASHES)):
        mean = pd.Series(scores[:, column]).rolling(smooth, center=True, min_periods=1).mean()
        style: dict[str, Any] = {"color": colour, "ls": dash, "marker": marker, "markevery": every}
        ax.plot(range(len(mean)), mean, ms=4.5, lw=1.4, label=plain(names[column]), **style)
    ax.axhline(0, color=NULL, lw=0.8)
    ax.set_xlim(-0.5, len(scores) - 0.5)
    ax.margins(y=0.14 if turns or marks else 0.05)  # room for the names above and below the curves
    _draw_spans(ax, turns, marks)
    if len(scores) <= MOST:
        _name_tokens(ax, readout.labels)
    over = f", mean over {smooth} tokens" if smooth > 1 else ""
    ax.set(xlabel="token", ylabel=f"score{over}", title=_read_how(readout))
    beside(ax)
    _name_spans(ax, turns, 0.985, "top")
    _name_spans(ax, marks, 0.015, "bottom")
    return ax


def token_text(
    readout: Any,
    emotion: str,
    turns: Sequence[Span] | None = None,
    smooth: int = 1,
    columns: int = 96,
    ax: Axes | None = None,
    scale: float | None = None,
    marks: Sequence[Span] | None = None,
) -> Axes:
    """A text or conversation as it reads, each token on the colour of its score: `heatmap` for where HTML is not shown.

    Red is above zero; blue, below zero, is underlined too, so that the sign survives grey print.

    Args:
        readout: a `Readout` of one text at "tokens", or `(tokens, scores)`.
        emotion: whose score is shown; of `(tokens, scores)` its name.
        turns: `(role, start, end)`, tokens [start, end), as `model.encode_chat(messages).turns`. Each begins a line
            with its role before it, and what stands between them is left out.
        smooth: mean over so many tokens, the token itself in the middle.
        columns: characters of a line.
        scale: the score drawn in full colour; default the 99th percentile of |score|.
        marks: `(name, start, end)`, spans whose text is bold.

    Raises:
        ValueError: several texts, an unknown emotion, a span outside the text, `smooth` below 1.

    Example:
        >>> ax = token_text((["she", " ran", "!"], [0.1, 0.2, -0.1]), "calm", [("user", 0, 3)])
        >>> [text.get_text() for text in ax.texts]
        ['user', 'she', ' ran', '!']
    """
    if smooth < 1:
        raise ValueError(f"smooth={smooth}: a mean is over at least 1 token")
    tokens, scores, _, chosen = shown(readout, [emotion])
    turns, marks = list(turns or [("", 0, len(tokens))]), list(marks or ())
    _check_spans([*turns, *marks], len(tokens))
    means = pd.Series(scores[:, chosen[0]]).rolling(smooth, center=True, min_periods=1).mean().to_numpy()
    bold = [any(start <= place < end for _, start, end in marks) for place in range(len(tokens))]
    values = np.stack([means, np.array(bold, dtype=float)], axis=1)
    placed, names, line = [], [], 0
    for role, start, end in turns:
        names.append((line, role))
        cells, line = _flow(*whole_characters(tokens[start:end], values[start:end]), line, columns)
        placed += cells
    limit = scale or float(np.percentile([abs(value) for *_, (value, _) in placed], 99)) or 1.0
    margin = max(len(role) for role, *_ in turns) + 2
    ax = ax or new_axes(0.075 * (columns + margin) + 1.2, 0.19 * line + 0.9)
    ax.set(xlim=(-margin, columns), ylim=(line + 0.1, -0.1))
    ax.set_axis_off()
    shade = ScalarMappable(Normalize(-limit, limit), LinearSegmentedColormap.from_list("", [BELOW, "white", ABOVE]))
    over = f", mean over {smooth} tokens" if smooth > 1 else ""
    short = line <= 4 and columns > 40  # a bar of so few lines has no room for its name along it
    how_tall: dict[str, Any] = {"shrink": 1, "aspect": 2 * line} if short else {"shrink": 0.7}
    bar = ax.figure.colorbar(shade, ax=ax, pad=0.01, extend="both", **how_tall)
    if short:
        bar.locator = MaxNLocator(2)
        bar.ax.tick_params(labelsize=SMALL)
        bar.ax.set_ylabel(f"score of\n{plain(emotion)}{over}", rotation=0, ha="left", va="center", fontsize=SMALL)
    else:
        bar.set_label(f"score of {plain(emotion)}{over}")
    if not isinstance(readout, tuple):
        ax.set_title(_read_how(readout))
    extents(ax, [])  # lays the figure out, so that the width of a column is known
    points = ax.get_window_extent().width / ax.figure.dpi * 72 / (columns + margin)
    how: dict[str, Any] = {"fontsize": points / ASPECT, "va": "center"}
    how["fontfamily"] = [FIXED, *fonts_for("".join(text for _, _, text, _ in placed))]
    for row, role in names:
        ax.text(-margin, row + 0.5, plain(role), style="italic", **how)
    for row, column, text, (value, marked) in placed:
        ax.add_patch(Rectangle((column, row + 0.04), _width(text), 0.92, fc=shade.to_rgba(np.array(value)), ec="none"))
        ax.text(column, row + 0.5, plain(text), weight="bold" if marked else "normal", **how)
        if value < 0:
            ax.plot([column, column + _width(text)], [row + 0.9] * 2, color="black", lw=0.6)
    return ax


def unshown(ax: Axes) -> Axes:
    """The same axes, out of the figures that a notebook shows by itself at the end of a cell: of many, save all and
    show a few (`ax.figure` as the last line of a cell shows one).

    Example:
        >>> ax = unshown(token_text((["she", " ran"], [0.1, 0.2]), "calm"))
        >>> ax.figure.number in plt.get_fignums()
        False
    """
    plt.close(ax.get_figure(root=True))
    return ax


def _flow(
    tokens: Sequence[str], values: np.ndarray, line: int, columns: int
) -> tuple[list[tuple[int, int, str, list[float]]], int]:
    """Where each piece of text stands, (line, column, text, values), and the line after the last of them.

    >>> _flow([" so", " she\\n", "ran"], np.array([[1.0], [2.0], [3.0]]), 0, 5)
    ([(0, 0, 'so', [1.0]), (1, 0, 'she', [2.0]), (2, 0, 'ran', [3.0])], 3)
    """
    placed, column = [], 0
    for token, value in zip(tokens, values.tolist(), strict=True):
        for number, part in enumerate(token.split("\n")):
            if number:
                line, column = line + 1, 0
            if column + _width(part) > columns:
                line, column = line + 1, 0
            part = part.lstrip(" ") if column == 0 else part
            if part:
                placed.append((line, column, part, value))
                column += _width(part)
    return placed, line + 1


def _width(text: str) -> int:
    """Columns that a text takes in a font of fixed width."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _check_spans(spans: Sequence[Span], tokens: int) -> None:
    for name, start, end in spans:
        if not 0 <= start < end <= tokens:
            raise ValueError(f"{name!r} is at the tokens [{start}, {end}) of a text of {tokens}")


def _draw_spans(ax: Axes, turns: Sequence[Span], marks: Sequence[Span]) -> None:
    for _, start, end in turns:
        for border in (start, end):
            ax.axvline(border - 0.5, color=NULL, lw=0.8, ls=(0, (1, 2)))
    for _, start, end in marks:
        ax.axvspan(start - 0.5, end - 0.5, fc=(0.9, 0.62, 0, 0.22), ec=NULL, lw=0.6, zorder=0)


def _name_spans(ax: Axes, spans: Sequence[Span], height: float, side: str) -> None:
    """Names where the spans begin, in up to three lines; a name for which no line has room is left out."""
    where: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "in_layout": False}
    where |= {"va": side, "fontsize": SMALL}
    texts = [ax.annotate(plain(name), (start - 0.3, height), (0, 0), **where) for name, start, _ in spans]
    taken: list[np.ndarray] = []
    for text, box in zip(texts, extents(ax, texts), strict=True):
        inside = np.array([min(0.0, ax.bbox.x1 - box[2]), 0.0])  # the last name may not run out of the axes
        line = (box[3] - box[1]) * np.array([0, -1.1 if side == "top" else 1.1])
        for shift in (inside + number * line for number in range(3)):
            if free(moved := box + np.tile(shift, 2), taken):
                taken.append(moved)
                text.set_position(shift / ax.figure.dpi * 72)
                break
        else:
            text.remove()


def _name_tokens(ax: Axes, labels: Sequence[str]) -> None:
    """The tokens at the x axis: a blank one as ␣, one that only goes on with a character as nothing."""
    said = [plain(label.strip()) or "␣" * bool(label) for label in labels]
    ax.set_xticks(range(len(said)), said, rotation=90, fontsize=SMALL)
    if fonts := fonts_for("".join(said)):
        for tick in ax.get_xticklabels():
            tick.set_fontfamily(fonts)


def fonts_for(text: str) -> list[str]:
    """The font families that together have a text's glyphs, the figure's own first; none where that has them all.

    Characters that no installed font has are named in a warning.

    Example:
        >>> fonts_for("she ran")
        []
    """
    own = font_manager.findfont(font_manager.FontProperties())
    missing = {ord(character) for character in text if character.isprintable() and not character.isspace()}
    missing -= _glyphs(own)
    if not missing:
        return []
    families = list(plt.rcParams["font.family"])
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.style != "normal", font.name)):
        if font.name != "Last Resort" and missing & _glyphs(font.fname):
            families.append(font.name)
            missing -= _glyphs(font.fname)
        if not missing:
            break
    if missing:
        lacking = " ".join(chr(code) for code in sorted(missing))
        warnings.warn(
            f"no installed font has the glyphs of {lacking}: the figure shows boxes for them; install a font that has "
            f"them (the Noto family has all) or use plots.heatmap, which the browser draws",
            stacklevel=2,
        )
    return families


@cache
def _glyphs(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that matplotlib can't open has none for it
        return frozenset()


def _read_how(readout: Any) -> str:
    return f"Block {readout.layer}, {readout.method}, centred on {readout.centre!r}"
