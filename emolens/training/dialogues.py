"""Dialogues as something to learn from: token ids, and the loss on the assistant's tokens alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emolens.errors import whole_number
from emolens.models.batching import pad, plan
from emolens.models.model import HookedModel
from emolens.models.texts import Message, is_chat

# {"user": ..., "assistant": ...}, or messages. It is no narrower type, because `listed` and `examples` refuse
# everything else by name, with what to give instead.
Dialogue = Any


class Example(NamedTuple):
    """Token ids of a dialogue, and the positions whose next token is the assistant's.

    >>> examples(model, [{"user": "the river", "assistant": "was cold"}])[0].learnt
    [6, 7, 8]
    """

    ids: list[int]
    learnt: list[int]


def listed(dialogues: Any) -> list[Dialogue]:
    """Dialogues as a list, of which a generator could be read only once.

    Raises:
        ValueError: a single dialogue, a text or a table.

    >>> listed({"user": "Hello.", "assistant": "Good morning."})
    Traceback (most recent call last):
    ValueError: dialogues is one dialogue: give a list of them
    """
    if isinstance(dialogues, (str, bytes)) or hasattr(dialogues, "to_dict"):
        instead = ": give its rows, dialogues.to_dict('records')" if hasattr(dialogues, "to_dict") else ""
        raise ValueError(f"dialogues is a {type(dialogues).__name__}{instead or ': give a list of dialogues'}")
    if isinstance(dialogues, Mapping) or (is_chat(dialogues) and "role" in dialogues[0]):
        raise ValueError("dialogues is one dialogue: give a list of them")
    return list(dialogues)


def messages_of(dialogue: Dialogue) -> list[Message]:
    """A dialogue as messages, from a row with `user` and `assistant` or from messages.

    >>> messages_of({"user": "Hello.", "assistant": "Good morning."})[1]
    {'role': 'assistant', 'content': 'Good morning.'}
    """
    if isinstance(dialogue, Mapping):
        return [{"role": role, "content": dialogue[role]} for role in ("user", "assistant") if dialogue.get(role)]
    return list(dialogue)


def examples(base: HookedModel, dialogues: Sequence[Dialogue]) -> list[Example]:
    """Dialogues in the model's chat format, each closed with the end-of-text token, which is learnt as well.

    Raises:
        ValueError: no dialogue, one without an assistant turn or without a token of it, by number.

    >>> base = model
    >>> (example,) = examples(base, [{"user": "the river", "assistant": "was cold"}])
    >>> base.tokenizer.decode([example.ids[place + 1] for place in example.learnt])
    'was cold <eos>'
    """
    found = []
    dialogue: Any
    for number, dialogue in enumerate(dialogues):
        if not isinstance(dialogue, (Mapping, Sequence)) or isinstance(dialogue, (str, bytes)):
            raise ValueError(f"dialogue {number} is {dialogue!r:.40}, no row and no list of messages (the first is 0)")
        messages = messages_of(dialogue)
        if not is_chat(messages) or not any(m.get("role") == "assistant" and m.get("content") for m in messages):
            keys = f"; its keys are {', '.join(map(str, dialogue))}" if isinstance(dialogue, Mapping) else ""
            raise ValueError(
                f"dialogue {number} has no assistant turn (the first is 0), so there is nothing to learn{keys}"
            )
        if bad := [m for m in messages if not isinstance(m.get("content"), str)]:
            raise ValueError(f"dialogue {number}: a message's content is {bad[0].get('content')!r:.40}, not a text")
        try:
            ids, turns, _ = base.encode_chat(messages)
        except ValueError as error:
            raise ValueError(f"dialogue {number} (the first is 0): {error}") from error
        spans = [(turn.start, turn.end) for turn in turns if turn.role == "assistant"]
        if messages[-1]["role"] == "assistant" and base.tokenizer.eos_token_id is not None:
            ids = [*ids[: spans[-1][1]], base.tokenizer.eos_token_id]
            spans[-1] = (spans[-1][0], len(ids))
        learnt = [place - 1 for start, end in spans for place in range(start, end) if place > 0]
        if not learnt:
            raise ValueError(f"dialogue {number} has no token of the assistant to learn (the first is 0)")
        found.append(Example(ids, learnt))
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
    """Sum of the cross-entropy over the reply tokens of a batch, and their number; no other logit is computed.

    >>> from emolens.training.adapters import hugging_face_model
    >>> batch = examples(model, [{"user": "the river", "assistant": "was cold"}])
    >>> total, count = reply_loss(hugging_face_model(model), batch)
    >>> count, round(total.item() / count, 1)  # log 80, as the model knows nothing of its 80 words
    (3, 4.4)
    """
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
    """Mean loss over the reply tokens of dialogues.

    Raises:
        ValueError: no dialogue.

    >>> from emolens.training.adapters import hugging_face_model
    >>> found = examples(model, [{"user": "the river", "assistant": "was cold"}] * 2)
    >>> round(mean_loss(hugging_face_model(model), found), 1)
    4.4
    """
    if not found:
        raise ValueError("no dialogues, of which there is no mean loss")
    whole_number(batch_tokens, "batch_tokens", least=1)
    parts = []
    with torch.no_grad():
        for rows in plan([len(example.ids) for example in found], batch_tokens):
            total, count = reply_loss(causal, [found[row] for row in rows])
            parts.append((float(total), count))
    return sum(total for total, _ in parts) / sum(count for _, count in parts)
