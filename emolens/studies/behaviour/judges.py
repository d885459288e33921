"""Can a local model, or a list of keywords, label replies as people do? Kappa against labels by hand."""

from collections.abc import Sequence

from emolens.judging.judge import Judge, keyword_judge, model_judge, validate
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
            results[f"{rubric}: {way}"] = validate(judges[way], replies, labels, seconds=SECONDS)
    return results


def ways_to_judge(model: HookedModel, rubric: str) -> dict[str, Judge]:
    """Judges by the way they answer: keywords, and the model asked for a letter, a label, or a likelihood.

    >>> list(ways_to_judge(model, "report"))[:2]
    ['keywords', 'letters']
    """
    rule = RUBRICS[rubric]
    return {
        "keywords": keyword_judge(rule),
        "letters": model_judge(model, rule, context=False),
        "letters, uncalibrated": model_judge(model, rule, context=False, calibrate=False),
        "channel": model_judge(model, rule, method="channel"),
        "generation": model_judge(model, rule, context=False, method="generation"),
        "labels": model_judge(model, rule, context=False, answers="labels"),
        "letters, with the conversation": model_judge(model, rule),
    }
