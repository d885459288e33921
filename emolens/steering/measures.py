"""Measures for `dose_response` and `patch`: callables `(model, item) -> one number for each row` of the steering."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.errors import whole_number
from emolens.models.hooked import Layer
from emolens.models.log_probs import log_probs, token_ids
from emolens.models.model import HookedModel
from emolens.models.texts import Text, is_chat
from emolens.reading.read import score
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.story_means import document_start

Measure = Callable[[HookedModel, Any], Float[Tensor, "row"]]


def emotion_score(
    vectors: EmotionVectors, emotion: str, layer: Layer, at: str = "last", method: str = "denoised"
) -> Measure:
    """The score of an emotion (see `read`) at a text's last token, or its mean over the "document".

    Raises:
        ValueError: an unknown emotion, layer or place; and, when it is asked, a model that the vectors are not of.

    >>> measure = emotion_score(vectors, "calm", layer=2)
    >>> with el.steer(model, [None, 0.5 * vectors["calm"]], layers=2):
    ...     unsteered, steered = measure(model, "he walked to the river")
    >>> bool(steered > unsteered)
    True
    """
    chosen = vectors[[emotion]].at(layer)
    (block,) = chosen.layers
    if at not in ("last", "document"):
        raise ValueError(f"at={at!r} is neither 'last' nor 'document'")

    def measure(model: HookedModel, text: Text) -> Float[Tensor, "row"]:
        chosen.check_model(model)
        resid = model.forward([text], stop_after=block)
        start = document_start(resid.shape[1]) if at == "document" else -1
        return score(resid[:, start:].float().mean(dim=1), chosen, block, method)[:, 0]

    return measure


def log_odds(favoured: Sequence[str], other: Sequence[str], per_token: bool = False) -> Measure:
    """Mean log-probability of the favoured continuations of a prompt less that of the others, in nats.

    Args:
        favoured, other: at least one continuation each.
        per_token: the mean over a continuation's tokens instead of their sum.

    >>> log_odds([" calm"], [" angry", " afraid"])(model, "he was").shape
    torch.Size([1])
    """
    for name, words in (("favoured", favoured), ("other", other)):
        if isinstance(words, str) or not len(words):
            raise ValueError(f"{name}={words!r}: give a list of continuations, at least one")

    def measure(model: HookedModel, prompt: Text) -> Float[Tensor, "row"]:
        each = log_probs(model, prompt, [*favoured, *other], per_token)
        return each[:, : len(favoured)].mean(dim=1) - each[:, len(favoured) :].mean(dim=1)

    return measure


def expressed(judge: Callable[[list[str]], Any], max_new_tokens: int = 40, samples: int = 1, **options: Any) -> Measure:
    """What a judge finds in the text that the model writes after a prompt: the mean over `samples` of them.

    Args:
        judge: gives a number for each text. It should know nothing of the model that is steered.
        options: of `HookedModel.generate`.

    Raises:
        ValueError: samples below 1; and, when it is asked, a judge that does not give a finite number for each text.

    >>> expressed(lambda texts: [len(text) for text in texts], max_new_tokens=4)(model, "he was").shape
    torch.Size([1])
    """
    samples = whole_number(samples, "samples", least=1)

    def measure(model: HookedModel, prompt: Text) -> Float[Tensor, "row"]:
        judged = []
        for sample in range(samples):
            written = model.generate(
                [prompt] * model.rows,
                max_new_tokens,
                seed=options.get("seed", 0) + sample,
                **{key: value for key, value in options.items() if key != "seed"},
            )
            judged.append(_judged(judge, written))
        return torch.from_numpy(np.mean(judged, axis=0)).float()

    return measure


def _judged(judge: Callable[[list[str]], Any], written: list[str]) -> Float[np.ndarray, "text"]:
    numbers = np.asarray(judge(written), dtype=float)
    if numbers.shape != (len(written),):
        raise ValueError(f"the judge gave {list(numbers.shape)} numbers for {len(written)} texts, not one for each")
    if not np.isfinite(numbers).all():
        text = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(f"the judge gave {numbers[text]} for text {text}, {written[text]!r}: give a finite number")
    return numbers


def coherence(model: HookedModel, prompts: Sequence[Text], max_new_tokens: int = 40, seed: int = 0) -> Any:
    """What steering costs. It writes unsteered texts first, and gives a function that measures under a steering.

    Call `coherence` outside of any steering, and the function that it returns inside one. The function gives for
    each row: the perplexity of the model's own unsteered text and of a neutral dialogue, the share of 3-grams of
    newly written text that occurred before in it, and its length in tokens.

    Raises:
        ValueError: no prompt, or a steering of several rows in force.

    >>> cost = coherence(model, ["he was calm and"], max_new_tokens=4)
    >>> with el.steer(model, [0.1 * vectors["calm"], 0.1 * vectors["sad"]]):
    ...     costs = cost(model)
    >>> list(costs), costs["perplexity_own"].shape
    (['perplexity_own', 'perplexity_neutral', 'repeated', 'length'], torch.Size([2]))
    """
    if not len(prompts):
        raise ValueError("no prompt to write after: give at least one")
    model.require_one_row("coherence, which asks for the unsteered text,")
    unsteered = model.generate(list(prompts), max_new_tokens, seed=seed)
    dialogue = texts.neutral()[0][:500]
    half = dialogue.index(" ", len(dialogue) // 2)
    # After a message where the prompts are messages, so that a steering of turns finds one.
    before: Any = [{"role": "user", "content": dialogue[:half]}] if is_chat(prompts[0]) else dialogue[:half]

    def cost(model: HookedModel) -> Mapping[str, Float[Tensor, "row"]]:
        pairs = [(prompt, text) for prompt, text in zip(prompts, unsteered, strict=True) if text.strip()]
        kept = [log_probs(model, prompt, [token_ids(model, text)], per_token=True) for prompt, text in pairs]
        known = log_probs(model, before, [token_ids(model, dialogue[half:])], per_token=True)
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
    """Share of n-grams that occurred before in the same text; 0 for a text shorter than n + 1.

    >>> repeated_share([1, 2, 3, 1, 2, 3, 1])
    0.4
    """
    n = whole_number(n, "n", least=1)
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0
