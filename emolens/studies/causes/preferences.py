"""What does the model prefer, do its emotion vectors foretell it, and does steering change it? (paper, section 5)"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, correlation, false_discovery, outside_draws, p_text, p_value
from emolens.steering.nulls import null_directions
from emolens.steering.steer import steer
from emolens.studies._common import check_size
from emolens.studies.causes._pairs import (
    ELO,
    Fit,
    all_pairs,
    answer_odds,
    bradley_terry,
    choice,
    consistency_interval,
    order_consistency,
    plain_elo,
    share,
)
from emolens.studies.geometry.circumplex import ratings
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

STRENGTH = 0.5  # the paper's
CAUSAL: tuple[str, ...] = tuple(
    "afraid angry ashamed blissful bored calm desperate disgusted enthusiastic grateful guilty happy hostile "  # noqa: SIM905
    "inspired loving nervous playful proud sad serene spiteful surprised".split()
)
DRAWS = 9999  # so many that a single one of 171 emotions can be found


def activities(size: str = "full") -> pd.DataFrame:
    """The 64 activities, or two of each category."""
    frame = pd.DataFrame(texts.stimuli("activities"))
    check_size(size)
    return frame if size == "full" else frame.groupby("category").head(2).sort_index().reset_index(drop=True)


def strengths(
    model: HookedModel, size: str = "full", soft: bool = True, method: str = "bradley-terry", seed: int = 0
) -> StudyResult:
    """How strongly each activity is preferred, on the Elo scale, from all ordered pairs.

    Args:
        method: "bradley-terry", with the advantage of the place shown first beside it; or "elo", the paper's updates
            over the pairs in random order, which know of no such advantage.
        soft: fit to probabilities; else to wins and losses, as the paper does for its base model. A model that always
            answers by the place has no wins that tell activities apart.
    """
    if method not in ("bradley-terry", "elo"):
        raise ValueError(f"method={method!r} is neither 'bradley-terry' nor 'elo'")
    frame = activities(size)
    odds = all_pairs(model, frame["text"].tolist())
    fit, consistent = bradley_terry(odds, soft), order_consistency(odds)
    if method == "elo":
        fit = Fit(plain_elo(odds, soft, seed=seed), fit.bias)
    unbiased = order_consistency(odds - np.nanmean(odds))
    low, high = consistency_interval(odds, seed=seed)
    fair_low, fair_high = consistency_interval(odds - np.nanmean(odds), seed=seed)
    first = float(np.nanmean(odds > 0) * odds.size / (odds.size - len(odds)))  # NaN > 0 counts as a 0
    frame = frame.assign(elo=fit.elo, consistency=consistent, consistency_unbiased=unbiased)
    frame = frame.assign(bias=fit.bias, chosen_first=first)
    known = frame[frame["paper_elo"].notna()]
    r, r_low, r_high = correlation(known["elo"], known["paper_elo"], ranks=True, seed=seed)
    within = _centred(known[["elo", "paper_elo"]].to_numpy(), known["category"].to_numpy())
    inside = correlation(within[:, 0], within[:, 1], ranks=True, seed=seed)
    steady = "a consistent preference" if low > 0.5 else "no consistent preference"
    steady += ": the place decides" if high < 0.5 else ""
    sentence = (
        f"{odds.size - len(odds):,} ordered pairs: in {consistent.mean():.0%} [{low:.0%}, {high:.0%}] of the pairs the "
        f"same activity wins in both orders (chance 50%), {steady}; the one shown first wins {first:.0%}. With the "
        f"mean advantage of that place taken off, {unbiased.mean():.0%} [{fair_low:.0%}, {fair_high:.0%}]. Elo "
        f"{fit.elo.min():.0f} to {fit.elo.max():.0f}; rank correlation with the paper's {r:.2f} [{r_low:.2f}, "
        f"{r_high:.2f}], within categories {inside[0]:.2f} [{inside[1]:.2f}, {inside[2]:.2f}]."
    )
    options = {"x": "paper_elo", "y": "elo", "group": "category", "xlabel": "Elo in the paper", "ylabel": "Elo here"}
    return StudyResult("strengths", frame, sentence, "scatter", options)


def scores(
    model: HookedModel, vectors: EmotionVectors, frame: pd.DataFrame, layers: Sequence[int], method: str = "denoised"
) -> np.ndarray:
    """Emotion scores [layer activity emotion] over the tokens of each activity, where it is the first option.

    What follows the first option can't be seen from its tokens, so one question about each is enough.
    """
    options = frame["text"].tolist()
    choices = [choice(model, one, options[(i + 1) % len(options)]) for i, one in enumerate(options)]
    x = activations(model, [one.ids for one in choices], layers, [[one.first] for one in choices])
    return np.stack([
        score(x[row], vectors, layer, method, x[row].mean(dim=0)).numpy() for row, layer in enumerate(layers)
    ])  # fmt: skip


def run(model: HookedModel, vectors: EmotionVectors, size: str = "full", elo: Any = None, seed: int = 0) -> StudyResult:
    """Correlation of each emotion's score on an activity's tokens with how strongly the activity is preferred.

    Args:
        elo: strengths that are known already (the table of `strengths`), so that no pair is run.

    Returns:
        A row for each emotion, at the default block: r with bootstrap intervals over activities and over categories,
        `p` and the false-discovery-controlled `q` from permuted strengths; the same within categories, where strengths
        are permuted within them (`r_within`, `q_within`); and the human valence of the word.
    """
    vectors.check_model(model)
    frame = strengths(model, size, seed=seed).table() if elo is None else elo
    layer = vectors.default_layer
    found = scores(model, vectors, frame, [layer])[0]
    rng = np.random.default_rng(seed)
    strength, category = frame["elo"].to_numpy(), frame["category"].to_numpy()
    free = np.stack([rng.permutation(strength) for _ in range(DRAWS)])
    bound = np.stack([_permute_within(strength, category, rng) for _ in range(DRAWS)])
    r, null = _r(found, strength[None])[0], _r(found, free)
    inside = _r(_centred(found, category), _centred(strength[:, None], category).T)[0]
    null_inside = _r(_centred(found, category), _centred(bound.T, category).T)
    rows = []
    for e, emotion in enumerate(vectors.emotions):
        _, low, high = correlation(found[:, e], strength, seed=seed)
        by_category = _cluster_interval(found[:, e], strength, category, seed)
        row = {"emotion": emotion, "r": r[e], "low": low, "high": high, "p": p_value(abs(r[e]), abs(null[:, e]))}
        row |= {"category_low": by_category[0], "category_high": by_category[1], "r_within": inside[e]}
        rows.append(row | {"p_within": p_value(abs(inside[e]), abs(null_inside[:, e]))})
    table = pd.DataFrame(rows)
    table["q"], table["q_within"] = (false_discovery(table[p].to_numpy()) for p in ("p", "p_within"))
    rated, valence = ratings(vectors.emotions, "glasgow", "valence")
    table["valence"] = pd.Series(valence, index=rated).reindex(range(len(table)))
    follows, by_chance = (_r(x.T, valence[None]).ravel() for x in (r[None, rated], null[:, rated]))
    sentence = _observed(table, layer, len(frame), float(follows[0]), float(np.quantile(abs(by_chance), 0.95)),
                         p_value(abs(follows[0]), abs(by_chance)))  # fmt: skip
    options = {"x": "valence", "y": "r", "xlabel": "human valence of the word",
               "ylabel": "correlation with preference", "label": "emotion"}  # fmt: skip
    return StudyResult("preferences", table, sentence, "scatter", options)


def _observed(table: pd.DataFrame, layer: int, n: int, follows: float, chance: float, p: float) -> str:
    best, worst = table.loc[table["r"].idxmax()], table.loc[table["r"].idxmin()]
    said = [
        f"{row['emotion']} r = {row['r']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] (over categories "
        f"[{row['category_low']:+.2f}, {row['category_high']:+.2f}], within them {row['r_within']:+.2f})"
        for row in (best, worst)
    ]
    return (
        f"Block {layer}, {n} activities: {', '.join(said)}. Of {len(table)} emotions "
        f"{int((table['q'] <= 0.05).sum())} correlate with preference at a false discovery rate of 5%, within "
        f"categories {int((table['q_within'] <= 0.05).sum())}. Correlation of r with the human valence of the words: "
        f"{follows:+.2f} (permuted preferences: up to {chance:.2f} in size, {p_text(p)})."
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
    groups, rng, found = (
        [np.flatnonzero(category == name) for name in np.unique(category)],
        np.random.default_rng(seed),
        [],
    )
    for _ in range(1000):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        found.append(_r(x[rows, None], y[None, rows])[0, 0])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def by_layer(model: HookedModel, vectors: EmotionVectors, elo: pd.DataFrame, seed: int = 0) -> StudyResult:
    """The same correlation in every block, for the emotions of the causal test that correlate most at the default."""
    found, strength = scores(model, vectors, elo, vectors.layers), elo["elo"].to_numpy()
    at = _r(found[vectors.layers.index(vectors.default_layer)], strength[None])[0]
    shown = sorted(CAUSAL, key=lambda name: at[vectors.index(name)])
    shown = [*shown[:2], *shown[-2:]]
    rng = np.random.default_rng(seed)
    permuted = np.stack([rng.permutation(strength) for _ in range(DRAWS)])
    rows = []
    largest = np.max([abs(_r(found[row], permuted)).max(axis=1) for row in range(len(vectors.layers))], axis=0)
    null = np.quantile(largest, 0.95)
    for row, layer in enumerate(vectors.layers):
        for name in shown:
            r = correlation(found[row][:, vectors.index(name)], strength, seed=seed)
            rows.append([name, layer, *r, -null, null])
    table = pd.DataFrame(rows, columns=["emotion", "layer", "effect", "low", "high", "null_low", "null_high"])
    strongest = table.loc[table["effect"].abs().idxmax()]
    sentence = (
        f"Over the blocks the strongest correlation of {', '.join(shown)} is that of {strongest['emotion']} at block "
        f"{int(strongest['layer'])}, r = {strongest['effect']:+.2f} (largest of {len(vectors.emotions)} emotions "
        f"and {len(vectors.layers)} blocks by chance: {strongest['null_high']:.2f})."
    )
    options = {"ylabel": "correlation with preference", "series": "emotion", "title": "Preference foretold, by layer"}
    return StudyResult("preferences_by_layer", table, sentence, "effect_by_layer", options)


def split(frame: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Which activities are steered: half of each category, the others are controls."""
    steered = frame.groupby("category").sample(frac=0.5, random_state=seed).index
    return frame.index.isin(steered)


def causal(
    model: HookedModel,
    vectors: EmotionVectors,
    elo: pd.DataFrame,
    observed: pd.DataFrame,
    emotions: Sequence[str] = CAUSAL,
    opponents: int = 2,
    draws: int = 39,
    strength: float = STRENGTH,
    seed: int = 0,
) -> StudyResult:
    """Change of an activity's Elo against control activities when only its own tokens are steered.

    Args:
        elo, observed: the tables of `strengths` and of `run`.
        opponents: controls that each steered activity meets, in both orders.
        draws: random directions, and refits with shuffled labels, each one direction.

    Returns:
        A row for each direction: `effect`, the mean change of log-odds in points of Elo, with its interval over the
        steered activities; for an emotion its observed r, and p against the t prediction interval of each null,
        multiplied by the number of emotions.
    """
    layer = vectors.default_layer
    named = [vectors[name] for name in emotions]
    families = null_directions(model, vectors, named[:1], draws, layer, seed)
    kinds = {kind: [family[0] for family in found] for kind, found in families.items()}
    directions = [*named, *(one for found in kinds.values() for one in found)]
    changes = _changes(model, elo, directions, layer, strength, opponents, seed)
    effect = changes.mean(axis=1)
    table = pd.DataFrame({"direction": [one.name for one in directions], "effect": effect})
    table["kind"] = ["emotion"] * len(named) + [kind for kind, found in kinds.items() for _ in found]
    table[["low", "high"]] = [bootstrap_mean(row, seed=seed) for row in changes]
    table["r"] = table["direction"].map(observed.set_index("emotion")["r"]).where(table["kind"].eq("emotion"))
    for kind in kinds:
        null = table.loc[table["kind"].eq(kind), "effect"]
        p = outside_draws(effect[: len(named)], null.to_numpy())[0] * len(named)
        table[f"p_{kind}"] = pd.Series(p.clip(max=1), index=range(len(named))).reindex(table.index)
    kept = [column for column in table if column.startswith("p_")]
    above = table.loc[table[kept].max(axis=1, skipna=False) <= 0.05, "direction"].tolist()
    r, low, high = correlation(table["effect"][: len(named)], table["r"][: len(named)], seed=seed)
    best, worst = table.loc[table["effect"][: len(named)].idxmax()], table.loc[table["effect"][: len(named)].idxmin()]
    bands = "; ".join(
        f"{kind} {part['effect'].quantile(0.025):+.0f} to {part['effect'].quantile(0.975):+.0f}"
        for kind, part in table[table["kind"].ne("emotion")].groupby("kind")
    )
    sentence = (
        f"Steering only an activity's tokens at block {layer}, strength {strength:g}: {best['direction']} "
        f"{best['effect']:+.0f} Elo [{best['low']:+.0f}, {best['high']:+.0f}], {worst['direction']} "
        f"{worst['effect']:+.0f} [{worst['low']:+.0f}, {worst['high']:+.0f}] (95% of the nulls: {bands}); above both "
        f"nulls {', '.join(above) if above else 'none'} of {len(named)}. Effect against the observed r: "
        f"{r:+.2f} [{low:+.2f}, {high:+.2f}]."
    )
    options = {"x": "r", "y": "effect", "null": "null directions", "xlabel": "correlation with preference, unsteered",
               "ylabel": "change by steering (Elo)", "label": "direction", "labels": 22}  # fmt: skip
    return StudyResult("preference_steering", table, sentence, "scatter", options)


def _changes(
    model: HookedModel, elo: pd.DataFrame, directions: Sequence[Direction], layer: int, strength: float, opponents: int,
    seed: int,
) -> np.ndarray:  # fmt: skip
    """Change in Elo points [direction steered], a mean over opponents and both orders."""
    steered = split(elo, seed)
    rng, options = np.random.default_rng(seed), elo["text"].tolist()
    controls = np.flatnonzero(~steered)
    alone = {
        j: share(model, [choice(model, options[j], options[i]) for i in np.flatnonzero(steered)], True)
        for j in controls
    }
    rows, strengths_ = [None, *directions], [0.0] + [strength] * len(directions)
    out = []
    for i in np.flatnonzero(steered):
        met = rng.choice(controls, min(opponents, len(controls)), replace=False)
        first = [choice(model, options[i], options[j]) for j in met]
        found = []
        with steer(model, rows, strengths_, layer, [first[0].first]):
            shared, cut = share(model, first)
            found.append(answer_odds(model, shared, [one.ids[cut:] for one in first]))
        for j in met:
            second, (shared, cut) = choice(model, options[j], options[i]), alone[j]
            with steer(model, rows, strengths_, layer, [second.second]):
                found.append(-answer_odds(model, shared, [second.ids[cut:]]))
        favour = np.concatenate([x.numpy() for x in found], axis=1).mean(axis=1)
        out.append(ELO * (favour[1:] - favour[0]))
    return np.stack(out, axis=1)
