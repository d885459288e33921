"""Do the components of the emotion vectors mirror human valence and arousal? (paper, section 6)"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Verdict, correlation, null_columns, p_text, tail_p
from emolens.studies._common import READOUTS, check_size
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.geometry import components, reliable_layer
from emolens.vectors.refit import refit, stories_of

SCALES = ("valence", "arousal", "dominance")
SOURCES = ("glasgow", "russell_mehrabian")
COMPONENTS = 5
FEWEST = 10  # rated words for which a correlation says anything
NAMED = ("valence", "arousal")  # the two that a headline speaks of
ORDINALS = ("first", "second", "third", "fourth", "fifth")

log = logging.getLogger(__name__)


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    registers: Sequence[str] = (),
    methods: Sequence[str] = READOUTS,
) -> dict[str, StudyResult]:
    """Correlation of the first components with human ratings, from each register of the stories.

    Args:
        size: "quick" looks at the first register with the first of the methods, and draws fewer permutations.
        registers: of the stories, or "both" for all of them; default plain, literary, both, as the stories have them.

    Returns:
        "{register}_{method}" for each of these, as `of_register` describes it; and in "full" "by_layer".

    Raises:
        ValueError: fewer than ten of the emotions are rated.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    registers = list(registers) or _registers(vectors)
    if size == "quick":
        registers, methods = registers[:1], methods[:1]
    results = {}
    for register in registers:
        refitted = of_register(model, vectors, register)
        for method in methods:
            results[f"{register}_{method}"] = components_of(refitted, register, method, 9999 if size == "full" else 999)
    if size == "full":
        results["by_layer"] = by_layer(of_register(model, vectors, registers[0]))
    return results


def _registers(vectors: EmotionVectors) -> list[str]:
    """The registers of the stories that the vectors were derived from, plain first, and "both" where there are more."""
    known = sorted({story.register for story in stories_of(vectors)}, reverse=True)
    return [*known, "both"] if len(known) > 1 else known


def of_register(model: HookedModel, vectors: EmotionVectors, register: str) -> EmotionVectors:
    """Vectors from one register, or as they are for "both".

    >>> of_register(model, vectors, "both") is vectors
    True
    """
    return vectors if register == "both" else refit(model, vectors, register=register)[list(vectors.emotions)]


def components_of(
    vectors: EmotionVectors, register: str = "both", method: str = "denoised", draws: int = 9999
) -> StudyResult:
    """`against_ratings` at the layer chosen by split-half reliability.

    Args:
        vectors: of this register.

    >>> components_of(shipped, draws=99).table()["layer"].unique().tolist()
    [22]
    """
    layer = reliable_layer(vectors, method)
    frame = against_ratings(vectors.vectors(layer, method), vectors.emotions, draws)
    frame = frame.assign(layer=layer, register=register, method=method)
    null = (
        f"{draws} permutations of the ratings over the words, and {draws} draws of {COMPONENTS} random directions in "
        f"the space that the vectors span: of each draw the largest |r|"
    )
    return StudyResult("circumplex", frame, headline(frame), null, "component_bars")


def headline(frame: pd.DataFrame) -> str:
    """Which of the components looked at goes best with human valence, and which with arousal.

    Either null pays for all of them.

    >>> row = {"source": "glasgow", "register": "plain", "component": 1, "p": 1e-4, "p_random": 1e-4}
    >>> other = row | {"scale": "arousal", "component": 3, "r": 0.56, "p_random": 0.07}
    >>> headline(pd.DataFrame([row | {"scale": "valence", "r": 0.79}, other]))
    'From plain stories, the first component goes with human valence at |r| = 0.79 (beyond permuted ratings and random
    directions), the third one with arousal at |r| = 0.56 (beyond permuted ratings, inside random directions,
    p = 0.070).'
    """
    frame = frame[frame["source"] == frame["source"].iloc[0]]
    parts = [frame[frame["scale"] == scale] for scale in NAMED]
    valence, arousal = (part.loc[part["r"].idxmax()] for part in parts)
    names = [ORDINALS[int(row["component"]) - 1] for row in (valence, arousal)]
    register = {"both": "the stories of both registers"}.get(frame["register"].iloc[0])
    return (
        f"From {register or frame['register'].iloc[0] + ' stories'}, the {names[0]} component goes with human valence "
        f"at |r| = {valence['r']:.2f} ({_against(valence)}), the {names[1]} one with arousal at "
        f"|r| = {arousal['r']:.2f} ({_against(arousal)})."
    )


def _against(row: pd.Series) -> str:
    """How a component came out against either null, with the greater p where it is inside one."""
    p = {"permuted ratings": row["p"], "random directions": row["p_random"]}
    inside = [name for name, value in p.items() if Verdict.of([value]) == Verdict.INSIDE]
    beyond = [name for name in p if name not in inside]
    said = [f"{word} {' and '.join(part)}" for word, part in (("beyond", beyond), ("inside", inside)) if part]
    return ", ".join(said + [p_text(max(p.values()))] * bool(inside))


def ratings(emotions: tuple[str, ...], source: str, scale: str) -> tuple[list[int], np.ndarray]:
    """Which of the emotions are rated, and how. Words that are no emotion here are logged and passed over.

    Raises:
        ValueError: fewer than ten of the emotions are rated.

    >>> rows, human = ratings(shipped.emotions, "glasgow", "valence")
    >>> len(rows), len(human)
    (82, 82)
    """
    rated = {name: row[scale] for name, row in texts.ratings(source).items() if scale in row}
    if unknown := [name for name in rated if name not in emotions]:
        log.warning("%d words rated in %s have no vector: %s", len(unknown), source, ", ".join(unknown[:5]))
    rows = [row for row, name in enumerate(emotions) if name in rated]
    if len(rows) < FEWEST:
        raise ValueError(
            f"{source} rates the {scale} of {len(rows)} of the {len(emotions)} emotions; at least {FEWEST} are needed"
        )
    return rows, np.array([rated[emotions[row]] for row in rows])


def against_ratings(
    vectors: Float[Tensor, "emotion d_model"],
    emotions: tuple[str, ...],
    draws: int = 999,
    seed: int = 0,
    sources: Sequence[str] = SOURCES,
) -> pd.DataFrame:
    """Correlation of each of the first components with each rating: interval, two nulls, cross-validated upper line.

    There are two nulls, and each takes the largest |r| of all components looked at, so that looking at several is paid
    for. The first permutes the ratings over the words (`null`, `p`): do the ratings go with the vectors at all? The
    second keeps the ratings and takes random directions of the space that the vectors span in the place of the
    components (`random_high`, `p_random`, see `random_places`): does a component carry a rating more than any other
    direction does? Where a rating is spread over many directions, most of them go with it. The `verdict` is beyond the
    null only if both are passed. `ridge` is how well a linear readout of all directions predicts the ratings of words
    that it was not fitted on (ten folds).

    Args:
        sources: names of packaged ratings, or .csv files (see `corpus.ratings`). One that rates fewer than ten of the
            emotions is passed over where another one rates more.

    Raises:
        ValueError: no source rates ten of the emotions.

    >>> table = against_ratings(shipped.vectors(20), shipped.emotions, 99, sources=["glasgow"])
    >>> table.query("scale == 'valence'")["r"].round(2).tolist()
    [0.16, 0.31, 0.55, 0.53, 0.15]
    """
    sources = _rated_enough(emotions, sources)
    x, explained = components(vectors, COMPONENTS)
    anywhere = random_places(vectors, draws, seed)
    rng, rows = np.random.default_rng(seed), []
    for source in sources:
        for scale in [scale for scale in SCALES if scale in next(iter(texts.ratings(source).values()), {})]:
            words, human = ratings(emotions, source, scale)
            places = x[words].numpy()
            null = np.array([_largest(places, rng.permutation(human)) for _ in range(draws)])
            random = _best(anywhere[:, words], human)
            band = 0.0, float(np.quantile(random, 0.95))
            ridge = readable(vectors, words, human, seed)
            for component in range(COMPONENTS):
                r, low, high = correlation(places[:, component], human, seed=seed)
                ends = (min(low, high), max(low, high)) if r >= 0 else (-max(low, high), -min(low, high))
                row: dict[str, Any] = {"source": source, "scale": scale, "rating": f"{scale} ({source})"}
                row |= {"component": component + 1, "explained": float(explained[component]), "words": len(words)}
                row |= {"r": abs(r), "low": ends[0], "high": ends[1], "null": float(np.quantile(null, 0.95))}
                p = {"p": tail_p(abs(r), null), "p_random": tail_p(abs(r), random)}
                row |= {"p": p["p"]} | dict(zip(null_columns("random"), (*band, p["p_random"]), strict=True))
                rows.append(row | {"verdict": str(Verdict.of(p.values())), "ridge": ridge})
    return pd.DataFrame(rows)


def random_places(
    vectors: Float[Tensor, "emotion d_model"], draws: int, seed: int = 0, k: int = COMPONENTS
) -> Float[np.ndarray, "draw emotion direction"]:
    """Places of the emotions along k random directions of the space that their vectors span, at right angles.

    A direction in which the vectors differ much weighs in the places as it does in the vectors. So a place along such a
    direction is mostly made of the first components, as that of any text would be.

    >>> random_places(shipped.vectors(20), draws=3).shape
    (3, 171, 5)
    """
    centred = (vectors - vectors.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    along = (u * s)[:, s > s[0] * 1e-9]  # the same places, in axes of the span
    drawn = np.random.default_rng(seed).normal(size=(draws, along.shape[1], k))
    return np.asarray(along.numpy() @ np.linalg.qr(drawn).Q)


def readable(vectors: Float[Tensor, "emotion d_model"], rows: Sequence[int], human: np.ndarray, seed: int = 0) -> float:
    """How well a linear readout of all directions predicts the ratings of words that it was not fitted on (ten folds).

    With permuted ratings the same call gives what it reaches by chance.

    Args:
        rows, human: which emotions are rated, and how (see `ratings`).

    Returns:
        The correlation of what is predicted with the ratings.

    >>> rows, human = ratings(shipped.emotions, "glasgow", "valence")
    >>> readable(shipped.vectors(20), rows, human) > 0.8
    True
    """
    folds = KFold(10, shuffle=True, random_state=seed)
    readout = RidgeCV(np.logspace(-3, 3, 13) * float(vectors.square().sum(dim=1).mean()))
    told = cross_val_predict(readout, vectors[list(rows)].double().numpy(), human, cv=folds)
    return correlation(told, human, draws=2)[0]


def _largest(places: np.ndarray, human: np.ndarray) -> float:
    return float(np.abs(np.corrcoef(np.vstack([human, places.T]))[0, 1:]).max())


def _best(places: np.ndarray, human: np.ndarray) -> np.ndarray:
    """The largest |r| of each draw [draw word direction] with the ratings."""
    centred, around = places - places.mean(axis=1, keepdims=True), human - human.mean()
    along = (centred * around[:, None]).sum(axis=1)
    size = np.linalg.norm(centred, axis=1) * np.linalg.norm(around)
    return np.asarray(np.abs(along / size).max(axis=1))


def _rated_enough(emotions: tuple[str, ...], sources: Sequence[str]) -> list[str]:
    """The sources that rate enough of the emotions, or all of them if none does, so that the error says so."""
    counts = {source: len(set(texts.ratings(source)) & set(emotions)) for source in sources}
    return [source for source in sources if counts[source] >= FEWEST] or list(sources)


def by_layer(vectors: EmotionVectors, method: str = "denoised", first: int = 3) -> StudyResult:
    """Where in the model valence and arousal emerge: the largest |r| of the first components, layer by layer.

    Args:
        first: how many components are looked at in each layer.

    >>> by_layer(shipped.at(18, 20)).table()["layer"].tolist()
    [18, 18, 20, 20]
    """
    rows = []
    for layer in vectors.layers:
        table = against_ratings(vectors.vectors(layer, method), vectors.emotions, 199)
        for scale in NAMED:
            source = table["source"].iloc[0]
            part = table[(table["scale"] == scale) & (table["source"] == source) & (table["component"] <= first)]
            best = part.loc[part["r"].idxmax()]
            row = {"layer": layer, "scale": scale, "component": int(best["component"]), "effect": best["r"]}
            rows.append(
                row
                | {
                    "low": best["low"],
                    "high": best["high"],
                    "null_low": 0.0,
                    "null_high": max(best["null"], best["random_high"]),
                }
            )
    frame = pd.DataFrame(rows)
    options = {
        "series": "scale",
        "ylabel": "|r| with the Glasgow Norms",
        "title": f"Best of the first {first} components",
    }
    null = (
        f"199 permutations of the ratings and 199 draws of {COMPONENTS} random directions in each layer: the higher of "
        f"what 95% of the largest |r| stay below"
    )
    return StudyResult("circumplex_by_layer", frame, by_layer_headline(frame), null, "effect_by_layer", options)


def by_layer_headline(frame: pd.DataFrame) -> str:
    """Where valence and arousal are highest, and whether that is beyond the null of the layer.

    >>> row = {"layer": 18, "effect": 0.83, "null_high": 0.28}
    >>> by_layer_headline(pd.DataFrame([row | {"scale": "valence"}, row | {"scale": "arousal", "effect": 0.2}]))
    'Over the layers, valence is highest at block 18 (|r| = 0.83, beyond the null of the block) and arousal at block 18
    (|r| = 0.20, inside the null of the block).'
    """
    top = {scale: part.loc[part["effect"].idxmax()] for scale, part in frame.groupby("scale", sort=False)}
    places = [
        f"block {row['layer']} (|r| = {row['effect']:.2f}, "
        f"{Verdict.BEYOND if row['effect'] > row['null_high'] else Verdict.INSIDE} of the block)"
        for row in (top["valence"], top["arousal"])
    ]
    return f"Over the layers, valence is highest at {places[0]} and arousal at {places[1]}."


def places(
    vectors: EmotionVectors, layer: int, method: str = "denoised", source: str = "glasgow", k: int = 3
) -> pd.DataFrame:
    """A table for maps: each emotion's place on the first k components, its ratings, and its cluster of the paper.

    The sign of a component is arbitrary. Here the first one is turned so that it rises with human valence, and the
    others so that they rise with arousal. A component's column is named after its share of the variance.

    >>> places(shipped, 20, k=1).columns.tolist()
    ['emotion', 'component 1 (17% of the variance)', 'valence', 'arousal', 'cluster']
    """
    x, explained = components(vectors.vectors(layer, method), k)
    rated, frame = texts.ratings(source), pd.DataFrame({"emotion": vectors.emotions})
    scales = {scale: [rated.get(name, {}).get(scale, np.nan) for name in vectors.emotions] for scale in NAMED}
    for number, share in enumerate(explained.tolist()):
        place = pd.Series(x[:, number].numpy(), dtype=float)
        r = place.corr(pd.Series(scales["arousal" if number else "valence"], dtype=float))
        frame[f"component {number + 1} ({share:.0%} of the variance)"] = place * (-1 if r < 0 else 1)
    cluster = {name: title for title, members in texts.paper_clusters().items() for name in members}
    return frame.assign(**scales, cluster=[cluster.get(name, "none") for name in vectors.emotions])


def ends(vectors: EmotionVectors, layer: int, method: str = "denoised", k: int = 6) -> pd.DataFrame:
    """The k emotions at either end of each component, in alphabetical order.

    Neighbours among the strongest often differ by less than two number formats do, so their order says nothing.

    >>> ends(shipped, 20, k=2).loc[1, "one end"]
    'fulfilled, serene'
    """
    x, explained = components(vectors.vectors(layer, method), COMPONENTS)
    rows = []
    for component in range(COMPONENTS):
        order = x[:, component].argsort().tolist()
        low, high = (", ".join(sorted(vectors.emotions[row] for row in rows)) for rows in (order[:k], order[-k:]))
        rows.append((component + 1, float(explained[component]), low, high))
    return pd.DataFrame(rows, columns=["component", "explained", "one end", "other end"])
