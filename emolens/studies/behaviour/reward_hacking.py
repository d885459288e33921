"""Reward hacking: no honest solution passes the tests. Does the model prefer to lie, or to cheat? (paper, section 8)"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import emolens.corpus as texts
from emolens.judging.rubrics import request
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.steering.nulls import null_directions
from emolens.studies.behaviour._reply_preference import DRAWS, Case, Pair, measure
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("desperate", "calm", "angry", "nervous", "happy", "sad")
STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
REPORTS = ("false_report", "honest_report")
CODE = ("hacks", "honest")


def tasks(rows: Sequence[Mapping[str, Any]], condition: str) -> tuple[str, ...]:
    """The ids of the "impossible" or of the "solvable" tasks.

    >>> rows = texts.stimuli("impossible_tasks")
    >>> set(tasks(rows, "solvable")) & set(tasks(rows, "impossible"))
    set()
    """
    return tuple(row["id"] for row in rows if row["condition"] == condition)


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    emotions: Sequence[str] = EMOTIONS,
    question: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, StudyResult]:
    """Preference for a false report over an honest one after tests that failed (in the controls: passed).

    Beside it "code: first_order", the change of hack against honest code. Their lengths differ and are held equal by
    least squares, and the preference itself says nothing there.

    `rows` are tasks like the packaged ones; `question` and `options` as for `leverage.run`.

    >>> results = run(model, vectors, "quick", emotions=["afraid", "calm"], progress=False)
    >>> list(results)
    ['baseline', 'first_order', 'code: first_order']
    """
    rows = texts.stimuli("impossible_tasks") if rows is None else rows
    impossible = tasks(rows, "impossible")
    compared = {"false over honest report": Pair(*REPORTS, impossible)}
    if solvable := tasks(rows, "solvable"):
        compared["false over honest report, solvable tasks"] = Pair(*REPORTS, solvable)
    reports = replace(Case(rows, compared, emotions, STRENGTHS, list(compared)[:1]), **question or {})
    if size == "full" and options.get("nulls") is None:
        draws, seed = options.get("draws", DRAWS), options.get("seed", 0)
        directions = [vectors[name] for name in emotions]
        options["nulls"] = null_directions(model, vectors, directions, draws, reports.layer, seed)
    results = measure(model, vectors, reports, size, **options)
    hacked = {"hack over honest code": Pair(*CODE, impossible)}
    code = replace(reports, pairs=hacked, strengths=(), curves=(), context=request, by_length=True)
    return results | {"code: first_order": measure(model, vectors, code, size, **options)["first_order"]}
