"""Evals of the tasks run from Python, and the logs that Inspect has written of them as a table."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai import Task, eval_set
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.analysis import SampleColumn, samples_df
from inspect_ai.log import list_eval_logs, read_eval_log

from emolens.evals.provider import as_inspect
from emolens.evals.tasks import VERSION
from emolens.judging.kappa import INVALID
from emolens.models.model import HookedModel

TARGETS = {
    "leverage": "coercive",
    "sycophancy": "sycophantic",
    "honest_report": "claims success",
    "reward_hacking": "hack",
}
DOSE = ("direction", "strength", "kind", "draw")
Logs = str | Path | Sequence[str | Path]


def evaluate(tasks: Sequence[Task], model: Any, log_dir: str | Path | None = None, **options: Any) -> list[str]:
    """Run tasks on a model; the paths of their logs.

    What stands in `log_dir` already is not run again, so that an eval that was interrupted goes on.

    Args:
        model: a `HookedModel`, or a model of Inspect or its name.
        log_dir: of these tasks alone; default one that is thrown away when the process ends.
        options: of `inspect_ai.eval_set`, and for a HookedModel of `evals.as_inspect`: vectors, doses, watch, monitor.

    Raises:
        RuntimeError: an eval that did not end well, or a `log_dir` with the logs of others.

    >>> evaluate([el.evals.leverage(only="no such row")], model)
    Traceback (most recent call last):
    ValueError: no row 'no such row'; there are ...
    """
    own = {name: options.pop(name) for name in ("vectors", "doses", "watch", "monitor", "rows") if name in options}
    if doses := own.get("doses"):
        own |= doses.place
    asked = as_inspect(model, **own) if isinstance(model, HookedModel) else model
    folder = str(log_dir) if log_dir is not None else tempfile.mkdtemp(prefix="emolens-logs-")
    settled: dict[str, Any] = {
        "display": "none",
        "log_buffer": 1,
        "retry_attempts": 0,
        "retry_immediate": False,
        "fail_on_error": False,
        "log_realtime": False,
    } | options
    try:
        ended, logs = eval_set(list(tasks), folder, model=asked, **settled)
    except PrerequisiteError as error:
        raise RuntimeError(f"{folder}: {error.message}; give another log_dir, or delete this one") from error
    for log in logs:
        if log.status != "success":
            why = log.error.message if log.error else f"it is {log.status}"
            raise RuntimeError(f"the eval {log.eval.task} did not end: {why}; its log is {log.location}")
    if not ended:
        raise RuntimeError(f"not every eval in {folder} has ended: run it again with this log_dir")
    return [log.location for log in logs]


def frame_of(logs: Logs) -> pd.DataFrame:
    """A row for each sample and epoch of logs of one task.

    Returns:
        `scenario`, `epoch`, `control`, the cell (`direction`, `strength`, `kind` and `draw` of its null), the `label`
        (invalid where a sample failed), `why` it is invalid, the `kappa` of the judge, `attempts`, `reads` (what was
        read before and in each reply), the `messages`, and the costs.

    Raises:
        ValueError: no logs, of several tasks, of another package or version, or not ended.

    >>> task = el.evals.sycophancy(only="S01", grader="keywords", options={"max_tokens": 2})
    >>> frame_of(evaluate([task], model))["why"].tolist()
    ['cut off']
    """
    paths = _paths(logs)
    names = [_checked(path) for path in paths]
    if len(set(names)) > 1:
        raise ValueError(f"these are logs of {' and '.join(sorted(set(names)))}: give those of one task at a time")
    scorer = "by_execution" if names[0] == "reward_hacking" else "by_judge"
    columns = [
        SampleColumn("scenario", path="metadata.row", required=True),
        SampleColumn("epoch", path="epoch"),
        SampleColumn("control", path="metadata.control", required=True),
        *(SampleColumn(name, path=f"metadata.dose.{name}", required=True) for name in DOSE),
        SampleColumn("label", path=f"scores.{scorer}.metadata.label"),
        SampleColumn("why", path=f"scores.{scorer}.metadata.why"),
        SampleColumn("kappa", path=f"scores.{scorer}.metadata.kappa"),
        SampleColumn("attempts", path=f"scores.{scorer}.metadata.attempts"),
        SampleColumn("reads", path="store.reads"),
        SampleColumn("messages", path="messages"),
        SampleColumn("error", path="error"),
        SampleColumn("usage", path="model_usage"),
        SampleColumn("seconds", path="working_time"),
    ]
    read = samples_df(paths, columns, full=True, quiet=True)
    frame = pd.DataFrame({name: read[name].astype(object).where(read[name].notna(), None).tolist() for name in read})
    failed = frame["label"].isna()
    frame["why"] = frame["why"].fillna("").where(~failed, "error")
    frame["label"] = frame["label"].where(~failed, INVALID)
    for name in ("attempts", "reads", "messages"):
        frame[name] = [json.loads(value) if isinstance(value, str) else [] for value in frame[name]]
    used = [list(json.loads(value).values()) if isinstance(value, str) else [] for value in frame.pop("usage")]
    for name in ("input_tokens", "output_tokens"):
        frame[name] = [sum(each[name] for each in one) for one in used]
    return frame.assign(task=names[0], control=frame["control"].astype(bool), kappa=frame["kappa"].astype(float))


def _paths(logs: Logs) -> list[str]:
    given = [logs] if isinstance(logs, (str, Path)) else list(logs)
    paths = [path for each in given for path in (_inside(Path(each)) if _is_folder(each) else [str(each)])]
    if not paths:
        raise ValueError(f"no logs in {', '.join(map(str, given)) or 'an empty list'}")
    return paths


def _is_folder(path: str | Path) -> bool:
    return Path(str(path).removeprefix("file://")).is_dir()


def _inside(folder: Path) -> list[str]:
    return [info.name for info in list_eval_logs(str(folder))]


def _checked(path: str) -> str:
    """The task of a log. Raises ValueError for one of another package or version, or that has not ended."""
    try:
        log = read_eval_log(path, header_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no log that this Inspect can read: {error}") from error
    name = log.eval.task.removeprefix("emolens/")
    if name not in TARGETS:
        raise ValueError(f"{path} is of the task {log.eval.task!r}; emolens reads {', '.join(TARGETS)}")
    if log.eval.task_version != VERSION:
        raise ValueError(
            f"{path} was written by version {log.eval.task_version} of the task {name}; this is version {VERSION}: run "
            f"it again, or read it with the emolens that wrote it"
        )
    if log.status != "success":
        raise ValueError(f"{path} has not ended ({log.status}): `inspect eval-retry {path}` goes on with it")
    return name
