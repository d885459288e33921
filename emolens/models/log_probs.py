"""Log-probabilities of given continuations: what the rows have in common is run once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.errors import TooLongError
from emolens.models import support
from emolens.models.batching import Pass, pad, plan
from emolens.models.hooked import Columns, Hooked, Runner
from emolens.models.texts import Encoding, Text, gate, is_chat

LOGITS_AT_ONCE = 2**24  # entries of the largest matrix of logits that is held
GRADIENT_TOKENS = 512  # of a batch whose activations are kept for the way back


class SharedPrompt:
    """A prompt of which the keys and values are computed once, for all that may follow it.

    `run` gives the outputs of the last block at the prompt's last token and at the continuation's. Under a
    steering of several rows the blocks below the lowest steered one run once, those above once for each row.

    Args:
        prompt: how many tokens count as the prompt, where what follows is in part prompt as well; default all.
        anywhere: use it under another steering than it was made in, which then acts on what follows alone.

    Example:
        >>> shared = SharedPrompt(model, model.encode("she ran and"))
        >>> [resid.shape for resid in shared.run([[5, 7], [9]])]
        [torch.Size([1, 2, 32]), torch.Size([1, 1, 32])]
    """

    def __init__(self, model: Hooked, encoding: Encoding, prompt: int | None = None, anywhere: bool = False) -> None:
        self.model, self.encoding, self.anywhere = model, encoding, anywhere
        self.prompt, self.made_under = prompt or len(encoding.ids), list(model.steering)
        self.cache: Any = None
        if model.hf_model is not None and len(encoding.ids) > 1 and support.works(model, "shared prompt"):
            *ids, _ = encoding.ids
            now = self._pass(1, 0, fills_cache=True)
            with torch.no_grad(), model.passes(now):
                ids_ = torch.tensor([ids], device=model.device)
                cache = model.hf_model(ids_, use_cache=True, logits_to_keep=1).past_key_values
            self.cache = cache if _is_plain(cache, model.n_layers) else None

    def _pass(self, rows: int, start: int, **options: Any) -> Pass:
        return Pass((0,) * rows, (self.prompt,) * rows, (self.encoding.turns,) * rows, start=start, **options)

    def cache_for(self, rows: int, rows_above: int | None = None) -> Any:
        """The cache for a batch of `rows`, and of `rows_above` where a steering of several rows has fanned them out.

        Example:
            >>> SharedPrompt(model, model.encode("she ran and")).cache_for(4).layers[0].keys.shape[0]
            4
        """
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
        model, inputs = self.model, [self.input(tokens) for tokens in continuations]
        distinct = list(dict.fromkeys(inputs))
        at_once = [[number] for number in range(len(distinct))]
        if model.rows == 1 and len(distinct) > 1 and support.works(model, "several rows"):
            at_once = plan([len(tokens) for tokens in distinct])
        out: dict[tuple[int, ...], Tensor] = {}
        with model.stopping(model.n_layers - 1) as run:
            for numbers in at_once:
                rows = [distinct[number] for number in numbers]
                resid = self.after(run, rows)
                resid = resid.expand(max(len(resid), model.rows), -1, -1)
                for row, tokens in enumerate(rows):
                    kept = resid if model.rows > 1 else resid[row : row + 1]
                    out[tokens] = kept[:, : len(tokens)]
        return [out[tokens] for tokens in inputs]

    def input(self, continuation: Sequence[int]) -> tuple[int, ...]:
        """What is run to score a continuation: the prompt's last token and all of the continuation but its last.

        Example:
            >>> SharedPrompt(model, model.encode([4, 5, 6])).input([7, 8, 9])
            (6, 7, 8)
        """
        return self.encoding.ids[-1], *continuation[:-1]

    def after(self, run: Runner, rows: Sequence[Sequence[int]]) -> Float[Tensor, "row pos d_model"]:
        """`run` (see `Hooked.stopping`) of rows of `input`, after the rest of the prompt.

        Raises:
            ValueError: another steering than the prompt was run under.

        Example:
            >>> shared = SharedPrompt(model, model.encode("she ran and"))
            >>> with model.stopping(3) as run:
            ...     shared.after(run, [shared.input([5, 7])]).shape
            torch.Size([1, 2, 32])
        """
        if not self.anywhere and self.made_under != self.model.steering:
            raise ValueError("this prompt was run under another steering: share it in the context that it is used in")
        model, before = self.model, self.encoding.ids[:-1]
        length = tuple(len(before) + len(row) + 1 for row in rows)
        if self.cache is None:
            whole = pad([[*before, *row] for row in rows], "right", model.pad_token_id).to(model.device)
            return run(whole, self._pass(len(rows), 0, length=length))[:, len(before) :]
        # No mask is needed: the padding is on the right, where no token looks.
        batch = pad(rows, "right", model.pad_token_id).to(model.device)
        cache = self.cache_for(len(rows), max(len(rows), model.rows))
        return run(batch, self._pass(len(rows), len(before), length=length), cache)


def _is_plain(cache: Any, blocks: int) -> bool:
    """Whether a cache holds keys and values for every block, and nothing else."""
    layers = getattr(cache, "layers", ())
    parts = [getattr(layer, part, None) for layer in layers for part in ("keys", "values")]
    return len(layers) == blocks and all(isinstance(part, Tensor) and part.ndim == 4 for part in parts)


def _widened(layer: Any, rows: int) -> Any:
    """A copy of a cache layer for `rows` rows; the original stays as it is, for the next continuation."""
    layer = copy.copy(layer)
    if layer.keys.shape[0] != rows:
        layer.keys, layer.values = (x.expand(rows, -1, -1, -1) for x in (layer.keys, layer.values))
    return layer


def token_ids(model: Hooked, text: str) -> list[int]:
    """Token ids of a text that follows something else: nothing is put before it.

    Example:
        >>> token_ids(model, " calm") == model.encode("calm").ids
        True
    """
    return model.tokenizer(text, add_special_tokens=False).input_ids


def continuation_ids(model: Hooked, prompt: Text, continuation: str) -> list[int]:
    """Token ids of `continuation` as they stand after a prompt.

    Raises:
        ValueError: an empty continuation, or one that joins with the end of a plain prompt to another token.

    Example:
        >>> continuation_ids(model, "she was", " calm") == token_ids(model, " calm")
        True
    """
    if not isinstance(prompt, str):
        ids = token_ids(model, continuation)
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
    model: Hooked,
    prompt: Text | SharedPrompt,
    continuations: Text | Sequence[Text],
    per_token: bool = False,
) -> Float[Tensor, "row continuation"]:
    """Log-probability of each whole continuation after the prompt, in nats, for each row of the steering.

    Args:
        continuations: texts, or token ids as they are.
        per_token: the mean over the continuation's tokens instead of their sum.

    Raises:
        ValueError: no prompt, or a continuation that is empty or no text, by number; more tokens than the context.

    Example:
        >>> el.log_probs(model, "she was", [" calm", " very angry"]).shape
        torch.Size([1, 2])
    """
    tokens = _continuations(model, prompt, continuations)
    support.require(model, "log-probabilities")
    shared = prompt if isinstance(prompt, SharedPrompt) else SharedPrompt(model, model.encode(prompt))
    longest = len(shared.encoding.ids) + max(map(len, tokens))
    if longest > model.n_ctx:
        raise TooLongError(
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


def _continuations(model: Hooked, prompt: Text | SharedPrompt, continuations: Text | Sequence[Text]) -> list[list[int]]:
    """The token ids of each continuation."""
    try:
        given = gate(continuations)
    except ValueError as error:
        raise ValueError(f"give a list of continuations: {str(error).replace('text', 'continuation', 1)}") from error
    if given.one:
        raise ValueError(f"give a list of continuations, not {continuations!r}")
    found = []
    for number, one in enumerate(given.texts):
        if is_chat(one):
            raise ValueError(f"continuation {number} is a conversation: give the reply alone, as a str")
        try:
            ids = continuation_ids(model, prompt, one) if isinstance(one, str) else model.encode(one).ids if one else []
        except ValueError as error:
            raise ValueError(f"continuation {number}: {error}") from error
        if not ids:
            raise ValueError(f"continuation {number} is empty: it has no log-probability")
        found.append(ids)
    return found


@torch.enable_grad()
def gradients(
    model: Hooked, prompt: SharedPrompt, continuations: Sequence[Sequence[int]], layer: int | Sequence[int]
) -> tuple[Float[Tensor, "continuation"], Float[Tensor, "continuation *layer d_model"]]:
    """Log-probability per token of each continuation, and its gradient by what is added to the output of a block.

    What is added is the same at all of the continuation's tokens, as `steer(..., where="generation")` adds it. The
    product with any direction is the slope of the log-probability at strength 0: one backward pass for all directions.
    Several blocks cost the pass of the lowest one; the gradient of each is that of adding to it alone.

    Example:
        >>> shared = SharedPrompt(model, model.encode("she was"), anywhere=True)
        >>> value, slope = gradients(model, shared, [token_ids(model, " calm")], layer=2)
        >>> value.shape, slope.shape
        (torch.Size([1]), torch.Size([1, 32]))
    """
    model.require_one_row("gradients, which scores many continuations at once,")
    support.require(model, "gradients")
    layers = [layer] if isinstance(layer, int) else list(layer)
    found, slope = torch.empty(len(continuations)), torch.empty(len(continuations), len(layers), model.d_model)
    budget = GRADIENT_TOKENS if len(continuations) < 2 or support.works(model, "several rows") else 1
    for numbers in plan([len(tokens) for tokens in continuations], budget):
        tokens = [continuations[number] for number in numbers]
        added = torch.zeros(len(tokens), len(layers), model.d_model, device=model.device, requires_grad=True)

        reply = torch.tensor([[[prompt.prompt, model.n_ctx + 1]]], device=model.device).expand(len(tokens), 1, 2)
        hooks = [((block, "resid_post"), adding(model, added[:, row, None], reply)) for row, block in enumerate(layers)]
        with model.stopping(model.n_layers - 1, hooks, grad=True) as run:
            resid = prompt.after(run, [prompt.input(ids) for ids in tokens])
        rows = torch.tensor([row for row, ids in enumerate(tokens) for _ in ids], device=resid.device)
        places = torch.tensor([place for ids in tokens for place in range(len(ids))], device=resid.device)
        value, outer = _gradient_of_last(model, resid[rows, places], torch.tensor([i for ids in tokens for i in ids]))
        (inner,) = torch.autograd.grad(resid[rows, places], added, outer)
        length = torch.tensor([len(ids) for ids in tokens])
        found[numbers] = torch.zeros(len(tokens)).index_add(0, rows.cpu(), value) / length
        slope[numbers] = inner.float().cpu() / length[:, None, None]
    return found, slope[:, 0] if isinstance(layer, int) else slope


def adding(
    model: Hooked, added: Float[Tensor, "text place d_model"], spans: Int[Tensor, "text place 2"]
) -> Callable[[Tensor, Any], Tensor]:
    """A hook that adds a vector at the tokens of each place, a span of ranks [start, end) in its text.

    Example:
        >>> hook = adding(model, torch.ones(1, 1, 32), torch.tensor([[[2, 4]]]))
        >>> callable(hook)
        True
    """
    columns = Columns(model)

    def act(x: Tensor, hook: Any) -> Tensor:
        _, column = columns.next(x.shape[1])
        rank = torch.arange(column, column + x.shape[1], device=x.device)
        own, here = added.to(x.device), spans.to(x.device)
        inside = (here[..., :1] <= rank) & (rank < here[..., 1:])
        return x + torch.einsum("tkd,tkp->tpd", own, inside.to(own.dtype)).to(x.dtype)

    return act


def _gradient_of_last(
    model: Hooked, resid: Float[Tensor, "pos d_model"], targets: Int[Tensor, "pos"]
) -> tuple[Float[Tensor, "pos"], Float[Tensor, "pos d_model"]]:
    """Log-probability of each target after a last residual, and its gradient by it, a slice at a time."""
    values, outer = [], []
    for x, own in zip(resid.detach().split(128), targets.to(resid.device).split(128), strict=True):
        x = x.requires_grad_()
        value = -torch.nn.functional.cross_entropy(model.unembed(x).float(), own, reduction="none")
        outer.append(torch.autograd.grad(value.sum(), x)[0])
        values.append(value.detach().cpu())
    return torch.cat(values), torch.cat(outer)
