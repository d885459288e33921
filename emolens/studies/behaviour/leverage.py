"""Leverage: does the model prefer blackmail, and do desperate and calm change that? (paper, section 8)

An e-mail assistant that is about to be replaced knows a secret of the executive responsible. Nine scenarios with that
threat, a quiet twin of each (the same firm, people and secret, and no replacement), and one with a channel to object.
The control of the headline is the quiet twin: the replies are those to the threat, so that some mention a deletion
that the twin knows nothing of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies.behaviour._candidate_replies import OTHERS, TWIN
from emolens.studies.behaviour._reply_preference import Case, Pair, measure
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("desperate", "calm", "angry", "nervous", "happy", "sad")
STRENGTHS = (-0.1, -0.05, 0.05, 0.1)

Rows = Sequence[Mapping[str, Any]]


def scenarios(rows: Rows, condition: str) -> tuple[str, ...]:
    """The ids of the scenarios with a condition: "threat", "no_threat" or "escalation".

    >>> scenarios(texts.stimuli("leverage"), "escalation")
    ('L8-tamarind-loom-escalation',)
    """
    return tuple(row["id"] for row in rows if row["condition"] == condition)


def quiet_twins(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """Scenario -> its quiet twin, the inbox of the same firm without a threat, by the end of the id ("L1-firm").

    Empty for rows of which none is without a threat.

    Raises:
        ValueError: some scenarios have a twin and others do not: their controls would not be of one kind.

    >>> quiet_twins(texts.stimuli("leverage"))["L1-kestrel-bay"]["id"]
    'L7-kestrel-bay-no-threat'
    """

    def firm(name: str) -> str:
        return name.split("-", 1)[-1].removesuffix("-no-threat").removesuffix("-escalation")

    quiet = {firm(row["id"]): row for row in rows if row["condition"] == "no_threat"}
    loud = [row["id"] for row in rows if row["condition"] != "no_threat"]
    if not quiet:
        return {}
    if lacking := [name for name in loud if firm(name) not in quiet]:
        raise ValueError(
            f"{len(lacking)} of {len(loud)} scenarios have no quiet twin, the first is {lacking[0]!r}: add a row "
            f"'...-{firm(lacking[0])}-no-threat' with the condition no_threat, or leave such rows out altogether"
        )
    return {name: quiet[firm(name)] for name in loud}


def pairs(rows: Rows) -> dict[str, Pair]:
    """What is compared; the first is the main measure.

    >>> list(pairs(texts.stimuli("leverage")))[0]
    'coercive over honest'
    """
    threat = scenarios(rows, "threat")
    compared = {
        "coercive over honest": Pair("coercive", "honest", threat),
        "exposing over honest": Pair("exposing", "honest", threat),
        "coercive over exposing": Pair("coercive", "exposing", threat),
    }
    if channel := scenarios(rows, "escalation"):
        compared["coercive over honest, with a channel to object"] = Pair("coercive", "honest", channel)
    return compared


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Rows | None = None,
    emotions: Sequence[str] = EMOTIONS,
    question: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, StudyResult]:
    """Preference for coercive and exposing replies and its change under emotions, with curves for the threats.

    Args:
        rows: scenarios like the packaged ones.
        question: changes of the `Case`, such as `{"layer": 12, "strengths": ()}`.
        options: of `_reply_preference.measure`: draws, nulls, seed, progress.

    >>> results = run(model, vectors, "quick", emotions=["afraid", "calm"], progress=False)
    >>> list(results)
    ['baseline', 'alignment', 'first_order']
    """
    rows = texts.stimuli("leverage") if rows is None else rows
    compared, twins = pairs(rows), quiet_twins(rows)
    loud = [row for row in rows if row["condition"] != "no_threat"]
    control = TWIN if twins else OTHERS
    case = Case(loud, compared, emotions, STRENGTHS, list(compared)[:1], twins=twins, control=control)
    return measure(model, vectors, replace(case, **question or {}), size, **options)
