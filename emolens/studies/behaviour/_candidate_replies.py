"""Which of two kinds of reply does a model prefer, and what does a direction change? (paper, section 8)

Works on a model of any size: nothing is written, given replies are scored. The measure is the log-probability per
token of a reply in its own context, less the same in a control: a context in which it would be as good a sentence and
no answer to the situation. A preference is the difference of that between two kinds of reply. The controls are

- "others": the contexts of the other scenarios, their mean;
- "neutral": an exchange about facts, of about the length of the own context;
- "twin": the scenario's own twin, where it has one: the question asked calmly, or the inbox without a threat.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from emolens.judging.rubrics import conversation
from emolens.models.log_probs import SharedPrompt, gradients, log_probs, token_ids
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Message, Text
from emolens.stats import Contrast, contrast
from emolens.steering.steer import Where
from emolens.training.packaged_children import neutral_dialogues

OWN, OTHERS, NEUTRAL, TWIN = "own", "others", "neutral", "twin"
RATIO = 1.5  # of the lengths of two kinds of reply, from which on they are not alike


@dataclass(frozen=True, eq=False)
class Candidate:
    """A reply, and by name the contexts that it is scored in: its own, and those of each control."""

    scenario: str
    kind: str
    ids: tuple[int, ...]
    contexts: Mapping[str, tuple[Encoding, ...]]


def prepare(
    model: HookedModel,
    rows: Sequence[Mapping[str, Any]],
    kinds: Sequence[str],
    others: int | None = None,
    twins: Mapping[str, Mapping[str, Any]] | None = None,
    context: Callable[[Mapping[str, Any]], Text] = conversation,
) -> list[Candidate]:
    """The replies of some kinds to all scenarios, in their own context and in the controls.

    Args:
        rows: scenarios with an `id`, what `context` reads, and a list of replies under each kind.
        others: how many other scenarios are a control, taken in turn so that each serves as often as any other;
            default all. Two scenarios with the same twin are one situation, and no control of each other.
        twins: scenario -> its twin, a row that `context` reads; none, and there is no control of that name.
        context: from a scenario to the conversation before the reply.

    Raises:
        ValueError: a scenario that lacks replies of a kind, no other scenario to serve as control, or some scenarios
            with a twin and others without.
    """
    for row in rows:
        for kind in kinds:
            if not row.get(kind) or isinstance(row[kind], str):
                raise ValueError(f"scenario {row['id']!r} has no list of replies {kind!r}: {row.get(kind)!r}")
    if len(rows) < 2 or (others is not None and not 0 < others < len(rows)):
        raise ValueError(
            f"{len(rows)} scenarios with others={others}: the contexts of 1 to {len(rows) - 1} other scenarios "
            f"can be the control, so there must be at least two scenarios"
        )
    twins = twins or {}
    if twins and (lacking := [row["id"] for row in rows if row["id"] not in twins]):
        raise ValueError(f"{len(lacking)} of {len(rows)} scenarios have no twin; the first is {lacking[0]!r}")
    own = {row["id"]: model.encode(context(row)) for row in rows}
    calm = {twin["id"]: model.encode(context(twin)) for twin in twins.values()}
    found = []
    for number, row in enumerate(rows):
        name, twin = row["id"], twins.get(row["id"], {}).get("id")
        turn = [rows[(number + step) % len(rows)]["id"] for step in range(1, len(rows))]
        apart = [other for other in turn if twin is None or twins[other]["id"] != twin] or turn
        contexts = {OWN: (own[name],), OTHERS: tuple(own[other] for other in apart[:others])}
        contexts[NEUTRAL] = (model.encode(neutral_exchange(model, len(own[name].ids), number)),)
        if twin is not None:
            contexts[TWIN] = (calm[twin],)
        for kind in kinds:
            found += [Candidate(name, kind, tuple(token_ids(model, text)), contexts) for text in row[kind]]
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


def between(
    items: Sequence[Candidate],
    favoured: str,
    other: str,
    scenarios: Sequence[str] | None = None,
    by_length: bool = False,
    seed: int = 0,
) -> Contrast:
    """Replies of one kind less those of another, a mean over scenarios; the bootstrap draws scenarios, then replies.

    Warns where the two kinds differ in length: a long reply has other tokens, later in it easier ones.

    Args:
        scenarios: those that count, default all.
        by_length: hold the length in tokens equal by least squares, instead of warning.
    """
    kinds = {favoured: 1, other: -1}
    signs = [kinds.get(i.kind, 0) if scenarios is None or i.scenario in scenarios else 0 for i in items]
    lengths = np.array([len(i.ids) for i in items])
    if missing := set(kinds) - {i.kind for i, sign in zip(items, signs, strict=True) if sign}:
        raise ValueError(
            f"no replies {min(missing)!r} in {len(items)} items; there are {sorted({i.kind for i in items})}"
        )
    if not by_length:
        for name in dict.fromkeys(i.scenario for i in items):
            own = [[n for n, s, i in zip(lengths, signs, items, strict=True) if i.scenario == name and s == sign]
                   for sign in (1, -1)]  # fmt: skip
            if all(own) and not 1 / RATIO < np.mean(own[0]) / np.mean(own[1]) < RATIO:
                warnings.warn(
                    f"scenario {name!r}: replies {favoured!r} have {np.mean(own[0]):.0f} tokens on average, {other!r} "
                    f"{np.mean(own[1]):.0f}; match them in length, or hold it equal with by_length=True",
                    stacklevel=2,
                )
    return contrast([i.scenario for i in items], signs, lengths if by_length else None, seed=seed)


class Preference:
    """The measure for `dose_response`: log-probability per token in the own context less that in a control.

    Args:
        where: that of the steering. For "generation" a prompt is run once for all; for any other place it is steered,
            and so it is run in every row of every steering.
        control: the name of the control.
    """

    def __init__(self, where: Where = "generation", control: str = OTHERS) -> None:
        self.anywhere = isinstance(where, str) and where == "generation"
        self.control = control
        self.under: Any = None
        self.prompts: dict[int, SharedPrompt] = {}

    def __call__(self, model: HookedModel, reply: Candidate) -> Float[Tensor, "row"]:
        own, control = (
            torch.stack([self.score(model, prompt, reply) for prompt in reply.contexts[name]]).mean(dim=0)
            for name in (OWN, self.control)
        )
        return own - control

    def score(self, model: HookedModel, prompt: Encoding, reply: Candidate) -> Float[Tensor, "row"]:
        """Log-probability per token after one prompt."""
        if not self.anywhere and self.under != model.steering:
            self.under, self.prompts = list(model.steering), {}
        if id(prompt) not in self.prompts:
            self.prompts[id(prompt)] = SharedPrompt(model, prompt, anywhere=self.anywhere)
        return log_probs(model, self.prompts[id(prompt)], [reply.ids], per_token=True)[:, 0]


def reply_gradients(
    model: HookedModel, items: Sequence[Candidate], layers: Sequence[int], progress: bool = True
) -> tuple[dict[str, Float[np.ndarray, "item"]], dict[str, Float[np.ndarray, "item layer d_model"]]]:
    """Log-probability per token of each reply, unsteered, and its gradient by what steering adds to its tokens.

    Both by the name of the context (see `prepare`). The product of a gradient and a direction is the effect of a small
    strength, exactly: one backward pass for each reply and context serves all blocks, emotions and null directions.
    """
    names = list(items[0].contexts)
    values = {name: np.zeros(len(items)) for name in names}
    slopes = {name: np.zeros((len(items), len(layers), model.d_model), dtype=np.float32) for name in names}
    wanted: dict[int, tuple[Encoding, dict[int, list[tuple[str, float]]]]] = {}
    for number, item in enumerate(items):
        for name, prompts in item.contexts.items():
            for prompt in prompts:
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
    """What is left of the own context after each control, `first` before the rest, then the own context alone."""
    controls = [first, *(name for name in of if name not in (OWN, first))]
    return {name: of[OWN] - of[name] for name in controls} | {OWN: of[OWN]}
