"""How the scores of an emotion are held against those of other emotions, other labels and other vectors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.stats import bootstrap_mean, p_value
from emolens.vectors.direction import unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import stories_of
from emolens.vectors.shuffled_refits import ShuffledRefits, shuffled_refits

LABELS, SHUFFLED = "permuted labels", "shuffled-label vectors"
NULL_SETS = 199  # of vectors with shuffled labels


@dataclass(frozen=True)
class Conversations:
    """Conversations with a story in the middle: their messages, their emotions, and where their turns stand."""

    emotions: tuple[str, ...]
    truth: Int[np.ndarray, "text"]
    messages: tuple[list[dict[str, str]], ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]  # of each text, one for each place
    parts: tuple[tuple[int, ...], ...]  # of each text, the messages before, inside and after


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of a row as messages."""
    return [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]


def margins(scores: Float[np.ndarray, "... text emotion"]) -> Float[np.ndarray, "... text emotion"]:
    """Each score less the mean of the text's scores on the other emotions."""
    n = scores.shape[-1]
    return (scores - scores.mean(axis=-1, keepdims=True)) * n / (n - 1)


def permutations(truth: Int[np.ndarray, "text"], draws: int, seed: int = 0) -> Int[np.ndarray, "draw text"]:
    """The texts' emotions in other orders."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(truth) for _ in range(draws)])


def own(values: Float[np.ndarray, "... text emotion"], truth: Int[np.ndarray, "text"]) -> np.ndarray:
    """The value of each text's own emotion [... text]."""
    return np.take_along_axis(values, np.broadcast_to(truth[:, None], (*values.shape[:-1], 1)), axis=-1)[..., 0]


def held(
    values: Float[np.ndarray, "text emotion"],
    truth: Int[np.ndarray, "text"],
    orders: Int[np.ndarray, "draw text"],
    sets: Float[np.ndarray, "set text emotion"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The mean value of the own emotions, its interval over texts, and p against either null.

    `p_shuffled` is NaN where there are no sets of vectors with shuffled labels.
    """
    effects = own(values, truth)
    low, high = bootstrap_mean(effects, seed=seed)
    null = values[np.arange(len(truth)), orders].mean(axis=1)
    band = dict(zip(("null_low", "null_high"), np.quantile(null, [0.025, 0.975]).tolist(), strict=True))
    row = {"effect": float(effects.mean()), "low": low, "high": high} | band | {"p": p_value(effects.mean(), null)}
    return row | {"p_shuffled": np.nan if sets is None else p_value(effects.mean(), own(sets, truth).mean(axis=1))}


@dataclass(frozen=True)
class Shuffled:
    """Sets of vectors with shuffled labels, for the denoised readout; none where `refits` is none."""

    refits: ShuffledRefits | None = None

    def scores(
        self, x: Float[Tensor, "text d_model"], layer: int, centre: Float[Tensor, "d_model"], emotions: Sequence[str]
    ) -> Float[np.ndarray, "set text emotion"] | None:
        """What each set reads of centred texts, for some of its emotions."""
        return None if self.refits is None else np.concatenate(list(self._scores(x, layer, centre, emotions)))

    def _scores(self, x: Tensor, layer: int, centre: Tensor, emotions: Sequence[str]) -> Iterator[np.ndarray]:
        assert self.refits is not None
        rows = [self.refits.vectors.index(name) for name in emotions]
        directions = unit(x.float() - centre)
        for sets in self.refits.at(layer):
            yield torch.einsum("td,sed->ste", directions, unit(sets[:, rows])).numpy()


def mean_over(
    model: HookedModel,
    texts: Sequence[Any],
    layers: Sequence[int],
    spans: Sequence[Sequence[tuple[int, int]]],
    parts: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> Float[Tensor, "layer part d_model"]:
    """Mean activations over all tokens of a part, for all layers in one pass.

    Args:
        spans: of each text.
        parts: the same spans in the same order, grouped otherwise: default a part for each text.
    """
    parts = spans if parts is None else parts
    x = activations(model, texts, layers, spans)
    counts = torch.tensor([float(end - start) for part in parts for start, end in part])
    owner = torch.tensor([number for number, part in enumerate(parts) for _ in part])
    total = torch.zeros(len(layers), len(parts), x.shape[-1]).index_add(1, owner, x * counts[:, None])
    return total / torch.zeros(len(parts)).index_add(0, owner, counts)[:, None]


def shuffled_sets(
    model: HookedModel, vectors: EmotionVectors, size: str, corpus: Corpus | None, seed: int, draws: int = NULL_SETS
) -> Shuffled:
    """The null of shuffled labels, which "quick" leaves out: it needs the stories' activations."""
    if size == "quick" and corpus is None:
        return Shuffled()
    return Shuffled(shuffled_refits(model, vectors, draws, seed, stories_of(vectors, corpus)))


def null_words(shuffled: Shuffled, draws: int, what: str) -> str:
    """What the effects are held against, in words."""
    if shuffled.refits is None:
        return f'{draws} permutations of {what}; "quick" refits no vectors with shuffled labels'
    return f"{draws} permutations of {what}, and {len(shuffled.refits)} sets of vectors with shuffled labels (denoised)"


Reader = Callable[[Float[Tensor, "text d_model"], Float[Tensor, "d_model"]], np.ndarray]


def reader(vectors: EmotionVectors, layer: int, method: str) -> Reader:
    """Scores of activations at a layer around a centre, as an array."""
    return lambda x, centre: score(x, vectors, layer, method, centre).numpy().astype(float)
