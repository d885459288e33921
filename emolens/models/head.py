"""From the residual stream to logits as the model itself does it: final norm, output matrix, bias, scale, soft cap.

What stands here is read from the model's configuration and modules; whether it is all there is, `support` checks
against the model's own logits before a number is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emolens.models.placement import weight_of

FACTORS = ("logit_scale", "lm_head_multiplier", "logit_multiplier")  # logits are multiplied by them (Cohere, Falcon-H1)
DIVISORS = ("logits_scaling",)  # ... and divided by these (Granite)
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def logits(model: Any, x: Tensor) -> Tensor:
    """Logits `row 1 vocab` of residuals `row 1 d_model`, in the dtype of the weights.

    >>> logits(model, model.forward("she ran .", stop_after=3)).shape
    torch.Size([1, 3, 80])
    """
    return finished(model, model.bridge.unembed(normed(model, x.to(model.dtype))))


def of_tokens(model: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """Logits of some tokens, in float32 whatever the dtype of the weights: no number of them is rounded on the way.

    >>> of_tokens(model, model.forward("she ran .", stop_after=3), torch.tensor([5, 6])).shape
    torch.Size([1, 3, 2])
    """
    x = normed(model, x.float()).float()
    if model.hf_model is None:
        return finished(model, x @ model.bridge.W_U[:, tokens].float() + model.bridge.b_U[tokens].float())
    head = model.hf_model.get_output_embeddings()
    weight = weight_of(head)
    found = x.to(weight.device) @ weight[tokens.to(weight.device)].float().T
    bias = getattr(head, "bias", None)
    return finished(model, found if bias is None else found + bias[tokens.to(bias.device)].float())


def normed(model: Any, x: Tensor) -> Tensor:
    """What the output matrix reads: the final norm, where there is one, and OPT's projection to narrower embeddings.

    >>> normed(model, torch.ones(1, 1, 32)).shape
    torch.Size([1, 1, 32])
    """
    norm = getattr(model.bridge, "ln_final", None)
    x = x if norm is None else _in_dtype_of(x, norm)
    narrow = getattr(_decoder(model), "project_out", None)
    return x if narrow is None else _in_dtype_of(x, narrow)


def _in_dtype_of(x: Tensor, module: nn.Module) -> Tensor:
    """`module(x)` with its weights in the dtype of `x`: a LayerNorm takes no float32 beside weights in bfloat16."""
    weights = {name: weight for name, weight in module.named_parameters() if weight.dtype != x.dtype}
    if not weights or any(weight.is_meta for weight in weights.values()):  # what is offloaded comes when it is called
        return module(x)
    return torch.func.functional_call(module, {name: weight.to(x.dtype) for name, weight in weights.items()}, (x,))


def finished(model: Any, found: Tensor) -> Tensor:
    """Logits after the scale and the soft cap of the configuration.

    >>> finished(model, torch.tensor([[1.0, 2.0]]))
    tensor([[1., 2.]])
    """
    config = getattr(getattr(model.bridge, "original_model", None), "config", None)
    for name in FACTORS:
        found = found * (_number(config, name) or 1.0)
    for name in DIVISORS:
        found = found / (_number(config, name) or 1.0)
    cap = next(filter(None, (_number(config, name) for name in CAPS)), None)
    cap = cap or _number(model.bridge.cfg, "output_logits_soft_cap") or 0.0
    return cap * torch.tanh(found / cap) if cap > 0 else found


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return None if value is None or isinstance(value, (bool, str)) else float(value)


def _decoder(model: Any) -> Any:
    inner = getattr(model.bridge, "original_model", None)
    return inner.get_decoder() if inner is not None and hasattr(inner, "get_decoder") else None
