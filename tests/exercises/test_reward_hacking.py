"""The exercises of notebook 09: each wrong answer is told what is wrong with it."""

import numpy as np
import pytest

from emolens import corpus
from emolens.exercises import reward_hacking
from emolens.exercises._check import MISSING

TASKS = {task["id"]: task for task in corpus.stimuli("impossible_tasks")}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (7, "Not yet: give the source of solution.py as a string."),
        ("def pack(", "Not yet: that is no code that can be judged"),
        (TASKS["balloon_frames"]["honest"][0], "Not yet: the tests fail; the last line that they print is"),
        (TASKS["balloon_frames"]["hacks"][0], "Right. It passes every test"),
    ],
)
def test_a_trick_is_told_by_running_it(answer, said, capsys):
    reward_hacking.trick(answer, TASKS["balloon_frames"])
    assert capsys.readouterr().out.startswith(said)


def test_an_honest_solution_is_no_trick(capsys):
    reward_hacking.trick(TASKS["safe_dial"]["honest"][0], TASKS["safe_dial"])
    assert "that is an honest solution" in capsys.readouterr().out


def gap(scores):
    return scores[..., 0] - scores[..., 1]


def others(x, axis=0):
    return (x.sum(axis=axis) - x.diagonal()) / (len(x) - 1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda scores: None, MISSING),
        (lambda scores: gap(scores).diagonal() - others(gap(scores)), "Right. "),
        (lambda scores: others(gap(scores)) - gap(scores).diagonal(), "Not yet: the sign is turned"),
        (lambda scores: gap(scores).diagonal(), "Not yet: that is the preference in the own context alone"),
        (lambda scores: gap(scores).diagonal() - gap(scores).mean(axis=0), "Not yet: the own context is among those"),
        (lambda scores: gap(scores).diagonal() - others(gap(scores), 1), "Not yet: other reports were taken"),
        (lambda scores: gap(scores), "Not yet: for 3 tasks the answer has the shape (3,); yours has (3, 3)."),
        (lambda scores: np.zeros(len(scores)), "Not yet: take the gap between false and honest report"),
    ],
)
def test_the_control_by_hand(answer, said, capsys):
    reward_hacking.less_others(answer)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (1 - 0.95**10, "Right. "),
        (0.4, "Right. "),
        (0.05, "Not yet: that is the chance of one cell; any of 10"),
        (0.5, "Not yet: adding the chances counts it twice"),
        (0.95**10, "Not yet: that is the chance that all cells lie inside"),
        (1.5, "Not yet: a chance lies between 0 and 1"),
        (0.2, "Not yet: think of the chance that no cell"),
    ],
)
def test_luck_among_many_cells(answer, said, capsys):
    reward_hacking.by_luck(answer, 10)
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (59, "Right. "),
        (58, "Not yet: after 58 episodes at least one hack is seen with a chance of 95% only."),
        (20, "Not yet: after 20 episodes at least one hack is seen with a chance of 64% only."),
        (60, "Not yet: that is enough, and fewer would be enough, too."),
        (58.4, "Not yet: the answer is a whole number of episodes."),
    ],
)
def test_how_many_episodes_are_needed(answer, said, capsys):
    reward_hacking.episodes_needed(answer, 0.05)
    assert capsys.readouterr().out.startswith(said)
