"""What is known of TransformerLens 4.3 and could do harm: each trait is shown, then that emolens meets it."""

import socket

import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer
from transformer_lens.model_bridge import TransformerBridge

import emolens as el
from emolens.models.model import HookedModel

BUILDS = [tiny_llama, tiny_gemma]
SHORT, LONG = "she ran !", "the river was very cold and calm . " * 5  # LONG is longer than Gemma's sliding window


def hooked(hf_model):
    return HookedModel.from_hf(hf_model, tiny_tokenizer(), "tiny")


@pytest.fixture(params=BUILDS, ids=["llama", "gemma"])
def build(request):
    return request.param


@pytest.fixture
def model(build):
    return hooked(build())


def test_a_model_in_memory_touches_no_network(build, monkeypatch):
    asked = []

    def refuse(*address, **_):
        asked.append(address)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    in_memory = build()
    in_memory.config.architectures = [type(in_memory).__name__]
    with pytest.raises(OSError, match="tiny-nowhere|load the files"):  # the trait: it wants a tokenizer of that name
        TransformerBridge.boot_transformers("tiny-nowhere", hf_model=in_memory)
    asked.clear()
    # Offline mode would hide an attempt, so it is off where emolens is looked at.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    tokenizer = tiny_tokenizer()
    model = HookedModel.from_hf(build(), tokenizer, "tiny")
    model.forward(SHORT)
    assert asked == []
    assert model.tokenizer is tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_of_the_model_is_kept(build, dtype):
    model = hooked(build().to(dtype))
    assert model.dtype == dtype
    assert {weight.dtype for weight in model.bridge.parameters()} == {dtype}
    assert model.forward(SHORT, stop_after=2).dtype == dtype


def test_attention_is_transformer_lens_own_so_that_sdpa_instead_of_eager_changes_no_bit(build):
    """The bridge sets eager in place and computes attention itself: emolens leaves it there, nothing is to be gained.

    What it computes is what the bare model computes with sdpa, beyond the sliding window too.
    """
    bare = build().eval()
    bare.set_attn_implementation("sdpa")
    hf_model = build()
    model = hooked(hf_model)
    assert hf_model.config._attn_implementation == "eager"  # the trait
    ids = model.to_tokens(LONG).ids
    with torch.no_grad():
        states = bare(ids, output_hidden_states=True).hidden_states
    eager = [model.forward(LONG, stop_after=layer) for layer in range(model.n_layers)]
    hf_model.set_attn_implementation("sdpa")
    for layer, resid in enumerate(eager):
        assert torch.equal(model.forward(LONG, stop_after=layer), resid)
        if layer < model.n_layers - 1:  # the last hidden state is after the final norm
            torch.testing.assert_close(resid, states[layer + 1], rtol=1e-4, atol=1e-5)


def test_a_stopped_pass_computes_no_unembedding(build):
    hf_model, calls = build(), []
    hf_model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    model = hooked(hf_model)
    ids = model.to_tokens(SHORT).ids
    with torch.no_grad():
        model.bridge(ids, return_type=None)
    assert len(calls) == 1  # the trait: computed, though nobody asked for logits
    model.forward(SHORT, stop_after=model.n_layers - 1)
    model.run_with_cache(SHORT)
    el.pool(model, [SHORT], progress=False, cache=False)
    assert len(calls) == 1
    model.forward(SHORT)
    assert len(calls) == 2


def test_stopping_after_the_last_block_gives_its_residual(model):
    ids = model.to_tokens(SHORT).ids
    with torch.no_grad():
        assert model.bridge(ids, stop_at_layer=model.n_layers).shape[-1] == 80  # the trait: logits
    resid = model.forward(SHORT, stop_after=model.n_layers - 1)
    assert resid.shape == (*ids.shape, model.d_model)
    torch.testing.assert_close(model.unembed(resid), model.forward(SHORT), rtol=1e-4, atol=1e-5)


def test_the_cache_stores_each_activation_once(model):
    names = lambda name: name.endswith(("hook_resid_post", "hook_out"))  # noqa: E731
    _, theirs = model.bridge.run_with_cache(model.to_tokens(SHORT).ids, names_filter=names)
    blocks = [name for name in theirs.cache_dict if name.count(".") == 2 and name.startswith("blocks.1.")]
    assert len(blocks) == 2 and torch.equal(*(theirs[name] for name in blocks))  # the trait
    ours = model.run_with_cache(SHORT).cache_dict
    assert list(ours) == [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    assert len({tensor.data_ptr() for tensor in ours.values()}) == model.n_layers


def test_hooks_are_told_apart_by_what_was_asked_for_and_not_by_the_name_they_see(model):
    names, found = [], {}

    def keep(layer):
        def hook(tensor, hook):
            names.append(hook.name)
            found[layer] = tensor.clone()

        return hook

    with model.hooks([((layer, "resid_post"), keep(layer)) for layer in range(model.n_layers)]):
        model.forward(SHORT)
    assert names == [f"blocks.{layer}.hook_out" for layer in range(model.n_layers)]  # the trait: not hook_resid_post
    for layer, tensor in found.items():
        assert torch.equal(tensor, model.forward(SHORT, stop_after=layer))


def test_a_left_padded_batch_is_right_without_a_mask_from_the_caller(model):
    left, right = (model.to_tokens([SHORT, LONG], padding_side=side) for side in ("left", "right"))
    ours, theirs = (model.forward(batch, stop_after=2) for batch in (left, right))
    torch.testing.assert_close(ours[left.mask], theirs[right.mask], rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # the trait: the padding is read as text
        unmasked = model.bridge(left.ids)[left.mask]
    assert (unmasked - model.forward(left)[left.mask]).abs().max() > 1e-3
