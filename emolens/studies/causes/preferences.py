"""What does the model prefer, do its emotion vectors foretell it, and does steering change it? (paper, section 5)

For all emotions at once the last question is asked of slopes: what adding a little of an emotion to an option's own
tokens does to the log-odds of that option. Stated before any result: the slopes are the place-free part, the mean of
both orders; the headline is that at the vectors' default block, less the same slopes where the question is which of
the two options is longer. What adding to tokens does to any answer about them is no preference.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import (
    BY_RANK,
    Verdict,
    bootstrap_mean,
    contrast,
    correlation,
    false_discovery,
    null_columns,
    outside_draws,
    p_text,
    p_value,
    tail_p,
)
from emolens.steering.nulls import null_directions
from emolens.steering.steer import steer
from emolens.studies._alignment import Alignment, Gradients, Readout, align, ratings_of, results, unmeasurable
from emolens.studies._common import check_size, emotions_of
from emolens.studies.causes._pairs import (
    ELO,
    Fit,
    Question,
    all_pairs,
    answer_odds,
    bradley_terry,
    choice,
    consistency_interval,
    option_slopes,
    order_consistency,
    plain_elo,
    share,
)
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.shuffled_refits import shuffled_refits

# Read when something is asked, so that a notebook can put another `Question` in the place of either.
ASKED = Question("Which of these would you rather do?\n(A) {a}\n(B) {b}\nAnswer with A or B only.")
LENGTH = Question("Which of these has more words?\n(A) {a}\n(B) {b}\nAnswer with A or B only.")  # the control
STRENGTH = 0.5  # the paper's
CAUSAL: tuple[str, ...] = tuple(
    "afraid angry ashamed blissful bored calm desperate disgusted enthusiastic grateful guilty happy hostile "  # noqa: SIM905
    "inspired loving nervous playful proud sad serene spiteful surprised".split()
)
DRAWS = 9999  # permutations, so many that p of one of 171 emotions can pass a correction for all of them
OPPONENTS = 2  # controls that each steered activity meets, in both orders
MET = {"full": 8, "quick": 2}  # others that each activity meets in both orders for the slopes
PREFERENCE, LESS_LENGTH, OWN = "preference of an activity", "less the question of length", "own"
OBSERVED = "observed correlation with preference"
SIX = ("afraid", "angry", "calm", "desperate", "happy", "loving")
RATED = 3  # words with a human rating, from which on a correlation with it can be computed


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", seed: int = 0) -> dict[str, StudyResult]:
    """Which activities the model prefers, what its emotion vectors read in them, and what steering changes.

    Args:
        size: "quick" asks for two activities of each category, and steers nothing.

    Raises:
        NotForThisModel: in "full", vectors with fewer than three of the emotions that are steered (`CAUSAL`).

    Returns:
        "strengths" and "order" (see `strengths`), "observed" and "valence" (see `observed`), "alignment", "ranked" and
        "foretold" (see `alignment`), and in "full" "by_layer" and "causal".

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    found = strengths(model, size, seed=seed)
    elo = found["strengths"].table()
    found |= observed(model, vectors, elo, seed)
    found |= alignment(model, vectors, elo, size, seed)
    if size == "full":
        found["by_layer"] = by_layer(model, vectors, elo, seed)
        found["causal"] = causal(model, vectors, elo, found["observed"].table(), seed=seed)
    return found


def activities(size: str = "full") -> pd.DataFrame:
    """The 64 activities, or two of each category.

    >>> len(activities()), len(activities("quick"))
    (64, 16)
    """
    frame = pd.DataFrame(texts.stimuli("activities"))
    check_size(size)
    return frame if size == "full" else frame.groupby("category").head(2).sort_index().reset_index(drop=True)


# --- what is preferred -----------------------------------------------------------------------------


def strengths(
    model: HookedModel, size: str = "full", soft: bool = True, method: str = "bradley-terry", seed: int = 0
) -> dict[str, StudyResult]:
    """How strongly each activity is preferred, on the Elo scale, from all ordered pairs.

    Args:
        method: "bradley-terry", with the advantage of the place shown first beside it; or "elo", the paper's updates
            over the pairs in random order, which know of no such advantage.
        soft: fit to probabilities; else to wins and losses, as the paper does for its base model. A model that always
            answers by the place has no wins that tell activities apart.

    Returns:
        "strengths", a row for each activity; and "order", one row: in which share of the pairs the same activity wins
        in both orders (`consistency`; `unbiased` with the mean advantage of the place taken off), how often the one
        shown first wins, and the rank correlation with the paper's strengths, over all and within categories.

    Raises:
        ValueError: another method.
    """
    if method not in ("bradley-terry", "elo"):
        raise ValueError(f"method={method!r} is neither 'bradley-terry' nor 'elo'")
    frame = activities(size)
    odds = all_pairs(model, ASKED, frame["text"].tolist())
    fit = bradley_terry(odds, soft)
    if method == "elo":
        fit = Fit(plain_elo(odds, soft, seed=seed), fit.bias)
    unbiased = odds - np.nanmean(odds)
    frame = frame.assign(elo=fit.elo, consistency=order_consistency(odds))
    frame = frame.assign(consistency_unbiased=order_consistency(unbiased))
    row: dict[str, Any] = {"pairs": odds.size - len(odds), "bias": fit.bias}
    row["chosen_first"] = float(np.nanmean(odds > 0) * odds.size / (odds.size - len(odds)))  # NaN > 0 counts as a 0
    for name, column, values in (
        ("consistency", "consistency", odds), ("unbiased", "consistency_unbiased", unbiased),
    ):  # fmt: skip
        ends = consistency_interval(values, seed=seed)
        row |= _interval(name, (frame[column].mean(), *ends))
    row |= paper_correlations(frame, seed)
    options = {"x": "paper_elo", "y": "elo", "group": "category", "xlabel": "Elo in the paper", "ylabel": "Elo here"}
    order = pd.DataFrame([row])
    null = "none: the interval of the rank correlation is over activities"
    return {
        "strengths": StudyResult("strengths", frame, strengths_headline(frame, seed), null, "scatter", options),
        "order": StudyResult(
            "order", order, order_headline(order), "0.5: the same winner in both orders by coin flips"
        ),
    }


def paper_correlations(frame: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Rank correlation of `elo` with `paper_elo`, with interval, over all activities and within categories.

    >>> frame = activities().assign(elo=lambda frame: frame["paper_elo"].fillna(0))
    >>> round(paper_correlations(frame)["paper"], 2)
    1.0
    """
    known = frame[frame["paper_elo"].notna()]
    within = _centred(known[["elo", "paper_elo"]].to_numpy(), known["category"].to_numpy())
    over_all = correlation(known["elo"], known["paper_elo"], ranks=True, seed=seed)
    inside = correlation(within[:, 0], within[:, 1], ranks=True, seed=seed)
    return _interval("paper", over_all) | _interval("paper_within", inside)


def strengths_headline(frame: pd.DataFrame, seed: int = 0) -> str:
    """How the strengths correlate with the paper's.

    >>> strengths_headline(activities().assign(elo=range(64)))  # of five the paper gives none
    "The strengths of 59 activities have a rank correlation of ... with those of the paper's model."
    """
    row = paper_correlations(frame, seed)
    return (
        f"The strengths of {frame['paper_elo'].notna().sum()} activities have a rank correlation of {row['paper']:.2f} "
        f"[{row['paper_low']:.2f}, {row['paper_high']:.2f}] with those of the paper's model."
    )


def order_headline(frame: pd.DataFrame) -> str:
    """Whether the model prefers an activity, or the place where it is shown.

    >>> row = {"consistency": 0.07, "consistency_low": 0.03, "consistency_high": 0.13, "chosen_first": 0.076}
    >>> order_headline(pd.DataFrame([row]))
    'In 7% [3%, 13%] of the pairs the same activity wins in both orders (unrelated answers with this habit of place:
    14%): no consistent preference, the place decides.'
    """
    row = frame.iloc[0]
    habit = 2 * row["chosen_first"] * (1 - row["chosen_first"])  # one order picks the first place, the other the second
    steady = "a consistent preference" if row["consistency_low"] > 0.5 else "no consistent preference"
    steady += ", the place decides" if row["consistency_high"] < 0.5 else ""
    return (
        f"In {row['consistency']:.0%} [{row['consistency_low']:.0%}, {row['consistency_high']:.0%}] of the pairs the "
        f"same activity wins in both orders (unrelated answers with this habit of place: {habit:.0%}): {steady}."
    )


def _interval(name: str, values: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(float, values), strict=True))


# --- what foretells it -----------------------------------------------------------------------------


def readings(model: HookedModel, frame: pd.DataFrame, layers: Sequence[int]) -> Float[Tensor, "layer activity d_model"]:
    """Mean activations over the tokens of each activity, where it is the first option.

    What follows the first option can't be seen from its tokens, so one question about each is enough.
    """
    options = frame["text"].tolist()
    asked = [choice(model, ASKED, option, options[(i + 1) % len(options)]) for i, option in enumerate(options)]
    return activations(model, [question.ids for question in asked], layers, [[question.first] for question in asked])


def scores(
    model: HookedModel, vectors: EmotionVectors, frame: pd.DataFrame, layers: Sequence[int], method: str = "denoised"
) -> np.ndarray:
    """Emotion scores [layer activity emotion] of the `readings`, centred over the activities."""
    each = zip(readings(model, frame, layers), layers, strict=True)
    return np.stack([score(x, vectors, layer, method, x.mean(dim=0)).numpy() for x, layer in each])


def observed(model: HookedModel, vectors: EmotionVectors, elo: pd.DataFrame, seed: int = 0) -> dict[str, StudyResult]:
    """Correlation of each emotion's score on an activity's tokens with how strongly the activity is preferred.

    Args:
        elo: the table "strengths" of `strengths`.

    Returns:
        "observed", a row for each emotion, at the default block: r with bootstrap intervals over activities and over
        categories, `p` and the false-discovery-controlled `q` from permuted strengths; the same within categories,
        where strengths are permuted within them (`r_within`, `q_within`); and the human valence of the word. And
        "valence", one row, if at least three of the words are rated: the correlation of r with valence, and its p.
    """
    vectors.check_model(model)
    layer, n = vectors.default_layer, len(elo)
    on_activities = scores(model, vectors, elo, [layer])[0]
    rng = np.random.default_rng(seed)
    strength, category = elo["elo"].to_numpy(), elo["category"].to_numpy()
    free = np.stack([rng.permutation(strength) for _ in range(DRAWS)])
    bound = np.stack([_permute_within(strength, category, rng) for _ in range(DRAWS)])
    r, null = _r(on_activities, strength[None])[0], _r(on_activities, free)
    inside = _r(_centred(on_activities, category), _centred(strength[:, None], category).T)[0]
    null_inside = _r(_centred(on_activities, category), _centred(bound.T, category).T)
    rows = []
    for e, emotion in enumerate(vectors.emotions):
        _, low, high = correlation(on_activities[:, e], strength, seed=seed)
        by_category = _cluster_interval(on_activities[:, e], strength, category, seed)
        row = {"emotion": emotion, "r": r[e], "low": low, "high": high, "p": p_value(r[e], null[:, e])}
        row |= {"category_low": by_category[0], "category_high": by_category[1], "r_within": inside[e]}
        rows.append(row | {"p_within": p_value(inside[e], null_inside[:, e])})
    table = pd.DataFrame(rows).assign(layer=layer)
    table["q"], table["q_within"] = (false_discovery(table[p].to_numpy()) for p in ("p", "p_within"))
    rated = texts.ratings("glasgow")
    table["valence"] = [rated.get(name, {}).get("valence", np.nan) for name in vectors.emotions]
    options = {"x": "valence", "y": "r", "xlabel": "human valence of the word",
               "ylabel": "correlation with preference", "label": "emotion"}  # fmt: skip
    permuted = f"{DRAWS} permutations of the strengths of {n} activities, q controls the share of false discoveries"
    found = {"observed": StudyResult("preferences", table, observed_headline(table), permuted, "scatter", options)}
    if table["valence"].notna().sum() >= RATED:
        found["valence"] = _along_valence(table, null)
    return found


def observed_headline(frame: pd.DataFrame) -> str:
    """How many emotions correlate with preference, and the one that does most.

    >>> observed_headline(pd.DataFrame({"emotion": ["calm", "sad"], "r": [0.1, -0.4], "q": [0.8, 0.3]}))
    '0 of 2 emotions correlate with preference at a false discovery rate of 5%; the strongest is sad (r = -0.40).'
    """
    strongest = frame.loc[frame["r"].abs().idxmax()]
    return (
        f"{int((frame['q'] <= 0.05).sum())} of {len(frame)} emotions correlate with preference at a false discovery "
        f"rate of 5%; the strongest is {strongest['emotion']} (r = {strongest['r']:+.2f})."
    )


def _along_valence(table: pd.DataFrame, null: np.ndarray) -> StudyResult:
    """Whether the emotions of pleasant words correlate with preference more than those of unpleasant ones."""
    rated = table["valence"].notna().to_numpy()
    valence = table.loc[rated, "valence"].to_numpy()
    r, by_chance = (_r(x.T, valence[None]).ravel() for x in (table["r"].to_numpy()[None, rated], null[:, rated]))
    low, high = np.quantile(by_chance, [0.025, 0.975])
    row = {"words": int(rated.sum()), "r": float(r[0]), "null_low": low, "null_high": high}
    frame = pd.DataFrame([row | {"p": p_value(float(r[0]), by_chance)}])
    return StudyResult("valence", frame, valence_headline(frame), f"{len(null)} permutations of the strengths")


def valence_headline(frame: pd.DataFrame) -> str:
    """The correlation over the rated words, and its p.

    >>> valence_headline(pd.DataFrame([{"words": 82, "r": -0.09, "p": 0.81}]))
    "Over 82 words, an emotion's correlation with preference goes with human valence at r = -0.09 (permuted preferences:
    p = 0.810)."
    """
    row = frame.iloc[0]
    return (
        f"Over {row['words']:.0f} words, an emotion's correlation with preference goes with human valence at r = "
        f"{row['r']:+.2f} (permuted preferences: {p_text(row['p'])})."
    )


def _r(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of rows of y [draw item] with columns of x [item emotion]: [draw emotion]."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=1, keepdims=True)
    size = np.linalg.norm(y, axis=1)[:, None] * np.linalg.norm(x, axis=0)
    return np.divide(y @ x, size, out=np.zeros(size.shape), where=size > 1e-12)


def _centred(x: np.ndarray, category: np.ndarray) -> np.ndarray:
    return (pd.DataFrame(x) - pd.DataFrame(x).groupby(category).transform("mean")).to_numpy()


def _permute_within(x: np.ndarray, category: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = x.copy()
    for name in np.unique(category):
        out[category == name] = rng.permutation(x[category == name])
    return out


def _cluster_interval(x: np.ndarray, y: np.ndarray, category: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of r when whole categories are resampled."""
    groups = [np.flatnonzero(category == name) for name in np.unique(category)]
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(1000):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        drawn.append(_r(x[rows, None], y[None, rows])[0, 0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def by_layer(model: HookedModel, vectors: EmotionVectors, elo: pd.DataFrame, seed: int = 0) -> StudyResult:
    """The same correlation in every block, for the emotions of the causal test that correlate most at the default.

    Raises:
        NotForThisModel: vectors with fewer than two of those emotions.
    """
    on_activities, strength = scores(model, vectors, elo, vectors.layers), elo["elo"].to_numpy()
    at = _r(on_activities[vectors.layers.index(vectors.default_layer)], strength[None])[0]
    ordered = sorted(emotions_of(vectors, CAUSAL), key=lambda name: at[vectors.index(name)])
    shown = list(dict.fromkeys([*ordered[:2], *ordered[-2:]]))
    rng = np.random.default_rng(seed)
    permuted = np.stack([rng.permutation(strength) for _ in range(DRAWS)])
    largest = np.max([abs(_r(x, permuted)).max(axis=1) for x in on_activities], axis=0)
    null = np.quantile(largest, 0.95)
    rows = []
    for row, layer in enumerate(vectors.layers):
        for name in shown:
            r = correlation(on_activities[row][:, vectors.index(name)], strength, seed=seed)
            rows.append([name, layer, *r, -null, null])
    table = pd.DataFrame(rows, columns=["emotion", "layer", "effect", "low", "high", "null_low", "null_high"])
    options = {"ylabel": "correlation with preference", "series": "emotion", "title": "Preference foretold, by layer"}
    said = (
        f"{DRAWS} permutations of the strengths: 95% of the largest correlations of {len(vectors.emotions)} emotions "
        f"in {len(vectors.layers)} blocks"
    )
    return StudyResult("preferences_by_layer", table, by_layer_headline(table), said, "effect_by_layer", options)


def by_layer_headline(frame: pd.DataFrame) -> str:
    """The strongest correlation, against the largest of all emotions and blocks.

    >>> row = {"emotion": "blissful", "layer": 23, "effect": 0.39, "null_low": -0.49, "null_high": 0.49}
    >>> by_layer_headline(pd.DataFrame([row]))
    'Of 1 emotions over the blocks, the strongest correlation with preference is that of blissful at block 23, r =
    +0.39; the largest of all emotions and blocks reaches 0.49 by chance, so it is inside the null.'
    """
    strongest = frame.loc[frame["effect"].abs().idxmax()]
    inside = strongest["null_low"] <= strongest["effect"] <= strongest["null_high"]
    return (
        f"Of {frame['emotion'].nunique()} emotions over the blocks, the strongest correlation with preference is that "
        f"of {strongest['emotion']} at block {strongest['layer']:.0f}, r = {strongest['effect']:+.2f}; the largest of "
        f"all emotions and blocks reaches {strongest['null_high']:.2f} by chance, so it is "
        f"{Verdict.INSIDE if inside else Verdict.BEYOND}."
    )


def largest(model: HookedModel, vectors: EmotionVectors, elo: pd.DataFrame, seed: int = 0) -> StudyResult:
    """The largest correlation of any emotion in any block, against the largest that permuted strengths give.

    Args:
        elo: the table "strengths" of `strengths`.

    Returns:
        A row over all activities and one within categories, where strengths are permuted within them: the `emotion`
        and `layer` with the largest `r`, `null_high`, which 95 % of the largest under permutation stay below, and p.
    """
    everywhere, strength = scores(model, vectors, elo, vectors.layers), elo["elo"].to_numpy()
    category, rng, rows = elo["category"].to_numpy(), np.random.default_rng(seed), []
    permuted = np.stack([rng.permutation(strength) for _ in range(DRAWS)])
    bound = np.stack([_permute_within(strength, category, rng) for _ in range(DRAWS)])
    centred = [_centred(x, category) for x in everywhere]
    for name, each, own, drawn in (
        ("all activities", everywhere, strength[None], permuted),
        ("within categories", centred, _centred(strength[:, None], category).T, _centred(bound.T, category).T),
    ):
        r = np.stack([_r(x, own)[0] for x in each])  # [layer emotion]
        null = np.max([np.abs(_r(x, drawn)).max(axis=1) for x in each], axis=0)
        at, emotion = np.unravel_index(np.abs(r).argmax(), r.shape)
        row = {"over": name, "emotion": vectors.emotions[emotion], "layer": vectors.layers[at], "r": r[at, emotion]}
        rows.append(row | {"null_high": np.quantile(null, 0.95), "p": tail_p(float(abs(r[at, emotion])), null)})
    table, said = pd.DataFrame(rows), f"{DRAWS} permutations of the strengths: the largest of all emotions and blocks"
    return StudyResult("preferences_largest", table, largest_headline(table), said)


def largest_headline(frame: pd.DataFrame) -> str:
    """The one over all activities.

    >>> row = {"emotion": "irate", "layer": 9, "r": -0.52, "p": 0.015}
    >>> largest_headline(pd.DataFrame([row]))
    'Of all emotions in all blocks, irate at block 9 correlates most with preference, r = -0.52 (the largest under
    permuted preferences: p = 0.015).'
    """
    row = frame.iloc[0]
    return (
        f"Of all emotions in all blocks, {row['emotion']} at block {row['layer']} correlates most with preference, "
        f"r = {row['r']:+.2f} (the largest under permuted preferences: {p_text(row['p'])})."
    )


# --- what adding any emotion would change ----------------------------------------------------------


def alignment(
    model: HookedModel, vectors: EmotionVectors, elo: pd.DataFrame, size: str = "full", seed: int = 0
) -> dict[str, StudyResult]:
    """Whether emotions raise an activity's preference in the order of their valence, and as they foretell it.

    Args:
        elo: the table "strengths" of `strengths`.
        size: "full" looks at all blocks, where each activity meets eight others; "quick" at the default block, where
            it meets two.

    Returns:
        "alignment", the correlations of the slopes of all emotions with human ratings and with the observed correlation
        of each with preference, against sets with shuffled labels and random gradients; "ranked", the emotions one by
        one; and "foretold", a row for each emotion: its slope, and its observed `r`. With fewer than 20 rated
        emotions, or stories that are not at hand, "alignment" alone, which says why nothing can be measured.
    """
    check_size(size)
    try:
        ratings_of(vectors.emotions)
        refits = shuffled_refits(model, vectors, seed=seed)
    except ValueError as reason:
        return unmeasurable(str(reason))
    layers = list(vectors.layers) if size == "full" else [vectors.default_layer]
    x = dict(zip(layers, readings(model, elo, layers), strict=True))

    def readouts(layer: int) -> dict[str, Readout]:
        return {OBSERVED: observed_r(x[layer], elo["elo"].to_numpy())}

    gradients = preference_gradients(model, elo, layers, MET[size], seed)
    found = align(gradients, vectors, refits, readouts, marked=SIX, seed=seed)
    here = readouts(vectors.default_layer)[OBSERVED](vectors.matrix(vectors.default_layer))
    said = results(found, "slope of the log-odds (nats for a strength of 0.1)")
    return said | {"foretold": foretold(found, dict(zip(vectors.emotions, here.tolist(), strict=True)))}


def preference_gradients(
    model: HookedModel, frame: pd.DataFrame, layers: Sequence[int], met: int = MET["full"], seed: int = 0
) -> Gradients:
    """The gradient of each activity's log-odds against others by what is added on its own tokens.

    Each activity meets `met` others in both orders, and counts with the mean of the orders, from which the favour of a
    place cancels. In each question both options count, each with what is added on its own tokens, so what would raise
    or lower the first answer wherever it is added cancels from the mean over the activities.

    Returns:
        An item for each activity, which the bootstrap resamples; the contrast is their mean. There are no kinds of
        reply to shuffle, so its nulls are shuffled labels, random gradients and ratings within clusters. The controls
        are the same slopes less those of the question which option is longer (the headline), and alone ("own").

    Raises:
        ValueError: an odd number of others, none, or more than there are.
    """
    n = len(frame)
    if met < 2 or met % 2 or met >= n:
        raise ValueError(f"met={met} of {n} activities: each meets an even number of others, two at least")
    order = np.random.default_rng(seed).permutation(n).tolist()
    pairs = [(order[i], order[(i + away) % n]) for away in range(1, met // 2 + 1) for i in range(n)]
    own = {question: place_free(model, question, frame["text"].tolist(), pairs, layers) for question in (ASKED, LENGTH)}
    controls = {LESS_LENGTH: own[ASKED] - own[LENGTH], OWN: own[ASKED]}
    return Gradients(tuple(layers), controls, tuple(frame["text"]), {PREFERENCE: contrast(np.arange(n), seed=seed)})


def place_free(
    model: HookedModel,
    question: Question,
    options: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    layers: Sequence[int],
) -> Float[np.ndarray, "option layer d_model"]:
    """Mean gradient of an option's log-odds by what is added on its own tokens, over its pairs and both orders."""
    ordered = [*pairs, *((j, i) for i, j in pairs)]
    choices = [choice(model, question, options[i], options[j]) for i, j in ordered]
    _, slopes = option_slopes(model, question, choices, layers)
    first, second = np.array(ordered).T
    total = np.zeros((len(options), len(layers), model.d_model))
    np.add.at(total, first, slopes[:, 0].double().numpy())
    np.add.at(total, second, -slopes[:, 1].double().numpy())  # what lowers the first answer favours the second option
    return total / np.bincount(np.concatenate([first, second]), minlength=len(options))[:, None, None]


def observed_r(x: Float[Tensor, "activity d_model"], strength: Float[np.ndarray, "activity"]) -> Readout:
    """What `observed` measures, for any unit vectors [... emotion d_model]: the correlation of score and strength.

    >>> readout = observed_r(torch.eye(4, 3), np.arange(4.0))
    >>> readout(torch.eye(3)).shape, readout(torch.randn(5, 2, 3)).shape
    (torch.Size([3]), torch.Size([5, 2]))
    """
    rows = unit((x - x.mean(dim=0)).float())
    rows = rows - rows.mean(dim=0)
    centred = torch.from_numpy(strength - strength.mean())
    favoured = (centred / centred.norm().clamp(min=1e-12)).float()

    def readout(vectors: Float[Tensor, "*axes emotion d_model"]) -> Float[Tensor, "*axes emotion"]:
        scored = vectors.float() @ rows.T
        return scored @ favoured / scored.norm(dim=-1).clamp(min=1e-12)

    return readout


def foretold(found: Alignment, r: dict[str, float]) -> StudyResult:
    """The slope of each emotion beside its observed correlation with preference.

    Args:
        r: emotion -> its observed correlation at the block of the headline.
    """
    control = found.options["control"]
    part = found.ranked[found.ranked["control"] == control]
    table = part[["emotion", "effect", "low", "high", "valence"]].reset_index(drop=True)
    table.insert(1, "r", table["emotion"].map(r))
    rows = found.frame[(found.frame["layer"] == found.layer) & (found.frame["measure"] == OBSERVED)]
    options = {"x": "r", "y": "effect", "xlabel": "correlation with preference, unsteered", "label": "emotion",
               "ylabel": "slope of the log-odds (nats for a strength of 0.1)"}  # fmt: skip
    drawn = "the draws of the result alignment, whose rows of the observed correlation have their place and p"
    return StudyResult("foretold", table, foretold_headline(rows, control), drawn, "scatter", options)


def foretold_headline(rows: pd.DataFrame, control: str) -> str:
    """How the slopes go with the observed correlations, less the control of the headline.

    Args:
        rows: one for each control, of `Alignment.frame`.

    >>> row = {"control": "own", "r": 0.21, "low": -0.1, "high": 0.5, "verdict": Verdict.INSIDE}
    >>> foretold_headline(pd.DataFrame([row]), "own")
    "An emotion's slope on preference goes with its observed correlation at r = +0.21 [-0.10, +0.50] (own: inside the
    null)."
    """
    row = rows[rows["control"] == control].iloc[0]
    if row["verdict"] == Verdict.UNMEASURABLE:
        return "The slopes or the observed correlations do not differ between emotions, so neither foretells the other."
    return (
        f"An emotion's slope on preference goes with its observed correlation at r = {row['r']:+.2f} "
        f"[{row['low']:+.2f}, {row['high']:+.2f}] ({control}: {row['verdict']})."
    )


# --- what steering changes -------------------------------------------------------------------------


def split(frame: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Which activities are steered: half of each category, the others are controls.

    >>> int(split(pd.DataFrame({"category": ["x", "x"]})).sum())
    1
    """
    steered = frame.groupby("category").sample(frac=0.5, random_state=seed).index
    return frame.index.isin(steered)


def causal(
    model: HookedModel,
    vectors: EmotionVectors,
    elo: pd.DataFrame,
    observed: pd.DataFrame,
    emotions: Sequence[str] = CAUSAL,
    strength: float = STRENGTH,
    draws: int = BY_RANK,
    seed: int = 0,
) -> StudyResult:
    """Change of an activity's Elo against control activities when only its own tokens are steered.

    Args:
        elo, observed: the tables "strengths" of `strengths` and "observed" of `observed`.
        emotions: that are steered towards, of those that the vectors have.
        draws: random directions, and refits with shuffled labels, each one direction.

    Returns:
        A row for each direction: `effect`, the mean change of log-odds in points of Elo, with its interval over the
        steered activities; for an emotion its observed r, and p against the t prediction interval of each null,
        multiplied by the number of emotions, and the verdict.

    Raises:
        NotForThisModel: vectors with fewer than three of the emotions.
    """
    layer = vectors.default_layer
    named = [vectors[name] for name in emotions_of(vectors, emotions, RATED)]
    n, nulls = len(named), null_directions(model, vectors, named[:1], draws, layer, seed)
    kinds = {kind: [family[0] for family in families] for kind, families in nulls.families.items()}
    directions = [*named, *(direction for drawn in kinds.values() for direction in drawn)]
    steered = _changes(model, elo, directions, layer, strength, seed)
    effect = steered.mean(axis=1)
    table = pd.DataFrame({"direction": [direction.name for direction in directions], "effect": effect})
    table["kind"] = ["emotion"] * n + [kind for kind, drawn in kinds.items() for _ in drawn]
    table[["low", "high"]] = [bootstrap_mean(row, seed=seed) for row in steered]
    table["r"] = table["direction"].map(observed.set_index("emotion")["r"]).where(table["kind"].eq("emotion"))
    for kind in kinds:
        null = table.loc[table["kind"].eq(kind), "effect"].to_numpy()
        p = np.minimum(1, outside_draws(effect[:n], null)[0] * n)
        table[null_columns(kind)[2]] = pd.Series(p, index=range(n)).reindex(table.index)
    columns = [null_columns(kind)[2] for kind in kinds]
    table["verdict"] = pd.Series([Verdict.of(row) for row in table.loc[: n - 1, columns].to_numpy()]).reindex(
        table.index
    )
    null = f"{draws} directions of each kind ({', '.join(kinds)}), p corrected for {n} emotions"
    return StudyResult("preference_steering", table, causal_headline(table), null, "steering_dots")


def causal_headline(frame: pd.DataFrame) -> str:
    """How many emotions are beyond both nulls, and how their effects go with what was observed.

    >>> frame = pd.DataFrame({"kind": "emotion", "effect": [1.0, 2, 3], "r": [0.1, 0.3, 0.2]})
    >>> causal_headline(frame.assign(verdict=Verdict.INSIDE))
    'Steering the tokens of an activity changes its strength beyond both nulls for 0 of 3 emotions; the effects go with
    the observed correlations at r = +0.50.'
    """
    emotions = frame[frame["kind"] == "emotion"]
    r = np.corrcoef(emotions["effect"], emotions["r"])[0, 1]
    return (
        f"Steering the tokens of an activity changes its strength beyond both nulls for "
        f"{int((emotions['verdict'] == Verdict.BEYOND).sum())} of {len(emotions)} emotions; the effects go with the "
        f"observed correlations at r = {r:+.2f}."
    )


def _changes(
    model: HookedModel, elo: pd.DataFrame, directions: Sequence[Direction], layer: int, strength: float, seed: int
) -> np.ndarray:
    """Change in Elo points [direction steered], a mean over opponents and both orders."""
    steered = split(elo, seed)
    rng, options = np.random.default_rng(seed), elo["text"].tolist()
    controls = np.flatnonzero(~steered)
    alone = {
        j: share(model, [choice(model, ASKED, options[j], options[i]) for i in np.flatnonzero(steered)], True)
        for j in controls
    }
    rows, doses = [None, *directions], [0.0] + [strength] * len(directions)
    out = []
    for i in np.flatnonzero(steered):
        met = rng.choice(controls, min(OPPONENTS, len(controls)), replace=False)
        first = [choice(model, ASKED, options[i], options[j]) for j in met]
        with steer(model, rows, doses, layer, [first[0].first]):
            shared, cut = share(model, first)
            odds = [answer_odds(model, ASKED, shared, [question.ids[cut:] for question in first])]
        for j in met:
            second, (shared, cut) = choice(model, ASKED, options[j], options[i]), alone[j]
            with steer(model, rows, doses, layer, [second.second]):
                odds.append(-answer_odds(model, ASKED, shared, [second.ids[cut:]]))
        favour = np.concatenate([x.numpy() for x in odds], axis=1).mean(axis=1)
        out.append(ELO * (favour[1:] - favour[0]))
    return np.stack(out, axis=1)
