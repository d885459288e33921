"""Issue 13, sections 1 and 7: no recipe without an end, no loss that is no number, no judge that waits for ever."""

import math
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_gemma, tiny_tokenizer

import emolens as el
from emolens.judging.judge import answer_logprobs, classify, keyword_judge, parse_answer, validate
from emolens.judging.kappa import cohens_kappa
from emolens.judging.rubrics import Labelled, Rubric
from emolens.judging.sandbox import Limits
from emolens.training.adapters import load_adapter, save_adapter
from emolens.training.dialogues import Example, examples, mean_loss
from emolens.training.posttrain import Recipe, held_out, posttrain, steps_of

DIALOGUES = [
    {"user": f"the river {word} was cold", "assistant": "he walked calm and warm ."}
    for word in ("and", "but", "a", "he")
]
RECIPE = {"tokens": 60, "batch_tokens": 40, "every": 2}


@pytest.fixture
def base():
    return el.HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")


# --- recipes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", 0), ("tokens", -1), ("tokens", math.nan), ("tokens", math.inf), ("tokens", "300"), ("tokens", True),
        ("rank", 0), ("alpha", 0), ("alpha", 1.5), ("batch_tokens", 0), ("batch_tokens", None), ("every", 0),
        ("every", -2), ("patience", 0), ("seed", -1), ("learning_rate", 0.0), ("learning_rate", -1e-3),
        ("learning_rate", math.nan), ("learning_rate", 1e38), ("learning_rate", math.inf), ("warmup", -0.1),
        ("warmup", 1.1), ("warmup", math.nan), ("held_out", 0), ("held_out", 1.0), ("held_out", math.nan),
    ],
)  # fmt: skip
def test_a_recipe_without_an_end_or_a_training_is_refused(name, value):
    """From users of trainers: max_steps=-1 means for ever there, and a learning rate of NaN trains to NaN."""
    with pytest.raises((TypeError, ValueError), match=name):
        Recipe(**{name: value})


def test_a_dialogue_is_left_to_train_on_whatever_the_share_held_out():
    """A share of 0.9 of two dialogues is both of them: there was nothing to go through, again and again."""
    assert held_out(2, Recipe(held_out=0.9)) != [0, 1] and len(held_out(2, Recipe(held_out=0.9))) == 1
    with pytest.raises(ValueError, match="1 dialogues: at least two"):
        held_out(1, Recipe())
    with pytest.raises(ValueError, match="example 1 has no token to learn"):
        steps_of([Example([1, 2], [0]), Example([1, 2], [])], Recipe())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (DIALOGUES[0], "one dialogue: give a list"),
        ([{"role": "user", "content": "the"}, {"role": "assistant", "content": "a"}], "one dialogue: give a list"),
        ("the river", "is a str"),
        (pd.DataFrame(DIALOGUES), r"to_dict\('records'\)"),
        ([*DIALOGUES, "the river"], "dialogue 4 is 'the river'"),
        ([*DIALOGUES, None], "dialogue 4 is None"),
        (
            [*DIALOGUES, {"prompt": "the", "response": "a"}],
            "dialogue 4 has no assistant turn.*keys are prompt, response",
        ),
        ([*DIALOGUES, {"user": math.nan, "assistant": "a"}], "dialogue 4: a message's content is nan"),
        ([*DIALOGUES, {"user": "the", "assistant": "   "}], "dialogue 4 .*message 1 .assistant. is empty"),
        ([], "0 dialogues: at least two"),
    ],
)
def test_what_is_no_list_of_dialogues_is_named(base, bad, message):
    """From datasets as people have them: tables, other keys, missing cells."""
    with pytest.raises(ValueError, match=message):
        posttrain(base, bad, recipe=Recipe(**RECIPE), progress=False)


def test_a_generator_is_read_once_and_what_is_passed_in_stays_as_it_was(base, tmp_path):
    """The second reading of a generator was empty, so that its checksum was that of no dialogues."""
    rows = [{"user": row["user"], "assistant": row["assistant"]} for row in DIALOGUES]
    listed = posttrain(base, rows, tmp_path / "a.safetensors", recipe=Recipe(**RECIPE), progress=False)
    assert rows == DIALOGUES
    once = posttrain(base, iter(rows), tmp_path / "b.safetensors", recipe=Recipe(**RECIPE), progress=False)
    assert once.record["dialogues"] == listed.record["dialogues"] and once.record["dialogues"]["rows"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"watch": "calm"}, r"watch='calm' is one text; give a list: watch=\['calm'\]"),
        ({"path": "adapter.bin"}, "ends in .safetensors"),
    ],
)
def test_arguments_are_checked_where_they_enter(base, options, message):
    """From users who give one name where a list is asked for."""
    with pytest.raises(ValueError, match=message):
        posttrain(base, DIALOGUES, recipe=Recipe(**RECIPE), progress=False, **options)


# --- losses that are not finite (law 12)


def broken(monkeypatch, at, what):
    """The loss of one step, or its gradient, is infinite."""
    import sys

    training = sys.modules["emolens.training.posttrain"]
    whole, made = training.reply_loss, []

    def loss(causal, batch):
        total, count = whole(causal, batch)
        made.append(1)
        if len(made) == at:
            total = total * torch.inf if what == "loss" else total + (total - total.detach()).abs().sqrt() * 1.0
        return total, count

    monkeypatch.setattr(training, "reply_loss", loss)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_keeps_the_checkpoint(
    base, tmp_path, monkeypatch, what
):
    """From trainers' issues: a loss of NaN was logged, and every weight saved after it was NaN."""
    path, recipe = tmp_path / "a.safetensors", Recipe(**RECIPE)
    whole = posttrain(base, DIALOGUES, tmp_path / "whole.safetensors", recipe=recipe, progress=False)
    with monkeypatch.context() as patch:
        broken(patch, 4, what)
        with pytest.raises(ValueError, match=f"the {what} at step 4 is not finite.*checkpoint of step 2 is kept"):
            posttrain(base, DIALOGUES, path, recipe=recipe, progress=False)
    assert not path.exists()
    again = posttrain(base, DIALOGUES, path, recipe=recipe, progress=False)  # goes on from step 2
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_a_checkpoint_that_was_changed_is_not_resumed(base, tmp_path, monkeypatch):
    """A shard with another number in it passed: a checkpoint has a checksum now."""
    path = tmp_path / "a.safetensors"
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="step 4"):
        broken(patch, 4, "loss")
        posttrain(base, DIALOGUES, path, recipe=Recipe(**RECIPE), progress=False)
    left = tmp_path / "a.checkpoint.safetensors"
    data = left.read_bytes()
    for bad in (data[:-1] + bytes([data[-1] ^ 1]), data[:200], data.replace(b'\\"tokens\\": ', b'\\"tokens\\":1', 1)):
        left.write_bytes(bad)
        with pytest.raises(ValueError, match="is damaged.*delete it"):
            posttrain(base, DIALOGUES, path, recipe=Recipe(**RECIPE), progress=False)


def test_adapters_hold_finite_weights_and_a_whole_record(base, tmp_path):
    """From checkpoints in float16: a weight above 65,504 becomes infinite when it is written."""
    with pytest.raises(ValueError, match="the weight 'w' of a.safetensors is not finite"):
        save_adapter(tmp_path / "a.safetensors", {"w": torch.tensor([1e6])}, {})
    path = tmp_path / "b.safetensors"
    save_adapter(path, {"w": torch.ones(1)}, {"name": "b"})
    for text in ("{", "[]", "{}"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(ValueError, match="b.json is not the record of an adapter"):
            load_adapter(base, path)


def test_no_mean_of_no_dialogues(base):
    with pytest.raises(ValueError, match="no dialogues"):
        mean_loss(None, [])
    with pytest.raises(ValueError, match="batch_tokens=0"):
        mean_loss(None, examples(base, DIALOGUES), 0)


# --- judges


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e30, "60", True, None])
def test_a_judge_is_waited_for_as_long_as_can_be_waited(seconds):
    """A timeout of NaN or of an age of the world ended in an OverflowError within threading."""
    with pytest.raises((TypeError, ValueError), match="seconds"):
        classify(lambda item: "a", ["x"], ["a", "b"], seconds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda item: "a", "a text", ["a", "b"]), "items is one text"),
        ((lambda item: "a", ["x"], "ab"), "labels is one text"),
        ((lambda item: "a", ["x"], []), "no labels"),
        (("letters", ["x"], ["a"]), "judge"),
    ],
)
def test_what_a_judge_is_given_is_checked(arguments, message):
    """A label was looked for within a text: every letter of it was one."""
    with pytest.raises((TypeError, ValueError), match=message):
        classify(*arguments)


def test_a_judge_that_hangs_does_not_hold_up_the_others():
    began = time.monotonic()
    with pytest.warns(UserWarning, match="1 of 3 judgements are invalid; the first: took too long .item 1."):
        labels = classify(lambda item: time.sleep(9 * (item == "slow")) or "a", ["x", "slow", "y"], ["a"], 0.2)
    assert labels == ["a", "invalid", "a"] and time.monotonic() - began < 5


def test_a_hand_label_that_the_judge_may_not_give_is_named():
    rows = [Labelled("x", "calm"), Labelled("y", "angry")]
    with pytest.raises(ValueError, match="reply 1 .* is labelled 'angry', none of"):
        validate(lambda item: "calm", rows, ["calm", "afraid"])
    with pytest.raises(ValueError, match="no labelled replies"):
        validate(lambda item: "calm", [])


def test_no_kappa_is_said_where_there_is_none():
    found = validate(lambda item: "calm", [Labelled("x", "calm")] * 4)
    assert "nan" not in found.headline() and "no verdict" in found.headline()


def test_kappa_takes_labels_alone():
    """From pandas users: a missing label is NaN, which equals nothing, and sorts among no texts."""
    with pytest.raises(ValueError, match="label 1 is nan"):
        cohens_kappa(np.array(["a", math.nan], dtype=object), ["a", "b"])
    for options in ({"draws": 0}, {"level": 1.0}, {"level": math.nan}):
        with pytest.raises(ValueError, match="draws="):
            cohens_kappa(["a", "b"], ["a", "b"], **options)
    assert cohens_kappa(np.array(["a", "b"]), np.array(["a", "b"])).kappa == 1


@pytest.mark.parametrize("words", ["unless", [], ["("]])
def test_keywords_are_a_list_of_regular_expressions(words):
    """One text was read as its letters, so that a reply with any of them had the label."""
    with pytest.raises(ValueError, match="keyword"):
        keyword_judge(Rubric("How?", {"a": "one", "b": "other"}, {"a": words}))


def test_a_label_is_no_regular_expression():
    assert parse_answer("It is C++.", ["C", "C++", "C."], "labels") == "invalid"  # C is named in it, too
    assert (
        parse_answer("a+b", ["a+b", "aab"], "labels") == "a+b"
        and parse_answer("aab", ["a+b", "aab"], "labels") == "aab"
    )


def test_a_log_probability_that_is_not_finite_is_no_answer(base, monkeypatch):
    """Of a model whose weights overflowed every answer is NaN, and the first label was the largest."""
    asked = [{"role": "user", "content": "the river was"}]
    with pytest.raises(ValueError, match="'' has no token"):
        answer_logprobs(base, [asked], [["calm", ""]])
    monkeypatch.setattr(type(base), "logits", lambda self, rows, at: torch.full((len(rows), len(at), 80), torch.nan))
    with pytest.raises(ValueError, match="'calm' after prompt 0 is not finite"):
        answer_logprobs(base, [asked], [["calm", "afraid"]])


@pytest.mark.parametrize(
    "limits",
    [{"seconds": 0}, {"seconds": math.inf}, {"seconds": math.nan}, {"memory": 0}, {"output": -1}, {"seconds": "9"}],
)
def test_a_limit_of_the_sandbox_is_one(limits):
    """A limit that is infinite, or none, would let an endless loop run."""
    with pytest.raises((TypeError, ValueError), match=next(iter(limits))):
        Limits(**limits)
