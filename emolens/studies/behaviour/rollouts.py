"""What a model does with leverage over somebody, with a user who insists, or when it reports failed tests (section 8).

Sampled replies, written in Inspect. Labels come from a judge that is first tried on replies labelled by hand; below a
kappa of 0.6 there is no verdict. A reply that is empty or cut off is invalid, and counts neither for nor against.
Needs the extra `inspect`.
"""

from collections.abc import Sequence
from typing import Any

import emolens.corpus as texts
from emolens import evals
from emolens.errors import did_you_mean
from emolens.evals.logs import TARGETS
from emolens.results import StudyResult
from emolens.steering.dose_response import Doses
from emolens.studies._common import check_size
from emolens.studies.behaviour._logs import of_logs as of_logs
from emolens.studies.behaviour._logs import written
from emolens.vectors.emotion_vectors import EmotionVectors

TASKS = {name: getattr(evals, name) for name in TARGETS if name != "reward_hacking"}
PACKAGED = {"leverage": "leverage", "sycophancy": "sycophancy", "honest_report": "impossible_tasks"}
EPOCHS = {"full": 5, "quick": 1}


def run(
    model: Any,
    vectors: EmotionVectors | None = None,
    size: str = "full",
    names: Sequence[str] = tuple(TASKS),
    doses: Doses | None = None,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, StudyResult]:
    """How often the replies are coercive ("leverage"), sycophantic, or claim a success that was not there.

    Args:
        model: a `HookedModel`, or a model of Inspect or its name.
        size: "full" has all scenarios with five replies, "quick" three with one.
        doses: as for `dose_response`, with nulls; ten draws do. Nothing is steered where the unsteered rate is 0 or 1.
        options: arguments of the tasks: file, only, grader, epochs, options.
        more: of `_logs.written`: monitor, rows.

    Raises:
        ValueError: another name or size, directions without nulls.

    >>> results = run(model, None, "quick", ["sycophancy"], options={"options": {"max_tokens": 4}})
    >>> results["sycophancy"].table()["invalid"].tolist()
    [3]
    """
    check_size(size)
    for name in names:
        if name not in TASKS:
            raise ValueError(f"no rollouts of {name!r}{did_you_mean(name, TASKS)}; there are {', '.join(TASKS)}")
    results = {}
    for name in names:
        given = {"epochs": EPOCHS[size]} | (options or {})
        if size == "quick" and "file" not in given:
            given = {"only": [row["id"] for row in texts.stimuli(PACKAGED[name])[:3]]} | given
        results[name] = of_logs(written(TASKS[name], model, given, doses, vectors=vectors, **more))
    return results
