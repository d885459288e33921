"""`Probe`: a logistic regression on activations, to be watched like an emotion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.reading.read import activations
from emolens.vectors.direction import check_finite, check_stamp, stamp_of

STRENGTH = 0.01  # of scikit-learn's C, after each dimension is scaled to unit variance


@dataclass(frozen=True)
class Probe:
    """Log-odds that an activation belongs to the texts that the probe was fitted to find: `x @ weights + bias`.

    Example:
        >>> texts = ["she was angry", "so angry !", "he was calm", "calm and warm"]
        >>> probe = el.Probe.fit(model, texts, [True, True, False, False], layer=2, name="anger")
        >>> probe(el.activations(model, ["very angry !"], [2])[0]).shape
        torch.Size([1])
    """

    name: str
    layer: int
    weights: Float[Tensor, "d_model"]
    bias: float
    stamp: dict[str, Any]

    def __call__(self, x: Float[Tensor, "item d_model"]) -> Float[Tensor, "item"]:
        return x.float().cpu() @ self.weights + self.bias

    def check_model(self, model: HookedModel) -> None:
        """Raise ValueError for a model of other weights than the probe was fitted on."""
        check_stamp(self.stamp, len(self.weights), model)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        texts: Sequence[Text],
        labels: Sequence[bool],
        layer: int | None = None,
        at: str | Sequence[Sequence[tuple[int, int]]] = "document",
        name: str = "probe",
    ) -> "Probe":
        """A probe of the mean activations of texts, or of places in them, by scikit-learn's logistic regression.

        Args:
            labels: whether each text (each place, where `at` gives more than one of a text) is of the kind to be found.
            layer: default two thirds of the depth.
            at: as in `el.activations`.

        Raises:
            ValueError: labels that do not fit, or of one kind only.

        Example:
            >>> el.Probe.fit(model, ["she ran", "he sat"], [True, True])
            Traceback (most recent call last):
            ValueError: all 2 labels are True: a probe needs texts of both kinds
        """
        y = np.asarray(labels, dtype=bool)
        if len(set(y.tolist())) < 2:
            raise ValueError(f"all {len(y)} labels are {bool(y[:1].all())}: a probe needs texts of both kinds")
        layer = model.default_layer if layer is None else model.check_layer(layer)
        (x,) = activations(model, texts, [layer], at)
        if len(x) != len(y):
            raise ValueError(f"{len(y)} labels for {len(x)} places that are read: give one for each")
        return cls.of(x, y, layer, stamp_of(model), name)

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "item d_model"],
        labels: np.ndarray,
        layer: int,
        stamp: dict[str, Any],
        name: str = "probe",
    ) -> "Probe":
        """A probe of activations that were read already.

        Example:
            >>> x = torch.eye(4, 32)
            >>> el.Probe.of(x, np.array([True, False, True, False]), 2, {"fingerprint": "0"})(x)[:2].sign().tolist()
            [1.0, -1.0]
        """
        from sklearn.linear_model import LogisticRegression

        check_finite(x, "the activations [item d_model]")
        mean, spread = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
        fitted = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000)
        fitted.fit(((x - mean) / spread).numpy(), labels)
        weights = torch.tensor(fitted.coef_[0], dtype=torch.float32) / spread
        return cls(name, layer, weights, float(fitted.intercept_[0] - mean @ weights), stamp)
