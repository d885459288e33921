"""Token heat maps of texts and conversations as static HTML, without script or network."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from emolens.files import write_atomic

LEVELS = 10  # steps of colour on either side of zero: classes instead of inline styles keep the file small
RED, BLUE = "214,47,39", "33,102,200"
STRONGEST = 0.75  # opacity: the page shows through, so that its own text colour stays readable, light or dark
VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | {9: "⇥\t", 10: "↵\n", 127: "␡"}
BAR_RED, BAR_BLUE = "229,57,53", "66,133,244"  # bars hold no text, so they may be as strong as dark pages need


@runtime_checkable
class Scored(Protocol):
    """What a heat map needs of a `Readout`.

    Example:
        >>> isinstance(el.read(model, "she ran !", vectors), Scored)
        True
    """

    @property
    def scores(self) -> Any: ...  # [item emotion]

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def emotions(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, repr=False)
class HTML:
    """A piece of static HTML that a notebook displays and `save` writes as a page of its own.

    Example:
        >>> HTML("<p>calm</p>", "a note").save("note.html").read_text(encoding="utf-8")[-26:]
        '<p>calm</p></body></html>\\n'
    """

    markup: str
    title: str = "emolens"

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return f"<HTML {self.title!r}; .save(path) writes it as a page>"

    @property
    def page(self) -> str:
        """A complete page; what it may load, by its own policy, is nothing.

        Example:
            >>> HTML("<p>calm</p>").page[:15]
            '<!doctype html>'
        """
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            '<meta name="color-scheme" content="light dark">'
            f"<title>{_escape(self.title)}</title></head><body>{self.markup}</body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page."""
        return write_atomic(path, self.page.encode())


def heatmap(
    readout: Scored | tuple[Sequence[str], Any],
    emotions: str | Sequence[str] | None = None,
    title: str | None = None,
    scale: float | None = None,
    turns: Sequence[tuple[str, int, int]] | None = None,
    smooth: int = 1,
) -> HTML:
    """Colour each token by its score: red up, blue down and underlined, scaled as in the paper.

    `token_text` draws the same as a picture; `conversation` shows several emotions in one text.

    Args:
        readout: a `Readout` of one text, or `(tokens, scores)` with scores [token] or [token emotion]. The tokens of
            a readout that make up one character are shown as one, with their mean; a special token that is not in
            the text, such as a BOS before it, is shown as ∅.
        emotions: the emotions to show, one block of text each; None shows the six with the highest mean.
            For `(tokens, scores)`, the names of the columns.
        title: a heading; the page's title too.
        scale: the score drawn in full colour; None takes the 99th percentile of |score| over all tokens
            and all emotions of the readout, shown or not.
        turns: `(role, start, end)`, tokens [start, end), as `model.encode_chat(messages).turns`. Each begins a line
            with its role, and what stands between them is left out.
        smooth: mean over so many tokens, the token itself in the middle.

    Raises:
        ValueError: several texts, lengths that do not match, an unknown emotion, a scale that is not positive; turns
            that overlap or reach outside the text, `smooth` below 1.

    Example:
        >>> heatmap(el.read(model, "she ran !", vectors), "calm", title="who ran")
        <HTML 'who ran'; .save(path) writes it as a page>
        >>> ' ran</span>' in heatmap((["she", " ran"], [0.1, -0.2])).markup
        True
    """
    if smooth < 1:
        raise ValueError(f"smooth={smooth}: a mean is over at least 1 token")
    tokens, scores, names, columns = shown(readout, emotions)
    if smooth > 1:
        scores = pd.DataFrame(scores).rolling(smooth, center=True, min_periods=1).mean().to_numpy()
    parts = [part for part in _in_order(turns, len(tokens)) if part[0]] if turns else [("", 0, len(tokens))]
    scale, meaning = _checked_scale(np.concatenate([scores[start:end] for _, start, end in parts]), scale)
    said = [(role, tokens[start:end], scores[start:end]) for role, start, end in parts]
    if not isinstance(readout, tuple):
        said = [(role, *whole_characters(part, values)) for role, part, values in said]
    blocks = []
    for index in columns:
        name = f"<b>{_escape(names[index])}</b>" if names[index] else ""
        lines = [
            (f"<i>{_escape(role)}</i> " if role else "") + _tokens(part, values[:, index], scale)
            for role, part, values in said
        ]
        blocks.append(f"<p>{name}{'<br>'.join(lines)}</p>")
    heading = f"<h4>{_escape(title)}</h4>" if title else ""
    markup = (
        f'<div class="emolens-heat"><style>{_css()}</style>{heading}{"".join(blocks)}{_legend(scale, meaning)}</div>'
    )
    return HTML(markup, title or "emolens heat map")


def conversation(
    readout: Scored | tuple[Sequence[str], Any],
    emotions: str | Sequence[str] | None,
    turns: Sequence[tuple[str, int, int]],
    title: str | None = None,
    scale: float | None = None,
) -> HTML:
    """A conversation, its turns apart, with a bar below each token for each emotion: red up, blue striped down.

    Args:
        readout, emotions, title, scale: as for `heatmap`.
        turns: `(role, start, end)`, tokens [start, end), as `model.encode_chat(messages).turns`. The
            tokens of the chat template between them are shown small and grey.

    Raises:
        ValueError: what `heatmap` raises; turns that overlap or reach outside the text.

    Example:
        >>> chat = [{"role": "user", "content": "she ran !"}]
        >>> conversation(el.read(model, [chat], vectors), ["calm", "afraid"], model.encode_chat(chat).turns)
        <HTML 'emolens conversation'; .save(path) writes it as a page>
    """
    tokens, scores, names, columns = shown(readout, emotions)
    scale, meaning = _checked_scale(scores, scale)
    names, values = [names[index] for index in columns], scores[:, columns]
    parts = []
    for kind, begin, stop in _in_order(turns, len(tokens)):
        part = (tokens[begin:stop], values[begin:stop])
        part = part if isinstance(readout, tuple) else whole_characters(*part)
        cells = _cells(*part, names, scale, lines=bool(kind))
        parts.append(f"<section><b>{_escape(kind)}</b>{cells}</section>" if kind else f"<aside>{cells}</aside>")
    heading = f"<h4>{_escape(title)}</h4>" if title else ""
    listed = ", ".join(map(_escape, names))
    steps = np.linspace(-1, 1, 11)
    sample = _cells([f" {step:+.1g} " for step in steps], steps[:, None] * scale, ["score"], scale)
    legend = f"bars from above: {listed}<br>{sample} 1 = {scale:.3g} ({_escape(meaning)}); striped: below zero"
    style = f"<style>{_css()}{_bar_css()}</style>"
    markup = f'<div class="emolens-heat emolens-talk">{style}{heading}<small>{legend}</small>{"".join(parts)}</div>'
    return HTML(markup, title or "emolens conversation")


def _in_order(turns: Sequence[tuple[str, int, int]], number: int) -> list[tuple[str, int, int]]:
    """The turns in the order of the text, and without a role what the chat template puts between them.

    >>> _in_order([("assistant", 4, 6), ("user", 1, 3)], 6)
    [('', 0, 1), ('user', 1, 3), ('', 3, 4), ('assistant', 4, 6)]
    """
    parts, done = [], 0
    in_order = sorted(turns, key=lambda turn: turn[1])  # a template may put a system message into a later turn
    for role, start, end in [*in_order, ("", number, number)]:
        if not done <= start <= end <= number:
            raise ValueError(f"turn {role!r} [{start}, {end}) overlaps the one before or is not within {number} tokens")
        parts += [("", done, start), (role, start, end)]
        done = end
    return [part for part in parts if part[1] < part[2]]


def shown(readout: Any, emotions: str | Sequence[str] | None) -> tuple[list[str], np.ndarray, list[str], list[int]]:
    """Tokens, scores [token emotion], the names of all columns, and which of the columns to show.

    Example:
        >>> tokens, scores, names, columns = shown(el.read(model, "she ran !", vectors), ["calm"])
        >>> tokens, scores.shape, [names[column] for column in columns]
        (['she', 'ran', '!'], (3, 6), ['calm'])
    """
    tokens, scores, names = _unpack(readout, emotions)
    columns = list(range(len(names))) if isinstance(readout, tuple) else _chosen(scores, names, emotions)
    return tokens, scores, names, columns


def whole_characters(labels: Sequence[str], scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Tokens that make up one character as one, with the mean of their scores [token emotion].

    An empty label goes on with the token before it, as in a `Readout`; so does one that begins with a combining mark,
    with what joins emoji, or with a skin tone.

    Example:
        >>> whole_characters([" so", " 🥹", "", ""], np.array([[1.0], [2.0], [3.0], [7.0]]))
        ([' so', ' 🥹'], array([[1.], [4.]]))
    """
    starts, before = [], ""
    for place, label in enumerate(labels):
        if place == 0 or not _goes_on(before, label):
            starts.append(place)
        before = label or before
    ends = [*starts[1:], len(labels)]
    means = np.stack([scores[start:end].mean(axis=0) for start, end in zip(starts, ends, strict=True)])
    return ["".join(labels[start:end]) for start, end in zip(starts, ends, strict=True)], means


def _goes_on(before: str, label: str) -> bool:
    """Whether a label belongs to the character at the end of the one before."""
    if not label:
        return True
    joins = unicodedata.category(label[0]) in ("Mn", "Mc", "Me") or label[0] == "\u200d" or "🏻" <= label[0] <= "🏿"
    return bool(before.strip()) and (joins or before.endswith("\u200d"))


def _checked_scale(scores: np.ndarray, scale: float | None) -> tuple[float, str]:
    """The score drawn in full colour, and what it is."""
    meaning = "set by the caller"
    if scale is None:
        scale, meaning = _scale(scores), f"99th percentile of |score|, emotions: {scores.shape[1]}"
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be a positive number, or None for the 99th percentile")
    return scale, meaning


def _unpack(readout: Any, emotions: str | Sequence[str] | None) -> tuple[list[str], np.ndarray, list[str]]:
    """Tokens, scores [token emotion] and the names of the columns, checked against each other."""
    if isinstance(readout, tuple):
        tokens, scores = list(readout[0]), as_array(readout[1])
        scores = scores[:, None] if scores.ndim == 1 else scores
        names = [emotions] if isinstance(emotions, str) else list(emotions or [""] * (scores.ndim == 2))
    else:
        tokens, scores, names = list(readout.labels), as_array(readout.scores), list(readout.emotions)
        texts = len(set(getattr(readout, "text_index", ())))
        if texts > 1:
            raise ValueError(f"a heat map shows one text, this readout holds {texts}: choose one, readout.of_text(0)")
    if scores.shape != (len(tokens), len(names)) or not tokens:
        raise ValueError(
            f"{len(tokens)} tokens and {len(names)} emotions need scores of that shape, got {list(scores.shape)}"
        )
    return tokens, scores, names


def as_array(values: Any) -> np.ndarray:
    """Numbers of any kind, a bfloat16 tensor among them, as an array of floats.

    Example:
        >>> as_array([1, 2])
        array([1., 2.])
    """
    if hasattr(values, "detach"):  # a tensor; numpy knows no bfloat16
        values = values.detach().float().cpu()
    return np.asarray(values, dtype=float)


def _chosen(scores: np.ndarray, names: list[str], emotions: str | Sequence[str] | None) -> list[int]:
    if emotions is None:
        means = np.nan_to_num(scores, nan=-np.inf, posinf=-np.inf, neginf=-np.inf).mean(axis=0)
        return np.argsort(-means, kind="stable")[:6].tolist()
    wanted = [emotions] if isinstance(emotions, str) else list(emotions)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise ValueError(f"{unknown or wanted} cannot be shown: the readout holds {', '.join(names[:20])}, ...")
    return [names.index(name) for name in wanted]


def _scale(scores: np.ndarray) -> float:
    """The 99th percentile of |score|; the maximum where that is 0; 1 where there is nothing to scale."""
    sizes = np.abs(scores[np.isfinite(scores)])
    return float(np.percentile(sizes, 99) or sizes.max() or 1.0) if sizes.size else 1.0


def _css() -> str:
    rules = [
        ".emolens-heat{font:14px/1.9 system-ui,sans-serif;overflow-wrap:anywhere;print-color-adjust:exact}",
        ".emolens-heat p{margin:.6em 0;white-space:pre-wrap}",
        ".emolens-heat b{display:block;line-height:1.3}",
        ".emolens-heat small{font-size:12px;white-space:pre-wrap}",
        ".emolens-heat .na{opacity:.6;text-decoration:line-through}",
    ]
    for level in range(1, LEVELS + 1):
        opacity = f"{STRONGEST * level / LEVELS:.3g}"
        rules.append(f".emolens-heat .u{level}{{background:rgba({RED},{opacity})}}")
        line = "solid" if 2 * level > LEVELS else "dotted"  # the sign must survive a greyscale print
        rules.append(
            f".emolens-heat .d{level}{{background:rgba({BLUE},{opacity});text-decoration:underline {line} 1px;"
            "text-underline-offset:3px}"
        )
    return "".join(rules)


def _tokens(tokens: Sequence[str], scores: np.ndarray, scale: float) -> str:
    """One element a token; the text that hovering shows is the token and its score."""
    return "".join(
        f'<span class="{_level(score / scale)}" title="{token} {score:+.3f}">{token}</span>'
        for token, score in zip(map(_visible, tokens), scores, strict=True)
    )


def _cells(tokens: Sequence[str], scores: np.ndarray, names: Sequence[str], scale: float, lines: bool = False) -> str:
    """One element a token, with a bar for each emotion; hovering shows the token and its scores [token emotion].

    With `lines` a line ends after the last of the tokens that end it.
    """
    out, ends = [], [lines and "\n" in token for token in tokens] + [True]
    for number, (token, row) in enumerate(zip(tokens, scores, strict=True)):
        text = _visible(token).replace("\n", "")
        said = "\n".join([text, *(f"{_escape(name)} {value:+.3f}" for name, value in zip(names, row, strict=True))])
        bars = "".join(f"<i class={_level(value / scale)}></i>" for value in row)
        out.append(f'<span title="{said}">{text}{bars}</span>')
        if ends[number] and not ends[number + 1]:
            out.append("<br>")
    return "".join(out)


def _bar_css() -> str:
    rules = [
        ".emolens-talk small{display:block;margin-bottom:1em}",
        ".emolens-talk section{border-left:3px solid;padding-left:.6em;margin:.3em 0 .9em}",
        ".emolens-talk span{display:inline-block;max-width:100%;vertical-align:top;line-height:1.5}",
        ".emolens-talk span{white-space:pre-wrap}",
        ".emolens-talk i{display:block;height:5px;margin-top:1px;background:rgba(128,128,128,.15)}",
        # The sign must survive a greyscale print: stripes.
        ".emolens-talk i[class^=d]{mask:repeating-linear-gradient(90deg,#000 0 3px,#0000 3px 5px)}",
        ".emolens-talk aside{font-size:11px;color:#787878}",
    ]
    for level in range(1, LEVELS + 1):
        for sign, colour in (("u", BAR_RED), ("d", BAR_BLUE)):
            rules.append(f".emolens-talk .{sign}{level}{{background:rgba({colour},{level / LEVELS:.3g})}}")
    return "".join(rules)


def _level(value: float) -> str:
    """The colour class of a score on the scale of [-1, 1]."""
    if not np.isfinite(value):
        return "na"
    level = min(LEVELS, round(abs(value) * LEVELS))
    return f"{'u' if value > 0 else 'd'}{level}" if level else "z"


def _legend(scale: float, meaning: str) -> str:
    steps = [step / LEVELS for step in range(-LEVELS, LEVELS + 1, 2)]
    swatches = "".join(
        f'<span class="{_level(step)}" title="{step * scale:+.3f}"> {step:+.1g} </span>' for step in steps
    )
    return f"<small>{swatches}  1 = {scale:.3g} ({_escape(meaning)}); underlined: below zero</small>"


def _escape(text: str) -> str:
    """Text for an element or a quoted attribute; half a surrogate pair, which no file can hold, becomes `?`."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _visible(token: str) -> str:
    """The token's text with its white space shown: a token of blanks alone, a line break, nothing at all."""
    if not token.strip(" "):
        return "·" * len(token) or "∅"
    return _escape(token.translate(VISIBLE))
