"""When two people feel two things, is the emotion of the one who was named last read? (section 7)"""

import numpy as np
import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, p_text, sign_flip_p
from emolens.studies._common import READOUTS, chosen_rows, layers_of
from emolens.vectors.emotion_vectors import EmotionVectors


def versions(row: dict[str, str]) -> tuple[str, str]:
    """The text with the first and with the second person in its last place."""
    at = row["text"].rindex(row["referent"])
    head, tail = row["text"][:at], row["text"][at + len(row["referent"]) :]
    return head + row["first"] + tail, head + row["second"] + tail


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> StudyResult:
    """How much higher an emotion is at the end of a text when the one who feels it was named last.

    Both versions of a text differ in the last name alone, so each emotion is its own control.
    """
    vectors.check_model(model)
    rows = [
        row
        for row in texts.stimuli("binding")
        if {row["first_emotion"], row["second_emotion"]} <= set(vectors.emotions)
    ]
    layers, out = layers_of(vectors, size), []
    x = activations(model, [text for row in rows for text in versions(row)], layers, "last")
    first, second = ([vectors.index(row[f"{who}_emotion"]) for row in rows] for who in ("first", "second"))
    for number, layer in enumerate(layers):
        for method in READOUTS:
            scores = score(x[number], vectors, layer, method, x[number].mean(dim=0)).numpy()
            one, two = scores[::2], scores[1::2]  # the first named last, the second named last
            i = np.arange(len(rows))
            effect = (one[i, first] - two[i, first] + two[i, second] - one[i, second]) / 2
            low, high = bootstrap_mean(effect, seed=seed)
            found = {"effect": effect.mean(), "low": low, "high": high, "p": sign_flip_p(effect, seed=seed)}
            out.append({"method": method, "layer": layer} | found | {"texts_above_0": float((effect > 0).mean())})
    frame = pd.DataFrame(out)
    said = []
    for readout, at in chosen_rows(frame, vectors):
        said.append(
            f"{readout}: {at['effect']:+.4f} [{at['low']:+.4f}, {at['high']:+.4f}], {p_text(at['p'])}, "
            f"above 0 in {at['texts_above_0']:.0%} of the texts"
        )
    verdict = f"An emotion when its owner is named last, less when the other is, {len(rows)} texts: " + "; ".join(said)
    options = {"title": "Named last less not named last", "ylabel": "difference of cosines"}
    return StudyResult("binding", frame, verdict + ".", "effect_by_layer", options)
