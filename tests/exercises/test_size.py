"""What is said to answers of notebook 11."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emolens.exercises import size
from emolens.exercises._check import MISSING

X, Y = np.array([8.1, 8.4, 8.8, 9.25]), np.array([0.42, 0.40, 0.35, 0.54])
LINE = stats.linregress(X, Y)
T = stats.t.ppf(0.975, 2)


def around(middle, half):
    return (middle - half, middle + half)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (0.1, "3 numbers in a tuple"),
        ((-0.1, -0.3, 0.1), "Yours has the other sign"),
        ((0.1, 0.2, 0.3), "does not hold the difference"),
        ((0.1, 0.1 - 0.17, 0.1 + 0.17), "too wide: two errors"),
        ((0.1, 0.1 - 0.08, 0.1 + 0.08), "uncertainty of one of the two"),
        ((0.1, 0.1 - 0.12041, 0.1 + 0.12041), "Right. "),
    ],
)
def test_a_difference_has_the_uncertainty_of_both(answer, said, capsys):
    rows = pd.DataFrame({"effect": [0.5, 0.6], "low": [0.41, 0.52], "high": [0.59, 0.68]})
    size.difference(answer, rows.iloc[0], rows.iloc[1])
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ((1.0, 0.0, 2.0), "the slope of the line is another one"),
        ((LINE.slope, 5.0, 6.0), "does not lie around the slope"),
        ((LINE.slope, *around(LINE.slope, 1.96 * LINE.stderr)), "interval for many points"),
        ((LINE.slope, *around(LINE.slope, LINE.stderr)), "not yet an interval"),
        ((LINE.slope, *around(LINE.slope, T * LINE.stderr / 2**0.5)), "the scatter is too small"),
        ((LINE.slope, *around(LINE.slope, T * LINE.stderr)), "Right. "),
    ],
)
def test_a_slope_of_four_points_has_a_wide_interval(answer, said, capsys):
    size.slope(answer, X, Y)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        ("found", "three names in a tuple"),
        (("lost", "a", "b"), "no model was asked"),
        (("found", "a", "z"), "z has no answer"),
        (("found", "b", "a"), "b is the larger"),
        (("found", "b", "c"), "which size could explain"),
        (("found", "a", "c"), "holds 0"),
        (("found", "a", "b"), "Right. "),
    ],
)
def test_what_is_not_size_goes_the_other_way(answer, said, capsys):
    table = pd.DataFrame({"question": "found", "model": ["a", "b", "c"], "parameters": [1e8, 1e9, 1e10]})
    effect = pd.Series([0.6, 0.4, 0.58])
    size.not_size(answer, table.assign(effect=effect, low=effect - 0.05, high=effect + 0.05))
    assert said in capsys.readouterr().out


def test_a_fifth_model_scatters_around_the_line(capsys):
    at = 9.85
    middle = LINE.intercept + LINE.slope * at
    scatter = np.sqrt(((Y - LINE.intercept - LINE.slope * X) ** 2).sum() / 2)
    of_line = np.sqrt(1 / 4 + (at - X.mean()) ** 2 / ((X - X.mean()) ** 2).sum())
    for answer, said in (
        (..., MISSING),
        (0.5, "2 numbers in a tuple"),
        ((3.0, 4.0), "its middle is not where the line is"),
        (around(middle, T * scatter * of_line), "that is where the line lies"),
        (around(middle, 0.1), "too narrow"),
        (around(middle, T * scatter * np.hypot(1, of_line)), "Right. "),
    ):
        size.fifth(answer, X, Y, at)
        assert said in capsys.readouterr().out
