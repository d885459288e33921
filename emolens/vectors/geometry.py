"""How emotion vectors are arranged: components, clusters, neighbours, and how alike two arrangements are."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import AgglomerativeClustering, KMeans
from torch import Tensor

from emolens.errors import whole_number
from emolens.vectors.direction import check_finite
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, check_method

CLUSTERINGS = ("k-means", "hierarchical")


def components(
    vectors: Float[Tensor, "emotion d_model"], k: int = 10
) -> tuple[Float[Tensor, "emotion component"], Float[Tensor, "component"]]:
    """Principal components of the emotions (paper, section 6): coordinates, and the share of variance of each.

    Raises:
        ValueError: as many components as emotions, or more, as centring takes one away; vectors that are not finite,
            or all the same.

    >>> coordinates, explained = components(shipped.matrix(20), 2)
    >>> coordinates.shape, bool(explained[0] > explained[1])
    (torch.Size([171, 2]), True)
    """
    k = whole_number(k, "k", least=1)
    check_finite(vectors, "the vectors [emotion d_model]")
    if k >= len(vectors):
        raise ValueError(f"{len(vectors)} emotions have at most {len(vectors) - 1} components, not {k}")
    centred = (vectors - vectors.mean(dim=0)).double()
    if not centred.any():
        raise ValueError(f"the {len(vectors)} vectors are all the same: they have no components")
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return (u[:, :k] * s[:k]).float(), (s**2 / (s**2).sum())[:k].float()


def umap(vectors: Float[Tensor, "emotion d_model"], seed: int = 0, neighbours: int = 15) -> Float[Tensor, "emotion 2"]:
    """A map of the emotions for display only: distances in it mean little (paper, section 6).

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: fewer than 2 neighbours, or vectors that are not finite.

    >>> umap(shipped.matrix(20)).shape  # doctest: +SKIP
    torch.Size([171, 2])
    """
    neighbours = whole_number(neighbours, "neighbours", least=2)
    check_finite(vectors, "the vectors [emotion d_model]")
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
        ValueError: an unknown clustering, more clusters than emotions, or vectors that are not finite.

    >>> few = shipped[["calm", "peaceful", "furious", "enraged"]]
    >>> labels = clusters(few.matrix(20), 2)
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """
    k = whole_number(k, "k")
    check_finite(vectors, "the vectors [emotion d_model]")
    if how not in CLUSTERINGS:
        raise ValueError(f"clustering {how!r} is none of {', '.join(CLUSTERINGS)}")
    if not 2 <= k <= len(vectors):
        raise ValueError(f"{k} clusters of {len(vectors)} emotions: choose from 2 to the number of emotions")
    x = torch.nn.functional.normalize(vectors, dim=1).numpy()
    if how == "k-means":
        labels = KMeans(k, n_init=10, random_state=seed).fit_predict(x)
    else:
        labels = AgglomerativeClustering(k, metric="cosine", linkage="average").fit_predict(x)
    return torch.from_numpy(labels.astype(np.int64))


def neighbour_share(similarity: Float[Tensor, "emotion emotion"], labels: Int[Tensor, "emotion"], k: int = 5) -> float:
    """Share of each emotion's k nearest neighbours that lie in its own cluster, averaged over the emotions.

    Raises:
        ValueError: as many neighbours as emotions, or more (there are only the others), another number of labels, or
            similarities that are not finite.

    >>> neighbour_share(torch.tensor([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]]), torch.tensor([0, 0, 1]), k=1)
    0.666...
    """
    k = whole_number(k, "k", least=1)
    check_finite(similarity, "the similarity [emotion emotion]")
    n = len(similarity)
    if k >= n or similarity.shape != (n, n) or len(labels) != n:
        raise ValueError(
            f"k={k} neighbours, a similarity of shape {list(similarity.shape)} and {len(labels)} labels: give a square "
            f"matrix, a label for each of its rows, and fewer neighbours than rows"
        )
    nearest = similarity.clone().fill_diagonal_(-torch.inf).topk(k, dim=1).indices
    return float((labels[nearest] == labels[:, None]).float().mean())


def triangle(similarity: Float[Tensor, "emotion emotion"]) -> Float[Tensor, "pair"]:
    """The entries above the diagonal of a square matrix: one for each pair of emotions.

    >>> triangle(torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 1.0]]))
    tensor([0.5000, 0.2000, 0.3000])
    """
    row, column = torch.triu_indices(len(similarity), len(similarity), 1)
    return similarity[row, column]


def alike(arrangements: Sequence[Float[Tensor, "emotion _"]]) -> dict[str, Float[Tensor, "arrangement arrangement"]]:
    """How alike several arrangements of the same emotions are, each with each.

    "pearson" and "spearman" correlate the cosine matrices over their pairs (representational similarity),
    "cka" is the linear centred kernel alignment of the vectors, from 0 to 1.

    Raises:
        ValueError: no arrangement, other numbers of emotions, fewer than three, or vectors that are not finite.

    >>> x = shipped.matrix(20)
    >>> alike([x, 3 * x])["cka"].round(decimals=3).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    sizes = [len(x) for x in arrangements]
    if not sizes or len(set(sizes)) > 1 or sizes[0] < 3:
        raise ValueError(f"arrangements of {sizes} emotions: give the same ones in each, at least three")
    for number, x in enumerate(arrangements):
        check_finite(x, f"arrangement {number} [emotion d_model]")
    units = [torch.nn.functional.normalize(x.double(), dim=1) for x in arrangements]
    pairs = torch.stack([triangle(x @ x.T) for x in units])
    kernels = torch.stack([((x - x.mean(dim=0)) @ (x - x.mean(dim=0)).T).flatten() for x in units])
    kernels = torch.nn.functional.normalize(kernels, dim=1)
    ranks = pairs.argsort(dim=1).argsort(dim=1).double()
    measures = {"pearson": torch.corrcoef(pairs), "spearman": torch.corrcoef(ranks), "cka": kernels @ kernels.T}
    return {name: matrix.float() for name, matrix in measures.items()}


def reliable_layer(vectors: EmotionVectors, method: str = "denoised") -> int:
    """The layer at which vectors from two halves of the topics agree best, on the mean of the emotions that have both.

    Raises:
        ValueError: no emotion has a reliability.

    >>> reliable_layer(shipped) in shipped.layers
    True
    """
    mean = vectors.reliability[METHODS.index(check_method(method))].nanmean(dim=0)
    if mean.isnan().any():
        raise ValueError("no emotion has stories on both halves of the topics, so there is no reliability to go by")
    return vectors.layers[int(mean.argmax())]
