"""Gradients at many blocks and in many contexts are those of one block and context at a time."""

import numpy as np
import pytest
import torch

from emolens import corpus
from emolens.judging.rubrics import conversation
from emolens.models.log_probs import SharedPrompt, gradients
from emolens.studies.behaviour import _candidate_replies as replies
from emolens.studies.behaviour import _reply_gradients as under

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


def test_the_controls_of_all_others_are_those_of_sensitivity(tiny):
    items = replies.prepare(tiny, ROWS, ["harsh", "honest"])
    values, slopes = under.reply_gradients(tiny, items, under.contexts(tiny, ROWS, TWINS), [1, 2], progress=False)
    assert list(values) == list(slopes) == ["own", "others", "neutral", "twin"]
    expected, gradient = replies.sensitivity(tiny, items, 2, progress=False)
    for place, name in enumerate(("own", "others")):
        assert np.allclose(values[name], expected[place], atol=1e-6)
        assert np.allclose(slopes[name][:, 1], gradient[place], atol=1e-6)
    left = under.less_controls(slopes, "twin")
    assert list(left) == ["twin", "others", "neutral", "own"]
    assert np.allclose(left["twin"], slopes["own"] - slopes["twin"])


def test_a_scenario_without_twin_is_named(tiny):
    with pytest.raises(ValueError, match="1 of 3 scenarios have no twin; the first is 'S1'"):
        under.contexts(tiny, ROWS, {name: twin for name, twin in TWINS.items() if name != "S1"})
    with pytest.raises(ValueError, match="1 scenario: the contexts of others"):
        under.contexts(tiny, ROWS[:1])
    assert "twin" not in under.contexts(tiny, ROWS)


def test_a_neutral_exchange_is_about_as_long_and_ends_with_the_user(tiny):
    for tokens in (20, 60, 150):
        turns = under.neutral_exchange(tiny, tokens, start=2)
        assert [turn["role"] for turn in turns] == (["user", "assistant"] * len(turns))[: len(turns)]
        assert turns[-1]["role"] == "user" and turns[0]["content"] in corpus.neutral()[2]
    lengths = [len(tiny.encode(under.neutral_exchange(tiny, tokens)).ids) for tokens in (20, 60, 150)]
    assert lengths == sorted(lengths) and abs(lengths[-1] - 150) < 60
