"""How emotion vectors are arranged: components, clusters, neighbours, and how alike two arrangements are."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import AgglomerativeClustering, KMeans
from torch import Tensor

from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, check_method

CLUSTERINGS = ("k-means", "hierarchical")


def components(
    vectors: Float[Tensor, "emotion d_model"], k: int = 10
) -> tuple[Float[Tensor, "emotion component"], Float[Tensor, "component"]]:
    """Principal components of the emotions (paper, section 6): coordinates, and the share of variance of each.

    Raises:
        ValueError: as many components as emotions, or more; centring takes one away.
    """
    if k >= len(vectors):
        raise ValueError(f"{len(vectors)} emotions have at most {len(vectors) - 1} components, not {k}")
    centred = (vectors - vectors.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return (u[:, :k] * s[:k]).float(), (s**2 / (s**2).sum())[:k].float()


def umap(vectors: Float[Tensor, "emotion d_model"], seed: int = 0, neighbours: int = 15) -> Float[Tensor, "emotion 2"]:
    """A map of the emotions for display only: distances in it mean little (paper, section 6).

    Raises:
        ImportError: umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("UMAP needs umap-learn: pip install 'emolens[umap]'") from error
    reducer = UMAP(n_neighbors=min(neighbours, len(vectors) - 1), metric="cosine", random_state=seed, n_jobs=1)
    return torch.from_numpy(reducer.fit_transform(vectors.numpy()))


def clusters(
    vectors: Float[Tensor, "emotion d_model"], k: int, how: str = "k-means", seed: int = 0
) -> Int[Tensor, "emotion"]:
    """A cluster number for each emotion; vectors of length 1, so that distance is cosine distance.

    Raises:
        ValueError: an unknown clustering, or more clusters than emotions.
    """
    if how not in CLUSTERINGS:
        raise ValueError(f"clustering {how!r} is none of {', '.join(CLUSTERINGS)}")
    if not 2 <= k <= len(vectors):
        raise ValueError(f"{k} clusters of {len(vectors)} emotions: choose from 2 to the number of emotions")
    x = torch.nn.functional.normalize(vectors, dim=1).numpy()
    if how == "k-means":
        found = KMeans(k, n_init=10, random_state=seed).fit_predict(x)
    else:
        found = AgglomerativeClustering(k, metric="cosine", linkage="average").fit_predict(x)
    return torch.from_numpy(found.astype(np.int64))


def neighbour_share(similarity: Float[Tensor, "emotion emotion"], labels: Int[Tensor, "emotion"], k: int = 5) -> float:
    """Share of each emotion's k nearest neighbours that lie in its own cluster, averaged over the emotions."""
    nearest = similarity.clone().fill_diagonal_(-torch.inf).topk(k, dim=1).indices
    return float((labels[nearest] == labels[:, None]).float().mean())


def triangle(similarity: Float[Tensor, "emotion emotion"]) -> Float[Tensor, "pair"]:
    """The entries above the diagonal: one for each pair of emotions."""
    row, column = torch.triu_indices(len(similarity), len(similarity), 1)
    return similarity[row, column]


def alike(arrangements: Sequence[Float[Tensor, "emotion _"]]) -> dict[str, Float[Tensor, "arrangement arrangement"]]:
    """How alike several arrangements of the same emotions are, each with each.

    "pearson" and "spearman" correlate the cosine matrices over their pairs (representational similarity),
    "cka" is the linear centred kernel alignment of the vectors, from 0 to 1.
    """
    units = [torch.nn.functional.normalize(x.double(), dim=1) for x in arrangements]
    pairs = torch.stack([triangle(x @ x.T) for x in units])
    kernels = torch.stack([((x - x.mean(dim=0)) @ (x - x.mean(dim=0)).T).flatten() for x in units])
    kernels = torch.nn.functional.normalize(kernels, dim=1)
    ranks = pairs.argsort(dim=1).argsort(dim=1).double()
    found = {"pearson": torch.corrcoef(pairs), "spearman": torch.corrcoef(ranks), "cka": kernels @ kernels.T}
    return {name: matrix.float() for name, matrix in found.items()}


def reliable_layer(vectors: EmotionVectors, method: str = "denoised") -> int:
    """The layer at which vectors from two halves of the topics agree best."""
    mean = vectors.reliability[METHODS.index(check_method(method))].mean(dim=0)
    return vectors.layers[int(mean.argmax())]
