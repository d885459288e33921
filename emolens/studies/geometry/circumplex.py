"""Do the components of the emotion vectors mirror human valence and arousal? (paper, section 6)"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import correlation, p_text, p_value
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.geometry import components, reliable_layer
from emolens.vectors.refit import refit

SCALES = ("valence", "arousal", "dominance")
SOURCES = ("glasgow", "russell_mehrabian")
COMPONENTS = 5
FEWEST = 10  # rated words for which a correlation says anything

log = logging.getLogger(__name__)


def ratings(emotions: tuple[str, ...], source: str, scale: str) -> tuple[list[int], np.ndarray]:
    """Which of the emotions are rated, and how. Words that are no emotion here are logged and passed over.

    Raises:
        ValueError: fewer than ten of the emotions are rated.
    """
    rated = {name: row[scale] for name, row in texts.ratings(source).items() if scale in row}
    if unknown := [name for name in rated if name not in emotions]:
        log.warning("%d words rated in %s have no vector: %s", len(unknown), source, ", ".join(unknown[:5]))
    rows = [row for row, name in enumerate(emotions) if name in rated]
    if len(rows) < FEWEST:
        raise ValueError(
            f"{source} rates the {scale} of {len(rows)} of the {len(emotions)} emotions; at least {FEWEST} are needed"
        )
    return rows, np.array([rated[emotions[row]] for row in rows])


def against_ratings(
    vectors: Float[Tensor, "emotion d_model"],
    emotions: tuple[str, ...],
    draws: int = 999,
    seed: int = 0,
    sources: Sequence[str] = SOURCES,
) -> pd.DataFrame:
    """Correlation of each of the first components with each rating, with interval, null and cross-validated upper line.

    The null permutes the ratings over the words and takes the largest |r| of all components looked at, so that
    looking at several is paid for. `ridge` is how well a linear readout of all directions predicts the ratings of
    words that it was not fitted on (ten folds).

    Args:
        sources: names of packaged ratings, or .csv files (see `corpus.ratings`).
    """
    x, explained = components(vectors, COMPONENTS)
    rng, rows = np.random.default_rng(seed), []
    for source in sources:
        for scale in [scale for scale in SCALES if scale in next(iter(texts.ratings(source).values()), {})]:
            words, human = ratings(emotions, source, scale)
            places = x[words].numpy()
            null = np.array([_largest(places, rng.permutation(human)) for _ in range(draws)])
            folds = KFold(10, shuffle=True, random_state=seed)
            readout = RidgeCV(np.logspace(-3, 3, 13) * float(vectors.square().sum(dim=1).mean()))
            told = cross_val_predict(readout, vectors[words].double().numpy(), human, cv=folds)
            for component in range(COMPONENTS):
                r, low, high = correlation(places[:, component], human, seed=seed)
                ends = (min(low, high), max(low, high)) if r >= 0 else (-max(low, high), -min(low, high))
                found: dict[str, Any] = {"source": source, "scale": scale, "rating": f"{scale} ({source})"}
                found |= {"component": component + 1, "explained": float(explained[component]), "words": len(words)}
                found |= {"r": abs(r), "low": ends[0], "high": ends[1], "null": float(np.quantile(null, 0.95))}
                rows.append(found | {"p": p_value(abs(r), null), "ridge": correlation(told, human, draws=2)[0]})
    return pd.DataFrame(rows)


def _largest(places: np.ndarray, human: np.ndarray) -> float:
    return float(np.abs(np.corrcoef(np.vstack([human, places.T]))[0, 1:]).max())


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", register: str = "plain", method: str = "denoised"
) -> StudyResult:
    """At the layer chosen by split-half reliability; `quick` draws fewer permutations."""
    vectors = of_register(model, vectors, register)
    layer = reliable_layer(vectors, method)
    frame = against_ratings(vectors.vectors(layer, method), vectors.emotions, 9999 if size == "full" else 999)
    frame = frame.assign(layer=layer, register=register, method=method)
    return StudyResult("circumplex", frame, _verdict(frame, layer, register, method), "component_bars")


def of_register(model: HookedModel, vectors: EmotionVectors, register: str) -> EmotionVectors:
    """Vectors from one register, or as they are for "both"."""
    return vectors if register == "both" else refit(model, vectors, register=register)


def by_layer(
    model: HookedModel, vectors: EmotionVectors, register: str = "plain", method: str = "denoised", first: int = 3
) -> StudyResult:
    """Where in the model valence and arousal emerge: the largest |r| of the first components, layer by layer."""
    vectors = of_register(model, vectors, register)
    rows = []
    for layer in vectors.layers:
        table = against_ratings(vectors.vectors(layer, method), vectors.emotions, 199)
        for scale in ("valence", "arousal"):
            part = table[(table["scale"] == scale) & (table["source"] == "glasgow") & (table["component"] <= first)]
            best = part.loc[part["r"].idxmax()]
            row = {"layer": layer, "scale": scale, "component": int(best["component"]), "effect": best["r"]}
            rows.append(row | {"low": best["low"], "high": best["high"], "null_low": 0.0, "null_high": best["null"]})
    frame = pd.DataFrame(rows)
    top = {scale: part.loc[part["effect"].idxmax()] for scale, part in frame.groupby("scale", sort=False)}
    said = "; ".join(
        f"{scale} is highest at block {row['layer']} (|r| = {row['effect']:.2f})" for scale, row in top.items()
    )
    options = {
        "series": "scale",
        "ylabel": "|r| with the Glasgow Norms",
        "title": f"Best of the first {first} components",
    }
    return StudyResult("circumplex_by_layer", frame, f"Over the layers, {said}.", "effect_by_layer", options)


def _verdict(frame: pd.DataFrame, layer: int, register: str, method: str) -> str:
    said = []
    for scale, first in (("valence", 2), ("arousal", 3)):
        for source in SOURCES:
            part = frame[(frame["source"] == source) & (frame["scale"] == scale) & (frame["component"] <= first)]
            best = part.loc[part["r"].idxmax()]
            said.append(
                f"{scale} ({source}, {best['words']} words): component {best['component']}, |r| = {best['r']:.2f} "
                f"[{best['low']:.2f}, {best['high']:.2f}] ({p_text(best['p'])}; null up to {best['null']:.2f}; "
                f"cross-validated ridge r = {best['ridge']:.2f})"
            )
    name = {"both": "both registers"}.get(register, f"the {register} register")
    return f"From {name}, {method}, block {layer}: " + "; ".join(said) + "."


def ends(vectors: EmotionVectors, layer: int, method: str = "denoised", k: int = 6) -> pd.DataFrame:
    """The emotions at either end of each component."""
    x, explained = components(vectors.vectors(layer, method), COMPONENTS)
    rows = []
    for component in range(COMPONENTS):
        order = x[:, component].argsort().tolist()
        low, high = (", ".join(vectors.emotions[row] for row in rows) for rows in (order[:k], order[::-1][:k]))
        rows.append((component + 1, float(explained[component]), low, high))
    return pd.DataFrame(rows, columns=["component", "explained", "one end", "other end"])
