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
from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.models.placement import weight_of
from emolens.reading.read import score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, correlation
from emolens.studies._common import READOUTS, check_size
from emolens.studies.reading import documents, implicit, numbers
from emolens.studies.reading.detection import FOUND, vignettes
from emolens.vectors.choose import rank_matrix
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.fit import fit
from emolens.vectors.pooling import RULES, PooledActivations
from emolens.vectors.refit import stories_of
from emolens.vectors.token_moments import TokenMoments

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


def embedding_matrix(model: HookedModel) -> Float[Tensor, "vocab d_model"]:
    """The token embeddings, in float32.

    >>> tuple(embedding_matrix(model).shape)
    (80, 32)
    """
    inner = model.hf_model
    return (model.bridge.W_E if inner is None else weight_of(inner.get_input_embeddings())).detach().float().cpu()


def embeddings(model: HookedModel) -> Features:
    """Mean of the token embeddings of each text, the first token left out as everywhere.

    >>> tuple(embeddings(model)(["She ran.", "The river was cold."]).shape)
    (2, 32)
    """
    matrix = embedding_matrix(model)

    def features(documents: Sequence[str]) -> Float[Tensor, "text feature"]:
        return torch.stack(
            [matrix[model.encode(text).ids[1:] or model.encode(text).ids].mean(dim=0) for text in documents]
        )

    return features


def names(model: HookedModel, emotions: Sequence[str]) -> Float[Tensor, "emotion d_model"]:
    """The token embedding of each emotion's own name, after a space; the mean, where it has several tokens.

    >>> tuple(names(model, ["happy", "on edge"]).shape)
    (2, 32)
    """
    matrix = embedding_matrix(model)
    own = [model.tokenizer(f" {emotion}", add_special_tokens=False)["input_ids"] for emotion in emotions]
    return torch.stack([matrix[ids].mean(dim=0) for ids in own])


def style(documents: Sequence[str]) -> Float[Tensor, "text feature"]:
    """Marks and pronouns for each word, mean length of words and sentences, and the length of the text.

    >>> style(["I ran! I ran!"])[0, MARKS.index("!")].item()  # for each of four words
    0.5
    """
    rows = []
    for text in documents:
        words = re.findall(r"[\w']+", text.lower())
        n = max(1, len(words))
        persons = [sum(bool(re.fullmatch(person, word)) for word in words) / n for person in PERSONS]
        sentences = max(1, len(re.findall(r"[.!?]+", text)))
        lengths = [math.log(n), n / sentences / 20, sum(map(len, words)) / n / 5]
        rows.append([text.count(mark) / n for mark in MARKS] + persons + lengths)
    return torch.tensor(rows)


def vectors_of(features: Features, corpus: Corpus, shrinkage: float = 1.0) -> EmotionVectors:
    """Emotion vectors in the space of the features, at a single layer 0, by the recipe of `el.fit`.

    >>> tuple(vectors_of(style, corpus).raw.shape)  # emotion, layer, feature
    (6, 1, 21)
    """
    x = features(corpus.texts)
    spread = x.std(dim=0).clamp(min=1e-8)
    shards = {f"mean.{rule}": x[None] for rule in RULES}
    counts, norm = torch.full((len(x),), 999), x.norm(dim=1).mean()[None]
    pooled = PooledActivations((0,), RULES, counts, norm, ((list(range(len(x))), shards),), {"fingerprint": "features"})
    calm = features(texts.neutral())
    covariance = torch.cov(calm.T) + 1e-6 * torch.diag(spread**2)
    return fit(pooled, corpus, TokenMoments((0,), calm.mean(dim=0)[None], covariance[None]), shrinkage)


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    n: int | None = None,
    seed: int = 0,
    corpus: Corpus | None = None,
) -> StudyResult:
    """The vignettes, the implicit scenarios, the numbers and the rated documents with features instead of activations.

    `vectors` gives the stories and the shrinkage; nothing else of it is used.

    Args:
        n: rated documents of each kind; default 1,000, and 200 for `quick`.
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    >>> run(model, vectors, "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    shrinkage = vectors.stamp.get("chosen", {}).get("whitened", {}).get("shrinkage", 1.0)
    corpus = stories_of(vectors) if corpus is None else corpus
    rated = {kind: documents.rated(kind, size, n, seed) for kind in documents.KINDS[1:]}
    rows: list[dict[str, Any]] = []
    for name, features in (("token embeddings", embeddings(model)), ("style", style)):
        null = vectors_of(features, corpus, shrinkage)
        for method in READOUTS:
            measures = _of_stimuli(features, null, method, seed) + _of_documents(features, null, method, rated, seed)
            rows += [{"null": name, "method": method} | row for row in measures]
    frame = pd.DataFrame(rows)
    return StudyResult("lexical", frame, headline(frame), "none: these features are the null of what activations give")


def headline(frame: pd.DataFrame) -> str:
    """What the features give on the vignettes, with the better of the two readouts.

    >>> rows = [("token embeddings", 0.34), ("token embeddings", 0.3), ("style", 0.03)]
    >>> headline(pd.DataFrame(rows, columns=["null", "value"]).assign(measure="vignettes, first"))
    'With the better of the two readouts, token embeddings alone find the right emotion first for 34% of the vignettes,
    and style alone for 3%.'
    """
    best = frame[frame["measure"] == "vignettes, first"].groupby("null")["value"].max()
    return (
        f"With the better of the two readouts, token embeddings alone find the right emotion first for "
        f"{best['token embeddings']:.0%} of the vignettes, and style alone for {best['style']:.0%}."
    )


def _of_stimuli(features: Features, null: EmotionVectors, method: str, seed: int) -> list[dict[str, Any]]:
    """The vignettes, the implicit messages and the numbers."""
    targets = vignettes(null)
    x = features(targets.texts)
    truth = torch.tensor([null.index(story.emotion) for story in targets])
    ranks = rank_matrix(score(x, null, 0, method, x.mean(dim=0))).gather(1, truth[:, None])[:, 0]
    rows = []
    for name, k in FOUND.items():
        hit = (ranks <= k).float().numpy()
        low, high = bootstrap_mean(hit, groups=truth.numpy(), seed=seed)
        measure = f"vignettes, {name.replace('_', ' ')}"
        rows.append({"measure": measure, "value": float(hit.mean()), "low": low, "high": high})
    messages, names, labels = implicit.data(null)
    row, _ = implicit.measure(features(messages), labels, null[names], 0, method, 99, seed)
    rows.append({"measure": "implicit, rows on the diagonal", "value": row["on_diagonal"] / len(names)})
    signs, _ = numbers.signs(numbers.curves(features(numbers.prompts(False)), null, 0, method), seed)
    share = {"value": signs["share"], "low": signs["share_low"], "high": signs["share_high"]}
    return [*rows, {"measure": "numbers, signs that hold"} | share]


def _of_documents(
    features: Features, null: EmotionVectors, method: str, rated: dict[str, tuple[list[str], np.ndarray]], seed: int
) -> list[dict[str, Any]]:
    """The correlation with human ratings, for each kind of document."""
    rows = []
    for kind, (sentences, human) in rated.items():
        r, low, high = correlation(documents.valence(features(sentences), null, 0, method).numpy(), human, seed=seed)
        rows.append({"measure": f"{kind}, r with the ratings", "value": r, "low": low, "high": high})
    return rows
