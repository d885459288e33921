"""When is "not happy" read as unlike "happy"? By layer, at the word and at the end of the sentence (section 7)."""

import numpy as np
import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, p_text, sign_flip_p
from emolens.studies._common import READOUTS, chosen_rows, layers_of, tokens_before
from emolens.vectors.emotion_vectors import EmotionVectors

PLACES = ("word", "end")


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> StudyResult:
    """Score of the named emotion in the affirmed less in the negated sentence, for pairs that differ in a word or two.

    At the word itself the sentence has been read up to the word; at the end it has been read whole.
    """
    vectors.check_model(model)
    pairs = [row for row in texts.stimuli("negation") if row["emotion"] in vectors.emotions]
    own = [vectors.index(row["emotion"]) for row in pairs]
    layers, rows = layers_of(vectors, size), []
    x = {}
    for form in ("affirmed", "negated"):
        sentences = [row[form] for row in pairs]
        spans = []
        for row in pairs:
            word = tokens_before(model, row[form], row[form].index(row["emotion"]) + len(row["emotion"]))
            end = len(model.encode(row[form]).ids)
            spans.append([(word - 1, word), (end - 1, end)])
        x[form] = activations(model, sentences, layers, spans).unflatten(1, (len(pairs), 2))
    for place_number, place in enumerate(PLACES):
        for row_number, layer in enumerate(layers):
            both = {form: x[form][row_number, :, place_number] for form in x}
            centre = (both["affirmed"].mean(dim=0) + both["negated"].mean(dim=0)) / 2
            for method in READOUTS:
                scores = {form: score(both[form], vectors, layer, method, centre).numpy() for form in both}
                effect = np.array([scores["affirmed"][i, e] - scores["negated"][i, e] for i, e in enumerate(own)])
                others = (scores["affirmed"] - scores["negated"]).mean(axis=1)
                low, high = bootstrap_mean(effect, seed=seed)
                found = {"effect": effect.mean(), "low": low, "high": high, "p": sign_flip_p(effect, seed=seed)}
                rows.append({"place": place, "method": method, "layer": layer} | found | {"others": others.mean()})
    frame = pd.DataFrame(rows)
    said = []
    for place in PLACES:
        for readout, at in chosen_rows(frame, vectors, place=place):
            said.append(
                f"at the {place}, {readout}: {at['effect']:+.3f} [{at['low']:+.3f}, {at['high']:+.3f}], "
                f"{p_text(at['p'])} (mean of all emotions {at['others']:+.3f})"
            )
    verdict = f"Affirmed less negated, {len(pairs)} pairs: " + "; ".join(said) + "."
    plotted = frame.assign(series=frame["method"] + ", " + frame["place"])
    options = {"series": "series", "title": "Affirmed less negated", "ylabel": "difference of cosines"}
    return StudyResult("negation", plotted, verdict, "effect_by_layer", options)
