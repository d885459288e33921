"""What the studies share: which layers they look at, and how places in a text are found."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

import emolens.corpus as texts
from emolens.models.embedded import known_models
from emolens.models.loading import load
from emolens.models.model import HookedModel
from emolens.models.texts import Message
from emolens.stats import Verdict, bootstrap_mean, p_text, sign_flip_p
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import EmotionVectors

# The emotions that the paper shows (section 4).
TWELVE = (
    "afraid", "angry", "calm", "desperate", "guilty", "happy", "inspired", "loving", "nervous", "proud", "sad",
    "surprised",
)  # fmt: skip
READOUTS = ("denoised", "whitened")
SIZES = ("full", "quick")


def layers_of(vectors: EmotionVectors, size: str, methods: Sequence[str] = READOUTS) -> list[int]:
    """All layers of the vectors, or for `quick` those chosen on the stories."""
    check_size(size)
    if size == "full":
        return list(vectors.layers)
    return sorted({near(vectors, vectors.chosen_layer(method)) for method in methods})


class NotForThisModel(ValueError):
    """A study that cannot be run on a model as it is: what it needs is said, and `make results` goes on."""


def check_size(size: str) -> None:
    """Raise ValueError for a size that no study has."""
    if size not in SIZES:
        raise ValueError(f"size={size!r} is none of {', '.join(SIZES)}")


def emotions_of(vectors: EmotionVectors, wanted: Sequence[str], fewest: int = 2) -> list[str]:
    """Those of the wanted emotions that the vectors have, in the order in which they are wanted.

    Raises:
        NotForThisModel: fewer than `fewest` of them; names what is wanted.
    """
    known = [name for name in wanted if name in vectors.emotions]
    if len(known) < fewest:
        some = ", ".join(list(wanted)[:12]) + (" ..." if len(wanted) > 12 else "")
        raise NotForThisModel(
            f"the vectors have {len(known)} of the {len(wanted)} emotions that this study can look at ({some}); at "
            f"least {fewest} are needed: derive vectors for some of them, or name other emotions"
        )
    return known


def other_embedded(model: HookedModel) -> tuple[HookedModel, EmotionVectors] | None:
    """The other embedded model with its vectors, where `model` is an embedded one."""
    names = known_models()
    if model.name not in names:
        return None
    other = load(next(name for name in names if name != model.name))
    return other, derive(other)


def near(vectors: EmotionVectors, layer: int) -> int:
    """`layer`, or where these vectors do not have it the nearest one that they have."""
    return min(vectors.layers, key=lambda own: abs(own - layer))


Item = TypeVar("Item")


def with_vectors(
    items: Iterable[Item], vectors: EmotionVectors, emotions_of: Callable[[Item], Collection[str]], what: str
) -> list[Item]:
    """The items of a stimulus set whose emotions all have a vector.

    Raises:
        NotForThisModel: these are of fewer than two emotions; says of which the set is.
    """
    everything = list(items)
    kept = [item for item in everything if set(emotions_of(item)) <= set(vectors.emotions)]
    if len(left := {name for item in kept for name in emotions_of(item)}) < 2:
        known = sorted({name for item in everything for name in emotions_of(item)})
        raise NotForThisModel(
            f"{what} can be read with these vectors for {', '.join(left) or 'no emotion'} only, and two are needed: "
            f"the vectors are of {_few(vectors.emotions)}; the texts are of {_few(known)}"
        )
    return kept


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def chosen_row(frame: pd.DataFrame, vectors: EmotionVectors, method: str = "denoised", **values: Any) -> pd.Series:
    """The row of a readout at the layer that was chosen for it, among those with these values."""
    wanted = {"method": method, "layer": near(vectors, vectors.chosen_layer(method))} | values
    keep = [(frame[column] == value).to_numpy() for column, value in wanted.items()]
    return frame[np.all(keep, axis=0)].iloc[0]


def chosen_rows(frame: pd.DataFrame, vectors: EmotionVectors, **values: Any) -> Iterator[tuple[str, pd.Series]]:
    """Each readout at the layer that was chosen for it, in words, and its row among those with these values."""
    for method in READOUTS:
        row = chosen_row(frame, vectors, method, **values)
        yield f"{method} at block {row['layer']}", row


def against(p: float, null: str) -> str:
    """How an effect with this p came out against a null, in words: "beyond the null of flipped signs (p = 0.025)"."""
    return f"{Verdict.of([p])} of {null} ({p_text(p)})"


def flipped(effects: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The mean of independent effects, its bootstrap interval, and p by flipping their signs."""
    low, high = bootstrap_mean(effects, seed=seed)
    return {"effect": float(effects.mean()), "low": low, "high": high, "p": sign_flip_p(effects, seed=seed)}


def tokens_before(model: HookedModel, text: str, end: int) -> int:
    """How many tokens hold the first `end` characters of a text."""
    return len(model.encode(text[:end]).ids)


def user(text: str) -> list[Message]:
    """A user's message in the model's chat format, up to the place where the reply begins."""
    return [{"role": "user", "content": text}]


def rating_weights(emotions: Sequence[str], scale: str = "valence", middle: float | None = None) -> torch.Tensor:
    """Weights that take the mean over the emotions that people rate above the middle of a scale less that below it.

    Args:
        middle: default the median of the rated emotions; 5 is the middle of the Glasgow scale of valence.
    """
    rated = {name: row[scale] for name, row in texts.ratings("glasgow").items() if name in emotions}
    middle = float(np.median(list(rated.values()))) if middle is None else middle
    away = torch.tensor([rated.get(name, middle) - middle for name in emotions])
    above, below = (away > 0).float(), (away < 0).float()
    return above / above.sum().clamp(min=1) - below / below.sum().clamp(min=1)
