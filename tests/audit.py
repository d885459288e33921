"""A judge of rightness that shares nothing with `emolens.models.checks`: each number against plain Hugging Face.

The bare model is built a second time from the same seed and never wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from families import Family, build

from emolens.errors import UnsupportedError
from emolens.models import support
from emolens.models.log_probs import SharedPrompt, gradients, log_probs
from emolens.models.model import HookedModel
from emolens.models.multimodal import text_model
from emolens.models.texts import Encoding

SEED = 11


def judged(family: Family, tokenizer: Any) -> dict[str, Any]:
    """Each capability in words (see `support.described`), and under "wrong" what gives another number than it should.

    What is refused by name is not wrong; any other error is.
    """
    try:
        model = HookedModel.from_hf(build(family), tokenizer, family.name)
    except UnsupportedError as error:
        return {"wrapped": f"refused: {error}", "wrong": []}
    bare, wrong = text_model(build(family)), []
    for name, question in QUESTIONS.items():
        try:
            error_ = question(model, bare)
        except UnsupportedError:
            continue
        except Exception as error:  # no refusal by name
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:100]}")
            continue
        if not error_ <= (0.08 if family.dtype == torch.bfloat16 else 3e-3):
            wrong.append(f"{name}: {error_:.2g}")
    return {"wrapped": "works"} | support.described(model) | {"wrong": wrong}


def text(length: int, seed: int = SEED) -> list[int]:
    return torch.randint(4, 76, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def own(bare: Any, ids: list[int]) -> torch.Tensor:
    return bare(torch.tensor([ids]), use_cache=False).logits[0]


def far(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest relative error of a token; in 16 bits, where rounding may choose another expert, the middle one."""
    error = (got.float() - want.float()).norm(dim=-1) / want.float().norm(dim=-1).clamp(min=1e-6)
    return float(error.max() if got.dtype == torch.float32 else error.median())


def blocks(model: HookedModel, bare: Any) -> torch.nn.ModuleList:
    return next(m for m in bare.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == model.n_layers)


def log_p(bare: Any, before: list[int], rest: list[int]) -> float:
    scores = own(bare, [*before, *rest]).float().log_softmax(dim=-1)[len(before) - 1 : -1]
    return float(scores.gather(1, torch.tensor(rest)[:, None]).sum())


def logits(model: HookedModel, bare: Any) -> float:
    ids = text(40)
    resid = model.forward([ids], stop_after=model.n_layers - 1)
    return max(far(model.unembed(resid)[0], own(bare, ids)), far(model.forward([ids])[0], own(bare, ids)))


def states(model: HookedModel, bare: Any) -> float:
    ids, last, first = text(40), model.n_layers - 1, []
    handle = blocks(model, bare)[0].register_forward_hook(
        lambda block, given, out: first.append(out if torch.is_tensor(out) else out[0])
    )
    with torch.no_grad():
        out = bare(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    handle.remove()
    found = getattr(out, "hidden_states", None)
    if found is None or len(found) != model.n_layers + 1:
        return 0.0  # some classes of transformers give none
    begin = 0 if torch.equal(found[0], first[0]) else 1  # Mamba's begin after the first block, others before it
    return max((far(model.forward([ids], stop_after=n)[0], found[n + begin][0]) for n in range(last)), default=0.0)


def rows(model: HookedModel, bare: Any) -> float:
    texts = [text(30), text(9, 1), text(21, 2)]
    errors = []
    for side in ("left", "right"):
        batch = model.to_tokens(texts, padding_side=side)
        out = model.forward(batch)
        errors += [far(out[n][batch.mask[n]], own(bare, ids)) for n, ids in enumerate(texts)]
    return max(errors)


def scored(model: HookedModel, bare: Any) -> float:
    before, rests = text(25), [text(6, 3), text(1, 4), text(3, 5)]
    got = log_probs(model, before, rests)[0].tolist()
    want = [log_p(bare, before, rest) for rest in rests]
    return max(abs(a - b) / (1 + abs(b)) for a, b in zip(got, want, strict=True))


def steered(model: HookedModel, bare: Any) -> float:
    support.require(model, "steer")
    ids, layer = text(40), 1
    v = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    put = lambda block, given, out: out + v if torch.is_tensor(out) else (out[0] + v, *out[1:])  # noqa: E731
    handle = blocks(model, bare)[layer].register_forward_hook(put)
    want = own(bare, ids)
    handle.remove()
    return far(model.forward([ids], fwd_hooks=[((layer, "resid_post"), lambda x, hook: x + v)])[0], want)


def slopes(model: HookedModel, bare: Any) -> float:
    if model.dtype != torch.float32:
        support.require(model, "gradients")
        return 0.0  # a difference of rounded numbers says nothing
    before, rest, layer = text(20), text(4, 6), 1
    _, slope = gradients(model, SharedPrompt(model, Encoding(before, []), anywhere=True), [rest], layer)
    v = torch.nn.functional.normalize(slope[0], dim=0)

    def value(much: float) -> float:
        def put(block: Any, given: Any, out: Any) -> Any:
            x = (out if torch.is_tensor(out) else out[0]).clone()
            x[:, len(before) :] += much * v
            return x if torch.is_tensor(out) else (x, *out[1:])

        handle = blocks(model, bare)[layer].register_forward_hook(put)
        try:
            return log_p(bare, before, rest) / len(rest)
        finally:
            handle.remove()

    # Where a token goes to another expert between the two, their difference is no slope: the best of three steps.
    wants = [(value(step) - value(-step)) / (2 * step) for step in (1e-2, 3e-3, 1e-3)]
    off = min(abs(float(slope[0] @ v) - want) / (abs(want) + 1e-2) for want in wants)
    return off / 10  # a difference is known to some percent


def written(model: HookedModel, bare: Any) -> float:
    """The share of tokens that are less likely than the best by more than rounding; texts of two lengths together."""
    texts, bad = [text(17), text(8, 7)], 0.0
    from emolens.models.generation import Sampling, Writing

    writing = Writing(model, texts, Sampling(5, temperature=0))
    while writing.open:
        writing.run()
        writing.draw()
    for ids, new in zip(texts, writing.written, strict=True):
        scores = own(bare, [*ids, *new])[len(ids) - 1 : -1].float()
        for row, token in zip(scores, new, strict=True):
            bad = max(bad, float((row.max() - row[token]) / row.norm()))
            if token == 2:
                break
    return bad


def attributed(model: HookedModel, bare: Any) -> float:
    support.require(model, "attribute")
    ids = text(40)
    cache = model.run_with_cache([ids], None, ["resid_pre", "attn_out", "mlp_out", "resid_post"])
    total = cache["resid_pre", 0].float() + sum(
        cache[site, n].float() for site in ("attn_out", "mlp_out") for n in range(model.n_layers)
    )
    return far(total[0], cache["resid_post", model.n_layers - 1][0])


QUESTIONS: dict[str, Callable[[HookedModel, Any], float]] = {
    "logits": logits, "states": states, "rows": rows, "scored": scored, "steered": steered, "slopes": slopes,
    "written": written, "attributed": attributed,
}  # fmt: skip
