"""Sycophancy and harshness: which emotions make a model give in to a mistake, or insult? (paper, section 8)"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies.behaviour import _reply_preference as cases
from emolens.studies.behaviour._reply_preference import Pair
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("happy", "loving", "calm", "angry", "desperate", "afraid")
STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
SYCOPHANTIC, HARSH = "sycophantic over honest", "harsh over honest"
PAIRS = {SYCOPHANTIC: Pair("sycophantic", "honest"), HARSH: Pair("harsh", "honest")}


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    emotions: Sequence[str] = EMOTIONS,
    **options: Any,
) -> dict[str, StudyResult]:
    """Preference for sycophantic and for harsh replies and its change under emotions.

    In "full" also "trade_off": the two changes beside each other.

    Args:
        rows: scenarios like the packaged ones.
        options: of `cases.run`, such as `layer`, `where`, `seed`.
    """
    rows = texts.stimuli("sycophancy") if rows is None else rows
    found = cases.run(model, vectors, rows, PAIRS, emotions, size=size, **{"strengths": STRENGTHS} | options)
    curves = [found[f"curve: {name}"].table() for name in PAIRS if f"curve: {name}" in found]
    return found | {"trade_off": trade_off(*curves)} if curves else found


def trade_off(sycophantic: pd.DataFrame, harsh: pd.DataFrame) -> StudyResult:
    """Change of sycophancy against change of harshness, for each emotion and strength."""
    key = ["direction", "strength"]
    table = sycophantic[[*key, "effect"]].merge(harsh[[*key, "effect"]], on=key, suffixes=("_sycophantic", "_harsh"))
    r = table["effect_sycophantic"].corr(table["effect_harsh"])
    opposed = (table["effect_sycophantic"] * table["effect_harsh"] < 0).sum()
    sentence = (
        f"Over {len(table)} cells the change towards sycophantic and the change towards harsh replies correlate at "
        f"r = {r:+.2f}; in {opposed} of them the two go opposite ways."
    )
    options = {"x": "effect_sycophantic", "y": "effect_harsh", "group": "direction", "xlabel": SYCOPHANTIC}
    options |= {"ylabel": HARSH, "title": "Trade-off under steering (log-odds, nats per token)"}
    return StudyResult("trade_off", table, sentence, "scatter", options)
