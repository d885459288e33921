"""Token heat maps: static HTML without script or network, and the CircuitsVis view."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from emolens.files import write_atomic

LEVELS = 10  # steps of colour on either side of zero: classes instead of inline styles keep the file small
RED, BLUE = "214,47,39", "33,102,200"
STRONGEST = 0.75  # opacity: the page shows through, so that its own text colour stays readable, light or dark
VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | {9: "⇥\t", 10: "↵\n", 127: "␡"}


@runtime_checkable
class Scored(Protocol):
    """What a heat map needs of a `Readout`."""

    @property
    def scores(self) -> Any: ...  # [item emotion]

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def emotions(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, repr=False)
class HTML:
    """A piece of static HTML that a notebook displays and `save` writes as a page of its own."""

    markup: str
    title: str = "emolens"

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return f"<HTML {self.title!r}; .save(path) writes it as a page>"

    def save(self, path: str | Path) -> Path:
        """Write a complete page; what it may load, by its own policy, is nothing."""
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            '<meta name="color-scheme" content="light dark">'
            f"<title>{_escape(self.title)}</title></head><body>{self.markup}</body></html>\n"
        )
        return write_atomic(path, page.encode())


def heatmap(
    readout: Scored | tuple[Sequence[str], Any],
    emotions: str | Sequence[str] | None = None,
    title: str | None = None,
    scale: float | None = None,
) -> HTML:
    """Colour each token by its score: red up, blue down and underlined, scaled as in the paper.

    Args:
        readout: a `Readout` of one text, or `(tokens, scores)` with scores [token] or [token emotion].
        emotions: the emotions to show, one block of text each; None shows the six with the highest mean.
            For `(tokens, scores)`, the names of the columns.
        title: a heading; the page's title too.
        scale: the score drawn in full colour; None takes the 99th percentile of |score| over all tokens
            and all emotions of the readout, shown or not.

    Raises:
        ValueError: several texts, lengths that do not match, an unknown emotion, a scale that is not positive.
    """
    tokens, scores, names = _unpack(readout, emotions)
    meaning = "set by the caller"
    if scale is None:
        scale, meaning = _scale(scores), f"99th percentile of |score|, emotions: {len(names)}"
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be a positive number, or None for the 99th percentile")
    blocks = []
    for index in range(len(names)) if isinstance(readout, tuple) else _chosen(scores, names, emotions):
        name = f"<b>{_escape(names[index])}</b>" if names[index] else ""
        blocks.append(f"<p>{name}{_tokens(tokens, scores[:, index], scale)}</p>")
    heading = f"<h4>{_escape(title)}</h4>" if title else ""
    markup = (
        f'<div class="emolens-heat"><style>{_css()}</style>{heading}{"".join(blocks)}{_legend(scale, meaning)}</div>'
    )
    return HTML(markup, title or "emolens heat map")


def circuitsvis_view(readout: Scored, emotions: str | Sequence[str] | None = None) -> Any:
    """The same scores in CircuitsVis, which needs a browser with script and network.

    Raises:
        ImportError: CircuitsVis is not installed.
    """
    try:
        from circuitsvis.tokens import colored_tokens_multi
    except ImportError as error:
        raise ImportError("circuitsvis_view needs CircuitsVis: pip install 'emolens[notebooks]'") from error
    import torch

    tokens, scores, names = _unpack(readout, emotions)
    chosen = _chosen(scores, names, emotions)
    values = torch.tensor(scores[:, chosen], dtype=torch.float32)
    return colored_tokens_multi(tokens, values, labels=[names[index] for index in chosen])


def _unpack(readout: Any, emotions: str | Sequence[str] | None) -> tuple[list[str], np.ndarray, list[str]]:
    """Tokens, scores [token emotion] and the names of the columns, checked against each other."""
    if isinstance(readout, tuple):
        tokens, scores = list(readout[0]), _array(readout[1])
        scores = scores[:, None] if scores.ndim == 1 else scores
        names = [emotions] if isinstance(emotions, str) else list(emotions or [""] * (scores.ndim == 2))
    else:
        tokens, scores, names = list(readout.labels), _array(readout.scores), list(readout.emotions)
        texts = len(set(getattr(readout, "text_index", ())))
        if texts > 1:
            raise ValueError(f"a heat map shows one text, this readout holds {texts}: choose one, readout.of_text(0)")
    if scores.shape != (len(tokens), len(names)) or not tokens:
        raise ValueError(
            f"{len(tokens)} tokens and {len(names)} emotions need scores of that shape, got {list(scores.shape)}"
        )
    return tokens, scores, names


def _array(values: Any) -> np.ndarray:
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
