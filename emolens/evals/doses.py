"""Cells of a dose-response by name, so that a sample of an eval can say which steering it is written under."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emolens.models.model import HookedModel
from emolens.steering.dose_response import Doses
from emolens.steering.nulls import null_directions
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

KINDS = ("random", "shuffled labels")


@dataclass(frozen=True)
class Dose:
    """One cell: a direction or one draw of a null in its place, at one strength; or none, at strength 0.

    Attributes:
        direction: its name, which a null bears too.
        kind: of the null, "" for the direction itself; `draw` is its number.
        emotions, strengths, draws, seed: of the dose-response that it is a cell of, from which the null is made.

    >>> Dose("calm", 0.1).named
    'calm'
    >>> Dose("calm", 0.1, "random", 3).named
    'random 3 for calm'
    """

    direction: str = "unsteered"
    strength: float = 0.0
    kind: str = ""
    draw: int = 0
    emotions: tuple[str, ...] = ()
    draws: int = 0
    seed: int = 0

    @property
    def named(self) -> str:
        """As a person says it."""
        return f"{self.kind} {self.draw} for {self.direction}" if self.kind else self.direction

    @property
    def plan(self) -> str:
        """What all cells of a dose-response have in common, for they share its nulls."""
        return json.dumps([list(self.emotions), self.draws, self.seed])


UNSTEERED = Dose()


def cells(emotions: Sequence[str], strengths: Sequence[float], draws: int = 10, seed: int = 0) -> list[Dose]:
    """All cells of a dose-response: each emotion at each strength, and `draws` of each null in its place.

    Raises:
        ValueError: no emotion, no strength besides 0, fewer than ten draws.

    >>> len(cells(["desperate", "calm"], [-0.1, 0.1]))
    84
    >>> cells(["desperate"], [0.1], draws=3)
    Traceback (most recent call last):
    ValueError: draws=3: no effect is shown without ten draws of each null
    """
    strengths = [float(strength) for strength in strengths if strength]
    if not emotions or isinstance(emotions, str) or not strengths:
        raise ValueError(f"emotions {emotions!r} at strengths {strengths}: give lists, with a strength besides 0")
    if draws < 10:
        raise ValueError(f"draws={draws}: no effect is shown without ten draws of each null")
    families = [("", 0), *((kind, draw) for kind in KINDS for draw in range(draws))]
    return [
        Dose(name, strength, kind, draw, tuple(emotions), draws, seed)
        for kind, draw in families
        for name in emotions
        for strength in strengths
    ]


def cells_of(doses: Doses) -> list[Dose]:
    """All cells of a `Doses`, with its nulls.

    Raises:
        ValueError: no nulls, as no effect is shown without one.

    >>> nulls = el.null_directions(model, vectors, [vectors["calm"]], 10, 2, corpus=corpus)
    >>> len(cells_of(el.Doses([vectors["calm"]], [0.1], nulls)))
    21
    """
    if not doses.nulls:
        raise ValueError(
            f"{len(doses.directions)} directions and no nulls: give Doses(..., nulls=null_directions(model, vectors, "
            f"directions, 10)), as no effect is shown without one"
        )
    families = [("", 0), *((kind, n) for kind, draws in doses.nulls.families.items() for n in range(len(draws)))]
    return [
        Dose(name, strength, kind, draw)
        for kind, draw in families
        for name in doses.names
        for strength in doses.strengths
    ]


def doses_of(model: HookedModel, vectors: EmotionVectors, dose: Dose) -> Doses:
    """The dose-response that a cell belongs to, with its nulls.

    >>> doses_of(model, vectors, cells(["calm", "clam"], [0.1])[0])
    Traceback (most recent call last):
    ValueError: no vector for the emotion 'clam' (did you mean calm?)
    """
    directions = [vectors[name] for name in dose.emotions]
    return Doses(directions, [dose.strength], null_directions(model, vectors, directions, dose.draws, seed=dose.seed))


def direction_of(doses: Doses, dose: Dose) -> Direction:
    """The direction of a cell.

    Raises:
        ValueError: one that the dose-response does not have.

    >>> direction_of(el.Doses([vectors["calm"]], [0.1]), Dose("sad", 0.1))
    Traceback (most recent call last):
    ValueError: no 'sad' in this dose-response; it has calm
    """
    if dose.direction not in doses.names:
        raise ValueError(f"no {dose.named!r} in this dose-response; it has {', '.join(doses.names)}")
    family: Any = doses.nulls.families[dose.kind][dose.draw] if dose.kind else doses.directions
    return family[doses.names.index(dose.direction)]
