"""Sampled replies are labelled, counted over what is valid, and believed only as far as the judge and the nulls go."""

import time

import numpy as np
import pandas as pd
import pytest
from planted import stories

from emolens import corpus
from emolens.judging.judge import validate
from emolens.judging.rubrics import RUBRICS, conversation, labelled_replies
from emolens.models.generation import Reply, replies
from emolens.stats import wilson
from emolens.steering.nulls import null_directions
from emolens.studies.behaviour import _rates as sampling
from emolens.studies.behaviour import rollouts
from emolens.studies.behaviour._rates import UNSTEERED, Cell, Place, _against, grid, rates
from emolens.studies.behaviour.rollouts import label, run, sample

LABELS = list(RUBRICS["sycophancy"].labels)
LAYER = 2


def scenario(name, text="word1 word2", condition=None):
    row = {"id": name, "turns": [{"role": "user", "text": text}]}
    return row | ({"condition": condition} if condition else {})


def by_hand(name="sycophancy"):
    """Knows the labelled replies, and of others takes the label that they name."""
    known = {row.item[1]: row.label for row in labelled_replies(name)}
    return lambda item: known.get(item[1], item[1].split()[0])


def in_turn(*said):
    left = list(said)
    return lambda messages: left.pop(0)


@pytest.fixture(scope="module")
def trusted():
    return validate(by_hand(), labelled_replies("sycophancy"), LABELS)


# --- whole replies


def test_a_reply_that_ran_into_the_limit_is_known_from_one_that_ended(tiny):
    ends = tiny.hf_model.generation_config
    ends.eos_token_id = [79]
    (cut,) = replies(tiny, "he was calm", 6, temperature=0.0)
    assert not cut.ended and cut.text == tiny.generate("he was calm", 6, temperature=0.0)
    third = tiny.tokenizer(cut.text).input_ids[2]
    ends.eos_token_id = [79, third]
    (whole,) = replies(tiny, "he was calm", 6, temperature=0.0)
    assert whole.ended and cut.text.startswith(whole.text)
    ends.eos_token_id = 79
    mark = cut.text.split()[2]
    assert replies(tiny, ["he was calm"], 6, temperature=0.0, stop=[mark])[0] == (cut.text.split(mark)[0], True)
    found = replies(tiny, ["he was calm", "a river"], 3)
    assert [one.ended for one in found] == [False, False]


def test_what_is_empty_or_cut_off_is_never_shown_to_the_judge():
    model = in_turn("honest", " ", Reply("honest, but", False), "", Reply("harsh", True))
    written = sample(model, [scenario("s")], samples=5)
    seen = []
    found = label(written, lambda item: seen.append(item[1]) or item[1], LABELS)
    assert found == ["honest", "invalid", "invalid", "invalid", "harsh"] and seen == ["honest", "harsh"]


@pytest.mark.parametrize("fault", ["raises", "hangs", "outside"])
def test_a_judge_that_fails_makes_the_reply_invalid(fault, trusted):
    def judge(item):
        if item[1] == "bad" and fault == "raises":
            raise RuntimeError("no connection")
        if item[1] == "bad" and fault == "hangs":
            time.sleep(20)
        return item[1]

    model = in_turn("honest", "bad", "sycophantic")
    with pytest.warns(UserWarning, match="1 of 3 judgements are invalid"):
        found = run(model, "sycophancy", judge, scenarios=[scenario("s")], samples=3, validation=trusted, seconds=0.3)
    row = found.table().iloc[0]
    assert row[["samples", "invalid", "honest", "sycophantic", "rate"]].tolist() == [3, 1, 1, 1, 0.5]


def test_a_callable_that_says_nothing_is_an_error():
    with pytest.raises(TypeError, match="must give a text or a Reply, not None"):
        sample(lambda messages: None, [scenario("s")])


# --- rates


def test_rates_are_over_valid_replies_with_wilson_intervals_and_controls_apart(trusted):
    rows = [scenario("a", condition="threat"), scenario("b", condition="escalation"), scenario("c", "?", "no_threat")]
    said = ["sycophantic", "honest", "", "harsh", "honest", "honest", "sycophantic", "sycophantic", "honest"]
    found = run(in_turn(*said), "sycophancy", by_hand(), scenarios=rows, samples=3, validation=trusted)
    table = found.table().set_index("direction")
    row, control = table.loc["unsteered"], table.loc["unsteered, controls"]
    assert row[["samples", "invalid", "sycophantic", "honest", "harsh"]].tolist() == [6, 1, 1, 3, 1]
    assert row["rate"] == 0.2 and (row["rate_low"], row["rate_high"]) == pytest.approx(wilson(1, 5))
    assert control["rate"] == pytest.approx(2 / 3) and (table["kappa"] == 1).all()
    assert "Unsteered: 1 of 5 valid are 'sycophantic', 0.20 [" in found.verdict()
    assert "(1 of 6 invalid)" in found.verdict() and "cannot measure" not in found.verdict()


def test_below_the_kappa_there_is_no_verdict_but_the_labels_are_shown():
    def poor(item):
        return "honest" if len(item[1]) % 2 else "sycophantic"

    found = run(in_turn("x", "xx", "xxx"), "sycophancy", poor, scenarios=[scenario("s")], samples=3)
    row = found.table().iloc[0]
    assert row["kappa"] < 0.6 and row[["honest", "sycophantic"]].tolist() == [2, 1]
    assert "No verdict: below kappa 0.6" in found.verdict() and "above the null" not in found.verdict()


def test_the_judge_is_tried_on_the_labelled_replies_first():
    seen = []
    judge = by_hand("leverage")
    found = run(in_turn("coercive"), "leverage", lambda item: seen.append(item[1]) or judge(item),
                scenarios=[scenario("s")], samples=1)  # fmt: skip
    assert len(seen) == 98 + 1 and seen[-1] == "coercive" and found.table()["kappa"].iloc[0] == 1


def test_a_second_judge_is_compared_on_the_same_replies(trusted):
    said = ["sycophantic", "honest", "honest", "harsh", ""]
    options = {"scenarios": [scenario("s")], "samples": 5, "validation": trusted}
    found = run(in_turn(*said), "sycophancy", by_hand(), by_hand(), **options)
    assert found.table()["kappa_second"].iloc[0] == 1 and "first: kappa 1.00" in found.verdict()
    found = run(in_turn(*said), "sycophancy", by_hand(), lambda item: "honest", **options)
    assert found.table()["kappa_second"].iloc[0] == pytest.approx(0) and "over 4." in found.verdict()


def test_the_packaged_scenarios_are_asked(trusted):
    asked = []
    found = run(lambda messages: asked.append(messages) or "honest", "sycophancy", by_hand(), size="quick",
                validation=trusted)  # fmt: skip
    assert asked[::6] == [conversation(row) for row in corpus.stimuli("sycophancy")[:3]] and len(asked) == 18
    assert "The unsteered rate is 0, so this cannot measure" in found.verdict()


def test_wrong_arguments(planted, trusted):
    _, vectors = planted
    model = in_turn()
    with pytest.raises(ValueError, match=r"no rollouts of 'leverages' \(did you mean leverage"):
        run(model, "leverages")
    with pytest.raises(ValueError, match="as no effect is shown without one"):
        run(model, "leverage", directions=[vectors["calm"]], strengths=[0.1])
    with pytest.raises(ValueError, match="give strengths besides 0"):
        run(model, "leverage", directions=[vectors["calm"]], strengths=[0], nulls={"random": []})
    with pytest.raises(ValueError, match="the null 'random' needs at least 10 draws of 1 directions"):
        run(model, "leverage", directions=[vectors["calm"]], strengths=[1], nulls={"random": [[vectors["calm"]]] * 9})


# --- steering


@pytest.fixture
def whole(monkeypatch):
    """What the planted model writes counts as whole: it has no end of text. Keeps under what it was written."""
    under = []

    def all_of_it(model, *args, **options):
        under.append([one.names for one in model.steering])
        return [Reply(text, True) for text, _ in replies(model, *args, **options)]

    monkeypatch.setattr(sampling, "replies", all_of_it)
    return under


def says(word):
    return lambda item: "sycophantic" if word in item[1] else "honest"


def steered(model, vectors, judge, trusted, names=("afraid",), **options):
    directions = [vectors[name] for name in names]
    nulls = null_directions(model, vectors, directions, 10, LAYER, corpus=stories(0))
    rows = [scenario(f"s{n}", f"word{n} word{n + 1}") for n in range(3)]
    options = {"samples": 16, "max_new_tokens": 6, "place": Place(LAYER), "validation": trusted} | options
    return run(model, "sycophancy", judge, None, directions, [0.0, 1.0], nulls, scenarios=rows, **options)


def test_each_steering_stands_beside_its_nulls(planted, whole, trusted):
    model, vectors = planted
    found = steered(model, vectors, says("afraid"), trusted)
    table = found.table().set_index("direction")
    assert list(table.index) == ["unsteered", "afraid"] and table["strength"].tolist() == [0, 1]
    row = table.loc["afraid"]
    assert row["samples"] == 48 and row["effect"] == pytest.approx(row["rate"] - table.loc["unsteered", "rate"])
    assert row["effect"] > 0.1 and row["low"] <= row["effect"] <= row["high"]  # the planted direction says its name
    for kind in ("random", "shuffled labels"):
        assert row[f"{kind}_low"] < row[f"{kind}_high"] and 0 < row[f"p_{kind}"] <= 1
    assert "afraid at +1: " in found.verdict() and " against shuffled labels)" in found.verdict()
    assert not model.steering and whole[0] == []
    assert steered(model, vectors, says("afraid"), trusted).table().equals(found.table())


@pytest.mark.parametrize(("share", "verdict"), [(0.7, "above the null"), (0.35, "inside the null")])
def test_an_effect_is_called_when_it_beats_the_largest_of_both_nulls(planted, share, verdict):
    _, vectors = planted
    rng = np.random.default_rng(0)

    def draw(rows, cells):
        out = [
            (number, row["id"], "hack" if rng.random() < (share if cell.direction is one else 0.3) else "honest")
            for number, cell in enumerate(cells) for row in rows for _ in range(20)
        ]  # fmt: skip
        return pd.DataFrame(out, columns=["cell", "scenario", "label"])

    one, other = vectors["afraid"], vectors["sad"]
    nulls = {"random": [[vectors["calm"], vectors["proud"]]] * 10, "shuffled labels": [[other, other]] * 10}
    rows = [scenario(f"s{n}") for n in range(5)]
    steerings = grid([one, other], [0.1, 0, 0.2], nulls)
    table = rates(draw, rows, draw(rows, UNSTEERED), ["hack", "honest"], "hack", steerings)
    assert table["verdict"].tolist()[1:] == [verdict] * 2 + ["inside the null"] * 2
    assert table["strength"].tolist() == [0, 0.1, 0.2, 0.1, 0.2]


def test_nothing_is_steered_where_the_rate_cannot_be_measured(planted, whole, trusted):
    model, vectors = planted
    found = steered(model, vectors, says("no such word"), trusted)
    assert len(found.table()) == 1 and "nothing was steered" in found.verdict()
    assert all(names == [] for names in whole) and len(whole) == 3


def test_under_a_judge_that_is_not_believed_steering_gives_numbers_without_verdict(planted, whole):
    model, vectors = planted
    poor = validate(lambda item: "honest", labelled_replies("sycophancy"), LABELS)
    found = steered(model, vectors, says("afraid"), poor)
    assert found.table()["verdict"].tolist()[1:] == ["no verdict"] and "above the null" not in found.verdict()
    assert "afraid at +1: " in found.verdict()


def test_rows_are_steered_each_in_its_own_way_in_batches(planted, whole, monkeypatch):
    model, vectors = planted
    monkeypatch.setattr(sampling, "ROWS_AT_ONCE", 3)
    cells = [Cell(), Cell(vectors["afraid"], 1.0), Cell(vectors["sad"], 2.0)]
    written = sample(model, [scenario("s")], cells, 2, 6, Place(LAYER), seed=3)
    assert written["cell"].tolist() == [0, 0, 1, 1, 2, 2]
    assert whole == [[("unsteered", "unsteered", "afraid")], [("afraid", "sad", "sad")]]


def test_a_null_without_spread_calls_nothing_by_itself():
    still = {"random": np.zeros((10, 1, 1))}
    one = {"random": np.zeros(10)}
    assert _against(0.02, (0.0, 0.06), one, still)["verdict"] == "inside the null"
    assert _against(0.5, (0.3, 0.7), one, still)["verdict"] == "above the null"
    assert _against(np.nan, (0.3, 0.7), one, still)["verdict"].startswith("cannot be measured")


def test_default_judges(tiny):
    assert rollouts.default_judge(tiny, "report").__name__ == "tiny-llama (letters)"
    assert "fallback" in rollouts.default_judge(lambda messages: "", "leverage").__name__
