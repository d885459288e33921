"""Whose emotion is read where: the user's or the one that the reply will hold? (section 7)

In each conversation the user feels one emotion and the assistant's reply holds another. Both are read at the user's
last token, at the token right before the reply, and over the reply. The paper found that the two first places have
little in common (r = 0.11) and that the token before the reply foretells the reply (0.87) better than the user's end
(0.59).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import activations
from emolens.results import StudyResult
from emolens.stats import p_text, p_value
from emolens.studies._common import READOUTS, against, check_size, chosen_row, layers_of, with_vectors
from emolens.studies.state._scores import conversation, held, null_words, own, reader, shuffled_sets
from emolens.vectors.emotion_vectors import EmotionVectors

PLACES = ("user's end", "before the reply", "reply")
WHOSE = ("user", "assistant")
PAIRS = (("user's end", "before the reply"), ("before the reply", "reply"), ("user's end", "reply"))


def conversations(vectors: EmotionVectors, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Mapping[str, Any]]:
    """The packaged conversations, or `rows` like them, whose two emotions have a vector.

    Raises:
        ValueError: a conversation that is not a user's message and a reply, by its `id`; one emotion for both.
        NotForThisModel: fewer than two of the emotions have a vector.

    >>> len(conversations(shipped))
    40
    """
    everything = texts.stimuli("user_assistant") if rows is None else list(rows)
    for row in everything:
        called, roles = f"conversation {row.get('id', '?')!r}", [turn["role"] for turn in row["turns"]]
        if roles != ["user", "assistant"]:
            raise ValueError(f"{called} has the turns {', '.join(roles) or 'none'}; give a user's and an assistant's")
        if row["user_emotion"] == row["assistant_emotion"]:
            raise ValueError(f"{called}: both are {row['user_emotion']}, so they cannot be told apart")
    both = [f"{who}_emotion" for who in WHOSE]
    return with_vectors(everything, vectors, lambda row: {row[who] for who in both}, "The users and assistants")


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    corpus: Corpus | None = None,
    *,
    draws: int = 999,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Both emotions at the three places, and how far one place foretells another, by layer and readout.

    A score is that of an emotion less its mean over the conversations at that place.

    Args:
        rows: conversations like the packaged ones (`corpus.stimuli("user_assistant")`).
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Returns:
        "user_assistant", a row for each place, whose emotion (or "user less assistant"), readout and layer; and
        "between", the correlation of the scores of two places over conversations and emotions.

    >>> results = run(model, vectors, "quick", draws=39)
    >>> results["between"].table()["pair"].unique().tolist()
    ["user's end and before the reply", 'before the reply and reply', "user's end and reply", 'foretold better']
    """
    check_size(size)
    vectors.check_model(model)
    rows = conversations(vectors, rows)
    names = list(dict.fromkeys(row[f"{who}_emotion"] for who in WHOSE for row in rows))
    truth = {who: np.array([names.index(row[f"{who}_emotion"]) for row in rows]) for who in WHOSE}
    layers, shuffled = layers_of(vectors, size), shuffled_sets(model, vectors, size, corpus, seed)
    chats = [conversation(row) for row in rows]
    x = activations(model, chats, layers, [_places(model, chat) for chat in chats]).unflatten(1, (len(rows), 3))
    rng, few, of_places, between = np.random.default_rng(seed), vectors[names], [], []
    orders = np.stack([rng.permutation(len(rows)) for _ in range(draws)])
    for number, layer in enumerate(layers):
        for method in READOUTS:
            where = {"method": method, "layer": layer}
            read, values = reader(few, layer, method), {}
            for place, y in zip(PLACES, x[number].unbind(dim=1), strict=True):
                centre = y.mean(dim=0)
                values[place] = _centred(read(y, centre))
                sets = shuffled.scores(y, layer, centre, names) if method == "denoised" else None
                sets = None if sets is None else _centred(sets)
                found = _of_place(place, values[place], truth, orders, sets, seed)
                of_places += [where | row | {"series": f"{method}, {row['series']}"} for row in found]
            found = correlations(values, orders, seed)
            between += [where | row | {"series": f"{method}, {row['pair']}"} for row in found]
    frame, other = pd.DataFrame(of_places).dropna(axis=1, how="all"), pd.DataFrame(between)
    words = null_words(shuffled, draws, "the conversations")
    options = {"series": "series", "title": "Whose emotion is read", "ylabel": "difference of cosines"}
    apart = {"series": "series", "title": "What one place tells of another", "ylabel": "correlation"}
    said = f"{draws} permutations of the conversations at one of the two places"
    return {
        "user_assistant": StudyResult(
            "user_assistant", frame, headline(frame, vectors), words, "effect_by_layer", options
        ),
        "between": StudyResult("between", other, of_between(other, vectors), said, "effect_by_layer", apart),
    }


def _places(model: HookedModel, chat: list[dict[str, str]]) -> list[tuple[int, int]]:
    asked, reply = model.encode_chat(chat).turns
    return [(asked.end - 1, asked.end), (reply.start - 1, reply.start), (reply.start, reply.end)]


def _centred(scores: Float[np.ndarray, "... text emotion"]) -> Float[np.ndarray, "... text emotion"]:
    """Each emotion less its mean over the texts."""
    return scores - scores.mean(axis=-2, keepdims=True)


def _of_place(
    place: str,
    values: Float[np.ndarray, "text emotion"],
    truth: Mapping[str, Int[np.ndarray, "text"]],
    orders: Int[np.ndarray, "draw text"],
    sets: Float[np.ndarray, "set text emotion"] | None,
    seed: int,
) -> list[dict[str, Any]]:
    """The user's and the assistant's emotion at a place, and the difference of the two."""
    rows = []
    for who in WHOSE:
        row = held(values, truth[who], truth[who][orders], sets, seed)
        rows.append({"place": place, "whose": who, "series": f"{who}'s emotion, {place}"} | row)
    apart = [np.stack([own(part, truth[who]) for who in WHOSE], axis=-1) for part in (values, sets) if part is not None]
    effects = [part[..., 0] - part[..., 1] for part in apart]
    text = np.arange(len(values))
    null = values[text, truth["user"][orders]] - values[text, truth["assistant"][orders]]
    difference = held(effects[0][:, None], np.zeros(len(values), dtype=int), np.zeros((2, len(values)), dtype=int))
    band = dict(zip(("null_low", "null_high"), np.quantile(null.mean(axis=1), [0.025, 0.975]).tolist(), strict=True))
    difference |= band | {"p": p_value(effects[0].mean(), null.mean(axis=1))}
    if sets is not None:
        difference["p_shuffled"] = p_value(effects[0].mean(), effects[1].mean(axis=1))
    whose = {"place": place, "whose": "user less assistant", "series": f"user's less assistant's, {place}"}
    return [*rows, whose | difference]


def correlations(
    values: Mapping[str, Float[np.ndarray, "text emotion"]],
    orders: Int[np.ndarray, "draw text"],
    seed: int = 0,
    draws: int = 1000,
) -> list[dict[str, Any]]:
    """Correlation of the scores of two places over texts and emotions, with an interval over texts and p.

    The last row is how much better the token before the reply foretells the reply than the user's end does.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(20, 4))
    >>> orders = np.stack([rng.permutation(20) for _ in range(99)])
    >>> rows = correlations({PLACES[0]: rng.normal(size=(20, 4)), PLACES[1]: x, PLACES[2]: x}, orders)
    >>> [round(row["effect"]) for row in rows[1:]], rows[1]["p"]
    ([1, 0, 1], 0.01)
    """
    n = len(next(iter(values.values())))
    picks = np.random.default_rng(seed).integers(0, n, (draws, n))
    rows, drawn, null = [], {}, {}
    for a, b in PAIRS:
        at = _r(values[a][None], values[b][None])[0]
        drawn[a, b], null[a, b] = _r(values[a][picks], values[b][picks]), _r(values[a][orders], values[b][None])
        rows.append(_row(f"{a} and {b}", at, drawn[a, b], null[a, b]))
    first, second = PAIRS[1:]
    better = rows[1]["effect"] - rows[2]["effect"]
    return [*rows, _row("foretold better", better, drawn[first] - drawn[second], null[first] - null[second])]


def _row(name: str, effect: float, drawn: np.ndarray, null: np.ndarray) -> dict[str, Any]:
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    ends = dict(zip(("null_low", "null_high"), np.quantile(null, [0.025, 0.975]).tolist(), strict=True))
    test = {"effect": float(effect), "low": low, "high": high} | ends | {"p": p_value(effect, null)}
    return {"pair": name} | test


def _r(a: Float[np.ndarray, "... text emotion"], b: Float[np.ndarray, "... text emotion"]) -> np.ndarray:
    """Correlation over texts and emotions, each emotion centred over the texts."""
    a, b = (_centred(part) for part in (a, b))
    spread = np.sqrt((a**2).sum(axis=(-1, -2)) * (b**2).sum(axis=(-1, -2)))
    return (a * b).sum(axis=(-1, -2)) / np.maximum(spread, 1e-12)


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """Whose emotion is read right before the reply, with the denoised readout.

    >>> row = {"method": "denoised", "layer": 2, "place": "before the reply", "whose": "user less assistant"}
    >>> headline(pd.DataFrame([row | {"effect": 0.031, "p": 0.004}]), vectors.at(2))
    "Right before the reply the user's emotion is read 0.031 above the one that the reply will hold, beyond the null of
    exchanged conversations (p = 0.004)."
    """
    row = chosen_row(frame, vectors, place="before the reply", whose="user less assistant")
    side = "above" if row["effect"] > 0 else "below"
    return (
        f"Right before the reply the user's emotion is read {abs(row['effect']):.3f} {side} the one that the reply "
        f"will hold, {against(row['p'], 'exchanged conversations')}."
    )


def of_between(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """The three correlations, with the denoised readout.

    >>> rows = [(f"{a} and {b}", r, 0.01) for (a, b), r in zip(PAIRS, (0.5, 0.8, 0.4))]
    >>> rows.append(("foretold better", 0.4, 0.02))
    >>> frame = pd.DataFrame(rows, columns=["pair", "effect", "p"]).assign(method="denoised", layer=2)
    >>> of_between(frame, vectors.at(2))
    "The user's end and the token before the reply correlate at 0.50; the latter predicts the reply at 0.80 and the
    former at 0.40, a difference with p = 0.020."
    """
    rows = [chosen_row(frame, vectors, pair=f"{a} and {b}") for a, b in PAIRS]
    p = chosen_row(frame, vectors, pair="foretold better")["p"]
    return (
        f"The user's end and the token before the reply correlate at {rows[0]['effect']:.2f}; the latter predicts the "
        f"reply at {rows[1]['effect']:.2f} and the former at {rows[2]['effect']:.2f}, a difference with {p_text(p)}."
    )
