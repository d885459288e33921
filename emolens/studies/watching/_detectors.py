"""What gives an alarm: the vectors, and what they are held against. All give a score for each watched token."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from emolens.corpus import Corpus
from emolens.corpus.audit import mention
from emolens.models.model import HookedModel
from emolens.reading.read import Scorer
from emolens.studies._common import READOUTS, near
from emolens.studies.reading.documents import vader
from emolens.studies.reading.lexical import embedding_matrix, embeddings, vectors_of
from emolens.studies.watching._conversations import Conversation, emotions_in, message_means
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.story_means import story_means
from emolens.watching.monitor import HALF_LIFE, HALF_LIVES, Scale
from emolens.watching.probe import Probe

NEIGHBOURS = 5  # emotions beside the watched one, in a combination and in the list of keywords
CHOSEN = "vectors, chosen"

Scores = dict[str, list[np.ndarray]]  # by emotion: of each conversation, [pos]


@dataclass(frozen=True)
class Detector:
    """A way to score tokens, for each half that it was set on; most are the same for both."""

    name: str
    halves: tuple[Scores, Scores]
    half_life: tuple[float, float] = (HALF_LIFE, HALF_LIFE)
    says: tuple[str, str] = field(default=("", ""))  # what was chosen

    def heights(self, found: Sequence[Conversation], half: int) -> dict[str, list[np.ndarray]]:
        """The heights of all conversations on the scale of the quiet ones of the half that sets it, by emotion."""
        out = {}
        for emotion, scores in self.halves[half].items():
            quiet = [x[:, None] for x, one in zip(scores, found, strict=True) if one.quiet and one.half == half]
            scale = Scale.of(quiet, self.half_life[half])
            out[emotion] = [scale(x[:, None])[:, 0] for x in scores]
        return out


def neighbours(vectors: EmotionVectors, layer: int, emotion: str) -> list[str]:
    """The emotion and those whose vectors are nearest to its own."""
    return [emotion, *(name for name, _ in vectors.nearest(emotion, NEIGHBOURS, layer))]


def weights_of(
    vectors: EmotionVectors, layer: int, emotions: Sequence[str], near_ones: bool = False
) -> Float[Tensor, "row emotion"]:
    """What counts for each of some emotions: itself, or the mean of it and its neighbours."""
    weights = torch.zeros(len(emotions), len(vectors))
    for row, emotion in enumerate(emotions):
        names = neighbours(vectors, layer, emotion) if near_ones else [emotion]
        weights[row, [vectors.index(name) for name in names]] = 1 / len(names)
    return weights


def of_vectors(
    vectors: EmotionVectors, x: Mapping[int, list[Tensor]], found: Sequence[Conversation]
) -> dict[str, Detector]:
    """Both readouts at the block chosen on the stories, with the emotion alone or its neighbours; and the choice."""
    every, emotions = {}, emotions_in(found)
    for method in READOUTS:
        layer = near(vectors, vectors.chosen_layer(method))
        for also, name in ((False, method), (True, f"{method}, with its {NEIGHBOURS} nearest")):
            scorer = Scorer.of(vectors, layer, method, weights=weights_of(vectors, layer, emotions, also))
            every[name] = Detector(name, (scores_of([scorer(part) for part in x[layer]], emotions),) * 2)
    return every | {CHOSEN: chosen(list(every.values()), found)}


def scores_of(parts: Sequence[Tensor], emotions: Sequence[str]) -> Scores:
    """The columns of score matrices [pos emotion], by emotion."""
    return {name: [part[:, row].numpy() for part in parts] for row, name in enumerate(emotions)}


def chosen(candidates: Sequence[Detector], found: Sequence[Conversation]) -> Detector:
    """For each half the readout, combination and half-life that tell its own twins apart best.

    What counts is the mean area over the four emotions, of whole conversations and of what stands before the onset.
    """
    best = [max(_tried(candidates, found, half), key=lambda one: one[0]) for half in (0, 1)]
    (_, one, early), (_, other, late) = best
    says = tuple(f"{detector.name}, half-life {half_life:g}" for _, detector, half_life in best)
    return Detector(CHOSEN, (one.halves[0], other.halves[1]), (early, late), says)  # type: ignore[arg-type]


def setting(candidates: Sequence[Detector], found: Sequence[Conversation]) -> tuple[Detector, float]:
    """One readout with its half-life for all conversations: the best over both halves, to be used on other texts."""
    tried = zip(_tried(candidates, found, 0), _tried(candidates, found, 1), strict=True)
    (_, detector, half_life), _ = max(tried, key=lambda pair: pair[0][0] + pair[1][0])
    return detector, half_life


def _tried(candidates: Sequence[Detector], found: Sequence[Conversation], half: int) -> Iterator[Any]:
    """Every setting with its mean area on the half that it may be chosen on."""
    for detector in candidates:
        for half_life in HALF_LIVES:
            heights = Detector("", detector.halves, (half_life,) * 2).heights(found, half)
            areas = [_area(x, found, name, half, before) for name, x in heights.items() for before in (False, True)]
            yield np.mean(areas), detector, half_life


def _area(heights: Sequence[np.ndarray], found: Sequence[Conversation], emotion: str, half: int, before: bool) -> float:
    own = [n for n, one in enumerate(found) if one.emotion == emotion and one.half == half and one.kind != "style"]
    ends = [found[n].upto(found[n].marks["onset"]) if before else None for n in own]
    highest = [heights[n][:end].max() for n, end in zip(own, ends, strict=True)]
    return float(roc_auc_score([found[n].kind == "escalating" for n in own], highest))


def of_embeddings(
    model: HookedModel, vectors: EmotionVectors, corpus: Corpus, found: Sequence[Conversation]
) -> Detector:
    """The same recipe on token embeddings, which know words and no context."""
    shrinkage = vectors.stamp.get("chosen", {}).get("whitened", {}).get("shrinkage", 1.0)
    own = vectors_of(embeddings(model), corpus, shrinkage)
    matrix = embedding_matrix(model)
    scorer = Scorer.of(own, 0, "whitened", weights=weights_of(own, 0, emotions_in(found)))
    parts = [scorer(matrix[[one.encoding.ids[rank] for rank in one.ranks]]) for one in found]
    return Detector("token embeddings", (scores_of(parts, emotions_in(found)),) * 2)


def of_words(vectors: EmotionVectors, layer: int, found: Sequence[Conversation]) -> list[Detector]:
    """VADER's compound score, turned round, and the number of keywords: of the last message that is complete."""
    lists = {emotion: neighbours(vectors, layer, emotion) for emotion in emotions_in(found)}
    counted: Scores = {emotion: [] for emotion in lists}
    rated: list[np.ndarray] = []
    for one in found:
        said = [message["content"] for message in one.messages]
        rated.append(_of_messages(-vader(said), one))
        for emotion, words in lists.items():
            hits = [sum(mention(word, text) is not None for word in words) for text in said]
            counted[emotion].append(_of_messages(np.array(hits, dtype=float), one))
    of_vader = Detector("VADER", ({emotion: rated for emotion in lists},) * 2, (0.0, 0.0))
    return [of_vader, Detector("keywords", (counted,) * 2, (0.0, 0.0))]


def _of_messages(values: Float[np.ndarray, "message"], one: Conversation) -> Float[np.ndarray, "pos"]:
    """At each token the value of the last message that was complete there."""
    turn = np.array(one.turn)
    last = np.append(turn[1:] != turn[:-1], True)
    return np.array([values[n] if ends else (values[n - 1] if n else 0.0) for n, ends in zip(turn, last, strict=True)])


def of_probes(
    vectors: EmotionVectors,
    x: list[Tensor],
    found: Sequence[Conversation],
    layer: int,
    stories: tuple[PooledActivations, Corpus] | None,
) -> list[Detector]:
    """Logistic probes: of the stories of an emotion, and of the messages after the fork of one half's conversations."""
    out, emotions = [], emotions_in(found)
    if stories is not None:
        means = story_means(*stories, layer)
        labels = {name: np.array([story.emotion == name for story in stories[1]]) for name in emotions}
        probes = {name: Probe.of(means, labels[name], layer, vectors.stamp) for name in emotions}
        out.append(Detector("probe of stories", (_probed(probes, x),) * 2))
    halves = []
    for half in (0, 1):
        probes = {}
        for name in emotions:
            rows, is_loud = _training(x, found, half, name)
            probes[name] = Probe.of(rows, is_loud, layer, vectors.stamp)
        halves.append(_probed(probes, x))
    return [*out, Detector("probe of conversations", tuple(halves))]  # type: ignore[arg-type]


def _probed(probes: Mapping[str, Callable[[Tensor], Tensor]], x: Sequence[Tensor]) -> Scores:
    return {name: [probe(part).numpy() for part in x] for name, probe in probes.items()}


def _training(
    x: Sequence[Tensor], found: Sequence[Conversation], half: int, emotion: str
) -> tuple[Float[Tensor, "message d_model"], np.ndarray]:
    """Messages after the fork of one half: those of the emotion's escalating conversations, and quiet ones."""
    rows, labels = [], []
    for part, one in zip(x, found, strict=True):
        loud = one.kind == "escalating" and one.emotion == emotion
        if one.half == half and (loud or one.quiet):
            means = message_means(part, one, one.marks.get("fork", 0))
            rows.append(means)
            labels += [loud] * len(means)
    return torch.cat(rows), np.array(labels)
