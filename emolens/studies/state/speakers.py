"""Does the model keep the emotion of whoever speaks now, or that of each person? (section 7)

In each dialogue a user feels one emotion and an assistant another, every emotion with every other. Over the turns of
either, two sets of vectors are derived: of the emotion of the speaker who is present, and of the other speaker's. Where
the model groups by role, the two "present" sets are alike, and the two "other" sets; where it groups by person, the
user's emotion is the same direction in both speakers' turns, and so is the assistant's.

The first turn of a dialogue is left out: nothing of the other speaker has been read there. Each cosine is taken between
disjoint halves of the dialogues (see `_crossed`), beside its ceiling. `same_dialogues` is what the same dialogues give,
whose common topics and wording make the person's vectors alike whatever the model does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import LEVEL, Verdict, correlation, p_text, p_value
from emolens.studies._common import check_size, near, rating_weights, with_vectors
from emolens.studies.state._crossed import Crossed, between, ceiling, crossed, jackknife, renamed, same
from emolens.studies.state._scores import conversation, mean_over, reader
from emolens.vectors.direction import unit
from emolens.vectors.emotion_vectors import EmotionVectors

WHO = ("user", "assistant")
# Each set: over whose turns, and whose emotion (0 the user, 1 the assistant).
SETS = {"present, user": (0, 0), "present, assistant": (1, 1), "other, user": (0, 1), "other, assistant": (1, 0)}
PAIRS = {
    ("present, user", "present, assistant"): "role",
    ("other, user", "other, assistant"): "role",
    ("present, user", "other, assistant"): "person",
    ("present, assistant", "other, user"): "person",
    ("present, user", "other, user"): "same tokens",
    ("present, assistant", "other, assistant"): "same tokens",
}
GROUPS = ("role", "person", "same tokens")
SMALL = 0.05  # a mean ceiling below which nothing can be said of a group
STORIES = "stories"


def dialogues(vectors: EmotionVectors, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Mapping[str, Any]]:
    """The packaged dialogues, or `rows` like them, whose two emotions have a vector.

    Raises:
        ValueError: a dialogue with one speaker, or in which one of them speaks only in the first turn, by its number.
        NotForThisModel: fewer than two of the emotions have a vector.

    >>> len(dialogues(shipped))
    144
    """
    everything = texts.speakers() if rows is None else list(rows)
    for number, row in enumerate(everything):
        roles = [turn["role"] for turn in row["turns"]]
        if missing := [who for who in WHO if who not in roles]:
            raise ValueError(f"dialogue {number} has no turn of the {missing[0]}: two speakers are needed")
        if late := [who for who in WHO if who not in roles[1:]]:
            raise ValueError(
                f"dialogue {number}: the {late[0]} speaks in the first turn only, before the other's emotion can be "
                f"read: give another turn"
            )
    return with_vectors(everything, vectors, lambda row: {row[f"{who}_emotion"] for who in WHO}, "The dialogues")


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    draws: int = 999,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Vectors of the present and of the other speaker's emotion, their cosines and their geometry, by layer.

    Args:
        rows: dialogues like the packaged ones (`corpus.speakers()`).

    Returns:
        "grouping", by role and by person as two contrasts, decided by test; "speakers", the cosines of each two sets
        and of each set with the stories' vectors; "matrix", these at the chosen layer, with the split halves on the
        diagonal; and "affect", valence and arousal of the two speakers against each other.

    Raises:
        ValueError: as `dialogues`; an emotion in one role only, or in fewer than four dialogues of a role.

    >>> results = run(model, vectors, "quick", draws=39)
    >>> list(results), len(results["speakers"].table())
    (['grouping', 'speakers', 'matrix', 'affect'], 10)
    """
    check_size(size)
    vectors.check_model(model)
    found = dialogues(vectors, rows)
    names = list(dict.fromkeys(row[f"{who}_emotion"] for who in WHO for row in found))
    labels = np.array([[names.index(row[f"{who}_emotion"]) for who in WHO] for row in found])
    weights, few = crossed(labels, names, WHO, seed), vectors[names]
    chosen = near(vectors, vectors.chosen_layer("denoised"))
    layers = [chosen] if size == "quick" else list(vectors.layers)
    x = _turns(model, found, layers)
    pairs, groups, affect, matrices = [], [], [], {}
    for number, layer in enumerate(layers):
        one, other, matrices[layer] = measure(x[:, number], weights, few, layer, draws, seed)
        pairs += [{"layer": layer} | row for row in one]
        groups += [{"layer": layer} | row for row in other]
        affect += [{"layer": layer} | row for row in _affect(x[:, number], vectors, layer, draws, seed)]
    return _results(pd.DataFrame(pairs), pd.DataFrame(groups), pd.DataFrame(affect), matrices[chosen], chosen, draws)


def _results(
    pairs: pd.DataFrame, groups: pd.DataFrame, affect: pd.DataFrame, matrix: pd.DataFrame, chosen: int, draws: int
) -> dict[str, StudyResult]:
    words = f"{draws} exchanges of the emotions' names; the ceiling is what halves of a set give"
    options = {"series": "contrast", "title": "Grouping of the speakers' emotions", "ylabel": "share of the ceiling"}
    curves = {"series": "pair", "title": "Cosines of the sets, disjoint dialogues", "ylabel": "mean cosine"}
    told = {"series": "scale", "title": "The two speakers against each other", "ylabel": "correlation"}
    title = f"Cosines of the sets at block {chosen}; halves of a set on the diagonal"
    shown = {"title": title, "lowest": min(0.0, float(matrix["score"].min()))}
    return {
        "grouping": StudyResult("grouping", groups, headline(groups, chosen), words, "effect_by_layer", options),
        "speakers": StudyResult("speakers", pairs, of_pairs(pairs, chosen), words, "effect_by_layer", curves),
        "matrix": StudyResult("speakers_matrix", matrix, of_matrix(matrix), words, "score_matrix", shown),
        "affect": StudyResult(
            "affect", affect, of_affect(affect, chosen), f"{draws} exchanges of the dialogues", "effect_by_layer", told
        ),
    }


def _turns(
    model: HookedModel, rows: Sequence[Mapping[str, Any]], layers: Sequence[int]
) -> Float[Tensor, "who layer dialogue d_model"]:
    """Mean activation over either speaker's turns, without the dialogue's first turn, from one pass each."""
    chats = [conversation(row) for row in rows]
    turns = [model.encode_chat(chat).turns[1:] for chat in chats]
    spans = [[(turn.start, turn.end) for who in WHO for turn in said if turn.role == who] for said in turns]
    parts = [[(t.start, t.end) for t in said if t.role == who] for said in turns for who in WHO]
    flat = mean_over(model, chats, layers, spans, parts)
    return flat.unflatten(1, (len(chats), 2)).permute(2, 0, 1, 3)


def measure(
    x: Float[Tensor, "who dialogue d_model"],
    weights: Crossed,
    vectors: EmotionVectors,
    layer: int,
    draws: int = 999,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], pd.DataFrame]:
    """The cosines of the sets, the contrasts of role and person, and the matrix of the sets, at one layer.

    Args:
        x: mean activations over the turns of the user and of the assistant.
        vectors: of the emotions that `weights` number, in their order.

    >>> labels = np.array([(i, j) for i in range(6) for j in range(6)])
    >>> weights = crossed(labels, vectors.emotions, WHO)
    >>> pairs, groups, matrix = measure(torch.randn(2, 36, 32), weights, vectors, 2, 39)
    >>> [row["contrast"] for row in groups]
    ['role', 'person', 'same tokens', 'role less person']
    """
    y = _denoised(x, vectors, layer)
    stories = vectors.matrix(layer)
    observed = _statistics(y, weights.halves, stories)
    without = [_statistics(y, part, stories) for part in weights.without.split(16)]
    left = {name: np.concatenate([part[name] for part in without]) for name in observed if not name.startswith("_")}
    ends = {name: jackknife(left[name], observed[name]) for name in left}
    whole = {name: weights.whole[whose] @ y[turn] for name, (turn, whose) in SETS.items()}
    reliable = vectors.split_half(layer).nanmean()
    told = float((2 * reliable / (1 + reliable)).clamp(min=0)) if reliable.isfinite() else np.nan
    pairs = [_pair(names, kind, observed, ends, whole, draws, seed) for names, kind in PAIRS.items()]
    pairs += [_with_stories(name, observed, ends, told, draws, seed) for name in SETS]
    return pairs, _groups(observed, ends, draws, seed), _matrix(observed)


def _denoised(x: Float[Tensor, "*set d_model"], vectors: EmotionVectors, layer: int) -> Tensor:
    basis = vectors.at(layer).neutral_basis[0]
    return x - x @ basis.T @ basis


def _statistics(
    x: Float[Tensor, "who dialogue d_model"], halves: Tensor, stories: Float[Tensor, "emotion d_model"]
) -> dict[str, np.ndarray]:
    """Each mean cosine and its ceiling, the geometry's correlations, and the contrasts [*left].

    Names that begin with an underscore are the matrices of cosines themselves, means over the splits.
    """
    sums: dict[str, Tensor] = {}
    splits = halves.unbind(dim=-5)
    for split in splits:
        sets = {name: split[..., whose, :, :] @ x[turn] for name, (turn, whose) in SETS.items()}
        each = {f"_{a}|{a}": between(v, v) for a, v in sets.items()}
        each |= {f"_{a}|{b}": between(sets[a], sets[b]) for a, b in PAIRS}
        each |= {f"_{a}|{STORIES}": (unit(v) @ stories.T).mean(dim=-3) for a, v in sets.items()}
        forms = {name: _form(v) for name, v in sets.items()} | {STORIES: _standard(stories @ stories.T)}
        for a, b in [*((a, a) for a in SETS), *PAIRS]:
            one, two = forms[a], forms[b]
            each[f"rsa {a}|{b}"] = ((one[..., 0, :] * two[..., 1, :]) + (one[..., 1, :] * two[..., 0, :])).sum(-1) / 2
        each |= {f"rsa {a}|{STORIES}": (forms[a] * forms[STORIES]).sum(-1).mean(-1) for a in SETS}
        for name, value in each.items():
            sums[name] = sums.get(name, torch.zeros(())) + value / len(splits)
    out = {name: value.double().numpy() for name, value in sums.items()}
    out |= {name[1:]: same(sums[name]).double().numpy() for name in sums if name.startswith("_")}
    return out | _contrasts(out)


def _form(vectors: Float[Tensor, "*set emotion d_model"]) -> Float[Tensor, "*set pair"]:
    """The cosines of each two emotions, standardised."""
    v = unit(vectors)
    return _standard(v @ v.transpose(-1, -2))


def _standard(cosines: Float[Tensor, "*set emotion emotion"]) -> Float[Tensor, "*set pair"]:
    row, column = torch.triu_indices(cosines.shape[-1], cosines.shape[-1], 1)
    pairs = cosines[..., row, column]
    return unit(pairs - pairs.mean(dim=-1, keepdim=True))


def _contrasts(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For each group the sum of its cosines over the sum of their ceilings; NaN where halves do not agree."""
    out = {}
    for group in GROUPS:
        own = [pair for pair, kind in PAIRS.items() if kind == group]
        total = sum(values[f"{a}|{b}"] for a, b in own)
        most = sum(_ceiling(values, a, b) for a, b in own)
        out[group] = np.where(most > SMALL * len(own), total / np.maximum(most, 1e-9), np.nan)
    return out | {"role less person": out["role"] - out["person"]}


def _ceiling(values: Mapping[str, Any], a: str, b: str, what: str = "") -> Any:
    one, two = (torch.as_tensor(values[f"{what}{name}|{name}"]) for name in (a, b))
    return ceiling(one, two).numpy()


def _pair(
    names: tuple[str, str],
    kind: str,
    observed: Mapping[str, np.ndarray],
    ends: Mapping[str, Any],
    whole: Mapping[str, Tensor],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    a, b = names
    key, most = f"{a}|{b}", float(_ceiling(observed, a, b))
    alone = float((unit(whole[a]) * unit(whole[b])).sum(dim=1).mean())
    row = _row(key, observed, ends, most, draws, seed) | {"same_dialogues": alone}
    rsa = {"rsa": float(observed[f"rsa {key}"]), "rsa_ceiling": float(_ceiling(observed, a, b, "rsa "))}
    low, high = ends[f"rsa {key}"]
    return {"pair": f"{a} with {b}", "kind": kind} | row | rsa | {"rsa_low": float(low), "rsa_high": float(high)}


def _with_stories(
    name: str, observed: Mapping[str, np.ndarray], ends: Mapping[str, Any], told: float, draws: int, seed: int
) -> dict[str, Any]:
    key = f"{name}|{STORIES}"
    most = float(np.sqrt(max(float(observed[f"{name}|{name}"]), 0) * told)) if np.isfinite(told) else np.nan
    row = _row(key, observed, ends, most, draws, seed) | {"same_dialogues": np.nan}
    low, high = ends[f"rsa {key}"]
    rsa = {"rsa": float(observed[f"rsa {key}"]), "rsa_ceiling": np.nan, "rsa_low": float(low), "rsa_high": float(high)}
    return {"pair": f"{name} with {STORIES}", "kind": STORIES} | row | rsa


def _row(
    key: str, observed: Mapping[str, np.ndarray], ends: Mapping[str, Any], most: float, draws: int, seed: int
) -> dict[str, Any]:
    low, high = ends[key]
    null = renamed(observed[f"_{key}"], draws, seed)
    value = float(observed[key])
    band = dict(zip(("null_low", "null_high"), np.quantile(null, [0.025, 0.975]).tolist(), strict=True))
    share = value / most if most > SMALL else np.nan
    test = {"effect": value, "low": float(low), "high": float(high), "ceiling": most, "of_ceiling": share}
    return test | band | {"p": p_value(value, null)}


def _groups(observed: Mapping[str, np.ndarray], ends: Mapping[str, Any], draws: int, seed: int) -> list[dict[str, Any]]:
    """Role, person, same tokens and the difference of the first two, with what they decide."""
    rng, n = np.random.default_rng(seed), len(next(v for k, v in observed.items() if k.startswith("_")))
    nulls: dict[str, list[float]] = {name: [] for name in (*GROUPS, "role less person")}
    for _ in range(draws):
        order = {name: rng.permutation(n) for name in SETS}
        values = {f"{name}|{name}": observed[f"{name}|{name}"] for name in SETS}
        values |= {f"{a}|{b}": observed[f"_{a}|{b}"][order[a], order[b]].mean() for a, b in PAIRS}
        for name, drawn in _contrasts(values).items():
            nulls[name].append(float(drawn))
    rows = []
    for name, null in nulls.items():
        value, (low, high) = float(observed[name]), ends[name]
        known = np.isfinite([value, low, high, *null]).all()
        row = {"contrast": name, "effect": value, "low": float(low), "high": float(high)}
        rows.append(row | {"p": p_value(value, null) if known else np.nan})
    by = {row["contrast"]: row for row in rows}
    decided = _decided(by["role"], by["person"], by["role less person"])
    return [row | {"grouped_by": decided} for row in rows]


def _decided(role: Mapping[str, Any], person: Mapping[str, Any], apart: Mapping[str, Any]) -> str:
    if np.isnan(apart["p"]):
        return Verdict.UNMEASURABLE
    if apart["low"] > 0 and role["p"] <= LEVEL:
        return "role"
    return "person" if apart["high"] < 0 and person["p"] <= LEVEL else "undecided"


def _matrix(observed: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Cosines of each set with each from disjoint halves: on the diagonal those of a set with itself."""
    names = list(SETS)
    keys = {(a, b): f"{a}|{b}" if f"{a}|{b}" in observed else f"{b}|{a}" for a in names for b in names}
    return pd.DataFrame([{"row": a, "column": b, "score": float(observed[key])} for (a, b), key in keys.items()])


def headline(frame: pd.DataFrame, layer: int) -> str:
    """Whether the sets are grouped by role or by person.

    >>> rows = [("role", 0.6, 0.01), ("person", 0.2, 0.3), ("role less person", 0.4, 0.02)]
    >>> frame = pd.DataFrame(rows, columns=["contrast", "effect", "p"]).assign(layer=2, grouped_by="role")
    >>> headline(frame, 2)
    "The speakers' emotions are grouped by who is speaking: 0.60 of the ceiling by who is speaking, 0.20 by person,
    difference 0.40 (p = 0.020)."
    """
    rows = frame[frame["layer"] == layer].set_index("contrast")
    if rows["grouped_by"].iloc[0] == Verdict.UNMEASURABLE:
        return "Halves of the dialogues do not agree on the other speaker's vectors, so grouping cannot be measured."
    apart = rows.loc["role less person"]
    found = {"role": "who is speaking"}.get(said := rows["grouped_by"].iloc[0], said)
    begin = f"are grouped by {found}" if found != "undecided" else "are not shown to be grouped by either"
    return (
        f"The speakers' emotions {begin}: {rows.loc['role', 'effect']:.2f} of the ceiling by who is speaking, "
        f"{rows.loc['person', 'effect']:.2f} by person, difference {apart['effect']:.2f} ({p_text(apart['p'])})."
    )


def of_pairs(frame: pd.DataFrame, layer: int) -> str:
    """The present speakers' vectors with each other and on the same tokens with the other speaker's.

    >>> rows = [("role", 0.2, 0.3), ("role", 0.1, 0.2), ("person", 0, 1), ("person", 0, 1), ("same tokens", 0.05, 0.2)]
    >>> of_pairs(pd.DataFrame(rows, columns=["kind", "effect", "ceiling"]).assign(layer=2), 2)
    'Vectors of the present speaker have a cosine of 0.20 with each other (ceiling 0.30), and with those of the other
    speaker on the same tokens one of 0.05 (ceiling 0.20).'
    """
    rows = frame[frame["layer"] == layer]
    present, tokens = rows[rows["kind"] == "role"].iloc[0], rows[rows["kind"] == "same tokens"][["effect", "ceiling"]]
    mean = tokens.mean()
    return (
        f"Vectors of the present speaker have a cosine of {present['effect']:.2f} with each other (ceiling "
        f"{present['ceiling']:.2f}), and with those of the other speaker on the same tokens one of "
        f"{mean['effect']:.2f} (ceiling {mean['ceiling']:.2f})."
    )


def of_matrix(frame: pd.DataFrame) -> str:
    """How well halves of the sets agree.

    >>> of_matrix(pd.DataFrame({"row": list("aabb"), "column": list("abab"), "score": [0.5, 0.1, 0.1, 0.3]}))
    'Two halves of the dialogues give vectors that agree at 0.30 to 0.50.'
    """
    own = frame.loc[frame["row"] == frame["column"], "score"]
    return f"Two halves of the dialogues give vectors that agree at {own.min():.2f} to {own.max():.2f}."


def _affect(
    x: Float[Tensor, "who dialogue d_model"], vectors: EmotionVectors, layer: int, draws: int, seed: int
) -> list[dict[str, Any]]:
    """Correlation over dialogues of the valence (arousal) read in the user's and in the assistant's turns."""
    read, rng, rows = reader(vectors, layer, "denoised"), np.random.default_rng(seed), []
    scores = [read(part, part.mean(dim=0)) for part in x]
    for scale in ("valence", "arousal"):
        weights = rating_weights(vectors.emotions, scale).numpy()
        a, b = (part @ weights for part in scores)
        r, low, high = correlation(a, b, seed=seed)
        null = np.array([np.corrcoef(a, rng.permutation(b))[0, 1] for _ in range(draws)])
        rows.append({"scale": scale, "effect": r, "low": low, "high": high, "p": p_value(r, null)})
    return rows


def of_affect(frame: pd.DataFrame, layer: int) -> str:
    """Both correlations.

    >>> rows = [("valence", 0.1, 0.3), ("arousal", -0.4, 0.001)]
    >>> of_affect(pd.DataFrame(rows, columns=["scale", "effect", "p"]).assign(layer=2), 2)
    'Over the dialogues, the arousal read in the turns of the two speakers correlates at -0.40 (p = 0.001), the valence
    at 0.10 (p = 0.300).'
    """
    rows = frame[frame["layer"] == layer].set_index("scale")
    a, v = rows.loc["arousal"], rows.loc["valence"]
    return (
        f"Over the dialogues, the arousal read in the turns of the two speakers correlates at {a['effect']:.2f} "
        f"({p_text(a['p'])}), the valence at {v['effect']:.2f} ({p_text(v['p'])})."
    )
