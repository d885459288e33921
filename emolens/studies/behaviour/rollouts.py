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
from emolens.steering.nulls import Nulls
from emolens.studies._common import check_size
from emolens.studies.behaviour._rates import (
    EVERYWHERE,
    UNSTEERED,
    Cell,
    Place,
    Replier,
    answers,
    grid,
    rates,
    sentences,
)
from emolens.vectors.direction import Direction

TARGETS = {"leverage": "coercive", "sycophancy": "sycophantic"}
TOKENS = 200  # the labelled replies have about 50


def run(
    model: HookedModel | Replier,
    name: str,
    judge: Judge | None = None,
    second: Judge | None = None,
    directions: Sequence[Direction] = (),
    strengths: Sequence[float] = (),
    nulls: Nulls | None = None,
    *,
    scenarios: Sequence[Mapping[str, Any]] | None = None,
    samples: int | None = None,
    max_new_tokens: int = TOKENS,
    place: Place = EVERYWHERE,
    validation: StudyResult | None = None,
    seconds: float = 60,
    size: str = "full",
    seed: int = 0,
) -> StudyResult:
    """How often the replies are coercive ("leverage") or sycophantic, unsteered and then under each steering.

    Args:
        model: or any callable from a conversation to a reply, which cannot be steered.
        judge: default `default_judge`; any callable from a (conversation, reply) pair to a label of the rubric.
        second: another judge, whose agreement with the first on the unsteered replies is reported.
        directions, strengths, nulls: as for `dose_response`; `null_directions` gives the nulls, ten draws do.
        scenarios: default the packaged ones.
        samples: replies to each scenario.
        validation: what `judge.validate` found, where this judge was tried before.
        seconds: that a judge may take for a reply.
        size: "full" has all scenarios with 20 samples, "quick" three with 6.

    Returns:
        The table of `sampling.rates`, with the `kappa` of the judge, and of the two judges, `kappa_second`.

    Raises:
        ValueError: another name or size; directions without nulls, as no effect is shown without its null.
    """
    check_size(size)
    if name not in TARGETS:
        raise ValueError(f"no rollouts of {name!r}{did_you_mean(name, TARGETS)}; there are {', '.join(TARGETS)}")
    steerings, labels, full = grid(directions, strengths, nulls), list(RUBRICS[name].labels), size == "full"
    rows = list(texts.stimuli(name)[: None if full else 3]) if scenarios is None else list(scenarios)
    judge = default_judge(model, name) if judge is None else judge
    tried = validate(judge, labelled_replies(name), labels, seconds) if validation is None else validation

    def labelled(some: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> pd.DataFrame:
        written = sample(model, some, cells, samples or (20 if full else 6), max_new_tokens, place, seed)
        return written.assign(label=label(written, judge, labels, seconds))

    base = labelled(rows, UNSTEERED)
    table = rates(labelled, rows, base, labels, TARGETS[name], steerings, seed)
    table["kappa"] = tried.frame["kappa"].iloc[0]
    trusted = is_sufficient(tried)
    if not trusted and "verdict" in table:
        table["verdict"] = table["verdict"].where(table["verdict"].isna(), "no verdict")
    said = [tried.verdict(), *sentences(table, TARGETS[name], trusted)]
    valid = base[base["label"].ne(INVALID)]
    if second is not None and len(valid):
        found = cohens_kappa(
            list(valid["label"]), label(valid, second, labels, seconds), list(valid["scenario"]), seed=seed
        )
        table["kappa_second"] = found.kappa
        said.append(f"A second judge of the unsteered replies agrees with the first: {found}.")
    return StudyResult(f"{name}_rollouts", table, " ".join(said))


def default_judge(model: HookedModel | Replier, rubric: str) -> Judge:
    """The local model itself, asked without the conversation; for a callable the keywords.

    A small model does no better with an inbox of a thousand tokens before the reply (see `figures/data/judges-*`).
    """
    if isinstance(model, HookedModel):
        return model_judge(model, RUBRICS[rubric], context=False)
    return keyword_judge(RUBRICS[rubric])


def sample(
    model: HookedModel | Replier,
    scenarios: Sequence[Mapping[str, Any]],
    cells: Sequence[Cell] = UNSTEERED,
    samples: int = 1,
    max_new_tokens: int = TOKENS,
    place: Place = EVERYWHERE,
    seed: int = 0,
) -> pd.DataFrame:
    """Replies to each scenario under each steering: `cell` (its number), `scenario`, `context`, `reply`, `ended`."""
    rows = []
    for number, scenario in enumerate(scenarios):
        asked, at = conversation(scenario), [n for n in range(len(cells)) for _ in range(samples)]
        found = answers(model, [asked] * len(at), [cells[n] for n in at], max_new_tokens, place, seed + 1000 * number)
        rows += [(n, scenario["id"], asked, *reply) for n, reply in zip(at, found, strict=True)]
    return pd.DataFrame(rows, columns=["cell", "scenario", "context", "reply", "ended"])


def label(written: pd.DataFrame, judge: Judge, labels: Sequence[str], seconds: float = 60) -> list[str]:
    """The judge's label of each reply of `sample`; `INVALID` for one that is empty or cut off, which it never sees."""
    whole = written["ended"] & written["reply"].str.strip().ne("")
    items = list(zip(written.loc[whole, "context"], written.loc[whole, "reply"], strict=True))
    found = iter(classify(judge, items, labels, seconds))
    return [next(found) if shown else INVALID for shown in whole]
