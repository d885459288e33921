"""One word makes a text alarming: where does that stand in the model, and does it go through the emotion's vector?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import p_text, p_value
from emolens.steering.measures import Measure, emotion_score, log_odds
from emolens.steering.nulls import random_directions
from emolens.steering.patch import patch, through
from emolens.studies._common import check_size
from emolens.vectors.emotion_vectors import EmotionVectors


class Pair(NamedTuple):
    """Two versions of a text that differ in one word, and the emotion that the first implies."""

    text: str
    alarming: str
    calm: str
    emotion: str

    @property
    def source(self) -> str:
        return self.text.format(self.alarming)

    @property
    def target(self) -> str:
        return self.text.format(self.calm)


PAIRS = (
    Pair("The doctor came in. She said that the lump was {}. The man felt", "deadly", "harmless", "afraid"),
    Pair("He opened the letter. It said that he was {}. He felt", "fired", "hired", "worried"),
    Pair("She saw that the fire was {}. She felt", "spreading", "out", "afraid"),
    Pair("They told him that his daughter was {}. He felt", "dead", "safe", "heartbroken"),
    Pair("The bridge under them was {}. They felt", "breaking", "solid", "terrified"),
    Pair("He looked at the test result. He had {} the exam. He felt", "failed", "passed", "unhappy"),
    Pair("The stranger behind her held a {}. She felt", "knife", "rose", "afraid"),
    Pair("The pilot said that the engine was {}. The passengers felt", "burning", "fine", "terrified"),
    Pair("She took a pill. The bottle said that it was {}. She felt", "poison", "sugar", "alarmed"),
    Pair("The water in the tunnel was {}. The men felt", "rising", "falling", "panicked"),
    Pair("He checked the rope. It was {}. He felt", "torn", "new", "uneasy"),
    Pair("My son called. He said that he had {} the match. I felt", "lost", "won", "sad"),
    Pair("The judge said that she was {}. She felt", "guilty", "free", "desperate"),
    Pair("The bank wrote that the loan was {}. He felt", "denied", "granted", "frustrated"),
)
ODDS = log_odds([" afraid", " sad", " worried", " terrible"], [" relieved", " happy", " calm", " safe"])


def measures(vectors: EmotionVectors, pair: Pair) -> dict[str, Measure]:
    """The emotion's score at the default block before the next word, and the log-odds of alarmed words."""
    return {"score": emotion_score(vectors, pair.emotion, vectors.default_layer), "log-odds": ODDS}


def changes(model: HookedModel, vectors: EmotionVectors) -> pd.DataFrame:
    """What each measure is on both versions of each pair."""
    rows = []
    for pair in PAIRS:
        for name, measure in measures(vectors, pair).items():
            calm, alarming = (float(measure(model, text)) for text in (pair.target, pair.source))
            rows.append([pair.target, pair.alarming, pair.emotion, name, calm, alarming, alarming - calm])
    columns = ["text", "changed to", "emotion", "measure", "calm", "alarming", "change"]
    return pd.DataFrame(rows, columns=columns)


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> StudyResult:
    """Share of the change that the residual stream carries at the changed word and at the last token, by block.

    Shares are those of all pairs together (sum of the changes by the patch over sum of the whole changes), with
    intervals that resample pairs. What they are compared with is each other: a place that has no part in the change
    carries nothing of it, as the last token in the first blocks shows.
    """
    check_size(size)
    layers = sorted({*range(0, model.n_layers, 2 if size == "full" else 5), model.n_layers - 1})
    tables = []
    for number, pair in enumerate(PAIRS):
        at = changed_position(model, pair)
        last = len(model.encode(pair.source).ids) - 1
        found = patch(model, pair.source, pair.target, measures(vectors, pair), layers=layers)
        found = found[found["position"].isin([at, last])]
        tables.append(found.assign(pair=number, place=np.where(found["position"] == at, "changed word", "last token")))
    table = shares(pd.concat(tables), ["measure", "place", "layer"], seed)
    odds = table[table["measure"] == "log-odds"].pivot(index="layer", columns="place", values="effect")
    crossing = odds.index[odds["last token"] > odds["changed word"]]
    sentence = (
        f"{len(PAIRS)} pairs: the log-odds stand at the changed word in block {odds.index[0]} "
        f"({odds['changed word'].iloc[0]:.0%} of the change), at the last token in block {odds.index[-1]} "
        f"({odds['last token'].iloc[-1]:.0%}); from block {crossing[0] if len(crossing) else '-'} on "
        f"the last token carries more."
    )
    read_later = (table["measure"] == "score") & (table["layer"] > vectors.default_layer)  # of what comes after it
    plotted = table[~read_later].assign(series=table["measure"] + ", " + table["place"])
    options = {"ylabel": "share of the change", "series": "series", "title": "Where the changed word's effect stands"}
    return StudyResult("patching", plotted, sentence, "effect_by_layer", options)


def changed_position(model: HookedModel, pair: Pair) -> int:
    """The first token in which the two versions differ."""
    a, b = (model.encode(text).ids for text in (pair.source, pair.target))
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def shares(found: pd.DataFrame, by: list[str], seed: int = 0, draws: int = 2000) -> pd.DataFrame:
    """`effect`: sum of `change` over sum of `whole`, over all pairs, with its interval over pairs."""
    rng = np.random.default_rng(seed)
    pairs = found["pair"].nunique()
    picks = rng.integers(0, pairs, (draws, pairs))
    rows = []
    for key, part in found.groupby(by, sort=False):
        part = part.groupby("pair")[["change", "whole"]].mean()
        change, whole = part["change"].to_numpy(), part["whole"].to_numpy()
        low, high = np.quantile(change[picks].sum(axis=1) / whole[picks].sum(axis=1), [0.025, 0.975])
        rows.append([*key, change.sum() / whole.sum(), low, high])
    return pd.DataFrame(rows, columns=[*by, "effect", "low", "high"])


def through_the_vector(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = 39, seed: int = 0
) -> StudyResult:
    """Share of the log-odds' change that goes through the component along the emotion's vector, by block.

    Against random directions and every fourth of the other emotions' vectors; beside it all but the component.
    """
    check_size(size)
    layers = [one for one in vectors.layers if one % (3 if size == "full" else 10) == 0]
    others = list(vectors.emotions[::4])
    tables = []
    for number, pair in enumerate(PAIRS):
        own = vectors[pair.emotion]
        named = [vectors[name] for name in others if name != pair.emotion]
        random = random_directions(own, draws, seed + number)
        kind = {
            "direction": ["vector"] + ["other emotions"] * len(named) + ["random"] * draws,
            "rest": ["all but the vector"],
        }
        for part, directions in (("direction", [own, *named, *random]), ("rest", [own])):
            found = through(model, pair.source, pair.target, {"log-odds": ODDS}, directions, layers, part)
            tables.append(found.assign(pair=number, kind=kind[part] * len(layers)))
    found = pd.concat(tables)
    table = shares(found[found["kind"].isin(["vector", "all but the vector"])], ["kind", "layer"], seed)
    null = {layer: _null(part) for layer, part in found.groupby("layer")}
    for column, q in (("null_low", 0.025), ("null_high", 0.975)):
        table[column] = [np.quantile(null[layer]["random"], q) for layer in table["layer"]]
    table["others"] = [np.mean(null[layer]["other emotions"]) for layer in table["layer"]]
    single = table[table["kind"] == "vector"].reset_index(drop=True)
    best = single.loc[single["effect"].idxmax()]
    p, p_other = (
        p_value(best["effect"], np.max([null[layer][kind] for layer in layers], axis=0))
        for kind in ("random", "other emotions")
    )
    sentence = (
        f"The component along the emotion's vector carries at most {best['effect']:.0%} [{best['low']:.0%}, "
        f"{best['high']:.0%}] of the log-odds' change, at block {int(best['layer'])} (random directions "
        f"{best['null_low']:.1%} to {best['null_high']:.1%}, {p_text(p)} over all blocks; vectors of other emotions "
        f"on average {best['others']:.0%}, {p_text(p_other)}). The rest of the change goes another way."
    )
    options = {"ylabel": "share of the change in log-odds", "series": "kind", "title": "Through the emotion's vector"}
    return StudyResult("through_the_vector", table, sentence, "effect_by_layer", options)


def _flipped(found: pd.DataFrame, seed: int, draws: int = 999) -> np.ndarray:
    """The largest share of any head when the signs of what the heads change are flipped at random in each pair."""
    change = found.pivot_table(index=["layer", "head"], columns="pair", values="change").to_numpy()
    whole = found.groupby("pair")["whole"].mean().sum()
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, change.shape[1]))
    return np.abs(signs @ change.T / whole).max(axis=1)


def _null(part: pd.DataFrame) -> Mapping[str, np.ndarray]:
    """The pooled share of each draw of random directions, and of each other emotion, over all pairs."""
    out: dict[str, Any] = {}
    for kind in ("random", "other emotions"):
        rows = part[part["kind"] == kind]
        rows = rows.assign(draw=rows.groupby("pair").cumcount())
        # Draws are pooled over the pairs by their number, the vectors of other emotions by their name.
        sums = rows.groupby("draw" if kind == "random" else "direction")[["change", "whole"]].sum()
        out[kind] = (sums["change"] / sums["whole"]).to_numpy()
    return out


def heads(model: HookedModel, vectors: EmotionVectors, seed: int = 0) -> StudyResult:
    """Share of the change in the emotion's score that each attention head carries, a mean over the pairs."""
    layers = range(vectors.default_layer + 1)
    tables = [
        patch(model, pair.source, pair.target, {"score": measures(vectors, pair)["score"]}, "head", layers).assign(
            pair=number
        )
        for number, pair in enumerate(PAIRS)
    ]
    found = pd.concat(tables)
    table = shares(found, ["layer", "head"], seed).rename(columns={"effect": "share"})
    largest = _flipped(found, seed)
    best = table.sort_values("share", ascending=False).head(3)
    named = ", ".join(
        f"{int(row.layer)}.{int(row.head)} ({row.share:.0%} [{row.low:.0%}, {row.high:.0%}])"
        for row in best.itertuples()
    )
    sentence = (
        f"Heads that carry most of the change in the emotion's score (block.head): {named}, of {len(table)} heads; by "
        f"chance the largest carries up to {np.quantile(largest, 0.95):.0%} "
        f"({p_text(p_value(best['share'].iloc[0], largest))})."
    )
    table = table.assign(position=np.nan, head=table["head"].astype(int), layer=table["layer"].astype(int))
    return StudyResult("patching_heads", table, sentence, "patch_map", {"title": "Share carried by each head"})
