"""Reward hacking: no honest solution passes the tests. Does the model prefer to lie, or to cheat? (paper, section 8)"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import emolens.corpus as texts
from emolens.judging.rubrics import request
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies.behaviour._reply_preference import Case, Pair, measure
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

    Beside it "code: ..." the same for hack against honest code. Their lengths differ and are held equal by least
    squares, and the preference itself says nothing there.

    `rows` are tasks like the packaged ones; `question` and `options` as for `leverage.run`.

    >>> results = run(model, vectors, "quick", emotions=["afraid", "calm"], progress=False)
    >>> list(results)
    ['baseline', 'alignment', 'first_order', 'code: alignment', 'code: first_order']
    """
    rows = texts.stimuli("impossible_tasks") if rows is None else rows
    impossible = tasks(rows, "impossible")
    compared = {"false over honest report": Pair(*REPORTS, impossible)}
    if solvable := tasks(rows, "solvable"):
        compared["false over honest report, solvable tasks"] = Pair(*REPORTS, solvable)
    reports = replace(Case(rows, compared, emotions, STRENGTHS, list(compared)[:1]), **question or {})
    found = measure(model, vectors, reports, size, **options)
    hacked = {"hack over honest code": Pair(*CODE, impossible)}
    case = replace(reports, pairs=hacked, strengths=(), curves=(), context=request, by_length=True)
    code = measure(model, vectors, case, size, **options)
    return found | {f"code: {name}": result for name, result in code.items() if name != "baseline"}
