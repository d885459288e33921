"""`stream`: the scores of each token while a text is written, under the steering in force."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from emolens.models.generation import Drawn, Sampling, Writing
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Text
from emolens.reading.read import Readout
from emolens.steering.steer import steer as steering_of
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.watching.monitor import Alarm, Monitor, Place, Track, places
from emolens.watching.watch import Watch, Watchable

OnAlarm = str | Callable[[Alarm], Any]


@dataclass(frozen=True)
class Step:
    """A token that was written, and what was read at it.

    Attributes:
        row: of the batch.
        token: its id; `rank` is its place in the text, the prompt counted.
        piece: the characters that became whole with it; "" while a character or a stop string may still be unfinished.
        text: the reply so far.
        scores: by name, at this token, of the activation that the next token is made from.
        log_prob: of the token under the model, in nats, before temperature and nucleus.
        alarms: of a monitor, at this token; the first step has those of the prompt as well.

    Example:
        >>> step = next(el.stream(model, "she ran", vectors, "calm", max_new_tokens=3))
        >>> step.row, step.rank, list(step.scores), step.log_prob < 0, step.alarms
        (0, 2, ['calm'], True, ())
    """

    row: int
    token: int
    rank: int
    piece: str
    text: str
    scores: Mapping[str, float]
    log_prob: float
    alarms: tuple[Alarm, ...] = ()


class Stream(Iterator[Step]):
    """Steps of a text that is being written; see `stream`.

    Between two steps no hook is on the model and no steering is in force, so that it may be left at any time and the
    model be used for something else. `readout()` has the scores of all tokens so far, those of the prompt among them.

    Example:
        >>> running = el.stream(model, "she ran", vectors, ["calm", "sad"], max_new_tokens=3)
        >>> [step.rank for step in running], running.readout().scores.shape, running.replies()[0].ended
        ([2, 3, 4], torch.Size([5, 2]), False)
    """

    def __init__(
        self,
        model: HookedModel,
        texts: Text | Sequence[Text],
        watch: Watch,
        monitor: Monitor | None,
        steer: Direction | Sequence[Direction | None] | None,
        on_alarm: OnAlarm | None,
        sampling: Sampling,
    ) -> None:
        watch.check_model(model)
        self.watch, self.on_alarm = watch, on_alarm
        self._steered: AbstractContextManager[Any] = nullcontext()
        if steer is not None:
            self._steered = steering_of(model, steer).again()
        with model.lock, self._steered:
            self.writing = Writing(model, texts, sampling, {watch.layer: watch})
        self.tracks = [Track(monitor) for _ in range(self.writing.rows)] if monitor else []
        self._due: deque[Step] = deque()
        self._released = [""] * self.writing.rows
        self._stopped = False

    def __next__(self) -> Step:
        if not self._due and not self._stopped:
            self._advance()
        if not self._due:
            raise StopIteration
        step = self._due.popleft()
        for alarm in step.alarms:
            if self.on_alarm == "stop" or (callable(self.on_alarm) and self.on_alarm(alarm) == "stop"):
                self.close()
        return step

    def close(self) -> None:
        """Write no more.

        Example:
            >>> running = el.stream(model, "she ran", vectors, "calm")
            >>> first = next(running)
            >>> running.close()
            >>> list(running)
            []
        """
        self._stopped = True
        self._due.clear()

    def readout(self) -> Readout:
        """The scores of every token so far, of the prompts and of what was written; `text_index` is the row.

        Example:
            >>> el.stream(model, "she ran", vectors, "calm").readout()  # before the first step
            Traceback (most recent call last):
            ValueError: nothing was written yet: take a step first
        """
        if not any(self.writing.written):
            raise ValueError("nothing was written yet: take a step first")
        return self.watch.readout(self.writing)

    def replies(self) -> list[Any]:
        """What was written in each row, and whether it ended by itself.

        Example:
            >>> len(el.stream(model, "she ran", vectors, "calm").replies())
            1
        """
        return [self.writing.reply(row) for row in range(self.writing.rows)]

    def _advance(self) -> None:
        """Draw the next token of each row and read it."""
        writing = self.writing
        with writing.model.lock, self._steered:  # so that no other thread's pass meets the steering
            first = not any(writing.written)
            if first:
                writing.run()
            drawn = [each for each in writing.draw() if each.token not in writing.ends]
            writing.run()
        earlier = {row: self._alarms_of_prompt(row) for row in range(writing.rows)} if first and self.tracks else {}
        for each in drawn:
            scores = writing.last(self.watch.layer, each.row)
            self._due.append(self._step(each, scores, earlier.get(each.row, [])))

    def _step(self, drawn: Drawn, scores: torch.Tensor, alarms: list[Alarm]) -> Step:
        writing, row = self.writing, drawn.row
        encoding = writing.encoded[row]
        rank = len(encoding.ids) + len(writing.written[row]) - 1
        before, text = self._released[row], writing.whole_text(row)
        self._released[row] = text
        piece = text[len(before) :]
        if self.tracks:
            turn, role = (len(encoding.turns), "assistant") if encoding.turns else (None, "")
            roles = self.tracks[row].monitor.roles
            at = [Place(rank, turn, role, piece)] if roles is None or not role or role in roles else []
            alarms = [*alarms, *self.tracks[row].follow(scores[None][: len(at)], at)[1]]
        named = dict(zip(self.watch.names, scores.tolist(), strict=True))
        return Step(row, drawn.token, rank, piece, text, named, drawn.log_prob, tuple(alarms))

    def _alarms_of_prompt(self, row: int) -> list[Alarm]:
        writing, track = self.writing, self.tracks[row]
        encoding: Encoding = writing.encoded[row]
        at = places(encoding, writing.model.token_strings(encoding), track.monitor.roles)
        scores = writing.seen(self.watch.layer, row)
        return track.follow(scores[[place.rank for place in at]], at)[1]


def resolved(vectors: Any, watch: Watchable) -> tuple[Watch, Monitor | None]:
    """What is watched, and by which monitor if by one, where either argument may be a `Watch` or a `Monitor`.

    Example:
        >>> ready, by = resolved(vectors, ["calm"])
        >>> ready.names, by, resolved(monitor, None)[1] is monitor
        (('calm',), None, True)
    """
    for given in (watch, vectors):
        if isinstance(given, Monitor):
            return given.watched, given
        if isinstance(given, Watch):
            return given, None
    if not isinstance(vectors, EmotionVectors):
        raise TypeError(f"vectors={vectors!r}: give the model's EmotionVectors, an el.Watch or an el.Monitor")
    return Watch.of(vectors, watch), None


def stream(
    model: HookedModel,
    texts: Text | Sequence[Text],
    vectors: EmotionVectors | Watch | Monitor,
    watch: Watchable = None,
    steer: Direction | Sequence[Direction | None] | None = None,
    on_alarm: OnAlarm | None = None,
    **sampling: Any,
) -> Stream:
    """Write a text token by token, with what is read at each token under the steering in force.

    A step is about one token of one row; the rows of a batch take turns. Reading the finished text in one pass gives
    the same scores. Leaving the loop leaves nothing on the model.

    Args:
        texts: one text or conversation, or several, each a row; one under several directions is written in a row each.
        watch: emotions, directions or probes, read as `el.read` does by default; default all emotions of the vectors.
            An `el.Watch`, given here or in the place of the vectors, says itself where and how; a `Monitor` too, and
            its alarms come with the steps.
        steer: what the text is written under, `0.05 * vectors["desperate"]` or a list of such. A steering that is
            open outside counts as well.
        on_alarm: "stop", or a function that is called with each `Alarm` and may return "stop". What it raises ends
            the loop.
        sampling: `max_new_tokens`, `temperature`, `top_p`, `seed`, `stop` of `model.generate`, which writes the same.

    Raises:
        ValueError: what `model.generate`, `el.steer` and `el.Watch.of` raise; vectors of another model; an `on_alarm`
            without a monitor.

    Example:
        >>> text = ""
        >>> for step in el.stream(model, "she ran", vectors, ["calm"], 0.1 * vectors["calm"], max_new_tokens=4):
        ...     text += step.piece
        >>> with el.steer(model, 0.1 * vectors["calm"]):
        ...     text == model.generate("she ran", max_new_tokens=4)
        True
    """
    ready, monitor = resolved(vectors, watch)
    if monitor is None and on_alarm is not None:
        raise ValueError("on_alarm is called at a monitor's alarms: give an el.Monitor as what is watched")
    if on_alarm is not None and on_alarm != "stop" and not callable(on_alarm):
        raise ValueError(f"on_alarm={on_alarm!r}: give 'stop', or a function that takes an alarm")
    unknown = set(sampling) - set(Sampling._fields)
    if unknown:
        raise TypeError(f"stream has no option {sorted(unknown)[0]!r}; there are {', '.join(Sampling._fields)}")
    return Stream(model, texts, ready, monitor, steer, on_alarm, Sampling(**sampling))
