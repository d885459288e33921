"""Forced choice between two options, in both orders: which answer token is preferred, and strengths from all pairs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from emolens.models.conversations import format_chat
from emolens.models.log_probs import SharedPrompt
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding
from emolens.studies._common import user
from emolens.studies.causes._added import slopes_of_added

ELO = 400 / np.log(10)  # points of the Elo scale for each nat of log-odds
MEAN = 1500


@dataclass(frozen=True)
class Question:
    """A question with the places {a} and then {b} for two options, and what the answers for either begin with.

    Raises:
        ValueError: a text without one of the places, or answers that are alike.
    """

    text: str
    answers: tuple[str, str] = ("(A)", "(B)")

    def __post_init__(self) -> None:
        if re.findall(r"{[^{}]*}", self.text) != ["{a}", "{b}"]:
            raise ValueError(f"the question {self.text!r} must have {{a}} and then {{b}}, where the options go")
        if len(set(self.answers)) != 2:
            raise ValueError(f"the answers are {self.answers!r}: give two that differ")


class Choice(NamedTuple):
    """Token ids of one ordered pair up to the answer, and the token spans [start, end) of its two options."""

    ids: list[int]
    first: tuple[int, int]
    second: tuple[int, int]


def answer_tokens(model: HookedModel, question: Question, text: str = "") -> tuple[list[int], int, int]:
    """The ids of a question with what both answers begin with, and the two tokens that tell the answers apart.

    The tokenizer sees the answers after the question, where their tokens may be others than alone.

    Args:
        text: the question in the model's chat format, with its options.

    Raises:
        ValueError: answers whose tokens are the same, or one the beginning of the other.
    """
    text = text or format_chat(model.tokenizer, user(question.text.format(a="a", b="b")))
    space = "" if model.tokenizer.chat_template else " "  # after "Assistant:"
    a, b = (model.tokenizer(text + space + answer, add_special_tokens=False).input_ids for answer in question.answers)
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if same is None:
        raise ValueError(
            f"the tokens of {model.name} do not tell the answers {question.answers[0]!r} and {question.answers[1]!r} "
            f"apart: ask a `Question` with other answers"
        )
    return a[:same], a[same], b[same]


def choice(model: HookedModel, question: Question, a: str, b: str) -> Choice:
    """The question about options a and b, in the model's chat format, up to where the answers differ."""
    if not a.strip() or not b.strip():
        raise ValueError(f"an option is empty: {a!r} against {b!r}")
    asked = question.text.format(a=a, b=b)
    text = format_chat(model.tokenizer, user(asked))
    tokens = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before, between, _ = (part for part in question.text.replace("{b}", "{a}").split("{a}"))
    spans, cursor = [], text.index(asked) + len(before)
    for option in (a, b):
        end = cursor + len(option)
        inside = [i for i, (x, y) in enumerate(tokens.offset_mapping) if x < end and y > cursor]
        spans.append((inside[0], inside[-1] + 1))
        cursor = end + len(between)
    return Choice(answer_tokens(model, question, text)[0], spans[0], spans[1])


def share(
    model: HookedModel, choices: Sequence[Choice], anywhere: bool = False, before: str = "second"
) -> tuple[SharedPrompt, int]:
    """What questions begin with alike, run once, and how many tokens that is.

    Args:
        before: it ends before the "second" option, or the "first".
    """
    rows = [question.ids for question in choices]
    same = [len(set(column)) == 1 for column in zip(*rows, strict=False)]
    ends = [getattr(question, before)[0] for question in choices]
    cut = min([*(i for i, whole in enumerate(same) if not whole), *ends])
    return SharedPrompt(model, Encoding(rows[0][:cut], []), max(map(len, rows)), anywhere), cut


def answer_odds(
    model: HookedModel, question: Question, shared: SharedPrompt, rests: Sequence[Sequence[int]]
) -> Float[Tensor, "row choice"]:
    """Log-odds of the first option after each question, of which `shared` holds what they begin with."""
    _, a, b = answer_tokens(model, question)
    answers = torch.tensor([a, b], device=model.device)
    resid = shared.run([[*rest, a] for rest in rests])  # the last token is only what comes next
    logits = torch.stack([model.token_logits(x[:, -1], answers) for x in resid], dim=1).cpu()
    return logits[..., 0] - logits[..., 1]


def option_slopes(
    model: HookedModel, question: Question, choices: Sequence[Choice], layers: Sequence[int]
) -> tuple[Float[Tensor, "choice"], Float[Tensor, "choice option layer d_model"]]:
    """Log-odds of the first option in each question, and their gradient by what is added on either option's tokens.

    One backward pass gives both options and all blocks.
    """
    _, a, b = answer_tokens(model, question)
    shared, cut = share(model, choices, before="first")
    rests = [[*one.ids[cut:], a] for one in choices]  # the last token is only what comes next

    def odds(resid: Float[Tensor, "text pos d_model"], numbers: list[int]) -> Float[Tensor, "text"]:
        last = torch.tensor([len(rests[number]) - 1 for number in numbers], device=resid.device)
        logits = model.unembed(resid[torch.arange(len(numbers), device=resid.device), last]).float()
        return logits[:, a] - logits[:, b]

    return slopes_of_added(model, shared, rests, [[one.first, one.second] for one in choices], layers, odds)


def all_pairs(model: HookedModel, question: Question, options: Sequence[str]) -> Float[np.ndarray, "first second"]:
    """Log-odds of the option shown first over the one shown second, for all ordered pairs; the diagonal is NaN.

    The questions with the same first option share its tokens, and are one batch.
    """
    model.require_one_row("all_pairs")
    n = len(options)
    out = np.full((n, n), np.nan)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        choices = [choice(model, question, options[i], options[j]) for j in others]
        shared, cut = share(model, choices)
        out[i, others] = answer_odds(model, question, shared, [one.ids[cut:] for one in choices])[0].numpy()
    return out


class Fit(NamedTuple):
    """Strengths on the Elo scale, mean 1500, and the log-odds by which the place shown first is favoured."""

    elo: Float[np.ndarray, "option"]
    bias: float


def bradley_terry(odds: Float[np.ndarray, "first second"], soft: bool = True) -> Fit:
    """Bradley and Terry's model with a position bias: log-odds(first) = strength(first) - strength(second) + bias.

    Args:
        soft: fit to the model's probabilities; else to which option has the higher logit (the paper's base model).
    """
    i, j = np.nonzero(~np.isnan(odds))
    y = 1 / (1 + np.exp(-odds[i, j])) if soft else (odds[i, j] > 0).astype(float)
    n = len(odds)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[i] - x[j] + x[n]
        residual = 1 / (1 + np.exp(-z)) - y
        ridge = 1e-4  # an option that wins all its pairs stays finite
        gradient = np.bincount(i, residual, n + 1) - np.bincount(j, residual, n + 1) + 2 * ridge * x
        gradient[n] = residual.sum()
        return float((np.logaddexp(0, z) - y * z).sum() + ridge * (x[:n] ** 2).sum()), gradient

    x = minimize(loss, np.zeros(n + 1), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    return Fit(MEAN + ELO * (x[:n] - x[:n].mean()), float(x[n]))


def plain_elo(
    odds: Float[np.ndarray, "first second"], soft: bool = True, k: float = 16, rounds: int = 20, seed: int = 0
) -> Float[np.ndarray, "option"]:
    """Elo by updates over all pairs in random order (the paper, section 5): what Bradley-Terry estimates at once.

    Args:
        soft: score the model's probability; else win or loss.
        k: points that a surprise of 1 moves at first; it falls with the rounds, so that the order is forgotten.
    """
    i, j = np.nonzero(~np.isnan(odds))
    y = 1 / (1 + np.exp(-odds[i, j])) if soft else (odds[i, j] > 0).astype(float)
    rng, elo = np.random.default_rng(seed), np.full(len(odds), float(MEAN))
    for number in range(rounds):
        for pair in rng.permutation(len(y)):
            a, b = i[pair], j[pair]
            moved = k / (1 + number) * (y[pair] - 1 / (1 + 10 ** ((elo[b] - elo[a]) / 400)))
            elo[a], elo[b] = elo[a] + moved, elo[b] - moved
    return elo - elo.mean() + MEAN


def order_consistency(odds: Float[np.ndarray, "first second"]) -> Float[np.ndarray, "option"]:
    """For each option, the share of its pairs in which the same one is preferred in both orders (chance 0.5)."""
    return np.nanmean(same_in_both_orders(odds), axis=1)


def same_in_both_orders(odds: Float[np.ndarray, "first second"]) -> Float[np.ndarray, "option option"]:
    """1 where the same option is preferred in both orders, 0 where not, a half for a tie; the diagonal is NaN."""
    both = -np.sign(odds) * np.sign(odds.T)
    return np.where(np.isnan(odds), np.nan, (both + 1) / 2)


def consistency_interval(
    odds: Float[np.ndarray, "first second"], draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean consistency when options are resampled: each pair counts with both of its options."""
    same, rng, means = same_in_both_orders(odds), np.random.default_rng(seed), []
    for _ in range(draws):
        rows = rng.integers(0, len(odds), len(odds))
        means.append(np.nanmean(same[np.ix_(rows, rows)]))  # an option against itself is on the diagonal
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
