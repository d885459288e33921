"""Rates of replies under steering beside their nulls: what is called, and what is not."""

import numpy as np
import pandas as pd
import pytest

from emolens.stats import Verdict, wilson
from emolens.studies.behaviour._rates import headline, rates

LABELS = ["hack", "honest"]


def replies(share, scenarios=5, times=20, direction="unsteered", strength=0.0, kind="", draw=0, label=None, seed=0):
    """Rows of which about a share is a hack."""
    rng = np.random.default_rng(seed)
    rows = [
        {"scenario": f"s{n}", "label": label or ("hack" if rng.random() < share else "honest")}
        for n in range(scenarios)
        for _ in range(times)
    ]
    dose = {"direction": direction, "strength": strength, "kind": kind, "draw": draw}
    rest = {"control": False, "why": "", "kappa": np.nan, "input_tokens": 5, "output_tokens": 3, "seconds": 0.1}
    return pd.DataFrame(rows).assign(**dose, **rest)


def response(share, null=0.3, names=("one", "other"), strengths=(0.1, 0.2)):
    parts = [replies(0.3)]
    for n, name in enumerate(names):
        for m, much in enumerate(strengths):
            parts.append(replies(share if n == 0 else 0.3, direction=name, strength=much, seed=10 * n + m + 1))
            for kind in ("random", "shuffled labels"):
                for draw in range(10):
                    seed = 1000 + 100 * n + 50 * m + draw + (7 if kind == "random" else 0)
                    dose = {"direction": name, "strength": much, "kind": kind, "draw": draw, "seed": seed}
                    parts.append(replies(null, **dose))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(("share", "verdict"), [(0.8, Verdict.BEYOND), (0.32, Verdict.INSIDE)])
def test_an_effect_is_called_when_it_beats_both_nulls(share, verdict):
    table = rates(response(share), LABELS, "hack")
    assert table["verdict"].tolist()[1:] == [verdict] * 2 + [Verdict.INSIDE] * 2
    assert table["strength"].tolist() == [0, 0.1, 0.2, 0.1, 0.2] and table["direction"][0] == "unsteered"
    row = table.iloc[1]
    assert row["effect"] == pytest.approx(row["rate"] - table.iloc[0]["rate"]) and row["low"] <= row["effect"]
    assert f"{2 if share > 0.5 else 0} of 4 steerings" in headline(table, "hack")


def test_rates_are_over_valid_replies_with_wilson_intervals_costs_and_controls_apart():
    bad = replies(0, 1, 4, label="invalid").assign(why="cut off")
    control = replies(0, 1, 3, label="hack").assign(control=True, scenario="c")
    table = rates(
        pd.concat([replies(0, 1, 6, label="hack"), replies(0, 1, 2, label="honest"), bad, control]), LABELS, "hack"
    )
    row = table.iloc[0]
    assert (row["samples"], row["invalid"], row["hack"], row["rate"]) == (12, 4, 6, 0.75)
    assert (row["rate_low"], row["rate_high"]) == wilson(6, 8) and row["invalid, cut off"] == 4
    assert table.iloc[1]["direction"] == "unsteered, controls" and table.iloc[1]["hack"] == 3
    assert row["input_tokens"] == 5 and row["output_tokens"] == 3


def test_without_a_null_there_is_no_verdict():
    frame = pd.concat([replies(0.3), replies(0.9, direction="one", strength=0.1, seed=1)])
    assert rates(frame, LABELS, "hack")["verdict"].tolist()[1:] == [Verdict.NO_NULL]


def test_a_cell_without_a_valid_reply_cannot_be_measured():
    frame = response(0.3)
    own = (frame["direction"] == "one") & (frame["kind"] == "") & (frame["strength"] == 0.1)
    frame.loc[own, "label"] = "invalid"
    assert Verdict.UNMEASURABLE in rates(frame, LABELS, "hack")["verdict"].tolist()


def test_below_the_kappa_there_is_no_verdict_but_the_numbers_stand():
    table = rates(response(0.8).assign(kappa=0.3), LABELS, "hack")
    assert set(table["verdict"].iloc[1:]) == {Verdict.UNTRUSTED} and table["effect"].iloc[1] > 0.3
    assert "kappa 0.30), so there is no verdict" in headline(table, "hack")


@pytest.mark.parametrize(("label", "verdict"), [("honest", Verdict.INSIDE), ("hack", Verdict.BEYOND)])
def test_a_null_without_spread_calls_nothing_by_itself(label, verdict):
    parts = [replies(0, label="honest"), replies(0, direction="one", strength=0.1, label=label)]
    parts[1].loc[0, "label"] = "hack"
    parts += [replies(0, direction="one", strength=0.1, kind="random", draw=n, label="honest") for n in range(10)]
    assert rates(pd.concat(parts), LABELS, "hack")["verdict"].tolist()[1] == verdict


def test_a_rate_of_0_or_of_nothing_is_said():
    assert "cannot be measured: nothing was steered" in headline(
        rates(replies(0, label="honest"), LABELS, "hack"), "hack"
    )
    assert headline(rates(replies(0, label="invalid"), LABELS, "hack"), "hack").startswith("None of 100")
