"""What works on which model: a dozen families whole, and wrong things that are planted are found and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from audit import judged
from families import FAMILIES, build, variants
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.errors import UnsupportedError
from emolens.models import loading, support
from emolens.models.log_probs import SharedPrompt, log_probs
from emolens.models.model import HookedModel

DOZEN = ("bloom", "cohere", "falcon-7b", "gemma2", "gemma4", "gpt2", "gpt_neox", "granite", "lfm2", "mamba", "opt-350m",
         "phi")  # fmt: skip
# What no answer is given to; everything else works, or has a slower way.
REFUSED = {
    "gemma4": {"patch attn_out", "patch mlp_out", "attribute"},
    "lfm2": {"patch attn_out", "patch head", "attribute"},
    "opt-350m": {"patch attn_out", "patch mlp_out", "attribute"},  # a norm stands after each sum
    "mamba": {"patch attn_out", "patch mlp_out", "patch head", "attribute"},
}


def hooked(name, dtype=torch.float32):
    return HookedModel.from_hf(build(FAMILIES[name]).to(dtype), tiny_tokenizer(), name)


@pytest.mark.parametrize("name", DOZEN)
def test_a_family_is_right_or_refused_by_name(name):
    found = judged(FAMILIES[name], tiny_tokenizer())
    assert found.pop("wrong") == []
    refused = {capability for capability, how in found.items() if how.startswith("refused")}
    assert refused <= REFUSED.get(name, set()), found


def test_there_are_sixty_families_and_many_variants():
    assert len(FAMILIES) >= 60
    assert sum(1 for name in FAMILIES for _ in variants(name)) >= 150


def test_the_table_that_ships_has_every_family_and_nothing_wrong():
    table = json.loads((Path(__file__).parents[1] / "docs" / "models.json").read_text())
    assert set(table["families"]) == set(FAMILIES)
    for name, family in table["families"].items():
        assert set(family["variants"]) == {variant.variant for variant in variants(name)}
        assert all(row["wrong"] == [] for row in family["variants"].values()), name
    assert table["versions"] == support.versions()


def test_a_scale_that_is_changed_after_wrapping_is_not_taken_for_the_old_one(tiny):
    head = tiny.hf_model.get_output_embeddings()
    head.register_forward_hook(lambda module, given, out: out)  # is no change
    support.require(tiny, "lens")
    tiny.verdicts.clear()
    forward = tiny.hf_model.forward

    def scaled(*args, **options):
        out = forward(*args, **options)
        out.logits = out.logits * 3
        return out

    tiny.hf_model.forward = scaled
    with pytest.raises(UnsupportedError, match="'lens' does not work on LlamaForCausalLM.*not the model's own"):
        tiny.unembed(torch.ones(1, tiny.d_model))
    with pytest.raises(UnsupportedError, match="log-probabilities"):
        log_probs(tiny, "she ran", [" calm"])


def test_a_block_that_is_not_the_bare_model_s_is_named():
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny")
    states = [state.clone() for state in model.bare.states]
    states[2] *= 1.1
    model.bare = support.Bare(tuple(states), model.bare.last, model.bare.weights)
    with pytest.raises(UnsupportedError, match="'residual' does not work .* output of block 2"):
        model.forward("she ran .")


def test_in_16_bits_the_bare_model_attends_as_the_wrapped_one_does():
    """With large biases of the keys another implementation of attention lies far from it by rounding alone."""
    model = build(FAMILIES["qwen2"])
    for block in model.model.layers:
        torch.nn.init.normal_(block.self_attn.k_proj.bias, std=30, generator=torch.Generator().manual_seed(0))
        torch.nn.init.normal_(block.self_attn.q_proj.weight, std=1, generator=torch.Generator().manual_seed(1))
        torch.nn.init.normal_(block.self_attn.v_proj.weight, std=1, generator=torch.Generator().manual_seed(2))
    model = model.to(torch.bfloat16).eval()
    eager = support.bare_pass(model)[0]
    assert model.config._attn_implementation == "sdpa"  # as it was
    wrapped = HookedModel.from_hf(model, tiny_tokenizer(), "qwen2")
    assert support.works(wrapped, "residual")
    ids = [support.prompt(model.config.vocab_size)]
    assert torch.equal(wrapped.run_with_cache(ids)["resid_post", 1], eager[1])


def test_weights_that_torch_does_not_count_as_changed_are_not_compared_with_the_old_ones(tiny):
    tiny.hf_model.model.layers[1].mlp.down_proj.weight.data.mul_(3)
    support.require(tiny, "residual")
    support.require(tiny, "lens")


def test_a_steering_that_does_not_arrive_is_refused(tiny, monkeypatch):
    support.require(tiny, "residual")
    forward = HookedModel.forward

    def deaf(self, texts, *, stop_after=None, fwd_hooks=()):
        """Runs each hook on a copy and drops what it returns."""
        heard = [(name, lambda x, hook, fn=fn: [fn(x.clone(), hook=hook)].clear()) for name, fn in fwd_hooks]
        return forward(self, texts, stop_after=stop_after, fwd_hooks=heard)

    monkeypatch.setattr(HookedModel, "forward", deaf)
    with pytest.raises(UnsupportedError, match="'steer' does not work.*block 0 does not act as in the bare block"):
        support.require(tiny, "steer")


def test_a_cache_that_mixes_rows_is_dropped_and_the_numbers_stay_right(tiny, monkeypatch):
    want = log_probs(tiny, "she was", [" calm", " cold and warm"])
    tiny.verdicts.clear()
    cache_for = SharedPrompt.cache_for

    def mixed(self, rows, rows_above=None):
        cache = cache_for(self, rows, rows_above)
        for layer in cache.layers:
            layer.keys = layer.keys.flip(2)
        return cache

    monkeypatch.setattr(SharedPrompt, "cache_for", mixed)
    torch.testing.assert_close(log_probs(tiny, "she was", [" calm", " cold and warm"]), want, rtol=1e-4, atol=1e-4)
    assert not support.works(tiny, "shared prompt")


def test_without_a_cache_the_same_is_written(tiny):
    texts = ["she ran and", "he was very cold and calm"]
    with_cache = tiny.generate(texts, max_new_tokens=6, temperature=0)
    tiny.verdicts["generate with cache"] = support.Verdict(False, "planted")
    assert tiny.generate(texts, max_new_tokens=6, temperature=0) == with_cache


def test_a_check_disturbs_no_hook_steering_or_mode_of_the_user(tiny):
    tiny.hf_model.train()
    seen = []
    with tiny.hooks([((1, "resid_post"), lambda x, hook: seen.append(len(x)))]), torch.inference_mode():
        assert support.works(tiny, "residual") and support.works(tiny, "gradients")
        assert seen == [] and tiny.hf_model.training and tiny.steering == [] and tiny.passing is None
        tiny.forward("she ran .")
    assert seen == [1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gives the folder of a family's tiny model and its tokenizer."""

    def saved(name):
        path = tmp_path_factory.mktemp("models") / name
        build(FAMILIES[name]).save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
        return path

    return saved


@pytest.mark.parametrize("asked", [None, "bfloat16"])
def test_a_model_that_fails_in_16_bits_is_loaded_in_float32_with_all_of_its_digits(folder, monkeypatch, asked):
    monkeypatch.setattr(loading, "native_dtype", lambda device: torch.bfloat16)
    with pytest.warns(UserWarning, match="OlmoForCausalLM .* does not work in bfloat16: .*dtype.* loaded in float32"):
        model = el.load(folder("olmo"), "cpu", asked)
    assert model.dtype == torch.float32 and model.forward("she ran .").isfinite().all()
    assert torch.equal(model.hf_model.lm_head.weight, build(FAMILIES["olmo"]).lm_head.weight)


def test_a_model_that_works_in_bfloat16_stays_in_it_and_its_check_runs_once(folder, recwarn):
    path = folder("llama")
    model = el.load(path, "cpu", "bfloat16")
    assert model.dtype == torch.bfloat16 and list(model.verdicts) == ["residual"]
    assert el.load(path, "cpu", "float32").verdicts == {}
    assert not [each for each in recwarn if "float32" in str(each.message)]


def test_olmo_in_bfloat16_says_to_load_it_in_float32():
    model = hooked("olmo", torch.bfloat16)
    assert "dtype" in support.fails_in_its_dtype(model)
    with pytest.raises(UnsupportedError, match="OlmoForCausalLM.*float32"):
        el.pool(model, ["she ran ."], progress=False, cache=False)
    assert support.fails_in_its_dtype(hooked("olmo")) == ""
