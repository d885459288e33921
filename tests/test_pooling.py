import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import WORDS, passes

from emolens.files import cache_dir
from emolens.models.batching import Batch, pad, plan, ranks
from emolens.models.model import HookedModel
from emolens.vectors.pooling import SHARD_TEXTS, pool
from emolens.vectors.pooling_rules import pooling_weights
from emolens.vectors.token_moments import token_moments

TEXTS = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(3 + i % 20)) for i in range(3 * SHARD_TEXTS)]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 600))
def test_every_text_is_in_one_batch_within_the_budget(lengths, budget):
    batches = plan(lengths, budget)
    assert sorted(i for rows in batches for i in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= budget
    assert batches == plan(list(lengths), budget)


@given(st.lists(st.lists(st.integers(3, 60), min_size=1, max_size=12), min_size=1, max_size=5))
def test_ranks_and_weights_do_not_depend_on_the_side_of_the_padding(rows):
    left, right = pad(rows, "left"), pad(rows, "right")
    for row in range(len(rows)):
        assert ranks(left.mask)[row][left.mask[row]].tolist() == list(range(len(rows[row])))
        for rule in (0, 3, "last"):
            ours, theirs = (pooling_weights(batch, [rule])[row, 0][batch.mask[row]] for batch in (left, right))
            assert torch.equal(ours, theirs)


def test_weights_average_the_tokens_from_a_rank_on():
    weights = pooling_weights(pad([[5, 6, 7, 8], [9]]), [1, "last"])
    assert weights[0, 0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert weights[1, 0].sum() == 0  # too short for the rule
    assert weights[:, 1].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_means_equal_those_of_single_texts_and_short_texts_are_nan(tiny):
    pooled = pool(tiny, TEXTS[:40], progress=False)
    for row in (0, 7, 39):
        resid = tiny.forward(TEXTS[row], stop_after=3)[0]
        torch.testing.assert_close(pooled.means(0, 3)[row], resid.mean(dim=0), rtol=1e-5, atol=1e-6)
    assert pooled.means(10, 1)[pooled.counts <= 10].isnan().all()
    assert not pooled.means(10, 1)[pooled.counts > 10].isnan().any()


def test_the_residual_norm_leaves_out_the_first_tokens(tiny):
    pooled = pool(tiny, TEXTS[:30], progress=False)
    later = [tiny.forward(text, stop_after=2)[0, 10:] for text in TEXTS[:30]]
    assert float(pooled.residual_norm[2]) == pytest.approx(float(torch.cat(later).norm(dim=-1).mean()), rel=1e-5)


def test_a_second_run_costs_no_forward_pass(tiny, monkeypatch):
    first = pool(tiny, TEXTS[:300], progress=False)
    monkeypatch.setattr(HookedModel, "forward", lambda *args, **kwargs: pytest.fail("a forward pass was run"))
    assert torch.equal(pool(tiny, TEXTS[:300], progress=False).means(0, 2), first.means(0, 2))


def test_a_damaged_shard_is_found_and_redone(tiny, caplog):
    first = pool(tiny, TEXTS, progress=False)
    shards = sorted(cache_dir().rglob("*.safetensors"))
    assert len(shards) == 3
    spoiled = bytearray(shards[1].read_bytes())
    spoiled[-100] ^= 1
    shards[1].write_bytes(spoiled)
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    again = pool(tiny, TEXTS, progress=False)
    assert torch.equal(again.means(0, 3), first.means(0, 3))
    assert "damaged" in caplog.text


CHILD = """
import sys, time
from tiny import tiny_llama, tiny_tokenizer
from emolens.models.hooked import Hooked
from test_pooling import TEXTS
from emolens.models.model import HookedModel
from emolens.vectors.pooling import pool
model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
run = Hooked._run
Hooked._run = lambda *args: (time.sleep(0.05), run(*args))[1]
pool(model, TEXTS, progress=False)
"""


def test_a_killed_run_goes_on_bit_for_bit(tiny, tmp_path, monkeypatch):
    whole = pool(tiny, TEXTS, progress=False, cache=tmp_path / "whole")
    monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path / "killed"))
    folders = f"{Path(__file__).parent}:{Path(__file__).parent.parent}"
    child = subprocess.Popen([sys.executable, "-c", CHILD], env=os.environ | {"PYTHONPATH": folders})
    deadline = time.time() + 120
    while not list(cache_dir().rglob("0001.safetensors")) and time.time() < deadline:
        assert child.poll() is None, "the child ended by itself"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not list(cache_dir().rglob("0002.safetensors")), "the run was over before it was killed"
    ran = passes(monkeypatch)
    resumed = pool(tiny, TEXTS, progress=False)
    assert 0 < sum(ran) < len(TEXTS)
    for rule in (0, 10, 20):
        for layer in range(4):
            assert torch.equal(resumed.means(rule, layer).nan_to_num(9), whole.means(rule, layer).nan_to_num(9))
    assert torch.equal(resumed.residual_norm, whole.residual_norm)


def test_a_full_disk_loses_nothing(tiny, monkeypatch):
    import emolens.vectors.pooling

    write, calls = emolens.vectors.pooling.write_atomic, []

    def full(path, data):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(emolens.vectors.pooling, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        pool(tiny, TEXTS, progress=False)
    ran = passes(monkeypatch)
    pool(tiny, TEXTS, progress=False)
    assert sum(ran) < len(TEXTS)


def test_out_of_memory_halves_the_batch(tiny, caplog):
    def scarce(x, hook):
        if len(x) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    calm = pool(tiny, TEXTS[:20], progress=False, cache=False)
    with tiny.hooks([((0, "resid_post"), scarce)]):
        tight = pool(tiny, TEXTS[:20], progress=False, cache=False)
    torch.testing.assert_close(tight.means(0, 3), calm.means(0, 3), rtol=1e-5, atol=1e-6)
    assert "halving the batch" in caplog.text


def test_other_errors_pass_through(tiny):
    def broken(x, hook):
        raise RuntimeError("no such thing")

    with tiny.hooks([((0, "resid_post"), broken)]), pytest.raises(RuntimeError, match="no such thing"):
        pool(tiny, TEXTS[:20], progress=False, cache=False)


def test_a_rule_or_layer_that_was_not_pooled_is_named(tiny):
    pooled = pool(tiny, TEXTS[:5], [1, 2], (0,), progress=False)
    with pytest.raises(ValueError, match="rule 10 at layer 2 was not pooled"):
        pooled.means(10, 2)
    with pytest.raises(ValueError, match="layer 7 is out of range"):
        pool(tiny, TEXTS[:5], [7], progress=False)


@pytest.mark.parametrize("from_rank", [0, 1, 10])
def test_token_moments_are_the_mean_and_covariance_of_the_later_tokens(tiny, from_rank):
    moments = token_moments(tiny, TEXTS[10:20], [2], from_rank=from_rank, progress=False)
    tokens = torch.cat([tiny.forward(text, stop_after=2)[0, from_rank:] for text in TEXTS[10:20]])
    torch.testing.assert_close(moments.mean[0], tokens.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.covariance[0], tokens.T.cov(correction=0), rtol=1e-3, atol=1e-5)
    basis = moments.components(2, 0.5)
    share = (tokens - tokens.mean(dim=0)) @ basis.T
    assert share.var(dim=0, correction=0).sum() >= 0.5 * tokens.var(dim=0, correction=0).sum() * 0.999
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), rtol=1e-4, atol=1e-5)


def test_poisoned_padding_changes_nothing(tiny):
    batch = pad([tiny.encode(text).ids for text in TEXTS[:6]])
    poisoned = Batch(torch.where(batch.mask, batch.ids, torch.full_like(batch.ids, 33)), batch.mask)
    clean, dirty = (tiny.forward(b, stop_after=3)[batch.mask] for b in (batch, poisoned))
    torch.testing.assert_close(dirty, clean, rtol=1e-5, atol=1e-6)
