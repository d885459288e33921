"""Generation, token by token: what the rows of a batch have in common is run once."""

import inspect
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
import transformer_lens
from jaxtyping import Float, Int
from torch import Tensor

from emolens.errors import TooLongError, UnsupportedError
from emolens.models import support
from emolens.models.batching import Batch, Pass, pad, per_text, whole
from emolens.models.conversations import PLAIN_ROLES
from emolens.models.hooked import Hook, Hooked
from emolens.models.log_probs import SharedPrompt
from emolens.models.texts import Encoding, Text, gate

CACHES = ("past_key_values", "cache_params", "state")  # what transformers calls a model's memory, by family
Project = Callable[[Float[Tensor, "row pos d_model"]], Float[Tensor, "row pos score"]]


class Reply(NamedTuple):
    """What was written, and whether it ended by itself or at a stop string rather than at `max_new_tokens`.

    Example:
        >>> replies(model, "she ran", max_new_tokens=4)[0].ended
        False
    """

    text: str
    ended: bool


def write(model: Hooked, texts: Text | Sequence[Text], sampling: "Sampling", watch: Any = None) -> Any:
    """`HookedModel.generate`.

    Example:
        >>> four = Sampling(4)
        >>> type(write(model, "she ran", four)), len(write(model, ["she ran", "he was calm"], four))
        (<class 'str'>, 2)
    """
    given = gate(texts)
    if watch is not None:
        if not hasattr(watch, "readout"):
            raise TypeError(f"watch={watch!r}: give an el.Watch, such as el.Watch.of(vectors, ['calm'])")
        writing = Writing(model, given.texts, sampling, {watch.layer: watch})
        writing.run()
        while writing.open:
            writing.draw()
            writing.run()
        return watch.readout(writing)
    written = [reply.text for reply in replies(model, given.texts, *sampling)]
    return written[0] if given.one and model.rows == 1 else written


def replies(model: Hooked, texts: Text | Sequence[Text], *options: Any, **more: Any) -> list[Reply]:
    """`HookedModel.generate` of one text or several, always as a list, with whether each was cut off.

    Args:
        options: those of `Sampling`.

    Raises:
        ValueError: as `HookedModel.generate`.

    Example:
        >>> [len(reply) for reply in replies(model, ["she ran", "he was calm"], max_new_tokens=4)]
        [2, 2]
    """
    writing = Writing(model, texts, Sampling(*options, **more))
    while writing.open:
        writing.run()
        writing.draw()
    return [writing.reply(row) for row in range(writing.rows)]


class Sampling(NamedTuple):
    """How a text is written; see `HookedModel.generate`.

    Example:
        >>> Sampling(20, temperature=0).checked().marks
        []
        >>> Sampling(20, top_p=0).checked()
        Traceback (most recent call last):
        ValueError: top_p=0: give a number above 0, up to 1
    """

    max_new_tokens: int = 60
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int | Sequence[int] = 0
    stop: str | Sequence[str] = ()

    @property
    def marks(self) -> list[str]:
        """The stop strings, as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    def checked(self) -> "Sampling":
        """The same, where every value is what it is meant to be. Raises ValueError otherwise, by name."""
        whole("max_new_tokens", self.max_new_tokens)
        given: Any = self.seed
        for seed in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
            if isinstance(seed, bool) or not isinstance(seed, Integral):
                raise ValueError(f"seed={given!r}: give an integer, or a list of them, one for each row")
        name: str
        value: Any
        for name, value, most in (("temperature", self.temperature, math.inf), ("top_p", self.top_p, 1)):
            real = isinstance(value, Real) and not isinstance(value, bool)
            if not (real and math.isfinite(value) and 0 <= value <= most and (value > 0 or name == "temperature")):
                limits = "0 (greedy) or more" if name == "temperature" else "a number above 0, up to 1"
                raise ValueError(f"{name}={value!r}: give {limits}")
        mark: Any
        for number, mark in enumerate(self.marks):
            if not isinstance(mark, str) or not mark:
                raise ValueError(f"stop string {number} is {mark!r}: give strings that are not empty")
        return self


class Nucleus:
    """Draws the next token of each row from the fewest most likely ones that hold `top_p` of the probability.

    Sorting the whole vocabulary for that at each step would, for a batch of a hundred rows, take longer than a small
    model; here the most likely ones are enough, and rows in which they don't hold `top_p` are sorted.

    Example:
        >>> Nucleus(temperature=1.0, top_p=0.5)(torch.tensor([[4.0, 0.0, 0.0]]))  # the first token alone holds half
        tensor([0])
    """

    def __init__(self, temperature: float, top_p: float, seed: int | Sequence[int] = 0, first: int = 1024) -> None:
        self.temperature, self.top_p, self.seed, self.first = temperature, top_p, seed, first
        self.random: torch.Generator | None = None
        several = seed if isinstance(seed, Sequence) else ()
        self.alone = [Nucleus(temperature, top_p, one, first) for one in several]

    def __call__(self, scores: Float[Tensor, "row vocab"]) -> Int[Tensor, "row"]:
        if self.alone:
            return torch.cat([draw(row[None]) for draw, row in zip(self.alone, scores, strict=True)])
        if self.random is None:
            seed: Any = self.seed
            self.random = torch.Generator(scores.device).manual_seed(int(seed))
        logits = scores.float() / self.temperature
        total = logits.logsumexp(dim=-1, keepdim=True)
        best, token = logits.topk(min(self.first, scores.shape[1]), dim=-1)
        p = (best - total).exp()
        drawn = self._draw(p, token)
        flat = p.sum(dim=-1) < min(self.top_p, 1 - 1e-6)
        if flat.any():
            best, token = logits[flat].sort(dim=-1, descending=True)
            drawn[flat] = self._draw((best - total[flat]).exp(), token)
        return drawn[:, 0]

    def _draw(self, p: Float[Tensor, "row likely"], token: Int[Tensor, "row likely"]) -> Int[Tensor, "row 1"]:
        inside = p.masked_fill((p.cumsum(dim=-1) - p) >= self.top_p, 0)
        return token.gather(1, torch.multinomial(inside, 1, generator=self.random))


class Drawn(NamedTuple):
    """A token that was drawn in a row, with its log-probability under the model (before temperature and nucleus).

    Example:
        >>> Drawn(0, 5, -1.0).token
        5
    """

    row: int
    token: int
    log_prob: float


class Writing:
    """A generation that goes on token by token: `run` passes over what is new, `draw` draws the next tokens.

    Hooks are on the model only while `run` runs, so that a writing may be left at any time, and the model used for
    something else in between.

    Args:
        watch: for some blocks what is kept of their outputs, such as scores; see `seen`.

    Example:
        >>> writing = Writing(model, "she ran", Sampling(2), {3: lambda x: x.norm(dim=-1, keepdim=True)})
        >>> while writing.open:
        ...     writing.run()
        ...     drawn = writing.draw()
        >>> writing.run()  # over the token that was drawn last
        >>> writing.seen(3, row=0).shape  # two tokens of the prompt, two that were written
        torch.Size([4, 1])
    """

    def __init__(
        self,
        model: Hooked,
        texts: Text | Sequence[Text],
        sampling: Sampling,
        watch: Mapping[int, Project] | None = None,
    ) -> None:
        self.model, self.sampling, self.marks = model, sampling.checked(), list(sampling.marks)
        encoded = model.encode_all(texts)
        if not model.tokenizer.chat_template and any(encoding.turns for encoding in encoded):
            self.marks.append(f"\n{PLAIN_ROLES['user']}:")
        longest, new = max(len(encoding.ids) for encoding in encoded), sampling.max_new_tokens
        if longest + new > model.n_ctx:
            raise TooLongError(
                f"a prompt of {longest} tokens leaves room for {model.n_ctx - longest} new ones in the context of "
                f"{model.name} ({model.n_ctx}), not for {new}; shorten it or lower max_new_tokens"
            )
        if len(encoded) == 1:
            encoded = encoded * model.rows
        if model.rows > 1 and len(encoded) != model.rows:
            raise ValueError(f"{len(encoded)} texts can't be steered in {model.rows} rows: give one, or as many")
        self.encoded, self.batch, self.rows = encoded, model.batch(encoded, "left"), len(encoded)
        seed = sampling.seed
        if isinstance(seed, Sequence) and len(seed) != self.rows:
            raise ValueError(f"{len(seed)} seeds for {self.rows} rows: give one for each, or one for all")
        self.written: list[list[int]] = [[] for _ in encoded]
        self.ended = [False] * self.rows
        self.draws = Nucleus(sampling.temperature, sampling.top_p, seed) if sampling.temperature else None
        self.ends = _end_tokens(model)
        self.watch = dict(watch or {})
        self._seen: dict[int, list[list[Tensor]]] = {layer: [[] for _ in encoded] for layer in self.watch}
        watching: list[Hook] = [((layer, "resid_post"), self._keeper(layer)) for layer in self.watch]
        self._watching = model.hooks(watching)
        self.fresh = list(range(self.rows))  # rows whose last tokens have not been run
        self._broken = False  # whether a pass began and did not end
        self._skip = 0  # columns at the beginning of a pass that were seen in an earlier one
        self._pass, self.logits = self._engine(), torch.empty(0)

    @property
    def open(self) -> list[int]:
        """The rows in which more is to be written."""
        most = self.sampling.max_new_tokens
        return [row for row in range(self.rows) if not self.ended[row] and len(self.written[row]) < most]

    def run(self) -> None:
        """A pass over the prompts, and after that over the tokens that were drawn last, if any were."""
        if not self.fresh:
            return
        if self._broken:
            raise RuntimeError("this text was interrupted in the middle of a pass and can't go on: begin it again")
        self._broken = True
        with self.model.lock, torch.no_grad(), self._watching:
            self.logits = self._pass(self)
        self._broken = False

    def draw(self) -> list[Drawn]:
        """The next token of each row that is still open, after the pass over what stands before it."""
        scores, still = self.logits.float(), set(self.open)
        token = (self.draws(scores) if self.draws else scores.argmax(dim=-1)).tolist()
        given = scores[range(self.rows), token] - scores.logsumexp(dim=-1)
        drawn = [Drawn(row, token[row], value) for row, value in enumerate(given.tolist()) if row in still]
        self.fresh = [each.row for each in drawn if each.token not in self.ends]
        for row, id_, _ in drawn:
            self.written[row].append(id_)
            end = self.model.tokenizer.decode(self.written[row][-32:]) if self.marks else ""
            self.ended[row] = id_ in self.ends or any(mark in end for mark in self.marks)
        return drawn

    def reply(self, row: int) -> Reply:
        """What stands in a row so far: cut at a stop string, without the token that ends it."""
        text = self.model.tokenizer.decode(self.written[row], skip_special_tokens=True)
        for mark in self.marks:
            text = text.split(mark)[0]
        return Reply(text, self.ended[row])

    def whole_text(self, row: int) -> str:
        """`reply` as far as it won't change: without half a character or what may be the beginning of a stop string.

        Example:
            >>> writing = Writing(model, "she ran", Sampling(2, temperature=0, stop=["ran !"]))
            >>> writing.run()
            >>> writing.whole_text(0)
            ''
        """
        text = self.reply(row).text
        if row not in self.open:
            return text
        text = text.rstrip("\ufffd")
        unsure = (n for mark in self.marks for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n]))
        return text[: len(text) - max(unsure, default=0)]

    def last(self, layer: int, row: int) -> Float[Tensor, "score"]:
        """What `watch` kept of the last token of a row."""
        return self._seen[layer][row][-1][-1]

    def seen(self, layer: int, row: int) -> Float[Tensor, "pos score"]:
        """What `watch` kept of the tokens of a row that have been run, those of the prompt first."""
        return torch.cat(self._seen[layer][row])

    def _keeper(self, layer: int) -> Callable[..., None]:
        """The hook that keeps what `watch` makes of the new tokens of a pass."""
        # A writing that holds itself would hold its keys and values until the next collection of cycles.
        writing: Writing = weakref.proxy(self)

        def keep(x: Tensor, hook: Any) -> None:
            now = writing.model.passing or Pass.of(writing.batch)
            values = writing.watch[layer](x.detach()[:, writing._skip :])
            for row in writing.fresh if now.only is None else [now.only]:
                one = values[min(row, len(values) - 1)]  # what rows have in common is run in one of them
                if not writing.written[row]:  # a prompt, which may have padding before it
                    one = one[max(0, now.first[min(row, len(now.first) - 1)] - now.start) :]
                if not one.isfinite().all():
                    raise writing.model.not_finite(row, layer)
                writing._seen[layer][row].append(one)

        return keep

    def _engine(self) -> "Callable[[Writing], Tensor]":
        """How this model takes the next pass of a writing: from its cache where that can be relied on."""
        if self.model.hf_model is None:
            own = getattr(transformer_lens, "HookedTransformerKeyValueCache", None)  # of TransformerLens 2 and 3
            return self._passes_with(own) if own else Writing._whole_passes
        if support.works(self.model, "generate with cache"):
            return self._cached_passes()
        if self.model.rows > 1:
            raise UnsupportedError(
                f"{support.architecture(self.model)} ({self.model.name}) writes each text by itself, not in "
                f"{self.model.rows} rows: steer with one direction at a time. "
                f"{support.verdict(self.model, 'generate with cache').why}"
            )
        return Writing._whole_passes

    def _cached_passes(self) -> "Callable[[Writing], Tensor]":
        """All rows at once, of which those that have ended are filled up."""
        cached = Cached(self.model, self.encoded, self.batch, self.sampling.max_new_tokens)

        def run(writing: Writing) -> Float[Tensor, "row vocab"]:
            if not any(writing.written):
                return cached()
            ids = torch.full((writing.rows, 1), writing.model.pad_token_id, device=writing.model.device)
            for row in writing.fresh:
                ids[row] = writing.written[row][-1]
            return cached(ids)

        return run

    def _whole_passes(self) -> Float[Tensor, "row vocab"]:
        """Each open row by itself, from its first token: where the model's cache or its batches can't be relied on."""
        last: dict[int, Tensor] = {}
        with self.model.stopping(self.model.n_layers - 1) as run:
            for row in self.fresh:
                prompt, new = self.encoded[row].ids, self.written[row]
                self._skip = len(prompt) + len(new) - 1 if new else 0
                resid = run(pad([[*prompt, *new]]).to(self.model.device), self._pass_of(row, 0))
                last[row] = self.model.unembed(resid[:, -1])[0]
        self._skip = 0
        return self._of_rows(last)

    def _passes_with(self, kind: Any) -> "Callable[[Writing], Tensor]":
        """Each open row by itself, with TransformerLens's cache, which takes no mask for rows of different length."""
        model = self.model
        caches = [kind.init_cache(model.bridge.cfg, model.device, 1) for _ in self.written]

        def run(writing: Writing) -> Float[Tensor, "row vocab"]:
            last: dict[int, Tensor] = {}
            for row in writing.fresh:
                prompt, new = writing.encoded[row].ids, writing.written[row][-1:]
                start = len(prompt) + len(writing.written[row]) - 1 if new else 0
                with model.passes(writing._pass_of(row, start)):
                    ids = torch.tensor([new or prompt], device=model.device)
                    last[row] = model.bridge(ids, past_kv_cache=caches[row])[0, -1]
            return writing._of_rows(last)

        return run

    def _of_rows(self, last: Mapping[int, Float[Tensor, "vocab"]]) -> Float[Tensor, "row vocab"]:
        """Logits by row; those of a row that has ended are never looked at."""
        some = next(iter(last.values()))
        return torch.stack([last.get(row, torch.zeros_like(some)) for row in range(self.rows)])

    def _pass_of(self, row: int, start: int) -> Pass:
        """The pass over one row by itself."""
        n = len(self.encoded[row].ids)
        turns, length = self.batch.turns[row : row + 1], (n + self.sampling.max_new_tokens,)
        return Pass((0,), (n,), turns, length, start=start, only=row)


class Cached:
    """Passes over all rows at once with the keys and values, or the state, that transformers keeps of what was run.

    Example:
        >>> encoded = model.encode_all(["she ran", "he was calm"])
        >>> cached = Cached(model, encoded, model.batch(encoded, "left"), new=2)
        >>> logits = cached()  # over the prompts
        >>> cached(logits.argmax(dim=-1, keepdim=True)).shape
        torch.Size([2, 80])
    """

    def __init__(self, model: Hooked, encoded: Sequence[Encoding], batch: Batch, new: int) -> None:
        self.model, self.encoded, self.batch, self.mask = model, encoded, batch, batch.mask.long()
        self.memory: dict[str, Any] = {}
        self.known = set(inspect.signature(model.hf_model.forward).parameters)
        now = Pass.of(batch)
        self.now = replace(now, length=tuple(n + new for n in now.length))

    def __call__(self, ids: Int[Tensor, "row 1"] | None = None) -> Float[Tensor, "row vocab"]:
        if ids is None:
            ids = self.batch.ids[:, self._share() :]
        else:
            self.mask = torch.cat([self.mask, torch.ones_like(ids, dtype=self.mask.dtype)], dim=1)
        width, new = self.mask.shape[1], ids.shape[1]
        # Keys and values are masked by all that stands before; a state is asked about the new tokens alone.
        mask = self.mask if not self.memory or "past_key_values" in self.memory else self.mask[:, -new:]
        inputs: dict[str, Any] = {"attention_mask": mask, "use_cache": True, **self.memory}
        if "position_ids" in self.known:
            inputs["position_ids"] = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new:]
        if "logits_to_keep" in self.known:
            inputs["logits_to_keep"] = 1
        with self.model.passes(replace(self.now, start=width - new)):
            out = self.model.hf_model(ids, **inputs)
        self.memory = {name: out[name] for name in CACHES if out.get(name) is not None}
        return out.logits[:, -1]

    def _share(self) -> int:
        """Run once what all rows have in common; how many columns that are."""
        rows, width = self.mask.shape
        alike = all(a.ids == b.ids for a, b in pairwise(self.encoded))
        if rows < 2 or width < 2 or not alike or any(per_text(one.where) for one in self.model.steering):
            return 0
        shared = SharedPrompt(self.model, self.encoded[0])
        if shared.cache is None:
            return 0
        self.memory = {"past_key_values": shared.cache_for(rows)}
        return width - 1


def _end_tokens(model: Hooked) -> set[int]:
    """The tokens at which a text ends."""
    own = model.hf_model
    ends = model.tokenizer.eos_token_id if own is None else own.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())
