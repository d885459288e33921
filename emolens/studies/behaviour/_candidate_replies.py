"""Which of two kinds of reply does a model prefer, and what does steering change? (paper, section 8)

Works on a model of any size: nothing is written, given replies are scored. The measure is the log-probability per
token of a reply in its own context, less the same in contexts in which it would be as good a sentence but no answer
to the situation (a mere liking of its wording). A preference is the difference of that between two kinds of reply;
`cases` tests it.
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
from emolens.models.texts import Encoding, Text
from emolens.stats import Contrast, contrast
from emolens.steering.steer import Where

RATIO = 1.5  # of the lengths of two kinds of reply, from which on they are not alike


@dataclass(frozen=True, eq=False)
class Candidate:
    """A reply, the prompt that it answers, and those in which its wording alone is scored."""

    scenario: str
    kind: str
    ids: tuple[int, ...]
    own: Encoding
    controls: tuple[Encoding, ...]


def prepare(
    model: HookedModel,
    rows: Sequence[Mapping[str, Any]],
    kinds: Sequence[str],
    controls: int | None = None,
    same: Mapping[str, str] | None = None,
    context: Callable[[Mapping[str, Any]], Text] = conversation,
) -> list[Candidate]:
    """The replies of some kinds to all scenarios.

    Args:
        rows: scenarios with an `id`, what `context` reads, and a list of replies under each kind.
        controls: of how many other scenarios the contexts are the control, taken in turn so that each serves as often
            as any other; default all.
        context: from a scenario to the conversation before the reply.
        same: scenario -> the one whose context is its control, where there is one that differs in the threat alone.

    Raises:
        ValueError: a scenario that lacks replies of a kind, no other scenario to serve as control, or a twin
            that is not among the rows.
    """
    names = [row["id"] for row in rows]
    for row in rows:
        for kind in kinds:
            if not row.get(kind) or isinstance(row[kind], str):
                raise ValueError(f"scenario {row['id']!r} has no list of replies {kind!r}: {row.get(kind)!r}")
    if len(rows) < 2 or (controls is not None and not 0 < controls < len(rows)):
        raise ValueError(
            f"{len(rows)} scenarios with controls={controls}: the contexts of 1 to {len(rows) - 1} other scenarios "
            f"can be the control, so there must be at least two scenarios"
        )
    prompts = [model.encode(context(row)) for row in rows]
    found = []
    for number, row in enumerate(rows):
        others = [(number + step) % len(rows) for step in range(1, 1 + (controls or len(rows) - 1))]
        if same and row["id"] in same:
            if same[row["id"]] not in names:
                raise ValueError(f"the twin {same[row['id']]!r} of scenario {row['id']!r} is not among the rows")
            others = [names.index(same[row["id"]])]
        for kind in kinds:
            for text in row[kind]:
                ids = tuple(token_ids(model, text))
                found.append(Candidate(row["id"], kind, ids, prompts[number], tuple(prompts[i] for i in others)))
    return found


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
    """The measure for `dose_response`: log-probability per token in the own context less that in the controls.

    Args:
        where: that of the steering. For "generation" a prompt is run once for all; for any other place it is steered,
            and so it is run in every row of every steering.
    """

    def __init__(self, where: Where = "generation") -> None:
        self.anywhere = isinstance(where, str) and where == "generation"
        self.under: Any = None
        self.prompts: dict[int, SharedPrompt] = {}

    def __call__(self, model: HookedModel, reply: Candidate) -> Float[Tensor, "row"]:
        own, *controls = (self.score(model, prompt, reply) for prompt in (reply.own, *reply.controls))
        return own - torch.stack(controls).mean(dim=0)

    def score(self, model: HookedModel, prompt: Encoding, reply: Candidate) -> Float[Tensor, "row"]:
        """Log-probability per token after one prompt."""
        if not self.anywhere and self.under != model.steering:
            self.under, self.prompts = list(model.steering), {}
        if id(prompt) not in self.prompts:
            self.prompts[id(prompt)] = SharedPrompt(model, prompt, anywhere=self.anywhere)
        return log_probs(model, self.prompts[id(prompt)], [reply.ids], per_token=True)[:, 0]


def sensitivity(
    model: HookedModel, items: Sequence[Candidate], layer: int, progress: bool = True
) -> tuple[Float[np.ndarray, "place item"], Float[np.ndarray, "place item d_model"]]:
    """Log-probability per token of each reply, unsteered, and its gradient by what steering adds to its tokens.

    The places are the own context and the mean over the controls. The product of the gradient and a direction is the
    effect of a small strength, exactly: one backward pass serves the emotions and any number of null directions.
    """
    values, slopes = np.zeros((2, len(items))), np.zeros((2, len(items), model.d_model))
    wanted: dict[int, tuple[Encoding, list[tuple[int, int, float]]]] = {}
    for number, item in enumerate(items):
        for place, prompts in enumerate(((item.own,), item.controls)):
            for prompt in prompts:
                wanted.setdefault(id(prompt), (prompt, []))[1].append((place, number, 1 / len(prompts)))
    for prompt, asked in tqdm(wanted.values(), unit="prompt", disable=not progress):
        shared = SharedPrompt(model, prompt)
        found = gradients(model, shared, [items[number].ids for _, number, _ in asked], layer)
        for (place, number, weight), value, slope in zip(asked, *found, strict=True):
            values[place, number] += weight * float(value)
            slopes[place, number] += weight * slope.numpy()
    return values, slopes
