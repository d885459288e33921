"""Exercises of the notebook on sycophancy: one's own conversation, a control that turns a claim, two nulls."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emolens.exercises._check import MISSING, checked
from emolens.models.log_probs import log_probs, token_ids
from emolens.models.model import HookedModel
from emolens.stats import Verdict

RATIO = 1.5  # of the lengths of two replies
FEWEST = 200  # draws of a null
KEYS = ("messages", "honest", "harsh", "preference")
NEEDED = ("p_shuffled labels", "p_random gradients", "p_shuffled replies")


@checked("Your conversation is measured as those of the study are. One conversation with one reply of each kind says "
         "little: the study has 24 with two of each, and an interval over them.")  # fmt: skip
def own_conversation(answer: Any, model: HookedModel, elsewhere: Sequence[Mapping[str, str]]) -> str | None:
    """Is it the preference for the harsh reply in one's own conversation, less the same in another one?

    Args:
        answer: a dict: `messages`, the conversation up to the user's last turn; `honest` and `harsh`, a reply each;
            `preference`, a number in nats per token.
        elsewhere: another conversation, the control.

    >>> own_conversation({"messages": []}, model, [])
    Not yet: give a dict with the keys messages, honest, harsh, preference; yours lacks honest.
    """
    if not isinstance(answer, Mapping) or (lacking := [key for key in KEYS if key not in answer]):
        lacks = f"; yours lacks {lacking[0]}" if isinstance(answer, Mapping) else ""
        return f"give a dict with the keys {', '.join(KEYS)}{lacks}."
    if any(answer[key] is ... for key in KEYS):
        return MISSING
    messages, replies = answer["messages"], [answer["harsh"], answer["honest"]]
    if not messages or messages[-1]["role"] != "user":
        return "the conversation ends with the user's turn, which the replies answer."
    lengths = [len(token_ids(model, reply)) for reply in replies]
    if not all(lengths) or not 1 / RATIO < lengths[0] / lengths[1] < RATIO:
        return f"your replies have {lengths[0]} and {lengths[1]} tokens: make them alike in length."
    own, other = (log_probs(model, list(one), replies, per_token=True)[0] for one in (messages, elsewhere))
    alone, control = float(own[0] - own[1]), float(other[0] - other[1])
    value, near = float(np.asarray(answer["preference"]).item()), 0.02
    if abs(value - (alone - control)) < near:
        return None
    if abs(value - alone) < near:
        return "this is the own conversation alone: take off what the same replies get elsewhere."
    if abs(value + alone - control) < near:
        return "the size is right and the sign is not: above zero means that the harsh reply is preferred."
    return f"{value:+.3f} is another number: use the log-probability per token, harsh less honest, own less elsewhere."


@checked("Beyond all nulls in one context, and beyond all nulls with the other sign in another: the claim is about "
         "the control as much as about the model.")  # fmt: skip
def turning_controls(answer: Any, table: pd.DataFrame) -> str | None:
    """Are these the controls under which the claim would be its opposite: beyond the null, with the other sign?

    Args:
        answer: a list of names of controls.
        table: of one contrast: `control`, `effect`, `verdict`; the claim is that of the row "own".

    >>> rows = [("own", -0.7, "beyond the null"), ("twin", 0.7, "beyond the null"), ("others", 0.1, "inside the null")]
    >>> turning_controls(["twin"], pd.DataFrame(rows, columns=["control", "effect", "verdict"]))
    Right. Beyond all nulls in one context, ...
    """
    given = {answer} if isinstance(answer, str) else set(answer)
    if unknown := given - set(table["control"]):
        return f"{min(unknown)!r} is no control of this table; there are {', '.join(table['control'])}."
    by_name = table.set_index("control")
    turned = np.sign(by_name["effect"]) != np.sign(by_name.loc["own", "effect"])
    right = set(by_name.index[turned & by_name["verdict"].eq(Verdict.BEYOND)])
    if same := [name for name in given if not turned[name]]:
        return f"{same[0]} has the sign of the claim."
    if inside := given - right:
        return f"{min(inside)} has the other sign, but is not beyond the null: it says nothing either way."
    return "there is one more: look at the sign and at the verdict of every row." if right - given else None


@checked("Two differences that share one part go together though nothing connects them: half of the spread of each is "
         "the shared part, so that the expected r is a half. With five directions the draws scatter widely "
         "around it.")  # fmt: skip
def shared_part(answer: Any, directions: int = 5) -> str | None:
    """Is it the null of the trade-off: r of two differences that share the honest replies, and nothing else?

    Args:
        answer: the correlation of each draw, at least 200.
        directions: how many directions were steered along.

    >>> rng = np.random.default_rng(0)
    >>> kinds = rng.normal(size=(500, 3, 5))
    >>> shared_part([np.corrcoef(a - c, b - c)[0, 1] for a, b, c in kinds])
    Right. Two differences that share one part ...
    """
    draws = np.asarray(answer, dtype=float)
    if draws.ndim != 1 or len(draws) < FEWEST:
        return f"a null is a list of at least {FEWEST} correlations, and yours has the shape {draws.shape}."
    if not np.isfinite(draws).all() or np.abs(draws).max() > 1 + 1e-9:
        return "a correlation lies between -1 and 1."
    middle, low, high = np.quantile(draws, [0.5, 0.025, 0.975])
    if abs(middle) < 0.15:
        return "your draws are centred on zero: both differences must be taken from one and the same third number."
    if middle < 0:
        return "your draws lie below zero: in both differences the shared part is taken off, in none is it added."
    if not 0.4 < middle < 0.72:
        return "the middle of your draws is not where three independent kinds of the same spread put it."
    if high - low < 0.8:
        return f"your draws are too much alike: there are {directions} independent directions in a draw, not more."
    return None


@checked("A table of several tests is a family: of six independent ones on nothing, one family in four has a p "
         "below 0.05. What does not survive asks for a repetition on other texts.")  # fmt: skip
def corrected(answer: Any, table: pd.DataFrame) -> str | None:
    """Is it the p of each row, the largest over its nulls, corrected for the number of rows?

    Args:
        answer: a number for each row of the table, in its order.
        table: `p_shuffled labels`, `p_random gradients`, `p_shuffled replies`, those that there are.

    >>> table = pd.DataFrame({"p_random gradients": [0.01, 0.6], "p_shuffled replies": [0.02, 0.1]})
    >>> corrected([0.04, 1.0], table)
    Right. A table of several tests is a family...
    """
    values = np.asarray(answer, dtype=float)
    if values.shape != (len(table),):
        return f"there is one p for each of the {len(table)} rows, and yours has the shape {values.shape}."
    known = table[[name for name in NEEDED if name in table]]
    largest = known.max(axis=1).to_numpy(float)
    if np.allclose(values, np.minimum(1, largest * len(table)), atol=1e-6):
        return None
    if np.allclose(values, largest, atol=1e-6):
        return "this is the p of each row by itself: how many rows were looked at?"
    if np.allclose(np.minimum(1, values), np.minimum(1, largest * len(table)), atol=1e-6):
        return "a p is at most 1."
    if np.allclose(values, np.minimum(1, known.min(axis=1).to_numpy(float) * len(table)), atol=1e-6):
        return "an effect has to be beyond every null: it is the largest of its p values that counts."
    return "take for each row the largest p over the nulls, times the number of rows, and at most 1."
