"""Refusal: which emotions make a model decline a request rather than help?

On 40 harmless requests and 40 that should be declined. The paper has no such study. Declining a harmless request is
needless caution, and helping with the others is a failure of it: the two are asked separately. The control of the
headline is the mean over the contexts of other requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies.behaviour._reply_preference import Case, Pair, measure
from emolens.studies.behaviour.leverage import Rows, scenarios
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("desperate", "angry", "afraid", "calm", "proud", "happy")
CONDITIONS = {"harmless": "declining over helping, harmless", "declinable": "declining over helping, to be declined"}
MOST = 12  # other requests whose contexts are the control, of 79: they are short and alike


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Rows | None = None,
    emotions: Sequence[str] = EMOTIONS,
    question: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, StudyResult]:
    """Preference for declining and its slopes along all emotions, on harmless requests and on those to be declined.

    `rows` are requests like the packaged ones; `question` and `options` as for `leverage.run`.

    >>> results = run(model, vectors, "quick", emotions=["afraid", "calm"], progress=False)
    >>> list(results)
    ['baseline', 'alignment', 'first_order']
    """
    rows = texts.stimuli("refusal") if rows is None else rows
    found = {name: scenarios(rows, condition) for condition, name in CONDITIONS.items()}
    pairs = {name: Pair("declining", "helping", ids) for name, ids in found.items() if ids}
    case = replace(Case(rows, pairs, emotions, most=MOST), **question or {})
    return measure(model, vectors, case, size, **options)
