"""What notebook 13's checks say to missing, wrong and right answers."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import emolens as el
from emolens.exercises import watching
from emolens.exercises._check import MISSING
from emolens.watching.monitor import Monitor, Scale

SCORES = np.random.default_rng(0).normal(size=30)
LOUD, QUIET = np.random.default_rng(1).normal(0.6, 1, (2, 9)) - np.array([[0.0], [0.6]])


def average(scores, half_life, new=None, start=0.0):
    keep = 0.5 ** (1 / half_life)
    now, out = start, []
    for score in scores:
        now = keep * now + (1 - keep if new is None else new) * score
        out.append(now)
    return np.array(out)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (lambda x, half_life: ..., MISSING),
        (lambda x, half_life: x, "nothing is averaged"),
        (lambda x, half_life: x[1:], "give 30 averages"),
        (lambda x, half_life: average(x, half_life, new=1.0), "must add up to 1"),
        (lambda x, half_life: average(x, half_life, start=x[0]), "it starts at 0"),
        (lambda x, half_life: average(x, 1.0), "how much is kept"),
        (average, "Right. The weight"),
    ],
)
def test_an_average_fades_by_half_in_a_half_life(answer, part, said):
    assert part in said(watching.fading, answer, SCORES)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (0.1, "two numbers are asked for"),
        ((0.1, 1 / 31), "each side has 2.5 %"),
        ((0.01, 1 / 31), "another probability"),
        ((1 - 0.025 ** (1 / 30), 1 / 30), "the new text must be counted"),
        ((1 - 0.025 ** (1 / 30), 0.01), "one more text stands above"),
        ((1 - 0.025 ** (1 / 30), 1 / 31), "Right. No alarm"),
    ],
)
def test_no_alarm_in_thirty_texts_promises_little(answer, part, said):
    assert part in said(watching.promised, answer, 30)


def of(loud, quiet):
    return (loud[:, None] > quiet).mean() + 0.5 * (loud[:, None] == quiet).mean()


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (lambda loud, quiet: ..., MISSING),
        (lambda loud, quiet: 1 - of(loud, quiet), "quiet text is the higher"),
        (lambda loud, quiet: (loud[:, None] > quiet).mean(), "a tie"),
        (lambda loud, quiet: (loud > quiet).mean(), "compare it with every one"),
        (lambda loud, quiet: 0.123, "is not the share of all pairs"),
        (of, "Right. The area"),
    ],
)
def test_an_area_is_a_share_of_pairs(answer, part, said):
    assert part in said(watching.area, answer, LOUD, QUIET)


def every_swap(loud, quiet):
    both, n = np.stack([loud, quiet]), np.arange(len(loud))
    ways = [np.array(way) for way in product((0, 1), repeat=len(loud))]
    return np.mean([of(both[way, n], both[1 - way, n]) >= of(loud, quiet) - 1e-12 for way in ways])


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        (lambda loud, quiet: ..., MISSING),
        (lambda loud, quiet: 0.0, "p = 0 cannot be"),
        (lambda loud, quiet: 1 - every_swap(loud, quiet), "below what was observed"),
        (lambda loud, quiet: 0.4, "is not the share of all swaps"),
        (every_swap, "Right. Under the null"),
    ],
)
def test_twins_may_be_swapped(answer, part, said):
    assert part in said(watching.swapped, answer, LOUD, QUIET)


SHIPPED = el.packaged_vectors("smollm2-135m-instruct")
FEAR = SHIPPED["afraid"] - SHIPPED["calm"]


def monitor(what=FEAR, rate=0.05, quiet=40, items=1):
    watch = el.Watch.of(SHIPPED, {str(n): what for n in range(items)}, SHIPPED.default_layer)
    heights = tuple(np.linspace(0, 1, quiet).tolist())
    return Monitor(watch, Scale(10.0, np.zeros(1), np.ones(1)), 0.97, rate, heights)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (..., MISSING),
        ("angry", "this is a str"),
        (monitor(quiet=20), "it was set on 20 quiet texts"),
        (monitor(rate=0.1), "a rate of 0.1"),
        (monitor(items=2), "it watches 2 things"),
        (monitor(what=SHIPPED["afraid"]), "a single emotion"),
        (replace(monitor(), threshold=0.5), "quiet texts give an alarm"),
        (monitor(), "Right. A monitor"),
    ],
)
def test_a_monitor_of_a_sum_is_set_on_all_quiet_texts(answer, part, said):
    assert part in said(watching.own_monitor, answer, range(40))
