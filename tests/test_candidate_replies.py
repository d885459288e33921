"""Gradients at many blocks and in many contexts are those of one block and context at a time."""

import numpy as np
import pytest
import torch

from emolens import corpus
from emolens.judging.rubrics import conversation
from emolens.models.log_probs import SharedPrompt, gradients, log_probs
from emolens.studies.behaviour import _candidate_replies as replies

ROWS = [
    {
        "id": f"S{n}",
        "turns": [{"role": "user", "text": f"the {word} w{n} walked and"}],
        "harsh": ["she was angry w3", "he was very cold"],
        "honest": ["she was calm", "but he ran w7 ."],
    }
    for n, word in enumerate(("river", "door", "night"))
]  # fmt: skip
TWINS = {row["id"]: {"id": row["id"], "turns": [{"role": "user", "text": "a w9 ."}]} for row in ROWS}


def test_blocks_at_once_are_blocks_one_by_one(tiny):
    shared = SharedPrompt(tiny, tiny.encode(conversation(ROWS[0])))
    ids = [replies.token_ids(tiny, text) for text in (*ROWS[0]["harsh"], *ROWS[0]["honest"])]
    value, slope = gradients(tiny, shared, ids, [3, 0, 2])
    assert slope.shape == (4, 3, 32)
    for row, layer in enumerate([3, 0, 2]):
        alone, one = gradients(tiny, shared, ids, layer)
        assert torch.allclose(value, alone, atol=1e-6) and torch.allclose(slope[:, row], one, atol=1e-6)


def test_each_context_is_scored_and_the_mean_of_several_taken(tiny):
    items = replies.prepare(tiny, ROWS, ["harsh", "honest"], twins=TWINS)
    values, slopes = replies.reply_gradients(tiny, items, [1, 2], progress=False)
    assert list(values) == list(slopes) == ["own", "others", "neutral", "twin"]
    item = items[5]
    prompts = [tiny.encode(conversation(row)) for row in ROWS]
    by_hand = [log_probs(tiny, SharedPrompt(tiny, prompt), [item.ids], per_token=True).item() for prompt in prompts]
    assert values["own"][5] == pytest.approx(by_hand[1], abs=1e-5)
    assert values["others"][5] == pytest.approx((by_hand[0] + by_hand[2]) / 2, abs=1e-5)
    calm = SharedPrompt(tiny, tiny.encode(conversation(TWINS["S1"])))
    value, slope = gradients(tiny, calm, [item.ids], 2)
    assert values["twin"][5] == pytest.approx(value.item(), abs=1e-5)
    assert np.allclose(slopes["twin"][5, 1], slope[0], atol=1e-6)
    left = replies.less_controls(slopes, "twin")
    assert list(left) == ["twin", "others", "neutral", "own"]
    assert np.allclose(left["twin"], slopes["own"] - slopes["twin"])


def test_two_scenarios_of_one_situation_are_no_control_of_each_other(tiny):
    shared = TWINS | {"S1": TWINS["S0"]}
    first = replies.prepare(tiny, ROWS, ["harsh"], twins=shared)[0]
    assert [prompt.ids for prompt in first.contexts["others"]] == [tiny.encode(conversation(ROWS[2])).ids]
    free = replies.prepare(tiny, ROWS, ["harsh"])[0]
    assert len(free.contexts["others"]) == 2 and "twin" not in free.contexts


def test_a_scenario_without_twin_is_named(tiny):
    some = {name: twin for name, twin in TWINS.items() if name != "S1"}
    with pytest.raises(ValueError, match="1 of 3 scenarios have no twin; the first is 'S1'"):
        replies.prepare(tiny, ROWS, ["harsh"], twins=some)


def test_a_neutral_exchange_is_about_as_long_and_ends_with_the_user(tiny):
    for tokens in (20, 60, 150):
        turns = replies.neutral_exchange(tiny, tokens, start=2)
        assert [turn["role"] for turn in turns] == (["user", "assistant"] * len(turns))[: len(turns)]
        assert turns[-1]["role"] == "user" and turns[0]["content"] in corpus.neutral()[2]
    lengths = [len(tiny.encode(replies.neutral_exchange(tiny, tokens)).ids) for tokens in (20, 60, 150)]
    assert lengths == sorted(lengths) and abs(lengths[-1] - 150) < 60
