"""Dialogues as something to learn from: token ids, and the loss on the assistant's tokens alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emolens.models.batching import pad, plan
from emolens.models.model import HookedModel
from emolens.models.texts import Message, is_chat

Dialogue = Mapping[str, str] | Sequence[Message]  # {"user": ..., "assistant": ...}, or messages


class Example(NamedTuple):
    """Token ids of a dialogue, and the positions whose next token is the assistant's."""

    ids: list[int]
    learnt: list[int]


def messages_of(dialogue: Dialogue) -> list[Message]:
    """A dialogue as messages, from a row with `user` and `assistant` or from messages."""
    if isinstance(dialogue, Mapping):
        return [{"role": role, "content": dialogue[role]} for role in ("user", "assistant") if dialogue.get(role)]
    return list(dialogue)


def examples(base: HookedModel, dialogues: Sequence[Dialogue]) -> list[Example]:
    """Dialogues in the model's chat format, each closed with the end-of-text token, which is learnt as well.

    Raises:
        ValueError: no dialogue, or one without an assistant turn, by number.
    """
    found = []
    for number, dialogue in enumerate(dialogues):
        messages = messages_of(dialogue)
        if not is_chat(messages) or not any(m.get("role") == "assistant" and m.get("content") for m in messages):
            raise ValueError(f"dialogue {number} has no assistant turn (the first is 0), so there is nothing to learn")
        ids, turns, _ = base.encode_chat(messages)
        spans = [(turn.start, turn.end) for turn in turns if turn.role == "assistant"]
        if messages[-1]["role"] == "assistant" and base.tokenizer.eos_token_id is not None:
            ids = [*ids[: spans[-1][1]], base.tokenizer.eos_token_id]
            spans[-1] = (spans[-1][0], len(ids))
        found.append(Example(ids, [place - 1 for start, end in spans for place in range(start, end) if place > 0]))
    return found


class _CrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a frozen linear head, in slices: with 262,144 words the logits fill the memory,
    and writing and reading them takes twice as long as computing them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total, gradient = torch.zeros((), device=hidden.device), torch.empty_like(hidden)
        for part in torch.arange(len(hidden), device=hidden.device).split(128):
            logits = (hidden[part] @ weight.T).float()
            norm, own = logits.logsumexp(dim=1), targets[part, None]
            total += (norm - logits.gather(1, own)[:, 0]).sum()
            if ctx.needs_input_grad[0]:
                logits.sub_(norm[:, None]).exp_()
                logits.scatter_add_(1, own, torch.full_like(norm, -1.0)[:, None])
                gradient[part] = logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None, None


def reply_loss(causal: Any, batch: Sequence[Example]) -> tuple[Tensor, int]:
    """Sum of the cross-entropy over the reply tokens of a batch, and their number; no other logit is computed."""
    padded = pad([example.ids for example in batch]).to(causal.device)
    hidden = causal.base_model(padded.ids, attention_mask=padded.mask.long(), use_cache=False).last_hidden_state
    rows = torch.tensor([row for row, example in enumerate(batch) for _ in example.learnt], device=causal.device)
    places = torch.tensor([place for example in batch for place in example.learnt], device=causal.device)
    head, cap = causal.get_output_embeddings(), getattr(causal.config, "final_logit_softcapping", None)
    chosen, targets = hidden[rows, places], padded.ids[rows, places + 1]
    if cap is None and head.bias is None:
        return _CrossEntropy.apply(chosen, head.weight, targets), len(places)
    logits = head(chosen).float()
    logits = cap * torch.tanh(logits / cap) if cap else logits
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), len(places)


def mean_loss(causal: Any, found: Sequence[Example], batch_tokens: int = 512) -> float:
    """Mean loss over the reply tokens of dialogues."""
    parts = []
    with torch.no_grad():
        for rows in plan([len(example.ids) for example in found], batch_tokens):
            total, count = reply_loss(causal, [found[row] for row in rows])
            parts.append((float(total), count))
    return sum(total for total, _ in parts) / sum(count for _, count in parts)
