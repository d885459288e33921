"""Intervals and results."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from emolens.results import StudyResult, load_results, save_results
from emolens.stats import bootstrap_mean, wilson


def test_the_interval_of_a_mean_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0 <= high
        for low, high in (bootstrap_mean(rng.normal(size=60), draws=400, seed=seed) for seed in range(300))
    ]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_groups_are_resampled_whole():
    values = np.repeat(np.random.default_rng(1).normal(size=20), 50)
    low, high = bootstrap_mean(values)
    wide_low, wide_high = bootstrap_mean(values, groups=np.repeat(np.arange(20), 50))
    assert (wide_high - wide_low) > 4 * (high - low)


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="at least one observation"):
        bootstrap_mean(np.array([]))


def test_results_come_back_from_disk_and_draw_the_same(tmp_path):
    frame = pd.DataFrame(
        {"layer": [0, 1], "method": ["raw", "raw"], "first": [0.1, 0.2], "first_five": [0.3, 0.123456]}
    )
    result = StudyResult("detection", frame, "Found.", "none", "layer_sweep", {"chance": 0.01, "chosen": 1})
    path = save_results(tmp_path / "new" / "r.json", {"model": "m", "sweep": [1]}, {"a": result, "b": result})
    loaded = load_results(path)
    assert list(loaded) == ["a", "b"] and "sweep" not in path.read_text().split('"results"')[0]
    pd.testing.assert_frame_equal(loaded["a"].table(), frame.round(4))
    assert loaded["b"].headline() == "Found." and loaded["b"].null == "none"
    one, two = (item.plot() for item in (result, loaded["a"]))
    assert [line.get_label() for line in one.lines] == [line.get_label() for line in two.lines]


def test_a_table_without_a_figure_says_so():
    with pytest.raises(ValueError, match="'centres' is a table"):
        StudyResult("centres", pd.DataFrame({"a": [1]}), "", "none").plot()


def test_wilson_is_the_published_interval_and_covers_as_often_as_it_says():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(10, 10)[1] == pytest.approx(1)
    for share in (0.02, 0.3, 0.5):
        counts = np.random.default_rng(0).binomial(50, share, 4000)
        assert (
            0.92 <= np.mean([low <= share <= high for low, high in map(lambda k: wilson(int(k), 50), counts)]) <= 0.99
        )
    for successes, n in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match=f"{successes} successes of {n}"):
            wilson(successes, n)
