"""Views in CircuitsVis, for notebooks with script: scores of tokens, and the attention beside them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from emolens.plots.heatmap import Scored, as_array, shown


def circuitsvis_view(readout: Scored, emotions: str | Sequence[str] | None = None) -> Any:
    """The same scores in CircuitsVis, which needs script: hovering over an emotion's name colours the tokens.

    Its colours are its own: blue up, red down, each emotion on a scale of its own.

    Raises:
        ImportError: CircuitsVis is not installed.
    """
    import torch

    tokens, scores, names, columns = shown(readout, emotions)
    values = torch.tensor(scores[:, columns], dtype=torch.float32)
    labels = [_inert(names[index]) for index in columns]
    return _circuitsvis("tokens").colored_tokens_multi([_inert(token) for token in tokens], values, labels=labels)


def circuitsvis_attention(tokens: Sequence[str], patterns: Any) -> Any:
    """Attention patterns in CircuitsVis, to stand beside `circuitsvis_view`.

    Args:
        tokens: the text of each token, as `Readout.labels`.
        patterns: [head destination source], as `model.run_with_cache(text, [8], ["attn.hook_pattern"])` holds
            under `"pattern", 8` for its one text: `[0]`.

    Raises:
        ImportError: CircuitsVis is not installed.
        ValueError: patterns of another number of tokens.
    """
    values = as_array(patterns)
    if values.ndim != 3 or values.shape[1:] != (len(tokens), len(tokens)):
        raise ValueError(
            f"{len(tokens)} tokens need patterns [head {len(tokens)} {len(tokens)}], got {list(values.shape)}"
        )
    return _circuitsvis("attention").attention_heads(values, [_inert(token) for token in tokens])


def _circuitsvis(part: str) -> Any:
    try:
        return importlib.import_module(f"circuitsvis.{part}")
    except ImportError as error:
        raise ImportError("this view needs CircuitsVis: pip install 'emolens[notebooks]'") from error


def _inert(token: str) -> str:
    """CircuitsVis writes tokens into a script as they are: with a joiner of no width, none can end or open one."""
    return token.replace("<", "<\u2060")
