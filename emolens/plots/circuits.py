"""Views in CircuitsVis, for notebooks with script: scores of tokens, and the attention beside them.

The script is that of the installed package, in the view itself: CircuitsVis would ask whether it is online and then
take one from a public host, without a check of what it gets.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from emolens.plots.heatmap import Scored, as_array, shown


def circuitsvis_view(readout: Scored, emotions: str | Sequence[str] | None = None) -> Any:
    """The same scores in CircuitsVis, which needs script: hovering over an emotion's name colours the tokens.

    Its colours are its own: blue up, red down, each emotion on a scale of its own. The view holds the script of
    CircuitsVis (1.3 MB) and loads nothing.

    Raises:
        ImportError: CircuitsVis is not installed.

    >>> view = circuitsvis_view(el.read(model, "she was calm", vectors), ["calm", "angry"])
    >>> len(str(view)) > 1_000_000, str(view) == view._repr_html_()
    (True, True)
    """
    import torch

    tokens, scores, names, columns = shown(readout, emotions)
    values = torch.tensor(scores[:, columns], dtype=torch.float32)
    labels = [_inert(names[index]) for index in columns]
    view = _circuitsvis("tokens").colored_tokens_multi([_inert(token) for token in tokens], values, labels=labels)
    return _with_own_script(view)


def circuitsvis_attention(tokens: Sequence[str], patterns: Any) -> Any:
    """Attention patterns in CircuitsVis, to stand beside `circuitsvis_view`.

    Args:
        tokens: the text of each token, as `Readout.labels`.
        patterns: [head destination source], as `model.run_with_cache(text, [8], ["attn.hook_pattern"])` holds
            under `"pattern", 8` for its one text: `[0]`.

    Raises:
        ImportError: CircuitsVis is not installed.
        ValueError: patterns of another number of tokens.

    >>> cache = model.run_with_cache("she was calm", [2], ["attn.hook_pattern"])
    >>> type(circuitsvis_attention(["she", " was", " calm"], cache["pattern", 2][0])).__name__
    'RenderedHTML'
    """
    values = as_array(patterns)
    if values.ndim != 3 or values.shape[1:] != (len(tokens), len(tokens)):
        raise ValueError(
            f"{len(tokens)} tokens need patterns [head {len(tokens)} {len(tokens)}], got {list(values.shape)}"
        )
    return _with_own_script(_circuitsvis("attention").attention_heads(values, [_inert(token) for token in tokens]))


def _circuitsvis(part: str) -> Any:
    try:
        return importlib.import_module(f"circuitsvis.{part}")
    except ImportError as error:
        raise ImportError("this view needs CircuitsVis: pip install 'emolens[notebooks]'") from error


def _with_own_script(view: Any) -> Any:
    """The view with the script inside in every form that it can be shown in."""
    source = view.local_src.replace("//# sourceMappingURL=iife.js.map", "")  # a map that a browser would ask for
    view.local_src = view.cdn_src = source
    view._repr_html_ = lambda: source  # its own asks a public host whether there is a network
    return view


def _inert(token: str) -> str:
    """CircuitsVis writes tokens into a script as they are: with a joiner of no width, none can end or open one."""
    return token.replace("<", "<\u2060")
