"""Does a monitor on the vectors give an alarm before the words do, and how often for nothing?

Pairs of conversations share their beginning; in one somebody grows desperate, angry, afraid or miserable, the other
goes on steadily. No word for an emotion stands before the onset. One half of the domains, with half of the neutral
dialogues and benign conversations, sets the monitor (readout, combination, half-life, scale, threshold), the other half
tests it, and the other way round. What the vectors add over the words is the result that counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import Scorer
from emolens.results import StudyResult
from emolens.stats import Verdict, clopper_pearson, family_p, p_text, wilson
from emolens.steering.nulls import Nulls, null_directions, random_directions
from emolens.studies._common import READOUTS, NotForThisModel, check_size, layers_of, near
from emolens.studies.watching._conversations import Conversation, conversations, emotions_in, read_all
from emolens.studies.watching._detectors import (
    CHOSEN,
    Detector,
    of_embeddings,
    of_probes,
    of_vectors,
    of_words,
    scores_of,
    weights_of,
)
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import stories_of, stories_pooled_for
from emolens.watching.monitor import threshold

RATES = (0.01, 0.05)  # of false alarms that a threshold is set for
DRAWS = 2000  # of the bootstrap over pairs
SWAPS = 999  # of which twin is which
ALL = "all four"
CUTS = ("whole", "before the onset")
CURVES = (CHOSEN, "probe of conversations", "token embeddings", "VADER")  # of the ROC


@dataclass(frozen=True)
class Tested:
    """A detector on the half that it was not set on: the heights of each conversation, by emotion."""

    name: str
    found: Sequence[Conversation]
    heights: Mapping[str, list[np.ndarray]]  # [pos] of each conversation, on the scale of the other half
    quiet: Mapping[str, tuple[list[float], list[float]]]  # the highest of the quiet ones that set either half
    says: tuple[str, str]

    @classmethod
    def of(cls, detector: Detector, found: Sequence[Conversation]) -> "Tested":
        by_half = [detector.heights(found, half) for half in (0, 1)]
        names = emotions_in(found)
        heights = {name: [by_half[1 - one.half][name][n] for n, one in enumerate(found)] for name in names}
        quiet = {name: (_quiet(by_half[0][name], found, 0), _quiet(by_half[1][name], found, 1)) for name in names}
        return cls(detector.name, found, heights, quiet, detector.says)

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that the pairs are about."""
        return tuple(self.heights)

    def pairs(self, emotion: str) -> list[tuple[int, int]]:
        """The numbers of the twins of each pair: the escalating one, the steady one."""
        where = {(one.pair, one.kind): n for n, one in enumerate(self.found)}
        return [
            (n, where[one.pair, "steady"])
            for n, one in enumerate(self.found)
            if one.kind == "escalating" and one.emotion == emotion
        ]

    def highest(self, emotion: str, numbers: Sequence[int], before: bool = False) -> Float[np.ndarray, "text"]:
        """The highest height of each conversation, of all its tokens or of those before the onset."""
        ends = [self.found[n].upto(self.found[n].marks["onset"]) if before else None for n in numbers]
        return np.array([self.heights[emotion][n][:end].max() for n, end in zip(numbers, ends, strict=True)])

    def first_alarm(self, emotion: str, n: int, rate: float) -> int | None:
        """The first watched token of a conversation above the threshold that the other half sets for a rate."""
        limit = threshold(self.quiet[emotion][1 - self.found[n].half], rate)
        above = np.flatnonzero(self.heights[emotion][n] > limit)
        return int(above[0]) if len(above) else None


def _quiet(heights: Sequence[np.ndarray], found: Sequence[Conversation], half: int) -> list[float]:
    return [float(x.max()) for x, one in zip(heights, found, strict=True) if one.quiet and one.half == half]


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    corpus: Corpus | None = None,
    draws: int = 39,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Areas under the ROC curve, lead times, false alarms, specificity and styles, beside what words alone give.

    `quick` looks at the chosen blocks alone, takes fewer neutral dialogues, and refits no vectors with shuffled labels.

    Args:
        rows: conversations of the form of `corpus.stimuli("monitoring")`.
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.
        draws: of each null.

    >>> run(model, vectors, "huge")
    Traceback (most recent call last):
    ValueError: size='huge' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    found = conversations(model, rows, size)
    if missing := [name for name in emotions_in(found) if name not in vectors]:
        raise NotForThisModel(f"the vectors have no {' and no '.join(missing)}, which the conversations are about")
    stories = stories_of(vectors, corpus)
    kept = sorted({near(vectors, vectors.chosen_layer(method)) for method in READOUTS})
    x, each = _read(model, vectors, found, kept, layers_of(vectors, size))
    layer = near(vectors, vectors.chosen_layer("denoised"))
    pooled = None
    if size == "full" or corpus is not None:
        pooled = (stories_pooled_for(model, vectors, stories), stories)
    detectors = [
        *of_vectors(vectors, x, found).values(),
        *of_probes(vectors, x[layer], found, layer, pooled),
        of_embeddings(model, vectors, stories, found),
        *of_words(vectors, layer, found),
    ]
    tested = {detector.name: Tested.of(detector, found) for detector in detectors}
    names = emotions_in(found)
    if pooled:
        own = [vectors[name] for name in names]
        families: Families = null_directions(model, vectors, own, draws, layer, seed, stories).families
    else:
        families = _random(vectors, names, draws, seed)
    nulls = _nulls(vectors, found, x[layer], layer, families)
    results = {
        "monitoring": areas(tested, nulls, seed),
        "roc": roc(tested),
        "added": added(tested, seed),
        "lead": leads(tested),
        "false_alarms": false_alarms(tested),
        "specificity": specificity(tested[CHOSEN], seed),
        "bearers": bearers(tested[CHOSEN], seed),
        "style": styles(tested),
        "within_pairs": within_pairs(tested[CHOSEN], seed),
    }
    if size == "full":
        results["by_block"] = by_block(each, found, seed)
    return results


def _read(
    model: HookedModel,
    vectors: EmotionVectors,
    found: Sequence[Conversation],
    kept: Sequence[int],
    layers: Sequence[int],
) -> tuple[dict[int, list[torch.Tensor]], dict[int, dict[str, list[torch.Tensor]]]]:
    """The activations at the kept blocks, and at all blocks the scores of the four emotions with both readouts."""
    weights = {layer: weights_of(vectors, layer, emotions_in(found)) for layer in layers}
    scorers = {
        layer: {method: Scorer.of(vectors, layer, method, weights=weights[layer]) for method in READOUTS}
        for layer in layers
    }
    n = len(emotions_in(found))

    def project(y: torch.Tensor, layer: int) -> torch.Tensor:
        scores = [scorer(y) for scorer in scorers.get(layer, {}).values()]
        return torch.cat([*scores, *([y.cpu()] if layer in kept else [])], dim=1)

    parts = read_all(model, found, sorted({*layers, *kept}), project)
    width = {layer: len(scorers.get(layer, {})) * n for layer in parts}
    x = {layer: [part[:, width[layer] :] for part in parts[layer]] for layer in kept}
    each: dict[int, dict[str, list[torch.Tensor]]] = {}
    for layer in layers:
        columns = {method: slice(i * n, (i + 1) * n) for i, method in enumerate(READOUTS)}
        each[layer] = {method: [part[:, at] for part in parts[layer]] for method, at in columns.items()}
    return x, each


def area(loud: Float[np.ndarray, "loud"], quiet: Float[np.ndarray, "quiet"]) -> float:
    """The area under the ROC curve: how often a loud one is higher than a quiet one, ties counted half.

    >>> area(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    return float(_wins(loud, quiet).mean())


def _wins(loud: np.ndarray, quiet: np.ndarray) -> np.ndarray:
    return (loud[:, None] > quiet) + 0.5 * (loud[:, None] == quiet)


def _resampled(wins: Float[np.ndarray, "pair pair"], draws: int, seed: int) -> Float[np.ndarray, "draw"]:
    """The area when pairs are drawn again with replacement."""
    n = len(wins)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    return np.einsum("dp,pq,dq->d", counts, wins, counts) / n**2


def _swapped(loud: np.ndarray, quiet: np.ndarray, seed: int) -> Float[np.ndarray, "draw"]:
    """The area when in each pair it is left to chance which twin is which."""
    swap = np.random.default_rng(seed).integers(0, 2, (SWAPS, len(loud))).astype(bool)
    a, b = np.where(swap, quiet, loud), np.where(swap, loud, quiet)
    return ((a[:, :, None] > b[:, None]) + 0.5 * (a[:, :, None] == b[:, None])).mean(axis=(1, 2))


Families = Mapping[str, Sequence[Sequence[Direction]]]  # kind -> draw -> a direction for each emotion


def _random(vectors: EmotionVectors, names: Sequence[str], draws: int, seed: int) -> Families:
    """Families of random directions alone, which need no stories."""
    drawn = [random_directions(vectors[name], draws, seed + i) for i, name in enumerate(names)]
    return {"random": [list(family) for family in zip(*drawn, strict=True)]}


def _nulls(
    vectors: EmotionVectors, found: Sequence[Conversation], x: list[torch.Tensor], layer: int, families: Families
) -> dict[str, Nulls]:
    """The areas of directions that mean nothing, read as the denoised vectors are, by cut: [draw, emotion]."""
    names = emotions_in(found)
    base = Scorer.of(vectors, layer, "denoised")
    effects: dict[str, dict[str, list[list[float]]]] = {cut: {} for cut in CUTS}
    for kind, family in families.items():
        rows = torch.stack([unit(direction.at(layer)) for draw in family for direction in draw])
        scorer = Scorer(base.vectors, layer, "denoised", base.centre, rows)
        parts = [scorer(part) for part in x]
        for cut in CUTS:
            effects[cut][kind] = []
        for number in range(len(family)):
            own_columns = [part[:, number * len(names) : (number + 1) * len(names)] for part in parts]
            tested = Tested.of(Detector(kind, (scores_of(own_columns, names),) * 2), found)
            for cut in CUTS:
                effects[cut][kind].append([area(*_twins(tested, name, cut)) for name in names])
    return {cut: Nulls().measured({k: np.array(v) for k, v in kinds.items()}) for cut, kinds in effects.items()}


def _twins(tested: Tested, emotion: str, cut: str) -> tuple[np.ndarray, np.ndarray]:
    loud, quiet = zip(*tested.pairs(emotion), strict=True)
    before = cut != CUTS[0]
    return tested.highest(emotion, loud, before), tested.highest(emotion, quiet, before)


def areas(tested: Mapping[str, Tested], nulls: Mapping[str, Nulls], seed: int) -> StudyResult:
    """How well each detector tells an escalating conversation from its twin, from benign ones, from other emotions."""
    rows = []
    for name, one in tested.items():
        for cut in CUTS:
            twins = [_twins(one, emotion, cut) for emotion in one.emotions]
            observed = np.array([area(*each) for each in twins])
            swaps = np.stack([_swapped(*each, seed=seed + i) for i, each in enumerate(twins)], axis=1)
            drawn = np.stack([_resampled(_wins(*each), DRAWS, seed + i) for i, each in enumerate(twins)], axis=1)
            p = family_p(observed, swaps)
            columns = nulls[cut].columns(observed) if name == "denoised" else {}
            for i, emotion in enumerate(one.emotions):
                null = {key: values[i] for key, values in columns.items() if key != "verdict"}
                row = _row(name, emotion, cut, observed[i], drawn[:, i], p[i])
                rows.append(row | null | _other_texts(one, emotion, cut))
            mean_p = family_p(observed.mean(keepdims=True), swaps.mean(axis=1, keepdims=True))[0]
            row = _row(name, ALL, cut, observed.mean(), drawn.mean(axis=1), mean_p)
            rows.append(row | (_of_mean(nulls[cut], observed) if columns else {}))
    frame = pd.DataFrame(rows)
    kinds = " and ".join(next(iter(nulls.values())).kinds)
    held = f"{SWAPS} swaps of the twins, over the four emotions; for the denoised vectors also directions, {kinds}"
    return StudyResult("monitoring", frame, headline(frame), held, "monitor_areas")


def _of_mean(nulls: Nulls, observed: Float[np.ndarray, "emotion"]) -> dict[str, Any]:
    """The mean over the emotions against the same mean of each draw."""
    mean = Nulls().measured({kind: effects.mean(axis=1, keepdims=True) for kind, effects in nulls.effects.items()})
    columns = mean.columns(observed.mean(keepdims=True))
    return {key: values[0] for key, values in columns.items() if key != "verdict"}


def _row(name: str, emotion: str, cut: str, value: float, drawn: np.ndarray, p: float) -> dict[str, Any]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"detector": name, "emotion": emotion, "cut": cut, "area": value, "low": low, "high": high, "p": p}


def _other_texts(one: Tested, emotion: str, cut: str) -> dict[str, float]:
    """The area against benign conversations, and against those that escalate in another emotion."""
    if cut != CUTS[0]:
        return {}
    loud = one.highest(emotion, [n for n, _ in one.pairs(emotion)])
    benign = [n for n, each in enumerate(one.found) if each.kind == "benign"]
    others = [n for other in one.emotions if other != emotion for n, _ in one.pairs(other)]
    return {
        "against_benign": area(loud, one.highest(emotion, benign)),
        "against_others": area(loud, one.highest(emotion, others)),
    }


def headline(frame: pd.DataFrame) -> str:
    """The chosen reading before the onset, beside token embeddings and VADER, and the denoised vectors' nulls.

    >>> rows = [(CHOSEN, 0.8, 0.001), ("token embeddings", 0.6, 0.1), ("VADER", 0.55, 0.5), ("denoised", 0.7, 0.001)]
    >>> frame = pd.DataFrame(rows, columns=["detector", "area", "p"]).assign(emotion=ALL, cut=CUTS[1])
    >>> headline(frame.assign(**{"p_shuffled labels": 0.025}))
    'Before the first explicit sign the vectors tell an escalating conversation from its twin with an area of 0.80
    (token embeddings 0.60, VADER 0.55), beyond the null of swapped twins, and against vectors of shuffled labels the
    denoised ones have p = 0.025.'
    """
    rows = frame[(frame["emotion"] == ALL) & (frame["cut"] == CUTS[1])].set_index("detector")
    own, kind = rows.loc[CHOSEN], "p_shuffled labels" if "p_shuffled labels" in rows else "p_random"
    what = "vectors of shuffled labels" if "shuffled" in kind else "random directions"
    p = float(rows.loc["denoised"].get(kind, np.nan))
    held = f", and against {what} the denoised ones have {p_text(p)}" if np.isfinite(p) else ""
    return (
        f"Before the first explicit sign the vectors tell an escalating conversation from its twin with an area of "
        f"{own['area']:.2f} (token embeddings {rows.loc['token embeddings', 'area']:.2f}, VADER "
        f"{rows.loc['VADER', 'area']:.2f}), {Verdict.of([own['p']])} of swapped twins{held}."
    )


def roc(tested: Mapping[str, Tested]) -> StudyResult:
    """The ROC curves over conversations: the share of escalating ones above each height, by that of steady twins."""
    rows = []
    for name in CURVES:
        one = tested[name]
        for cut in CUTS:
            loud, steady = (
                np.concatenate(part)
                for part in zip(*(_twins(one, emotion, cut) for emotion in one.emotions), strict=True)
            )
            for height in (np.inf, *sorted({*loud, *steady}, reverse=True)):
                row = {"false": float((steady >= height).mean()), "found": float((loud >= height).mean())}
                rows.append({"detector": name, "cut": cut} | row)
    frame = pd.DataFrame(rows)
    own = frame[(frame["detector"] == CHOSEN) & (frame["cut"] == CUTS[0]) & (frame["false"] <= 0.1)]
    says = (
        f"With one steady twin in ten above the line, the chosen reading finds {own['found'].max():.0%} of the others."
    )
    return StudyResult("roc", frame, says, "none: see the areas", "roc_curves")


def added(tested: Mapping[str, Tested], seed: int) -> StudyResult:
    """What the vectors add over the words: differences of areas, paired, over the pairs of all four emotions."""
    rows = []
    for cut in CUTS:
        wins = {name: [_wins(*_twins(one, emotion, cut)) for emotion in one.emotions] for name, one in tested.items()}
        drawn = {
            name: np.stack([_resampled(each, DRAWS, seed + i) for i, each in enumerate(parts)]).mean(axis=0)
            for name, parts in wins.items()
        }
        value = {name: float(np.mean([each.mean() for each in parts])) for name, parts in wins.items()}
        for other in tested:
            if other != CHOSEN:
                low, high = np.quantile(drawn[CHOSEN] - drawn[other], [0.025, 0.975])
                row = {"over": other, "cut": cut, "difference": value[CHOSEN] - value[other], "low": low, "high": high}
                rows.append(row)
    frame = pd.DataFrame(rows)
    row = frame[(frame["over"] == "token embeddings") & (frame["cut"] == CUTS[1])].iloc[0]
    says = (
        f"Before the first explicit sign the vectors add {row['difference']:+.2f} [{row['low']:.2f}, "
        f"{row['high']:.2f}] to the area that token embeddings give."
    )
    return StudyResult("added", frame, says, "none: a bootstrap over pairs, the same pairs in both")


def leads(tested: Mapping[str, Tested]) -> StudyResult:
    """When the alarm comes: tokens before the onset and before the act, and the share of alarms before each."""
    rows = []
    for name, one in tested.items():
        for rate in RATES:
            for emotion in (*one.emotions, ALL):
                names = one.emotions if emotion == ALL else (emotion,)
                if min(len(part) for each in names for part in one.quiet[each]) < 1 / rate - 1:
                    continue
                rows.append({"detector": name, "emotion": emotion, "rate": rate} | _lead(one, names, rate))
    frame = pd.DataFrame(rows)
    row = chosen_at(frame, RATES[-1])
    says = (
        f"The chosen reading finds {row['caught']:.0%} of the escalating conversations, {row['before_act']:.0%} "
        f"before the act and {row['before_onset']:.0%} before the first explicit sign, and gives an alarm in "
        f"{row['false']:.0%} of the steady twins."
    )
    return StudyResult(
        "lead",
        frame,
        says,
        f"none: thresholds for {RATES[0]:.0%} and {RATES[1]:.0%} false alarms, the headline for the latter",
    )


def chosen_at(frame: pd.DataFrame, rate: float) -> pd.Series:
    """The row of the chosen reading over all four emotions, at a rate.

    >>> frame = pd.DataFrame({"detector": [CHOSEN], "emotion": [ALL], "rate": [0.05], "caught": [0.5]})
    >>> float(chosen_at(frame, 0.05)["caught"])
    0.5
    """
    keep = (frame["detector"] == CHOSEN) & (frame["emotion"] == ALL) & (frame["rate"] == rate)
    return frame[keep].iloc[0]


def _lead(one: Tested, emotions: Sequence[str], rate: float) -> dict[str, Any]:
    onset, act, false = [], [], []
    for emotion in emotions:
        for loud, steady in one.pairs(emotion):
            alarm, marks = one.first_alarm(emotion, loud, rate), one.found[loud].marks
            ends = [one.found[loud].upto(marks[mark]) for mark in ("onset", "act")]
            onset.append(np.nan if alarm is None else ends[0] - alarm)
            act.append(np.nan if alarm is None else ends[1] - alarm)
            false.append(one.first_alarm(emotion, steady, rate) is not None)
    caught = np.isfinite(onset)
    low, high = wilson(int(caught.sum()), len(onset))
    return {
        "caught": float(caught.mean()),
        "low": low,
        "high": high,
        "before_onset": float(np.mean(np.array(onset) > 0)),
        "before_act": float(np.mean(np.array(act) > 0)),
        "lead_to_onset": float(np.nanmedian(onset)) if caught.any() else np.nan,
        "lead_to_act": float(np.nanmedian(act)) if caught.any() else np.nan,
        "false": float(np.mean(false)),
        "pairs": len(onset),
    }


def false_alarms(tested: Mapping[str, Tested]) -> StudyResult:
    """How often quiet conversations of the other half give an alarm, beside what the calibration promised."""
    one, rows = tested[CHOSEN], []
    for rate in RATES:
        for emotion in one.emotions:
            for half in (0, 1):
                own = one.quiet[emotion][half]
                if len(own) < 1 / rate - 1:
                    continue
                limit = threshold(own, rate)
                promise = clopper_pearson(sum(height > limit for height in own), len(own))
                for kind in ("all quiet", "neutral", "benign", "steady"):
                    numbers = [
                        n for n, each in enumerate(one.found)
                        if each.quiet and each.half != half and kind in (each.kind, "all quiet")
                    ]  # fmt: skip
                    alarms = int((one.highest(emotion, numbers) > limit).sum())
                    rows.append(
                        {
                            "rate": rate, "emotion": emotion, "half": half, "kind": kind, "texts": len(numbers),
                            "alarms": alarms / len(numbers), "promised_low": promise[0], "promised_high": promise[1],
                            "within": promise[0] <= alarms / len(numbers) <= promise[1], "setting": one.says[half],
                        }
                    )  # fmt: skip
    frame = pd.DataFrame(rows)
    rate = frame["rate"].min()
    part = frame[(frame["kind"] == "all quiet") & (frame["rate"] == rate)]
    says = (
        f"Set for {rate:.0%} false alarms, the monitors give one in {part['alarms'].mean():.1%} of the quiet "
        f"conversations of the other half; {int(part['within'].sum())} of {len(part)} lie within what the calibration "
        f"promised."
    )
    return StudyResult("false_alarms", frame, says, "none: the promise is the Clopper-Pearson interval of calibration")


def specificity(one: Tested, seed: int) -> StudyResult:
    """Each monitor on the pairs of each emotion."""
    rows = [
        {"row": watched, "column": emotion} | _of_pairs(one, watched, one.pairs(emotion), seed)
        for watched in one.emotions
        for emotion in one.emotions
    ]
    frame = pd.DataFrame(rows)
    own = frame["row"] == frame["column"]
    says = (
        f"A monitor tells the pairs of its own emotion apart with a mean area of {frame[own]['score'].mean():.2f}, "
        f"those of the other emotions with {frame[~own]['score'].mean():.2f}."
    )
    options = {"ylabel": "monitor of", "xlabel": "pairs of", "title": "Area under the ROC curve", "lowest": 0.0}
    return StudyResult("specificity", frame, says, "none: 0.5 is chance", "score_matrix", options)


def bearers(one: Tested, seed: int) -> StudyResult:
    """Each monitor on the pairs of its emotion, by who bears it."""
    rows = []
    for emotion in one.emotions:
        for bearer in ("user", "assistant"):
            pairs = [pair for pair in one.pairs(emotion) if one.found[pair[0]].bearer == bearer]
            if pairs:
                rows.append({"emotion": emotion, "bearer": bearer} | _of_pairs(one, emotion, pairs, seed))
    frame = pd.DataFrame(rows)
    mean = frame.groupby("bearer")["score"].mean()
    says = (
        "The mean area is "
        + " and ".join(f"{value:.2f} where the {bearer} bears the emotion" for bearer, value in mean.items())
        + "."
    )
    return StudyResult("bearers", frame, says, "none: 0.5 is chance")


def _of_pairs(one: Tested, watched: str, pairs: Sequence[tuple[int, int]], seed: int) -> dict[str, float]:
    loud, steady = zip(*pairs, strict=True)
    wins = _wins(one.highest(watched, loud), one.highest(watched, steady))
    low, high = np.quantile(_resampled(wins, DRAWS, seed), [0.025, 0.975])
    return {"score": float(wins.mean()), "low": float(low), "high": float(high), "pairs": len(pairs)}


def styles(tested: Mapping[str, Tested], rate: float = 0.05) -> StudyResult:
    """What a shift of style does at 5 % false alarms: alarms on rewritings, and on benign logs and chats."""
    rows = []
    for name, one in tested.items():
        numbers = {
            "rewritten": [n for n, each in enumerate(one.found) if each.kind == "style"],
            "their chats": [
                n for n, each in enumerate(one.found)
                if each.kind == "escalating" and any(o.kind == "style" and o.pair == each.pair for o in one.found)
            ],
            "benign logs": [n for n, each in enumerate(one.found) if each.kind == "benign" and each.style == "log"],
            "benign chats": [n for n, each in enumerate(one.found) if each.kind == "benign" and each.style == "chat"],
        }  # fmt: skip
        for kind, texts in numbers.items():
            watched = [[one.found[n].emotion] if one.found[n].emotion else list(one.emotions) for n in texts]
            alarms = [
                one.first_alarm(str(emotion), n, rate) is not None
                for n, names in zip(texts, watched, strict=True) for emotion in names
            ]  # fmt: skip
            low, high = wilson(sum(alarms), len(alarms))
            row = {"detector": name, "kind": kind, "alarms": float(np.mean(alarms)), "low": low, "high": high}
            rows.append(row | {"of": len(alarms)})
    frame = pd.DataFrame(rows)
    own = frame[frame["detector"] == CHOSEN].set_index("kind")["alarms"]
    says = (
        f"Of eight escalating conversations the chosen reading finds {own['their chats']:.0%} as chats and "
        f"{own['rewritten']:.0%} as logs, letters and slang; on benign logs {own['benign logs']:.0%} of its monitors "
        f"give an alarm, on benign chats {own['benign chats']:.0%}."
    )
    return StudyResult("style", frame, says, "none: Wilson intervals")


def within_pairs(one: Tested, seed: int) -> StudyResult:
    """How much higher the escalating twin is, by the tokens since the fork, and from where on its interval is above 0.

    The intervals are those of each token, over pairs, and there is no null.
    """
    rows = []
    for emotion in one.emotions:
        curves = []
        for loud, steady in one.pairs(emotion):
            start = one.found[loud].upto(one.found[loud].marks["fork"])
            a, b = (np.maximum.accumulate(one.heights[emotion][n])[start:] for n in (loud, steady))
            length = min(len(a), len(b))
            curves.append(a[:length] - b[:length])
        n = min(map(len, curves))
        values = np.stack([curve[:n] for curve in curves])
        counts = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), size=DRAWS)
        low, high = np.quantile(counts @ values / len(values), [0.025, 0.975], axis=0)
        sure = np.flatnonzero(low <= 0)
        first = int(sure[-1]) + 1 if len(sure) else 0
        for token in range(0, n, 5):
            row = {"emotion": emotion, "token": token, "difference": values[:, token].mean()}
            row |= {"low": low[token], "high": high[token], "sure_from": first if first < n else np.nan}
            rows.append(row)
    frame = pd.DataFrame(rows)
    return StudyResult("within_pairs", frame, of_within(frame), "none: a bootstrap over pairs", "monitor_curves")


def of_within(frame: pd.DataFrame) -> str:
    """From which token after the fork on the twins are apart.

    >>> of_within(pd.DataFrame({"emotion": ["sad", "angry"], "sure_from": [80, 56]}))
    'The interval of the escalating less the steady twin stays positive from this many tokens after the fork on: angry
    56, sad 80.'
    """
    first = frame.groupby("emotion")["sure_from"].first().dropna().sort_values()
    names = ", ".join(f"{name} {token:.0f}" for name, token in first.items()) or "nowhere"
    return (
        f"The interval of the escalating less the steady twin stays positive from this many tokens after the fork on: "
        f"{names}."
    )


def by_block(
    each: Mapping[int, dict[str, list[torch.Tensor]]], found: Sequence[Conversation], seed: int
) -> StudyResult:
    """The areas of either readout at every block, with the emotion alone and a half-life of ten tokens."""
    rows = []
    for layer, readouts in each.items():
        for method, parts in readouts.items():
            tested = Tested.of(Detector(method, (scores_of(parts, emotions_in(found)),) * 2), found)
            for cut in CUTS:
                wins = [_wins(*_twins(tested, emotion, cut)) for emotion in tested.emotions]
                drawn = np.mean([_resampled(each, DRAWS, seed + i) for i, each in enumerate(wins)], axis=0)
                low, high = np.quantile(drawn, [0.025, 0.975])
                row = {"layer": layer, "method": method, "cut": cut, "series": f"{method}, {cut}"}
                row |= {"effect": np.mean([each.mean() for each in wins]), "low": low, "high": high}
                rows.append(row | {name: each.mean() for name, each in zip(tested.emotions, wins, strict=True)})
    frame = pd.DataFrame(rows)
    best = frame[frame["cut"] == CUTS[1]].sort_values("effect").iloc[-1]
    says = (
        f"Before the onset the mean area is largest at block {best['layer']} with the {best['method']} readout "
        f"({best['effect']:.2f}); no block was chosen by this."
    )
    options = {
        "series": "series",
        "title": "Area under the ROC curve, by layer",
        "ylabel": "mean of four emotions",
        "line": 0.5,
    }
    return StudyResult("by_block", frame, says, "none: 0.5 is chance", "effect_by_layer", options)
