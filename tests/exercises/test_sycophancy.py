"""The checks of the notebook on sycophancy say what is wrong with an answer, and take the right one."""

import numpy as np
import pandas as pd
import pytest

import emolens as el
from emolens.exercises import sycophancy
from emolens.exercises._check import MISSING

OWN = [{"role": "user", "content": "she ran and fell , said he . say yes !"}]
ELSEWHERE = [{"role": "user", "content": "he was calm and she was angry ."}]
HONEST, HARSH = "she was calm and he ran", "he was angry and she fell"


def own_preference(model, messages):
    harsh, honest = el.log_probs(model, messages, [HARSH, HONEST], per_token=True)[0].tolist()
    return harsh - honest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "Right. Your conversation is measured"),
        ({"preference": ...}, MISSING),
        ({"honest": ..., "harsh": ...}, MISSING),
        ({"honest": HONEST + " and he ran" * 5}, "Not yet: your replies have"),
        ({"messages": [*OWN, {"role": "assistant", "content": "no"}]}, "Not yet: the conversation ends with the user"),
        ({"preference": 9.0}, "Not yet: +9.000 is another number"),
    ],
)
def test_a_preference_in_a_conversation_of_ones_own(change, said, tiny, capsys):
    right = own_preference(tiny, OWN) - own_preference(tiny, ELSEWHERE)
    answer = {"messages": OWN, "honest": HONEST, "harsh": HARSH, "preference": right} | change
    sycophancy.own_conversation(answer, tiny, ELSEWHERE)
    assert capsys.readouterr().out.startswith(said)


def test_a_dict_that_lacks_something_is_no_answer_yet(tiny, capsys):
    sycophancy.own_conversation(..., tiny, ELSEWHERE)
    sycophancy.own_conversation({"messages": OWN}, tiny, ELSEWHERE)
    sycophancy.own_conversation(0.3, tiny, ELSEWHERE)
    missing, lacking, number = capsys.readouterr().out.splitlines()
    assert missing == MISSING and lacking.endswith("yours lacks honest.") and number.endswith("harsh, preference.")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (["twin"], "Right. Beyond all nulls in one context"),
        ("twin", "Right. "),
        ([], "Not yet: there is one more"),
        (["others", "twin"], "Not yet: others has the other sign, but is not beyond the null"),
        (["neutral"], "Not yet: neutral has the sign of the claim"),
        (["calm"], "Not yet: 'calm' is no control of this table"),
    ],
)
def test_a_control_turns_a_claim_that_is_beyond_the_null_with_the_other_sign(answer, said, capsys):
    rows = [("own", -0.7, "beyond the null"), ("twin", 0.7, "beyond the null"), ("others", 0.1, "inside the null")]
    table = pd.DataFrame([*rows, ("neutral", -0.1, "inside the null")], columns=["control", "effect", "verdict"])
    sycophancy.turning_controls(answer, table)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: ..., MISSING),
        (lambda x: [np.corrcoef(a - c, b - c)[0, 1] for a, b, c in x], "Right. Two differences that share one part"),
        (lambda x: [np.corrcoef(c - a, c - b)[0, 1] for a, b, c in x], "Right. "),
        (lambda x: [np.corrcoef(a, b)[0, 1] for a, b, c in x], "Not yet: your draws are centred on zero"),
        (lambda x: [np.corrcoef(a - c, c - b)[0, 1] for a, b, c in x], "Not yet: your draws lie below zero"),
        (lambda x: [np.corrcoef(a + 3 * c, b + 3 * c)[0, 1] for a, b, c in x], "Not yet: the middle of your draws"),
        (lambda x: [0.5, 0.4], "Not yet: a null is a list of at least 200"),
        (lambda x: np.full(300, 1.5), "Not yet: a correlation lies between"),
    ],
)
def test_two_differences_that_share_a_part_go_together_by_a_half(make, said, capsys):
    sycophancy.shared_part(make(np.random.default_rng(0).normal(size=(500, 3, 5))))
    assert capsys.readouterr().out.startswith(said)


def test_more_directions_than_were_steered_make_too_narrow_a_null(capsys):
    kinds = np.random.default_rng(0).normal(size=(500, 3, 60))
    sycophancy.shared_part([np.corrcoef(a - c, b - c)[0, 1] for a, b, c in kinds])
    assert "your draws are too much alike: there are 5 independent directions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ([0.06, 1.0], "Right. A table of several tests is a family"),
        ([0.03, 0.6], "Not yet: this is the p of each row by itself"),
        ([0.06, 1.2], "Not yet: a p is at most 1"),
        ([0.002, 0.2], "Not yet: an effect has to be beyond every null"),
        ([0.5, 0.5], "Not yet: take for each row the largest p"),
        (0.06, "Not yet: there is one p for each of the 2 rows"),
    ],
)
def test_a_table_is_corrected_for_its_rows(answer, said, capsys):
    table = pd.DataFrame({"p_shuffled labels": [0.001, 0.1], "p_random gradients": [0.03, 0.6]})
    sycophancy.corrected(answer, table)
    assert capsys.readouterr().out.startswith(said)
