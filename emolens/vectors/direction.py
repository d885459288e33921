"""`Direction`: what one steers with, an emotion or a linear combination of them; and whose vectors these are."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models.model import HookedModel


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis scaled to length 1; a zero vector stays zero."""
    return torch.nn.functional.normalize(x, dim=-1)


@dataclass(frozen=True)
class Direction:
    """A linear combination of emotions, to steer or compare with: `0.05 * v["calm"] - 0.05 * v["desperate"]`.

    `values` is the sum of coefficient x unit denoised vector. A coefficient is a steering strength,
    in mean residual norms of each layer; sums are not renormalised, and beside a term with a coefficient one
    without counts with a strength of 1.
    """

    name: str
    layers: tuple[int, ...]
    values: Float[Tensor, "layer d_model"]
    residual_norm: Float[Tensor, "layer"]
    centre: Float[Tensor, "layer d_model"]  # mean activation of the stories: where a component counts as 0
    scaled: bool  # whether a coefficient was given, so that `strength=` would say it twice
    stamp: dict[str, Any]
    terms: tuple[tuple[str, float], ...] = ()  # the emotions it is made of, with their coefficients

    def at(self, layer: int) -> Float[Tensor, "d_model"]:
        """The values at one layer."""
        return self.values[position_of(self.layers, layer)]

    def __mul__(self, coefficient: float) -> "Direction":
        return replace(self._times(coefficient), name=f"{coefficient:g}*{self.name}", scaled=True)

    __rmul__ = __mul__

    def __neg__(self) -> "Direction":
        return replace(self._times(-1.0), name=f"-{self.name}")

    def _times(self, factor: float) -> "Direction":
        terms = tuple((emotion, factor * weight) for emotion, weight in self.terms)
        return replace(self, values=factor * self.values, terms=terms)

    def __add__(self, other: "Direction") -> "Direction":
        if other.layers != self.layers or other.stamp["fingerprint"] != self.stamp["fingerprint"]:
            raise ValueError(f"{self.name!r} and {other.name!r} are of other layers or of another model")
        joined = f"{self.name} + {other.name}".replace("+ -", "- ")
        return replace(
            self,
            name=joined,
            values=self.values + other.values,
            scaled=self.scaled or other.scaled,
            terms=self.terms + other.terms,
        )

    def __sub__(self, other: "Direction") -> "Direction":
        return self + -other


def check_stamp(stamp: dict[str, Any], d_model: int, model: HookedModel) -> None:
    """Raise ValueError where a stamp is another model's; warn when only the weights differ."""
    if stamp["fingerprint"] == model.fingerprint:
        return
    if stamp["model"] != model.name or d_model != model.d_model:
        raise ValueError(
            f"these vectors belong to {stamp['model']} (d_model {d_model}), not to {model.name} "
            f"(d_model {model.d_model}); derive vectors for {model.name} with el.derive(model)"
        )
    warnings.warn(
        f"the vectors come from other weights of {model.name} (fingerprint {stamp['fingerprint']}, "
        f"revision {stamp['revision'] or 'unnamed'}; here {model.fingerprint}): derive them again to be exact",
        stacklevel=3,
    )


def position_of(layers: Sequence[int], layer: int) -> int:
    if layer not in layers:
        raise ValueError(f"no vectors at layer {layer}; there are layers {', '.join(map(str, layers))}")
    return list(layers).index(layer)
