"""`Widget`: a reply in a notebook while it is written, with its scores, under a steering that sliders set."""

import base64
import io
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emolens.errors import did_you_mean, finite_number
from emolens.models.generation import Sampling
from emolens.models.model import HookedModel
from emolens.models.texts import Text, is_chat
from emolens.plots.heatmap import BLUE, HTML, RED, STRONGEST
from emolens.plots.watching import Row, Written, strokes, written_figure, written_page
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.watching.monitor import Monitor
from emolens.watching.stream import Step, Stream, resolved, stream
from emolens.watching.watch import Watch, Watchable

MOST = 6  # lines that can be told apart
LARGEST = 0.2  # strength on the slider
PAUSE = 0.02  # seconds: steps that are due within it travel together


def _anywidget() -> Any:
    try:
        from anywidget import AnyWidget

        return AnyWidget
    except ImportError:
        return object


Base: Any = _anywidget()  # without anywidget the class can be named, not made


class Widget(Base):
    """A reply while it is written: lines over the tokens, the text in colour, sliders for what it is steered with.

    In a notebook the last line of a cell shows it. Start writes in a thread, so that other cells and Stop work
    meanwhile. Passes of several threads on one model take turns; a steering that another cell holds open is an error.

    Attributes:
        controls: what the sliders and fields are set to; `set` sets them from Python.
        steps: what was written last, each an `el.stream` step.
        error: what went wrong in the last run, or None.

    Args:
        vectors: what is watched and steered with; a `Monitor` or an `el.Watch` in its place watches what it says.
        prompt: a text, or a conversation, which is shown and cannot be edited.
        watch: up to six emotions, directions or probes, or a `Monitor`: its alarm line is drawn and its alarms marked.
        steer: an emotion or a direction without a coefficient; default the first that is watched. `0.05 *
            vectors["desperate"]` sets the strength too.
        strength: from -0.2 to 0.2, in mean residual norms; 0 steers nothing.
        options: `seed`, `max_new_tokens`, `temperature` of `model.generate`; `side_by_side`, whether the unsteered
            reply is written beside the steered one (default True); `chat`, whether a prompt is sent as a message
            (default where the model has a chat template) or continued as a text; `colour`, what colours the text.

    Raises:
        ImportError: without anywidget.
        ValueError: nothing or more than six to watch, an unknown emotion, a strength out of range, an option that is
            not what it is meant to be; vectors of another model.

    Example:
        >>> widget = el.Widget(model, vectors, "she ran", ["calm", "sad"], "calm", 0.1, max_new_tokens=4)
        >>> widget.run()
        Widget(tiny-llama, watching calm, sad; 8 tokens written)
        >>> sorted({step.row for step in widget.steps}), widget.error
        ([0, 1], None)
        >>> el.Widget(model, vectors, "she ran", "clam")
        Traceback (most recent call last):
        ValueError: no vector for the emotion 'clam' (did you mean calm?)
    """

    about: dict[str, Any]
    controls: dict[str, Any]
    error: Exception | None
    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")

    def __init__(
        self,
        model: HookedModel,
        vectors: EmotionVectors | Watch | Monitor,
        prompt: Text = "",
        watch: Watchable = None,
        steer: str | Direction | None = None,
        strength: float = 0.0,
        **options: Any,
    ) -> None:
        if Base is object:
            raise ImportError('el.Widget needs anywidget: pip install "emolens[notebooks]"')
        from traitlets import Dict

        self.model, self.steps, self.error = model, list[Step](), None
        self.watched, self.monitor = _drawn(vectors, watch)
        self.watched.check_model(model)
        self._vectors = vectors if isinstance(vectors, EmotionVectors) else self.watched.vectors
        self._conversation = list(prompt) if is_chat(prompt) else None
        self._directions: dict[str, Direction] = {}
        self._data: list[dict[str, Any]] = []  # the steps as the page has them, with the heights of a monitor
        self._unsent, self._rows, self._limit = 0, list[str](), 0
        self._lock, self._stop, self._thread = threading.RLock(), threading.Event(), threading.Thread()
        name, strength = self._steering_of(steer, strength)
        controls: dict[str, Any] = {
            "prompt": "" if self._conversation else prompt, "steer": name, "strength": strength,
            "side_by_side": True, "chat": bool(model.tokenizer.chat_template), "colour": self.watched.names[0],
            "max_new_tokens": 120, "temperature": Sampling().temperature, "seed": 0,
        }  # fmt: skip
        self._known = tuple(controls)
        controls = self._checked({**controls, **options})
        self.add_traits(about=Dict().tag(sync=True), controls=Dict().tag(sync=True))
        super().__init__(about=self._about(), controls=controls)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        written = f"{len(self.steps)} tokens written" + (f"; failed: {self.error}" if self.error else "")
        return f"Widget({self.model.name}, watching {', '.join(self.watched.names)}; {written})"

    @property
    def running(self) -> bool:
        """Whether a reply is being written in the thread.

        Example:
            >>> el.Widget(model, vectors, "she ran", "calm").running
            False
        """
        return self._thread.is_alive()

    def set(self, **controls: Any) -> "Widget":
        """Set sliders and fields, as in `el.Widget`: `prompt`, `steer` (a name), `strength`, `seed`, and so on.

        Example:
            >>> widget = el.Widget(model, vectors, "she ran", "calm").set(strength=0.1, seed=3)
            >>> widget.controls["strength"], widget.controls["steer"]
            (0.1, 'calm')
        """
        self.controls = self._checked({**self.controls, **controls})
        return self

    def run(self) -> "Widget":
        """Write here and now, without a thread; what goes wrong is raised.

        Example:
            >>> el.Widget(model, vectors, "she ran", "calm", max_new_tokens=3).run().steps[-1].rank
            4
        """
        if self._refused():
            raise RuntimeError("the widget is writing already: stop it first")
        self._stop.clear()
        self._write()
        if self.error:
            raise self.error
        return self

    def start(self) -> "Widget":
        """Write in a thread, as the button does; while it is writing nothing is started.

        Example:
            >>> widget = el.Widget(model, vectors, "she ran", "calm", max_new_tokens=3).start()
            >>> len(widget.wait().steps)
            3
        """
        with self._lock:
            if not self._refused():
                self._stop.clear()
                self._thread = threading.Thread(target=self._write, name="el.Widget", daemon=True)
                self._thread.start()
        return self

    def stop(self) -> "Widget":
        """Write no more after the token at hand.

        Example:
            >>> el.Widget(model, vectors, "she ran", "calm").start().stop().wait().running
            False
        """
        self._stop.set()
        return self

    def wait(self, seconds: float | None = None) -> "Widget":
        """Wait for the thread to end.

        Example:
            >>> el.Widget(model, vectors, "she ran", "calm", max_new_tokens=3).start().wait().running
            False
        """
        if self.running and threading.current_thread() is not self._thread:
            self._thread.join(seconds)
        return self

    def close(self) -> None:
        """Stop, and take the widget off the page.

        Example:
            >>> widget = el.Widget(model, vectors, "she ran", "calm").start()
            >>> widget.close()
            >>> widget.running
            False
        """
        if hasattr(self, "_stop"):  # false where the arguments were refused
            self.stop().wait(30)
        super().close()

    def html(self) -> HTML:
        """The last run as a static page, to show where no kernel runs.

        Example:
            >>> el.Widget(model, vectors, "she ran", "calm", max_new_tokens=3).run().html()
            <HTML 'tiny-llama, written and watched'; .save(path) writes it as a page>
        """
        return written_page(self._written())

    def save(self, path: str | Path) -> Path:
        """Write the last run as a page of its own.

        Example:
            >>> el.Widget(model, vectors, "she ran", "calm", max_new_tokens=3).run().save("run.html").name
            'run.html'
        """
        return self.html().save(path)

    def figure(self) -> Any:
        """The last run as a figure of matplotlib's.

        Example:
            >>> widget = el.Widget(model, vectors, "she ran", "calm", max_new_tokens=3).run()
            >>> el.plots.save(widget.figure(), "run.png").name
            'run.png'
        """
        return written_figure(self._written())

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and the last run as a static page and a picture, for where there is no kernel."""
        data, metadata = super()._repr_mimebundle_(**kwargs)
        data["text/html"] = self.html().markup
        if self.steps:
            from matplotlib import pyplot as plt

            with warnings.catch_warnings(action="ignore"):  # of signs that no font has: the page shows them
                figure, buffer = self.figure(), io.BytesIO()
                figure.savefig(buffer, format="png", bbox_inches="tight")
            plt.close(figure)
            data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
        return data, metadata

    # --- what the page knows and says ---

    def _about(self) -> dict[str, Any]:
        """What does not change: names, colours, and what is known of the monitor."""
        centres = self.monitor.scale.mean.tolist() if self.monitor else [0.0] * len(self.watched.names)
        return {
            "model": self.model.name,
            "how": _how(self.watched, self.monitor),
            "names": list(self.watched.names),
            "centres": centres,
            "choices": [*self._directions, *self._vectors.emotions],
            "threshold": self.monitor.threshold if self.monitor else None,
            "turns": [[str(turn["role"]), str(turn["content"])] for turn in self._conversation or []],
            "strokes": strokes(),
            "red": RED,
            "blue": BLUE,
            "strongest": STRONGEST,
            "largest": LARGEST,
        }

    def _receive(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        """A message of the page."""
        kind = content.get("kind")
        if isinstance(content.get("controls"), Mapping):
            self.controls = {**self.controls, **content["controls"]}
        if kind == "start":
            self.start()
        elif kind == "stop":
            self.stop()
        elif kind == "hello":
            with self._lock:
                state = self._state(self.running)
                self.send({"kind": "all", "rows": self._rows, "limit": self._limit, "steps": self._data, **state})
                self._unsent = len(self._data)
        elif kind == "page":
            self.send({"kind": "page", "name": f"{self.model.name}.html".replace("/", "-"), "html": self.html().page})

    def _state(self, running: bool, said: str = "") -> dict[str, Any]:
        return {"running": running, "said": said, "error": str(self.error) if self.error else ""}

    def _refused(self) -> bool:
        """Whether a reply is being written; then the page says so."""
        if self.running:
            self.send({"kind": "state", **self._state(True, "It is writing already: stop it first.")})
        return self.running

    # --- writing ---

    def _write(self) -> None:
        """Write a reply with the controls as they are; errors are kept and shown."""
        self.error = None
        try:
            controls = self._checked(self.controls)
            steering = self._steering(controls)
            with self._lock:
                self.steps, self._data, self._unsent = [], [], 0
                self._rows = [each.name if each else "unsteered" for each in steering or [None]]
                self._limit = controls["max_new_tokens"]
                self.send({"kind": "begin", "rows": self._rows, "limit": self._limit, **self._state(True)})
            sampling = {name: controls[name] for name in ("max_new_tokens", "temperature", "seed")}
            seen: Any = self.monitor or self.watched
            running = stream(self.model, self._text(controls), seen, steer=steering, **sampling)
            for step in running:
                self._take(running, step)
                if self._stop.is_set():
                    break
        except Exception as error:
            self.error = error
        with self._lock:
            self._send_steps()
            said = "Stopped." if self._stop.is_set() else "Done."
            self._stop.clear()
            self.send({"kind": "state", **self._state(False, "" if self.error else said)})

    def _take(self, running: Stream, step: Step) -> None:
        """Keep a step, and send it with others that are due soon."""
        data: dict[str, Any] = {"row": step.row, "rank": step.rank, "piece": step.piece, "log_prob": step.log_prob}
        data |= {"scores": list(step.scores.values()), "heights": None}
        data["alarms"] = [[alarm.token, alarm.text, alarm.name, alarm.height] for alarm in step.alarms]
        if self.monitor:
            data["heights"] = (running.tracks[step.row].average / self.monitor.scale.spread).tolist()
        with self._lock:
            self.steps.append(step)
            self._data.append(data)
            if len(self._data) == self._unsent + 1:
                timer = threading.Timer(PAUSE, self._send_steps)
                timer.daemon = True
                timer.start()

    def _send_steps(self) -> None:
        with self._lock:
            if due := self._data[self._unsent :]:
                self.send({"kind": "steps", "from": self._unsent, "steps": due})
                self._unsent = len(self._data)

    def _text(self, controls: Mapping[str, Any]) -> Text:
        if self._conversation:
            return self._conversation
        prompt = controls["prompt"]
        if isinstance(prompt, str) and not prompt.strip():
            raise ValueError("the prompt is empty: write what the model shall answer")
        return [{"role": "user", "content": prompt}] if controls["chat"] else prompt

    def _steering(self, controls: Mapping[str, Any]) -> list[Direction | None] | None:
        """What each row is steered with; None where nothing is."""
        if not controls["strength"]:
            return None
        steered = controls["strength"] * self._direction(controls["steer"])
        return [steered, None] if controls["side_by_side"] else [steered]

    def _direction(self, name: str) -> Direction:
        return self._directions.get(name) or self._vectors[name]

    def _steering_of(self, steer: Any, strength: Any) -> tuple[str, Any]:
        """The name of what is steered with, and its strength, from what was given."""
        if steer is None:
            return next(
                (name for name in self.watched.names if name in self._vectors), self._vectors.emotions[0]
            ), strength
        if isinstance(steer, Direction):
            if steer.scaled and len(steer.terms) == 1 and not strength:
                return steer.terms[0]
            if steer.scaled:
                raise ValueError(f"{steer.name!r} has a strength: give the direction without, and strength=")
            if steer.name not in self._vectors:
                self._directions[steer.name] = steer
            return steer.name, strength
        if not isinstance(steer, str):
            raise TypeError(f"steer={steer!r}: give the name of an emotion, or a Direction")
        return steer, strength

    def _checked(self, controls: dict[str, Any]) -> dict[str, Any]:
        """The controls, where each is what it is meant to be; raises otherwise, by name."""
        for name in controls:
            if name not in self._known:
                near = did_you_mean(name, self._known)
                raise TypeError(f"the widget has no option {name!r}{near}; there are {', '.join(self._known)}")
        if not isinstance(controls["prompt"], str):
            raise TypeError(f"prompt={controls['prompt']!r}: give a text, or a conversation as a list of messages")
        strength = finite_number(controls["strength"], "strength")
        if abs(strength) > LARGEST:
            raise ValueError(f"strength={strength:g}: give a number from -{LARGEST} to {LARGEST}")
        if controls["steer"] not in self._directions:
            self._vectors.index(controls["steer"])
        if controls["colour"] not in self.watched.names:
            near = did_you_mean(str(controls["colour"]), self.watched.names)
            raise ValueError(f"colour={controls['colour']!r} is not watched{near}: {', '.join(self.watched.names)} are")
        Sampling(controls["max_new_tokens"], controls["temperature"], seed=controls["seed"]).checked()
        return {**controls, "strength": strength}

    def _written(self) -> Written:
        """The last run as plain data."""
        with self._lock:
            data, names = list(self._data), list(self._rows)
        rows = []
        for number, name in enumerate(names):
            own = [each for each in data if each["row"] == number]
            first = own[0]["rank"] if own else 0
            alarms = [(token - first, *rest) for each in own for token, *rest in each["alarms"]]
            columns = {key: [each[key] for each in own] for key in ("piece", "scores", "log_prob", "heights")}
            heights = columns["heights"] if self.monitor else None
            rows.append(Row(name, columns["piece"], columns["scores"], columns["log_prob"], heights, alarms))
        about, colour = self.about, self.controls["colour"]
        turns = about["turns"] or [("user" if self.controls["chat"] else "", self.controls["prompt"])]
        centre = about["centres"][about["names"].index(colour)]
        return Written(about["model"], about["how"], turns, about["names"], rows, colour, centre, about["threshold"])


def _drawn(vectors: Any, watch: Any) -> tuple[Watch, Monitor | None]:
    """What is watched, at most six things, and the monitor if there is one."""
    ready, monitor = resolved(vectors, watch)
    if len(ready.names) > MOST:
        raise ValueError(
            f"{len(ready.names)} are watched, and the widget draws {MOST} at most: name them, watch=['calm', 'sad']"
        )
    return ready, monitor


def _how(watch: Watch, monitor: Monitor | None) -> str:
    how = f"block {watch.layer}, {watch.method}, centred on {watch.centre}"
    return how if monitor is None else f"{how}; alarm above {monitor.threshold:.1f} sd of quiet tokens"
