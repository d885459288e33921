"""Generation: what the rows of a batch have in common is run once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.errors import TooLongError, UnsupportedError
from emolens.models import support
from emolens.models.batching import Batch, Pass, pad, per_text, whole
from emolens.models.conversations import PLAIN_ROLES
from emolens.models.hooked import Hooked
from emolens.models.log_probs import SharedPrompt
from emolens.models.texts import Encoding, Text, gate


class Reply(NamedTuple):
    """What was written, and whether it ended by itself or at a stop string rather than at `max_new_tokens`.

    Example:
        >>> replies(model, "she ran", max_new_tokens=4)[0].ended
        False
    """

    text: str
    ended: bool


def write(model: Hooked, texts: Text | Sequence[Text], *options: Any) -> Any:
    """`HookedModel.generate`.

    Example:
        >>> type(write(model, "she ran", 4)), len(write(model, ["she ran", "he was calm"], 4))
        (<class 'str'>, 2)
    """
    given = gate(texts)
    written = [reply.text for reply in replies(model, given.texts, *options)]
    return written[0] if given.one and model.rows == 1 else written


def replies(
    model: Hooked,
    texts: Text | Sequence[Text],
    max_new_tokens: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    stop: str | Sequence[str] = (),
) -> list[Reply]:
    """`HookedModel.generate` of one text or several, always as a list, with whether each was cut off.

    Raises:
        ValueError: as `HookedModel.generate`.

    Example:
        >>> [len(reply) for reply in replies(model, ["she ran", "he was calm"], max_new_tokens=4)]
        [2, 2]
    """
    stop = _checked_options(max_new_tokens, temperature, top_p, seed, stop)
    encoded = model.encode_all(texts)
    if not model.tokenizer.chat_template and any(encoding.turns for encoding in encoded):
        stop.append(f"\n{PLAIN_ROLES['user']}:")
    longest = max(len(encoding.ids) for encoding in encoded)
    if longest + max_new_tokens > model.n_ctx:
        raise TooLongError(
            f"a prompt of {longest} tokens leaves room for {model.n_ctx - longest} new ones in the context of "
            f"{model.name} ({model.n_ctx}), not for {max_new_tokens}; shorten it or lower max_new_tokens"
        )
    if len(encoded) == 1:
        encoded = encoded * model.rows
    if model.rows > 1 and len(encoded) != model.rows:
        raise ValueError(f"{len(encoded)} texts can't be steered in {model.rows} rows: give one, or as many")
    batch = model.batch(encoded, "left")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        if model.hf_model is not None:
            draw = Nucleus(temperature, top_p) if temperature else None
            cached = support.works(model, "generate with cache")
            written = (_generate if cached else _recompute)(model, encoded, batch, max_new_tokens, draw, stop)
        else:
            sampling: dict[str, Any] = {"do_sample": bool(temperature)}
            sampling |= {"temperature": temperature, "top_p": top_p} if temperature else {}
            written = []
            for row, (ids, mask) in enumerate(zip(batch.ids, batch.mask, strict=True)):
                n = int(mask.sum())
                now = Pass((0,), (n,), batch.turns[row : row + 1], (n + max_new_tokens,), only=row)
                with model.passes(now):
                    written.append(_generate_row(model, ids[mask], max_new_tokens, sampling))
    for mark in stop:
        written = [Reply(text.split(mark)[0], ended or mark in text) for text, ended in written]
    return written


def _checked_options(max_new_tokens: Any, temperature: Any, top_p: Any, seed: Any, stop: Any) -> list[str]:
    """The stop strings as a list, where they and the numbers are what they are meant to be."""
    whole("max_new_tokens", max_new_tokens)
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ValueError(f"seed={seed!r}: give an integer")
    for name, value, most in (("temperature", temperature, math.inf), ("top_p", top_p, 1)):
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not (real and math.isfinite(value) and 0 <= value <= most and (value > 0 or name == "temperature")):
            limits = "0 (greedy) or more" if name == "temperature" else "a number above 0, up to 1"
            raise ValueError(f"{name}={value!r}: give {limits}")
    marks = [stop] if isinstance(stop, str) else list(stop)
    for number, mark in enumerate(marks):
        if not isinstance(mark, str) or not mark:
            raise ValueError(f"stop string {number} is {mark!r}: give strings that are not empty")
    return marks


class Nucleus:
    """Draws the next token of each row from the fewest most likely ones that hold `top_p` of the probability.

    transformers sorts the whole vocabulary for that, at each step, which for a batch of a hundred rows takes longer
    than a small model; here the most likely ones are enough, and rows in which they don't hold `top_p` are sorted.

    Example:
        >>> scores = torch.tensor([[4.0, 0.0, 0.0]])
        >>> Nucleus(temperature=1.0, top_p=0.5)(torch.empty(1, 0), scores)  # the first token alone holds half
        tensor([[0., -inf, -inf]])
    """

    def __init__(self, temperature: float, top_p: float, first: int = 1024) -> None:
        self.temperature, self.top_p, self.first = temperature, top_p, first

    def __call__(self, ids: Tensor, scores: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        logits = scores.float() / self.temperature
        total = logits.logsumexp(dim=-1, keepdim=True)
        best, token = logits.topk(min(self.first, scores.shape[1]), dim=-1)
        p = (best - total).exp()
        drawn = self._draw(p, token)
        flat = p.sum(dim=-1) < min(self.top_p, 1 - 1e-6)
        if flat.any():
            best, token = logits[flat].sort(dim=-1, descending=True)
            drawn[flat] = self._draw((best - total[flat]).exp(), token)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)

    def _draw(self, p: Float[Tensor, "row likely"], token: Int[Tensor, "row likely"]) -> Int[Tensor, "row 1"]:
        inside = p.masked_fill((p.cumsum(dim=-1) - p) >= self.top_p, 0)
        return token.gather(1, torch.multinomial(inside, 1))


def _generate(
    model: Hooked, encoded: list[Encoding], batch: Batch, max_new_tokens: int, draw: Any, stop: list[str]
) -> list[Reply]:
    width, rows, options = batch.ids.shape[1], len(encoded), {}
    now = Pass.of(batch)
    now = replace(now, length=tuple(n + max_new_tokens for n in now.length))
    alike = all(a.ids == b.ids for a, b in pairwise(encoded))
    if rows > 1 and width > 1 and alike and not any(per_text(one.where) for one in model.steering):
        shared = SharedPrompt(model, encoded[0])
        if shared.cache is not None:
            options["past_key_values"] = shared.cache_for(rows)
            now = replace(now, start=width - 1)

    def stopped(ids: Tensor, scores: Any) -> Tensor:
        ends = model.tokenizer.batch_decode(ids[:, width:][:, -32:])
        return torch.tensor([any(mark in end for mark in stop) for end in ends], device=ids.device)

    with model.passes(now):
        out = model.hf_model.generate(
            batch.ids,
            attention_mask=batch.mask.long(),
            max_new_tokens=max_new_tokens,
            pad_token_id=model.pad_token_id,
            do_sample=False,  # the most likely token is what was drawn, where anything is
            logits_processor=[draw] if draw else None,
            stopping_criteria=[stopped] if stop else None,
            **options,
        )
    ends = model.hf_model.generation_config.eos_token_id
    return [_reply(model, row, [ends] if isinstance(ends, int) else ends or []) for row in out[:, width:]]


def _recompute(
    model: Hooked, encoded: list[Encoding], batch: Batch, max_new_tokens: int, draw: Any, stop: list[str]
) -> list[Reply]:
    """Row by row, each token from a whole pass: where the cache of the model, or its batches, can't be relied on."""
    if model.rows > 1:
        raise UnsupportedError(
            f"{support.architecture(model)} ({model.name}) writes each text by itself, not in {model.rows} rows: "
            f"steer with one direction at a time. {support.verdict(model, 'generate with cache').why}"
        )
    ends = model.hf_model.generation_config.eos_token_id
    ends, replies_ = [ends] if isinstance(ends, int) else ends or [], []
    for row, encoding in enumerate(encoded):
        written: list[int] = []
        while len(written) < max_new_tokens and not set(ends) & set(written[-1:]):
            whole_ = pad([[*encoding.ids, *written]]).to(model.device)
            length = len(encoding.ids) + max_new_tokens
            now = Pass((0,), (len(encoding.ids),), batch.turns[row : row + 1], (length,), only=row)
            with model.stopping(model.n_layers - 1) as run:
                scores = model.unembed(run(whole_, now)[:, -1])
            written.append(int((draw(whole_.ids, scores) if draw else scores).argmax()))
            if any(mark in model.tokenizer.decode(written[-32:]) for mark in stop):
                break
        replies_.append(_reply(model, torch.tensor(written), ends))
    return replies_


def _generate_row(model: Hooked, ids: Tensor, max_new_tokens: int, sampling: dict[str, Any]) -> Reply:
    # TransformerLens's own `generate` takes no mask for ids, so rows of different length go one by one.
    out = model.bridge.generate(
        ids[None],
        max_new_tokens,
        prepend_bos=False,
        verbose=False,
        eos_token_id=model.tokenizer.eos_token_id,
        **sampling,
    )
    return _reply(model, out[0, len(ids) :], [model.tokenizer.eos_token_id])


def _reply(model: Hooked, ids: Tensor, ends: Sequence[int]) -> Reply:
    return Reply(model.tokenizer.decode(ids, skip_special_tokens=True), not set(ends).isdisjoint(ids.tolist()))
