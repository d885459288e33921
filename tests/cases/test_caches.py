"""Section 2 of the report: what is kept on disk is what the plain model with these weights gives."""

import copy
import json
import shutil
import warnings

import pytest
import torch
from tiny import WORDS, passes, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.stories import Corpus
from emolens.files import cache_dir
from emolens.reading.scan import scan
from emolens.reading.scan_result import Scan
from emolens.vectors.pooling import SHARD_TEXTS, pool

pytestmark = pytest.mark.usefixtures("few_dialogues")
TEXTS = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(12 + i % 9)) for i in range(2 * SHARD_TEXTS + 5)]
FEW = TEXTS[:20]


@pytest.fixture(scope="module")
def corpus():
    rows = [
        {"emotion": emotion, "register": "plain", "topic": f"t{topic}", "text": f"{emotion} {TEXTS[topic]} {TEXTS[e]}"}
        for topic in range(4)
        for e, emotion in enumerate(("calm", "afraid", "angry"))
    ]
    return Corpus.from_rows(rows)


def files():
    return sorted(path for path in cache_dir().rglob("*.safetensors"))


def on_bridge(model):
    model.bridge.add_hook("blocks.1.hook_resid_post", lambda x, hook: x + 3)
    return model.bridge.reset_hooks


def by_context(model):
    context = model.hooks([((1, "resid_post"), lambda x, hook: x + 3)])
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


def on_torch(model):
    return model.hf_model.model.layers[1].mlp.register_forward_hook(lambda module, given, out: out + 3).remove


def before_torch(model):
    return model.hf_model.model.embed_tokens.register_forward_pre_hook(lambda module, given: (given[0] * 0 + 5,)).remove


def on_every_module(model):
    hook = lambda module, given, out: out + 3 if isinstance(module, torch.nn.Linear) else None  # noqa: E731
    return torch.nn.modules.module.register_module_forward_hook(hook).remove


def other_forward(model):
    linear = model.hf_model.model.layers[1].mlp.down_proj
    linear = getattr(linear, "original_component", linear)
    linear.forward = lambda x: torch.nn.functional.linear(x, linear.weight) + 3
    return lambda: linear.__dict__.pop("forward")


def in_training(model):
    model.hf_model.train()
    return model.hf_model.eval


FOREIGN = [on_bridge, by_context, on_torch, before_torch, on_every_module, other_forward, in_training]


# TransformerLens issues: a hook that was left on the model is part of every later result.
@pytest.mark.parametrize("put", FOREIGN)
def test_nothing_is_kept_of_a_model_with_foreign_hooks(tiny, put, corpus):
    clean = pool(tiny, FEW, cache=False, progress=False)
    remove = put(tiny)
    try:
        assert not tiny.is_plain
        hooked = pool(tiny, FEW, progress=False)
        el.derive(tiny, corpus, progress=False)
        assert files() == []
    finally:
        remove()
    assert tiny.is_plain
    if put is not in_training:  # a Llama without dropout computes the same
        assert not torch.equal(hooked.means(0, 3), clean.means(0, 3))
    assert torch.equal(pool(tiny, FEW, progress=False).means(0, 3), clean.means(0, 3))


# The same the other way round: what is kept of the plain model is not given for the hooked one.
@pytest.mark.parametrize("put", FOREIGN[:4])
def test_nothing_that_is_kept_is_read_under_foreign_hooks(tiny, put, corpus):
    clean, vectors = pool(tiny, FEW, progress=False), el.derive(tiny, corpus, progress=False)
    remove = put(tiny)
    try:
        assert not torch.equal(pool(tiny, FEW, progress=False).means(0, 3), clean.means(0, 3))
        assert not torch.equal(el.derive(tiny, corpus, progress=False).raw, vectors.raw)
    finally:
        remove()
    assert torch.equal(el.derive(tiny, corpus, progress=False).raw, vectors.raw)


# A session in a notebook: derive with a hook, reset_hooks, derive again, also in a new process.
def test_derive_after_reset_hooks_gives_the_clean_vectors(tiny, corpus):
    tiny.bridge.add_hook("blocks.1.hook_resid_post", lambda x, hook: -x)
    el.derive(tiny, corpus, progress=False)
    tiny.bridge.reset_hooks()
    expected = el.derive(tiny, corpus, cache=False, progress=False)
    assert torch.equal(el.derive(tiny, corpus, progress=False).raw, expected.raw)
    again = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    assert torch.equal(el.derive(again, corpus, progress=False).raw, expected.raw)


def test_the_packages_own_hooks_leave_the_cache_open(tiny, monkeypatch):
    pool(tiny, FEW, progress=False)
    tiny.generate("she ran", max_new_tokens=3)
    tiny.run_with_cache("she ran")
    ran = passes(monkeypatch)
    pool(tiny, FEW, progress=False)
    assert ran == []


def in_place(weight):
    with torch.no_grad():
        weight.mul_(1.5)


def through_data(weight):
    weight.data.mul_(1.5)


def one_entry(weight):
    weight.data[0, 0] += 1


# Users of peft and of weight editing: a merge or an edit in place, after the model was used.
@pytest.mark.parametrize("change", [in_place, through_data, one_entry])
def test_changed_weights_have_another_fingerprint_and_another_cache(tiny, change):
    before, mark = pool(tiny, FEW, progress=False), tiny.fingerprint
    change(tiny.hf_model.model.layers[1].mlp.down_proj.weight)
    after = pool(tiny, FEW, progress=False)
    assert after.stamp["fingerprint"] != mark and tiny.fingerprint == after.stamp["fingerprint"]
    assert not torch.equal(after.means(0, 3), before.means(0, 3))
    assert torch.equal(after.means(0, 3), pool(tiny, FEW, cache=False, progress=False).means(0, 3))


# peft users: merge_adapter writes into `weight.data`, which torch does not count.
def test_a_merged_adapter_is_another_model():
    peft = pytest.importorskip("peft")
    options = {"target_modules": ["down_proj"], "init_lora_weights": False, "r": 2}
    adapted = peft.get_peft_model(tiny_llama(), peft.LoraConfig(**options))
    plain = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny")
    merged = el.HookedModel.from_hf(copy.deepcopy(adapted).merge_and_unload(), tiny_tokenizer(), "tiny")
    assert merged.fingerprint != plain.fingerprint
    first, second = pool(plain, FEW, progress=False), pool(merged, FEW, progress=False)
    assert not torch.equal(first.means(0, 3), second.means(0, 3))


# Users who copy cache folders by hand: a shard under the name of another.
def test_a_shard_that_is_a_copy_of_another_is_redone(tiny, caplog):
    first = pool(tiny, TEXTS, progress=False)
    shards = files()
    assert len(shards) > 1
    shutil.copy(shards[0], shards[1])
    again = pool(tiny, TEXTS, progress=False)
    assert torch.equal(again.means(0, 3), first.means(0, 3)) and "holds other texts" in caplog.text


def test_a_shard_that_is_exchanged_while_it_is_in_use_is_named(tiny):
    first = pool(tiny, TEXTS, progress=False)
    shards = files()
    whole = first.means(0, 3)
    shutil.copy(shards[1], cache_dir() / "aside")
    shutil.copy(shards[0], shards[1])
    with pytest.raises(ValueError, match="was changed while it was in use"):
        first.means(0, 3)
    shutil.copy(cache_dir() / "aside", shards[1])
    assert torch.equal(first.means(0, 3), whole)
    spoiled = bytearray(shards[0].read_bytes())
    spoiled[-100] ^= 1
    shards[0].write_bytes(spoiled)
    with pytest.raises(ValueError, match="was changed"):
        first.means(0, 3)


def test_texts_that_are_in_no_shard_are_never_read(tiny):
    pooled = pool(tiny, FEW, cache=False, progress=False)
    (rows, shard), *_ = pooled.parts
    for held in (rows[:-1], [*rows[:-1], rows[0]], []):
        with pytest.raises(ValueError, match="not each of 20 texts once"):
            type(pooled)(pooled.layers, pooled.rules, pooled.counts, pooled.residual_norm, ((held, shard),), {})


# The same for vectors: a file of one corpus under the name of another.
def test_kept_vectors_of_another_corpus_are_fitted_again(tiny, corpus):
    other = Corpus(tuple(story for story in corpus if story.topic != "t3"))
    expected = el.derive(tiny, other, progress=False)
    (path,) = (cache_dir() / "vectors").iterdir()
    vectors = el.derive(tiny, corpus, progress=False)
    (mine,) = set((cache_dir() / "vectors").iterdir()) - {path}
    shutil.copy(mine, path)
    assert torch.equal(el.derive(tiny, other, progress=False).raw, expected.raw)
    assert torch.equal(el.derive(tiny, corpus, progress=False).raw, vectors.raw)


@pytest.fixture
def vectors(tiny, corpus):
    return el.derive(tiny, corpus, cache=False, progress=False)


# Users who look into the state: JSON is edited easily.
def test_an_edited_state_of_a_scan_is_refused(tiny, vectors, tmp_path):
    path = tmp_path / "state.json"
    found = scan(tiny, vectors, FEW, path=path, progress=False)
    assert scan(tiny, vectors, FEW, path=path, progress=False) == found == Scan.load(path)
    state = json.loads(path.read_text())
    edits = [
        lambda s: s["hits"]["calm"][0].update(score=0.99),
        lambda s: s.update(documents=s["documents"] + 1),
        lambda s: s.pop("sha256"),
        lambda s: s["settings"].update(k=21),
    ]
    for edit in edits:
        edited = copy.deepcopy(state)
        edit(edited)
        path.write_text(json.dumps(edited))
        with pytest.raises(ValueError, match=r"state.json holds no scan, or a damaged one"):
            scan(tiny, vectors, FEW, path=path, progress=False)


@pytest.mark.parametrize("put", [on_bridge, by_context])
def test_a_scan_under_hooks_leaves_no_state(tiny, vectors, tmp_path, put):
    path = tmp_path / "state.json"
    remove = put(tiny)
    with pytest.warns(UserWarning, match="kept in no file"):
        hooked = scan(tiny, vectors, FEW, path=path, progress=False)
    remove()
    assert not path.exists()
    clean = scan(tiny, vectors, FEW, path=path, progress=False)
    assert clean == scan(tiny, vectors, FEW, progress=False) != hooked
    kept = path.read_bytes()
    with el.steer(tiny, vectors["calm"], 0.5), pytest.warns(UserWarning, match="kept in no file"):
        assert scan(tiny, vectors, FEW, path=path, progress=False) != clean
    assert path.read_bytes() == kept


# A long run on a shared machine: hours of work, and then no such folder, or a full disk.
def test_a_place_that_cannot_be_written_is_found_before_anything_is_run(tiny, vectors, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    ran = passes(monkeypatch)
    for path in (tmp_path, tmp_path / "file" / "state.json"):
        with pytest.raises(OSError, match="a file can't be written there"):
            scan(tiny, vectors, FEW, path=path, progress=False)
    assert ran == []
    scan(tiny, vectors, FEW, path=tmp_path / "new" / "state.json", progress=False)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["state.json"]


def test_on_a_full_disk_the_result_so_far_is_in_the_error(tiny, vectors, tmp_path, monkeypatch):
    expected = scan(tiny, vectors, FEW, progress=False)

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("emolens.reading.scan_result.write_atomic", full)
    with pytest.raises(OSError, match="No space left") as caught:
        scan(tiny, vectors, FEW, path=tmp_path / "state.json", progress=False)
    assert caught.value.scan == expected and "error.scan" in caught.value.__notes__[0]


def test_a_plain_run_warns_of_nothing(tiny, vectors, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan(tiny, vectors, FEW, path=tmp_path / "state.json", progress=False)
