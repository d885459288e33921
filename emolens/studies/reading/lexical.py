"""How much do single words, or punctuation and person alone, already give? Nulls of the same recipe.

A text's static embedding is the mean of the model's own token embeddings: it knows which words occur and nothing
of their order. Its style is its share of punctuation marks and of personal pronouns, and its length. Vectors are made
from either exactly as from activations, and tested on the same texts.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, correlation
from emolens.studies.reading import documents, implicit, numbers
from emolens.vectors.derive import fit, rank_matrix
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.pooling import RULES, PooledActivations, TokenMoments

MARKS = ("!", "?", ",", ";", ":", "-", "'", '"', "...", "(", ".")
PERSONS = (
    "i|me|my|mine|myself",
    "you|your|yours",
    "we|us|our",
    "he|him|his",
    "she|her|hers",
    "they|them|their",
    "it|its",
)
Features = Callable[[Sequence[str]], Float[Tensor, "text feature"]]


def embeddings(model: HookedModel) -> Features:
    """Mean of the token embeddings of each text, the first token left out as everywhere."""
    matrix = model.bridge.W_E.detach().float().cpu()

    def features(documents: Sequence[str]) -> Float[Tensor, "text feature"]:
        return torch.stack(
            [matrix[model.encode(text).ids[1:] or model.encode(text).ids].mean(dim=0) for text in documents]
        )

    return features


def style(documents: Sequence[str]) -> Float[Tensor, "text feature"]:
    """Marks and pronouns for each word, mean length of words and sentences, and the length of the text."""
    rows = []
    for text in documents:
        words = re.findall(r"[\w']+", text.lower())
        n = max(1, len(words))
        persons = [sum(bool(re.fullmatch(person, word)) for word in words) / n for person in PERSONS]
        sentences = max(1, len(re.findall(r"[.!?]+", text)))
        lengths = [math.log(n), n / sentences / 20, sum(map(len, words)) / n / 5]
        rows.append([text.count(mark) / n for mark in MARKS] + persons + lengths)
    return torch.tensor(rows)


def vectors_of(features: Features, shrinkage: float = 1.0) -> EmotionVectors:
    """Emotion vectors in the space of the features, at a single layer 0, by the recipe of `el.fit`."""
    corpus = texts.stories()
    x = features(corpus.texts)
    spread = x.std(dim=0).clamp(min=1e-8)
    shards = {f"mean.{rule}": x[None] for rule in RULES}
    counts, norm = torch.full((len(x),), 999), x.norm(dim=1).mean()[None]
    pooled = PooledActivations((0,), RULES, counts, norm, ((list(range(len(x))), shards),), {"fingerprint": "features"})
    calm = features(texts.neutral())
    covariance = torch.cov(calm.T) + 1e-6 * torch.diag(spread**2)
    return fit(pooled, corpus, TokenMoments((0,), calm.mean(dim=0)[None], covariance[None]), shrinkage)


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", n: int | None = None, seed: int = 0
) -> StudyResult:
    """The vignettes, the implicit scenarios, the numbers and the rated documents with features instead of activations.

    `vectors` gives the shrinkage; nothing else of it is used.
    """
    shrinkage = vectors.stamp.get("chosen", {}).get("whitened", {}).get("shrinkage", 1.0)
    rows: list[dict[str, Any]] = []
    for name, features in (("token embeddings", embeddings(model)), ("style", style)):
        null = vectors_of(features, shrinkage)
        for method in ("denoised", "whitened"):
            rows += [{"null": name, "method": method} | row for row in _measures(features, null, method, size, n, seed)]
    frame = pd.DataFrame(rows)
    said = "; ".join(
        f"{name}, {measure}: {part['value'].max():.2f}"
        for (name, measure), part in frame.groupby(["null", "measure"], sort=False)
    )
    return StudyResult("lexical", frame, f"What the nulls reach, with the better of two readouts. {said}.")


def _measures(
    features: Features, null: EmotionVectors, method: str, size: str, n: int | None, seed: int
) -> list[dict[str, Any]]:
    corpus = texts.vignettes()
    x = features(corpus.texts)
    truth = torch.tensor([null.index(story.emotion) for story in corpus])
    ranks = rank_matrix(score(x, null, 0, method, x.mean(dim=0))).gather(1, truth[:, None])[:, 0]
    rows = []
    for name, k in (("vignettes, first", 1), ("vignettes, first five", 5)):
        hit = (ranks <= k).float().numpy()
        low, high = bootstrap_mean(hit, groups=truth.numpy(), seed=seed)
        rows.append({"measure": name, "value": float(hit.mean()), "low": low, "high": high})
    messages, names, labels = implicit.data(null.emotions)
    found, _ = implicit.measure(features(messages), labels, null[names], 0, method, 99, seed)
    rows.append({"measure": "implicit, rows on the diagonal", "value": found["on_diagonal"] / len(names)})
    signs, _ = numbers.signs(numbers.curves(features(numbers.prompts(False)), null, 0, method), seed)
    rows.append(
        {"measure": "numbers, signs that hold"}
        | {"value": signs["share"], "low": signs["share_low"], "high": signs["share_high"]}
    )
    for kind in documents.KINDS[1:]:
        rated = texts.rated_documents(kind, n or (1000 if size == "full" else 200), seed)
        human = np.array([document.valence for document in rated])
        read = documents.valence(features([document.text for document in rated]), null, 0, method).numpy()
        r, low, high = correlation(read, human, seed=seed)
        rows.append({"measure": f"{kind}, r with the ratings", "value": r, "low": low, "high": high})
    return rows
