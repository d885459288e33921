"""`Direction`: what one steers with, an emotion or a linear combination of them; and whose vectors these are."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.errors import finite_number, whole_number
from emolens.models.hooked import Layer, Layers, listed
from emolens.models.model import HookedModel
from emolens.vectors.pooling import NORM_FROM_RANK, pool

DIALOGUES = 16  # neutral ones that a model is run on, where its residual norms are not known from vectors


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis scaled to length 1; a zero vector stays zero.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6..., 0.8...], [0.0, 0.0]]
    """
    return torch.nn.functional.normalize(x, dim=-1)


def check_finite(x: Tensor, what: str) -> None:
    """Raise ValueError with the first entry that is NaN or infinite, and where it stands.

    >>> check_finite(torch.tensor([1.0, torch.nan]), "the tensor")
    Traceback (most recent call last):
    ValueError: the tensor is not finite: nan at [1]
    """
    if not (finite := x.isfinite()).all():
        place = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{what} is not finite: {x[tuple(place)].item()} at {place}")


@dataclass(frozen=True)
class Direction:
    """A linear combination of emotions, to steer or compare with: `0.05 * v["calm"] - 0.05 * v["desperate"]`.

    `values` is the sum of coefficient x unit denoised vector. A coefficient is a steering strength,
    in mean residual norms of each layer; sums are not renormalised, and beside a term with a coefficient one
    without counts with a strength of 1.

    `terms` are the emotions that it is made of, with their coefficients. They are empty where it is made of
    something else: a random direction, one that was made elsewhere, or a sum with such a one.

    >>> mixed = 0.05 * shipped["calm"] - 0.1 * shipped["angry"]
    >>> mixed.name, mixed.terms
    ('0.05*calm - 0.1*angry', (('calm', 0.05), ('angry', -0.1)))
    >>> mixed.at(20).shape
    torch.Size([576])
    """

    name: str
    layers: tuple[int, ...]
    values: Float[Tensor, "layer d_model"]
    residual_norm: Float[Tensor, "layer"]
    centre: Float[Tensor, "layer d_model"]  # mean activation of the stories: where a component counts as 0
    scaled: bool  # whether a coefficient was given, so that `strength=` would say it twice
    stamp: dict[str, Any]
    terms: tuple[tuple[str, float], ...] = ()

    __array_ufunc__ = None  # so that a number of numpy's times a direction is a direction

    @classmethod
    def from_tensor(
        cls, values: Any, layers: Layers, of: Any, name: str = "direction", normalise: bool = True
    ) -> "Direction":
        """A direction that was made elsewhere: the weights of a probe, a difference of means, a control vector.

        It has no `terms`, so its nulls are random directions; vectors with shuffled labels do not exist for it.

        Args:
            values: `layer d_model`, or `d_model` for a single layer: a tensor, an array or lists of numbers.
            layers: the block that each row belongs to.
            of: whose direction it is: the model's `EmotionVectors`, which know its mean residual norms; or the model
                itself, which is run on a few neutral dialogues to measure them.
            normalise: scale each row to length 1, so that a strength is a fraction of the residual norm as for an
                emotion. False keeps the sizes, which are then in mean residual norms.

        Raises:
            TypeError: `of` is neither a model nor vectors, or the values are no real numbers.
            ValueError: sizes that do not fit, a layer that does not exist, values that are not finite, a row of
                zeros that should be scaled to length 1, or a model that is being steered.

        >>> probe = Direction.from_tensor(torch.ones(576), 20, shipped, "probe")
        >>> round(float(probe.values.norm()), 3), probe.layers, probe.terms
        (1.0, (20,), ())
        """
        chosen, norm, centre, stamp = _ruler(of, layers)
        rows = torch.as_tensor(values).detach()
        if rows.is_complex() or rows.dtype == torch.bool:
            raise TypeError(f"the values of {name!r} are {rows.dtype}: give real numbers")
        rows = rows.to("cpu", torch.float32, copy=True)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.shape != centre.shape:
            raise ValueError(
                f"the values of {name!r} have the shape {list(rows.shape)}, not layer x d_model = {list(centre.shape)} "
                f"of {stamp.get('model', 'the model')} at layers {list(chosen)}"
            )
        check_finite(rows, f"the values [layer d_model] of {name!r}")
        if normalise:
            if not rows.any(dim=-1).all():
                raise ValueError(f"{name!r} is a zero vector at one of the layers {list(chosen)}: it has no direction")
            rows = unit(rows)
        return cls(name, chosen, rows, norm, centre, False, stamp)

    def at(self, layer: Layer) -> Float[Tensor, "d_model"]:
        """The values at one layer."""
        return self.values[position_of(self.layers, layer)]

    def __mul__(self, coefficient: Any) -> "Direction":
        factor = finite_number(coefficient, f"the coefficient of {self.name!r},")
        return replace(self._times(factor), name=f"{factor:g}*{self.name}", scaled=True)

    __rmul__ = __mul__

    def __neg__(self) -> "Direction":
        return replace(self._times(-1.0), name=f"-{self.name}")

    def _times(self, factor: float) -> "Direction":
        terms = tuple((emotion, factor * weight) for emotion, weight in self.terms)
        return replace(self, values=factor * self.values, terms=terms)

    def __add__(self, other: Any) -> "Direction":
        if not isinstance(other, Direction):
            return NotImplemented
        if other.layers != self.layers or fingerprint_of(other.stamp) != fingerprint_of(self.stamp):
            raise ValueError(f"{self.name!r} and {other.name!r} are of other layers or of another model")
        joined = f"{self.name} + {other.name}".replace("+ -", "- ")
        return replace(
            self,
            name=joined,
            values=self.values + other.values,
            scaled=self.scaled or other.scaled,
            terms=self.terms + other.terms if self.terms and other.terms else (),
        )

    def __sub__(self, other: Any) -> "Direction":
        return self + -other


def _ruler(
    of: Any, layers: Any
) -> tuple[tuple[int, ...], Float[Tensor, "layer"], Float[Tensor, "layer d_model"], dict[str, Any]]:
    """The layers, and there the mean residual norm and activation of the model that `of` is or that it belongs to."""
    if isinstance(of, HookedModel):
        chosen = of.check_layers(layers)
        if of.steering:
            raise ValueError(f"{of.name} is being steered; measure its residual norms outside, or give its vectors")
        pooled = pool(of, texts.neutral()[:DIALOGUES], chosen, (NORM_FROM_RANK,), progress=False)
        centre = torch.stack([pooled.means(NORM_FROM_RANK, layer).nanmean(dim=0) for layer in chosen])
        return chosen, pooled.residual_norm, centre, stamp_of(of)
    if not all(hasattr(of, name) for name in ("layers", "residual_norm", "centre_stories", "stamp")):
        raise TypeError(f"of={of!r}: give the model that the direction belongs to, or its EmotionVectors")
    at = of.at(*listed(layers))
    return at.layers, at.residual_norm, at.centre_stories, of.stamp


def stamp_of(model: HookedModel) -> dict[str, Any]:
    """What a stamp says of a model.

    >>> sorted(stamp_of(model))
    ['architecture', 'default_layer', 'dtype', 'fingerprint', 'model', 'quantised', 'revision']
    """
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "architecture": getattr(model.bridge.cfg, "architecture", None) or model.name,
        "default_layer": model.default_layer,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantised": model.quantised,
    }


def fingerprint_of(stamp: Mapping[str, Any]) -> str:
    """The fingerprint of the weights that vectors come from. Raises ValueError for a stamp that has none.

    >>> fingerprint_of({})
    Traceback (most recent call last):
    ValueError: the vectors' stamp has no fingerprint, so nobody can tell whose they are; derive them again...
    """
    if not isinstance(stamp, Mapping) or "fingerprint" not in stamp:
        raise ValueError(
            "the vectors' stamp has no fingerprint, so nobody can tell whose they are; derive them again with "
            "el.derive(model)"
        )
    return stamp["fingerprint"]


def check_stamp(stamp: Mapping[str, Any], d_model: int, model: HookedModel) -> None:
    """Raise ValueError where a stamp is another model's; warn when only the weights differ.

    >>> check_stamp(shipped.stamp, 576, model)
    Traceback (most recent call last):
    ValueError: these vectors belong to smollm2-135m-instruct (d_model 576), not to tiny-llama (d_model 32); ...
    """
    check_same(stamp, d_model, {"model": model.name, "fingerprint": model.fingerprint}, model.d_model, stacklevel=4)


def check_same(
    stamp: Mapping[str, Any], d_model: int, other: Mapping[str, Any], other_d_model: int, stacklevel: int = 3
) -> None:
    """Raise ValueError where two stamps are of different models; warn when only the weights differ.

    >>> check_same({"fingerprint": "a", "model": "one"}, 32, {"fingerprint": "b", "model": "two"}, 32)
    Traceback (most recent call last):
    ValueError: these vectors belong to one (d_model 32), not to two (d_model 32); ...
    """
    if fingerprint_of(stamp) == fingerprint_of(other):
        return
    name, wanted = (each.get("model") or "a model without a name" for each in (stamp, other))
    if "model" not in stamp or name != wanted or d_model != other_d_model:
        raise ValueError(
            f"these vectors belong to {name} (d_model {d_model}), not to {wanted} "
            f"(d_model {other_d_model}); derive vectors for {wanted} with el.derive(model)"
        )
    warnings.warn(
        f"the vectors come from other weights of {wanted} (fingerprint {stamp['fingerprint']}, revision "
        f"{stamp.get('revision') or 'unnamed'}; here {other['fingerprint']}): derive them again to be exact",
        stacklevel=stacklevel,
    )


def position_of(layers: Sequence[int], layer: Layer) -> int:
    """Where a layer stands among `layers`. Raises ValueError with the known ones, TypeError for no whole number.

    >>> position_of((18, 19, 20), 20)
    2
    """
    layer = whole_number(layer, "layer")
    if layer not in layers:
        raise ValueError(f"no vectors at layer {layer}; there are layers {', '.join(map(str, layers))}")
    return list(layers).index(layer)
