"""What works on a loaded model: each capability is checked on the model itself when it is first used.

A check runs a short prompt of random tokens and compares two ways to the same number: our hooks against the blocks of
the bare Hugging Face model, our log-probabilities against its logits, parts against the sum that they should make. What
is known is remembered with the model. What does not work falls back to a slower right way, or is refused by name. The
checks themselves are in `checks`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from emolens.errors import UnsupportedError
from emolens.models.placement import device_of

LENGTH = 24  # tokens of the prompt


@dataclass(frozen=True)
class Verdict:
    """Whether a capability works on a model; if not, what was found, and whether a slower way replaces it.

    >>> Verdict(True)
    Verdict(works=True, why='', instead='')
    """

    works: bool
    why: str = ""
    instead: str = ""


@dataclass(frozen=True)
class Capability:
    """One thing that can be asked of a model: what `check` finds wrong with it, and what takes its place.

    Attributes:
        check: returns what is wrong, or nothing.
        instead: what the user may do instead, or what is done instead where it `falls_back`.
    """

    check: Callable[[Any], str]
    instead: str
    falls_back: bool = False


@dataclass(frozen=True)
class Bare:
    """What the bare model computed before it was wrapped: the output of each block, and the final norm of the last."""

    states: tuple[Tensor, ...]
    last: Tensor
    weights: tuple[Any, ...]  # as they were then, by `weights_now`


class Undecided(Exception):
    """What is compared is not finite: it is named where it is used."""


def works(model: Any, capability: str) -> bool:
    """Whether a capability works on this model; checked the first time, remembered from then on.

    >>> works(model, "shared prompt")
    True
    """
    return verdict(model, capability).works


def require(model: Any, capability: str) -> None:
    """Raise UnsupportedError where a capability gives wrong numbers on this model, or none.

    >>> require(model, "lens")
    """
    found = verdict(model, capability)
    if not found.works:
        raise UnsupportedError(
            f"{capability!r} does not work on {architecture(model)} ({model.name}): {found.why}. {found.instead}"
        )


def verdict(model: Any, capability: str) -> Verdict:
    """What is known of a capability on this model.

    >>> verdict(model, "attribute").works
    True
    """
    if capability in model.checking or capability not in model.capabilities:  # its own check asks, or it has none
        return Verdict(True)
    if capability not in model.verdicts:
        asked = model.capabilities[capability]
        model.checking.append(capability)
        try:
            with alone(model):
                why = asked.check(model)
        except Undecided:
            return Verdict(True)
        except UnsupportedError as error:
            why = str(error)
        except (RuntimeError, ValueError, AttributeError, TypeError, LookupError, NotImplementedError) as error:
            why = f"a pass raises {type(error).__name__}: {_first_line(error)}"
        finally:
            model.checking.remove(capability)
        model.verdicts[capability] = Verdict(not why, why, asked.instead if why else "")
    return model.verdicts[capability]


def table(model: Any) -> dict[str, Verdict]:
    """Every capability, checked.

    >>> [name for name, found in table(model).items() if not found.works]
    []
    """
    return {name: verdict(model, name) for name in model.capabilities}


def described(model: Any) -> dict[str, str]:
    """Every capability in words: "works", "slower: ..." where a slower right way is taken, or "refused: ...".

    >>> set(described(model).values())
    {'works'}
    """
    found = table(model)
    if not found["residual"].works:  # then nothing is right
        return dict.fromkeys(found, f"refused: {found['residual'].why}")
    kind = {name: "slower" if model.capabilities[name].falls_back else "refused" for name in found}
    return {name: "works" if each.works else f"{kind[name]}: {each.why}" for name, each in found.items()}


def versions() -> dict[str, str]:
    """Of the packages that decide what works.

    >>> sorted(versions())
    ['torch', 'transformer-lens', 'transformers']
    """
    return {package: version(package) for package in ("torch", "transformers", "transformer-lens")}


def fails_in_its_dtype(model: Any) -> str:
    """Why a pass raises in the dtype of the weights, or nothing: some need float32 (OLMo 1 to 3 in TransformerLens).

    >>> fails_in_its_dtype(model)
    ''
    """
    if model.dtype not in (torch.bfloat16, torch.float16):
        return ""
    found = verdict(model, "residual")
    return found.why if found.why.startswith("a pass raises") else ""


def architecture(model: Any) -> str:
    """The class of the model.

    >>> architecture(model)
    'LlamaForCausalLM'
    """
    inner = getattr(model.bridge, "original_model", None)
    return type(inner if inner is not None else model.bridge).__name__


def prompt(vocabulary: int, length: int = LENGTH, seed: int = 0) -> list[int]:
    """Random token ids; the first four of a vocabulary are often special.

    >>> ids = prompt(80, 6)
    >>> len(ids), min(ids) >= 4, max(ids) < 80
    (6, True, True)
    """
    first = 4 if vocabulary > 8 else 0
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(first, vocabulary, (length,), generator=generator).tolist()


def bare_pass(hf_model: Any) -> tuple[tuple[Tensor, ...], Tensor] | None:
    """Outputs of all blocks of a model that is not wrapped yet, and what its head reads; None where it can't be run.

    >>> bare_pass(torch.nn.Linear(2, 2)) is None
    True
    """
    config: Any = getattr(hf_model, "config", None)
    base = getattr(hf_model, getattr(hf_model, "base_model_prefix", ""), None)
    count = getattr(config, "num_hidden_layers", None)
    blocks = next((m for m in hf_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count), None)
    if not isinstance(base, torch.nn.Module) or blocks is None:
        return None
    states: list[Tensor] = []
    own = getattr(config, "_attn_implementation", None)
    handles = [block.register_forward_hook(lambda block, given, out: states.append(_first(out))) for block in blocks]
    try:
        _attend(hf_model, "eager")  # as TransformerLens does: in 16 bits others lie as far as 10 % from it (Qwen2.5)
        length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
        ids = torch.tensor([prompt(config.vocab_size, length)], device=device_of(hf_model))
        with torch.no_grad():
            last = _first(base(ids, use_cache=False))
    except Exception:  # of whichever model: then there is nothing to compare with
        return None
    finally:
        for handle in handles:
            handle.remove()
        _attend(hf_model, own)
    return (tuple(states), last) if len(states) == count and last.ndim == 3 else None


def _attend(hf_model: Any, implementation: Any) -> None:
    """Set the implementation of attention, of a model that knows several."""
    with suppress(ValueError, AttributeError, TypeError):
        hf_model.set_attn_implementation(implementation)


def weights_now(model: Any) -> tuple[list[tuple[int, int]], list[list[float]]]:
    """What shows whether weights have changed: torch's counts, and a few entries of each, as `.data` counts nothing.

    >>> before = weights_now(model)
    >>> _ = model.hf_model.lm_head.weight.data.mul_(2)
    >>> weights_now(model) == before
    False
    >>> _ = model.hf_model.lm_head.weight.data.div_(2)
    >>> weights_now(model) == before
    True
    """
    kept = [w.detach() for w in model.bridge.parameters() if w.is_floating_point() and w.itemsize > 1 and not w.is_meta]
    return model._counted_changes(), [w.flatten()[:: max(1, w.numel() // 8)].tolist() for w in kept]


def _first(out: Any) -> Tensor:
    return (out if isinstance(out, Tensor) else out[0]).detach()


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """No hook of a user or a steering acts, nothing is dropped out or cast; afterwards all is as it was."""
    points = [module for module in model.bridge.modules() if isinstance(module, HookPoint)]
    hooks = [(point, point._forward_hooks, point._backward_hooks, point.fwd_hooks) for point in points]
    training = [module for module in model._every_module() if module.training]
    steering, model.steering = model.steering, []
    passing, model.passing = model.passing, None
    for point in points:
        point._forward_hooks, point._backward_hooks, point.fwd_hooks = OrderedDict(), OrderedDict(), []
    for module in training:
        module.training = False
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        for point, forward, backward, listed in hooks:
            point._forward_hooks, point._backward_hooks, point.fwd_hooks = forward, backward, listed
        for module in training:
            module.training = True
        model.steering, model.passing = steering, passing


def residual_factor(model: Hooked) -> float:
    """What the outputs of attention and MLP are multiplied by before they are added (Granite: 0.22).

    TransformerLens gives `attn_out` and `mlp_out` after it, and the heads before it.

    >>> residual_factor(model)
    1.0
    """
    config = getattr(getattr(model.bridge, "original_model", None), "config", None)
    return float(getattr(config, "residual_multiplier", None) or 1.0)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
