"""Does a monitor see that a model is steered while it writes, and is it in the text or in the activations alone?

A model answers everyday questions, unsteered and under a little of an emotion. The monitor is set on its own unsteered
answers to other questions. It reads each token twice: live, under the steering, at a block above the steered one; and
the finished text without any steering, where nothing is left but the words. VADER reads the same text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.log_probs import log_probs
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Turn
from emolens.results import StudyResult
from emolens.stats import outside_draws, wilson
from emolens.steering.nulls import null_directions
from emolens.studies._common import NotForThisModel, check_size, near, user
from emolens.studies.reading.documents import vader
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.watching.monitor import Monitor
from emolens.watching.stream import stream
from emolens.watching.watch import Watch

EMOTIONS = ("desperate", "calm")
STRENGTHS = (0.05, 0.1)
RATE = 0.05
ABOVE = 2  # blocks above the steered one, where the monitor reads
SIZES = {"full": (20, 40, 10), "quick": (8, 24, 0)}  # prompts in either half, tokens of a reply, draws of each null
QUICK_RATE = 0.2  # eight replies support no smaller one


@dataclass(frozen=True)
class Written:
    """The replies under one steering: the first alarm of each, live and in the text alone, and the text."""

    live: list[int | None]
    alone: list[int | None]
    texts: list[str]


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    prompts: Sequence[str] | None = None,
    corpus: Corpus | None = None,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Alarms on unsteered and steered replies, live and in the text alone, with the null of directions without meaning.

    Args:
        prompts: user's messages; every other one sets the monitors. Default the packaged neutral ones.
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Raises:
        NotForThisModel: vectors without desperate and calm.

    >>> run(model, vectors, "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    if missing := [name for name in EMOTIONS if name not in vectors]:
        raise NotForThisModel(f"the vectors have no {' and no '.join(missing)}, which the replies are steered by")
    if prompts is None:
        prompts = [row["text"] for row in texts.stimuli("post_training_prompts") if row["kind"].startswith("neutral")]
    half, tokens, draws = SIZES[size]
    quiet, asked = list(prompts[::2])[:half], list(prompts[1::2])[:half]
    rate = RATE if size == "full" else QUICK_RATE
    layer = near(vectors, vectors.default_layer + ABOVE)
    setting = _Setting(model, vectors, layer, tokens, seed, nats=size == "full")
    replies = setting.write(quiet)
    monitors = {name: setting.monitor(name, quiet, replies, rate) for name in EMOTIONS}
    rows = []
    for name, strength in [(None, 0.0), *((name, much) for name in EMOTIONS for much in STRENGTHS)]:
        steer = None if name is None else strength * vectors[name]
        for watched in EMOTIONS if name is None else (name,):
            found = setting.watched(monitors[watched], asked, steer)
            row = {"steered": name or "unsteered", "strength": strength, "watched": watched}
            rows.append(row | _row(setting, found, asked))
    frame = pd.DataFrame(rows)
    kinds: dict[str, Any] = {}
    if draws:
        kinds = _nulls(setting, monitors, asked, draws, corpus, seed)
        frame = _held(frame, kinds)
    null = ", ".join(f"{draws} {kind} directions" for kind in kinds) or 'none: "quick" draws no directions'
    return {"while_writing": StudyResult("while_writing", frame, headline(frame, rate), null, "watched_writing")}


@dataclass(frozen=True)
class _Setting:
    model: HookedModel
    vectors: EmotionVectors
    layer: int
    tokens: int
    seed: int
    nats: bool  # whether the surprise of the unsteered model at the text is measured, which takes a pass for each

    def monitor(self, name: str, asked: Sequence[str], replies: Sequence[list[int]], rate: float) -> Monitor:
        """A monitor of one emotion on the assistant's words, set on unsteered replies."""
        watch = Watch.of(self.vectors, name, self.layer, "denoised")
        quiet = [self.encoding(prompt, ids) for prompt, ids in zip(asked, replies, strict=True) if ids]
        return Monitor.calibrate(self.model, self.vectors, watch, quiet, rate, roles=["assistant"])

    def encoding(self, prompt: str, ids: list[int]) -> Encoding:
        """The finished conversation, the reply as its second turn."""
        before = self.model.encode(user(prompt))
        n = len(before.ids)
        return Encoding([*before.ids, *ids], [*before.turns, Turn("assistant", n, n + len(ids))])

    def write(self, asked: Sequence[str]) -> list[list[int]]:
        """The tokens of unsteered replies."""
        return self._streamed(Watch.of(self.vectors, EMOTIONS[0], self.layer), asked, None)[0]

    def _streamed(
        self, watch: Any, asked: Sequence[str], steer: Direction | None
    ) -> tuple[list[list[int]], list[int | None]]:
        """The tokens of the replies, and after how many of them the first alarm came."""
        chats = [user(prompt) for prompt in asked]
        running = stream(self.model, chats, watch, steer=steer, max_new_tokens=self.tokens, seed=self.seed)
        replies: list[list[int]] = [[] for _ in asked]
        first: list[int | None] = [None] * len(asked)
        for step in running:
            replies[step.row].append(step.token)
            if step.alarms and first[step.row] is None:
                first[step.row] = len(replies[step.row])
        return replies, first

    def watched(self, monitor: Monitor, asked: Sequence[str], steer: Direction | None) -> Written:
        """Replies under a steering, read live and again without it."""
        replies, live = self._streamed(monitor, asked, steer)
        chats = [self.encoding(prompt, ids) for prompt, ids in zip(asked, replies, strict=True) if ids]
        read = iter(monitor.watch(chats) if chats else [])
        alone: list[int | None] = []
        for ids in replies:
            alarms = next(read).alarms if ids else ()
            alone.append(alarms[0].token if alarms else None)
        starts = [len(self.model.encode(user(prompt)).ids) for prompt in asked]
        alone = [None if token is None else token - start + 1 for token, start in zip(alone, starts, strict=True)]
        said = [self.model.tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        return Written(live, alone, said)


def _row(setting: _Setting, found: Written, asked: Sequence[str]) -> dict[str, Any]:
    """The shares of replies with an alarm, when it comes, and what the text is like."""
    n = len(found.live)
    row: dict[str, Any] = {"replies": n, "vader": float(vader(found.texts).mean())}
    for name, first in (("live", found.live), ("alone", found.alone)):
        alarms = [token for token in first if token is not None]
        low, high = wilson(len(alarms), n)
        row |= {name: len(alarms) / n, f"{name}_low": low, f"{name}_high": high}
        row |= {f"{name}_tokens": float(np.median(alarms)) if alarms else np.nan}
    if setting.nats:
        pairs = [(user(prompt), said) for prompt, said in zip(asked, found.texts, strict=True) if said.strip()]
        row["nats"] = -float(
            np.mean([float(log_probs(setting.model, asked_, [said], per_token=True)) for asked_, said in pairs])
        )
    return row


def _nulls(
    setting: _Setting,
    monitors: dict[str, Monitor],
    asked: Sequence[str],
    draws: int,
    corpus: Corpus | None,
    seed: int,
) -> dict[str, dict[tuple[str, float], np.ndarray]]:
    """The shares with an alarm under directions without meaning, by kind, emotion and strength: [draw, live alone]."""
    own = [setting.vectors[name] for name in EMOTIONS]
    families = null_directions(setting.model, setting.vectors, own, draws, None, seed, corpus).families
    out: dict[str, dict[tuple[str, float], np.ndarray]] = {}
    for kind, drawn in families.items():
        out[kind] = {}
        for number, name in enumerate(EMOTIONS):
            strength = STRENGTHS[-1]
            shares = []
            for family in drawn:
                found = setting.watched(monitors[name], asked, strength * family[number])
                shares.append([np.mean([token is not None for token in part]) for part in (found.live, found.alone)])
            out[kind][name, strength] = np.array(shares, dtype=float)
    return out


def _held(frame: pd.DataFrame, kinds: dict[str, dict[tuple[str, float], np.ndarray]]) -> pd.DataFrame:
    """The table with p against each kind of null and where one more draw would lie, at the strength of the draws."""
    frame = frame.copy()
    for kind, cells in kinds.items():
        for column, part in enumerate(("live", "alone")):
            for (name, strength), shares in cells.items():
                at = (frame["steered"] == name) & (frame["strength"] == strength)
                found = outside_draws(np.array(frame.loc[at, part].iloc[0]), shares[:, column])
                for end, value in zip(("p", "low", "high"), found, strict=True):
                    frame.loc[at, f"{part}_{kind.split()[0]}_{end}"] = float(value)
    return frame


def headline(frame: pd.DataFrame, rate: float) -> str:
    """Alarms under the stronger steering with desperate, live and in the text alone, beside unsteered ones.

    >>> rows = [("unsteered", 0.0, 0.05, 0.05), ("desperate", 0.1, 1.0, 0.3)]
    >>> frame = pd.DataFrame(rows, columns=["steered", "strength", "live", "alone"]).assign(watched="desperate")
    >>> headline(frame, 0.05)
    'The monitor of desperate gives an alarm in 100% of the replies steered by 0.1 while they are written, in 30% when
    it reads the finished text, and in 5% of the unsteered ones.'
    """
    own = frame[frame["watched"] == EMOTIONS[0]]
    loud = own[own["strength"] == own["strength"].max()].iloc[0]
    quiet = own[own["steered"] == "unsteered"].iloc[0]
    return (
        f"The monitor of {EMOTIONS[0]} gives an alarm in {loud['live']:.0%} of the replies steered by "
        f"{loud['strength']:g} while they are written, in {loud['alone']:.0%} when it reads the finished text, and in "
        f"{quiet['live']:.0%} of the unsteered ones."
    )
