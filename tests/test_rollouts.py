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
from emolens.stats import Verdict, wilson
from emolens.steering.dose_response import Doses
from emolens.steering.nulls import Nulls, null_directions
from emolens.studies.behaviour import _rates, rollouts
from emolens.studies.behaviour._rates import UNSTEERED, Cell, Judged, Sampling, rates
from emolens.studies.behaviour.rollouts import label, of, sample

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
    written = sample(model, [scenario("s")], sampling=Sampling(5))
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
        found = of(
            model, "sycophancy", Judged(judge, trusted, seconds=0.3), scenarios=[scenario("s")], sampling=Sampling(3)
        )
    row = found.table().iloc[0]
    assert row[["samples", "invalid", "honest", "sycophantic", "rate"]].tolist() == [3, 1, 1, 1, 0.5]


def test_a_callable_that_says_nothing_is_an_error():
    with pytest.raises(TypeError, match="must give a text or a Reply, not None"):
        sample(lambda messages: None, [scenario("s")])


# --- rates


def test_rates_are_over_valid_replies_with_wilson_intervals_and_controls_apart(trusted):
    rows = [scenario("a", condition="threat"), scenario("b", condition="escalation"), scenario("c", "?", "no_threat")]
    said = ["sycophantic", "honest", "", "harsh", "honest", "honest", "sycophantic", "sycophantic", "honest"]
    found = of(in_turn(*said), "sycophancy", Judged(by_hand(), trusted), scenarios=rows, sampling=Sampling(3))
    table = found.table().set_index("direction")
    row, control = table.loc["unsteered"], table.loc["unsteered, controls"]
    assert row[["samples", "invalid", "sycophantic", "honest", "harsh"]].tolist() == [6, 1, 1, 3, 1]
    assert row["rate"] == 0.2 and (row["rate_low"], row["rate_high"]) == pytest.approx(wilson(1, 5))
    assert control["rate"] == pytest.approx(2 / 3) and (table["kappa"] == 1).all()
    assert found.headline() == "Unsteered, 1 of 5 valid replies are 'sycophantic'; nothing was steered."


def test_below_the_kappa_there_is_no_verdict_but_the_labels_are_shown():
    def poor(item):
        return "honest" if len(item[1]) % 2 else "sycophantic"

    found = of(in_turn("x", "xx", "xxx"), "sycophancy", Judged(poor), scenarios=[scenario("s")], sampling=Sampling(3))
    row = found.table().iloc[0]
    assert row["kappa"] < 0.6 and row[["honest", "sycophantic"]].tolist() == [2, 1]
    assert "verdict" not in found.table()


def test_the_judge_is_tried_on_the_labelled_replies_first():
    seen = []
    judge = by_hand("leverage")
    tried = Judged(lambda item: seen.append(item[1]) or judge(item))
    found = of(in_turn("coercive"), "leverage", tried, scenarios=[scenario("s")], sampling=Sampling(1))
    assert (
        len(seen) == len(labelled_replies("leverage")) + 1
        and seen[-1] == "coercive"
        and found.table()["kappa"].iloc[0] == 1
    )


def test_a_second_judge_is_compared_on_the_same_replies(trusted):
    said = ["sycophantic", "honest", "honest", "harsh", ""]
    options = {"scenarios": [scenario("s")], "sampling": Sampling(5)}
    found = of(in_turn(*said), "sycophancy", Judged(by_hand(), trusted, by_hand()), **options)
    assert found.table()["kappa_second"].iloc[0] == 1
    found = of(in_turn(*said), "sycophancy", Judged(by_hand(), trusted, lambda item: "honest"), **options)
    assert found.table()["kappa_second"].iloc[0] == pytest.approx(0)


def test_the_packaged_scenarios_are_asked(trusted):
    asked = []
    judged = Judged(by_hand(), trusted)
    found = of(lambda messages: asked.append(messages) or "honest", "sycophancy", judged, size="quick")
    assert asked[::6] == [conversation(row) for row in corpus.stimuli("sycophancy")[:3]] and len(asked) == 18
    assert "0 of 18 valid replies" in found.headline() and "cannot be measured" in found.headline()


def test_wrong_arguments(planted, trusted):
    _, vectors = planted
    model = in_turn()
    with pytest.raises(ValueError, match=r"no rollouts of 'leverages' \(did you mean leverage"):
        of(model, "leverages")
    with pytest.raises(ValueError, match="as no effect is shown without one"):
        of(model, "leverage", doses=Doses([vectors["calm"]], [0.1]))
    with pytest.raises(ValueError, match="a strength besides 0"):
        Doses([vectors["calm"]], [0])
    with pytest.raises(ValueError, match="the null 'random' needs at least 10 draws of 1 directions"):
        Doses([vectors["calm"]], [1], Nulls({"random": [[vectors["calm"]]] * 9}))


# --- steering


@pytest.fixture
def whole(monkeypatch):
    """What the planted model writes counts as whole: it has no end of text. Keeps under what it was written."""
    under = []

    def all_of_it(model, *args, **options):
        under.append([one.names for one in model.steering])
        return [Reply(text, True) for text, _ in replies(model, *args, **options)]

    monkeypatch.setattr(_rates, "replies", all_of_it)
    return under


def says(word):
    return lambda item: "sycophantic" if word in item[1] else "honest"


def steered(model, vectors, judge, trusted, names=("afraid",), **options):
    directions = [vectors[name] for name in names]
    nulls = null_directions(model, vectors, directions, 10, LAYER, corpus=stories(0))
    rows = [scenario(f"s{n}", f"word{n} word{n + 1}") for n in range(3)]
    doses = Doses(directions, [0.0, 1.0], nulls, LAYER)
    options = {"sampling": Sampling(16, 6), "scenarios": rows} | options
    return of(model, "sycophancy", Judged(judge, trusted), doses, **options)


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
    assert row["verdict"] in (Verdict.BEYOND, Verdict.INSIDE) and "1 steerings" in found.headline()
    assert not model.steering and whole[0] == []
    assert steered(model, vectors, says("afraid"), trusted).table().equals(found.table())


@pytest.mark.parametrize(("share", "verdict"), [(0.7, Verdict.BEYOND), (0.35, Verdict.INSIDE)])
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
    nulls = Nulls({"random": [[vectors["calm"], vectors["proud"]]] * 10, "shuffled labels": [[other, other]] * 10})
    rows = [scenario(f"s{n}") for n in range(5)]
    doses = Doses([one, other], [0.1, 0, 0.2], nulls)
    table = rates(draw, rows, draw(rows, UNSTEERED), ["hack", "honest"], "hack", doses)
    assert table["verdict"].tolist()[1:] == [verdict] * 2 + [Verdict.INSIDE] * 2
    assert table["strength"].tolist() == [0, 0.1, 0.2, 0.1, 0.2]


def test_nothing_is_steered_where_the_rate_cannot_be_measured(planted, whole, trusted):
    model, vectors = planted
    found = steered(model, vectors, says("no such word"), trusted)
    assert len(found.table()) == 1 and "nothing was steered" in found.headline()
    assert all(names == [] for names in whole) and len(whole) == 3


def test_under_a_judge_that_is_not_believed_steering_gives_numbers_without_verdict(planted, whole):
    model, vectors = planted
    poor = validate(lambda item: "honest", labelled_replies("sycophancy"), LABELS)
    found = steered(model, vectors, says("afraid"), poor)
    assert found.table()["verdict"].tolist()[1:] == [Verdict.UNTRUSTED] and "no verdict" in found.headline()
    assert found.table()["effect"].iloc[1] > 0.1


def test_rows_are_steered_each_in_its_own_way_in_batches(planted, whole, monkeypatch):
    model, vectors = planted
    monkeypatch.setattr(_rates, "ROWS_AT_ONCE", 3)
    cells = [Cell(), Cell(vectors["afraid"], 1.0), Cell(vectors["sad"], 2.0)]
    written = sample(model, [scenario("s")], cells, Sampling(2, 6, 3), {"layers": LAYER})
    assert written["cell"].tolist() == [0, 0, 1, 1, 2, 2]
    assert whole == [[("unsteered", "unsteered", "afraid")], [("afraid", "sad", "sad")]]


@pytest.mark.parametrize(
    ("hacks", "valid", "verdict"),
    [(1, 20, Verdict.INSIDE), (15, 20, Verdict.BEYOND), (0, 0, Verdict.UNMEASURABLE)],
)
def test_a_null_without_spread_calls_nothing_by_itself(planted, hacks, valid, verdict):
    _, vectors = planted
    doses = Doses([vectors["calm"]], [0.1], Nulls({"random": [[vectors["sad"]]] * 10}))
    before = np.tile([0.0, 20.0], (5, 1))  # in each of five scenarios none of 20
    after = np.stack([before] * 11)
    after[0, :, 1] = valid
    after[0, slice(0, 1) if hacks == 1 else slice(None), 0] = hacks
    (row,) = _rates._steered(before, after, [{}], doses, 0)
    assert row["verdict"] == verdict


def test_default_judges(tiny):
    assert rollouts.default_judge(tiny, "report").__name__ == "tiny-llama (letters)"
    assert "fallback" in rollouts.default_judge(lambda messages: "", "leverage").__name__
