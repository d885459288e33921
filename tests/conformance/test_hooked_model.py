"""One suite over every class that `HookedModel` wraps."""

import pytest
import torch

from emolens.models.batching import Batch, pad, plan
from emolens.vectors.pooling import pool, pool_batches

TEXTS = [
    "the river was very cold and calm .",
    "she ran !",
    "he was afraid , but the door was warm and the night was calm .",
]


def rows_of(model, side, poison=None):
    batch = model.to_tokens(TEXTS, padding_side=side)
    if poison is not None:
        batch = Batch(torch.where(batch.mask, batch.ids, torch.full_like(batch.ids, poison)), batch.mask)
    resid = model.forward(batch, stop_after=model.n_layers - 1)
    return [resid[row][batch.mask[row]] for row in range(len(TEXTS))]


def live_hooks(model):
    return sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in model.bridge.hook_dict.values())


@pytest.mark.parametrize(("side", "poison"), [("left", None), ("left", 7), ("right", 7)])
def test_padding_never_matters(model, side, poison):
    for ours, alone in zip(rows_of(model, side, poison), rows_of(model, "right"), strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


def test_a_row_of_a_batch_equals_the_text_alone(model):
    for ours, text in zip(rows_of(model, "left"), TEXTS, strict=True):
        torch.testing.assert_close(ours, model.forward(text, stop_after=model.n_layers - 1)[0], rtol=1e-5, atol=1e-5)


def test_stop_after_the_last_block_gives_the_residual_not_logits(model):
    assert model.forward(TEXTS[0], stop_after=model.n_layers - 1).shape[-1] == model.d_model
    assert model.forward(TEXTS[0]).shape[-1] == 80


def test_stopping_runs_no_later_block_and_no_unembedding(model):
    ran = []
    late = [
        ((2, "resid_post"), lambda x, hook: ran.append(2)),
        ("unembed.hook_out", lambda x, hook: ran.append("unembed")),
    ]
    late = [hook for hook in late if not isinstance(hook[0], str) or hook[0] in model.bridge.hook_dict]
    with model.hooks(late):
        model.forward(TEXTS[0], stop_after=1)
        assert ran == []
        model.forward(TEXTS[0], stop_after=model.n_layers - 1)
        assert ran == [2]


def test_the_cache_holds_each_site_once_and_equals_hooks(model):
    cache = model.run_with_cache(TEXTS, layers=[0, 2], sites=("resid_post", "mlp_out"))
    assert sorted(cache.cache_dict) == sorted(f"blocks.{n}.hook_{s}" for n in (0, 2) for s in ("resid_post", "mlp_out"))
    torch.testing.assert_close(cache["resid_post", 2], model.forward(TEXTS, stop_after=2))


def test_logits_at_positions_equal_the_full_pass(model):
    full = model.forward(TEXTS)
    lengths = [len(model.encode(text).ids) for text in TEXTS]
    last = torch.stack([full[row, n - 1] for row, n in enumerate(lengths)])
    torch.testing.assert_close(model.logits(TEXTS), last, rtol=1e-4, atol=1e-5)
    some = model.logits(TEXTS, positions=[0, -1])
    torch.testing.assert_close(some[:, 0], full[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some[:, 1], last, rtol=1e-4, atol=1e-5)


def test_a_hook_changes_what_follows_and_leaves_no_trace(model):
    before, clean = live_hooks(model), model.forward(TEXTS[0], stop_after=3)
    with model.hooks([((1, "resid_post"), lambda x, hook: x + 1)]):
        assert not torch.allclose(model.forward(TEXTS[0], stop_after=3), clean)
    with pytest.raises(KeyboardInterrupt), model.hooks([((1, "resid_post"), lambda x, hook: x + 1)]):
        raise KeyboardInterrupt
    assert live_hooks(model) == before
    torch.testing.assert_close(model.forward(TEXTS[0], stop_after=3), clean, rtol=0, atol=0)


def test_an_error_inside_a_hook_leaves_no_hook(model):
    def fail(x, hook):
        raise RuntimeError("broken hook")

    before = live_hooks(model)
    with pytest.raises(RuntimeError, match="broken hook"):
        model.forward(TEXTS[0], stop_after=3, fwd_hooks=[((1, "resid_post"), fail)])
    assert live_hooks(model) == before


def test_pooling_equals_pooling_by_hand(model):
    encoded = [model.encode(text).ids for text in TEXTS]
    part = pool_batches(model, encoded, [[0, 2], [1]], [1, 3], (0, 5, "last"))
    assert part["rows"].tolist() == [0, 2, 1]
    for place, row in enumerate([0, 2, 1]):
        resid = model.forward(TEXTS[row], stop_after=3)[0]
        torch.testing.assert_close(part["mean.0"][1, place], resid.mean(dim=0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(part["mean.last"][1, place], resid[-1], rtol=1e-5, atol=1e-5)
        if len(resid) > 5:
            torch.testing.assert_close(part["mean.5"][1, place], resid[5:].mean(dim=0), rtol=1e-5, atol=1e-5)
        else:
            assert part["mean.5"][1, place].isnan().all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_pooling_ignores_what_stands_in_the_padding(model, poison):
    encoded = [model.encode(text).ids for text in TEXTS]
    (rows,) = plan([len(ids) for ids in encoded])
    mask = pad([encoded[row] for row in rows]).mask
    clean = pool(model, TEXTS, cache=False, progress=False)
    spoil = [
        ((n, "resid_post"), lambda x, hook: x.masked_fill(~mask[..., None], poison)) for n in range(model.n_layers)
    ]
    with model.hooks(spoil[-1:]):
        dirty = pool(model, TEXTS, cache=False, progress=False)
    for rule in (0, 10):
        torch.testing.assert_close(dirty.means(rule, 3), clean.means(rule, 3), rtol=1e-5, atol=1e-5, equal_nan=True)


def test_generation_repeats_with_its_seed_and_pads_on_the_left(model):
    once = model.generate(TEXTS, max_new_tokens=6, seed=3)
    assert once == model.generate(TEXTS, max_new_tokens=6, seed=3)
    assert len({tuple(model.generate(TEXTS, max_new_tokens=6, seed=seed)) for seed in range(4)}) > 1
    greedy = model.generate(TEXTS, max_new_tokens=5, temperature=0)
    assert greedy == [model.generate(text, max_new_tokens=5, temperature=0) for text in TEXTS]


def test_generation_stops_at_a_string(model):
    text = model.generate(TEXTS[0], max_new_tokens=20, temperature=0)
    mark = text.split()[1]
    assert mark not in model.generate(TEXTS[0], max_new_tokens=20, temperature=0, stop=[mark])


def test_the_fingerprint_follows_the_weights_alone(model):
    import copy

    from emolens.models.model import HookedModel

    twin = HookedModel(copy.deepcopy(model.bridge), model.tokenizer, "another name")
    assert twin.fingerprint == model.fingerprint
    changed = HookedModel(copy.deepcopy(model.bridge), model.tokenizer)
    with torch.no_grad():
        next(iter(changed.bridge.parameters())).add_(0.1)
    assert changed.fingerprint != model.fingerprint


def test_errors_name_what_was_wrong(model):
    with pytest.raises(ValueError, match=r"layer 9 is out of range: .* blocks, 0 to"):
        model.forward(TEXTS[0], stop_after=9)
    with pytest.raises(
        ValueError, match="no hook point 'blocks.0.hook_resid_pots' .did you mean blocks.0.hook_resid_post"
    ):
        model.forward(TEXTS[0], stop_after=0, fwd_hooks=[("blocks.0.hook_resid_pots", lambda x, hook: x)])
    with pytest.raises(ValueError, match="is empty"):
        model.forward(["she ran", "  "], stop_after=0)
    with pytest.raises(ValueError, match="longer than the context"):
        model.forward(" ".join(["cold"] * 300), stop_after=0)


def test_a_message_that_occurs_in_the_template_is_found_where_it_stands(model):
    messages = [{"role": "user", "content": "Human"}, {"role": "assistant", "content": "A"}]
    messages += [{"role": "user", "content": "Assistant :"}]
    encoding = model.encode_chat(messages)
    said = [model.tokenizer.decode(encoding.ids[turn.start : turn.end]) for turn in encoding.turns]
    assert said[0] == "Human" and said[2].replace(" ", "") == "Assistant:"
    assert [turn.start for turn in encoding.turns] == sorted({turn.start for turn in encoding.turns})
    assert encoding.turns[0].start > 1  # "Human" is the first word of the plain form, too
