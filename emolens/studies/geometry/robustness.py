"""Does it depend on how the vectors were made? One table over readouts, pooling, registers, halves of the stories."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies._common import near
from emolens.studies.geometry.circumplex import against_ratings
from emolens.studies.geometry.clusters import paper_labels
from emolens.studies.reading.detection import detect
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors
from emolens.vectors.geometry import alike, neighbour_share
from emolens.vectors.pooling import RULES, pool
from emolens.vectors.refit import refit


def variants() -> dict[str, dict[str, Any]]:
    """Options of `refit` for each variant."""
    corpus = texts.stories()
    topics = {r: sorted({s.topic for s in corpus if s.register == r}) for r in ("literary", "plain")}
    half = torch.tensor([topics[s.register].index(s.topic) % 2 == 0 for s in corpus])
    no_lift = torch.tensor(["elevator" not in s.topic for s in corpus])
    registers: dict[str, dict[str, Any]] = {name: {"register": name} for name in ("plain", "literary")}
    ranks = {f"from rank {rank}": {"rank": rank} for rank in (0, 20, 50)}
    return (
        {"as derived": {}}
        | registers
        | ranks
        | {"half of the topics": {"keep": half}}
        | {"without the elevator": {"keep": no_lift}}
    )


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", others: Mapping[str, Corpus] | None = None
) -> StudyResult:
    """Detection, neighbours, valence and agreement with the vectors as derived, for each variant and readout.

    `quick` looks at the denoised readout alone. Vectors from the held-out texts are not tested on those texts.

    Args:
        others: further texts to make vectors from, by name. Of emotions that they lack nothing is said, and
            with fewer than half of the emotions neighbours and components are left out.
    """
    made: dict[str, dict[str, Any]] = variants()
    for name, corpus in ({"held-out texts": texts.vignettes()} | dict(others or {})).items():
        made[name] = {"corpus": corpus, "pooled": pool(model, corpus.texts, rules=RULES, progress=False)}
    rows = []
    for method in METHODS if size == "full" else ("denoised",):
        layer = near(vectors, vectors.chosen_layer(method))
        for name, options in made.items():
            other = refit(model, vectors, [layer], **options)
            rows.append(
                {"method": method, "layer": layer, "variant": name} | _row(model, vectors, other, layer, method)
            )
            if name == "held-out texts":
                rows[-1] |= {"first": None, "first_five": None}
    frame = pd.DataFrame(rows)
    few, many = frame["neighbours"].min(), frame["neighbours"].max()
    carried = sorted(set(frame["valence_component"].dropna().astype(int)))
    verdict = (
        f"Over {len(frame)} ways to make them, the share of neighbours in the paper's cluster lies between {few:.0%} "
        f"and {many:.0%} and the right emotion is found first for {frame['first'].min():.0%} to "
        f"{frame['first'].max():.0%}; valence is carried by component {', '.join(map(str, carried))}."
    )
    return StudyResult("robustness", frame, verdict)


def _row(model: HookedModel, vectors: EmotionVectors, other: EmotionVectors, layer: int, method: str) -> dict[str, Any]:
    corpus = texts.vignettes().where(emotion=other.emotions)
    found = detect(model, other, corpus, [layer], [method], draws=9, progress=False).table().iloc[0]
    same = alike([v[list(other.emotions)].matrix(layer, method) for v in (vectors, other)])["pearson"][0, 1]
    row: dict[str, Any] = {"emotions": len(other.emotions), "alike": float(same)}
    row |= {"first": found["first"], "first_five": found["first_five"]}
    if 2 * len(other.emotions) < len(vectors.emotions):
        return row
    row["neighbours"] = neighbour_share(other.similarity(layer, method), paper_labels(other.emotions))
    rated = against_ratings(other.vectors(layer, method), other.emotions, draws=9)
    valence = rated[(rated["source"] == "glasgow") & (rated["scale"] == "valence")]
    best = valence.loc[valence["r"].idxmax()]
    return row | {"valence_component": int(best["component"]), "valence_r": best["r"]}
