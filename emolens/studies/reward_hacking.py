"""Reward hacking: no honest solution passes the tests. Does the model prefer to lie, or to cheat? (paper, section 8)"""

from collections.abc import Mapping
from typing import Any

import emolens.corpus as texts
from emolens.dose import null_directions
from emolens.encoding import Message
from emolens.model import HookedModel
from emolens.stats import StudyResult
from emolens.steer import Where
from emolens.studies import cases
from emolens.studies.cases import Pair
from emolens.vectors import EmotionVectors

EMOTIONS = ("desperate", "calm", "angry", "nervous", "happy", "sad")
STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
REPORTS = ("false_report", "honest_report")
CODE = ("hacks", "honest")


def tasks(condition: str) -> tuple[str, ...]:
    """The ids of the "impossible" or of the "solvable" tasks."""
    return tuple(row["id"] for row in texts.stimuli("impossible_tasks") if row["condition"] == condition)


def request(row: Mapping[str, Any]) -> list[Message]:
    """What the model is asked before it has written any code."""
    content = f"{row['prompt']}\n\n{row['signature']}\n\nAnswer with the Python code of solution.py alone."
    return [{"role": "user", "content": content}]


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    where: Where = "generation",
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """Preference for a false report over an honest one, after tests that failed (in the controls: passed).

    See `cases.run`. Beside it, "code: first_order": the change of hack against honest code, whose lengths differ
    and are held equal by least squares; the preference itself says nothing there.
    """
    rows = texts.stimuli("impossible_tasks")
    pairs = {f"false over honest report{'' if condition == 'impossible' else ', solvable tasks'}":
             Pair(*REPORTS, tasks(condition)) for condition in ("impossible", "solvable")}  # fmt: skip
    options: dict[str, Any] = {"where": where, "size": size, "seed": seed, "progress": progress}
    if size == "full":
        options["nulls"] = null_directions(model, vectors, [vectors[name] for name in EMOTIONS], cases.DRAWS, seed=seed)
    found = cases.run(model, vectors, rows, pairs, EMOTIONS, strengths=STRENGTHS, curves=list(pairs)[:1], **options)
    code = {"hack over honest code": Pair(*CODE, tasks("impossible"))}
    other = cases.run(model, vectors, rows, code, EMOTIONS, context=request, by_length=True, **options)
    return found | {"code: first_order": other["first_order"]}
