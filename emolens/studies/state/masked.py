"""Is an emotion that is felt and hidden the same direction as one that is shown? (section 7: masked emotions)

In each dialogue somebody feels one emotion and shows another. From the turns of that speaker two sets of vectors are
derived: by what is felt, with what is shown balanced, and by what is shown, with what is felt balanced. They are held
against the stories' vectors of the same emotions. Everything is asked twice: of the dialogue alone, in which what is
felt is never said, and of the dialogue after its scenario, which says it.

The paper found the vectors of hidden emotions nearly orthogonal to the stories' (cosine about 0.05), with about 0.8 of
their norm outside of the space of the stories' vectors. Vectors of a dozen dialogues are noisy, and noise is orthogonal
to everything. So each cosine stands beside its ceiling, and beside the norm that is left stands `reliable_left`: the
share of what two halves of the dialogues agree on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.log_probs import SharedPrompt, continuation_ids, gradients, log_probs
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import Verdict, bootstrap_mean, p_text, p_value, tail_p
from emolens.steering.nulls import Nulls
from emolens.steering.steer import steer
from emolens.studies._common import check_size, near, tokens_before, with_vectors
from emolens.studies.state._crossed import (
    Crossed,
    between,
    ceiling,
    crossed,
    jackknife,
    leaving_each_out,
    nearest_without,
    renamed,
    same,
    within,
)
from emolens.studies.state._scores import mean_over, shuffled_sets
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors

ROLES = ("felt", "shown")
CONDITIONS = ("dialogue alone", "after its scenario")
EXPLAINED = 0.99  # of the variance of the stories' vectors: the story space
FITS = {"full": 99, "quick": 39}  # of the recognition to permuted labels
DOSE = 0.1  # strength for which effects of steering are given


@dataclass(frozen=True)
class Masked:
    """Dialogues with a masked speaker: the emotions, what is felt and shown in each, the speaker's mean activations."""

    names: tuple[str, ...]
    labels: Int[np.ndarray, "dialogue 2"]
    x: Float[Tensor, "condition layer dialogue d_model"]


def dialogues(vectors: EmotionVectors, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Mapping[str, Any]]:
    """The packaged dialogues, or `rows` like them, whose two emotions have a vector.

    Raises:
        ValueError: a dialogue with one speaker, or in which the masked one says nothing, by its number; one that feels
            what it shows; one without a scenario.
        NotForThisModel: fewer than two of the emotions have a vector.

    >>> len(dialogues(shipped))
    132
    """
    everything = texts.masked() if rows is None else list(rows)
    for number, row in enumerate(everything):
        speak = {turn["speaker"] for turn in row["turns"]}
        if len(speak) < 2:
            raise ValueError(f"dialogue {number} has one speaker, {', '.join(speak) or 'none'}: two are needed")
        if row["speaker"] not in speak:
            raise ValueError(f"dialogue {number}: {row['speaker']!r} is masked and says nothing; {sorted(speak)} speak")
        if row["felt"] == row["shown"]:
            raise ValueError(f"dialogue {number}: what is felt and what is shown are both {row['felt']!r}")
        if not row.get("scenario", "").strip():
            raise ValueError(f"dialogue {number} has no scenario, which says what is felt")
    return with_vectors(everything, vectors, lambda row: {row["felt"], row["shown"]}, "The masked dialogues")


def transcript(row: Mapping[str, Any], told: bool) -> tuple[str, list[tuple[int, int]]]:
    """A dialogue as plain text, and where the masked speaker's words stand, in characters.

    >>> turns = [{"speaker": "Ann", "text": "Well?"}, {"speaker": "Bo", "text": "Fine."}]
    >>> transcript({"speaker": "Bo", "scenario": "Bo is sad.", "turns": turns}, True)
    ('Bo is sad.\\n\\nAnn: Well?\\nBo: Fine.', [(27, 32)])
    """
    text, places = f"{row['scenario']}\n\n" if told else "", []
    for number, turn in enumerate(row["turns"]):
        text += f"{turn['speaker']}: " if number == 0 else f"\n{turn['speaker']}: "
        if turn["speaker"] == row["speaker"]:
            places.append((len(text), len(text) + len(turn["text"])))
        text += turn["text"]
    return text, places


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
    """Vectors of felt and of shown emotions against the stories', what is left, recognition, and steering.

    Args:
        size: "quick" looks at the chosen layer alone, fits fewer permutations, and steers in the first order only.
        rows: dialogues like the packaged ones (`corpus.masked()`).
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Returns:
        "masked", the cosines; "outside", what is left outside the story space; "recognised", how often what is felt (or
        shown) is told of a dialogue that was left out; and "steering", denial against admission.

    Raises:
        ValueError: as `dialogues`; an emotion that is only felt or only shown, or too rarely.

    >>> results = run(model, vectors, "quick", draws=39)
    >>> list(results)
    ['masked', 'outside', 'recognised', 'steering']
    """
    check_size(size)
    vectors.check_model(model)
    found = dialogues(vectors, rows)
    names = tuple(dict.fromkeys(row[role] for role in ROLES for row in found))
    labels = np.array([[names.index(row[role]) for role in ROLES] for row in found])
    weights = crossed(labels, names, ("feelings", "faces"), seed)
    chosen = near(vectors, vectors.chosen_layer("denoised"))
    layers = [chosen] if size == "quick" else list(vectors.layers)
    x = torch.stack([_read(model, found, layers, told) for told in (False, True)])
    said = Masked(names, labels, x)
    orders = {role: within(labels, role, FITS[size], seed) for role in (0, 1)}
    left_out = [np.stack([leaving_each_out(each, len(names), role) for each in (labels, *orders[role])])
                for role in (0, 1)]  # fmt: skip
    tables: dict[str, list[dict[str, Any]]] = {"masked": [], "outside": [], "recognised": []}
    for number, layer in enumerate(layers):
        for condition, y in zip(CONDITIONS, x[:, number], strict=True):
            where = {"condition": condition, "layer": layer}
            y = _denoised(y, vectors, layer)
            tables["masked"] += [where | row for row in cosines(y, weights, vectors[list(names)], layer, draws, seed)]
            drawn = orders[0][:39]
            tables["outside"] += [where | row for row in outside(y, weights, vectors, layer, drawn)]
            stories = vectors.matrix(layer)[[vectors.index(name) for name in names]]
            tables["recognised"] += [where | row for row in recognised(y, labels, stories, orders, left_out, seed)]
    frames = {name: pd.DataFrame(table) for name, table in tables.items()}
    frames = {name: frame.assign(series=frame["series"] + ", " + frame["condition"]) for name, frame in frames.items()}
    results = _results(frames, chosen, draws, size)
    results["steering"] = steering(model, vectors, said, weights, layers.index(chosen), chosen, size, corpus)
    return results


def _results(frames: Mapping[str, pd.DataFrame], chosen: int, draws: int, size: str) -> dict[str, StudyResult]:
    cosine, rest, told = frames["masked"], frames["outside"], frames["recognised"]
    one = {"series": "series", "title": "Masked emotions against the stories' vectors", "ylabel": "mean cosine"}
    two = {"series": "series", "title": "Left outside the story space", "ylabel": "share of the norm"}
    three = {"series": "series", "title": "Classified, of dialogues left out", "ylabel": "share of dialogues"}
    words = f"{draws} exchanges of the emotions' names; the ceiling is what halves of the dialogues give"
    left = "39 sets of vectors with what is felt permuted among the dialogues of a shown emotion"
    fits = f"{FITS[size]} permutations of one emotion among the dialogues that share the other, fitted again"
    return {
        "masked": StudyResult("masked", cosine, headline(cosine, chosen), words, "effect_by_layer", one),
        "outside": StudyResult("outside", rest, of_outside(rest, chosen), left, "effect_by_layer", two),
        "recognised": StudyResult("recognised", told, of_recognised(told, chosen), fits, "effect_by_layer", three),
    }


def _read(
    model: HookedModel, rows: Sequence[Mapping[str, Any]], layers: Sequence[int], told: bool
) -> Float[Tensor, "layer dialogue d_model"]:
    """Mean activation over all the masked speaker's words in each dialogue."""
    written, spans = [], []
    for row in rows:
        text, places = transcript(row, told)
        written.append(text)
        edges = [(tokens_before(model, text, start - 1), tokens_before(model, text, end)) for start, end in places]
        spans.append([(min(start, end - 1), end) for start, end in edges])
    return mean_over(model, written, layers, spans)


def _denoised(x: Float[Tensor, "*set d_model"], vectors: EmotionVectors, layer: int) -> Tensor:
    basis = vectors.at(layer).neutral_basis[0]
    return x - x @ basis.T @ basis


def cosines(
    x: Float[Tensor, "dialogue d_model"],
    weights: Crossed,
    vectors: EmotionVectors,
    layer: int,
    draws: int = 999,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The mean cosine of the vectors by what is felt and by what is shown with the stories', and with each other.

    >>> labels = np.array([(i, j) for i in range(6) for j in range(6) if i != j])
    >>> rows = cosines(torch.randn(30, 32), crossed(labels, vectors.emotions, ROLES), vectors, 2, 39)
    >>> [row["pair"] for row in rows]
    ['felt with stories', 'shown with stories', 'felt with shown']
    """
    stories = vectors.matrix(layer)
    observed, left = _statistics(x, weights.halves, stories), _statistics(x, weights.without, stories)
    half = vectors.split_half(layer).nanmean().clamp(min=0)
    told = float(2 * half / (1 + half))  # of the vectors of all stories, from that of their halves
    most = {f"{role} with stories": (float(same(observed[role])), told) for role in ROLES}
    most["felt with shown"] = (float(same(observed["felt"])), float(same(observed["shown"])))
    rows = []
    for pair, both in most.items():
        matrix = observed[pair].double().numpy()
        value = float(np.diag(matrix).mean())
        low, high = jackknife(same(left[pair]).double().numpy(), np.array(value))
        null = renamed(matrix, draws, seed)
        top = float(ceiling(torch.tensor(both[0]), torch.tensor(both[1])))
        row = {"pair": pair, "series": pair, "effect": value, "low": float(low), "high": float(high), "ceiling": top}
        row |= {"of_ceiling": value / top if top > 0.05 else np.nan, "split_half": both[0]}
        band = dict(zip(("null_low", "null_high"), np.quantile(null, [0.025, 0.975]).tolist(), strict=True))
        rows.append(row | band | {"p": p_value(value, null)})
    return rows


def _statistics(x: Tensor, halves: Tensor, stories: Float[Tensor, "emotion d_model"]) -> dict[str, Tensor]:
    """Cosines [*left emotion emotion] of each set with itself from other dialogues, the stories and the other set."""
    sums: dict[str, Tensor] = {}
    splits = halves.unbind(dim=-5)
    for split in splits:
        felt, shown = (split[..., role, :, :] @ x for role in (0, 1))
        each = {"felt": between(felt, felt), "shown": between(shown, shown), "felt with shown": between(felt, shown)}
        each |= {"felt with stories": (unit(felt) @ stories.T).mean(dim=-3)}
        each |= {"shown with stories": (unit(shown) @ stories.T).mean(dim=-3)}
        for name, value in each.items():
            sums[name] = sums.get(name, torch.zeros(())) + value / len(splits)
    return sums


def outside(
    x: Float[Tensor, "dialogue d_model"],
    weights: Crossed,
    vectors: EmotionVectors,
    layer: int,
    orders: Sequence[Int[np.ndarray, "dialogue 2"]],
) -> list[dict[str, Any]]:
    """What is left of the vectors after the story space is taken out: of their norm, and of what halves agree on.

    >>> labels = np.array([(i, j) for i in range(6) for j in range(6) if i != j])
    >>> weights = crossed(labels, vectors.emotions, ROLES)
    >>> rows = outside(torch.randn(30, 32), weights, vectors, 2, within(labels, 0, 39, 0))
    >>> [row["vectors"] for row in rows], rows[0]["dimensions"] <= 5
    (['felt', 'shown'], True)
    """
    basis = story_space(vectors, layer)
    rest = x - x @ basis.T @ basis
    dimensions = x.shape[1] - int((vectors.at(layer).neutral_basis[0].norm(dim=1) > 0.5).sum())  # left by denoising
    rows = []
    for role, name in enumerate(ROLES):
        whole = _left(weights.whole[role], x, rest)
        low, high = bootstrap_mean(whole.numpy())
        agreed, without = (_agreed(part[..., role, :, :], x, rest) for part in (weights.halves, weights.without))
        known = agreed[1] > 0
        share = float((agreed[0] / agreed[1]).clamp(0, 1).sqrt()) if known else np.nan
        squares = jackknife((without[0] / without[1]).numpy(), (agreed[0] / agreed[1]).numpy())
        ends = [float(np.sqrt(np.clip(end, 0, 1))) if known else np.nan for end in squares]
        row = {"vectors": name, "series": name, "effect": float(whole.mean()), "low": low, "high": high}
        row |= {"reliable_left": share, "reliable_left_low": ends[0], "reliable_left_high": ends[1]}
        row |= {"dimensions": len(basis), "random": float(np.sqrt(1 - len(basis) / dimensions))}
        null = [float(_left(_whole(order, weights.whole.shape[1], role), x, rest).mean()) for order in orders]
        rows.append(row | {"p": p_value(row["effect"], null)})
    return rows


def story_space(vectors: EmotionVectors, layer: int) -> Float[Tensor, "component d_model"]:
    """Orthonormal directions that explain 99 % of the variance of the stories' vectors.

    >>> story_space(shipped, 20).shape[1]
    576
    """
    v = vectors.vectors(layer).double()
    _, s, directions = torch.linalg.svd(v - v.mean(dim=0), full_matrices=False)
    explained = (s**2).cumsum(dim=0) / (s**2).sum()
    return directions[: int((explained < EXPLAINED).sum()) + 1].float()


def _left(weights: Float[Tensor, "emotion dialogue"], x: Tensor, rest: Tensor) -> Float[Tensor, "emotion"]:
    return (weights @ rest).norm(dim=1) / (weights @ x).norm(dim=1).clamp(min=1e-12)


def _whole(labels: Int[np.ndarray, "dialogue 2"], n: int, role: int) -> Float[Tensor, "emotion dialogue"]:
    """The weights of one role's vectors from all dialogues, for other labels."""
    design = np.zeros((len(labels), 2 * n))
    for which in (0, 1):
        design[np.arange(len(labels)), which * n + labels[:, which]] = 1
    each = np.linalg.pinv(design)[role * n : (role + 1) * n]
    return torch.from_numpy(each - each.mean(axis=0, keepdims=True)).float()


def _agreed(weights: Tensor, x: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Product of the two halves' vectors outside the story space, and in all, over emotions and splits [*left]."""
    out = []
    for y in (rest, x):
        both = weights @ y  # [*left split half emotion d_model]
        out.append((both[..., 0, :, :] * both[..., 1, :, :]).sum(dim=(-1, -2)).mean(dim=-1).double())
    return out[0], out[1]


def recognised(
    x: Float[Tensor, "dialogue d_model"],
    labels: Int[np.ndarray, "dialogue 2"],
    stories: Float[Tensor, "emotion d_model"],
    orders: Mapping[int, Sequence[Int[np.ndarray, "dialogue 2"]]],
    left_out: Sequence[Float[np.ndarray, "fit left emotion dialogue"]],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How often what is felt, and what is shown, is told of a dialogue, by vectors of the others and of stories.

    The other emotion of the dialogue is no candidate. A dialogue's own scenario is never among those it is told by.

    >>> labels = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    >>> orders = {role: within(labels, role, 3, 0) for role in (0, 1)}
    >>> left_out = [np.stack([leaving_each_out(o, 4, role) for o in (labels, *orders[role])]) for role in (0, 1)]
    >>> x = torch.eye(8)[labels[:, 0]] + torch.eye(8)[4 + labels[:, 1]]
    >>> [(row["told"], row["by"], row["effect"]) for row in recognised(x, labels, torch.eye(8)[:4], orders, left_out)]
    [('felt', 'masked vectors', 1.0), ('felt', 'story vectors', 1.0), ('shown', 'masked vectors', 1.0),
     ('shown', 'story vectors', ...)]
    """
    y = (x - x.mean(dim=0)).double()
    products, by_story, rows = (y @ y.T).numpy(), (unit(y) @ unit(stories.double()).T).numpy(), []
    for role, name in enumerate(ROLES):
        other, truth = labels[:, 1 - role], labels[:, role]
        hits = [nearest_without(w, products, other) == order[:, role]
                for w, order in zip(left_out[role], (labels, *orders[role]), strict=True)]  # fmt: skip
        cosine = by_story.copy()
        cosine[np.arange(len(x)), other] = -np.inf
        best = cosine.argmax(axis=1)
        found = {"masked vectors": hits, "story vectors": [best == truth, *(best == o[:, role] for o in orders[role])]}
        for by, (hit, *null) in found.items():
            low, high = bootstrap_mean(hit.astype(float), seed=seed)
            shares = np.array([one.mean() for one in null])
            row = {"told": name, "by": by, "series": f"{name}, by {by}", "effect": float(hit.mean())}
            row |= {"low": low, "high": high, "null_low": float(np.quantile(shares, 0.025))}
            row |= {"null_high": float(np.quantile(shares, 0.975)), "p": tail_p(float(hit.mean()), shares)}
            rows.append(row)
    return rows


def headline(frame: pd.DataFrame, layer: int) -> str:
    """The cosine of what is felt and hidden with the stories' vectors, after the scenario.

    >>> rows = [("felt with stories", 0.2, 0.6, 0.01), ("shown with stories", 0.4, 0.6, 0.01)]
    >>> frame = pd.DataFrame(rows, columns=["pair", "effect", "ceiling", "p"])
    >>> headline(frame.assign(layer=2, condition=CONDITIONS[1]), 2)
    "Vectors of a felt and hidden emotion have a cosine of 0.20 with the stories' vectors (ceiling 0.60; exchanged
    names: p = 0.010), those of a shown one 0.40."
    """
    rows = frame[(frame["layer"] == layer) & (frame["condition"] == CONDITIONS[1])].set_index("pair")
    felt, shown = rows.loc["felt with stories"], rows.loc["shown with stories"]
    return (
        f"Vectors of a felt and hidden emotion have a cosine of {felt['effect']:.2f} with the stories' vectors "
        f"(ceiling {felt['ceiling']:.2f}; exchanged names: {p_text(felt['p'])}), those of a shown one "
        f"{shown['effect']:.2f}."
    )


def of_outside(frame: pd.DataFrame, layer: int) -> str:
    """What is left of the felt emotions' vectors, after the scenario.

    >>> row = {"layer": 2, "condition": CONDITIONS[1], "vectors": "felt", "effect": 0.9, "reliable_left": 0.6}
    >>> of_outside(pd.DataFrame([row | {"random": 0.92}]), 2)
    'Outside the story space 0.90 of the norm of a hidden emotion is left (of a random direction 0.92), and 0.60 of what
    halves of the dialogues agree on.'
    """
    rows = frame[(frame["layer"] == layer) & (frame["condition"] == CONDITIONS[1])].set_index("vectors")
    row = rows.loc["felt"]
    agreed = "the halves of the dialogues agree on nothing"
    if np.isfinite(row["reliable_left"]):
        agreed = f"{row['reliable_left']:.2f} of what halves of the dialogues agree on"
    return (
        f"Outside the story space {row['effect']:.2f} of the norm of a hidden emotion is left (of a random direction "
        f"{row['random']:.2f}), and {agreed}."
    )


def of_recognised(frame: pd.DataFrame, layer: int) -> str:
    """How often what is felt is classified correctly from the dialogue alone.

    >>> rows = [("masked vectors", 0.2, 0.01), ("story vectors", 0.1, 0.4)]
    >>> frame = pd.DataFrame(rows, columns=["by", "effect", "p"]).assign(layer=2, condition=CONDITIONS[0], told="felt")
    >>> of_recognised(frame, 2)
    "From the dialogue alone what is felt is classified correctly in 20% of the dialogues by vectors of the others
    (p = 0.010), and in 10% by the stories' (p = 0.400)."
    """
    rows = frame[(frame["layer"] == layer) & (frame["condition"] == CONDITIONS[0]) & (frame["told"] == "felt")]
    own, story = (rows.set_index("by").loc[by] for by in ("masked vectors", "story vectors"))
    return (
        f"From the dialogue alone what is felt is classified correctly in {own['effect']:.0%} of the dialogues by "
        f"vectors of the others ({p_text(own['p'])}), and in {story['effect']:.0%} by the stories' "
        f"({p_text(story['p'])})."
    )


def steering(
    model: HookedModel,
    vectors: EmotionVectors,
    said: Masked,
    weights: Crossed,
    row: int,
    layer: int,
    size: str = "full",
    corpus: Corpus | None = None,
) -> StudyResult:
    """What the masked vectors and the felt emotion's own do to denial against admission, in ten scenes.

    In nats per token, for a strength of 0.1 on the tokens of the answer, in the first order: one backward pass gives
    the slope along every direction, those of the nulls as well. In "full" `steered` is what the strength itself does.
    The masked vectors are those of the dialogues after their scenario.

    >>> labels = np.array([(i, j) for i in range(6) for j in range(6) if i != j])
    >>> said = Masked(vectors.emotions, labels, torch.randn(2, 1, 30, 32))
    >>> result = steering(model, vectors, said, crossed(labels, vectors.emotions, ROLES), 0, 2, "quick")
    >>> result.table()["direction"].tolist()[:2], result.table()["vectors"].unique().tolist()
    (['afraid', 'angry'], ['masked', 'story'])
    """
    y = _denoised(said.x[1, row], vectors, layer)
    rows = [vectors.index(name) for name in said.names]
    families = {"masked": unit(weights.whole[0] @ y), "story": vectors.matrix(layer)[rows]}
    orders = within(said.labels, 0, 199, 0)
    drawn = {"masked": torch.stack([unit(_whole(order, len(said.names), 0) @ y) for order in orders])}
    sets = shuffled_sets(model, vectors, size, corpus, 0)
    if sets.refits is not None:
        drawn["story"] = torch.cat([unit(part[:, rows]) for part in sets.refits.at(layer)])
    scenes = texts.stimuli("denial")
    slopes = torch.stack([_slope(model, scene, layer) for scene in scenes])
    slopes = slopes * float(vectors.at(layer).residual_norm[0]) * DOSE
    random = unit(torch.randn(999, len(rows), y.shape[1], generator=torch.Generator().manual_seed(0)))
    tables = []
    for name, family in families.items():
        nulls = {"random": (random @ slopes.mean(dim=0)).numpy()}
        if name in drawn:
            nulls["shuffled labels"] = (drawn[name] @ slopes.mean(dim=0)).numpy()
        effects = (family @ slopes.T).double().numpy()  # [emotion scene]
        table = pd.DataFrame({"direction": said.names, "vectors": name, "effect": effects.mean(axis=1)})
        table[["low", "high"]] = [bootstrap_mean(effect) for effect in effects]
        table = table.assign(**Nulls().measured(nulls).columns(effects.mean(axis=1)))
        if name not in drawn:  # an effect must beat both kinds
            table["verdict"] = Verdict.NO_NULL
        if size == "full":
            table["steered"] = _steered(model, vectors, family, said.names, layer, scenes)
        tables.append(table)
    frame = pd.concat(tables, ignore_index=True).assign(layer=layer)
    words = "999 families of random directions, and 199 of vectors with permuted labels; the furthest of each"
    if "story" not in drawn:
        words += '; "quick" refits none for the stories'
    return StudyResult("steering_denial", frame, of_steering(frame), words)


def _slope(model: HookedModel, scene: Mapping[str, Any], layer: int) -> Float[Tensor, "d_model"]:
    """The gradient of denial less admission, per token, by what is added at the answer's tokens."""
    shared = SharedPrompt(model, model.encode(scene["prompt"]), anywhere=True)
    kinds = ("denial", "admission")
    ids = [continuation_ids(model, scene["prompt"], text) for kind in kinds for text in scene[kind]]
    _, slope = gradients(model, shared, ids, layer)
    first = len(scene["denial"])
    return slope[:first].mean(dim=0) - slope[first:].mean(dim=0)


def _steered(
    model: HookedModel,
    vectors: EmotionVectors,
    family: Float[Tensor, "emotion d_model"],
    names: Sequence[str],
    layer: int,
    scenes: Sequence[Mapping[str, Any]],
) -> Float[np.ndarray, "emotion"]:
    """The change of the log-odds at the strength itself, half the difference of both signs."""
    directions = [Direction.from_tensor(v, layer, vectors, name) for v, name in zip(family, names, strict=True)]
    found = []
    for much in (DOSE, -DOSE):
        with steer(model, directions, much, layer, "generation"):
            found.append(torch.stack([_odds(model, scene) for scene in scenes]).mean(dim=0))
    return ((found[0] - found[1]) / 2).double().numpy()


def _odds(model: HookedModel, scene: Mapping[str, Any]) -> Float[Tensor, "row"]:
    each = log_probs(model, scene["prompt"], [*scene["denial"], *scene["admission"]], per_token=True)
    first = len(scene["denial"])
    return each[:, :first].mean(dim=1) - each[:, first:].mean(dim=1)


def of_steering(frame: pd.DataFrame) -> str:
    """How many of either vectors move denial beyond the nulls, and how alike their effects are.

    >>> rows = [("sad", "masked", 0.1), ("calm", "masked", -0.1), ("sad", "story", 0.2), ("calm", "story", -0.1)]
    >>> frame = pd.DataFrame(rows, columns=["direction", "vectors", "effect"]).assign(verdict=Verdict.INSIDE)
    >>> of_steering(frame)
    "Denial over admission is moved beyond the nulls by 0 of 2 vectors of hidden emotions and by 0 of the stories'
    own."
    """
    beyond = frame["verdict"].eq(Verdict.BEYOND).groupby(frame["vectors"]).sum()
    n = int((frame["vectors"] == "masked").sum())
    begin = f"Denial over admission is moved beyond the nulls by {beyond['masked']} of {n} vectors of hidden emotions"
    if frame.loc[frame["vectors"] == "story", "verdict"].eq(Verdict.NO_NULL).all():
        return f"{begin}; the stories' own have no null of shuffled labels here."
    return f"{begin} and by {beyond['story']} of the stories' own."
