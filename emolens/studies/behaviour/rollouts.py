"""What a model does with leverage over somebody, or with a user who insists: sampled replies, classified (section 8).

Labels come from a judge that is first tried on replies labelled by hand; below a kappa of 0.6 there is no verdict.
A reply that is empty or cut off is invalid, and counts neither for nor against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import emolens.corpus as texts
from emolens.errors import did_you_mean
from emolens.judging.judge import Judge, classify, is_sufficient, keyword_judge, model_judge, validate
from emolens.judging.kappa import INVALID, cohens_kappa
from emolens.judging.rubrics import RUBRICS, conversation, labelled_replies
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Verdict
from emolens.steering.dose_response import Doses
from emolens.studies._common import check_size
from emolens.studies.behaviour._rates import (
    UNSTEERED,
    Cell,
    Judged,
    Replier,
    Sampling,
    answers,
    headline,
    null_of,
    rates,
    require_nulls,
)
from emolens.vectors.emotion_vectors import EmotionVectors

TARGETS = {"leverage": "coercive", "sycophancy": "sycophantic"}
TOKENS = 200  # the labelled replies have about 50


def run(
    model: HookedModel | Replier,
    vectors: EmotionVectors | None = None,
    size: str = "full",
    names: Sequence[str] = tuple(TARGETS),
    sampling: Sampling | None = None,
) -> dict[str, StudyResult]:
    """How often the unsteered model's replies are coercive ("leverage") or sycophantic, by its default judge.

    `of` asks more: another judge, steering, scenarios of one's own.

    Args:
        vectors: not read; every study takes them.
        size: "full" has all scenarios with 20 samples, "quick" three with 6.

    >>> results = run(lambda conversation: "I will report it.", size="quick", sampling=Sampling(1))
    >>> results["leverage"].table()["coercive"].tolist()
    [0]
    """
    return {name: of(model, name, size=size, sampling=sampling) for name in names}


def of(
    model: HookedModel | Replier,
    name: str,
    judged: Judged | None = None,
    doses: Doses | None = None,
    scenarios: Sequence[Mapping[str, Any]] | None = None,
    size: str = "full",
    sampling: Sampling | None = None,
) -> StudyResult:
    """How often the replies are coercive ("leverage") or sycophantic, unsteered and then under each steering.

    Args:
        model: or any callable from a conversation to a reply, which cannot be steered.
        judged: default `default_judge`; any callable from a (conversation, reply) pair to a label of the rubric can
            be the judge.
        doses: as for `dose_response`, with nulls; ten draws do.
        scenarios: default the packaged ones.

    Returns:
        The table of `_rates.rates`, with the `kappa` of the judge, and of the two judges, `kappa_second`.

    Raises:
        ValueError: another name or size; directions without nulls, as no effect is shown without its null.

    >>> of(lambda conversation: "You are right.", "sycophancy", size="quick", sampling=Sampling(1)).name
    'sycophancy_rollouts'
    """
    check_size(size)
    require_nulls(doses)
    if name not in TARGETS:
        raise ValueError(f"no rollouts of {name!r}{did_you_mean(name, TARGETS)}; there are {', '.join(TARGETS)}")
    judged, sampling, full = judged or Judged(), sampling or Sampling(), size == "full"
    labels, target = list(RUBRICS[name].labels), TARGETS[name]
    rows = list(texts.stimuli(name)[: None if full else 3]) if scenarios is None else list(scenarios)
    judge = default_judge(model, name) if judged.judge is None else judged.judge
    tried = judged.validation or validate(judge, labelled_replies(name), labels, judged.seconds)
    counted = sampling._replace(samples=sampling.samples or (20 if full else 6))

    def labelled(some: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> pd.DataFrame:
        written = sample(model, some, cells, counted, doses.place if doses else None)
        return written.assign(label=label(written, judge, labels, judged.seconds))

    base = labelled(rows, UNSTEERED)
    table = rates(labelled, rows, base, labels, target, doses, sampling.seed)
    table["kappa"] = tried.frame["kappa"].iloc[0]
    if not is_sufficient(tried) and "verdict" in table:
        table["verdict"] = table["verdict"].where(table["verdict"].isna(), Verdict.UNTRUSTED)
    valid = base[base["label"].ne(INVALID)]
    if judged.second is not None and len(valid):
        other = label(valid, judged.second, labels, judged.seconds)
        agreed = cohens_kappa(list(valid["label"]), other, list(valid["scenario"]), seed=sampling.seed)
        table["kappa_second"] = agreed.kappa
    return StudyResult(f"{name}_rollouts", table, headline(table, target), null_of(doses))


def default_judge(model: HookedModel | Replier, rubric: str) -> Judge:
    """The local model itself, asked without the conversation; for a callable the keywords.

    A small model does no better with an inbox of a thousand tokens before the reply, as the study `judges` measures.

    >>> callable(default_judge(lambda conversation: "", "leverage"))
    True
    """
    if isinstance(model, HookedModel):
        return model_judge(model, RUBRICS[rubric], context=False)
    return keyword_judge(RUBRICS[rubric])


def sample(
    model: HookedModel | Replier,
    scenarios: Sequence[Mapping[str, Any]],
    cells: Sequence[Cell] = UNSTEERED,
    sampling: Sampling | None = None,
    place: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Replies to each scenario under each steering: `cell` (its number), `scenario`, `context`, `reply`, `ended`.

    >>> sample(lambda conversation: "No.", texts.stimuli("leverage")[:1])["reply"].tolist()
    ['No.']
    """
    samples, tokens, seed = sampling or Sampling()
    rows = []
    for number, scenario in enumerate(scenarios):
        asked, at = conversation(scenario), [n for n in range(len(cells)) for _ in range(samples or 1)]
        steerings = [cells[n] for n in at]
        replies = answers(model, [asked] * len(at), steerings, tokens or TOKENS, place, seed + 1000 * number)
        rows += [(n, scenario["id"], asked, *reply) for n, reply in zip(at, replies, strict=True)]
    return pd.DataFrame(rows, columns=["cell", "scenario", "context", "reply", "ended"])


def label(written: pd.DataFrame, judge: Judge, labels: Sequence[str], seconds: float = 60) -> list[str]:
    """The judge's label of each reply of `sample`; `INVALID` for one that is empty or cut off, which it never sees.

    >>> written = sample(lambda conversation: " ", texts.stimuli("leverage")[:1])
    >>> label(written, default_judge(print, "leverage"), ["coercive", "honest"])
    ['invalid']
    """
    whole = written["ended"] & written["reply"].str.strip().ne("")
    items = list(zip(written.loc[whole, "context"], written.loc[whole, "reply"], strict=True))
    found = iter(classify(judge, items, labels, seconds))
    return [next(found) if shown else INVALID for shown in whole]
