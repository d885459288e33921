"""Does it depend on how the vectors were made? One table over readouts, pooling, registers, halves of the stories."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies._common import check_size, emotions_of, near
from emolens.studies.geometry.alignment import FEWEST as FEWEST_EMOTIONS
from emolens.studies.geometry.alignment import first_half
from emolens.studies.geometry.circumplex import FEWEST as FEWEST_RATED
from emolens.studies.geometry.circumplex import against_ratings
from emolens.studies.geometry.clusters import in_paper, paper_labels
from emolens.studies.reading.detection import detect
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors
from emolens.vectors.geometry import alike, neighbour_share
from emolens.vectors.pooling import RULES, pool
from emolens.vectors.refit import refit, stories_of

HELD_OUT = "held-out texts"


def variants(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Options of `refit` for each variant that these stories allow.

    >>> list(variants(corpus))[:3]
    ['as derived', 'from rank 0', 'from rank 20']
    """
    registers = sorted({story.register for story in corpus}, reverse=True)
    made: dict[str, dict[str, Any]] = {"as derived": {}}
    made |= {name: {"register": name} for name in registers if len(registers) > 1}
    made |= {f"from rank {rank}": {"rank": rank} for rank in (0, 20, 50)}
    made["half of the topics"] = {"keep": first_half(corpus)}
    no_lift = torch.tensor(["elevator" not in story.topic for story in corpus])
    return made if no_lift.all() else made | {"without the elevator": {"keep": no_lift}}


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", others: Mapping[str, Corpus] | None = None
) -> StudyResult:
    """Detection, neighbours, valence and agreement with the vectors as derived, for each variant and readout.

    Vectors from the held-out texts are not tested on those texts. What the emotions of a variant do not allow is left
    out of its row: the texts, the paper's clusters and the human ratings know some emotions only, and with fewer than
    half of the vectors' emotions neighbours and components are not comparable.

    Args:
        size: "quick" looks at the denoised readout alone.
        others: further texts to make vectors from, by name; default the stories that SmolLM2 wrote itself.

    Raises:
        NotForThisModel: vectors with fewer than three emotions.
    """
    check_size(size)
    vectors.check_model(model)
    emotions_of(vectors, vectors.emotions, FEWEST_EMOTIONS)
    further = {"written by a model": texts.written()} if others is None else dict(others)
    made = variants(stories_of(vectors))
    for name, corpus in ({HELD_OUT: texts.vignettes()} | further).items():
        kept = corpus.where(emotion=[name for name in corpus.emotions if name in vectors.emotions])
        if len(kept.emotions) >= FEWEST_EMOTIONS:
            made[name] = {"corpus": kept, "pooled": pool(model, kept.texts, rules=RULES, progress=False)}
    rows = []
    for method in METHODS if size == "full" else ("denoised",):
        layer = near(vectors, vectors.chosen_layer(method))
        for name, options in made.items():
            other = refit(model, vectors, [layer], **options)
            other = other[[emotion for emotion in other.emotions if emotion in vectors.emotions]]
            row = _row(model, vectors, other, layer, method)
            row |= {"first": None, "first_five": None} if name == HELD_OUT else {}
            rows.append({"method": method, "layer": layer, "variant": name} | row)
    frame = pd.DataFrame(rows)
    null = "none: the rows stand for each other; what is measured has its null in detection, clusters and circumplex"
    return StudyResult("robustness", frame, headline(frame), null)


def headline(frame: pd.DataFrame) -> str:
    """Between what the share of neighbours in the paper's clusters lies, or where that is unknown the likeness.

    >>> headline(pd.DataFrame({"neighbours": [0.27, 0.66], "alike": [0.5, 1.0]}))
    "Over 2 ways to make the vectors, between 27% and 66% of an emotion's neighbours are in its cluster of the paper's."
    """
    if "neighbours" not in frame or frame["neighbours"].isna().all():
        least = frame["alike"].min()
        ways = f"Over {len(frame)} ways to make the vectors"
        return f"{ways}, their cosines correlate with those of the vectors as derived at {least:.2f} or more."
    few, many = frame["neighbours"].min(), frame["neighbours"].max()
    return (
        f"Over {len(frame)} ways to make the vectors, between {few:.0%} and {many:.0%} of an emotion's neighbours are "
        f"in its cluster of the paper's."
    )


def _row(model: HookedModel, vectors: EmotionVectors, other: EmotionVectors, layer: int, method: str) -> dict[str, Any]:
    same = alike([v[list(other.emotions)].matrix(layer, method) for v in (vectors, other)])["pearson"][0, 1]
    row: dict[str, Any] = {"emotions": len(other.emotions), "alike": float(same)}
    corpus = texts.vignettes()
    corpus = corpus.where(emotion=[name for name in corpus.emotions if name in other.emotions])
    if len(corpus.emotions) >= FEWEST_EMOTIONS:
        detected = detect(model, other, corpus, [layer], [method], progress=False).table().iloc[0]
        row |= {"first": detected["first"], "first_five": detected["first_five"]}
    if 2 * len(other.emotions) < len(vectors.emotions):
        return row
    known = in_paper(other, 0)
    if len(known) > FEWEST_RATED:
        row["neighbours"] = neighbour_share(other[known].similarity(layer, method), paper_labels(tuple(known)))
    if len(set(texts.ratings("glasgow")) & set(other.emotions)) < FEWEST_RATED:
        return row
    rated = against_ratings(other.vectors(layer, method), other.emotions, draws=9, sources=["glasgow"])
    valence = rated[rated["scale"] == "valence"]
    best = valence.loc[valence["r"].idxmax()]
    return row | {"valence_component": int(best["component"]), "valence_r": best["r"]}
