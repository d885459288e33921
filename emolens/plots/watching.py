"""A reply as it was watched while it was written, for where no kernel runs: a static page, a figure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emolens.plots.heatmap import BLUE, HTML, RED, STRONGEST
from emolens.plots.style import COLOURS, DASHES, MARKERS, NULL, SMALL, plain, words
from emolens.plots.tokens import token_text

WIDTH, HEIGHT, LEFT, FOOT, MARGIN = 640, 190, 52, 24, 10  # of a chart on the page, in pixels
STROKES = {"-": "", "--": "7 3", ":": "2 3", "-.": "8 3 2 3"}  # a dash of matplotlib's, in SVG


class Row(NamedTuple):
    """A reply: what was written, and what was read at each token.

    Attributes:
        name: what it was steered with.
        pieces: the text of each token; "" where a character was not whole yet.
        scores: [token name]; `heights` of a monitor too.
        log_probs: of each token.
        alarms: `(token, text, name, height)`, the token counted from the beginning of the reply; below 0 in the prompt.

    Example:
        >>> Row("unsteered", ["she", " ran"], [[0.1], [-0.1]], [-1.0, -2.0]).alarms
        ()
    """

    name: str
    pieces: Sequence[str]
    scores: Sequence[Sequence[float]]
    log_probs: Sequence[float]
    heights: Sequence[Sequence[float]] | None = None
    alarms: Sequence[tuple[int, str, str, float]] = ()


class Written(NamedTuple):
    """Replies to one prompt, side by side.

    Attributes:
        model: its name; `how` is what was read of it.
        turns: `(role, text)` of the prompt; the role of a plain text is "".
        names: what was watched; `colour` is the one that colours the text, white at `centre`.
        threshold: of a monitor, a height.

    Example:
        >>> row = Row("unsteered", ["she", " ran"], [[0.1], [-0.1]], [-1.0, -2.0])
        >>> Written("tiny", "block 3", [("", "so")], ["calm"], [row], "calm").scale
        0.1
    """

    model: str
    how: str
    turns: Sequence[tuple[str, str]]
    names: Sequence[str]
    rows: Sequence[Row]
    colour: str
    centre: float = 0.0
    threshold: float | None = None

    @property
    def scale(self) -> float:
        """The distance from the centre that is drawn in full colour: the 99th percentile of all tokens.

        Example:
            >>> Written("tiny", "block 3", [], ["calm"], [], "calm").scale
            1.0
        """
        sizes = np.abs(np.concatenate([[0.0], *(shades(self, row) for row in self.rows)]))
        return float(np.percentile(sizes, 99) or sizes.max() or 1.0)


def shades(written: Written, row: Row) -> np.ndarray:
    """The distance of each token's score from the centre, in the emotion that colours the text.

    Example:
        >>> row = Row("unsteered", ["she"], [[0.5]], [-1.0])
        >>> shades(Written("tiny", "block 3", [], ["calm"], [row], "calm", 0.25), row)
        array([0.25])
    """
    column = list(written.names).index(written.colour)
    return np.array([scores[column] for scores in row.scores], dtype=float) - written.centre


def curves_of(row: Row) -> np.ndarray:
    """What the lines show, [token name]: the heights of a monitor where there are some, else the scores.

    Example:
        >>> curves_of(Row("unsteered", ["she"], [[0.5]], [-1.0], heights=[[2.0]]))
        array([[2.]])
    """
    return np.array(row.scores if row.heights is None else row.heights, dtype=float)


def written_page(written: Written) -> HTML:
    """Replies as a static page: lines over the tokens, the text in colour, and the alarms; no script, no network.

    Red is above the centre; blue, below it, is underlined too.

    Example:
        >>> row = Row("unsteered", ["she", " <i>"], [[0.1], [-0.1]], [-1.0, -2.0])
        >>> page = written_page(Written("tiny", "block 3", [("", "so")], ["calm"], [row], "calm"))
        >>> page, "<i>" in page.markup, page.markup.count("<polyline")
        (<HTML 'tiny, written and watched'; .save(path) writes it as a page>, False, 1)
    """
    title = f"{written.model}, written and watched"
    asked = "".join(f"<p><b>{_safe(role or 'text')}</b> {_safe(text)}</p>" for role, text in written.turns)
    legend = "".join(
        f'<span><svg width="30" height="10" aria-hidden="true"><path d="M0 5H30" {_stroke(number)}/></svg> '
        f"{_safe(name)}</span> "
        for number, name in enumerate(written.names)
    )
    parts = "".join(_part(written, row) for row in written.rows) or "<p>Nothing was written yet.</p>"
    return HTML(
        f'<div class="emolens-written"><style>{_css()}</style><h4>{_safe(written.model)}</h4>'
        f"<small>{_safe(written.how)}</small>{asked}<p>{legend}</p>{parts}</div>",
        title,
    )


def written_figure(written: Written) -> Figure:
    """Replies as a figure: for each the lines over its tokens, and below them the text in colour.

    Example:
        >>> row = Row("unsteered", ["she", " ran"], [[0.1], [-0.1]], [-1.0, -2.0])
        >>> figure = written_figure(Written("tiny", "block 3", [], ["calm"], [row], "calm"))
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['tiny: unsteered']
    """
    rows = [row for row in written.rows if row.pieces]
    if not rows:
        figure = words("Nothing was written yet.").get_figure(root=True)
        assert figure is not None
        return figure
    sizes = [part for row in rows for part in (2.3, 0.5 + 0.23 * _lines(row.pieces))]
    figure, axes = plt.subplots(
        2 * len(rows), 1, figsize=(11, sum(sizes) + 0.6), height_ratios=sizes, squeeze=False, layout="constrained"
    )
    name = f"{written.colour} less {written.centre:.2g}" if written.centre else written.colour
    for row, (above, below) in zip(rows, axes.reshape(-1, 2), strict=True):
        _draw_curves(written, row, above)
        token_text((_joined(row.pieces), shades(written, row)), name, ax=below, scale=written.scale)
    every = [curves_of(row) for row in rows]
    ends = [0.0, *([written.threshold] if written.threshold is not None else [])]
    low, high = (float(f([*(f(x) for x in every), f(ends)])) for f in (np.min, np.max))
    for ax in axes[::2, 0]:
        ax.set_xlim(-0.5, max(2, *(len(x) for x in every)) - 0.5)
        ax.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    return figure


def _draw_curves(written: Written, row: Row, ax: Axes) -> None:
    values = curves_of(row)
    for number, name in enumerate(written.names):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "ls": DASHES[number % len(DASHES)]}
        style |= {"marker": MARKERS[number % len(MARKERS)], "markevery": max(1, len(values) // 12)}
        ax.plot(range(len(values)), values[:, number], ms=4, lw=1.4, label=plain(name), **style)
    ax.axhline(0, color=NULL, lw=0.8)
    if written.threshold is not None:
        ax.axhline(written.threshold, color="black", lw=1, ls=(0, (4, 2)), label="alarm")
        for token, _, name, height in row.alarms:
            ax.plot(max(token, -0.5), height, "v", color="black", ms=9, mfc="none", clip_on=False)
            if token >= 0:  # those of the prompt stand on one another at the edge
                ax.annotate(plain(name), (token, height), (6, 4), textcoords="offset points", fontsize=SMALL)
    ax.set(title=plain(f"{written.model}: {row.name}"), ylabel=_unit(written))
    ax.set_xlabel("token of the reply", fontsize=SMALL)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=SMALL, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _unit(written: Written) -> str:
    return "score" if written.threshold is None else "height (sd of quiet tokens)"


def _lines(pieces: Sequence[str], columns: int = 96) -> int:
    """About how many lines a text takes."""
    return sum(1 + len(line) // (columns - 4) for line in "".join(pieces).split("\n"))


def _joined(pieces: Sequence[str]) -> list[str]:
    """The pieces as a heat map takes them: what a token held back stands at the first of the tokens that made it.

    >>> _joined([" so", "", "", " 🥹", "!"])
    [' so', ' 🥹', '', '', '!']
    """
    out, held = [], 0
    for piece in pieces:
        if not piece:
            held += 1
            continue
        out += [piece, *[""] * held]
        held = 0
    return [*out, *[""] * held]


def _part(written: Written, row: Row) -> str:
    """A reply on the page."""
    alarms = "".join(
        f"<li>{_safe(name)}, {_where(token)}{_safe(repr(text))}: {height:.1f} sd above quiet tokens</li>"
        for token, text, name, height in row.alarms
    )
    listed = f"<ul>{alarms}</ul>" if alarms else ""
    scale, shaded, marked = written.scale, shades(written, row), {token for token, *_ in row.alarms}
    spans = "".join(
        f'<span class="{"down" if shade < 0 else "up"}{" alarm" if number in marked else ""}" '
        f'style="background:rgba({RED if shade > 0 else BLUE},{min(1, abs(shade) / scale) * STRONGEST:.2f})" '
        f'title="{_said(written, row, number)}">{_safe(piece)}</span>'
        for number, (piece, shade) in enumerate(zip(row.pieces, shaded, strict=True))
        if piece
    )
    legend = (
        f"Coloured by {_safe(written.colour)}: red above {written.centre:.3g}, blue and underlined below; "
        f"full colour {scale:.3g} away."
    )
    return (
        f"<section><h5>{_safe(row.name)}</h5>{_chart(written, row)}<p class=reply>{spans}</p>"
        f"<small>{legend}</small>{listed}</section>"
    )


def _said(written: Written, row: Row, number: int) -> str:
    """What hovering over a token shows."""
    scores = [f"{name} {score:+.3f}" for name, score in zip(written.names, row.scores[number], strict=True)]
    return _safe("\n".join([row.pieces[number], *scores, f"log-probability {row.log_probs[number]:.2f}"]))


def _where(token: int) -> str:
    return f"token {token} " if token >= 0 else "in the prompt "


def _chart(written: Written, row: Row) -> str:
    """The lines over the tokens, as SVG. All rows have the same axes."""
    every = [curves_of(other) for other in written.rows if len(other.pieces)]
    if not len(row.pieces):
        return "<p>Nothing was written.</p>"
    ends = [0.0] if written.threshold is None else [0.0, written.threshold]
    low = min(*ends, *(float(x.min()) for x in every), 0.0)
    high = max(*ends, *(float(x.max()) for x in every), low + 1e-9)
    longest = max(len(x) for x in every)

    def x(token: float) -> float:
        return LEFT + (max(token, -0.5) + 0.5) / longest * (WIDTH - LEFT - MARGIN)

    def y(value: float) -> float:
        return MARGIN + (high - value) / (high - low) * (HEIGHT - MARGIN - FOOT)

    lines = [f'<path class=axis d="M{LEFT} {y(0):.1f}H{WIDTH - MARGIN}"/>']
    for value in dict.fromkeys((low, 0.0, high)):
        lines.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for column in range(len(written.names)):
        points = " ".join(f"{x(token):.1f},{y(v):.1f}" for token, v in enumerate(curves_of(row)[:, column].tolist()))
        lines.append(f'<polyline points="{points}" {_stroke(column)}/>')
    if written.threshold is not None:
        at = y(written.threshold)
        lines.append(f'<path class=line d="M{LEFT} {at:.1f}H{WIDTH - MARGIN}"/>')
        lines.append(f'<text x="{WIDTH - MARGIN}" y="{at - 4:.1f}" text-anchor="end">alarm</text>')
        lines += [
            f'<path class=alarm d="M{x(token):.1f} {y(height) - 4:.1f}l-5 -9h10z"><title>{_safe(name)}</title></path>'
            for token, _, name, height in row.alarms
        ]
    lines.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{len(row.pieces)} tokens; {_unit(written)}</text>')
    summary = f"{_unit(written)} over the tokens of the reply, {row.name}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_safe(summary)}">{"".join(lines)}</svg>'


def _stroke(number: int) -> str:
    colour, dash = strokes()[number % 6]
    return f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"'


def strokes() -> list[tuple[str, str]]:
    """Colour and dashes of the lines, as SVG has them: no two of the first six alike.

    Example:
        >>> strokes()[0]
        ('#0072B2', '')
    """
    dashes = list(STROKES.values())
    return [(COLOURS[number], dashes[number % len(dashes)]) for number in range(6)]


def _css() -> str:
    return (
        ".emolens-written{font:14px/1.7 system-ui,sans-serif;max-width:60em;print-color-adjust:exact}"
        f".emolens-written svg{{max-width:100%;vertical-align:middle}} .emolens-written svg[role]{{width:{WIDTH}px}}"
        ".emolens-written p{white-space:pre-wrap;overflow-wrap:anywhere;margin:.5em 0}"
        ".emolens-written h4,.emolens-written h5{margin:.6em 0 .2em}"
        ".emolens-written text{font-size:11px;fill:currentColor}"
        f".emolens-written .axis{{stroke:{NULL}}}"
        ".emolens-written .line{stroke:currentColor;stroke-dasharray:4 3}"
        ".emolens-written path.alarm{fill:currentColor}"
        ".emolens-written span.alarm{outline:2px solid}"
        ".emolens-written .down{text-decoration:underline;text-underline-offset:3px}"
    )


def _safe(text: Any) -> str:
    """Text for an element or a quoted attribute; half a surrogate pair, which no file can hold, becomes `?`."""
    return html.escape(str(text).encode("utf-8", "replace").decode())
