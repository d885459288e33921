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
from emolens.stats import bootstrap_mean, p_value
from emolens.studies._common import READOUTS, against, check_size, chosen_row, layers_of, with_vectors
from emolens.vectors.emotion_vectors import EmotionVectors


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """A transcript as a conversation.

    >>> messages({"turns": [{"role": "user", "text": "Hello."}]})
    [{'role': 'user', 'content': 'Hello.'}]
    """
    return [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]


def marked_span(model: HookedModel, row: dict[str, Any]) -> tuple[int, int]:
    """Token span of the marked passage in the conversation.

    >>> start, end = marked_span(model, texts.stimuli("showcase")[0])
    >>> 0 < start < end
    True
    """
    turns = messages(row)
    number = next(i for i, turn in enumerate(turns) if row["marker"] in turn["content"])
    content = turns[number]["content"]
    at = content.index(row["marker"])
    whole = model.encode_chat(turns).turns[number]

    def end_of(part: str) -> int:
        return model.encode_chat([*turns[:number], {**turns[number], "content": part}]).turns[number].end

    start = end_of(content[:at]) if content[:at].strip() else whole.start
    return start, min(end_of(content[: at + len(row["marker"])]), whole.end)


def before_and_at(
    model: HookedModel, rows: list[dict[str, Any]], layers: list[int]
) -> Float[Tensor, "layer part text d"]:
    """Mean activation over all that was said before the passage, and over the passage.

    >>> tuple(before_and_at(model, texts.stimuli("showcase")[:3], [1, 2]).shape)
    (2, 2, 3, 32)
    """
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

    >>> run(model, vectors, "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    rows = with_vectors(texts.stimuli("showcase"), vectors, lambda row: {row["emotion"]}, "The transcripts")
    layers, out = layers_of(vectors, size), []
    x = before_and_at(model, rows, layers)
    named = [vectors.index(row["emotion"]) for row in rows]
    sign = np.array([1 if row["direction"] == "up" else -1 for row in rows])
    i, rng = np.arange(len(rows)), np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(rows)) for _ in range(draws)])
    for number, layer in enumerate(layers):
        for method in READOUTS:
            centre = x[number].mean(dim=(0, 1))
            before, at = (score(part, vectors, layer, method, centre).numpy() for part in x[number])
            change = at - before
            signed = change[:, named] * sign  # transcript, emotion of transcript
            ranks = ((change * sign[:, None]) > (change[i, named] * sign)[:, None]).sum(axis=1) + 1
            effect = signed[i, i] - (signed.sum(axis=0) - signed[i, i]) / (len(rows) - 1)
            low, high = bootstrap_mean(effect, seed=seed)
            p = p_value(signed[i, i].mean(), signed[orders, i].mean(axis=1))
            each = {f"change_{row['id']}": signed[k, k] for k, row in enumerate(rows)}
            each |= {f"rank_{row['id']}": int(ranks[k]) for k, row in enumerate(rows)}
            test = {"effect": effect.mean(), "low": low, "high": high, "p": p}
            out.append({"method": method, "layer": layer} | test | {"median_rank": float(np.median(ranks))} | each)
    frame = pd.DataFrame(out)
    options = {"title": "Change at the passage, above other transcripts", "ylabel": "difference of cosines"}
    null = f"{draws} permutations of the emotions over the transcripts"
    return StudyResult("transcripts", frame, headline(frame, vectors), null, "effect_by_layer", options)


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What happens at the passages, with the denoised readout.

    >>> row = {"method": "denoised", "layer": 2, "effect": 0.07, "p": 0.02, "change_a": 0.1, "change_b": -0.1}
    >>> headline(pd.DataFrame([row]), vectors.at(2))
    'At the marked passage the named emotion moves as named in 1 of 2 transcripts, by 0.070 more than in the others,
    beyond the null of exchanged emotions (p = 0.020).'
    """
    row = chosen_row(frame, vectors)
    moves = [row[column] > 0 for column in frame.columns if str(column).startswith("change_")]
    return (
        f"At the marked passage the named emotion moves as named in {sum(moves)} of {len(moves)} transcripts, by "
        f"{abs(row['effect']):.3f} {'more' if row['effect'] > 0 else 'less'} than in the others, "
        f"{against(row['p'], 'exchanged emotions')}."
    )
