"""Does a preference follow the emotions' valence? The slopes of all emotions at once, held against human ratings.

One backward pass gives the slope of a preference along every emotion (paper, section 8). Here their order is the
measure: the correlation of the slopes with how people rate the emotions, or with another readout of the same emotions.
It is held against four nulls, each of which leaves something of the structure in place:

- "shuffled labels": sets of vectors refitted after the emotions were permuted within each topic. These have no order of
  valence, so they tell that the slopes differ between emotions as emotions do. They do not tell that the gradient
  matters: the emotions' own vectors share an axis of valence, and nearly half of all random gradients pass this null.
- "random gradients": the same vectors and a gradient that means nothing, drawn evenly from the sphere.
- "shuffled replies": the same vectors and replies whose kinds were permuted within each scenario.
- "ratings within clusters": the same slopes and the ratings permuted over the emotions of each cluster of the paper.
  This one asks for more than the others: is there an order beyond that of the clusters?

A verdict needs the first three. The block, the control and the scale of the headline are fixed here: the vectors'
default block, the first control of `Gradients.controls`, valence of the Glasgow norms.

A correlation tells of the order of the slopes and not of their size. Beside it stands the slope along the axis of
valence: the mean product of the slopes and the standardised ratings, in nats per token.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import t as student_t
from torch import Tensor

import emolens.corpus as texts
from emolens.plots.slopes import IN_WORDS
from emolens.results import StudyResult
from emolens.stats import LEVEL, Contrast, Verdict, false_discovery, family_p, finite
from emolens.vectors.direction import unit
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.shuffled_refits import ShuffledRefits

DRAWS = 999  # of each null
DOSE = 0.1  # slopes are given per this strength
FEWEST = 20  # rated emotions, below which no correlation over emotions is given
SCALES = ("valence", "arousal", "dominance")
BESIDE = ("valence beside arousal", "arousal beside valence")
AXIS = "axis of valence"
BY_BLOCK = ("valence", AXIS)  # measures, of the first source of ratings, that are kept for every block
LABELS, RANDOM, REPLIES, WITHIN = "shuffled labels", "random gradients", "shuffled replies", "ratings within clusters"
NEEDED = (LABELS, RANDOM, REPLIES)  # for a verdict, where they can be drawn

Readout = Callable[[Float[Tensor, "... emotion d_model"]], Float[Tensor, "... emotion"]]


@dataclass(frozen=True)
class Ratings:
    """How people rate some of the emotions: which rows these are, and a row of numbers for each scale."""

    source: str
    scales: tuple[str, ...]
    rows: Int[np.ndarray, "rated"]
    values: Float[np.ndarray, "scale rated"]
    clusters: Int[np.ndarray, "rated"]

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what `relations` gives: the correlations, then the regression on valence and arousal."""
        return tuple(f"{name}, {self.source}" for name in (*self.scales, *BESIDE, AXIS))


def ratings_of(emotions: Sequence[str], sources: Sequence[str] = tuple(texts.RATINGS)) -> list[Ratings]:
    """The human ratings of these emotions.

    Raises:
        ValueError: fewer than 20 of the emotions have ratings in a source.
    """
    member = {name: i for i, names in enumerate(texts.paper_clusters().values()) for name in names}
    found = []
    for source in sources:
        known = texts.ratings(source)
        rows = np.array([row for row, name in enumerate(emotions) if name in known], dtype=int)
        if len(rows) < FEWEST:
            without = [name for name in emotions if name not in known][:3]
            raise ValueError(
                f"{len(rows)} of {len(emotions)} emotions have ratings in {source!r} (none for "
                f"{', '.join(without)}, ...): a correlation over emotions needs at least {FEWEST}"
            )
        named = [emotions[row] for row in rows]
        scales = tuple(scale for scale in SCALES if all(scale in known[name] for name in named))
        values = np.array([[known[name][scale] for name in named] for scale in scales])
        finite(values, f"the rating in {source!r}", named)
        if flat := [scale for scale, column in zip(scales, values, strict=True) if np.ptp(column) == 0]:
            raise ValueError(f"all {len(rows)} emotions have the same {flat[0]} in {source!r}: nothing can follow it")
        clusters = np.array([member.get(name, -1) for name in named])
        found.append(Ratings(source, scales, rows, values, clusters))
    return found


def relations(
    slopes: Float[np.ndarray, "... rated"], scales: Float[np.ndarray, "... scale rated"]
) -> Float[np.ndarray, "... measure"]:
    """Correlation of slopes with each scale, the two coefficients of valence and arousal together, and the axis.

    The regression is that of the standardised slopes on the standardised first two scales. The last is the slope along
    the axis of the first scale: the mean product of slopes and standardised ratings. Slopes that are all alike have no
    order and give NaN.
    """
    x, y = _standardised(slopes), _standardised(scales)
    r = np.einsum("...r,...sr->...s", x, y)
    between = np.einsum("...r,...r->...", y[..., 0, :], y[..., 1, :])
    away = np.maximum(1 - between**2, 1e-9)
    betas = (r[..., :2] - r[..., 1::-1] * between[..., None]) / away[..., None]
    along = r[..., :1] * np.asarray(slopes).std(axis=-1, keepdims=True)
    return np.concatenate([r, betas, along], axis=-1)


def _standardised(x: np.ndarray) -> np.ndarray:
    """Centred along the last axis and of norm 1; what does not vary is NaN."""
    x = np.asarray(x, dtype=float)
    away = x - x.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(away, axis=-1, keepdims=True)
    known = norm > 1e-9 * np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(away, norm, out=np.full_like(away, np.nan), where=known)


@dataclass(frozen=True)
class Gradients:
    """What a backward pass gave: the gradient of each reply, less that of the same reply in a control.

    Attributes:
        layers: the blocks.
        controls: name of the control -> gradients; the first one is that of the headline.
        scenarios: the scenario of each reply.
        contrasts: name -> a contrast over the replies.
    """

    layers: tuple[int, ...]
    controls: Mapping[str, Float[np.ndarray, "item layer d_model"]]
    scenarios: tuple[str, ...]
    contrasts: Mapping[str, Contrast]

    def __post_init__(self) -> None:
        for name, values in self.controls.items():
            if values.shape[:2] != (len(self.scenarios), len(self.layers)):
                raise ValueError(
                    f"the gradients of {name!r} have the shape {values.shape}, not {len(self.scenarios)} replies at "
                    f"{len(self.layers)} blocks"
                )
            for number, item in enumerate(values):
                finite(item, f"the gradient {name!r} of reply number {number} ({self.scenarios[number]})")

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Contrast and control of each column of what follows."""
        return [(contrast, control) for contrast in self.contrasts for control in self.controls]

    def at(self, layer: int) -> Iterator[tuple[Contrast, Float[np.ndarray, "item d_model"]]]:
        """The contrast and the gradients of each column at one block."""
        row = self.layers.index(layer)
        for contrast, control in self.columns:
            yield self.contrasts[contrast], self.controls[control][:, row].astype(float)


def contrasted(over: Contrast, gradient: Float[np.ndarray, "item d_model"]) -> Float[np.ndarray, "d_model"]:
    """The gradient of a contrast; exactly 0 where the replies' gradients cancel but for rounding."""
    total = over.point @ gradient
    size = np.abs(over.point) @ np.linalg.norm(gradient, axis=1)
    return total if np.linalg.norm(total) > 1e-9 * size else np.zeros_like(total)


def shuffled_replies(
    over: Contrast, scenarios: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draw item"] | None:
    """The weights of a contrast after the kinds of the replies were permuted within each scenario.

    None for a contrast of one kind, such as a plain mean: there is nothing to permute.
    """
    if (over.point >= 0).all() or (over.point <= 0).all():
        return None
    rng, weights = np.random.default_rng(seed), np.zeros((draws, len(over.point)))
    for name in dict.fromkeys(scenarios):
        rows = np.flatnonzero((np.asarray(scenarios) == name) & (over.point != 0))
        weights[:, rows] = rng.permuted(np.tile(over.point[rows], (draws, 1)), axis=1)
    return weights


@dataclass(frozen=True)
class Slopes:
    """The slopes of all emotions at one block, in nats per token for a strength of 0.1.

    Attributes:
        observed: of the contrast itself; NaN where the gradients cancel.
        resampled: of each resample of scenarios and replies.
        nulls: kind -> slopes of each draw.
        readouts: name -> another readout of the emotions and of each set with shuffled labels.
    """

    observed: Float[np.ndarray, "column emotion"]
    resampled: Float[np.ndarray, "column draw emotion"]
    nulls: Mapping[str, Float[np.ndarray, "column _ emotion"]]
    readouts: Mapping[str, tuple[Float[np.ndarray, "emotion"], Float[np.ndarray, "_ emotion"]]]


def slopes_at(
    layer: int,
    gradients: Gradients,
    vectors: EmotionVectors,
    refits: ShuffledRefits | None = None,
    readouts: Mapping[str, Readout] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Slopes:
    """Slopes along the denoised vectors at one block, and under every null that can be drawn."""
    units = vectors.matrix(layer)
    scale = DOSE * float(vectors.at(layer).residual_norm[0])
    steps = scale * units.double().numpy()
    columns = list(gradients.at(layer))
    total = np.stack([contrasted(over, gradient) for over, gradient in columns])
    observed = np.where(np.linalg.norm(total, axis=1)[:, None] > 0, total @ steps.T, np.nan)
    resampled = np.stack([over.draws @ gradient @ steps.T for over, gradient in columns])
    rng = np.random.default_rng([seed, layer])
    drawn = rng.standard_normal((draws, steps.shape[1])) @ steps.T / steps.shape[1] ** 0.5
    nulls = {RANDOM: np.stack([size * drawn for size in np.linalg.norm(total, axis=1)])}
    replies = [shuffled_replies(over, gradients.scenarios, draws, seed) for over, _ in columns]
    if all(weights is not None for weights in replies):
        nulls[REPLIES] = np.stack([w @ gradient @ steps.T for w, (_, gradient) in zip(replies, columns, strict=True)])
    named = readouts or {}
    others: dict[str, list[np.ndarray]] = {name: [] for name in named}
    if refits is not None:
        along = torch.from_numpy(total.T).float()
        labels = []
        for sets in refits.at(layer):
            sets = unit(sets)
            labels.append((sets @ along).permute(2, 0, 1).double().numpy() * scale)
            for name, readout in named.items():
                others[name].append(readout(sets).double().numpy())
        nulls[LABELS] = np.concatenate(labels, axis=1)
    empty = np.zeros((0, len(units)))
    read = {name: (f(units).double().numpy(), np.concatenate([empty, *others[name]])) for name, f in named.items()}
    return Slopes(observed, resampled, nulls, read)


@dataclass(frozen=True)
class Relations:
    """How the slopes of one block follow the scales: the observed value, its interval, and the nulls' values."""

    measures: tuple[str, ...]
    observed: Float[np.ndarray, "column measure"]
    interval: Float[np.ndarray, "column measure 2"]
    nulls: Mapping[str, Float[np.ndarray, "column _ measure"]]


def relate(slopes: Slopes, ratings: Sequence[Ratings], draws: int = DRAWS, seed: int = 0) -> Relations:
    """All measures of one block, with the bootstrap over scenarios, replies and emotions, and the nulls."""
    names: list[str] = []
    observed, ends = [], []
    nulls: dict[str, list[np.ndarray]] = {kind: [] for kind in (*slopes.nulls, WITHIN)}
    rng = np.random.default_rng(seed)
    for rated in ratings:
        x, y = slopes.observed[:, rated.rows], rated.values
        point = relations(x, y)
        picks = rng.integers(0, len(rated.rows), (slopes.resampled.shape[1], len(rated.rows)))
        again = np.take_along_axis(slopes.resampled[:, :, rated.rows], picks[None], axis=2)
        values = relations(again, y[:, picks].swapaxes(0, 1))
        order = with_less_noise(again, values[..., :-1], x, slopes.resampled[:, :, rated.rows])
        ends.append(interval(np.concatenate([order, values[..., -1:]], axis=-1)))
        names += rated.measures
        observed.append(point)
        for kind, null in slopes.nulls.items():
            nulls[kind].append(relations(null[:, :, rated.rows], y))
        permuted = permuted_within(rated.clusters, draws, rng)
        nulls[WITHIN].append(relations(x[:, None], y[:, permuted].swapaxes(0, 1)))
    for name, (own, others) in slopes.readouts.items():
        point = _correlation(slopes.observed, own)
        picks = rng.integers(0, len(own), (slopes.resampled.shape[1], len(own)))
        again = np.take_along_axis(slopes.resampled, picks[None], axis=2)
        values = _correlation(again, own[picks])
        names.append(name)
        observed.append(point)
        ends.append(interval(with_less_noise(again, values, slopes.observed, slopes.resampled)))
        for kind, null in slopes.nulls.items():
            nulls[kind].append(_correlation(null, others if kind == LABELS else own))
        nulls[WITHIN].append(np.full((len(point), draws, 1), np.nan))  # a readout has no ratings to permute
    joined = {kind: np.concatenate(parts, axis=-1) for kind, parts in nulls.items()}
    return Relations(tuple(names), np.concatenate(observed, axis=-1), np.concatenate(ends, axis=-2), joined)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation along the last axis, with an axis of one measure."""
    return (_standardised(x) * _standardised(y)).sum(axis=-1)[..., None]


def permuted_within(clusters: np.ndarray, draws: int, rng: np.random.Generator) -> Int[np.ndarray, "draw rated"]:
    """Orders of the emotions that permute them within their clusters; those without one are a cluster of their own."""
    orders = np.tile(np.arange(len(clusters)), (draws, 1))
    for name in np.unique(clusters):
        rows = np.flatnonzero(clusters == name)
        orders[:, rows] = rng.permuted(np.tile(rows, (draws, 1)), axis=1)
    return orders


def with_less_noise(
    again: Float[np.ndarray, "column draw rated"],
    values: Float[np.ndarray, "column draw measure"],
    observed: Float[np.ndarray, "column rated"],
    resampled: Float[np.ndarray, "column draw rated"],
) -> Float[np.ndarray, "column draw measure"]:
    """Correlations of bootstrap draws as they would be if a draw had no more noise than the observation.

    A resample carries the noise of the few scenarios twice, which makes its slopes spread more, and its correlations
    smaller, than those of the observation. What the noise adds to the spread is taken off again, down to a quarter of
    the observed spread at most.
    """

    def spread(x: np.ndarray) -> np.ndarray:
        return ((x - x.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)

    own, drawn = spread(observed)[:, None], spread(again)
    noise = spread(resampled - observed[:, None]).mean(axis=1, keepdims=True)
    return np.clip(values * np.sqrt(drawn / np.maximum(drawn - noise, own / 4))[..., None], -1, 1)


def interval(
    draws: Float[np.ndarray, "column draw measure"], level: float = 0.95
) -> Float[np.ndarray, "column measure 2"]:
    """Percentile interval of bootstrap draws; NaN where there is nothing to measure."""
    measurable = np.isfinite(draws).all(axis=1)
    ends = np.quantile(np.nan_to_num(draws), [(1 - level) / 2, (1 + level) / 2], axis=1)
    return np.where(measurable[..., None], np.moveaxis(ends, 0, -1), np.nan)


@dataclass(frozen=True)
class Alignment:
    """What `align` measured.

    Attributes:
        frame: a row for each contrast, control, block and measure: the correlation `r` (or coefficient) with its
            interval; for each kind of null where it lies (`_centre`, `_sd`), p, and p with all blocks as one family
            (`_blocks`); the verdict of the block, and that of all blocks.
        ranked: a row for each contrast, control and emotion at the headline's block, strongest first (see `ranking`).
        wording: a row for each contrast that has paraphrases: its slope along the axis of valence in the last control
            (the own context alone), with scenario and wording as random effects (see `by_wording`).
    """

    frame: pd.DataFrame
    ranked: pd.DataFrame
    wording: pd.DataFrame
    layer: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> pd.DataFrame:
        """One row for each contrast: the first control, the default block, valence of the first source.

        `holds` says whether the sign is the same under every control.
        """
        at = self.frame[(self.frame["layer"] == self.layer) & (self.frame["measure"] == self.options["measure"])]
        first = at[at["control"] == self.options["control"]].copy()
        signs = {name: len(set(np.sign(part["r"]))) == 1 for name, part in at.groupby("contrast")}
        first["holds"] = [signs[name] for name in first["contrast"]]
        return first.reset_index(drop=True)


def align(
    gradients: Gradients,
    vectors: EmotionVectors,
    refits: ShuffledRefits | None = None,
    readouts: Callable[[int], Mapping[str, Readout]] | None = None,
    sources: Sequence[str] = tuple(texts.RATINGS),
    marked: Iterable[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Alignment:
    """How the slopes of all emotions follow their ratings, by block, against every null that can be drawn.

    Args:
        gradients: of the replies, at the blocks that are looked at; the vectors' default block must be among them.
        refits: sets of vectors with shuffled labels, of `shuffled_refits`; without them that null is left out.
        readouts: block -> other readouts of the emotions, each a function of unit vectors.
        sources: of the ratings.
        marked: emotions that are marked in the ranked table, such as the paper's six.

    Raises:
        ValueError: fewer than 20 rated emotions, the default block not among those looked at.
    """
    layer = vectors.default_layer
    if layer not in gradients.layers:
        raise ValueError(f"the headline is that of block {layer}, which is not among {list(gradients.layers)}")
    ratings = ratings_of(vectors.emotions, sources)
    found: dict[int, Relations] = {}
    for block in gradients.layers:
        slopes = slopes_at(block, gradients, vectors, refits, readouts(block) if readouts else None, draws, seed)
        found[block] = relate(slopes, ratings, draws, seed)
        if block == layer:
            kept = slopes
    options = {"control": next(iter(gradients.controls)), "measure": ratings[0].measures[0]}
    frame = tabulated(gradients.columns, found)
    ranked = ranking(gradients.columns, kept, vectors.emotions, ratings[0], marked)
    return Alignment(frame, ranked, wordings(gradients, vectors, ratings[0]), layer, options)


def tabulated(columns: Sequence[tuple[str, str]], found: Mapping[int, Relations]) -> pd.DataFrame:
    """The rows of `Alignment.frame`."""
    layers, first = list(found), next(iter(found.values()))
    rows = []
    for number, (contrast, control) in enumerate(columns):
        for place, measure in enumerate(first.measures):
            observed = np.array([found[layer].observed[number, place] for layer in layers])
            nulls = {k: np.stack([found[b].nulls[k][number, :, place] for b in layers], axis=1) for k in first.nulls}
            nulls = {kind: null for kind, null in nulls.items() if len(null) and np.isfinite(null).any()}
            known = np.isfinite(observed)
            p = {kind: _each_p(observed, null, known) for kind, null in nulls.items()}
            family = {kind: np.full(len(layers), np.nan) for kind in nulls}
            for kind, null in nulls.items():
                if known.any():
                    family[kind][known] = family_p(observed[known], null[:, known])
            for at, layer in enumerate(layers):
                low, high = found[layer].interval[number, place]
                row: dict[str, Any] = {"contrast": contrast, "control": control, "layer": layer, "measure": measure}
                row |= {"r": observed[at], "low": low, "high": high}
                for kind, null in nulls.items():
                    lies = (null[:, at].mean(), null[:, at].std(ddof=1)) if known[at] else (np.nan, np.nan)
                    row |= dict(zip((f"{kind}_centre", f"{kind}_sd"), lies, strict=True))
                    row |= {f"p_{kind}": p[kind][at], f"p_{kind}_blocks": family[kind][at]}
                row["verdict"] = _verdict(bool(known[at]), {kind: values[at] for kind, values in p.items()})
                row["verdict_blocks"] = _verdict(bool(known[at]), {kind: values[at] for kind, values in family.items()})
                rows.append(row)
    return pd.DataFrame(rows)


def _each_p(observed: np.ndarray, null: np.ndarray, known: np.ndarray) -> np.ndarray:
    """p of each block by itself; NaN where there is nothing to measure."""
    return np.array(
        [float(family_p(x, column)) if ok else np.nan for x, column, ok in zip(observed, null.T, known, strict=True)]
    )


def _verdict(known: bool, p: Mapping[str, float]) -> Verdict:
    return Verdict.of(p[kind] for kind in NEEDED if kind in p) if known else Verdict.UNMEASURABLE


def ranking(
    columns: Sequence[tuple[str, str]],
    slopes: Slopes,
    emotions: Sequence[str],
    ratings: Ratings,
    marked: Iterable[str] = (),
) -> pd.DataFrame:
    """All emotions, strongest first: their slopes, intervals, and how they come out one by one.

    p is that of the null's own tail: the distance from the null's centre in units of its spread, against those of all
    emotions in all sets with shuffled labels; q is that of Benjamini and Hochberg over all emotions, and `p_family`
    holds the emotion against the furthest of each set. Without shuffled labels there are none of these.
    """
    valence = dict(zip(ratings.rows.tolist(), ratings.values[0], strict=True))
    marked, parts = set(marked), []
    for number, (contrast, control) in enumerate(columns):
        effect, again = slopes.observed[number], slopes.resampled[number]
        low, high = np.quantile(again, [0.025, 0.975], axis=0)
        part = pd.DataFrame({"contrast": contrast, "control": control, "emotion": emotions, "effect": effect})
        part["low"], part["high"] = low, high
        part["valence"] = [valence.get(row, np.nan) for row in range(len(emotions))]
        part["marked"] = [name in marked for name in emotions]
        if LABELS in slopes.nulls and np.isfinite(effect).all():
            part["p"] = tail_of_null(effect, slopes.nulls[LABELS][number])
            part["q"] = false_discovery(part["p"].to_numpy())
            part["p_family"] = family_p(effect, slopes.nulls[LABELS][number])
        part["verdict"] = _found(part, len(effect))
        parts.append(part.iloc[part["effect"].abs().argsort(kind="stable")[::-1]])
    return pd.concat(parts, ignore_index=True)


def _found(part: pd.DataFrame, n: int) -> list[Verdict]:
    if part["effect"].isna().any():
        return [Verdict.UNMEASURABLE] * n
    if "q" not in part:
        return [Verdict.NO_NULL] * n
    return [Verdict.BEYOND if q <= LEVEL else Verdict.INSIDE for q in part["q"]]


def tail_of_null(
    effect: Float[np.ndarray, "emotion"], null: Float[np.ndarray, "draw emotion"]
) -> Float[np.ndarray, "emotion"]:
    """Two-sided p of single effects against the draws of all of them, each counted from its own centre and spread."""
    both = np.concatenate([finite(effect, "the slope")[None], null])
    distance = np.abs(both - both.mean(axis=0)) / np.maximum(both.std(axis=0, ddof=1), 1e-300)
    tail = np.sort(distance[1:], axis=None)
    reached = tail.size - np.searchsorted(tail, distance[0] - 1e-9)
    return (1 + reached) / (1 + tail.size)


def wordings(gradients: Gradients, vectors: EmotionVectors, ratings: Ratings) -> pd.DataFrame:
    """The rows of `Alignment.wording`, at the vectors' default block."""
    control, layer = list(gradients.controls)[-1], vectors.default_layer
    weights = _standardised(ratings.values[0]) / len(ratings.rows) ** 0.5
    axis = weights @ vectors.matrix(layer).double().numpy()[ratings.rows]
    axis = DOSE * float(vectors.at(layer).residual_norm[0]) * axis
    along = gradients.controls[control][:, gradients.layers.index(layer)].astype(float) @ axis
    rows = []
    for name, over in gradients.contrasts.items():
        signs = np.sign(over.point).astype(int)
        kinds = pd.DataFrame({"scenario": gradients.scenarios, "sign": signs})[signs != 0]
        several = kinds["scenario"].nunique() > 1 and kinds.duplicated().any()
        if several and set(signs) >= {1, -1}:
            found = by_wording(along, gradients.scenarios, signs.tolist())
            rows.append({"contrast": name, "control": control, "layer": layer} | found)
    return pd.DataFrame(rows)


def by_wording(values: Float[np.ndarray, "item"], scenarios: Sequence[str], signs: Sequence[int]) -> dict[str, float]:
    """Effect of the kind of reply by a mixed model, scenario and wording being random: a way that needs no control.

    The replies of a kind in a scenario are paraphrases of each other, so their spread is that of wording, and what the
    scenarios differ by beyond it is that of scenarios. For balanced replies the mixed model's test of the kind is
    Student's t of the scenarios' differences.

    Args:
        values: one for each reply, such as its slope along the axis of valence.
        signs: +1, -1, or 0 for a reply that is left out.

    Returns:
        `effect` with `low` and `high`; `sd_scenario` and `sd_wording`, the standard deviations of the differences
        that either makes.

    Raises:
        ValueError: a scenario without replies of a kind, fewer than two scenarios, or one wording of each alone.
    """
    values, names, sign = finite(values, "the slope"), np.asarray(scenarios), np.asarray(signs)
    differences, noise = [], []
    for name in dict.fromkeys(names[sign != 0]):
        kinds = [values[(names == name) & (sign == kind)] for kind in (1, -1)]
        if not all(len(kind) for kind in kinds):
            raise ValueError(
                f"scenario {str(name)!r} has no reply with one of the signs: both kinds are compared in each"
            )
        differences.append(kinds[0].mean() - kinds[1].mean())
        noise.append([kind.var(ddof=1) / len(kind) if len(kind) > 1 else np.nan for kind in kinds])
    n, within = len(differences), np.nansum(np.nanmean(noise, axis=0)) if np.isfinite(noise).any() else np.nan
    if n < 2 or np.isnan(within):
        raise ValueError(f"{n} scenarios, {len(values)} replies: give two scenarios and two wordings of each at least")
    effect, total = float(np.mean(differences)), float(np.var(differences, ddof=1))
    reach = float(student_t.ppf(0.975, n - 1)) * (total / n) ** 0.5
    spread = {"sd_scenario": max(total - within, 0.0) ** 0.5, "sd_wording": float(within) ** 0.5}
    return {"effect": effect, "low": effect - reach, "high": effect + reach} | spread


def results(found: Alignment, what: str) -> dict[str, StudyResult]:
    """What a study shows of an `Alignment`: "alignment", "ranked", and "wording".

    Other blocks than that of the headline are kept for valence and its axis alone, and the single emotions in the
    first and the last of the controls.

    Args:
        what: whose slopes they are, for the labels of figures, with the unit.
    """
    drawn = [kind for kind in NEEDED if f"{kind}_sd" in found.frame]
    source = found.options["measure"].partition(", ")[2]
    by_block = found.frame["measure"].isin([f"{measure}, {source}" for measure in BY_BLOCK])
    frame = found.frame[by_block | found.frame["layer"].eq(found.layer)]
    frame = frame.rename(columns={"r": "effect"}).reset_index(drop=True)
    lows = [frame[f"{kind}_centre"] - 1.96 * frame[f"{kind}_sd"] for kind in drawn]
    highs = [frame[f"{kind}_centre"] + 1.96 * frame[f"{kind}_sd"] for kind in drawn]
    frame["null_low"], frame["null_high"] = np.nan, np.nan
    if drawn:  # where the gradients cancel nothing is
        frame["null_low"], frame["null_high"] = np.min(lows, axis=0), np.max(highs, axis=0)
    null = f"{DRAWS} draws of {', '.join(drawn)}; an effect must be beyond each"
    at_headline = frame[frame["layer"].eq(found.layer) & frame["measure"].eq(found.options["measure"])]
    frame = frame.drop(columns=[f"{kind}_centre" for kind in (*drawn, WITHIN)], errors="ignore")
    wedge = at_headline[["contrast", "control", "null_high"]].rename(columns={"null_high": "null_r"})
    spoken_of = [found.options["control"], found.frame["control"].iloc[-1]]
    ranked = found.ranked[found.ranked["control"].isin(spoken_of)].merge(wedge, how="left")
    options = found.options | {"contrast": frame["contrast"].iloc[0]}
    said = {
        "alignment": StudyResult("alignment", frame, _headline(found), null, "slopes_by_layer", options),
        "ranked": StudyResult(
            "ranked", ranked, _ranked_headline(found), "sets with shuffled labels, at a false discovery rate of 5 %",
            "slope_scatter", {"contrast": options["contrast"], "control": options["control"], "ylabel": what},
        ),
    }  # fmt: skip
    if len(found.wording):
        sentence = _wording_headline(found.wording.iloc[0])
        mixed = "none: the interval is Student's over scenarios; wording is a random effect"
        said["wording"] = StudyResult("wording", found.wording, sentence, mixed)
    return said


def unmeasurable(reason: str) -> dict[str, StudyResult]:
    """In place of `results`, where the emotions cannot be held against ratings."""
    frame = pd.DataFrame([{"measure": "valence", "verdict": Verdict.UNMEASURABLE, "reason": reason}])
    sentence = "Whether the slopes follow human ratings cannot be measured with these emotions."
    return {"alignment": StudyResult("alignment", frame, sentence, f"none: {reason}")}


def _headline(found: Alignment) -> str:
    row = found.headline.iloc[0]
    if row["verdict"] == Verdict.UNMEASURABLE:
        return f"{row['contrast']}: the gradients cancel, so the order of the slopes cannot be measured."
    others = "" if row["holds"] else ", and another control turns its sign"
    return (
        f"{row['contrast']}: the slopes of the emotions go with human valence at r = {row['r']:+.2f} "
        f"[{row['low']:+.2f}, {row['high']:+.2f}] ({IN_WORDS.get(row['control'], row['control'])}), "
        f"{row['verdict']}{others}."
    )


def _ranked_headline(found: Alignment) -> str:
    first = found.ranked.iloc[0]
    part = found.ranked[(found.ranked["contrast"] == first["contrast"]) & (found.ranked["control"] == first["control"])]
    if first["verdict"] in (Verdict.UNMEASURABLE, Verdict.NO_NULL):
        return f"{first['contrast']}: no emotion can be tested by itself ({first['verdict']})."
    beyond = int((part["verdict"] == Verdict.BEYOND).sum())
    return (
        f"{first['contrast']}: {beyond} of {len(part)} emotions count by themselves at a false discovery rate of 5 %; "
        f"the strongest is {first['emotion']} ({first['effect']:+.3f})."
    )


def _wording_headline(row: pd.Series) -> str:
    return (
        f"{row['contrast']}, own context alone: along the axis of valence the slope is {row['effect']:+.4f} "
        f"[{row['low']:+.4f}, {row['high']:+.4f}] with scenario and wording as random effects."
    )
