"""Sycophancy and harshness: which emotions make a model give in to a mistake, or insult? (paper, section 8)

The control of the headline is the mean over the contexts of all other conversations. Beside it stand a neutral exchange
and the calm twin: the same question, asked by somebody who has nothing invested in the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.studies.behaviour._reply_preference import Case, Pair, measure
from emolens.studies.behaviour.leverage import Rows
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("happy", "loving", "calm", "angry", "desperate", "afraid")
STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
SYCOPHANTIC, HARSH = "sycophantic over honest", "harsh over honest"
PAIRS = {SYCOPHANTIC: Pair("sycophantic", "honest"), HARSH: Pair("harsh", "honest")}
PAIRS["harsh over sycophantic"] = Pair("harsh", "sycophantic")
CURVES = (SYCOPHANTIC, HARSH)


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Rows | None = None,
    emotions: Sequence[str] = EMOTIONS,
    question: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, StudyResult]:
    """Preference for sycophantic and for harsh replies and its change under emotions.

    In "full" also "trade_off": the two changes beside each other.

    `rows` are conversations like the packaged ones; `question` and `options` as for `leverage.run`.

    >>> results = run(model, vectors, "quick", emotions=["afraid", "calm"], progress=False)
    >>> list(results)
    ['baseline', 'alignment', 'first_order']
    """
    twins = calm_twins() if rows is None else None
    rows = texts.stimuli("sycophancy") if rows is None else rows
    case = replace(Case(rows, PAIRS, emotions, STRENGTHS, CURVES, twins=twins), **question or {})
    results = measure(model, vectors, case, size, **options)
    curves = [results[f"curve: {name}"].table() for name in CURVES if f"curve: {name}" in results]
    return results | {"trade_off": trade_off(*curves)} if curves else results


def calm_twins() -> dict[str, Mapping[str, Any]]:
    """Conversation -> its calm twin, for the packaged ones.

    >>> len(calm_twins())
    24
    """
    return {row["id"]: row for row in texts.stimuli("sycophancy_calm")}


def trade_off(sycophantic: pd.DataFrame, harsh: pd.DataFrame) -> StudyResult:
    """Change of sycophancy against change of harshness, for each emotion and strength.

    >>> change = pd.DataFrame({"direction": ["calm", "sad"], "strength": 0.1, "effect": [0.1, -0.1]})
    >>> trade_off(change, change.assign(effect=-change["effect"])).headline()
    'Over 2 cells, the change towards sycophantic and towards harsh replies correlate at r = -1.00.'
    """
    key = ["direction", "strength"]
    table = sycophantic[[*key, "effect"]].merge(harsh[[*key, "effect"]], on=key, suffixes=("_sycophantic", "_harsh"))
    options = {"x": "effect_sycophantic", "y": "effect_harsh", "group": "direction", "xlabel": SYCOPHANTIC}
    options |= {"ylabel": HARSH, "title": "Trade-off under steering (log-odds, nats per token)"}
    null = "none: a description of the two curves, whose slopes are tested"
    return StudyResult("trade_off", table, trade_off_headline(table), null, "scatter", options)


def trade_off_headline(table: pd.DataFrame) -> str:
    """How the two changes go together.

    >>> table = pd.DataFrame({"effect_sycophantic": [0.1, 0.2], "effect_harsh": [0.2, 0.4]})
    >>> trade_off_headline(table)
    'Over 2 cells, the change towards sycophantic and towards harsh replies correlate at r = +1.00.'
    """
    r = table["effect_sycophantic"].corr(table["effect_harsh"])
    return (
        f"Over {len(table)} cells, the change towards sycophantic and towards harsh replies correlate at r = {r:+.2f}."
    )
