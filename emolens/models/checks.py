"""The checks of what works on a loaded model, one for each capability; see `support`.

A check returns what is wrong, or "". It runs alone: no hook, steering or dropout of the user's acts meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models import head
from emolens.models.generation import Cached
from emolens.models.hooked import Hooked
from emolens.models.log_probs import SharedPrompt, gradients, log_probs
from emolens.models.support import LENGTH, Bare, Capability, Undecided, prompt, require, residual_factor, weights_now
from emolens.models.texts import Encoding

# How far two ways to the same activations may lie apart, as a share of their norm.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def _ids(model: Hooked, seed: int = 0, length: int = LENGTH) -> list[int]:
    return prompt(model.bridge.cfg.d_vocab, min(length, model.n_ctx), seed)


def _differs(model: Hooked, got: Tensor, want: Tensor, allowed: float | None = None) -> str:
    """By how much of the norm, where it is more than rounding: the most over all rows; in 16 bits, where an expert of
    a mixture may be another by rounding, over half of them."""
    got, want = (x.detach().float().cpu().reshape(-1, x.shape[-1]) for x in (got, want))
    if got.shape != want.shape:
        return f"a shape of {list(got.shape)} instead of {list(want.shape)}"
    if not want.isfinite().all():
        raise Undecided
    error = (got - want).norm(dim=1) / want.norm(dim=1).clamp(min=1e-6)
    exact = model.dtype in (torch.float32, torch.float64)
    most = float(error.max() if exact else error.median())
    bound = allowed or TOLERANCE.get(model.dtype, 5e-2)
    if exact and torch.get_float32_matmul_precision() != "highest":
        bound = max(bound, 2e-2)
    return "" if most <= bound else f"numbers differ by {most:.1%} of their size"


def _at(what: str, found: str) -> str:
    return found and f"{what}: {found}"


def _any(findings: Iterator[str]) -> str:
    return next(filter(None, findings), "")


def _check_residual(model: Hooked) -> str:
    cache = model.run_with_cache([_ids(model)])
    ours = [cache["resid_post", layer] for layer in range(model.n_layers)]
    bare = _current(model)
    if bare is None:
        return ""
    return _any(
        _at(f"the output of block {layer} is not what the bare model computes", _differs(model, x, want))
        for layer, (x, want) in enumerate(zip(ours, bare.states, strict=True))
    )


def _current(model: Hooked) -> Bare | None:
    """What the bare model computed, if it is still the same model."""
    bare = model.bare
    return bare if bare is not None and bare.weights == weights_now(model) and model.is_plain else None


def _check_rows(model: Hooked) -> str:
    texts = [_ids(model), _ids(model, 1, LENGTH // 2 + 1), _ids(model, 2)]
    last = model.n_layers - 1
    alone = [model.forward([text], stop_after=last)[0] for text in texts]

    def findings() -> Iterator[str]:
        for side in ("left", "right"):
            batch = model.to_tokens(texts, padding_side=side)
            together = model.forward(batch, stop_after=last)
            for row, want in enumerate(alone):
                found = _differs(model, together[row][batch.mask[row]], want)
                yield _at(f"a text in a batch padded on the {side} is not what it is alone", found)

    return _any(findings())


def _model_logits(model: Hooked, ids: Sequence[int]) -> Tensor:
    """The model's own logits, `pos vocab`."""
    tokens = torch.tensor([list(ids)], device=model.device)
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        if model.hf_model is None:
            return model.bridge(tokens)[0]
        return model.hf_model(tokens, use_cache=False).logits[0]


def _check_lens(model: Hooked) -> str:
    ids = _ids(model)
    resid = model.forward([ids], stop_after=model.n_layers - 1)
    want = _model_logits(model, ids)
    some = torch.tensor(sorted(set(_ids(model, 3))), device=model.device)
    bare = _current(model)

    def findings() -> Iterator[str]:
        yield _at("logits of the last block are not the model's own", _differs(model, model.unembed(resid)[0], want))
        found = _differs(model, model.token_logits(resid, some)[0], want[:, some])
        yield _at("logits of some tokens are not the model's own", found)
        if bare is not None:
            found = _differs(model, head.normed(model, resid), bare.last)
            yield _at("what the head reads is not what the bare model's reads", found)

    return _any(findings())


@contextmanager
def _block_plus(model: Hooked, layer: int, added: Tensor, start: int = 0) -> Iterator[None]:
    """Adds to the output of a block of torch's, with no hook of TransformerLens's."""

    def add(block: Any, given: Any, out: Any) -> Any:
        x = out if isinstance(out, Tensor) else out[0]
        x = torch.cat([x[:, :start], x[:, start:] + added.to(x)], dim=1)
        return x if isinstance(out, Tensor) else (x, *out[1:])

    handle = model.bridge.blocks[layer].original_component.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _vector(resid: Float[Tensor, "1 pos d_model"]) -> Tensor:
    """A random direction, half as long as the residual stream."""
    v = torch.randn(resid.shape[-1], generator=torch.Generator().manual_seed(4)).to(resid.device)
    return v / v.norm() * resid[0, 1:].float().norm(dim=1).median() / 2


def _some_layers(model: Hooked) -> list[int]:
    return sorted({0, model.default_layer, model.n_layers - 1})


def _check_steer(model: Hooked) -> str:
    if model.hf_model is None:
        return ""
    ids, layers, resid = _ids(model, length=LENGTH // 2), _some_layers(model), {}
    keep = [((layer, "resid_post"), lambda x, hook, layer=layer: resid.update({layer: x})) for layer in layers]
    clean = model.forward([ids], fwd_hooks=keep)[0]

    def findings() -> Iterator[str]:
        for layer in layers:
            v = _vector(resid[layer])
            ours = model.forward([ids], fwd_hooks=[((layer, "resid_post"), lambda x, hook, v=v: x + v.to(x))])[0]
            with _block_plus(model, layer, v):
                want = _model_logits(model, ids)
            yield _at(f"what is added to block {layer} does not act as in the bare block", _differs(model, ours, want))
            if torch.equal(ours, clean):
                yield f"what is added to block {layer} changes nothing"

    return _any(findings())


def _check_generate(model: Hooked) -> str:
    if model.hf_model is None:
        return ""
    texts, new = [_ids(model, 5, LENGTH - 4), _ids(model, 6, LENGTH // 2)], 3
    texts = [text[: max(1, model.n_ctx - new)] for text in texts]
    encoded = model.encode_all(texts)
    cached = Cached(model, encoded, model.batch(encoded, "left"), new)
    with torch.no_grad():
        logits = [cached()]
        for _ in range(new - 1):
            logits.append(cached(logits[-1].argmax(dim=-1, keepdim=True)))
    step = torch.stack(logits, dim=1)
    written = step.argmax(dim=-1)

    def findings() -> Iterator[str]:
        for row, text in enumerate(texts):
            whole = _model_logits(model, [*text, *written[row].tolist()])[len(text) - 1 : -1]
            yield _at("what is written with a cache is not what a whole pass gives", _differs(model, step[row], whole))

    return _any(findings())


def _check_shared_prompt(model: Hooked) -> str:
    if model.hf_model is None:
        return ""
    ids = _ids(model, 7)
    before, rests = ids[: LENGTH // 2], [ids[LENGTH // 2 :], _ids(model, 8)[:4], _ids(model, 9)[:1]]
    shared = SharedPrompt(model, Encoding(before, []))
    if shared.cache is None:
        return "its cache is not made of keys and values in every block"
    last = model.n_layers - 1

    def findings() -> Iterator[str]:
        for got, rest in zip(shared.run(rests), rests, strict=True):
            want = model.forward([[*before, *rest]], stop_after=last)[:, len(before) - 1 : -1]
            yield _at("after a shared prompt a text is not what it is alone", _differs(model, got, want))

    return _any(findings())


def _check_log_probs(model: Hooked) -> str:
    require(model, "lens")
    ids, rests = _ids(model, 10)[: LENGTH // 2], [_ids(model, 11)[:3], _ids(model, 12)[:2]]
    got = log_probs(model, ids, rests)[0]
    want = []
    for rest in rests:
        scores = _model_logits(model, [*ids, *rest])[len(ids) - 1 : -1].float().log_softmax(dim=-1)
        want.append(float(scores.gather(1, torch.tensor(rest, device=scores.device)[:, None]).sum()))
    exact = model.dtype in (torch.float32, torch.float64)
    # In 16 bits a logit of the model's own is rounded to as much as an eighth.
    far = [abs(a - b) for a, b in zip(got.tolist(), want, strict=True)]
    if not torch.tensor(want).isfinite().all():
        raise Undecided
    most = max(far)
    allowed = (1e-3 if exact else 5e-2) * max(1.0, *(abs(value) for value in want)) + (0.0 if exact else 0.3)
    return "" if most <= allowed else f"log-probabilities are {most:.2g} nats from those of the model's own logits"


def _missing(model: Hooked, site: str) -> str:
    known = model.bridge.hook_dict
    lacking = [layer for layer in range(model.n_layers) if model.hook_name(layer, site) not in known]
    return f"block {', '.join(map(str, lacking))} has no {site}" if lacking else ""


def _check_site(site: str) -> Callable[[Any], str]:
    """Whether what is added to the output of attention or MLP arrives in the residual stream, all of it once."""

    def check(model: Hooked) -> str:
        if missing := _missing(model, site) or _missing(model, "mlp_out"):
            return missing
        ids, layers = _ids(model), _some_layers(model)
        cache = model.run_with_cache([ids], layers, ["mlp_out", "resid_post"])
        for layer in layers:
            v, mlp = _vector(cache["resid_post", layer]), cache["mlp_out", layer]
            added = [((layer, site), lambda x, hook, v=v: x + v.to(x))]
            if site != "mlp_out":  # which reads the attention's
                added.append(((layer, "mlp_out"), lambda x, hook, mlp=mlp: mlp))
            got = model.forward([ids], stop_after=layer, fwd_hooks=added)
            want = cache["resid_post", layer] + v.to(mlp)
            if found := _differs(model, got, want):
                return f"what is added to {site} of block {layer} does not arrive in the block's output: {found}"
        return ""

    return check


def _check_head(model: Hooked) -> str:
    if missing := _missing(model, "attn_out") or _missing(model, "attn.hook_z"):
        return missing
    layers = _some_layers(model)
    source = model.run_with_cache([_ids(model)], layers, ["attn.hook_z", "attn_out"])
    for layer in layers:
        z = source[model.hook_name(layer, "attn.hook_z")]
        if z.ndim != 4:
            return f"attn.hook_z of block {layer} has the shape {list(z.shape)}, not one of heads"
        kept: list[Tensor] = []
        keep = ((layer, "attn_out"), lambda x, hook, kept=kept: kept.append(x))
        put = ((layer, "attn.hook_z"), lambda x, hook, z=z: z)
        model.forward([_ids(model, 13)], stop_after=layer, fwd_hooks=[put, keep])
        if found := _differs(model, kept[0], source["attn_out", layer]):
            return f"heads that are put in place of others in block {layer} do not give their output: {found}"
    return ""


def normed_after(model: Hooked, block: int) -> bool:
    """Whether a norm stands between attention and residual stream (Gemma 2 and 3).

    >>> normed_after(model, 0)
    False
    """
    return model.hook_name(block, "ln1_post.hook_out") in model.bridge.hook_dict


def head_outputs(model: Hooked, z: Float[Tensor, "*pos head d_head"], block: int) -> Float[Tensor, "*pos head d_model"]:
    """What each head adds before a norm and without the bias.

    >>> head_outputs(model, torch.ones(4, 8), 0).shape
    torch.Size([4, 32])
    """
    weight = model.bridge.blocks[block].attn.W_O.detach().float().cpu()
    return residual_factor(model) * torch.einsum("...hd,hdm->...hm", z.cpu(), weight.view(*z.shape[-2:], -1))


def _check_attribute(model: Hooked) -> str:
    sites = ("attn_out", "mlp_out", "attn.hook_z")
    if missing := next(filter(None, (_missing(model, site) for site in sites)), ""):
        return missing
    ids = _ids(model)
    cache = model.run_with_cache([ids], None, ["resid_pre", *sites, "resid_post"])
    total = cache["resid_pre", 0][0].float()
    for layer in range(model.n_layers):
        written = cache["attn_out", layer][0].float()
        total = total + written + cache["mlp_out", layer][0].float()
        if found := _differs(model, total, cache["resid_post", layer][0]):
            return f"embedding, attention and MLP do not add up to the output of block {layer}: {found}"
        z = cache[model.hook_name(layer, "attn.hook_z")][0].float()
        if z.ndim != 3:
            return f"attn.hook_z of block {layer} has no heads"
        heads = head_outputs(model, z, layer).sum(dim=1)
        if normed_after(model, layer):  # RMS: each token by its size, each dimension by a weight of its own
            heads = heads * (heads.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
            weight = (heads * written.cpu()).sum(dim=0) / heads.square().sum(dim=0).clamp(min=1e-12)
            found = _differs(model, heads * weight, written)
        else:  # what they leave is the bias, the same at each token
            found = _differs(model, heads + (written.cpu() - heads).mean(dim=0), written)
        if found:
            return f"the heads of block {layer} do not add up to its attention: {found}"
    return ""


def _check_gradients(model: Hooked) -> str:
    if model.hf_model is None:
        return ""
    require(model, "lens")
    ids, rest, layer = _ids(model, 14)[: LENGTH // 2], _ids(model, 15)[:3], model.default_layer
    with torch.enable_grad():
        _, got = gradients(model, SharedPrompt(model, Encoding(ids, []), anywhere=True), [rest], [layer])
        added = torch.zeros(1, 1, model.d_model, device=model.device, dtype=model.dtype, requires_grad=True)
        with _block_plus(model, layer, added, start=len(ids)):
            scores = _model_logits(model, [*ids, *rest])[len(ids) - 1 : -1].float().log_softmax(dim=-1)
        mean = scores.gather(1, torch.tensor(rest, device=scores.device)[:, None]).mean()
        (want,) = torch.autograd.grad(mean, added)
    exact = model.dtype in (torch.float32, torch.float64)
    found = _differs(model, got[0], want[0], 5e-3 if exact else 0.15)
    return _at("slopes are not those of the model's own log-probabilities", found)


CAPABILITIES = {
    "residual": Capability(_check_residual, "Load it in float32 (dtype='float32'), or take a model of another family"),
    "several rows": Capability(_check_rows, "Give texts one at a time (of pool and scan: token_budget=1)"),
    "lens": Capability(_check_lens, "Read logits with model.forward(text)"),
    "log-probabilities": Capability(_check_log_probs, "Take them from the logits of model.forward(text)"),
    "steer": Capability(_check_steer, "Take a model of another family"),
    "generate with cache": Capability(_check_generate, "each token is written with a whole pass", falls_back=True),
    "shared prompt": Capability(_check_shared_prompt, "the prompt is run again for each continuation", falls_back=True),
    "patch attn_out": Capability(_check_site("attn_out"), "Patch site='resid_post'"),
    "patch mlp_out": Capability(_check_site("mlp_out"), "Patch site='resid_post'"),
    "patch head": Capability(_check_head, "Patch site='resid_post'"),
    "attribute": Capability(_check_attribute, "Patch site='resid_post' (el.patch), which shows who carries a change"),
    "gradients": Capability(_check_gradients, "Measure the effect of a strength with log_probs under steer"),
}
