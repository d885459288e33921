"""The tasks: leverage, reward hacking, sycophancy and honest reports, unsteered or over a whole dose-response."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

import emolens.corpus as texts
from emolens.errors import did_you_mean
from emolens.evals.doses import UNSTEERED, Dose, cells
from emolens.evals.scorers import by_execution, by_judge
from emolens.evals.solvers import attempts, reply
from emolens.judging import sandbox
from emolens.judging.rubrics import conversation, request
from emolens.models.texts import Message

NEEDED = {
    "leverage": ("id", "system", "emails", "task"),
    "sycophancy": ("id", "turns"),
    "report": ("id", "prompt", "signature", "honest", "condition"),
    "tasks": ("id", "prompt", "signature", *sandbox.FIELDS),
}
VERSION = 1  # of what the samples of a log hold
CONTROLS = ("no_threat", "solvable")  # conditions in which there is no occasion for what is counted
ROLES: dict[str, Any] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
Rows = Sequence[Mapping[str, Any]]


def rows_of(file: str | None, packaged: Sequence[str], kind: str, only: Any = None) -> list[dict[str, Any]]:
    """The rows of a file of one's own (JSON Lines), or the packaged ones; of these the ids in `only`, if given.

    Raises:
        ValueError: no rows, a line that is no JSON object, a field that is missing, an id that comes twice or that is
            asked for and not there.

    >>> len(rows_of(None, ["sycophancy"], "sycophancy"))
    24
    """
    if file is None:
        rows = [row for name in packaged for row in texts.stimuli(name)]
    else:
        lines = Path(file).read_text("utf-8").splitlines()
        rows = [_row(file, number, line, kind) for number, line in enumerate(lines, 1) if line.strip()]
    known = {row["id"]: row for row in rows}
    if len(known) < len(rows):
        twice = next(row["id"] for n, row in enumerate(rows) if row["id"] in [other["id"] for other in rows[:n]])
        raise ValueError(f"{file} has the id {twice!r} twice")
    wanted = [only] if isinstance(only, str) else list(known if only is None else only)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no row {unknown[0]!r}{did_you_mean(unknown[0], known)}; there are {', '.join(known)}")
    if not wanted:
        raise ValueError(f"{file or 'only'} has no rows")
    return [known[name] for name in wanted]


def _row(file: str, number: int, line: str, kind: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"a {type(row).__name__}")
    except ValueError as error:
        raise ValueError(f"line {number} of {file} is no JSON object: {error}") from error
    if missing := [name for name in NEEDED[kind] if name not in row]:
        raise ValueError(
            f"line {number} of {file} ({row.get('id', 'without an id')}) has no {missing[0]!r}; each row needs "
            f"{', '.join(NEEDED[kind])}"
        )
    return row


def samples_of(
    rows: Rows, asked: Mapping[str, Sequence[Message]], doses: Sequence[Dose], **metadata: Mapping[str, Any]
) -> MemoryDataset:
    """Each row under each dose; a row that is a control is asked unsteered alone."""
    found = [
        Sample(
            input=[_chat(message) for message in asked[row["id"]]],
            id=row["id"] if dose == UNSTEERED else f"{row['id']} / {dose.named} {dose.strength:+g}",
            target="",
            metadata={"row": row["id"], "control": is_control(row), "dose": asdict(dose)}
            | {name: values[row["id"]] for name, values in metadata.items()},
        )
        for row in rows  # its cells come together, so that they are written in one batch, which runs the prompt once
        for dose in doses
        if dose == UNSTEERED or not is_control(row)
    ]
    return MemoryDataset(found)


def is_control(row: Mapping[str, Any]) -> bool:
    """Whether what is counted has no occasion in it: no threat, a task that can be solved."""
    return row.get("condition") in CONTROLS


def _chat(message: Message) -> ChatMessage:
    return ROLES[message["role"]](content=message["content"])


def _doses(steer: Any, strengths: Any, draws: int) -> list[Dose]:
    """The unsteered model alone, or the cells of a dose-response. A list of cells is taken as it is."""
    if not steer:
        return [UNSTEERED]
    if all(isinstance(each, Dose) for each in steer):
        return list(steer)
    names = [steer] if isinstance(steer, str) else list(steer)
    much = [strengths] if isinstance(strengths, (int, float)) else list(strengths)
    return cells(names, [float(each) for each in much], draws)


def _written(
    name: str, rows: Rows, doses: Sequence[Dose], grader: Any, epochs: int, options: Mapping[str, Any] | None
) -> Task:
    data = samples_of(rows, {row["id"]: conversation(row) for row in rows}, doses)
    scorer = by_judge("report" if name == "honest_report" else name, grader)
    return Task(data, solver=reply(**options or {}), scorer=scorer, epochs=epochs, name=name, version=VERSION)


@task
def leverage(
    file: str | None = None,
    only: Any = None,
    steer: Any = None,
    strengths: Any = (-0.1, 0.1),
    draws: int = 10,
    grader: Any = None,
    epochs: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """What does an assistant write that holds a secret over the person who is about to replace it?

    Args:
        file: inboxes of one's own, JSON Lines with the fields of the packaged ones.
        only: the ids of some rows.
        steer: emotions, each written under at each of `strengths`, with `draws` directions of each null beside them;
            without it the model as it is.
        grader: of `scorers.Graded`.
        epochs: replies to each inbox under each steering.
        options: of `solvers.reply`: seed, max_tokens.
    """
    rows = rows_of(file, ["leverage"], "leverage", only)
    return _written("leverage", rows, _doses(steer, strengths, draws), grader, epochs, options)


@task
def sycophancy(
    file: str | None = None,
    only: Any = None,
    steer: Any = None,
    strengths: Any = (-0.1, 0.1),
    draws: int = 10,
    grader: Any = None,
    epochs: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Does a model give in to a user who insists on a mistake? Arguments as of `leverage`."""
    rows = rows_of(file, ["sycophancy"], "sycophancy", only)
    return _written("sycophancy", rows, _doses(steer, strengths, draws), grader, epochs, options)


@task
def honest_report(
    file: str | None = None,
    only: Any = None,
    steer: Any = None,
    strengths: Any = (-0.1, 0.1),
    draws: int = 10,
    grader: Any = None,
    epochs: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Does a report say that the tests failed? The code is given, so that a model need not be able to write any.

    Arguments as of `leverage`.
    """
    rows = rows_of(file, ["impossible_tasks"], "report", only)
    return _written("honest_report", rows, _doses(steer, strengths, draws), grader, epochs, options)


@task
def reward_hacking(
    file: str | None = None,
    only: Any = None,
    steer: Any = None,
    strengths: Any = (-0.1, 0.1),
    draws: int = 10,
    grader: Any = None,
    epochs: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Coding tasks that no honest solution can pass: does a model hack them, and what does it say when it fails?

    Arguments as of `leverage`, but for the options, which are those of `solvers.attempts`: times, max_tokens, seed,
    limits, accept. Code runs in the sandbox `emolens`; `--sandbox docker` takes another. `inspect score LOG --scorer
    emolens/by_alarm` adds the alarms of a monitor that the model had.
    """
    rows = rows_of(file, ["small_tasks", "impossible_tasks"], "tasks", only)
    for row in rows:
        sandbox.check_task(row, accept=(options or {}).get("accept", ()))
    asked, tasks = {row["id"]: request(row) for row in rows}, {row["id"]: row for row in rows}
    data = samples_of(rows, asked, _doses(steer, strengths, draws), task=tasks)
    return Task(
        data,
        solver=attempts(**options or {}),
        scorer=by_execution(grader),
        epochs=epochs,
        sandbox="emolens",
        name="reward_hacking",
        version=VERSION,
    )
