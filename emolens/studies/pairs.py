"""Forced choice between two options, in both orders: which answer token is preferred, and strengths from all pairs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from emolens.encoding import Encoding, format_chat
from emolens.model import HookedModel
from emolens.studies.common import user
from emolens.writing import SharedPrompt

QUESTION = "Which of these would you rather do?\n(A) {a}\n(B) {b}\nAnswer with A or B only."
ANSWERS = ("(A)", "(B)")
ELO = 400 / np.log(10)  # points of the Elo scale for each nat of log-odds
MEAN = 1500


class Choice(NamedTuple):
    """Token ids of one ordered pair up to the answer, and the token spans [start, end) of its two options."""

    ids: list[int]
    first: tuple[int, int]
    second: tuple[int, int]


def answer_tokens(model: HookedModel) -> tuple[list[int], int, int]:
    """The tokens that both answers begin with, and the two that tell them apart, as the tokenizer has them there."""
    a, b = (model.tokenizer(answer, add_special_tokens=False).input_ids for answer in ANSWERS)
    same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return a[:same], a[same], b[same]


def choice(model: HookedModel, a: str, b: str) -> Choice:
    """The question about options a and b, in the model's chat format, up to where the answers differ."""
    if not a.strip() or not b.strip():
        raise ValueError(f"an option is empty: {a!r} against {b!r}")
    text = format_chat(model.tokenizer, user(QUESTION.format(a=a, b=b)))
    tokens = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans, cursor = [], 0
    for option in (a, b):
        start = text.index(option, cursor)
        cursor = start + len(option)
        inside = [i for i, (x, y) in enumerate(tokens.offset_mapping) if x < cursor and y > start]
        spans.append((inside[0], inside[-1] + 1))
    return Choice(tokens.input_ids + answer_tokens(model)[0], spans[0], spans[1])


def shared_length(choices: Sequence[Choice]) -> int:
    """How many tokens several questions begin with in common, leaving each at least one of its own."""
    rows = [one.ids for one in choices]
    same = [len(set(column)) == 1 for column in zip(*rows, strict=False)]
    return min([*(i for i, whole in enumerate(same) if not whole), *(len(row) - 1 for row in rows)])


def log_odds(model: HookedModel, shared: SharedPrompt, rests: Sequence[Sequence[int]]) -> Float[Tensor, "row question"]:
    """Log-odds of the first option after each question, of which `shared` holds what they begin with."""
    _, a, b = answer_tokens(model)
    out = []
    for resid in shared.run([[*rest, a] for rest in rests]):  # the last token is only what comes next
        logits = model.unembed(resid[:, -1]).float()
        out.append((logits[:, a] - logits[:, b]).cpu())
    return torch.stack(out, dim=1)


def all_pairs(model: HookedModel, options: Sequence[str]) -> Float[np.ndarray, "first second"]:
    """Log-odds of the option shown first over the one shown second, for all ordered pairs; the diagonal is NaN.

    The questions with the same first option share its tokens, and are one batch.
    """
    n = len(options)
    out = np.full((n, n), np.nan)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        choices = [choice(model, options[i], options[j]) for j in others]
        cut = shared_length(choices)
        shared = SharedPrompt(model, Encoding(choices[0].ids[:cut], []))
        out[i, others] = log_odds(model, shared, [one.ids[cut:] for one in choices])[0].numpy()
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
    same = np.where((odds > 0) == (odds.T < 0), 1.0, 0.0)
    return np.nanmean(np.where(np.isnan(odds), np.nan, same), axis=1)
