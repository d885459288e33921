"""One word makes a text alarming: where does that stand in the model, and does it go through the emotion's vector?"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import BY_RANK, null_columns, p_text, tail_p
from emolens.steering.measures import Measure, emotion_score, log_odds
from emolens.steering.nulls import Nulls, random_directions
from emolens.steering.patch import patch, through
from emolens.studies._common import NotForThisModel, check_size
from emolens.vectors.emotion_vectors import EmotionVectors


class Pair(NamedTuple):
    """Two versions of a text that differ in one word, and the emotion that the first implies.

    >>> PAIRS[2].target
    'She saw that the fire was out. She felt'
    """

    text: str
    alarming: str
    calm: str
    emotion: str

    @property
    def source(self) -> str:
        """The alarming version."""
        return self.text.format(self.alarming)

    @property
    def target(self) -> str:
        """The calm version."""
        return self.text.format(self.calm)


PAIRS = (
    Pair("The doctor came in. She said that the lump was {}. The man felt", "deadly", "harmless", "afraid"),
    Pair("He opened the letter. It said that he was {}. He felt", "fired", "hired", "worried"),
    Pair("She saw that the fire was {}. She felt", "spreading", "out", "afraid"),
    Pair("They told him that his daughter was {}. He felt", "dead", "safe", "heartbroken"),
    Pair("The bridge under them was {}. They felt", "breaking", "solid", "terrified"),
    Pair("He looked at the test result. He had {} the exam. He felt", "failed", "passed", "unhappy"),
    Pair("The stranger behind her held a {}. She felt", "knife", "rose", "afraid"),
    Pair("The pilot said that the engine was {}. The passengers felt", "burning", "fine", "terrified"),
    Pair("She took a pill. The bottle said that it was {}. She felt", "poison", "sugar", "alarmed"),
    Pair("The water in the tunnel was {}. The men felt", "rising", "falling", "panicked"),
    Pair("He checked the rope. It was {}. He felt", "torn", "new", "uneasy"),
    Pair("My son called. He said that he had {} the match. I felt", "lost", "won", "sad"),
    Pair("The judge said that she was {}. She felt", "guilty", "free", "desperate"),
    Pair("The bank wrote that the loan was {}. He felt", "denied", "granted", "frustrated"),
)
ODDS = log_odds([" afraid", " sad", " worried", " terrible"], [" relieved", " happy", " calm", " safe"])


KINDS = ("random", "other emotions")  # of null directions, for what goes through the emotion's vector


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = BY_RANK, seed: int = 0
) -> dict[str, StudyResult]:
    """Where a changed word's effect stands, which heads carry it, and how much goes through the emotion's vector.

    Args:
        size: "quick" looks at every fifth block, and at every tenth for the vectors.
        draws: random directions for each pair.

    Raises:
        NotForThisModel: with fewer than two of the pairs: a pair needs a vector for its emotion, and two versions
            with the same number of tokens.

    Returns:
        "where", "heads" and "through_the_vector", as the functions of these names describe them.

    >>> run(model, vectors, "quick")
    Traceback (most recent call last):
    emolens.studies._common.NotForThisModel: 0 of the 14 pairs ...

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    step = 1 if size == "full" else 5
    return {
        "where": where(model, vectors, 2 if size == "full" else 5, seed),
        "heads": heads(model, vectors, step, seed),
        "through_the_vector": through_the_vector(model, vectors, 3 if size == "full" else 10, draws, seed),
    }


def pairs_for(model: HookedModel, vectors: EmotionVectors) -> list[Pair]:
    """The pairs whose emotion the vectors have, and whose versions differ in the model's tokens, not in their number.

    Raises:
        NotForThisModel: fewer than two.
    """
    kept = []
    for pair in PAIRS:
        alarming, calm = (model.encode(text).ids for text in (pair.source, pair.target))
        if pair.emotion in vectors.emotions and len(alarming) == len(calm) and alarming != calm:
            kept.append(pair)
    if len(kept) < 2:
        raise NotForThisModel(
            f"{len(kept)} of the {len(PAIRS)} pairs have a vector for their emotion "
            f"({', '.join(sorted({pair.emotion for pair in PAIRS}))}) and two versions of as many tokens in the "
            f"tokenizer of {model.name}; at least two are needed: put pairs of yours into patching.PAIRS"
        )
    return kept


def measures(vectors: EmotionVectors, pair: Pair) -> dict[str, Measure]:
    """The emotion's score at the default block before the next word, and the log-odds of alarmed words.

    >>> list(measures(vectors, PAIRS[0]))
    ['score', 'log-odds']
    """
    return {"score": emotion_score(vectors, pair.emotion, vectors.default_layer), "log-odds": ODDS}


def changes(model: HookedModel, vectors: EmotionVectors) -> pd.DataFrame:
    """What each measure is on both versions of each pair.

    Raises:
        NotForThisModel: as `run`.
    """
    rows = []
    for pair in pairs_for(model, vectors):
        for name, measure in measures(vectors, pair).items():
            calm, alarming = (float(measure(model, text)) for text in (pair.target, pair.source))
            rows.append([pair.target, pair.alarming, pair.emotion, name, calm, alarming, alarming - calm])
    columns = ["text", "changed to", "emotion", "measure", "calm", "alarming", "change"]
    return pd.DataFrame(rows, columns=columns)


def changed_position(model: HookedModel, pair: Pair) -> int:
    """The first token in which the two versions differ.

    >>> changed_position(model, Pair("she was {} .", "angry", "calm", "angry"))
    2
    """
    a, b = (model.encode(text).ids for text in (pair.source, pair.target))
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def shares(changed: pd.DataFrame, by: list[str], seed: int = 0, draws: int = 2000) -> pd.DataFrame:
    """`effect`: sum of `change` over sum of `whole`, over all pairs, with its interval over pairs.

    >>> changed = pd.DataFrame({"pair": [0, 1], "layer": 3, "change": [1.0, 1.0], "whole": [2.0, 2.0]})
    >>> shares(changed, ["layer"])["effect"].tolist()
    [0.5]
    """
    rng = np.random.default_rng(seed)
    pairs = changed["pair"].nunique()
    picks = rng.integers(0, pairs, (draws, pairs))
    rows = []
    for key, part in changed.groupby(by, sort=False):
        part = part.groupby("pair")[["change", "whole"]].mean()
        change, whole = part["change"].to_numpy(), part["whole"].to_numpy()
        low, high = np.quantile(change[picks].sum(axis=1) / whole[picks].sum(axis=1), [0.025, 0.975])
        rows.append([*key, change.sum() / whole.sum(), low, high])
    return pd.DataFrame(rows, columns=[*by, "effect", "low", "high"])


# --- where it stands -------------------------------------------------------------------------------


def where(model: HookedModel, vectors: EmotionVectors, every: int = 2, seed: int = 0) -> StudyResult:
    """Share of the change that the residual stream carries at the changed word and at the last token, by block.

    Shares are those of all pairs together (sum of the changes by the patch over sum of the whole changes), with
    intervals that resample pairs.

    Args:
        every: how many blocks further the next one is that is looked at.

    Raises:
        NotForThisModel: as `run`.
    """
    layers = sorted({*range(0, model.n_layers, every), model.n_layers - 1})
    tables = []
    for number, pair in enumerate(pairs_for(model, vectors)):
        at = changed_position(model, pair)
        last = len(model.encode(pair.source).ids) - 1
        patched = patch(model, pair.source, pair.target, measures(vectors, pair), layers=layers)
        patched = patched[patched["position"].isin([at, last])]
        place = np.where(patched["position"] == at, "changed word", "last token")
        tables.append(patched.assign(pair=number, place=place))
    table = shares(pd.concat(tables), ["measure", "place", "layer"], seed)
    read_later = (table["measure"] == "score") & (table["layer"] > vectors.default_layer)  # of what comes after it
    plotted = table[~read_later].assign(series=table["measure"] + ", " + table["place"])
    options = {"ylabel": "share of the change", "series": "series", "title": "Where the changed word's effect stands"}
    null = "none: the two places stand for each other; a place without part in the change carries nothing of it"
    return StudyResult("patching", plotted, where_headline(plotted), null, "effect_by_layer", options)


def where_headline(frame: pd.DataFrame) -> str:
    """From which block on the log-odds stand at the last token.

    >>> frame = pd.DataFrame({"measure": "log-odds", "place": ["changed word", "last token"] * 2,
    ...                       "layer": [0, 0, 2, 2], "effect": [1.0, 0.0, 0.1, 0.9]})
    >>> where_headline(frame)
    'In block 0 the changed word carries 100% of the change in the log-odds; from block 2 on the last token carries more
    of it than the changed word.'
    """
    odds = frame[frame["measure"] == "log-odds"].pivot(index="layer", columns="place", values="effect")
    crossing = odds.index[odds["last token"] > odds["changed word"]]
    later = f"from block {crossing[0]} on the last token carries more" if len(crossing) else "no later block has more"
    of_it = "of it than the changed word" if len(crossing) else "of it at the last token"
    return (
        f"In block {odds.index[0]} the changed word carries {odds['changed word'].iloc[0]:.0%} of the change in the "
        f"log-odds; {later} {of_it}."
    )


# --- through the vector ----------------------------------------------------------------------------


def through_the_vector(
    model: HookedModel, vectors: EmotionVectors, every: int = 3, draws: int = BY_RANK, seed: int = 0
) -> StudyResult:
    """Share of the log-odds' change that goes through the component along the emotion's vector, by block.

    Against random directions and the vectors of other emotions, every fourth of them where there are many, over all
    blocks together; beside it all but the component.

    Args:
        every: the blocks are those of the vectors whose index is a multiple of this.

    Raises:
        NotForThisModel: as `run`, or vectors without such a block.
    """
    layers = [layer for layer in vectors.layers if layer % every == 0] or list(vectors.layers)
    changed = pd.concat(_through(model, vectors, layers, draws, seed))
    table = shares(changed[~changed["kind"].isin(KINDS)], ["kind", "layer"], seed)
    nulls = Nulls().measured({kind: _drawn(changed, kind, layers) for kind in KINDS})
    low, high = nulls.band()["random"]
    table["null_low"], table["null_high"] = (table["layer"].map(dict(zip(layers, x, strict=True))) for x in (low, high))
    others = nulls.centre()["other emotions"]
    table["others"] = table["layer"].map(dict(zip(layers, others, strict=True)))
    single = table[table["kind"] == "vector"].set_index("layer").loc[layers, "effect"]
    for kind, p in nulls.p(single).items():
        table[null_columns(kind)[2]] = (
            table["layer"].map(dict(zip(layers, p, strict=True))).where(table["kind"] == "vector")
        )
    options = {"ylabel": "share of the change in log-odds", "series": "kind", "title": "Through the emotion's vector"}
    null = (
        f"{draws} random directions, and the vectors of {len(_others(vectors))} emotions; the furthest of each over "
        f"all blocks"
    )
    return StudyResult("through_the_vector", table, through_headline(table), null, "effect_by_layer", options)


def through_headline(frame: pd.DataFrame) -> str:
    """The most that the component along the vector carries, against both kinds of null.

    >>> frame = pd.DataFrame({"kind": ["vector"], "layer": [18], "effect": [0.09]})
    >>> through_headline(frame.assign(**{null_columns(KINDS[0])[2]: 0.025, null_columns(KINDS[1])[2]: 0.3}))
    "The component along the emotion's vector carries at most 9% of the change in the log-odds, at block 18 (random
    directions: p = 0.025; vectors of other emotions: p = 0.300)."
    """
    single = frame[frame["kind"] == "vector"]
    best = single.loc[single["effect"].idxmax()]
    p_random, p_others = (p_text(best[null_columns(kind)[2]]) for kind in KINDS)
    return (
        f"The component along the emotion's vector carries at most {best['effect']:.0%} of the change in the log-odds, "
        f"at block {best['layer']:.0f} (random directions: {p_random}; vectors of other emotions: {p_others})."
    )


def _others(vectors: EmotionVectors) -> tuple[str, ...]:
    return vectors.emotions[::4] if len(vectors.emotions) >= 40 else vectors.emotions


def _through(
    model: HookedModel, vectors: EmotionVectors, layers: Sequence[int], draws: int, seed: int
) -> Iterator[pd.DataFrame]:
    """For each pair what goes through its vector, through other directions, and through all but its vector."""
    for number, pair in enumerate(pairs_for(model, vectors)):
        direction = vectors[pair.emotion]
        named = [vectors[name] for name in _others(vectors) if name != pair.emotion]
        random = random_directions(direction, draws, seed + number)
        single = ["vector"] + ["other emotions"] * len(named) + ["random"] * draws
        for part, directions, kind in (
            ("direction", [direction, *named, *random], single),
            ("rest", [direction], ["all but the vector"]),
        ):
            changed = through(model, pair.source, pair.target, {"log-odds": ODDS}, directions, layers, part)
            yield changed.assign(pair=number, kind=kind * len(layers))


def _drawn(changed: pd.DataFrame, kind: str, layers: Sequence[int]) -> np.ndarray:
    """The share [draw layer] over all pairs, of each draw of random directions or of each other emotion."""
    rows = changed[changed["kind"] == kind]
    # Draws are pooled over the pairs by their number, the vectors of other emotions by their name.
    draw = rows.groupby(["pair", "layer"]).cumcount() if kind == "random" else rows["direction"]
    sums = rows.assign(draw=draw).groupby(["draw", "layer"])[["change", "whole"]].sum()
    return (sums["change"] / sums["whole"]).unstack("layer")[list(layers)].to_numpy()


# --- heads -----------------------------------------------------------------------------------------


def heads(model: HookedModel, vectors: EmotionVectors, every: int = 1, seed: int = 0) -> StudyResult:
    """Share of the change in the emotion's score that each attention head carries, over the pairs together.

    The null flips the signs of what the heads change at random in each pair; p is that of a share as large as the
    largest of any head.

    Args:
        every: how many blocks further the next one is that is looked at, up to the default block.

    Raises:
        NotForThisModel: as `run`.
    """
    layers = range(vectors.default_layer % every, vectors.default_layer + 1, every)
    tables = []
    for number, pair in enumerate(pairs_for(model, vectors)):
        score = {"score": measures(vectors, pair)["score"]}
        tables.append(patch(model, pair.source, pair.target, score, "head", layers).assign(pair=number))
    changed = pd.concat(tables)
    table = shares(changed, ["layer", "head"], seed).rename(columns={"effect": "share"})
    largest = _flipped(changed, seed)
    table["null"], table["p"] = np.quantile(largest, 0.95), [tail_p(abs(share), largest) for share in table["share"]]
    table = table.assign(position=np.nan, head=table["head"].astype(int), layer=table["layer"].astype(int))
    null = "999 draws in which the signs of the heads' changes are flipped in each pair; the largest of all heads"
    options = {"title": "Share carried by each head"}
    return StudyResult("patching_heads", table, heads_headline(table), null, "patch_map", options)


def heads_headline(frame: pd.DataFrame) -> str:
    """The head with the largest share.

    >>> heads_headline(pd.DataFrame({"layer": [14, 3], "head": [2, 0], "share": [0.27, 0.1], "p": [0.006, 0.5]}))
    "Head 2 of block 14 has the largest share of the change in the emotion's score, 27% (against the largest of any head
    with flipped signs: p = 0.006)."
    """
    best = frame.loc[frame["share"].idxmax()]
    return (
        f"Head {best['head']:.0f} of block {best['layer']:.0f} has the largest share of the change in the emotion's "
        f"score, {best['share']:.0%} (against the largest of any head with flipped signs: {p_text(best['p'])})."
    )


def _flipped(changed: pd.DataFrame, seed: int, draws: int = 999) -> np.ndarray:
    """The largest share of any head when the signs of what the heads change are flipped at random in each pair."""
    change = changed.pivot_table(index=["layer", "head"], columns="pair", values="change").to_numpy()
    whole = changed.groupby("pair")["whole"].mean().sum()
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, change.shape[1]))
    return np.abs(signs @ change.T / whole).max(axis=1)
