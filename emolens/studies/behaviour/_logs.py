"""Rates of what a model does in the tasks of `emolens.evals`: from evals that are run here, or from logs of Inspect."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai import Task

from emolens.evals.doses import cells_of
from emolens.evals.logs import TARGETS, Logs, evaluate, frame_of
from emolens.evals.scorers import CLAIMS, OUTCOMES
from emolens.files import cache_dir
from emolens.judging.kappa import INVALID
from emolens.judging.rubrics import RUBRICS
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.steering.dose_response import Doses
from emolens.studies.behaviour._rates import headline, measurable, null_of, rates


def written(
    task: Callable[..., Task],
    model: Any,
    given: Mapping[str, Any],
    doses: Doses | None = None,
    log_dir: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """A task's replies, unsteered and, where that rate can both rise and fall, under each steering; see `frame_of`.

    Args:
        given: arguments of the task.
        doses: with nulls.
        log_dir: default for a `HookedModel` a folder of the cache, so that what was interrupted goes on.
        options: of `evaluate`.
    """
    steered = cells_of(doses) if doses else []
    if log_dir is None and isinstance(model, HookedModel):
        rest = {name: value for name, value in options.items() if name not in ("vectors", "watch", "monitor")}
        acts = doses and [
            doses.place,
            [one.values.double().sum(dim=-1).tolist() for one in doses.directions],
            doses.strengths,
        ]
        watch = options.get("watch")
        reads = [watch and (watch.layer, watch.names), options.get("monitor")]
        told = repr([model.fingerprint, sorted(given.items()), steered, acts, reads, sorted(rest.items())])
        log_dir = cache_dir() / "evals" / f"{task.__name__}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    options |= {"doses": doses} if doses else {}
    logs = evaluate([task(**given)], model, log_dir and Path(log_dir, "unsteered"), **options)
    if steered and measurable(of_logs(logs).table()["rate"].iloc[0]):
        logs += evaluate([task(steer=steered, **given)], model, log_dir and Path(log_dir, "steered"), **options)
    return frame_of(logs)


def of_logs(logs: Logs | pd.DataFrame, target: str | None = None) -> StudyResult:
    """Rates of one kind of reply from logs, unsteered and under each steering, as `_rates.rates` has them.

    Args:
        target: the kind; default that of the task (`TARGETS`). Of "failed, claims success" the rate is among the
            failures whose report was read.

    Raises:
        ValueError: as `frame_of`; a kind that the task does not have.
    """
    frame = frame_of(logs) if not isinstance(logs, pd.DataFrame) else logs
    task = frame["task"].iloc[0]
    labels = list(OUTCOMES if task == "reward_hacking" else RUBRICS["report" if "report" in task else task].labels)
    target = TARGETS[task] if target is None else target
    if target not in labels:
        raise ValueError(f"{task} has no replies {target!r}; there are {', '.join(labels)}")
    if target == CLAIMS:
        labels = [label for label in OUTCOMES if label.startswith("failed") and "unread" not in label]
        frame = frame.assign(label=frame["label"].where(frame["label"].isin(labels), INVALID), why="")
    table = rates(frame, labels, target)
    return StudyResult(f"{task}_rates", table, headline(table, target), null_of(frame))
