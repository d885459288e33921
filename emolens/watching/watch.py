"""`Watch`: what is read of each token, emotions, sums of them, other directions and probes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.models.generation import Writing
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding
from emolens.reading.read import CENTRES, Readout, Scorer
from emolens.vectors.direction import Direction, check_finite, check_same, unit
from emolens.vectors.emotion_vectors import EmotionVectors, check_method
from emolens.watching.probe import Probe

# An emotion, a `Direction` or a `Probe`; several of them in a list, or by name in a mapping; or a `Watch`. It is no
# narrower type, because `Watch.of` refuses everything else by name.
Watchable = Any


@dataclass(frozen=True)
class Watch:
    """What is watched, and the block at which it is read.

    An emotion counts with its score as `el.read` gives it. A direction that is a sum of emotions counts with the
    weighted mean of their scores, so that it is whitened where they are; another direction with its cosine; a probe
    with its log-odds.

    Attributes:
        items: emotions, directions and probes, by the name that their scores get.
        layer: the block; a probe must have been fitted at it.

    Example:
        >>> fear = vectors["afraid"] + vectors["sad"]
        >>> watch = el.Watch.of(vectors, {"fear": fear, "calm": "calm"})
        >>> watch.names, watch.layer, watch.method
        (('fear', 'calm'), 3, 'denoised')
        >>> x = torch.randn(5, 32)
        >>> watch(x).shape
        torch.Size([5, 2])
    """

    vectors: EmotionVectors
    items: Mapping[str, Watchable]
    layer: int
    method: str
    centre: str

    @classmethod
    def of(
        cls,
        vectors: EmotionVectors,
        watch: Watchable = None,
        layer: int | None = None,
        method: str = "cosine",
        centre: str = "stories",
    ) -> "Watch":
        """What is watched, from one thing, several, or several by name; default all emotions of the vectors.

        Args:
            layer: default two thirds of the depth.
            method, centre: as in `el.read`; a single text has no centre of its own, so "set" is none.

        Raises:
            ValueError: an emotion that has no vector, an unknown method or centre, nothing at all, two things of one
                name, a probe of another block.
            TypeError: what is neither an emotion, a direction nor a probe.

        Example:
            >>> el.Watch.of(vectors, "clam")
            Traceback (most recent call last):
            ValueError: no vector for the emotion 'clam' (did you mean calm?)
        """
        if centre not in CENTRES[:2]:
            raise ValueError(
                f"centre={centre!r} is none of {', '.join(CENTRES[:2])}{did_you_mean(str(centre), CENTRES[:2])}"
            )
        layer = vectors.default_layer if layer is None else layer
        at = vectors.at(layer)
        if watch is None:
            watch = list(vectors.emotions)
        elif isinstance(watch, (str, Direction, Probe)) or not isinstance(watch, Iterable):
            watch = [watch]
        named = list(watch.items()) if isinstance(watch, Mapping) else [(_name(each), each) for each in watch]
        if not named:
            raise ValueError("nothing to watch: the list is empty")
        for name, each in named:
            if [other for other, _ in named].count(name) > 1:
                raise ValueError(f"{name!r} is watched twice: give each a name of its own, {{name: what}}")
            _check(each, name, at)
        return cls(at, dict(named), at.layers[0], check_method(method), centre)

    @property
    def names(self) -> tuple[str, ...]:
        """What the scores are called.

        Example:
            >>> el.Watch.of(vectors, ["calm", "sad"]).names
            ('calm', 'sad')
        """
        return tuple(self.items)

    @cached_property
    def _parts(self) -> list[tuple[list[int], Callable[[Tensor], Tensor]]]:
        """The columns of the scores, and what gives them: sums of emotions, other directions, each probe."""
        sums: dict[int, Tensor] = {}
        bare: dict[int, Tensor] = {}
        parts: list[tuple[list[int], Callable[[Tensor], Tensor]]] = []
        for column, each in enumerate(self.items.values()):
            if isinstance(each, Probe):
                parts.append(([column], partial(_log_odds, each)))
            elif isinstance(each, Direction) and not each.terms:
                bare[column] = unit(each.at(self.layer))
            else:
                sums[column] = self._weights(each)
        if sums:
            weights = torch.stack(list(sums.values()))
            parts.append((list(sums), Scorer.of(self.vectors, self.layer, self.method, self.centre, weights)))
        if bare:
            plain = Scorer.of(self.vectors, self.layer, "denoised", self.centre)
            parts.append((list(bare), replace(plain, matrix=torch.stack(list(bare.values())))))
        return parts

    def _weights(self, each: str | Direction) -> Float[Tensor, "emotion"]:
        """What each emotion counts in a sum of some; the absolute values add up to 1."""
        weights = torch.zeros(len(self.vectors))
        for emotion, weight in [(each, 1.0)] if isinstance(each, str) else each.terms:
            weights[self.vectors.index(emotion)] += weight
        return weights / weights.abs().sum().clamp(min=1e-12)

    def __call__(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes name"]:
        flat = x.reshape(-1, x.shape[-1]).float().cpu()
        scores = torch.empty(len(flat), len(self.items))
        for columns, scorer in self._parts:
            scores[:, columns] = scorer(flat)
        return scores.reshape(*x.shape[:-1], -1)

    def readout(self, writing: Writing) -> Readout:
        """The scores of every token that was run, of the prompts and of what was written after them.

        Example:
            >>> model.generate(["she ran", "he was"], 3, watch=el.Watch.of(vectors, "calm")).text_index
            (0, 0, 0, 0, 0, 1, 1, 1, 1, 1)
        """
        scores = [writing.seen(self.layer, row) for row in range(writing.rows)]
        ids = [[*encoding.ids, *new] for encoding, new in zip(writing.encoded, writing.written, strict=True)]
        labels = [
            writing.model.token_strings(Encoding(each[: len(part)], [])) for each, part in zip(ids, scores, strict=True)
        ]
        return Readout(
            torch.cat(scores),
            self.names,
            tuple(label for each in labels for label in each),
            tuple(row for row, part in enumerate(scores) for _ in range(len(part))),
            tuple((rank, rank + 1) for part in scores for rank in range(len(part))),
            self.layer,
            self.method,
            self.centre,
            "tokens",
        )

    def check_model(self, model: HookedModel) -> None:
        """Raise ValueError where the vectors, a direction or a probe are another model's.

        Example:
            >>> el.Watch.of(vectors, "calm").check_model(model)
        """
        self.vectors.check_model(model)
        for each in self.items.values():
            if isinstance(each, Probe):
                each.check_model(model)


def _log_odds(probe: Probe, x: Float[Tensor, "item d_model"]) -> Float[Tensor, "item 1"]:
    return probe(x)[:, None]


def _name(each: Any) -> str:
    return each if isinstance(each, str) else getattr(each, "name", repr(each))


def _check(each: Any, name: str, vectors: EmotionVectors) -> None:
    """Raise where a thing can't be watched with these vectors, of one block."""
    (layer,) = vectors.layers
    if isinstance(each, str):
        vectors.index(each)
    elif isinstance(each, Direction):
        check_same(each.stamp, each.values.shape[-1], vectors.stamp, vectors.raw.shape[-1])
        check_finite(each.at(layer), f"{name!r} at block {layer}")
        if not each.at(layer).any():
            raise ValueError(f"{name!r} is a zero vector at block {layer}: it has no direction")
        for emotion, _ in each.terms:
            vectors.index(emotion)
    elif not isinstance(each, Probe):
        raise TypeError(f"{each!r} can't be watched: give the name of an emotion, a Direction or a Probe")
    elif each.layer != layer:
        raise ValueError(f"the probe {name!r} was fitted at block {each.layer}, and block {layer} is watched")
