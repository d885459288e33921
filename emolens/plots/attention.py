"""Where attention heads look: the pattern of one head as a picture over the tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from emolens.plots.style import SEQUENTIAL, SMALL, new_axes, plain, require, token_ticks


def attention_pattern(
    frame: pd.DataFrame, first: int = 0, title: str = "Where the head looks", ax: Axes | None = None
) -> Axes:
    """How much each token (a row) looks at each token before it and at itself (a column); each row adds up to 1.

    Many heads rest on a text's first token when they have nothing to do. So the brightest colour is the largest
    weight on any other token, and what the first token gets beyond that is cut off. What comes later can't be looked
    at and is left white. For several heads: `plots.panels(frame, "head", plots.attention_pattern)`.

    Args:
        frame: a row for each token, in order: its `token`, and in the columns 0, 1, … the weight that it gives to the
            token of that position: a pattern [destination source] as TransformerLens has at `attn.hook_pattern`.
        first: the position of the first row drawn; tokens before it still have their columns.

    Raises:
        ValueError: no rows, a column is missing, a weight is not finite, or `first` is no row.

    >>> frame = pd.DataFrame([[1.0, 0.0], [0.3, 0.7]]).assign(token=["she", " ran"])
    >>> ax = attention_pattern(frame)
    >>> [text.get_text() for text in ax.get_xticklabels()], ax.get_ylabel()
    (['she', 'ran'], 'from this token')
    """
    require(frame, "token")
    places = list(range(len(frame)))
    if missing := [place for place in places if place not in frame]:
        raise ValueError(f"a text of {len(frame)} tokens needs a column for each position; missing: {missing}")
    weights = frame[places].to_numpy(dtype=float)
    if not np.isfinite(weights).all():
        raise ValueError("the pattern holds weights that are not finite")
    if first not in places:
        raise ValueError(f"first={first} is no row of a text of {len(frame)} tokens")
    later = np.triu(np.ones(weights.shape, dtype=bool), 1)
    seen = np.ma.masked_where(later, weights)[first:]
    rows = len(frame) - first
    ax = ax or new_axes(0.3 * len(frame) + 2.4, 0.3 * rows + 1.6)
    limit = float(weights[first:, 1:].max(initial=0)) or 1.0
    image = ax.imshow(seen, cmap=SEQUENTIAL, vmin=0, vmax=limit, interpolation="nearest", aspect="auto")
    extend = "max" if weights[first:].max() > limit else "neither"
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9, extend=extend)
    bar.set_label("weight", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    names = [plain(token.strip().replace("\n", "⏎") or "␣") for token in frame["token"]]
    token_ticks(ax, names)
    ax.set_yticks(range(rows), names[first:], fontsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="to this token", ylabel="from this token", title=title)
    return ax
