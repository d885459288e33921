"""From the word to what is meant: where does the context of a text reach its later tokens? (section 7)

Two prefixes are followed by one identical target, whose tokens are the same after both, so that no bag of words can
tell the two apart there. Beside it stand words whose connotation is the opposite of what their sentence means.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import activations
from emolens.results import StudyResult
from emolens.stats import bootstrap_draws, bootstrap_mean, p_value, sign_flip_p
from emolens.studies._common import READOUTS, against, check_size, chosen_row, layers_of, tokens_before
from emolens.studies.reading.documents import valence_weights
from emolens.studies.state._scores import Shuffled, null_words, reader, shuffled_sets
from emolens.vectors.emotion_vectors import EmotionVectors

FLIPS = 9999
SIGN = {"+": 1.0, "-": -1.0}


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    corpus: Corpus | None = None,
    *,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Valence at the target after a favourable less after an unfavourable prefix; and of words against their sentences.

    Valence is the mean score of the pleasant less that of the unpleasant emotions. A positive effect of "word" and
    "end" is that of the word's connotation; what is meant is its opposite, so that a negative one is the meaning's.

    Args:
        rows: rows like the packaged ones (`corpus.stimuli("context")`), of either kind or of both.
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Returns:
        "context", a row for each place ("target", "target's end", "word", "end"), readout and layer, with
        `standardised`, the effect in standard deviations over the texts; and "crossing", the block from which on the
        meaning outweighs the connotation at the end of the sentence.

    Raises:
        ValueError: a row of another kind or without its word, a target whose tokens are not the same after both.
        NotForThisModel: vectors without pleasant or without unpleasant emotions.

    >>> results = run(model, vectors, "quick")
    >>> results["context"].table()["place"].unique().tolist()
    ['target', "target's end", 'word', 'end']
    """
    check_size(size)
    vectors.check_model(model)
    weights = valence_weights(vectors.emotions)
    rows = texts.stimuli("context") if rows is None else list(rows)
    spans = [_checked(model, row, number) for number, row in enumerate(rows)]
    layers, shuffled = layers_of(vectors, size), shuffled_sets(model, vectors, size, corpus, seed)
    found = []
    for kind, places in (("prefix", ("target", "target's end")), ("connotation", ("word", "end"))):
        own = [(row, where) for row, where in zip(rows, spans, strict=True) if row["kind"] == kind]
        if own:
            found.append(_measured(model, vectors, layers, own, places, shuffled, weights, seed))
    frame, each = pd.concat([part for part, _ in found], ignore_index=True).dropna(axis=1, how="all"), found[-1][1]
    words = null_words(shuffled, FLIPS, "the texts' signs")
    options = {"series": "series", "title": "Context and word, by layer", "ylabel": "standard deviations"}
    shown = StudyResult("context", frame, headline(frame, vectors), words, "effect_by_layer", options)
    return {"context": shown} | ({"crossing": crossing(each, layers, seed)} if "end" in set(frame["place"]) else {})


def prefix_valence(
    model: HookedModel, vectors: EmotionVectors, layer: int, rows: Sequence[Mapping[str, Any]] | None = None
) -> Float[np.ndarray, "text prefix"]:
    """Valence at the target after the favourable and after the unfavourable prefix, with the denoised readout.

    >>> prefix_valence(model, vectors, 2).shape
    (30, 2)
    """
    rows = [row for row in (texts.stimuli("context") if rows is None else rows) if row["kind"] == "prefix"]
    spans = [where[:1] for number, row in enumerate(rows) for where in _checked(model, row, number)]
    (x,) = activations(model, [text for row in rows for text in _texts(row)], [layer], spans)
    scores = reader(vectors, layer, "denoised")(x, x.mean(dim=0))
    return (scores @ valence_weights(vectors.emotions).numpy()).reshape(-1, 2)


def _checked(model: HookedModel, row: Mapping[str, Any], number: int) -> list[list[tuple[int, int]]]:
    """For each of the row's texts the spans that are read. Raises ValueError for a row that cannot be read."""
    called = f"row {row.get('id', number)!r}"
    if row.get("kind") == "prefix":
        ids = [model.encode(text).ids for text in _texts(row)]
        before = [model.encode(row[side]).ids for side in ("favourable", "unfavourable")]
        rest = [whole[len(part) :] for whole, part in zip(ids, before, strict=True)]
        if rest[0] != rest[1] or not rest[0]:
            raise ValueError(f"{called}: the target has other tokens after the two prefixes: {row['target'][:60]!r}")
        return [[(len(whole) - len(rest[0]), len(whole)), (len(whole) - 1, len(whole))] for whole in ids]
    if row.get("kind") != "connotation":
        raise ValueError(f"{called} is of the kind {row.get('kind')!r}; give 'prefix' or 'connotation'")
    if row["word"] not in row["text"] or row["word_valence"] == row["meaning_valence"]:
        raise ValueError(
            f"{called}: {row['word']!r} must stand in the text, and have another valence than what is meant"
        )
    at, n = row["text"].index(row["word"]), len(model.encode(row["text"]).ids)
    end = tokens_before(model, row["text"], at + len(row["word"]))
    start = min(tokens_before(model, row["text"], at), end - 1)
    return [[(start, end), (n - 1, n)]]


def _texts(row: Mapping[str, Any]) -> list[str]:
    if row["kind"] == "connotation":
        return [row["text"]]
    return [f"{row[side]} {row['target']}" for side in ("favourable", "unfavourable")]


def _measured(
    model: HookedModel,
    vectors: EmotionVectors,
    layers: Sequence[int],
    rows: Sequence[tuple[Mapping[str, Any], list[list[tuple[int, int]]]]],
    places: Sequence[str],
    shuffled: Shuffled,
    weights: Float[Tensor, "emotion"],
    seed: int,
) -> tuple[pd.DataFrame, dict[Any, Float[np.ndarray, "text"]]]:
    """A table of one kind of rows, and the effect in each text by place, readout and layer."""
    read = [text for row, _ in rows for text in _texts(row)]
    spans = [span for _, where in rows for span in where]
    x = activations(model, read, layers, spans).unflatten(1, (len(rows), len(read) // len(rows), len(places)))
    prefix = rows[0][0]["kind"] == "prefix"
    sign = np.array([1.0 if prefix else SIGN[row["word_valence"]] for row, _ in rows])
    out, each = [], {}
    for number, layer in enumerate(layers):
        for place, y in zip(places, x[number].unbind(dim=2), strict=True):
            flat = y.flatten(0, 1)
            centre = _middle(y, sign)
            sets = shuffled.scores(flat, layer, centre, vectors.emotions)
            null = None if sets is None else _effects(sets @ weights.numpy(), sign, prefix).mean(axis=1)
            for method in READOUTS:
                scores = reader(vectors, layer, method)(flat, centre) @ weights.numpy()
                effects = _effects(scores, sign, prefix)
                each[place, method, layer] = effects
                row = {"place": place, "method": method, "layer": layer, "series": f"{method}, {place}"}
                row |= _row(effects, seed) | {"above_0": float((effects > 0).mean())}
                told = null is not None and method == "denoised"
                out.append(row | {"p_shuffled": p_value(effects.mean(), null) if told else np.nan})
    return pd.DataFrame(out), each


def _middle(y: Float[Tensor, "row version d_model"], sign: Float[np.ndarray, "row"]) -> Float[Tensor, "d_model"]:
    """The centre: the mean over both signs, each with the same weight."""
    if y.shape[1] == 2 or len(set(sign)) == 1:
        return y.mean(dim=(0, 1))
    kinds = [y[torch.from_numpy(sign == kind)].mean(dim=(0, 1)) for kind in (1.0, -1.0)]
    return (kinds[0] + kinds[1]) / 2


def _effects(valence: np.ndarray, sign: Float[np.ndarray, "row"], prefix: bool) -> np.ndarray:
    """The effect in each row [... row], of valences [... text]."""
    return valence[..., ::2] - valence[..., 1::2] if prefix else valence * sign


def _row(effects: Float[np.ndarray, "text"], seed: int) -> dict[str, float]:
    """The effect in standard deviations over the texts, so that blocks can be compared, and in cosines."""
    spread = max(float(effects.std(ddof=1)), 1e-12)
    low, high = bootstrap_mean(effects / spread, seed=seed)
    test = {"effect": float(effects.mean()) / spread, "low": low, "high": high}
    return test | {"cosine": float(effects.mean()), "p": sign_flip_p(effects, FLIPS, seed)}


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What the prefix does at the target, with the denoised readout; without prefixes what the word does at the end.

    >>> row = {"method": "denoised", "layer": 2, "place": "target", "effect": 0.81, "cosine": 0.02, "p": 0.004}
    >>> headline(pd.DataFrame([row]), vectors.at(2))
    'On the same tokens, the target is read 0.81 standard deviations more pleasant after the favourable prefix, beyond
    the null of flipped signs (p = 0.004).'
    """
    place = "target" if "target" in set(frame["place"]) else "end"
    row = chosen_row(frame, vectors, place=place)
    size, more = f"{abs(row['effect']):.2f} standard deviations", "more" if row["effect"] > 0 else "less"
    test = against(row["p"], "flipped signs")
    if place == "target":
        return f"On the same tokens, the target is read {size} {more} pleasant after the favourable prefix, {test}."
    winner = "the word's connotation" if row["effect"] > 0 else "what is meant"
    return f"At the end of the sentence {winner} is read, {size} from 0, {test}."


def crossing(
    each: Mapping[Any, Float[np.ndarray, "text"]], layers: Sequence[int], seed: int = 0, draws: int = 2000
) -> StudyResult:
    """From which block on the meaning outweighs the connotation at the end of the sentence, up to the last block.

    `share` is how often it does anywhere when sentences are drawn again; the interval is over these draws.

    >>> each = {("end", "denoised", n): np.array([0.2, 0.3, 0.25]) * (1 - n) for n in range(3)}
    >>> crossing(each | {("end", "whitened", n): each["end", "denoised", n] for n in range(3)}, range(3)).headline()
    'At the end of the sentence the meaning outweighs the connotation from block 2 [2, 2] on, in 100% of the draws of
    sentences.'
    """
    rows = []
    for method in READOUTS:
        effects = np.stack([each["end", method, layer] for layer in layers], axis=1)
        means = np.concatenate([effects.mean(axis=0)[None], bootstrap_draws(effects, draws, seed)])
        blocks = np.array([_from(mean, layers) for mean in means])
        crossed = blocks[1:][np.isfinite(blocks[1:])]
        low, high = np.quantile(crossed, [0.025, 0.975], method="inverted_cdf") if len(crossed) else (np.nan, np.nan)
        row = {"method": method, "block": blocks[0], "block_low": low, "block_high": high}
        rows.append(row | {"share": len(crossed) / draws, "blocks": len(layers)})
    frame = pd.DataFrame(rows)
    return StudyResult("crossing", frame, of_crossing(frame), "none: an interval over sentences")


def _from(effects: Float[np.ndarray, "layer"], layers: Sequence[int]) -> float:
    """The first block from which on every effect is below 0; NaN where the last one is not."""
    above = np.flatnonzero(effects >= 0)
    first = above[-1] + 1 if len(above) else 0
    return float(layers[first]) if first < len(layers) else np.nan


def of_crossing(frame: pd.DataFrame) -> str:
    """Where the denoised readout goes over from the word to the meaning.

    >>> of_crossing(pd.DataFrame([{"method": "denoised", "block": float("nan"), "share": 0.2}]))
    'At the end of the sentence the connotation is never outweighed up to the last block, and in 20% of the draws of
    sentences it is.'
    """
    row = frame[frame["method"] == "denoised"].iloc[0]
    begin = "At the end of the sentence the"
    if np.isnan(row["block"]):
        return (
            f"{begin} connotation is never outweighed up to the last block, and in {row['share']:.0%} of the draws of "
            f"sentences it is."
        )
    ends = f"[{row['block_low']:.0f}, {row['block_high']:.0f}]"
    return (
        f"{begin} meaning outweighs the connotation from block {row['block']:.0f} {ends} on, in {row['share']:.0%} of "
        f"the draws of sentences."
    )
