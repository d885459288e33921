"""Do similar emotions lie together? Clusters and neighbourhoods against the paper's ten clusters (section 6)."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, family_p, p_text, tail_p
from emolens.studies._common import READOUTS, check_size, emotions_of, near
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.geometry import CLUSTERINGS, clusters, neighbour_share

NEIGHBOURS = 5
PAPER = 10  # clusters in the paper
FEWEST = 12  # emotions, of which ten clusters can be made


def paper_labels(emotions: tuple[str, ...]) -> Int[Tensor, "emotion"]:
    """The number of the paper's cluster of each emotion.

    Raises:
        ValueError: an emotion that is in none of them.

    >>> paper_labels(("calm", "afraid")).tolist()
    [1, 8]
    """
    cluster = {name: number for number, members in enumerate(texts.paper_clusters().values()) for name in members}
    if unknown := [name for name in emotions if name not in cluster]:
        raise ValueError(f"{unknown[0]!r} is in none of the paper's ten clusters, which hold {len(cluster)} emotions")
    return torch.tensor([cluster[name] for name in emotions])


def in_paper(vectors: EmotionVectors, fewest: int = FEWEST) -> list[str]:
    """The emotions of the vectors that are in one of the paper's clusters.

    Raises:
        NotForThisModel: fewer than `fewest`.

    >>> len(in_paper(shipped))
    171
    """
    paper = {name for members in texts.paper_clusters().values() for name in members}
    known = emotions_of(vectors, sorted(paper), fewest)
    return [name for name in vectors.emotions if name in known]


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = 9999, seed: int = 0
) -> StudyResult:
    """k from 2 to 20 with silhouettes; at k = 10 the adjusted Rand index with the paper; shares of neighbours.

    The null permutes the paper's clusters over the emotions. Of the vectors' emotions those count that are in one of
    the paper's clusters.

    Raises:
        NotForThisModel: vectors with fewer than twelve such emotions.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    vectors = vectors[in_paper(vectors)]
    paper = paper_labels(vectors.emotions)
    rng, rows = np.random.default_rng(seed), []
    ks = range(2, min(21, len(paper))) if size == "full" else (PAPER,)
    for method in READOUTS:
        layer = near(vectors, vectors.chosen_layer(method))
        matrix = vectors.matrix(layer, method)
        made = [clustering(matrix, paper, how, k, rng, seed) for how in CLUSTERINGS for k in ks]
        first = next(row for row in made if row["k"] == PAPER)
        first |= neighbours(vectors.similarity(layer, method), paper, rng, draws)
        rows += [{"method": method, "layer": layer} | row for row in made]
    frame = pd.DataFrame(rows)
    null = f"{draws} permutations of the paper's clusters over the emotions for neighbours, 999 for the Rand index"
    return StudyResult("clusters", frame, headline(frame), null)


def clustering(
    matrix: Float[Tensor, "emotion d_model"],
    paper: Int[Tensor, "emotion"],
    how: str,
    k: int,
    rng: np.random.Generator,
    seed: int = 0,
) -> dict[str, Any]:
    """The silhouette of k clusters, and at k = 10 the adjusted Rand index with the paper's, its null and p.

    >>> x = shipped.matrix(20)
    >>> row = clustering(x, paper_labels(shipped.emotions), "k-means", 10, np.random.default_rng(0))
    >>> row["rand"] > row["rand_null"]
    True
    """
    labels = clusters(matrix, k, how, seed).numpy()
    score = float(silhouette_score(matrix.numpy(), labels, metric="cosine"))
    row: dict[str, Any] = {"clustering": how, "k": k, "silhouette": score}
    if k == PAPER:
        shuffles = [rng.permutation(paper.numpy()) for _ in range(999)]
        by_chance = np.array([adjusted_rand_score(shuffled, labels) for shuffled in shuffles])
        row["rand"] = float(adjusted_rand_score(paper.numpy(), labels))
        row |= {"rand_null": float(np.quantile(by_chance, 0.95)), "rand_p": tail_p(row["rand"], by_chance)}
    return row


def neighbours(
    cosines: Float[Tensor, "emotion emotion"], paper: Int[Tensor, "emotion"], rng: np.random.Generator, draws: int = 999
) -> dict[str, float]:
    """The share of the five nearest neighbours in the paper's cluster of an emotion, its null and p.

    >>> shares = neighbours(shipped.similarity(20), paper_labels(shipped.emotions), np.random.default_rng(0), 99)
    >>> round(shares["neighbours"], 1), round(shares["neighbours_null"], 1)
    (0.6, 0.1)
    """
    share = neighbour_share(cosines, paper, NEIGHBOURS)
    nearest = cosines.clone().fill_diagonal_(-torch.inf).topk(NEIGHBOURS, dim=1).indices.numpy()
    orders = [rng.permutation(paper.numpy()) for _ in range(draws)]
    null = np.array([(labels[nearest] == labels[:, None]).mean() for labels in orders])
    row = {"neighbours": share, "neighbours_null": float(null.mean()), "neighbours_p": tail_p(share, null)}
    return row | {"neighbours_null_highest": float(null.max())}


def by_cluster(
    vectors: EmotionVectors, layer: int, method: str = "denoised", draws: int = 1999, seed: int = 0
) -> pd.DataFrame:
    """The share of nearest neighbours that are in the emotion's cluster, for each of the paper's clusters.

    Returns:
        A row for each cluster, as `plots.shift_dots` draws it: `emotion` is the cluster and its size, `shift` the
        share, `low` and `high` the interval over its members, `null_low` and `null_high` where 95 % of permuted
        clusters lie, `p` for the family of clusters, and whether that `counts`.

    >>> table = by_cluster(shipped, 20, draws=99)
    >>> len(table), table["emotion"].iloc[0]
    (10, 'Exuberant Joy (20)')
    """
    vectors = vectors[in_paper(vectors)]
    paper = paper_labels(vectors.emotions).numpy()
    cosines = vectors.similarity(layer, method)
    nearest = cosines.clone().fill_diagonal_(-torch.inf).topk(NEIGHBOURS, dim=1).indices.numpy()
    titles = [title for number, title in enumerate(texts.paper_clusters()) if (paper == number).any()]
    numbers = [number for number in range(len(texts.paper_clusters())) if (paper == number).any()]
    rng = np.random.default_rng(seed)

    def shares(labels: np.ndarray) -> np.ndarray:
        same = (labels[nearest] == labels[:, None]).mean(axis=1)
        return np.array([same[labels == number].mean() for number in numbers])

    null = np.stack([shares(rng.permutation(paper)) for _ in range(draws)])
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    own = (paper[nearest] == paper[:, None]).mean(axis=1)
    ends = [bootstrap_mean(own[paper == number], seed=seed) for number in numbers]
    frame = pd.DataFrame({"emotion": titles, "shift": shares(paper), "null_low": low, "null_high": high})
    frame["emotion"] = [
        f"{title} ({int((paper == number).sum())})" for title, number in zip(titles, numbers, strict=True)
    ]
    frame["low"], frame["high"] = zip(*ends, strict=True)
    frame["p"] = family_p(frame["shift"].to_numpy(), null)
    return frame.assign(counts=frame["p"] < 0.05, group="own vectors")


def headline(frame: pd.DataFrame) -> str:
    """The share of neighbours in the paper's clusters, of the denoised vectors.

    >>> row = {"method": "denoised", "neighbours": 0.63, "neighbours_null": 0.14, "neighbours_p": 1e-4}
    >>> headline(pd.DataFrame([row]))
    "63% of the nearest neighbours of an emotion are in its cluster of the paper's ten; with permuted clusters 14% are
    (p < 0.001)."
    """
    row = frame[(frame["method"] == "denoised") & frame["neighbours"].notna()].iloc[0]
    return (
        f"{row['neighbours']:.0%} of the nearest neighbours of an emotion are in its cluster of the paper's ten; with "
        f"permuted clusters {row['neighbours_null']:.0%} are ({p_text(row['neighbours_p'])})."
    )
