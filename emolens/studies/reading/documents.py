"""Does the valence that the vectors read agree with human ratings of documents that nobody here wrote?"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import correlation
from emolens.studies._common import READOUTS, layers_of, rating_weights
from emolens.vectors.emotion_vectors import EmotionVectors

KINDS = ("products", "films", "editorials")
PLACES = ("last", "document")
MIDDLE = 5.0  # of the Glasgow scale of valence, 1 to 9


def valence_weights(emotions: tuple[str, ...]) -> Float[Tensor, "emotion"]:
    """Weights that take the mean over the emotions rated pleasant less the mean over those rated unpleasant."""
    return rating_weights(emotions, "valence", MIDDLE)


def valence(
    x: Float[Tensor, "text d_model"], vectors: EmotionVectors, layer: int, method: str
) -> Float[Tensor, "text"]:
    """Valence of each text: scores centred on the set, pleasant less unpleasant emotions."""
    return score(x, vectors, layer, method, x.mean(dim=0)) @ valence_weights(vectors.emotions)


def random_axes(x: Float[Tensor, "text d_model"], human: np.ndarray, draws: int, seed: int) -> float:
    """97.5 % quantile of |r| between the ratings and cosines with random directions."""
    y = x - x.mean(dim=0)
    axes = torch.randn(y.shape[1], draws, generator=torch.Generator().manual_seed(seed))
    read = torch.nn.functional.normalize(y, dim=1) @ axes
    r = np.corrcoef(np.vstack([human, read.T.numpy()]))[0, 1:]
    return float(np.quantile(np.abs(r), 0.975))


def shuffled_ratings(
    x: Float[Tensor, "text d_model"], human: np.ndarray, vectors: EmotionVectors, layer: int, method: str, seed: int
) -> float:
    """97.5 % quantile of |r| when the words' ratings are permuted: other splits of the same emotions."""
    scores = score(x, vectors, layer, method, x.mean(dim=0))
    weights = valence_weights(vectors.emotions)
    rated, rng = weights.nonzero().flatten(), np.random.default_rng(seed)
    draws = torch.zeros(len(weights), 999)
    for column in range(draws.shape[1]):
        draws[rated, column] = weights[rated][torch.from_numpy(rng.permutation(len(rated)))]
    r = np.corrcoef(np.vstack([human, (scores @ draws).T.numpy()]))[0, 1:]
    return float(np.quantile(np.abs(r), 0.975))


def vader(documents: list[str]) -> np.ndarray:
    """The compound score of the VADER lexicon, from -1 to 1 (Hutto and Gilbert 2014)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    rate = SentimentIntensityAnalyzer().polarity_scores
    return np.array([rate(text)["compound"] for text in documents])


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", n: int | None = None, seed: int = 0
) -> StudyResult:
    """Correlation by kind, place, readout and layer; all three chosen on the product reviews alone.

    Args:
        n: documents of each kind, drawn with the seed; default 1,000, and 200 for `quick`.
    """
    vectors.check_model(model)
    n = n or (1000 if size == "full" else 200)
    layers, rows = layers_of(vectors, size), []
    for kind in KINDS:
        documents = texts.rated_documents(kind, n, seed)
        human = np.array([document.valence for document in documents])
        lexicon, _, _ = correlation(vader([document.text for document in documents]), human, draws=1)
        for place in PLACES:
            x = activations(model, [document.text for document in documents], layers, place)
            for number, layer in enumerate(layers):
                axes = random_axes(x[number], human, 999, seed)
                for method in READOUTS:
                    read = valence(x[number], vectors, layer, method).numpy()
                    r, low, high = correlation(read, human, seed=seed)
                    split = shuffled_ratings(x[number], human, vectors, layer, method, seed)
                    found = {"effect": r, "low": low, "high": high, "null_axes": axes, "null_ratings": split}
                    place_row = {"kind": kind, "texts": n, "place": place, "method": method, "layer": layer}
                    rows.append(place_row | found | {"vader": lexicon})
    frame = pd.DataFrame(rows)
    frame["null_high"] = frame[["null_axes", "null_ratings"]].max(axis=1)
    frame["null_low"] = -frame["null_high"]
    at = frame.loc[frame.query("kind == 'products'")["effect"].idxmax()]
    verdict = (
        f"Chosen on product reviews (r = {at['effect']:.2f}): {at['method']}, block {at['layer']}, {at['place']}. "
        + " ".join(_said(frame, at, kind) for kind in KINDS[1:])
    )
    options = {"series": "series", "title": "Valence read against human ratings", "ylabel": "r"}
    named = frame.assign(series=frame["kind"] + ", " + frame["place"] + ", " + frame["method"])
    return StudyResult("documents", named.assign(chosen=_is_chosen(frame, at)), verdict, "effect_by_layer", options)


def _is_chosen(frame: pd.DataFrame, at: Any) -> pd.Series:
    return (frame["place"] == at["place"]) & (frame["method"] == at["method"]) & (frame["layer"] == at["layer"])


def _said(frame: pd.DataFrame, at: Any, kind: str) -> str:
    row = frame[_is_chosen(frame, at) & (frame["kind"] == kind)].iloc[0]
    return (
        f"{kind.capitalize()}: r = {row['effect']:.2f} [{row['low']:.2f}, {row['high']:.2f}] on {row['texts']} texts "
        f"(random axes: up to {row['null_axes']:.2f}; permuted word ratings: up to {row['null_ratings']:.2f}; "
        f"the VADER lexicon: {row['vader']:.2f})."
    )
