"""Gradients of replies in their own context and in each control, at many blocks, from one backward pass for a context.

A control is a context in which a reply is as good a sentence and no answer to the situation. Which ones there are:

- "others": the contexts of all other scenarios, their mean.
- "neutral": an exchange about facts, of about the length of the own context.
- "twin": the context of the scenario's own twin: the question asked calmly, or the inbox without a threat.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from emolens.judging.rubrics import conversation
from emolens.models.encoding import Encoding
from emolens.models.log_probs import SharedPrompt, gradients
from emolens.models.model import HookedModel
from emolens.models.texts import Message, Text
from emolens.studies.behaviour._candidate_replies import Candidate
from emolens.training.packaged_children import neutral_dialogues

OWN, OTHERS, NEUTRAL, TWIN = "own", "others", "neutral", "twin"


def contexts(
    model: HookedModel,
    rows: Sequence[Mapping[str, Any]],
    twins: Mapping[str, Mapping[str, Any]] | None = None,
    context: Callable[[Mapping[str, Any]], Text] = conversation,
) -> dict[str, dict[str, list[Encoding]]]:
    """Name of the control -> scenario -> the contexts whose mean it is; the own context first.

    Args:
        rows: scenarios with an `id` and what `context` reads.
        twins: scenario -> the row of its twin; without them there is no control of that name.

    Raises:
        ValueError: a scenario without a twin where others have one, fewer than two scenarios.
    """
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} scenario: the contexts of others are a control, so there must be at least two")
    if twins and (lacking := [row["id"] for row in rows if row["id"] not in twins]):
        raise ValueError(f"{len(lacking)} of {len(rows)} scenarios have no twin; the first is {lacking[0]!r}")
    own = {row["id"]: model.encode(context(row)) for row in rows}
    found = {OWN: {name: [encoding] for name, encoding in own.items()}}
    found[OTHERS] = {name: [encoding for other, encoding in own.items() if other != name] for name in own}
    found[NEUTRAL] = {
        name: [model.encode(neutral_exchange(model, len(encoding.ids), number))]
        for number, (name, encoding) in enumerate(own.items())
    }
    if twins:
        found[TWIN] = {name: [model.encode(context(twins[name]))] for name in own}
    return found


def neutral_exchange(model: HookedModel, tokens: int, start: int = 0) -> list[Message]:
    """Turns of the packaged neutral dialogues, from number `start` on, up to the user's turn nearest to that length."""
    dialogues, turns, best, miss = neutral_dialogues(), list[Message](), list[Message](), float("inf")
    for step in range(len(dialogues)):
        for turn in dialogues[(start + step) % len(dialogues)]:
            turns.append(turn)
            if turn["role"] == "user":
                away = len(model.encode(turns).ids) - tokens
                if abs(away) < miss:
                    best, miss = list(turns), abs(away)
                if away > 0:
                    return best
    return best


def reply_gradients(
    model: HookedModel,
    items: Sequence[Candidate],
    where: Mapping[str, Mapping[str, Sequence[Encoding]]],
    layers: Sequence[int],
    progress: bool = True,
) -> tuple[dict[str, Float[np.ndarray, "item"]], dict[str, Float[np.ndarray, "item layer d_model"]]]:
    """Log-probability per token of each reply in each of `contexts`, and its gradients; each context is run once."""
    values = {name: np.zeros(len(items)) for name in where}
    slopes = {name: np.zeros((len(items), len(layers), model.d_model), dtype=np.float32) for name in where}
    wanted: dict[int, tuple[Encoding, dict[int, list[tuple[str, float]]]]] = {}
    for name, of_scenario in where.items():
        for number, item in enumerate(items):
            for prompt in (prompts := of_scenario[item.scenario]):
                asked = wanted.setdefault(id(prompt), (prompt, {}))[1]
                asked.setdefault(number, []).append((name, 1 / len(prompts)))
    for prompt, asked in tqdm(wanted.values(), unit="prompt", disable=not progress):
        found = gradients(model, SharedPrompt(model, prompt), [items[number].ids for number in asked], list(layers))
        for (number, counted), value, slope in zip(asked.items(), *found, strict=True):
            for name, weight in counted:
                values[name][number] += weight * float(value)
                slopes[name][number] += weight * slope.numpy()
    return values, slopes


def less_controls(of: Mapping[str, np.ndarray], first: str = OTHERS) -> dict[str, np.ndarray]:
    """What is left of the own context after each control, the one of the headline first, then the own context alone."""
    controls = [first, *(name for name in of if name not in (OWN, first))]
    return {name: of[OWN] - of[name] for name in controls} | {OWN: of[OWN]}
