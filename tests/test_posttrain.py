"""Fine-tuning learns replies alone, is the same however often it is interrupted, and ships what its record says."""

import json
import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.files import data_path
from emolens.models.model import HookedModel
from emolens.training import packaged_children
from emolens.training.adapters import hugging_face_model, load_adapter, lora, merge, packaged_adapters, trained
from emolens.training.dialogues import _CrossEntropy, examples, mean_loss
from emolens.training.posttrain import Recipe, held_out, posttrain, steps_of

training = import_module("emolens.training.posttrain")  # `el.posttrain` is its function
DIALOGUES = [
    {"user": f"the river {word} was cold", "assistant": "he walked calm and warm . she ran ."}
    for word in ("and", "but", "very", "door", "night", "she", "he", "a", "warm", "angry")
]
RECIPE = Recipe(tokens=300, batch_tokens=40, every=4, learning_rate=1e-2)


def tiny_gpt(name="tiny-gemma", seed=0):
    return HookedModel.from_hf(tiny_gemma(seed), tiny_tokenizer(), name)


@pytest.fixture
def base():
    return tiny_gpt()


def run(base, path, **options):
    return posttrain(base, DIALOGUES, path, **{"recipe": RECIPE, "progress": False} | options)


# --- what is learnt


def test_only_the_reply_and_its_end_are_learnt(base):
    chat = [
        {"role": "user", "content": "the river was cold"},
        {"role": "assistant", "content": "he ran ."},
        {"role": "user", "content": "and she"},
        {"role": "assistant", "content": "she walked"},
    ]
    (example,) = examples(base, [chat])
    learnt = base.tokenizer.convert_ids_to_tokens([example.ids[place + 1] for place in example.learnt])
    assert learnt == ["he", "ran", ".", "she", "walked", "<eos>"]


def test_the_steps_hold_exactly_the_tokens_asked_for_and_no_held_out_dialogue(base):
    found = examples(base, DIALOGUES)
    batches = steps_of(found, RECIPE)
    assert sum(len(example.learnt) for batch in batches for example in batch) == RECIPE.tokens
    assert all(max(len(e.ids) for e in batch) * len(batch) <= RECIPE.batch_tokens for batch in batches)
    out = {tuple(found[row].ids) for row in held_out(len(found), RECIPE)}
    used = [tuple(example.ids) for batch in batches for example in batch]
    assert len(out) == 1 and not out & set(used) and len(set(used)) == 9
    assert steps_of(found, RECIPE) == batches != steps_of(found, Recipe(**vars(RECIPE) | {"seed": 1}))


@pytest.mark.parametrize("family", [tiny_gemma, tiny_llama])
def test_the_loss_falls_and_the_base_stays_as_it_is(family, tmp_path):
    base = HookedModel.from_hf(family(), tiny_tokenizer(), "tiny")
    before = base.fingerprint, base.forward("the river was cold")
    done = run(base, tmp_path / "a.safetensors", name="kind")
    losses = done.record["held_out_loss"]
    assert losses["child"] < losses["base"] - 0.5
    assert done.record["losses"][-1]["loss"] < done.record["losses"][0]["loss"] - 0.5
    assert done.model.name == "tiny+kind" and done.model.fingerprint != base.fingerprint
    assert base.take_fingerprint() == before[0] and torch.equal(base.forward("the river was cold"), before[1])
    assert "300 reply tokens" in done.curve().headline() and set(done.curve().table()["series"]) == {
        "trained on",
        "held out",
    }


def test_the_copy_of_the_model_gives_its_logits_and_so_does_an_adapter_of_zeros(base):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    assert torch.equal(hugging_face_model(base)(ids).logits, base.forward(ids.tolist()))
    fresh = {
        name: torch.zeros_like(weight) for name, weight in trained(lora(hugging_face_model(base), 8, 16, 0)).items()
    }
    child = merge(base, fresh, {"name": "zero", "recipe": {"rank": 8, "alpha": 16}})
    assert torch.equal(child(ids).logits, base.forward(ids.tolist()))


def test_the_loss_and_its_gradient_are_those_of_all_logits_at_once():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(300, 16), torch.randn(50, 16), torch.randint(0, 50, (300,))
    one, other = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = _CrossEntropy.apply(one, weight, targets)
    want = torch.nn.functional.cross_entropy(other @ weight.T, targets, reduction="sum")
    (loss / 7).backward()
    (want / 7).backward()
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(one.grad, other.grad)


def test_the_training_does_not_touch_the_random_state_and_depends_on_the_seed(base, tmp_path):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = run(base, tmp_path / "a.safetensors").path.read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    assert run(base, tmp_path / "b.safetensors").path.read_bytes() == first
    other = Recipe(**vars(RECIPE) | {"seed": 1})
    assert run(base, tmp_path / "c.safetensors", recipe=other).path.read_bytes() != first


def test_training_ends_when_the_held_out_loss_does_not_fall_and_keeps_the_best_weights(base, tmp_path):
    wild = Recipe(**vars(RECIPE) | {"learning_rate": 3.0, "tokens": 2000})
    done = run(base, tmp_path / "a.safetensors", recipe=wild)
    held = [row["loss"] for row in done.record["held_out"]]
    assert done.record["tokens"] < wild.tokens and len(held) - 1 - held.index(min(held)) == wild.patience
    assert done.record["held_out_loss"]["child"] == pytest.approx(min(held), abs=0.01)


# --- interruption


def interrupt(monkeypatch, after):
    """`reply_loss` is interrupted in a training step, once `after` steps have been made."""
    whole, made = training.reply_loss, []

    def broken(causal, batch):
        made.append(torch.is_grad_enabled())
        if sum(made) > after:
            raise KeyboardInterrupt
        return whole(causal, batch)

    monkeypatch.setattr(training, "reply_loss", broken)


@pytest.mark.parametrize("after", [3, 4, 11])
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(base, tmp_path, monkeypatch, after):
    whole = run(base, tmp_path / "whole.safetensors")
    path = tmp_path / "broken.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after)
        run(base, path)
    assert not path.exists() and (left := tmp_path / "broken.checkpoint.safetensors").exists()
    steps = []
    with monkeypatch.context() as patch:
        original = training.reply_loss
        patch.setattr(training, "reply_loss", lambda *a: (steps.append(torch.is_grad_enabled()), original(*a))[1])
        again = run(base, path)
    assert sum(steps) == whole.record["steps"] - after // RECIPE.every * RECIPE.every  # the checkpointed ones are kept
    assert again.path.read_bytes() == whole.path.read_bytes() and not left.exists()
    assert again.record["losses"] == whole.record["losses"] and again.record["held_out"] == whole.record["held_out"]


def test_a_finished_training_is_loaded_and_another_at_its_path_is_an_error(base, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    first = run(base, path)
    monkeypatch.setattr(training, "_train", None)
    assert run(base, path).record == first.record
    with pytest.raises(ValueError, match=r"a\.safetensors is an adapter of another training"):
        posttrain(base, DIALOGUES[1:], path, recipe=RECIPE, progress=False)


def test_a_checkpoint_of_another_training_or_machine_says_so(base, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 5)
        run(base, path)
    with pytest.raises(ValueError, match="was begun with name='post-trained', not 'other'; delete it"):
        run(base, path, name="other")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    with pytest.warns(
        UserWarning, match="begun with threads 1, and goes on with 64: the weights will not be bit for bit"
    ):
        run(base, path)


# --- watching


@pytest.fixture(scope="module")
def vectors(few_dialogues):
    emotions = ["calm", "sad", "happy", "angry", "proud"]
    return el.derive(tiny_gpt(), el.corpus.stories().where(emotion=emotions), cache=False, progress=False)


def test_watched_emotions_are_what_reading_the_model_gives(base, vectors, tmp_path):
    prompts = ["the river was cold", "she ran and ran . door"]
    done = run(base, tmp_path / "a.safetensors", watch=["calm", "sad"], vectors=vectors, prompts=prompts)
    watched = done.record["watched"]
    assert [row["step"] for row in watched] == [row["step"] for row in done.record["held_out"]]
    chats = [[{"role": "user", "content": text}] for text in prompts]
    read = el.read(base, chats, vectors, at="last")
    for emotion in ("calm", "sad"):
        assert watched[0]["scores"][emotion] == pytest.approx(float(read[emotion].mean()), abs=1e-5)
    assert watched[-1]["scores"] != watched[0]["scores"]
    assert {"calm", "sad"} <= set(done.curve().table()["series"])
    unwatched = run(base, tmp_path / "b.safetensors")
    assert unwatched.path.read_bytes() == done.path.read_bytes()  # looking changes nothing


def test_a_monitor_warns_when_quiet_texts_give_alarms_during_training(base, vectors, tmp_path):
    quiet = [[{"role": "user", "content": text}] for text in ("the river was cold", "she ran . door", "a warm night")]
    watch = el.Watch.of(vectors, ["calm", "sad"], 2)
    monitor = el.Monitor.calibrate(base, vectors, watch, quiet * 7, 0.05)
    steady = run(base, tmp_path / "a.safetensors", watch=monitor, prompts=quiet)
    heights = [monitor.watch(chat).heights.max(axis=0) for chat in quiet]
    first, *_, last = (row["scores"] for row in steady.record["watched"])
    for name, wanted in zip(("calm", "sad"), np.mean(heights, axis=0), strict=True):
        assert first[name] == pytest.approx(wanted, abs=1e-3)
    assert first["alarms"] == 0 and last != first
    low = replace(monitor, threshold=-99.0, quiet=tuple(height - 200 for height in monitor.quiet))
    with pytest.warns(UserWarning, match=r"alarm in 100% of 3 quiet conversations.* promised at most 1[0-9]%"):
        run(base, tmp_path / "b.safetensors", watch=low, prompts=quiet)
    with pytest.raises(ValueError, match="block 5 is the last one"):
        late = el.Monitor.calibrate(base, vectors, el.Watch.of(vectors, "calm", 5), quiet * 7, 0.05)
        run(base, None, watch=late)


def test_watching_needs_vectors_of_a_block_before_the_last(base, vectors):
    with pytest.raises(ValueError, match="to watch emotions, give the vectors"):
        run(base, None, watch=["calm"])
    with pytest.raises(ValueError, match="block 5 is the last one"):
        run(base, None, watch=["calm"], vectors=vectors.at(5))
    with pytest.raises(ValueError, match="no vector for the emotion 'clam'.*calm"):
        run(base, None, watch=["clam"], vectors=vectors)


# --- bad input


@pytest.mark.parametrize(
    "bad",
    [
        {"user": "the river"},
        {"user": "the river", "assistant": ""},
        [{"role": "user", "content": "the river"}],
        [],
    ],
)
def test_a_dialogue_without_an_assistant_turn_is_named(base, bad):
    with pytest.raises(ValueError, match="dialogue 2 has no assistant turn"):
        posttrain(base, [*DIALOGUES[:2], bad], progress=False)


def test_too_few_dialogues(base):
    with pytest.raises(ValueError, match="1 dialogues: at least two"):
        posttrain(base, DIALOGUES[:1], progress=False)


def test_adapters_are_refused_for_another_base_and_when_damaged(base, tmp_path):
    path = run(base, tmp_path / "a.safetensors", name="mine").path
    with pytest.raises(ValueError, match=r"'mine' was trained on tiny-gemma \(fingerprint \w{16}\), not on other"):
        load_adapter(tiny_gpt("other", seed=1), path)
    with pytest.raises(ValueError, match="no adapter 'compsed': for tiny-gemma there ship none"):
        load_adapter(base, "compsed")
    record = path.with_suffix(".json")
    text = record.read_text()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"is not the file that a\.json describes"):
        load_adapter(base, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_adapter(base, path)
    record.unlink()
    with pytest.raises(ValueError, match=r"has no record a\.json beside it"):
        load_adapter(base, path)
    assert json.loads(text)["fingerprint"] == base.fingerprint


def test_loading_gives_the_model_that_training_gave(base, tmp_path):
    done = run(base, tmp_path / "a.safetensors")
    again = load_adapter(base, done.path)
    assert torch.equal(again.model.forward("the river"), done.model.forward("the river"))


# --- what ships


BASE, SHIPPED = "gemma-3-270m", ("bright", "composed")


def test_two_adapters_ship_with_their_record_and_terms():
    paths = packaged_adapters(BASE)
    assert tuple(paths) == SHIPPED and all(path.stat().st_size <= 5_000_000 for path in paths.values())
    assert "Gemma Terms of\nUse" in data_path("adapters", "NOTICE").read_text()
    records = [json.loads(path.with_suffix(".json").read_text()) for path in paths.values()]
    recipe = packaged_children.SETTLED
    assert records[0]["recipe"] == records[1]["recipe"] == vars(recipe)  # the committed recipe made both
    for record in records:
        losses = [row["loss"] for row in record["held_out"]]
        assert losses.index(min(losses)) == len(losses) - 1 - recipe.patience  # it had stopped falling
        assert record["tokens"] < recipe.tokens
    assert all(record["seconds"] < 15 * 60 for record in records)
    assert all(len(record["watched"]) >= 4 for record in records)


@pytest.mark.model
@pytest.mark.parametrize("manner", SHIPPED)
def test_loading_an_adapter_changes_the_held_out_loss_by_what_its_record_says(manner):
    base = el.load(BASE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        child = load_adapter(base, manner)
    rows = el.corpus.stimuli(packaged_children.DIALOGUES[manner])
    kept = [rows[row] for row in held_out(len(rows), Recipe())]
    losses = {
        name: mean_loss(hugging_face_model(model), examples(model, kept))
        for name, model in (("base", base), ("child", child.model))
    }
    recorded = child.record["held_out_loss"]
    assert losses["base"] == pytest.approx(recorded["base"], abs=0.02)  # the dtype of this machine may differ
    assert losses["child"] == pytest.approx(recorded["child"], abs=0.02)
    assert losses["child"] < losses["base"] - 0.2
