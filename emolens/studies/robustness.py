"""Does it depend on how the vectors were made? One table over readouts, pooling, registers, halves of the stories."""

from typing import Any

import pandas as pd
import torch

import emolens.corpus as texts
from emolens.geometry import alike, neighbour_share
from emolens.model import HookedModel
from emolens.read import detect
from emolens.refit import refit
from emolens.stats import StudyResult
from emolens.studies.circumplex import against_ratings
from emolens.studies.clusters import paper_labels
from emolens.studies.common import near
from emolens.vectors import METHODS, EmotionVectors


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


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full") -> StudyResult:
    """Detection, neighbours, valence and agreement with the vectors as derived, for each variant and readout.

    `quick` looks at the denoised readout alone.
    """
    corpus, paper = texts.vignettes().where(emotion=vectors.emotions), paper_labels(vectors.emotions)
    rows = []
    for method in METHODS if size == "full" else ("denoised",):
        layer = near(vectors, vectors.chosen_layer(method))
        for name, options in variants().items():
            other = refit(model, vectors, [layer], **options)
            found = detect(model, other, corpus, [layer], [method], draws=9, progress=False).table().iloc[0]
            rated = against_ratings(other.vectors(layer, method), other.emotions, draws=9)
            valence = rated[(rated["source"] == "glasgow") & (rated["scale"] == "valence")]
            best = valence.loc[valence["r"].idxmax()]
            same = alike([vectors.matrix(layer, method), other.matrix(layer, method)])["pearson"][0, 1]
            row: dict[str, Any] = {"method": method, "layer": layer, "variant": name, "first": found["first"]}
            row |= {
                "first_five": found["first_five"],
                "neighbours": neighbour_share(other.similarity(layer, method), paper),
            }
            row |= {"valence_component": int(best["component"]), "valence_r": best["r"], "alike": float(same)}
            rows.append(row)
    frame = pd.DataFrame(rows)
    few, many = frame["neighbours"].min(), frame["neighbours"].max()
    verdict = (
        f"Over {len(frame)} ways to make them, the share of neighbours in the paper's cluster lies between {few:.0%} "
        f"and {many:.0%} and the right emotion is found first for {frame['first'].min():.0%} to "
        f"{frame['first'].max():.0%}; valence is carried by component "
        f"{', '.join(map(str, sorted(set(frame['valence_component']))))}."
    )
    return StudyResult("robustness", frame, verdict)
