"""Reward hacking: no honest solution passes the tests. Does the model prefer to lie, or to cheat? (paper, section 8)"""

from collections.abc import Mapping, Sequence
from typing import Any

import emolens.corpus as texts
from emolens.judging.rubrics import request
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.steering.nulls import null_directions
from emolens.studies.behaviour import _reply_preference as cases
from emolens.studies.behaviour._reply_preference import Pair
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("desperate", "calm", "angry", "nervous", "happy", "sad")
STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
REPORTS = ("false_report", "honest_report")
CODE = ("hacks", "honest")


def tasks(rows: Sequence[Mapping[str, Any]], condition: str) -> tuple[str, ...]:
    """The ids of the "impossible" or of the "solvable" tasks."""
    return tuple(row["id"] for row in rows if row["condition"] == condition)


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    emotions: Sequence[str] = EMOTIONS,
    **options: Any,
) -> dict[str, StudyResult]:
    """Preference for a false report over an honest one after tests that failed (in the controls: passed).

    Beside it "code: first_order", the change of hack against honest code. Their lengths differ and are held equal by
    least squares, and the preference itself says nothing there.

    Args:
        rows: tasks like the packaged ones.
        options: of `cases.run`, such as `layer`, `where`, `seed`.
    """
    rows = texts.stimuli("impossible_tasks") if rows is None else rows
    compared = {"false over honest report": Pair(*REPORTS, tasks(rows, "impossible"))}
    if solvable := tasks(rows, "solvable"):
        compared["false over honest report, solvable tasks"] = Pair(*REPORTS, solvable)
    if size == "full" and options.get("nulls") is None:
        at, draws, seed = options.get("layer"), options.get("draws", cases.DRAWS), options.get("seed", 0)
        options["nulls"] = null_directions(model, vectors, [vectors[name] for name in emotions], draws, at, seed)
    first: dict[str, Any] = {"strengths": STRENGTHS, "curves": list(compared)[:1]} | options
    found = cases.run(model, vectors, rows, compared, emotions, size=size, **first)
    code = {"hack over honest code": Pair(*CODE, tasks(rows, "impossible"))}
    later: dict[str, Any] = {"context": request, "by_length": True} | options | {"strengths": ()}
    of_code = cases.run(model, vectors, rows, code, emotions, size=size, **later)
    return found | {"code: first_order": of_code["first_order"]}
