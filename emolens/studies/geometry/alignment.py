"""Is the arrangement of the emotions the same in other layers, and in another model? (paper, section 6)"""

from typing import Any

import numpy as np
import pandas as pd
import torch

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import p_text, p_value
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.geometry import alike, triangle
from emolens.vectors.pooling import RULES, pool
from emolens.vectors.refit import refit

LAYERS = 14  # central ones, as in the paper


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", method: str = "denoised") -> StudyResult:
    """Similarity of the cosine matrices of central layers, with linear CKA and Spearman beside it."""
    count = min(LAYERS, len(vectors.layers))
    start = (len(vectors.layers) - count) // 2
    layers = vectors.layers[start : start + count]
    matrices = alike([vectors.matrix(layer, method) for layer in layers])
    rows = []
    for i, a in enumerate(layers):
        for j, b in enumerate(layers):
            rows.append({"row": a, "column": b} | {name: float(matrix[i, j]) for name, matrix in matrices.items()})
    frame = pd.DataFrame(rows).assign(score=lambda frame: frame["pearson"])
    apart = frame[frame["row"] != frame["column"]]
    span = {name: f"{apart[name].min():.2f} to {apart[name].max():.2f}" for name in matrices}
    verdict = (
        f"The cosine matrices of blocks {layers[0]} to {layers[-1]} correlate with each other at {span['pearson']} "
        f"(Spearman {span['spearman']}, linear CKA {span['cka']}); the two ends at {matrices['pearson'][0, -1]:.2f}."
    )
    options = {"title": "Similarity of the cosine matrices", "lowest": min(0.5, float(frame["score"].min()))}
    return StudyResult("alignment", frame, verdict, "score_matrix", options)


def halves(
    model: HookedModel, vectors: EmotionVectors, layer: int, corpus: Corpus | None = None
) -> tuple[EmotionVectors, EmotionVectors]:
    """Vectors from two halves of the topics of each register, at one layer.

    Args:
        corpus: the stories that the vectors were derived from at this layer alone; default all the packaged ones.
    """
    stories = texts.stories() if corpus is None else corpus
    topics = {r: sorted({s.topic for s in stories if s.register == r}) for r in {s.register for s in stories}}
    side = torch.tensor([topics[s.register].index(s.topic) % 2 == 0 for s in stories])
    pooled = None if corpus is None else pool(model, corpus.texts, [layer], RULES, progress=False)
    one, other = (refit(model, vectors, [layer], corpus=corpus, pooled=pooled, keep=rows) for rows in (side, ~side))
    return one, other


def between(
    model: HookedModel,
    vectors: EmotionVectors,
    other_model: HookedModel,
    other: EmotionVectors,
    method: str = "denoised",
    draws: int = 999,
    seed: int = 0,
    same: int | None = None,
    corpus: Corpus | None = None,
) -> StudyResult:
    """Similarity of two models' cosine matrices, with a ceiling from split halves and a permutation null.

    Vectors of both models from the same stories share what is accidental in those stories, so the two are also
    compared on different halves of the topics. There the ceiling holds: the geometric mean of how well two
    halves agree within each model.

    Args:
        same: the layer of both, for two checkpoints; default the one chosen for each on the stories.
        corpus: as for `halves`.
    """
    layers = (vectors.chosen_layer(method), other.chosen_layer(method)) if same is None else (same, same)
    found = alike([vectors.matrix(layers[0], method), other.matrix(layers[1], method)])
    parts = [
        half.matrix(layer, method)
        for m, v, layer in ((model, vectors, layers[0]), (other_model, other, layers[1]))
        for half in halves(m, v, layer, corpus)
    ]
    half = alike(parts)["pearson"]
    own = float(half[0, 1]), float(half[2, 3])
    rng, null = np.random.default_rng(seed), []
    a, b = vectors.similarity(layers[0], method), other.similarity(layers[1], method)
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(b)))
        null.append(float(torch.corrcoef(torch.stack([triangle(a), triangle(b[order][:, order])]))[0, 1]))
    row: dict[str, Any] = {"model": model.name, "other": other_model.name, "layer": layers[0]}
    row |= {"other_layer": layers[1]} | {name: float(matrix[0, 1]) for name, matrix in found.items()}
    row |= {"disjoint": float(half[0, 3] + half[1, 2]) / 2, "half": own[0], "other_half": own[1]}
    row |= {"ceiling": float(np.sqrt(max(own[0], 0) * max(own[1], 0))), "null": float(np.quantile(null, 0.95))}
    row["p"] = p_value(row["pearson"], np.array(null))
    verdict = (
        f"The cosine matrices of {model.name} (block {layers[0]}) and {other_model.name} (block {layers[1]}) correlate "
        f"at {row['pearson']:.2f} (permuted emotions: up to {row['null']:.2f}, {p_text(row['p'])}) on the same stories "
        f"and at {row['disjoint']:.2f} on different halves of the topics, where the ceiling is {row['ceiling']:.2f} "
        f"(halves within each model: {own[0]:.2f} and {own[1]:.2f})."
    )
    return StudyResult("between_models", pd.DataFrame([row]), verdict)
