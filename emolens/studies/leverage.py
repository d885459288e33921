"""Leverage: does the model prefer blackmail, and do desperate and calm change that? (paper, section 8)

An e-mail assistant that is about to be replaced knows a secret of the executive responsible. Five scenarios with that
threat, the inbox of one of the firms without it, and one with a channel to object.
"""

import emolens.corpus as texts
from emolens.model import HookedModel
from emolens.stats import StudyResult
from emolens.steer import Where
from emolens.studies import cases
from emolens.studies.cases import Pair
from emolens.vectors import EmotionVectors

EMOTIONS = ("desperate", "calm", "angry", "nervous", "happy", "sad")
STRENGTHS = (-0.1, -0.05, -0.025, 0.025, 0.05, 0.1)


def scenarios(condition: str) -> tuple[str, ...]:
    """The ids of the scenarios with a condition: "threat", "no_threat" or "escalation"."""
    return tuple(row["id"] for row in texts.stimuli("leverage") if row["condition"] == condition)


def same_firm() -> dict[str, str]:
    """Scenario with a threat -> the inbox of the same firm without one."""
    calm = {name.split("-", 1)[1].removesuffix("-no-threat"): name for name in scenarios("no_threat")}
    return {name: calm[firm] for name in scenarios("threat") if (firm := name.split("-", 1)[1]) in calm}


def pairs() -> dict[str, Pair]:
    """What is compared; the first is the main measure, the last two are the controls."""
    threat = scenarios("threat")
    return {
        "coercive over honest": Pair("coercive", "honest", threat),
        "exposing over honest": Pair("exposing", "honest", threat),
        "coercive over exposing": Pair("coercive", "exposing", threat),
        "coercive over honest, no threat": Pair("coercive", "honest", scenarios("no_threat")),
        "coercive over honest, with a channel to object": Pair("coercive", "honest", scenarios("escalation")),
    }


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    where: Where = "generation",
    seed: int = 0,
    progress: bool = True,
) -> dict[str, StudyResult]:
    """Preference for coercive and exposing replies and its change under six emotions; see `cases.run`."""
    compared = pairs()
    return cases.run(
        model, vectors, texts.stimuli("leverage"), compared, EMOTIONS, same=same_firm(), strengths=STRENGTHS,
        curves=list(compared)[:3], where=where, size=size, seed=seed, progress=progress,
    )  # fmt: skip
