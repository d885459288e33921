"""Do similar emotions lie together? Clusters and neighbourhoods against the paper's ten clusters (section 6)."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_score

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import p_text, p_value
from emolens.studies._common import READOUTS, near
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.geometry import CLUSTERINGS, clusters, neighbour_share

NEIGHBOURS = 5


def paper_labels(emotions: tuple[str, ...]) -> torch.Tensor:
    """The number of the paper's cluster of each emotion."""
    cluster = {name: number for number, members in enumerate(texts.paper_clusters().values()) for name in members}
    return torch.tensor([cluster[name] for name in emotions])


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = 9999, seed: int = 0
) -> StudyResult:
    """k from 2 to 20 with silhouettes; at k = 10 the adjusted Rand index with the paper; shares of neighbours.

    The null permutes the paper's clusters over the emotions.
    """
    paper = paper_labels(vectors.emotions)
    rng, said = np.random.default_rng(seed), []
    rows: list[dict[str, Any]] = []
    for method in READOUTS:
        layer = near(vectors, vectors.chosen_layer(method))
        x, cosines = vectors.matrix(layer, method), vectors.similarity(layer, method)
        for how in CLUSTERINGS:
            for k in range(2, 21) if size == "full" else (10,):
                found = clusters(x, k, how, seed)
                score = float(silhouette_score(x.numpy(), found.numpy(), metric="cosine"))
                row: dict[str, Any] = {"method": method, "layer": layer, "clustering": how, "k": k, "silhouette": score}
                if k == 10:
                    shuffles = [rng.permutation(paper.numpy()) for _ in range(999)]
                    by_chance = np.array([adjusted_rand_score(labels, found.numpy()) for labels in shuffles])
                    row["rand"] = float(adjusted_rand_score(paper.numpy(), found.numpy()))
                    row |= {"rand_null": float(np.quantile(by_chance, 0.95)), "rand_p": p_value(row["rand"], by_chance)}
                rows.append(row)
        share = neighbour_share(cosines, paper, NEIGHBOURS)
        nearest = cosines.clone().fill_diagonal_(-torch.inf).topk(NEIGHBOURS, dim=1).indices.numpy()
        orders = [rng.permutation(paper.numpy()) for _ in range(draws)]
        null = np.array([(labels[nearest] == labels[:, None]).mean() for labels in orders])
        at = next(row for row in rows if row["method"] == method and row["clustering"] == "k-means" and row["k"] == 10)
        at |= {"neighbours": share, "neighbours_null": float(null.mean()), "neighbours_p": p_value(share, null)}
        at["neighbours_null_highest"] = float(null.max())
        said.append(
            f"{method} at block {layer}: {share:.0%} of the {NEIGHBOURS} nearest neighbours are in the same of the "
            f"paper's ten clusters (permuted: {null.mean():.0%} on average, at most {null.max():.0%}; "
            f"{p_text(at['neighbours_p'])}); ten k-means clusters agree with the paper's at an adjusted Rand index of "
            f"{at['rand']:.2f} (permuted: up to {at['rand_null']:.2f}, {p_text(at['rand_p'])})"
        )
    return StudyResult("clusters", pd.DataFrame(rows), "; ".join(said) + ".")
