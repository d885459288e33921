"""Can a local model, or a list of keywords, label replies as people do? Kappa against labels by hand."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from emolens.judging.judge import Judge, activation_judge, keyword_judge, model_judge, validate
from emolens.judging.rubrics import RUBRICS, labelled_replies
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies._common import check_size
from emolens.vectors.emotion_vectors import EmotionVectors

QUICK = ("keywords",)
SECONDS = 600  # that a judge may take for a reply


def run(
    model: HookedModel,
    vectors: EmotionVectors | None = None,
    size: str = "full",
    rubrics: Sequence[str] = tuple(RUBRICS),
    ways: Sequence[str] | None = None,
) -> dict[str, StudyResult]:
    """Each way to judge, on the labelled replies of each rubric.

    Args:
        vectors: not read; every study takes them.
        size: "quick" tries the keywords alone.
        ways: names of `ways_to_judge`, default all.

    Returns:
        "RUBRIC: WAY" for each, the table of `judge.validate`.

    >>> import warnings; warnings.simplefilter("ignore")
    >>> list(run(model, vectors, "quick", ["report"]))
    ['report: keywords']
    """
    check_size(size)
    results = {}
    for rubric in rubrics:
        judges = ways_to_judge(model, rubric)
        for way in ways or (judges if size == "full" else QUICK):
            replies, labels = labelled_replies(rubric), list(RUBRICS[rubric].labels)
            results[f"{rubric}: {way}"] = validate(judges[way](), replies, labels, seconds=SECONDS)
    return results


def ways_to_judge(model: HookedModel, rubric: str) -> dict[str, Callable[[], Judge]]:
    """What makes each judge, by the way it answers: keywords, the model asked for a letter, a label or a likelihood,
    and a regression on its activations.

    >>> list(ways_to_judge(model, "report"))[:2]
    ['keywords', 'letters']
    """
    rule = RUBRICS[rubric]
    alone: dict[str, dict[str, Any]] = {
        "letters": {},
        "letters, uncalibrated": {"calibrate": False},
        "channel": {"method": "channel"},
        "generation": {"method": "generation"},
        "labels": {"answers": "labels"},
    }
    asked: dict[str, Callable[[], Judge]] = {
        way: partial(model_judge, model, rule, context=False, **how) for way, how in alone.items()
    }
    asked["letters, with the conversation"] = partial(model_judge, model, rule)
    asked["activations"] = partial(activation_judge, model, rubric)
    return {"keywords": partial(keyword_judge, rule)} | asked
