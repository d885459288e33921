"""Is the emotion of a story gone when the story is over? A mood would last, a reading of the text returns (section 7).

A conversation holds a plain answer, a story in which a character feels something, and an unrelated plain answer. What
is looked at is the score of the story's emotion less the mean of the other emotions of the set, over the assistant's
turns and the user's questions before and after. The centre is the mean of all these turns.

Whether the state "returns" or "persists" is decided by one number: the share of the rise from the answer before to the
story that is left in the answer after. Its interval over conversations lies below a quarter, above it, or around it.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.models.texts import Turn
from emolens.reading.read import activations
from emolens.results import StudyResult
from emolens.stats import Verdict, bootstrap_mean, p_text, tail_p
from emolens.studies._common import READOUTS, against, check_size, chosen_row, layers_of, near, with_vectors
from emolens.studies.reading.lexical import embeddings, vectors_of
from emolens.studies.state._left_out import left_out
from emolens.studies.state._scores import (
    Conversations,
    Shuffled,
    conversation,
    held,
    margins,
    null_words,
    own,
    permutations,
    reader,
    shuffled_sets,
)
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import stories_of

PARTS = ("before", "inside", "after")
PLACES = (*PARTS, "question before", "question after", "last token")
KEPT = 0.25  # of the rise: a state of which less is left in the next answer returns
WINDOW = 8  # tokens over which the curve after the story is averaged
RETURNS, PERSISTS, UNDECIDED = "returns", "persists", "undecided"
FEATURES = ("activations", "scores")
PENALTY = 10.0  # of the regression (C of scikit-learn), for features of mean norm 1
FITS = {"full": 99, "quick": 39}  # of the regression to permuted labels
FITTED = ("before", "inside", "after", "last token")  # where the emotion is looked for by regression


def conversations(
    model: HookedModel, vectors: EmotionVectors, rows: Sequence[Mapping[str, Any]] | None = None
) -> Conversations:
    """The packaged conversations, or `rows` like them, whose emotions have a vector.

    Raises:
        ValueError: a conversation without one of its parts, or whose part is no answer after a question, by its `id`.
        NotForThisModel: fewer than two of the emotions have a vector.

    >>> found = conversations(model, vectors)
    >>> found.emotions, len(found.spans[0]) == len(PLACES)
    (('sad', 'afraid', 'angry', 'happy'), True)
    """
    everything = texts.stimuli("locality") if rows is None else list(rows)
    for row in everything:
        _check(row)
    kept = with_vectors(everything, vectors, lambda row: {row["emotion"]}, "The conversations with a story")
    names = tuple(dict.fromkeys(row["emotion"] for row in kept))
    messages = tuple(conversation(row) for row in kept)
    spans = tuple(_spans(model.encode_chat(turns).turns, row) for turns, row in zip(messages, kept, strict=True))
    parts = tuple(tuple(row[part]["message"] for part in PARTS) for row in kept)
    return Conversations(names, np.array([names.index(row["emotion"]) for row in kept]), messages, spans, parts)


def _check(row: Mapping[str, Any]) -> None:
    called, turns = f"conversation {row.get('id', '?')!r}", row["turns"]
    for part in PARTS:
        if part not in row:
            raise ValueError(f"{called} has no {part!r}: name its message, such as {part!r}: {{'message': 1}}")
        place = row[part]["message"]
        if not 0 < place < len(turns):
            raise ValueError(f"{called}: {part!r} is message {place}, and there are {len(turns)} (the first is 0)")
        roles = [turns[place - 1]["role"], turns[place]["role"]]
        if roles != ["user", "assistant"]:
            raise ValueError(
                f"{called}: {part!r} is message {place}, which must be an assistant's after a user's; these two are "
                f"{' and '.join(roles)}"
            )
    order = [row[part]["message"] for part in PARTS]
    if order != sorted(set(order)):
        raise ValueError(f"{called}: before, inside and after are messages {order}, not in the order of the text")


def _spans(turns: Sequence[Turn], row: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    before, inside, after = (row[part]["message"] for part in PARTS)
    said = [turns[place] for place in (before, inside, after, before - 1, after - 1)]
    return (*((turn.start, turn.end) for turn in said), (turns[after].end - 1, turns[after].end))


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
    """The story's emotion before, inside and after the story, how fast it goes, and whether it can be told afterwards.

    Args:
        rows: conversations like the packaged ones (`corpus.stimuli("locality")`).
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Returns:
        "locality", a row for each place, readout and layer; "decay", the curve after the story at the chosen layers;
        "half_life", in tokens; "persistence", the emotion classified by logistic regression; "left_out", the same texts
        after the story with it and without; and with the stories (in "full", or with `corpus`) "bag", what token
        embeddings alone give.

    >>> results = run(model, vectors, "quick", draws=3)
    >>> list(results)
    ['locality', 'decay', 'half_life', 'persistence', 'left_out']
    >>> results["locality"].headline()
    "In the answer after the story the story's emotion is ..."
    """
    check_size(size)
    vectors.check_model(model)
    said = conversations(model, vectors, rows)
    layers, shuffled = layers_of(vectors, size), shuffled_sets(model, vectors, size, corpus, seed)
    x = by_place(model, said, layers)
    orders = permutations(said.truth, draws, seed)
    frame = pd.DataFrame(
        row
        for number, layer in enumerate(layers)
        for method in READOUTS
        for row in of_layer(x[number], said, vectors[list(said.emotions)], layer, method, orders, shuffled, seed)
    )
    frame = frame.dropna(axis=1, how="all")  # where no vectors were refitted
    words = null_words(shuffled, draws, "the conversations' emotions")
    options = {"series": "series", "title": "The story's emotion less the others", "ylabel": "difference of cosines"}
    results = {"locality": StudyResult("locality", frame, headline(frame, vectors), words, "effect_by_layer", options)}
    results |= decay(model, vectors, said, seed)
    results["persistence"] = persistence(x, said, vectors, layers, min(draws, FITS[size]), seed)
    results["left_out"] = without_story(model, vectors, said, draws, seed)
    if size == "full" or corpus is not None:
        results["bag"] = bag(model, vectors, said, stories_of(vectors, corpus), draws, seed)
    return results


def by_place(
    model: HookedModel, said: Conversations, layers: Sequence[int]
) -> Float[Tensor, "layer text place d_model"]:
    """Mean activations of each conversation's turns, and of the last token, from one pass over all layers.

    >>> by_place(model, conversations(model, vectors), [2]).shape
    torch.Size([1, 24, 6, 32])
    """
    x = activations(model, list(said.messages), layers, said.spans)
    return x.unflatten(1, (len(said.truth), len(PLACES)))


def of_layer(
    x: Float[Tensor, "text place d_model"],
    said: Conversations,
    vectors: EmotionVectors,
    layer: int,
    method: str,
    orders: Int[np.ndarray, "draw text"],
    shuffled: Shuffled = Shuffled(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of all places at one layer, and what is left of the rise after the story.

    Args:
        vectors: of the conversations' emotions.
        orders: the conversations' emotions in other orders.

    >>> said = conversations(model, vectors)
    >>> x, orders = by_place(model, said, [2])[0], permutations(said.truth, 39)
    >>> rows = of_layer(x, said, vectors[list(said.emotions)], 2, "denoised", orders)
    >>> [row["place"] for row in rows if "kept" in row]
    ['after', 'question after', 'last token']
    """
    centre, read = x.mean(dim=(0, 1)), reader(vectors, layer, method)
    values = {place: margins(read(x[:, number], centre)) for number, place in enumerate(PLACES)}
    rows = []
    for number, place in enumerate(PLACES):
        sets = shuffled.scores(x[:, number], layer, centre, said.emotions) if method == "denoised" else None
        row = {"place": place, "method": method, "layer": layer, "series": f"{method}, {place}"}
        row |= held(values[place], said.truth, orders, None if sets is None else margins(sets), seed)
        base = "question before" if place == "question after" else "before"
        if place in ("after", "question after", "last token"):
            before, inside, after = (own(values[part], said.truth) for part in (base, "inside", place))
            row |= left(before, inside, after, seed)
        rows.append(row)
    return rows


def left(
    before: Float[np.ndarray, "text"],
    inside: Float[np.ndarray, "text"],
    after: Float[np.ndarray, "text"],
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, Any]:
    """The share of the rise into the story that is left after it, its interval over conversations, and what that means.

    A rise whose interval holds 0 has no share: it cannot be measured.

    >>> before, inside = np.zeros(6), np.array([1, 1.2, 0.9, 1, 1.1, 0.8])
    >>> left(before, inside, 0.05 * inside)["state"], left(before, inside, 0.9 * inside)["state"]
    ('returns', 'persists')
    >>> left(before, before, before)["state"]
    <Verdict.UNMEASURABLE: 'cannot be measured'>
    """
    low, high = bootstrap_mean(inside - before, seed=seed)
    if not low > 0:
        return {"kept": np.nan, "kept_low": np.nan, "kept_high": np.nan, "state": Verdict.UNMEASURABLE}
    picks = np.random.default_rng(seed).integers(0, len(before), (draws, len(before)))
    rise, rest = (inside - before)[picks].mean(axis=1), (after - before)[picks].mean(axis=1)
    low, high = np.quantile(rest / np.maximum(rise, 1e-12), [0.025, 0.975]).tolist()
    state = RETURNS if high < KEPT else PERSISTS if low > KEPT else UNDECIDED
    kept = float((after - before).mean() / (inside - before).mean())
    return {"kept": kept, "kept_low": low, "kept_high": high, "state": state}


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What the answer after the story holds, with the denoised readout, and on which side of the null it lies.

    >>> row = {"method": "denoised", "layer": 2, "place": "after", "p": 0.3, "kept": 0.05, "state": "returns"}
    >>> row |= {"effect": 0.01, "null_low": -0.02, "null_high": 0.02}
    >>> headline(pd.DataFrame([row]), vectors.at(2))
    "In the answer after the story the story's emotion is inside the null of permuted labels (p = 0.300), and 5% of its
    rise is left: it returns."
    >>> headline(pd.DataFrame([row | {"p": 0.02, "effect": -0.03, "kept": -0.2}]), vectors.at(2))
    "In the answer after the story the story's emotion lies below the null of permuted labels (p = 0.020), less of it
    than by chance, and nothing (-20%) of its rise is left: it returns."
    """
    row = chosen_row(frame, vectors, place="after")
    begin = f"In the answer after the story the story's emotion {_against(row)}"
    if row["state"] == Verdict.UNMEASURABLE:
        return f"{begin}; the story itself does not raise it, so what is left of a rise cannot be measured."
    told = {RETURNS: "it returns", PERSISTS: "it persists", UNDECIDED: "undecided"}[row["state"]]
    rest = f"{row['kept']:.0%}" if row["kept"] >= 0 else f"nothing ({row['kept']:.0%})"  # the answer after is below
    return f"{begin}, and {rest} of its rise is left: {told}."


def _against(row: pd.Series) -> str:
    """Inside the null of permuted labels, above it or below it: a mood would be above."""
    if Verdict.of([row["p"]]) != Verdict.BEYOND:
        return f"is {against(row['p'], 'permuted labels')}"
    side, more = ("above", "more") if row["effect"] > (row["null_low"] + row["null_high"]) / 2 else ("below", "less")
    return f"lies {side} the null of permuted labels ({p_text(row['p'])}), {more} of it than by chance"


def decay(
    model: HookedModel, vectors: EmotionVectors, said: Conversations, seed: int = 0, draws: int = 2000
) -> dict[str, StudyResult]:
    """The story's emotion token by token after the story, and how long it takes to fall.

    A point is the mean over 8 tokens from that token on, less the conversation's answer before. The half-life is the
    first token from which on half of the rise is gone; `back_inside` the first at which the curve is inside the band in
    which 95 % of such means lie in the answer before. One that is not reached within the shortest conversation's tokens
    is missing; so is the end of an interval.

    >>> results = decay(model, vectors, conversations(model, vectors))
    >>> list(results), results["decay"].figure
    (['decay', 'half_life'], 'value_curves')
    """
    few, curves, lives = vectors[list(said.emotions)], [], []
    for method in READOUTS:
        layer = near(vectors, vectors.chosen_layer(method))
        before, inside, after = _by_token(model, few, said, layer, method)
        rise, found = inside - before[0], after - before[0][:, None]
        noise = before[1] - before[0][:, None]
        life = half_life(rise, found, noise, seed, draws)
        lives.append({"method": method, "layer": layer, "tokens": found.shape[1] + WINDOW - 1} | life)
        curves.append(_curve(found, rise, method, layer, seed))
    curve, frame = pd.concat(curves, ignore_index=True), pd.DataFrame(lives)
    null = f"the band of means over {WINDOW} tokens of the answer before the story"
    title = {"title": "The story's emotion after the story, less before it"}
    return {
        "decay": StudyResult("decay", curve, of_curve(curve), null, "value_curves", title),
        "half_life": StudyResult("half_life", frame, of_half_life(frame), null),
    }


def _by_token(
    model: HookedModel, vectors: EmotionVectors, said: Conversations, layer: int, method: str
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Before (mean [text], and means over windows [text window]), inside [text], and windows after [text window]."""
    spans = [[(t, t + 1) for t in range(places[0][0], places[2][1])] for places in said.spans]
    (x,) = activations(model, list(said.messages), [layer], spans)
    tokens = x.split([len(places) for places in spans])
    centre = torch.stack([part.mean(dim=0) for part in tokens]).mean(dim=0)
    read, before, windows, inside, after = reader(vectors, layer, method), [], [], [], []
    for part, places, truth in zip(tokens, said.spans, said.truth, strict=True):
        curve = margins(read(part, centre))[:, truth]
        first, story, last = (slice(a - places[0][0], b - places[0][0]) for a, b in places[:3])
        before.append(curve[first].mean())
        windows.append(_smooth(curve[first]))
        inside.append(curve[story].mean())
        after.append(_smooth(curve[story.stop : last.stop]))
    cut = [min(map(len, parts)) for parts in (windows, after)]
    stacked = [np.stack([row[:n] for row in parts]) for parts, n in zip((windows, after), cut, strict=True)]
    return (np.array(before), stacked[0]), np.array(inside), stacked[1]


def _smooth(curve: Float[np.ndarray, "pos"]) -> Float[np.ndarray, "window"]:
    """Means over the next 8 tokens; of a shorter curve over all of it."""
    n = min(WINDOW, len(curve))
    return np.convolve(curve, np.full(n, 1 / n), "valid")


def half_life(
    rise: Float[np.ndarray, "text"],
    after: Float[np.ndarray, "text window"],
    noise: Float[np.ndarray, "text before"],
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, Any]:
    """Tokens until half of the rise is gone, and until the curve is where it was, with intervals over conversations.

    >>> t = np.arange(60)
    >>> after = np.exp(-np.log(2) * t / 20) * np.ones((8, 1))
    >>> found = half_life(np.ones(8), after, np.zeros((8, 5)))
    >>> found["half_life"], found["back_inside"]
    (20.0, nan)
    """
    rng, n = np.random.default_rng(seed), len(rise)
    picks = np.concatenate([np.arange(n)[None], rng.integers(0, n, (draws, n))])
    places = rng.integers(0, noise.shape[1], (draws, n))
    top = float(np.quantile(np.take_along_axis(noise, places.T, axis=1).mean(axis=0), 0.975))
    raised, curve = rise[picks].mean(axis=1), after[picks].mean(axis=1)
    if not np.quantile(raised[1:], 0.025) > 0:
        missing = dict.fromkeys(("half_life", "half_life_low", "half_life_high", "back_inside", "back_inside_low",
                                 "back_inside_high"), np.nan)  # fmt: skip
        return {"rise": float(raised[0])} | missing | {"verdict": Verdict.UNMEASURABLE}
    row: dict[str, Any] = {"rise": float(raised[0])}
    for name, limit in (("half_life", raised / 2), ("back_inside", np.full(len(raised), top))):
        reached = curve <= limit[:, None] + 1e-12
        first = np.where(reached.any(axis=1), reached.argmax(axis=1), np.inf)
        low, high = np.quantile(first[1:], [0.025, 0.975], method="inverted_cdf")
        row |= {name: first[0], f"{name}_low": low, f"{name}_high": high}
    finite = {name: float(value) if np.isfinite(value) else np.nan for name, value in row.items()}
    return finite | {"verdict": "falls" if np.isfinite(row["half_life"]) else "does not fall by half"}


def _curve(
    after: Float[np.ndarray, "text window"], rise: Float[np.ndarray, "text"], method: str, layer: int, seed: int
) -> pd.DataFrame:
    """Every fourth point of the mean curve, as a table for `value_curves`; its first point is the story itself."""
    rows = [{"value": "story", "score": float(rise.mean()), **_ends(rise, seed)}]
    for t in range(0, after.shape[1], 4):
        rows.append({"value": f"{t:3d}", "score": float(after[:, t].mean()), **_ends(after[:, t], seed)})
    template = f"{method}, block {layer}: tokens after the story"
    frame = pd.DataFrame(rows).assign(template=template, emotion="the story's emotion", method=method, layer=layer)
    return frame.assign(value=[-1, *range(0, after.shape[1], 4)])


def _ends(values: np.ndarray, seed: int) -> dict[str, float]:
    return dict(zip(("low", "high"), bootstrap_mean(values, draws=500, seed=seed), strict=True))


def of_curve(frame: pd.DataFrame) -> str:
    """Where the curve begins and ends.

    >>> curve = pd.DataFrame({"method": "denoised", "value": [-1, 0, 40], "score": [0.2, 0.1, 0.01]})
    >>> of_curve(curve)
    "From the mean over the story, 0.200 above the answer before, the story's emotion goes to 0.010 at 40 tokens after."
    """
    part = frame[frame["method"] == "denoised"]
    first, last = part.iloc[0], part.iloc[-1]
    return (
        f"From the mean over the story, {first['score']:.3f} above the answer before, the story's emotion goes to "
        f"{last['score']:.3f} at {last['value']:.0f} tokens after."
    )


def of_half_life(frame: pd.DataFrame) -> str:
    """The half-life with the denoised readout.

    >>> row = {"method": "denoised", "layer": 2, "tokens": 90, "half_life": 9.0, "half_life_low": 4.0}
    >>> of_half_life(pd.DataFrame([row | {"half_life_high": 15.0, "verdict": "falls"}]))
    'Half of the rise is gone 9 [4, 15] tokens after the story.'
    """
    row = frame[frame["method"] == "denoised"].iloc[0]
    if row["verdict"] == Verdict.UNMEASURABLE:
        return "The story does not raise its emotion above the answer before, so a half-life cannot be measured."
    if np.isnan(row["half_life"]):
        return f"Half of the rise is not gone within {row['tokens']:.0f} tokens."
    high = f"{row['half_life_high']:.0f}" if np.isfinite(row["half_life_high"]) else "beyond the answer"
    return (
        f"Half of the rise is gone {row['half_life']:.0f} [{row['half_life_low']:.0f}, {high}] tokens after the story."
    )


def persistence(
    x: Float[Tensor, "layer text place d_model"],
    said: Conversations,
    vectors: EmotionVectors,
    layers: Sequence[int],
    draws: int = 99,
    seed: int = 0,
) -> StudyResult:
    """Whether the story's emotion can be told at a place by logistic regression on the other conversations.

    One conversation of each emotion is left out at a time: with a single one left out its emotion would be the rarest
    among the rest, and never be told. From the activations, and from their scores on all emotions. The null permutes
    the emotions of the conversations and fits again. "before" is a null of its own: there has been no story yet. Every
    layer has its share; p is of the chosen layer alone, where alone the null is fitted.

    >>> said = conversations(model, vectors)
    >>> x = torch.randn(1, len(said.truth), len(PLACES), 32)
    >>> persistence(x, said, vectors, [2], draws=2).table()["place"].unique().tolist()
    ['before', 'inside', 'after', 'last token']
    """
    chosen = min(layers, key=lambda layer: abs(layer - vectors.chosen_layer("denoised")))
    orders, rows = permutations(said.truth, draws, seed), []
    chance = float(max(np.bincount(said.truth)) / len(said.truth))
    for number, layer in enumerate(layers):
        for place, features in product(FITTED, FEATURES):
            y = x[number, :, PLACES.index(place)]
            y = y if features == "activations" else torch.tensor(reader(vectors, layer, "denoised")(y, y.mean(dim=0)))
            found = coordinates(y)
            hit = told(found, said.truth)
            low, high = bootstrap_mean(hit, seed=seed)
            row = {"place": place, "features": features, "series": f"{place}, {features}", "layer": layer}
            row |= {"effect": hit.mean(), "low": low, "high": high}
            null = [told(found, order).mean() for order in orders] if layer == chosen else []
            row |= {"null": float(np.quantile(null, 0.975)) if null else np.nan}
            rows.append(row | {"p": tail_p(hit.mean(), null) if null else np.nan})
    frame = pd.DataFrame(rows)
    options = {
        "series": "series",
        "line": chance,
        "ylabel": "share classified",
        "title": "The story's emotion, classified",
    }
    words = f"{draws} permutations of the conversations' emotions at block {chosen}, each fitted again"
    return StudyResult("persistence", frame, of_persistence(frame), words, "effect_by_layer", options)


def coordinates(x: Float[Tensor, "text d_model"]) -> Float[np.ndarray, "text axis"]:
    """Centred texts in the axes that they span, of mean norm 1: a ridge penalty fits them as it fits all dimensions.

    >>> coordinates(torch.randn(5, 32)).shape
    (5, 5)
    """
    y = (x - x.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(y, full_matrices=False)
    return (u * s / y.norm(dim=1).mean().clamp(min=1e-12)).numpy()


def told(features: Float[np.ndarray, "text axis"], truth: Int[np.ndarray, "text"]) -> Float[np.ndarray, "text"]:
    """1 for each text whose emotion a regression fitted on others tells, and 0 for the rest.

    As many parts as the rarest emotion has texts are left out in turn, with a text of each emotion in each of them.

    >>> told(np.array([[1.0], [1.1], [0.9], [-1.0], [-0.9], [-1.1]]), np.array([0, 0, 0, 1, 1, 1])).mean().item()
    1.0
    """
    place = np.empty(len(truth), dtype=int)  # of a text among those of its emotion
    for name in np.unique(truth):
        place[truth == name] = np.arange((truth == name).sum())
    part, hits = place % np.bincount(truth).min(), np.zeros(len(truth))
    for number in np.unique(part):
        out = part == number
        fitted = LogisticRegression(C=PENALTY, class_weight="balanced").fit(features[~out], truth[~out])
        hits[out] = fitted.predict(features[out]) == truth[out]
    return hits


def of_persistence(frame: pd.DataFrame) -> str:
    """How often the emotion is told from the last answer.

    >>> frame = pd.DataFrame({"place": ["inside", "after"], "effect": [0.9, 0.3], "p": [0.01, 0.2]})
    >>> of_persistence(frame.assign(features="activations"))
    'From the mean over the answer after the story, a regression classifies 30% of the conversations correctly, inside
    the null of permuted labels (p = 0.200); from the story itself 90%.'
    """
    rows = frame[frame["features"] == "activations"].dropna(subset=["p"]).set_index("place")
    after, inside = rows.loc["after"], rows.loc["inside"]
    return (
        f"From the mean over the answer after the story, a regression classifies {after['effect']:.0%} of the "
        f"conversations correctly, {against(after['p'], 'permuted labels')}; from the story itself "
        f"{inside['effect']:.0%}."
    )


def without_story(
    model: HookedModel, vectors: EmotionVectors, said: Conversations, draws: int = 999, seed: int = 0
) -> StudyResult:
    """The same texts after the story, with the story before them and without, at the chosen layer.

    >>> found = without_story(model, vectors, conversations(model, vectors), 39).table()
    >>> found["story"].unique().tolist(), found["place"].nunique()
    (['with the story', 'without it', 'difference'], 6)
    """
    layer = near(vectors, vectors.chosen_layer("denoised"))
    return left_out(model, vectors[list(said.emotions)], said, layer, draws, seed)


def bag(
    model: HookedModel, vectors: EmotionVectors, said: Conversations, corpus: Corpus, draws: int = 999, seed: int = 0
) -> StudyResult:
    """The same of token embeddings alone: what the words of a turn give, without any context.

    >>> bag(model, vectors, conversations(model, vectors), corpus, 39).table()["place"].unique().tolist()
    ['before', 'inside', 'after', 'question before', 'question after']
    """
    features = embeddings(model)
    null = vectors_of(features, corpus)[list(said.emotions)]
    matrix = model.bridge.W_E.detach().float().cpu()
    ids = [model.encode_chat(messages).ids for messages in said.messages]
    orders, rows, places = permutations(said.truth, draws, seed), [], PLACES[:-1]
    x = torch.stack(
        [
            torch.stack([matrix[own_ids[start:end]].mean(dim=0) for start, end in spans[: len(places)]])
            for own_ids, spans in zip(ids, said.spans, strict=True)
        ]
    )
    for method in READOUTS:
        read, centre = reader(null, 0, method), x.mean(dim=(0, 1))
        for number, place in enumerate(places):
            row = held(margins(read(x[:, number], centre)), said.truth, orders, None, seed)
            rows.append({"place": place, "method": method} | row)
    frame = pd.DataFrame(rows).drop(columns="p_shuffled")
    return StudyResult("bag", frame, of_bag(frame), f"{draws} permutations of the conversations' emotions")


def of_bag(frame: pd.DataFrame) -> str:
    """What the words of the story and of the answer after it give.

    >>> rows = [("inside", 0.05, 0.001), ("after", 0.001, 0.5)]
    >>> of_bag(pd.DataFrame(rows, columns=["place", "effect", "p"]).assign(method="denoised"))
    "By its words alone, the story's emotion is read 0.050 above the others in the story (p = 0.001) and 0.001 in the
    answer after it (p = 0.500)."
    """
    rows = frame[frame["method"] == "denoised"].set_index("place")
    inside, after = rows.loc["inside"], rows.loc["after"]
    return (
        f"By its words alone, the story's emotion is read {inside['effect']:.3f} above the others in the story "
        f"({p_text(inside['p'])}) and {after['effect']:.3f} in the answer after it ({p_text(after['p'])})."
    )
