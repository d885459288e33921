"""When is "not happy" read as unlike "happy"? By layer, at the word and at the end of the sentence (section 7)."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import p_text
from emolens.studies._common import (
    READOUTS,
    against,
    check_size,
    chosen_row,
    flipped,
    layers_of,
    tokens_before,
    with_vectors,
)
from emolens.vectors.emotion_vectors import EmotionVectors

READ_AT = ("word", "end")  # where the sentence has been read up to the word, and where it has been read whole


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> StudyResult:
    """Score of the named emotion in the affirmed less in the negated sentence, for pairs that differ in a word or two.

    >>> run(model, vectors, "quick").table()["series"].unique().tolist()
    ['denoised, word', 'whitened, word', 'denoised, end', 'whitened, end']
    """
    check_size(size)
    vectors.check_model(model)
    pairs = with_vectors(texts.stimuli("negation"), vectors, lambda row: {row["emotion"]}, "The negated sentences")
    named = [vectors.index(row["emotion"]) for row in pairs]
    i, layers, rows = np.arange(len(pairs)), layers_of(vectors, size), []
    x = {form: _both_places(model, pairs, form, layers) for form in ("affirmed", "negated")}
    for number, place in enumerate(READ_AT):
        for row, layer in enumerate(layers):
            affirmed, negated = (x[form][row, :, number] for form in ("affirmed", "negated"))
            centre = (affirmed.mean(dim=0) + negated.mean(dim=0)) / 2
            for method in READOUTS:
                scores = [score(part, vectors, layer, method, centre).numpy() for part in (affirmed, negated)]
                change = scores[0] - scores[1]
                where = {"place": place, "method": method, "layer": layer}
                others = {"others": change.mean(axis=1).mean(), "series": f"{method}, {place}"}
                rows.append(where | flipped(change[i, named], seed) | others)
    frame = pd.DataFrame(rows)
    options = {"series": "series", "title": "Affirmed less negated", "ylabel": "difference of cosines"}
    null = f"flips of the sign of each of {len(pairs)} pairs"
    return StudyResult("negation", frame, headline(frame, vectors), null, "effect_by_layer", options)


def _both_places(
    model: HookedModel, pairs: list[dict[str, Any]], form: str, layers: list[int]
) -> Float[Tensor, "layer pair place d_model"]:
    """Activations at the word that names the emotion and at the end of each sentence of a form."""
    spans = []
    for row in pairs:
        word = tokens_before(model, row[form], row[form].index(row["emotion"]) + len(row["emotion"]))
        end = len(model.encode(row[form]).ids)
        spans.append([(word - 1, word), (end - 1, end)])
    return activations(model, [row[form] for row in pairs], layers, spans).unflatten(1, (len(pairs), len(READ_AT)))


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What negation does, with the denoised readout.

    >>> rows = [{"place": "word", "effect": 0.05, "p": 0.2}, {"place": "end", "effect": 0.16, "p": 0.001}]
    >>> headline(pd.DataFrame(rows).assign(method="denoised", layer=2), vectors.at(2))
    'Where it is negated, an emotion is read 0.160 lower at the end of the sentence, beyond the null of flipped signs
    (p = 0.001), and 0.050 lower at the word itself (p = 0.200).'
    """
    word, end = (chosen_row(frame, vectors, place=place) for place in READ_AT)
    lower = [f"{abs(row['effect']):.3f} {'lower' if row['effect'] > 0 else 'higher'}" for row in (word, end)]
    return (
        f"Where it is negated, an emotion is read {lower[1]} at the end of the sentence, "
        f"{against(end['p'], 'flipped signs')}, and {lower[0]} at the word itself ({p_text(word['p'])})."
    )
