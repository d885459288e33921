"""`Monitor`: an alarm on what the vectors read, set on quiet conversations so that false alarms are rare."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import lfilter
from torch import Tensor

from emolens.errors import finite_number
from emolens.files import data_path, read_text, write_atomic
from emolens.models.encoding import encode
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Text, Turn, gate
from emolens.reading.read import collect
from emolens.stats import clopper_pearson
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors, packaged_vectors
from emolens.watching.probe import Probe
from emolens.watching.watch import Watch, Watchable

HALF_LIVES = (5.0, 10.0, 20.0)  # tokens; among these the calibration chooses
HAIR = 1e-3  # of a standard deviation, so that the text that sets the threshold gives no alarm by rounding
HALF_LIFE = 10.0  # where there is nothing to choose by
FORMAT = "emolens-monitor-1"


class Alarm(NamedTuple):
    """A token at which a smoothed score rose above the threshold.

    Attributes:
        token: its rank in the text; `text` is what it holds.
        turn: the number of the message, and `role` whose it is; None in a plain text.
        name: what is watched, such as the emotion.
        score: the smoothed score; `height` is its distance from that of quiet tokens, in their standard deviations.
        unusual: the share of quiet conversations that reach as high, this one counted: (1 + those) / (1 + all).

    Example:
        >>> Alarm(5, " now", 1, "assistant", "desperate", 0.1, 4.2, 0.01).name
        'desperate'
    """

    token: int
    text: str
    turn: int | None
    role: str
    name: str
    score: float
    height: float
    unusual: float

    @property
    def emotion(self) -> str:
        """What is watched, which most often is an emotion.

        Example:
            >>> Alarm(5, " now", 1, "assistant", "desperate", 0.1, 4.2, 0.01).emotion
            'desperate'
        """
        return self.name


class Place(NamedTuple):
    """Where a watched token stands: its rank in the text, the number and role of its message, what it holds.

    Example:
        >>> Place(5, 1, "assistant", " now").rank
        5
    """

    rank: int
    turn: int | None
    role: str
    label: str


def places(encoding: Encoding, labels: Sequence[str], roles: Sequence[str] | None = None) -> list[Place]:
    """The tokens of a text that are watched: those of its messages; of a plain text all but the first.

    The first token of a text is an attention sink, and what the chat template writes is nobody's words.

    Args:
        roles: whose messages; default everybody's.

    Example:
        >>> encoding = model.encode([{"role": "user", "content": "she ran !"}])
        >>> [place.label for place in places(encoding, model.token_strings(encoding))]
        ['she', 'ran', '!']
    """
    if not encoding.turns:
        return [Place(rank, None, "", labels[rank]) for rank in range(min(1, len(encoding.ids) - 1), len(encoding.ids))]
    return [
        Place(rank, number, turn.role, labels[rank])
        for number, turn in enumerate(encoding.turns)
        if roles is None or turn.role in roles
        for rank in range(turn.start, turn.end)
    ]


def smooth(
    x: Float[np.ndarray, "pos *name"], half_life: float, before: Float[np.ndarray, "*name"] | float = 0.0
) -> Float[np.ndarray, "pos *name"]:
    """Exponential moving average along the tokens, whose weights halve every `half_life` tokens; 0 smooths nothing.

    Args:
        before: the average of what came before.

    Example:
        >>> smooth(np.array([1.0, 1.0]), half_life=1.0).tolist()
        [0.5, 0.75]
    """
    keep = 0.5 ** (1 / half_life) if half_life else 0.0
    start = np.broadcast_to(keep * np.asarray(before, dtype=float), x.shape[1:])[None]
    return lfilter([1 - keep], [1, -keep], x, axis=0, zi=start)[0]


@dataclass(frozen=True, eq=False)
class Scale:
    """How scores become heights: centred on quiet tokens, averaged, in standard deviations of quiet averages.

    Attributes:
        half_life: of the average, in tokens.
        mean, spread: by name, of the scores of quiet tokens, and of their averages.

    Example:
        >>> quiet = [np.random.default_rng(seed).normal(size=(50, 1)) for seed in range(20)]
        >>> scale = Scale.of(quiet, half_life=10)
        >>> round(float(np.concatenate([scale(x) for x in quiet]).std()), 2)
        1.0
    """

    half_life: float
    mean: Float[np.ndarray, "name"]
    spread: Float[np.ndarray, "name"]

    @classmethod
    def of(cls, quiet: Sequence[np.ndarray], half_life: float) -> "Scale":
        """The scale of quiet scores [pos name].

        Example:
            >>> Scale.of([np.array([[1.0], [3.0]])], half_life=0).spread.tolist()
            [1.0]
        """
        mean = np.concatenate(quiet).mean(axis=0, dtype=float)
        spread = np.concatenate([smooth(x - mean, half_life) for x in quiet]).std(axis=0)
        return cls(float(half_life), mean, np.maximum(spread, 1e-12))

    def __call__(
        self, scores: Float[np.ndarray, "pos name"], before: Float[np.ndarray, "name"] | float = 0.0
    ) -> Float[np.ndarray, "pos name"]:
        return smooth(scores - self.mean, self.half_life, before) / self.spread


class Track:
    """What a monitor makes of one text, token by token; the same whether it is read at once or while it is written.

    Example:
        >>> track = Track(monitor)
        >>> place = Place(3, None, "", "calm")
        >>> heights, alarms = track.follow(torch.zeros(1, 1), [place])
        >>> heights.shape, alarms
        ((1, 1), [])
    """

    def __init__(self, monitor: "Monitor") -> None:
        self.monitor = monitor
        names = len(monitor.watched.names)
        self.average, self.above = np.zeros(names), np.zeros(names, dtype=bool)

    def follow(
        self, scores: Float[Tensor, "pos name"], at: Sequence[Place]
    ) -> tuple[Float[np.ndarray, "pos name"], list[Alarm]]:
        """The heights of the next watched tokens, and the alarms at those where one rises above the threshold."""
        monitor, alarms = self.monitor, []
        if not len(at):
            return np.empty((0, len(self.above))), []
        scale = monitor.scale
        heights = scale(scores.numpy().astype(float), self.average)
        self.average = heights[-1] * scale.spread
        for row, place in enumerate(at):
            above = heights[row] > monitor.threshold
            for column in (above & ~self.above).nonzero()[0]:
                name, height = monitor.watched.names[column], float(heights[row, column])
                score = height * float(scale.spread[column]) + float(scale.mean[column])
                where = (place.rank, place.label, place.turn, place.role)
                alarms.append(Alarm(*where, name, score, height, monitor.unusual(height)))
            self.above = above
        return heights, alarms


@dataclass(frozen=True)
class WatchedText:
    """What a monitor found in a text: iterate over it for its alarms.

    Attributes:
        heights: of each watched token and name, the smoothed score in standard deviations of quiet tokens.
        at: where these tokens stand.
        stopped_at: the tokens that were read, where the text has more than the model's context; else None.

    Example:
        >>> found = monitor.watch("she was calm and warm")
        >>> len(found), found.highest > 0, found.stopped_at
        (1, True, None)
    """

    alarms: tuple[Alarm, ...]
    heights: Float[np.ndarray, "pos name"]
    at: tuple[Place, ...]
    unusual: float
    stopped_at: int | None = None

    def __iter__(self) -> Iterator[Alarm]:
        return iter(self.alarms)

    def __len__(self) -> int:
        return len(self.alarms)

    @property
    def highest(self) -> float:
        """The largest height of all tokens and names."""
        return float(self.heights.max())


@dataclass(frozen=True)
class Monitor:
    """What is watched, how it is smoothed, and from where on it is an alarm.

    A score is centred on the mean of quiet tokens, averaged over the tokens before it, and divided by the standard
    deviation that such averages have in quiet conversations: its height. The highest one of a conversation, over
    everything that is watched, is held against the threshold.

    Attributes:
        watched: what is watched, and where; with several things one threshold serves for all.
        scale: what makes heights of scores, the half-life of the average among it.
        threshold: a height; a conversation with a higher one gives an alarm.
        rate: the rate of false alarms that it was set for.
        quiet: the highest height of each quiet conversation, in order.
        roles: whose messages are watched; None for everybody's.

    Example:
        >>> monitor = el.Monitor.calibrate(model, vectors, "calm", ["she ran !", "he was sad", "and cold !"], rate=0.3)
        >>> monitor
        Monitor(calm at block 1, half-life 10 tokens; 0 of 3 quiet texts give an alarm, set for 30 %)
        >>> [len(monitor.watch(text)) for text in ("she ran !", "he was sad")]
        [0, 0]
    """

    watched: Watch
    scale: Scale
    threshold: float
    rate: float
    quiet: tuple[float, ...]
    roles: tuple[str, ...] | None = None
    model: HookedModel | None = field(default=None, repr=False, compare=False)

    @classmethod
    def calibrate(
        cls,
        model: HookedModel,
        vectors: EmotionVectors,
        watch: Watchable,
        quiet: Sequence[Text],
        rate: float = 0.01,
        loud: Sequence[Text] = (),
        half_life: float | None = None,
        roles: Sequence[str] | None = None,
    ) -> "Monitor":
        """A monitor with a threshold that quiet conversations pass as rarely as `rate`.

        The threshold is the (n + 1)(1 - rate)-th lowest of the n quiet conversations' highest heights, so that a new
        conversation of their kind gives an alarm with a probability of at most `rate`.

        Args:
            watch: an emotion, a direction, a probe or several, whitened at the block that was chosen for that; or an
                `el.Watch`, which says itself how and where it reads.
            quiet: conversations or texts in which there is nothing to find, of the kind that will be watched.
            loud: conversations with something to find; with them the half-life is chosen, by the area under the ROC
                curve. Without, it is 10 tokens.
            half_life: taken as it is.
            roles: whose messages are watched, such as ["assistant"]; default everybody's.

        Raises:
            ValueError: no quiet texts, or too few for the rate; a rate that is none; one without a watched token;
                a text that `el.read` refuses.

        Example:
            >>> el.Monitor.calibrate(model, vectors, "calm", ["she ran !"] * 30)
            Traceback (most recent call last):
            ValueError: 30 quiet texts support no rate of 1 %: the smallest is 3.2 %. Give at least 99, or rate=0.033
        """
        if not isinstance(watch, Watch):
            watch = Watch.of(vectors, watch, vectors.chosen_layer("whitened"), "whitened")
        watch.check_model(model)
        texts = gate(quiet).texts if len(quiet) else []
        check_rate(rate, len(texts))
        if half_life is not None and finite_number(half_life, "half_life") < 0:
            raise ValueError(f"half_life={half_life!r}: give a number of tokens, 0 or more")
        roles = None if roles is None else tuple(roles)
        scores = watched_scores(model, watch, texts, roles)
        loud_scores = watched_scores(model, watch, gate(loud).texts, roles) if len(loud) else []
        return cls.of_scores(watch, scores, rate, loud_scores, half_life, roles, model)

    @classmethod
    def of_scores(
        cls,
        watch: Any,
        quiet: Sequence[np.ndarray],
        rate: float,
        loud: Sequence[np.ndarray] = (),
        half_life: float | None = None,
        roles: tuple[str, ...] | None = None,
        model: HookedModel | None = None,
    ) -> "Monitor":
        """`calibrate` on the scores [pos name] of watched tokens that were read already.

        Example:
            >>> scores = [np.random.default_rng(seed).normal(size=(50, 1)) for seed in range(40)]
            >>> el.Monitor.of_scores(el.Watch.of(vectors, "calm"), scores, rate=0.05).promise
            (0.0006..., 0.13...)
        """
        check_rate(rate, len(quiet))
        if half_life is None:
            half_life = best_half_life(quiet, loud) if len(loud) else HALF_LIFE
        scale = Scale.of(quiet, half_life)
        highest = sorted(float(scale(x).max()) for x in quiet)
        return cls(watch, scale, threshold(highest, rate), float(rate), tuple(highest), roles, model)

    @property
    def half_life(self) -> float:
        """Of the average, in tokens.

        Example:
            >>> monitor.half_life
            10.0
        """
        return self.scale.half_life

    def __repr__(self) -> str:
        names = ", ".join(self.watched.names[:4]) + (" ..." if len(self.watched.names) > 4 else "")
        above = sum(height > self.threshold for height in self.quiet)
        return (
            f"Monitor({names} at block {self.watched.layer}, half-life {self.half_life:g} tokens; {above} of "
            f"{len(self.quiet)} quiet texts give an alarm, set for {100 * self.rate:.3g} %)"
        )

    @property
    def promise(self) -> tuple[float, float]:
        """Where the rate of false alarms lies, by the quiet texts: their share with an alarm, Clopper-Pearson, 95 %.

        Example:
            >>> monitor.promise
            (0.0, 0.70...)
        """
        return clopper_pearson(sum(height > self.threshold for height in self.quiet), len(self.quiet))

    @property
    def smallest_rate(self) -> float:
        """The smallest rate that so many quiet texts support.

        Example:
            >>> round(monitor.smallest_rate, 3)
            0.25
        """
        return 1 / (len(self.quiet) + 1)

    def unusual(self, height: float) -> float:
        """The share of quiet conversations that reach a height, this one counted.

        Example:
            >>> monitor.unusual(99.0) == monitor.smallest_rate
            True
        """
        return (1 + sum(other >= height for other in self.quiet)) / (1 + len(self.quiet))

    def watch(self, texts: Text | Sequence[Text]) -> Any:
        """The alarms of a conversation or text, or a list of such for several: a `WatchedText` for each.

        A text longer than the model's context is read as far as that reaches; `stopped_at` says so.

        Raises:
            ValueError: a monitor without a model (`load` one with it); a text without a watched token.

        Example:
            >>> [len(found.at) for found in monitor.watch(["she ran !", "he was calm and warm"])]
            [2, 4]
        """
        if self.model is None:
            raise ValueError("this monitor has no model: load it with one, el.Monitor.load(path, model)")
        given = gate(texts)
        encoded = [fitting(self.model, text) for text in given.texts]
        at = [places(each, self.model.token_strings(each), self.roles) for each, _ in encoded]
        if not all(at):
            raise ValueError(f"text {at.index([])} has no token that is watched{_whose(self.roles)}")
        scores = token_scores(self.model, self.watched, [each for each, _ in encoded])
        found = []
        for own, here, (each, cut) in zip(scores, at, encoded, strict=True):
            heights, alarms = Track(self).follow(own[[place.rank for place in here]], here)
            reached, stopped = self.unusual(float(heights.max())), len(each.ids) if cut else None
            found.append(WatchedText(tuple(alarms), heights, tuple(here), reached, stopped))
        return found[0] if given.one else found

    def save(self, path: str | Path) -> Path:
        """Write the monitor as JSON, with the stamp of the vectors that it reads with. They are saved by themselves.

        Example:
            >>> path = monitor.save("monitor.json")
            >>> el.Monitor.load(path, model, vectors) == monitor
            True
        """
        watched, stamp = self.watched, self.watched.vectors.stamp
        data = {
            "format": FORMAT,
            "stamp": {key: stamp.get(key) for key in ("model", "revision", "fingerprint", "corpus", "recipe")},
            "items": {name: _as_json(each, watched.layer) for name, each in watched.items.items()},
            "layer": watched.layer,
            "method": watched.method,
            "centre": watched.centre,
            "half_life": self.half_life,
            "roles": self.roles,
            "mean": self.scale.mean.tolist(),
            "spread": self.scale.spread.tolist(),
            "threshold": self.threshold,
            "rate": self.rate,
            "quiet": self.quiet,
        }
        return write_atomic(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path, model: HookedModel, vectors: EmotionVectors | None = None) -> "Monitor":
        """A monitor that was saved.

        Args:
            vectors: those that it was calibrated with; default the packaged ones of the model.

        Raises:
            ValueError: no monitor, another model's, or vectors of other stories or of another recipe.

        Example:
            >>> el.Monitor.load(monitor.save("own.json"), model, vectors).threshold == monitor.threshold
            True
        """
        try:
            data = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} holds no monitor: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{path} holds no monitor: its format is not {FORMAT!r}")
        vectors = packaged_vectors(model) if vectors is None else vectors
        vectors.check_model(model)
        for key in ("fingerprint", "corpus", "recipe"):
            if data["stamp"][key] != json.loads(json.dumps(vectors.stamp.get(key))):
                raise ValueError(
                    f"{path} was calibrated with other vectors: their {key} is {data['stamp'][key]} "
                    f"({data['stamp']['model']}), not {vectors.stamp.get(key)}. Give the vectors that it was "
                    f"calibrated with, or calibrate again"
                )
        items = {name: _from_json(each, name, data["layer"], vectors) for name, each in data["items"].items()}
        watch = Watch.of(vectors, items, data["layer"], data["method"], data["centre"])
        roles = None if data["roles"] is None else tuple(data["roles"])
        scale = Scale(data["half_life"], np.array(data["mean"]), np.array(data["spread"]))
        return cls(watch, scale, data["threshold"], data["rate"], tuple(data["quiet"]), roles, model)

    @classmethod
    def packaged(cls, model: HookedModel, name: str) -> "Monitor":
        """A monitor that ships with the package, for an embedded model: desperate, angry, afraid or miserable.

        Set for one false alarm in a hundred conversations, on everyday ones in English; see the data card.

        Raises:
            ValueError: no such monitor of this model; says which there are.

        Example:
            >>> el.Monitor.packaged(model, "angry")
            Traceback (most recent call last):
            ValueError: no monitor of 'angry' ships for tiny-llama: calibrate one, el.Monitor.calibrate(...)
        """
        path = data_path("monitors", f"{model.name}-{name}.json")
        if not path.exists():
            own = sorted(p.stem.removeprefix(f"{model.name}-") for p in path.parent.glob(f"{model.name}-*.json"))
            there = f"; there are {', '.join(own)}" if own else ": calibrate one, el.Monitor.calibrate(...)"
            raise ValueError(f"no monitor of {name!r} ships for {model.name}{there}")
        return cls.load(path, model)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Monitor):
            return NotImplemented
        same = ("half_life", "threshold", "rate", "quiet", "roles")
        mine, its = self.watched, other.watched
        return (
            all(getattr(self, name) == getattr(other, name) for name in same)
            and (mine.names, mine.layer, mine.method, mine.centre) == (its.names, its.layer, its.method, its.centre)
            and np.array_equal(self.scale.mean, other.scale.mean)
            and np.array_equal(self.scale.spread, other.scale.spread)
        )


def threshold(highest: Sequence[float], rate: float) -> float:
    """The height that a new conversation passes with a probability of at most `rate`, by those of quiet ones.

    Example:
        >>> round(threshold([3.0, 1.0, 2.0], 0.5), 2)  # the second of three
        2.0
    """
    return sorted(highest)[math.ceil((len(highest) + 1) * (1 - rate) - 1e-9) - 1] + HAIR


def check_rate(rate: Any, quiet: int) -> None:
    """Raise ValueError for what is no rate, and for one that so many quiet texts do not support.

    Example:
        >>> check_rate(0.05, 19)
        >>> check_rate(0.05, 0)
        Traceback (most recent call last):
        ValueError: no quiet texts: an alarm can't be set without texts in which there is nothing to find
    """
    if not 0 < finite_number(rate, "rate") < 1:
        raise ValueError(f"rate={rate!r}: give the share of quiet conversations that may give an alarm, such as 0.01")
    if not quiet:
        raise ValueError("no quiet texts: an alarm can't be set without texts in which there is nothing to find")
    needed = math.ceil(1 / rate - 1e-9) - 1
    if quiet < needed:
        smallest = 1 / (quiet + 1)
        raise ValueError(
            f"{quiet} quiet texts support no rate of {100 * rate:.2g} %: the smallest is {100 * smallest:.2g} %. Give "
            f"at least {needed}, or rate={math.ceil(1000 * smallest) / 1000:g}"
        )


def fitting(model: HookedModel, text: Text) -> tuple[Encoding, bool]:
    """The tokens of a text as far as the model's context reaches, and whether something was cut off.

    Example:
        >>> encoding, cut = fitting(model, "she ran and " * 2000)
        >>> len(encoding.ids), cut
        (2048, True)
    """
    encoding, most = encode(model.tokenizer, text), model.n_ctx
    model.check_ids(encoding.ids)
    if len(encoding.ids) <= most:
        return encoding, False
    turns = [Turn(turn.role, turn.start, min(turn.end, most)) for turn in encoding.turns if turn.start < most]
    return Encoding(encoding.ids[:most], turns), True


def token_scores(model: HookedModel, watch: Watch, encoded: Sequence[Encoding]) -> list[Tensor]:
    """The scores [pos name] of every token of each text.

    Example:
        >>> [part.shape for part in token_scores(model, el.Watch.of(vectors, "calm"), model.encode_all(["she ran !"]))]
        [torch.Size([3, 1])]
    """
    each = [[(rank, rank + 1) for rank in range(len(encoding.ids))] for encoding in encoded]
    (scores,) = collect(model, encoded, each, [watch.layer], 2048, lambda x, _: watch(x))
    return list(scores.split([len(part) for part in each]))


def watched_scores(
    model: HookedModel, watch: Watch, texts: Sequence[Text], roles: Sequence[str] | None = None
) -> list[np.ndarray]:
    """The scores [pos name] of the watched tokens of each text; raises ValueError for a text without one, by number.

    Example:
        >>> [len(part) for part in watched_scores(model, el.Watch.of(vectors, "calm"), ["she ran !", "so calm"])]
        [2, 1]
    """
    encoded = []
    for number, text in enumerate(texts):
        try:
            encoded.append(fitting(model, text)[0])
        except ValueError as error:
            raise ValueError(f"text {number}: {error}") from error
    out = []
    for number, (scores, encoding) in enumerate(zip(token_scores(model, watch, encoded), encoded, strict=True)):
        ranks = [place.rank for place in places(encoding, [""] * len(encoding.ids), roles)]
        if not ranks:
            raise ValueError(f"text {number} has no token that is watched{_whose(roles)}")
        out.append(scores[ranks].numpy())
    return out


def best_half_life(quiet: Sequence[np.ndarray], loud: Sequence[np.ndarray]) -> float:
    """That of `HALF_LIVES` at which loud conversations stand out most: the largest area under the ROC curve.

    Example:
        >>> best_half_life([np.zeros((9, 1)), np.eye(9)[:, :1]], [np.ones((9, 1))])
        5.0
    """
    from sklearn.metrics import roc_auc_score

    found = {}
    for half_life in HALF_LIVES:
        scale = Scale.of(quiet, half_life)
        highest = [scale(x).max() for x in (*quiet, *loud)]
        found[half_life] = roc_auc_score([0] * len(quiet) + [1] * len(loud), highest)
    return max(found, key=lambda half_life: found[half_life])


def _whose(roles: Sequence[str] | None) -> str:
    return "" if roles is None else f": no message of {' or '.join(roles)}"


def _as_json(each: Watchable, layer: int) -> dict[str, Any]:
    if isinstance(each, str):
        return {"emotion": each}
    if isinstance(each, Probe):
        return {"probe": each.weights.tolist(), "bias": each.bias, "stamp": each.stamp}
    return {"terms": each.terms} if each.terms else {"direction": each.at(layer).tolist()}


def _from_json(each: Mapping[str, Any], name: str, layer: int, vectors: EmotionVectors) -> Watchable:
    if "emotion" in each:
        return str(each["emotion"])
    if "probe" in each:
        return Probe(name, layer, torch.tensor(each["probe"]), each["bias"], each["stamp"])
    if "direction" in each:
        return Direction.from_tensor(each["direction"], layer, vectors, name)
    first, *others = [weight * vectors[emotion] for emotion, weight in each["terms"]]
    return sum(others, first)
