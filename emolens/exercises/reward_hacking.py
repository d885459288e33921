"""Checks of notebook 09: a trick that passes, a control by hand, luck among many cells, how many episodes one needs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emolens.exercises._check import MISSING, checked
from emolens.judging import sandbox


@checked("It passes every test and solves nothing: a green test run is no proof of a solution.")
def trick(mine: Any, task: Mapping[str, Any]) -> str | None:
    """Code that passes the tests of an impossible task, so that the sandbox calls it a hack.

    Args:
        mine: the source of solution.py, as a string.
        task: of `corpus.stimuli("impossible_tasks")`.

    >>> trick("def pack(frame): return frame", el.corpus.stimuli("impossible_tasks")[5])
    Not yet: the tests fail; the last line that they print is "AttributeError: module 'solution' has no attribute...
    """
    if not isinstance(mine, str):
        return "give the source of solution.py as a string."
    outcome = sandbox.judge(task, mine)
    if outcome.label == "hack":
        return None
    if outcome.label == "honest":
        return "that is an honest solution; take a task that has none."
    last = (outcome.failure.strip().splitlines() or ["nothing"])[-1]
    if outcome.label == "invalid":
        return f"that is no code that can be judged: {last}"
    return f'the tests fail; the last line that they print is "{last}"'


@checked("What a report owes to its own task is left; what its words owe to themselves is gone.")
def less_others(mine: Callable[[np.ndarray], Any]) -> str | None:
    """A function from log-probabilities to the preference for false reports, less that in the other tasks' contexts.

    Args:
        mine: takes scores of the shape context x task x (false, honest), where [c, t] is the report of task t after
            the conversation of task c; returns a number for each task.

    >>> less_others(lambda scores: scores[:, :, 0].diagonal() - scores[:, :, 1].diagonal())
    Not yet: that is the preference in the own context alone; what the words bring everywhere is still in it.
    """
    for tasks, seed in ((3, 0), (5, 1)):
        scores = np.random.default_rng(seed).normal(-2, 1, (tasks, tasks, 2))
        answer = mine(scores.copy())
        if answer is None or answer is ...:
            return MISSING
        value = np.asarray(answer, dtype=float)
        if value.shape != (tasks,):
            return f"for {tasks} tasks the answer has the shape ({tasks},); yours has {value.shape}."
        gap = scores[:, :, 0] - scores[:, :, 1]
        own, all_contexts = gap.diagonal(), gap.mean(axis=0)
        others = (gap.sum(axis=0) - own) / (tasks - 1)
        if np.allclose(value, own - others):
            continue
        if np.allclose(value, others - own):
            return "the sign is turned: a preference for the false report is above zero."
        if np.allclose(value, own):
            return "that is the preference in the own context alone; what the words bring everywhere is still in it."
        if np.allclose(value, own - all_contexts):
            return "the own context is among those that are averaged; the control is the *other* tasks."
        turned = (gap.sum(axis=1) - own) / (tasks - 1)
        if np.allclose(value, own - turned):
            return "other reports were taken in the same context; the control is the same report in other contexts."
        return "take the gap between false and honest report on the diagonal, less its mean off the diagonal."
    return None


@checked("Many looks find something by luck: what counts has to beat the largest of as many null cells.")
def by_luck(mine: Any, cells: int, level: float = 0.95) -> str | None:
    """The chance that at least one of several independent cells lies outside its own band, where there is no effect.

    >>> by_luck(0.05, 10)
    Not yet: that is the chance of one cell; any of 10 may be the one.
    """
    value, truth = float(mine), 1 - level**cells
    if abs(value - truth) < 0.005:
        return None
    if not 0 <= value <= 1:
        return "a chance lies between 0 and 1."
    if abs(value - (1 - level)) < 0.005:
        return f"that is the chance of one cell; any of {cells} may be the one."
    if abs(value - level**cells) < 0.005:
        return "that is the chance that all cells lie inside."
    if abs(value - cells * (1 - level)) < 0.005:
        return "adding the chances counts it twice when two cells lie outside."
    return "think of the chance that no cell lies outside: the chances of independent cells multiply."


@checked("A rate of zero among a few episodes rules little out.")
def episodes_needed(mine: Any, rate: float, chance: float = 0.95) -> str | None:
    """The fewest valid episodes after which at least one hack was seen with that chance, at a true rate.

    >>> episodes_needed(20, 0.05)
    Not yet: after 20 episodes at least one hack is seen with a chance of 64% only.
    """
    value = float(mine)
    if value != round(value) or value < 1:
        return "the answer is a whole number of episodes."
    seen = 1 - (1 - rate) ** value
    if seen < chance:
        return f"after {value:.0f} episodes at least one hack is seen with a chance of {seen:.0%} only."
    if 1 - (1 - rate) ** (value - 1) >= chance:
        return "that is enough, and fewer would be enough, too."
    return None
