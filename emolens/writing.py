"""Generation, and log-probabilities of given continuations: what the rows have in common is run once."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.batching import Batch, Pass, pad, plan
from emolens.encoding import PLAIN_ROLES, Encoding, Text, as_list, is_chat, is_one
from emolens.model import HookedModel
from emolens.steer import per_text

LOGITS_AT_ONCE = 2**26  # entries of the largest matrix of logits that is held


class SharedPrompt:
    """A prompt of which the keys and values are computed once, for all that may follow it.

    `run` gives the outputs of the last block at the prompt's last token and at the continuation's. Under a
    steering of several rows the blocks below the lowest steered one run once, those above once for each row.

    Args:
        prompt: how many tokens count as the prompt, where what follows is in part prompt as well; default all.
        anywhere: use it under another steering than it was made in, which then acts on what follows alone.
    """

    def __init__(
        self, model: HookedModel, encoding: Encoding, prompt: int | None = None, anywhere: bool = False
    ) -> None:
        self.model, self.encoding, self.anywhere = model, encoding, anywhere
        self.prompt, self.made_under = prompt or len(encoding.ids), list(model.steering)
        self.cache: Any = None
        if model.hf_model is not None and len(encoding.ids) > 1:
            *ids, _ = encoding.ids
            now = self._pass(1, 0, fills_cache=True)
            with torch.no_grad(), model.passes(now):
                ids_ = torch.tensor([ids], device=model.device)
                self.cache = model.hf_model(ids_, use_cache=True, logits_to_keep=1).past_key_values

    def _pass(self, rows: int, start: int, **options: Any) -> Pass:
        return Pass((0,) * rows, (self.prompt,) * rows, (self.encoding.turns,) * rows, start=start, **options)

    def cache_for(self, rows: int, rows_above: int | None = None) -> Any:
        """The cache for a batch of `rows`, and of `rows_above` where a steering of several rows has fanned them out."""
        steered = [steering for steering in self.model.steering if steering.rows > 1]
        fans_out_at = min((min(steering.layers) for steering in steered), default=self.model.n_layers)
        cache = copy.copy(self.cache)
        cache.layers = [
            _widened(layer, rows if number <= fans_out_at else rows_above or rows)
            for number, layer in enumerate(self.cache.layers)
        ]
        return cache

    def run(self, continuations: Sequence[Sequence[int]]) -> list[Float[Tensor, "row pos d_model"]]:
        """Last residuals at the prompt's last token and at all but the last of each continuation's, for each row.

        Continuations that differ in their last token alone are run once.
        """
        model, (*before, last) = self.model, self.encoding.ids
        if not self.anywhere and self.made_under != model.steering:
            raise ValueError("this prompt was run under another steering: share it in the context that it is used in")
        inputs = [(last, *tokens[:-1]) for tokens in continuations]
        distinct = list(dict.fromkeys(inputs))
        at_once = [[number] for number in range(len(distinct))]
        if model.rows == 1:
            at_once = plan([len(tokens) for tokens in distinct])
        out: dict[tuple[int, ...], Tensor] = {}
        with model.stopping(model.n_layers - 1) as run:
            for numbers in at_once:
                rows = [distinct[number] for number in numbers]
                length = tuple(len(before) + len(row) + 1 for row in rows)
                if self.cache is None:
                    whole = pad([[*before, *row] for row in rows], "right", model.pad_token_id).to(model.device)
                    resid = run(whole, self._pass(len(rows), 0, length=length))[:, len(before) :]
                else:
                    # No mask is needed: the padding is on the right, where no token looks.
                    batch = pad(rows, "right", model.pad_token_id).to(model.device)
                    cache = self.cache_for(len(rows), max(len(rows), model.rows))
                    resid = run(batch, self._pass(len(rows), len(before), length=length), cache)
                resid = resid.expand(max(len(resid), model.rows), -1, -1)
                for row, tokens in enumerate(rows):
                    kept = resid if model.rows > 1 else resid[row : row + 1]
                    out[tokens] = kept[:, : len(tokens)]
        return [out[tokens] for tokens in inputs]


def _widened(layer: Any, rows: int) -> Any:
    """A copy of a cache layer for `rows` rows; the original stays as it is, for the next continuation."""
    layer = copy.copy(layer)
    if layer.keys.shape[0] != rows:
        layer.keys, layer.values = (x.expand(rows, -1, -1, -1) for x in (layer.keys, layer.values))
    return layer


def continuation_ids(model: HookedModel, prompt: Text, continuation: str) -> list[int]:
    """Token ids of `continuation` as they stand after a prompt.

    Raises:
        ValueError: an empty continuation, or one that joins with the end of a plain prompt to another token.
    """
    if not isinstance(prompt, str):
        ids = model.tokenizer(continuation, add_special_tokens=False).input_ids
    else:
        before, whole = model.encode(prompt).ids, model.encode(prompt + continuation).ids
        if whole[: len(before)] != before:
            raise ValueError(
                f"{continuation!r} joins with the end of {prompt[-20:]!r} to other tokens; "
                f"put the space that stands between them at the beginning of the continuation"
            )
        ids = whole[len(before) :]
    if not ids:
        raise ValueError(f"the continuation {continuation!r} is empty: it has no log-probability")
    return ids


def log_probs(
    model: HookedModel,
    prompt: Text | SharedPrompt,
    continuations: Sequence[str] | Sequence[Sequence[int]],
    per_token: bool = False,
) -> Float[Tensor, "row continuation"]:
    """Log-probability of each whole continuation after the prompt, in nats, for each row of the steering.

    Args:
        continuations: texts, or token ids as they are.
        per_token: the mean over the continuation's tokens instead of their sum.
    """
    if isinstance(continuations, str) or not len(continuations):
        raise ValueError(f"give a list of continuations, not {continuations!r}")
    shared = prompt if isinstance(prompt, SharedPrompt) else SharedPrompt(model, model.encode(prompt))
    tokens = [
        continuation_ids(model, prompt, one) if isinstance(one, str) else list(one)  # type: ignore[arg-type]
        for one in continuations
    ]
    if not all(tokens):
        raise ValueError(f"continuation {tokens.index([])} is empty: it has no log-probability")
    longest = len(shared.encoding.ids) + max(map(len, tokens))
    if longest > model.n_ctx:
        raise ValueError(
            f"prompt and continuation have {longest} tokens, more than the context of {model.name} ({model.n_ctx})"
        )
    out = []
    for ids, resid in zip(tokens, shared.run(tokens), strict=True):
        size = max(1, LOGITS_AT_ONCE // model.bridge.cfg.d_vocab)
        total = [model.unembed(x).float().logsumexp(dim=1) for x in resid.reshape(-1, model.d_model).split(size)]
        # The token's own logit is not rounded to the model's dtype, in which a quarter of a nat may be the next number.
        places = torch.arange(len(ids), device=resid.device)
        own = model.token_logits(resid, torch.tensor(ids, device=resid.device))[:, places, places]
        each = (own - torch.cat(total).view(len(resid), len(ids))).cpu()
        out.append(each.mean(dim=1) if per_token else each.sum(dim=1))
    return torch.stack(out, dim=1)


class Reply(NamedTuple):
    """What was written, and whether it ended by itself or at a stop string rather than at `max_new_tokens`."""

    text: str
    ended: bool


def write(model: HookedModel, texts: Text | Sequence[Text], *options: Any) -> Any:
    """`HookedModel.generate`."""
    written = [reply.text for reply in replies(model, texts, *options)]
    return written[0] if is_one(texts) and model.rows == 1 else written


def replies(
    model: HookedModel,
    texts: Text | Sequence[Text],
    max_new_tokens: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[Reply]:
    """`HookedModel.generate` of one text or several, always as a list, with whether each was cut off."""
    encoded, stop = model.encode_all(texts), list(stop)
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature={temperature}, top_p={top_p}: give 0 or more, and above 0 to 1")
    if not model.tokenizer.chat_template and any(is_chat(text) for text in as_list(texts)):
        stop.append(f"\n{PLAIN_ROLES['user']}:")
    longest = max(len(encoding.ids) for encoding in encoded)
    if longest + max_new_tokens > model.n_ctx:
        raise ValueError(
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
            written = _generate(model, encoded, batch, max_new_tokens, draw, stop)
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


class Nucleus:
    """Draws the next token of each row from the fewest most likely ones that hold `top_p` of the probability.

    transformers sorts the whole vocabulary for that, at each step, which for a batch of a hundred rows takes longer
    than a small model; here the most likely ones are enough, and rows in which they don't hold `top_p` are sorted.
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
    model: HookedModel, encoded: list[Encoding], batch: Batch, max_new_tokens: int, draw: Any, stop: list[str]
) -> list[Reply]:
    width, rows, options = batch.ids.shape[1], len(encoded), {}
    now = Pass.of(batch)
    now = replace(now, length=tuple(n + max_new_tokens for n in now.length))
    alike = all(a.ids == b.ids for a, b in pairwise(encoded))
    if rows > 1 and width > 1 and alike and not any(per_text(one.where) for one in model.steering):
        options["past_key_values"] = SharedPrompt(model, encoded[0]).cache_for(rows)
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


def _generate_row(model: HookedModel, ids: Tensor, max_new_tokens: int, sampling: dict[str, Any]) -> Reply:
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


def _reply(model: HookedModel, ids: Tensor, ends: Sequence[int]) -> Reply:
    return Reply(model.tokenizer.decode(ids, skip_special_tokens=True), not set(ends).isdisjoint(ids.tolist()))
