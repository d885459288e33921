"""When two people feel two things, is the emotion of the one who was named last read? (section 7)"""

import numpy as np
import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.studies._common import READOUTS, against, check_size, chosen_row, flipped, layers_of, with_vectors
from emolens.vectors.emotion_vectors import EmotionVectors


def versions(row: dict[str, str]) -> tuple[str, str]:
    """The text with the first and with the second person in its last place.

    >>> versions({"text": "Ann is sad, Bob is calm. This is Bob", "referent": "Bob", "first": "Ann", "second": "Bob"})
    ('Ann is sad, Bob is calm. This is Ann', 'Ann is sad, Bob is calm. This is Bob')
    """
    at = row["text"].rindex(row["referent"])
    head, tail = row["text"][:at], row["text"][at + len(row["referent"]) :]
    return head + row["first"] + tail, head + row["second"] + tail


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> StudyResult:
    """How much higher an emotion is at the end of a text when the one who feels it was named last.

    Both versions of a text differ in the last name alone, so each emotion is its own control.

    >>> run(model, vectors, "quick").headline()
    'The emotion of the person named last is read ..., ... the null of flipped signs (p = ...).'
    """
    check_size(size)
    vectors.check_model(model)
    stimuli = texts.stimuli("binding")
    rows = with_vectors(
        stimuli, vectors, lambda row: {row["first_emotion"], row["second_emotion"]}, "The texts about two people"
    )
    layers, out = layers_of(vectors, size), []
    x = activations(model, [text for row in rows for text in versions(row)], layers, "last")
    first, second = ([vectors.index(row[f"{who}_emotion"]) for row in rows] for who in ("first", "second"))
    i = np.arange(len(rows))
    for number, layer in enumerate(layers):
        for method in READOUTS:
            scores = score(x[number], vectors, layer, method, x[number].mean(dim=0)).numpy()
            change = scores[::2] - scores[1::2]  # where the first is named last, less where the second is
            effect = (change[i, first] - change[i, second]) / 2
            above = {"texts_above_0": float((effect > 0).mean())}
            out.append({"method": method, "layer": layer} | flipped(effect, seed) | above)
    frame = pd.DataFrame(out)
    options = {"title": "Named last less not named last", "ylabel": "difference of cosines"}
    null = f"flips of the sign of each of {len(rows)} texts"
    return StudyResult("binding", frame, headline(frame, vectors), null, "effect_by_layer", options)


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What naming somebody last does, with the denoised readout.

    >>> row = {"method": "denoised", "layer": 2, "effect": 0.0123, "p": 0.2, "texts_above_0": 0.75}
    >>> headline(pd.DataFrame([row]), vectors.at(2))
    'The emotion of the person named last is read 0.0123 higher in cosine, in 75% of the texts, inside the null of
    flipped signs (p = 0.200).'
    """
    row = chosen_row(frame, vectors)
    higher = f"{abs(row['effect']):.4f} {'higher' if row['effect'] > 0 else 'lower'}"
    share = row["texts_above_0"] if row["effect"] > 0 else 1 - row["texts_above_0"]
    return (
        f"The emotion of the person named last is read {higher} in cosine, in {share:.0%} of the texts, "
        f"{against(row['p'], 'flipped signs')}."
    )
