"""Measures for `dose_response` and `patch`: callables `(model, item) -> one number for each row` of the steering."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.encoding import Text, is_chat
from emolens.models.log_probs import log_probs, token_ids
from emolens.models.model import HookedModel
from emolens.reading.read import score
from emolens.vectors.derive import document_start
from emolens.vectors.emotion_vectors import EmotionVectors

Measure = Callable[[HookedModel, Any], Float[Tensor, "row"]]


def emotion_score(
    vectors: EmotionVectors, emotion: str, layer: int, at: str = "last", method: str = "denoised"
) -> Measure:
    """The score of an emotion (see `read`) at a text's last token, or its mean over the "document"."""
    chosen = vectors[[emotion]].at(layer)
    if at not in ("last", "document"):
        raise ValueError(f"at={at!r} is neither 'last' nor 'document'")

    def measure(model: HookedModel, text: Text) -> Float[Tensor, "row"]:
        resid = model.forward([text], stop_after=layer)
        start = document_start(resid.shape[1]) if at == "document" else -1
        return score(resid[:, start:].float().mean(dim=1), chosen, layer, method)[:, 0]

    return measure


def log_odds(favoured: Sequence[str], other: Sequence[str], per_token: bool = False) -> Measure:
    """Mean log-probability of the favoured continuations of a prompt less that of the others, in nats."""

    def measure(model: HookedModel, prompt: Text) -> Float[Tensor, "row"]:
        found = log_probs(model, prompt, [*favoured, *other], per_token)
        return found[:, : len(favoured)].mean(dim=1) - found[:, len(favoured) :].mean(dim=1)

    return measure


def expressed(judge: Callable[[list[str]], Any], max_new_tokens: int = 40, samples: int = 1, **options: Any) -> Measure:
    """What a judge finds in the text that the model writes after a prompt: the mean over `samples` of them.

    Args:
        judge: gives a number for each text. It should know nothing of the model that is steered.
        options: of `HookedModel.generate`.
    """

    def measure(model: HookedModel, prompt: Text) -> Float[Tensor, "row"]:
        found = []
        for sample in range(samples):
            written = model.generate(
                [prompt] * model.rows,
                max_new_tokens,
                seed=options.get("seed", 0) + sample,
                **{key: value for key, value in options.items() if key != "seed"},
            )
            found.append(np.asarray(judge(written), dtype=float))
        return torch.from_numpy(np.mean(found, axis=0)).float()

    return measure


def coherence(model: HookedModel, prompts: Sequence[Text], max_new_tokens: int = 40, seed: int = 0) -> Any:
    """What a steering costs: call it outside, and inside the steering what it returns.

    That gives, for each row: the perplexity of the model's own unsteered text and of a neutral dialogue, the
    share of 3-grams of newly written text that occurred before in it, and its length in tokens.
    """
    model.require_one_row("coherence, which asks for the unsteered text,")
    own = model.generate(list(prompts), max_new_tokens, seed=seed)
    said = texts.neutral()[0][:500]
    half = said.index(" ", len(said) // 2)
    # After a message where the prompts are messages, so that a steering of turns finds one.
    before: Any = [{"role": "user", "content": said[:half]}] if is_chat(prompts[0]) else said[:half]

    def cost(model: HookedModel) -> Mapping[str, Float[Tensor, "row"]]:
        pairs = [(prompt, text) for prompt, text in zip(prompts, own, strict=True) if text.strip()]
        kept = [log_probs(model, prompt, [token_ids(model, text)], per_token=True) for prompt, text in pairs]
        known = log_probs(model, before, [token_ids(model, said[half:])], per_token=True)
        repeated, length = [], []
        for prompt in prompts:
            written = model.generate([prompt] * model.rows, max_new_tokens, seed=seed)
            ids = [token_ids(model, text) for text in written]
            repeated.append([repeated_share(row) for row in ids])
            length.append([len(row) for row in ids])
        return {
            "perplexity_own": torch.cat(kept, dim=1).mean(dim=1).neg().exp(),
            "perplexity_neutral": known[:, 0].neg().exp(),
            "repeated": torch.tensor(repeated).float().mean(dim=0),
            "length": torch.tensor(length).float().mean(dim=0),
        }

    return cost


def repeated_share(ids: Sequence[int], n: int = 3) -> float:
    """Share of n-grams that occurred before in the same text; 0 for a text shorter than n + 1."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0
