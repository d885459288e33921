"""The model provider `emolens`: concurrent samples are rows of one generation, each under a steering of its own."""

import queue
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    Model,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
    modelapi,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from emolens.errors import TooLongError, did_you_mean
from emolens.evals.doses import Dose, direction_of, doses_of
from emolens.models.generation import Drawn, Sampling, Writing
from emolens.models.loading import load
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Message, Turn
from emolens.steering.dose_response import Doses
from emolens.steering.steer import Where, steer
from emolens.vectors.derive import derive
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors, packaged_vectors
from emolens.watching.monitor import Monitor, Track, places
from emolens.watching.watch import Watch, Watchable

ROWS = 32  # of one generation; each holds the keys and values of its own conversation
WAIT = 0.05  # seconds without a new request after which those that wait are written
TOKENS = 256
KEPT = 8  # names whose scores are kept for each token; of more, only what was read before the reply
Steer = Mapping[str, float] | Direction | None


class Request(NamedTuple):
    """A reply that is asked for.

    >>> Request(model.encode("she ran"), Sampling(4), None).top
    0
    """

    encoding: Encoding
    sampling: Sampling
    direction: Direction | None  # with its coefficient
    top: int = 0  # alternatives to each token whose log-probability is asked for, too


@dataclass
class Written:
    """A reply, its tokens with their log-probabilities, and what was read of it.

    >>> Written("she ran", True, []).ended
    True
    """

    text: str
    ended: bool
    tokens: list[Drawn]
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    read: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Instrument:
    """What acts on a model and what reads it while it writes; the arguments of the provider.

    Attributes:
        vectors: default those that ship with the package, else derived: an `EmotionVectors`, or a file.
        steer: what each reply is written under unless it asks for something else: coefficients of emotions, such as
            {"desperate": 0.05}, or a `Direction`.
        ablate: emotions that are taken out of every reply.
        layers, where: of `el.steer`, for all of these.
        watch: emotions, or what else `el.Watch.of` takes; their scores come with each reply, just before it and, of up
            to eight, at each of its tokens.
        monitor: a `Monitor`, or its file; its alarms come with each reply.
        doses: what a sample's `dose` is a cell of, where it is not said by the task.

    >>> Instrument(vectors, {"calm": 0.1}).steering({"calm": 0.2}).name
    '0.2*calm'
    """

    vectors: EmotionVectors | None = None
    steer: Steer = None
    ablate: Sequence[str] = ()
    layers: int | Sequence[int] | None = None
    where: Where = "all"
    watch: Watch | None = None
    monitor: Monitor | None = None
    doses: Doses | None = None

    @classmethod
    def of(cls, model: HookedModel, given: Mapping[str, Any]) -> "Instrument":
        """From the arguments of a model in Inspect, which may be names and files.

        Raises:
            ValueError: an emotion without a vector; vectors or a monitor of another model.

        >>> Instrument.of(model, {"vectors": vectors, "watch": "calm"}).watch.names
        ('calm',)
        """
        own = dict(given)
        steered = own.get("steer")
        if steered is not None and not isinstance(steered, (Direction, Mapping)):
            raise ValueError(f"steer={steered!r}: give coefficients of emotions, such as {{'desperate': 0.05}}")
        needed = {"steer", "ablate", "watch", "vectors", "doses"} & {key for key, value in own.items() if value}
        if needed:
            own["vectors"] = vectors = _vectors(model, own.get("vectors"))
            vectors.check_model(model)
        else:  # a task or a call may ask for a steering later
            with suppress(ValueError):
                own["vectors"] = packaged_vectors(model)
        if isinstance(own.get("monitor"), (str, Path)):
            own["monitor"] = Monitor.load(own["monitor"], model, own.get("vectors"))
        if own.get("monitor"):
            own["monitor"].watched.check_model(model)
        watch: Watchable = own.get("watch")
        if watch is not None and not isinstance(watch, Watch):
            own["watch"] = Watch.of(own["vectors"], watch)
        own["ablate"] = [own["ablate"]] if isinstance(own.get("ablate"), str) else list(own.get("ablate") or ())
        instrument = cls(**own)
        instrument.steering(instrument.steer)
        return instrument

    def steering(self, wanted: Steer) -> Direction | None:
        """A direction with its coefficient. Raises ValueError for an emotion without a vector, or no vectors."""
        if wanted is None or isinstance(wanted, Direction):
            return wanted
        if not wanted:
            raise ValueError("steer is empty: give coefficients of emotions, such as {'desperate': 0.05}")
        first, *others = [float(much) * self._known()[name] for name, much in wanted.items()]
        return sum(others, first)

    def _known(self) -> EmotionVectors:
        if self.vectors is None:
            raise ValueError("what steers needs the model's vectors: give the provider vectors=..., such as a file")
        return self.vectors

    @property
    def read_at(self) -> dict[int, Watch]:
        """What is read while a reply is written, by block."""
        found = [each for each in (self.watch, self.monitor.watched if self.monitor else None) if each]
        if len({each.layer for each in found}) < len(found):
            raise ValueError(f"watch and monitor both read block {found[0].layer}: give one of them, or other blocks")
        return {each.layer: each for each in found}


def _vectors(model: HookedModel, given: Any) -> EmotionVectors:
    if isinstance(given, (str, Path)):
        return EmotionVectors.load(given)
    if given is not None:
        return given
    try:
        return packaged_vectors(model)
    except ValueError:
        return derive(model)


class Writer:
    """A thread that writes what is asked for: requests that wait together are rows of one generation.

    A row is written as it would be alone: by its own seed, under its own steering. Where rows fail together, each is
    tried by itself, so that none is lost to another.

    >>> writer = Writer(model, Instrument())
    >>> request = Request(model.encode("she ran"), Sampling(4, seed=3), None)
    >>> writer.ask(request).result().text == model.generate("she ran", 4, seed=3)
    True
    >>> writer.close()
    """

    def __init__(self, model: HookedModel, instrument: Instrument, rows: int = ROWS) -> None:
        self.model, self.instrument, self.rows = model, instrument, rows
        self.waiting: queue.SimpleQueue[tuple[Request, Future[Written]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="emolens writer", daemon=True).start()

    def ask(self, request: Request) -> "Future[Written]":
        """The reply, once it is written."""
        future: Future[Written] = Future()
        self.waiting.put((request, future))
        return future

    def close(self) -> None:
        """End the thread."""
        self.waiting.put(None)

    def _serve(self) -> None:
        while (first := self.waiting.get()) is not None:
            batch = [first]
            try:
                while len(batch) < self.rows:
                    if (another := self.waiting.get(timeout=WAIT)) is None:
                        self.waiting.put(None)
                        break
                    batch.append(another)
            except queue.Empty:
                pass
            alive = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            for _, alike in groupby(sorted(alive, key=_kind), _kind):
                self._answer(list(alike))

    def _answer(self, batch: Sequence[tuple[Request, Future[Written]]]) -> None:
        try:
            written = self.write([request for request, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:
                self._answer([one])
            return
        for (_, future), reply in zip(batch, written, strict=True):
            future.set_result(reply)

    def write(self, requests: Sequence[Request]) -> list[Written]:
        """Replies to requests that differ in text, seed and steering alone."""
        with self.model.lock, ExitStack() as stack:
            directions = [request.direction for request in requests]
            place: dict[str, Any] = {"layers": self.instrument.layers, "where": self.instrument.where}
            if any(one is not None for one in directions):
                stack.enter_context(steer(self.model, directions, **place))
            for name in self.instrument.ablate:
                stack.enter_context(steer(self.model, self.instrument._known()[name], mode="ablate", **place))
            return self.written(requests)

    def written(self, requests: Sequence[Request]) -> list[Written]:
        """`write`, under the steering that is in force."""
        watched = self.instrument.read_at
        seeds: Any = [request.sampling.seed for request in requests]
        sampling = requests[0].sampling._replace(seed=seeds)
        writing = Writing(self.model, [request.encoding for request in requests], sampling, watched)
        found = [Written("", False, []) for _ in requests]
        top = max(request.top for request in requests)
        while writing.open:
            writing.run()
            best = writing.logits.float().log_softmax(dim=-1).topk(top) if top else None
            for drawn in writing.draw():
                found[drawn.row].tokens.append(drawn)
                if best is not None:
                    pairs = zip(best.indices[drawn.row].tolist(), best.values[drawn.row].tolist(), strict=True)
                    found[drawn.row].top.append(list(pairs))
        if watched:
            writing.run()  # over the last tokens
        for row, one in enumerate(found):
            one.text, one.ended = writing.reply(row)
            one.read = self._read(writing, row)
        return found

    def _read(self, writing: Writing, row: int) -> dict[str, Any]:
        """Scores of what is watched just before the reply and, of few names, at its tokens; the alarms of a monitor."""
        encoding = writing.encoded[row]
        before, read = len(encoding.ids), dict[str, Any]()
        if watch := self.instrument.watch:
            scores = writing.seen(watch.layer, row)
            read["before"] = dict(zip(watch.names, scores[before - 1].tolist(), strict=True))
            if len(watch.names) <= KEPT:
                read["tokens"] = self.model.token_strings([*encoding.ids, *writing.written[row]])[before : len(scores)]
                read["scores"] = {name: scores[before:, n].tolist() for n, name in enumerate(watch.names)}
        if monitor := self.instrument.monitor:
            scores = writing.seen(monitor.watched.layer, row)
            ids = [*encoding.ids, *writing.written[row]][: len(scores)]
            turns = [*encoding.turns, *([Turn("assistant", before, len(ids))] if encoding.turns else [])]
            at = places(Encoding(ids, turns), self.model.token_strings(ids), monitor.roles)
            alarms = Track(monitor).follow(scores[[place.rank for place in at]], at)[1]
            read["alarms"] = [alarm._asdict() | {"in_reply": alarm.token >= before} for alarm in alarms]
        return read


def _kind(one: tuple[Request, Any]) -> tuple[Any, ...]:
    """What the rows of a generation have in common."""
    new, temperature, top_p, _, stop = one[0].sampling
    return new, temperature, top_p, tuple(stop)


class EmolensAPI(ModelAPI):
    """A model of emolens in Inspect: `get_model("emolens/smollm2-135m-instruct", steer={"desperate": 0.05})`.

    Its arguments are those of `Instrument`, `rows` (how many samples are written together at most), `hooked` (a model
    that is loaded already) and those of `el.load`. A call may ask for a steering of its own, by
    `extra_body={"steer": {"calm": 0.1}}` or, for a cell of a dose-response, `{"dose": ...}` (see `doses.Dose`).

    Without a temperature, a top-p or a limit of tokens they are 0.8, 0.95 and 256; without a seed one is drawn, which
    the output's metadata names, beside what was watched. Tools, images and several choices are refused.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (what Inspect calls it with)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        own = {name: model_args.pop(name) for name in Instrument.__dataclass_fields__ if name in model_args}
        hooked, rows = model_args.pop("hooked", None), model_args.pop("rows", ROWS)
        if hooked is not None and model_args:
            known = ["hooked", "rows", *Instrument.__dataclass_fields__]
            name = next(iter(model_args))
            raise ValueError(f"{name!r} is no argument of a model that is loaded{did_you_mean(name, known)}")
        self.hooked: HookedModel = load(model_name, **model_args) if hooked is None else hooked
        # Else Inspect would load the model a second time, to ask for the size of its context.
        set_model_info(f"emolens/{model_name}", ModelInfo(context_length=self.hooked.n_ctx))
        self.rows, self.instrument = rows, Instrument.of(self.hooked, own)
        self.writer = Writer(self.hooked, self.instrument, rows)
        self._doses: dict[str, Doses] = {}
        self._making = threading.Lock()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """A reply, written together with those that are asked for at the same time."""
        if tools:
            raise ValueError(f"{self.model_name} is asked without tools here; {tools[0].name!r} was given")
        if (config.num_choices or 1) > 1:
            raise ValueError(f"num_choices={config.num_choices}: ask several times, or set epochs")
        began = time.monotonic()
        request = await _in_thread(lambda: self._request([_message(one) for one in input], config))
        if request is None:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        future = self.writer.ask(request)
        try:
            written = await _in_thread(future.result)
        finally:
            future.cancel()
        return self._output(request, written, config, time.monotonic() - began)

    def _request(self, messages: list[Message], config: GenerateConfig) -> Request | None:
        """None where the prompt leaves no room for a reply."""
        try:
            encoding = self.hooked.encode(messages)
        except TooLongError:
            return None
        room = self.hooked.n_ctx - len(encoding.ids)
        if room < 1:
            return None
        seed = config.seed if config.seed is not None else secrets.randbelow(1 << 31)
        temperature = 0.8 if config.temperature is None else config.temperature
        top_p = 0.95 if config.top_p is None else config.top_p
        new = min(config.max_tokens or TOKENS, room)
        sampling = Sampling(new, temperature, top_p, seed, tuple(config.stop_seqs or ())).checked()
        asked = config.extra_body or {}
        if unknown := set(asked) - {"steer", "dose"}:
            raise ValueError(f"extra_body has {min(unknown)!r}; an emolens model knows steer and dose")
        top = (config.top_logprobs or 0) if config.logprobs else 0
        if "dose" in asked:
            return Request(encoding, sampling, self._cell(Dose(**asked["dose"])), top)
        wanted = asked.get("steer", self.instrument.steer)
        return Request(encoding, sampling, self.instrument.steering(wanted), top)

    def _cell(self, dose: Dose) -> Direction | None:
        """The direction of a cell, with its strength as the coefficient."""
        if not dose.strength:
            return None
        with self._making:
            doses = self.instrument.doses
            if doses is None:
                doses = self._doses.get(dose.plan)
            if doses is None:
                doses = self._doses[dose.plan] = doses_of(self.hooked, self.instrument._known(), dose)
        return dose.strength * direction_of(doses, dose)

    def _output(self, request: Request, written: Written, config: GenerateConfig, seconds: float) -> ModelOutput:
        message = ChatMessageAssistant(content=written.text, model=self.model_name, source="generate")
        reason: Any = "stop" if written.ended else "max_tokens"
        if not written.ended and request.sampling.max_new_tokens < (config.max_tokens or TOKENS):
            reason = "model_length"
        log_probs = self._log_probs(written, request.top) if config.logprobs else None
        new, old = len(written.tokens), len(request.encoding.ids)
        name = request.direction.name if request.direction else "unsteered"
        metadata = {"seed": request.sampling.seed, "steering": name} | written.read
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=reason, logprobs=log_probs)],
            usage=ModelUsage(input_tokens=old, output_tokens=new, total_tokens=old + new),
            time=seconds,
            metadata=metadata,
        )

    def _log_probs(self, written: Written, top: int) -> Logprobs:
        def said(token: int) -> dict[str, Any]:
            text = self.hooked.tokenizer.decode([token])
            return {"token": text, "bytes": list(text.encode())}

        alternatives = written.top or [[] for _ in written.tokens]
        return Logprobs(
            content=[
                Logprob(
                    **said(drawn.token),
                    logprob=drawn.log_prob,
                    top_logprobs=[TopLogprob(**said(token), logprob=value) for token, value in best] if top else None,
                )
                for drawn, best in zip(written.tokens, alternatives, strict=True)
            ]
        )

    def max_tokens(self) -> int | None:
        """Of a reply, where nobody says."""
        return TOKENS

    def max_connections(self) -> int:
        """How many samples are asked for at once."""
        return self.rows

    def collapse_user_messages(self) -> bool:
        """Chat templates take one message after the other from each side."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """See `collapse_user_messages`."""
        return True

    async def count_text_tokens(self, text: str) -> int:
        """By the model's own tokenizer."""
        return len(self.hooked.tokenizer(text, add_special_tokens=False).input_ids)

    def should_retry(self, ex: BaseException) -> bool:
        """What fails here would fail again."""
        return False

    def close(self) -> None:
        """End the thread that writes."""
        self.writer.close()


@modelapi(name="emolens")
def emolens() -> type[ModelAPI]:
    """How Inspect finds the provider.

    >>> emolens().__name__
    'EmolensAPI'
    """
    return EmolensAPI


async def _in_thread(function: Any) -> Any:
    """Wait in a thread of one's own, so that as many may wait as there are rows."""
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


def _message(message: ChatMessage) -> Message:
    if not isinstance(message.content, str) and any(part.type != "text" for part in message.content):
        other = next(part.type for part in message.content if part.type != "text")
        raise ValueError(f"the {message.role}'s message holds {other}: an emolens model reads text alone")
    return {"role": message.role, "content": message.text}


def as_inspect(model: HookedModel, vectors: EmotionVectors | None = None, **options: Any) -> Model:
    """A model that is loaded already, as a model of Inspect.

    Args:
        options: of `Instrument`, `rows`, and `config`, a `GenerateConfig`.

    >>> as_inspect(model, vectors, steer={"calm": 0.1}).name
    'tiny-llama'
    """
    return get_model(f"emolens/{model.name}", memoize=False, hooked=model, vectors=vectors, **options)
