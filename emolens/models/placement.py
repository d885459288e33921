"""Where a model's weights lie, in what form, and whether there is room for them."""

from __future__ import annotations

from typing import Any


def quantised_as(hf_model: Any) -> str:
    """In words, of how few bits the weights of a Hugging Face model are or were; "" where they are whole.

    Of a model whose blocks were dequantised by `embedded.local_path` it is llama.cpp's name of their format.

    >>> quantised_as(model.hf_model)
    ''
    """
    config = getattr(hf_model, "config", None)
    if form := getattr(config, "dequantised_from", ""):
        return f"{form}, dequantised"
    live: Any = getattr(config, "quantization_config", None)
    if live is None:
        return ""
    facts = live if isinstance(live, dict) else live.to_dict()
    method = str(getattr(facts.get("quant_method"), "value", facts.get("quant_method") or type(live).__name__))
    bits = facts.get("bits") or (4 if facts.get("load_in_4bit") else 8 if facts.get("load_in_8bit") else None)
    return f"{method}, {bits} bits" if bits else method
