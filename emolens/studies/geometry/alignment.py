"""Is the arrangement of the emotions the same in other layers, and in another model? (paper, section 6)"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import p_text, p_value
from emolens.studies._common import check_size, emotions_of, other_embedded
from emolens.studies.geometry.circumplex import against_ratings
from emolens.studies.geometry.clusters import neighbours, paper_labels
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.geometry import alike, triangle
from emolens.vectors.pooling import RULES, pool
from emolens.vectors.refit import refit, stories_of

LAYERS = 14  # central ones, as in the paper
FEWEST = 3  # emotions, whose three pairs are what a correlation needs


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    method: str = "denoised",
    other: tuple[HookedModel, EmotionVectors] | None = None,
    draws: int = 999,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """How alike the cosine matrices of central layers are, and those of two models.

    Args:
        other: another model with its vectors. In "full" of an embedded model the other embedded one; where there is
            none, there is no "between_models".

    Returns:
        "layers", a row for each pair of layers; and "between_models", as of `between`.

    Raises:
        NotForThisModel: fewer than three emotions.

    >>> run(model, vectors, "quick")["layers"].table().columns.tolist()
    ['row', 'column', 'pearson', 'spearman', 'cka', 'score']
    """
    check_size(size)
    vectors.check_model(model)
    emotions_of(vectors, vectors.emotions, FEWEST)
    other = other_embedded(model) if other is None and size == "full" else other
    results = {"layers": layers(vectors, method)}
    if other:
        results["between_models"] = between(model, vectors, other, method, draws, seed)
    return results


def layers(vectors: EmotionVectors, method: str = "denoised") -> StudyResult:
    """Similarity of the cosine matrices of central layers, with linear CKA and Spearman beside it.

    >>> layers(shipped).headline()
    'The cosine matrices of blocks 18 to 22 correlate with each other at 0.97 or more.'
    """
    count = min(LAYERS, len(vectors.layers))
    start = (len(vectors.layers) - count) // 2
    central = vectors.layers[start : start + count]
    matrices = alike([vectors.matrix(layer, method) for layer in central])
    rows = []
    for i, a in enumerate(central):
        for j, b in enumerate(central):
            rows.append({"row": a, "column": b} | {name: float(matrix[i, j]) for name, matrix in matrices.items()})
    frame = pd.DataFrame(rows).assign(score=lambda frame: frame["pearson"])
    options = {"title": "Similarity of the cosine matrices", "lowest": min(0.5, float(frame["score"].min()))}
    null = "none: the layers are compared with each other; between models there is one"
    return StudyResult("alignment", frame, layers_headline(frame), null, "score_matrix", options)


def layers_headline(frame: pd.DataFrame) -> str:
    """The lowest similarity of two layers.

    >>> layers_headline(pd.DataFrame({"row": [8, 8], "column": [8, 9], "pearson": [1.0, 0.95]}))
    'The cosine matrices of blocks 8 to 9 correlate with each other at 0.95 or more.'
    """
    return (
        f"The cosine matrices of blocks {frame['row'].min()} to {frame['column'].max()} correlate with each other at "
        f"{frame['pearson'].min():.2f} or more."
    )


def halves(
    model: HookedModel, vectors: EmotionVectors, layer: int, corpus: Corpus | None = None
) -> tuple[EmotionVectors, EmotionVectors]:
    """Vectors from two halves of the topics of each register, at one layer.

    Args:
        corpus: the stories that the vectors were derived from, where `stories_of` does not find them; they are pooled
            at this layer alone.

    >>> first, second = halves(model, vectors, 2, corpus)
    >>> first.emotions == second.emotions == vectors.emotions
    True
    """
    stories = stories_of(vectors) if corpus is None else corpus
    first = first_half(stories)
    pooled = None if corpus is None else pool(model, corpus.texts, [layer], RULES, progress=False)
    made = (refit(model, vectors, [layer], corpus=stories, pooled=pooled, keep=keep) for keep in (first, ~first))
    return next(made), next(made)


def first_half(stories: Corpus) -> torch.Tensor:
    """Which stories are of every other topic of their register.

    >>> bool(0.4 < first_half(corpus).float().mean() < 0.6)
    True
    """
    topics = {r: sorted({s.topic for s in stories if s.register == r}) for r in {s.register for s in stories}}
    return torch.tensor([topics[s.register].index(s.topic) % 2 == 0 for s in stories])


def between(
    model: HookedModel,
    vectors: EmotionVectors,
    other: tuple[HookedModel, EmotionVectors],
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
        other: the other model with its vectors; the emotions that both have are compared.
        same: the layer of both, for two checkpoints; default the one chosen for each on the stories.
        corpus: as for `halves`.

    >>> between(model, vectors, (model, vectors), draws=39, same=2, corpus=corpus).table()["pearson"].round(3).item()
    1.0
    """
    other_model, other_vectors = other
    shared = emotions_of(vectors, other_vectors.emotions, FEWEST)
    sides = ((model, vectors, same), (other_model, other_vectors, same))
    at = [v.chosen_layer(method) if layer is None else layer for _, v, layer in sides]
    wholes = [v[shared].matrix(layer, method) for (_, v, _), layer in zip(sides, at, strict=True)]
    parts = [
        half[shared].matrix(layer, method)
        for (m, v, _), layer in zip(sides, at, strict=True)
        for half in halves(m, v, layer, corpus)
    ]
    half = alike(parts)["pearson"]
    within = float(half[0, 1]), float(half[2, 3])
    null = _permuted(wholes, draws, seed)
    row: dict[str, Any] = {"model": model.name, "other": other_model.name, "layer": at[0], "other_layer": at[1]}
    row |= {name: float(matrix[0, 1]) for name, matrix in alike(wholes).items()}
    row |= {"disjoint": float(half[0, 3] + half[1, 2]) / 2, "half": within[0], "other_half": within[1]}
    row |= {"ceiling": float(np.sqrt(max(within[0], 0) * max(within[1], 0))), "null": float(np.quantile(null, 0.95))}
    row["p"] = p_value(row["pearson"], null)
    frame = pd.DataFrame([row])
    return StudyResult("between_models", frame, between_headline(frame), f"{draws} permutations of the emotions")


def between_headline(frame: pd.DataFrame) -> str:
    """How alike the two models are, on the same stories and on different ones.

    >>> between_headline(pd.DataFrame([{"pearson": 0.93, "p": 0.001, "disjoint": 0.82, "ceiling": 0.87}]))
    'The cosine matrices of the two models correlate at 0.93 (permuted emotions: p = 0.001), and on different halves of
    the topics at 0.82, where 0.87 is the most that can be expected.'
    """
    row = frame.iloc[0]
    return (
        f"The cosine matrices of the two models correlate at {row['pearson']:.2f} (permuted emotions: "
        f"{p_text(row['p'])}), and on different halves of the topics at {row['disjoint']:.2f}, where "
        f"{row['ceiling']:.2f} is the most that can be expected."
    )


def side_by_side(
    arrangements: Mapping[str, Float[Tensor, "emotion _"]], emotions: Sequence[str], draws: int = 999, seed: int = 0
) -> pd.DataFrame:
    """The same measures of several arrangements of the same emotions, each with its own null.

    Returns:
        A row for each arrangement: `neighbours`, the share in the paper's cluster, and `neighbours_null`, the highest
        of the permutations; the component (of five) that goes best with human valence, its |r| and what 95 % of
        permuted ratings and of random directions stay below; the same for arousal; and `alike`, how well the cosines
        agree with those of the last arrangement.

    >>> two = {"block 18": shipped.matrix(18), "block 20": shipped.matrix(20)}
    >>> side_by_side(two, shipped.emotions, draws=19)["alike"].round(2).tolist()
    [0.98, 1.0]
    """
    paper, rows = paper_labels(tuple(emotions)), []
    likeness = alike(list(arrangements.values()))["pearson"][:, -1].tolist()
    for (name, x), same in zip(arrangements.items(), likeness, strict=True):
        units = torch.nn.functional.normalize(x, dim=1)
        share = neighbours(units @ units.T, paper, np.random.default_rng(seed), draws)
        row = {"from": name, "neighbours": share["neighbours"], "neighbours_null": share["neighbours_null_highest"]}
        rated = against_ratings(x, tuple(emotions), draws, seed, ["glasgow"])
        for scale in ("valence", "arousal"):
            part = rated[rated["scale"] == scale]
            best = part.loc[part["r"].idxmax()]
            row |= {
                f"{scale}_component": int(best["component"]),
                f"{scale}_r": best["r"],
                f"{scale}_null": best["null"],
                f"{scale}_random": best["random_high"],
            }
        rows.append(row | {"alike": same})
    return pd.DataFrame(rows)


def _permuted(matrices: Sequence[torch.Tensor], draws: int, seed: int) -> np.ndarray:
    """The correlation of the two cosine matrices when the emotions of the second are permuted."""
    a, b = (matrix @ matrix.T for matrix in matrices)
    rng, null = np.random.default_rng(seed), []
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(b)))
        null.append(float(torch.corrcoef(torch.stack([triangle(a), triangle(b[order][:, order])]))[0, 1]))
    return np.array(null)
