"""Does the named emotion change at the marked passage of a conversation? (paper, section 8: natural transcripts)"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, p_text, p_value
from emolens.studies._common import READOUTS, chosen_rows, layers_of
from emolens.vectors.emotion_vectors import EmotionVectors


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]


def marked_span(model: HookedModel, row: dict[str, Any]) -> tuple[int, int]:
    """Token span of the marked passage in the conversation."""
    turns = messages(row)
    number = next(i for i, turn in enumerate(turns) if row["marker"] in turn["content"])
    content = turns[number]["content"]
    at = content.index(row["marker"])
    whole = model.encode_chat(turns).turns[number]

    def end_of(part: str) -> int:
        return model.encode_chat([*turns[:number], {**turns[number], "content": part}]).turns[number].end

    start = end_of(content[:at]) if content[:at].strip() else whole.start
    return start, min(end_of(content[: at + len(row["marker"])]), whole.end)


def changes(model: HookedModel, rows: list[dict[str, Any]], layers: list[int]) -> Float[Tensor, "layer part text d"]:
    """Mean activation over all that was said before the passage, and over the passage."""
    spans = []
    for row in rows:
        start, end = marked_span(model, row)
        spans.append([(model.encode_chat(messages(row)).turns[0].start, start), (start, end)])
    x = activations(model, [messages(row) for row in rows], layers, spans)
    return x.unflatten(1, (len(rows), 2)).transpose(1, 2)


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = 9999, seed: int = 0
) -> StudyResult:
    """Change of the named emotion at the passage, its rank among all, against the other transcripts' passages.

    The null gives each transcript's emotion to another transcript.
    """
    vectors.check_model(model)
    rows = texts.stimuli("showcase")
    layers, out = layers_of(vectors, size), []
    x = changes(model, rows, layers)
    own = [vectors.index(row["emotion"]) for row in rows]
    sign = np.array([1 if row["direction"] == "up" else -1 for row in rows])
    i, rng = np.arange(len(rows)), np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(rows)) for _ in range(draws)])
    for number, layer in enumerate(layers):
        for method in READOUTS:
            centre = x[number].mean(dim=(0, 1))
            before, at = (score(part, vectors, layer, method, centre).numpy() for part in x[number])
            change = at - before
            signed = change[:, own] * sign  # transcript, emotion of transcript
            ranks = ((change * sign[:, None]) > (change[i, own] * sign)[:, None]).sum(axis=1) + 1
            effect = signed[i, i] - (signed.sum(axis=0) - signed[i, i]) / (len(rows) - 1)
            null = signed[orders, i].mean(axis=1)
            low, high = bootstrap_mean(effect, seed=seed)
            found = {"effect": effect.mean(), "low": low, "high": high, "p": p_value(signed[i, i].mean(), null)}
            each = {f"change_{row['id']}": signed[k, k] for k, row in enumerate(rows)}
            each |= {f"rank_{row['id']}": int(ranks[k]) for k, row in enumerate(rows)}
            out.append({"method": method, "layer": layer} | found | {"median_rank": float(np.median(ranks))} | each)
    frame = pd.DataFrame(out)
    said = []
    for readout, row_at in chosen_rows(frame, vectors):
        up = sum(row_at[f"change_{row['id']}"] > 0 for row in rows)
        said.append(
            f"{readout}: {up} of {len(rows)} move as named, median rank of the change "
            f"{row_at['median_rank']:.0f} of {len(vectors.emotions)}, {row_at['effect']:+.3f} "
            f"[{row_at['low']:+.3f}, {row_at['high']:+.3f}] above the other transcripts ({p_text(row_at['p'])})"
        )
    options = {"title": "Change at the passage, above other transcripts", "ylabel": "difference of cosines"}
    return StudyResult("transcripts", frame, "; ".join(said) + ".", "effect_by_layer", options)
