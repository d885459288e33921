"""The same vectors in a base model and in its post-trained child: which emotions rose, which fell (section 9)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.corpus.stories import Corpus
from emolens.files import data_path
from emolens.models.model import HookedModel
from emolens.results import StudyResult
from emolens.stats import correlation
from emolens.studies._common import NotForThisModel, check_size, near, rating_weights
from emolens.studies.post_training._checkpoints import (
    GROUPS,
    Ruler,
    before_reply,
    check_pair,
    forms_of,
    measure,
    neutral_mask,
    prompt_rows,
    shared,
)
from emolens.training.adapters import load_adapter
from emolens.training.packaged_children import BASE, DIALOGUES, MANNERS, null_children
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import EmotionVectors

States = dict[str, Float[Tensor, "layer prompt d_model"]]  # by form: plain text, chat template
AXES = {"valence": 5.0, "arousal": None}  # the middle of the scale; without one, the median of the words
CORRELATIONS = ("r_challenging", "r_neutral", "r_shifts")


def compare(
    base: HookedModel,
    post: HookedModel | Sequence[HookedModel],
    vectors: EmotionVectors | None = None,
    prompts: Any = None,
    null: Iterable[HookedModel] = (),
    layers: Sequence[int] | None = None,
    corpus: Corpus | None = None,
    seed: int = 0,
) -> StudyResult:
    """Shift of every emotion from a base model to one post-trained from it, or to each of a ladder of them.

    One row for each child, form of the prompt, ruler, layer, group of prompts and emotion: the mean score in
    both, the shift with its interval over prompts, its q, and the shift less the mean over all emotions. The
    scores are cosines at the token right before the reply; both models are centred on the base's stories.

    Args:
        vectors: the only ruler; default the post-trained model's own (the paper's way), the base's, and the
            mean of both, and beside them `own`: each model read with its own.
        prompts: rows of `kind` and `text`, or a mapping from kinds to texts; default the packaged 180.
        null: children that should show no shift, at least two, trained as long as `post`: a shift counts when
            it lies outside their spread too. Without them it counts when it is beyond chance over prompts.
        layers: default the block chosen on the stories.
        corpus: stories that the vectors of both are derived from at these layers; default all the packaged ones.

    Raises:
        ValueError: models of different architecture or tokenizer, prompts with an empty kind, no model.

    >>> prompts = {"challenging": ["I lost my job.", "I am ill."], "neutral": ["What is rain?", "What is tea?"]}
    >>> float(compare(model, model, vectors, prompts).table()["shift"].abs().max())
    0.0
    """
    posts = ladder(base, post)
    rows = prompt_rows(prompts)
    own = vectors if vectors is not None and vectors.stamp["fingerprint"] == base.fingerprint else None
    if own is None:
        own = derive(base) if corpus is None else derive(base, corpus, layers)
    layers = [near(own, own.chosen_layer())] if layers is None else [base.check_layer(layer) for layer in layers]
    forms = forms_of([base, *posts])
    before = states(base, rows, forms, layers)
    unmoved = [states(model, rows, forms, layers) for model in null]
    if len(unmoved) == 1:
        raise ValueError("a null of one child has no spread; give at least two")
    tables = []
    for child in posts:
        theirs = vectors or (derive(child) if corpus is None else derive(child, corpus, layers))
        rulers = rulers_of(own.at(*layers), theirs.at(*layers), given=vectors is not None)
        after = states(child, rows, forms, layers)
        for form in forms:
            nulls = [state[form] for state in unmoved]
            found = shifts(before[form], after[form], nulls, rulers, layers, neutral_mask(rows), seed=seed)
            tables.append(found.assign(child=child.name, form=form))
    frame = pd.concat(tables, ignore_index=True)
    options = {"title": f"Shift from {base.name}"}
    return StudyResult("comparison", frame, headline(frame), null_of(len(unmoved)), "shift_dots", options)


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    posts: Sequence[HookedModel] | None = None,
    null: Sequence[HookedModel] | None = None,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """A base model against its post-trained children, read with the base's vectors (paper, section 9).

    Args:
        size: "full" reads all layers and holds the shifts against control fine-tunes, trained as long on dialogues
            about facts and tasks; "quick" reads the chosen layer and has no null.
        posts: the children; default the two that ship with the package for the embedded base model.
        null: the control fine-tunes; default five, from the cache or trained (several minutes each).

    Returns:
        "shifts", of each emotion at the chosen layer; and in "full" "axes", along valence and arousal by layer,
        "by_layer", of each emotion, "summary", how alike base and child are, "null", the shifts of the control
        fine-tunes, and "against_paper", the rank correlation with the paper's shifts.

    Raises:
        NotForThisModel: a model without packaged children, and no `posts`.

    >>> run(model, vectors, "quick")
    Traceback (most recent call last):
    emolens.studies._common.NotForThisModel: no post-trained children of tiny-llama ship with the package...
    """
    check_size(size)
    children = packaged_posts(model) if posts is None else list(posts)
    if size == "quick":
        return {"shifts": compare(model, children, vectors, null=null or (), seed=seed)}
    unmoved = [child.model for child in null_children(model)] if null is None else list(null)
    chosen = near(vectors, vectors.chosen_layer())
    full = compare(model, children, vectors, null=unmoved, layers=vectors.layers, seed=seed).table()
    shown = full[full["ruler"] == full["ruler"].iloc[0]].drop(columns=["form", "ruler", "p"])
    emotions, along = (shown[shown["of"] == of] for of in ("emotion", "axis"))
    challenging = emotions[emotions["group"] == GROUPS[0]]
    wide = challenging.pivot_table(index=["child", "emotion"], columns="layer", values="shift", sort=False)
    unmoved_shifts = compare(model, unmoved, vectors, layers=[chosen], seed=seed).table()
    unmoved_shifts = unmoved_shifts[unmoved_shifts["of"] == "emotion"]
    spread = unmoved_shifts.pivot_table(
        index=["ruler", "group", "emotion"], columns="child", values="shift", sort=False
    )
    at = emotions[emotions["layer"] == chosen]
    words = null_of(len(unmoved))
    parts = pd.concat([at, unmoved_shifts[unmoved_shifts["ruler"] == unmoved_shifts["ruler"].iloc[0]]])
    return {
        "shifts": StudyResult("shifts", at, headline(at), words, "shift_dots"),
        "summary": by_layer(full),
        "axes": StudyResult("axes", along, axes_headline(along, chosen), words),
        "by_layer": StudyResult(
            "by_layer", wide.reset_index().rename(columns=str), "The shift of each emotion, block by block.", words
        ),
        "null": StudyResult(
            "null", spread.reset_index(), "The shift of each emotion in every control fine-tune.",
            "none: these children are the null",
        ),
        "against_paper": against_paper(parts, seed),
    }  # fmt: skip


def packaged_posts(model: HookedModel) -> list[HookedModel]:
    """The children of a base model that ship with the package. Raises NotForThisModel where there are none.

    >>> packaged_posts(model)
    Traceback (most recent call last):
    emolens.studies._common.NotForThisModel: no post-trained children of tiny-llama ship with the package...
    """
    if model.name != BASE:
        raise NotForThisModel(f"no post-trained children of {model.name} ship with the package: give them as posts=")
    return [load_adapter(model, manner).model for manner in DIALOGUES]


def null_of(children: int) -> str:
    """What the shifts are held against, in words.

    >>> null_of(5)
    'the spread of 5 control fine-tunes, and chance over prompts'
    """
    chance = "chance over prompts"
    return f"the spread of {children} control fine-tunes, and {chance}" if children else chance


def ladder(base: HookedModel, post: HookedModel | Sequence[HookedModel]) -> list[HookedModel]:
    """The post-trained models as a list. Raises ValueError where there is none, or one that is no child of the base.

    >>> ladder(model, [])
    Traceback (most recent call last):
    ValueError: no post-trained model to compare with: give one, or a list of checkpoints
    """
    posts = [post] if isinstance(post, HookedModel) else list(post)
    if not posts:
        raise ValueError("no post-trained model to compare with: give one, or a list of checkpoints")
    for child in posts:
        check_pair(base, child)
    return posts


def states(model: HookedModel, rows: Sequence[Any], forms: Sequence[str], layers: Sequence[int]) -> States:
    """What a model holds right before the reply to every prompt, in each form.

    >>> states(model, [{"kind": "neutral", "text": "What is rain?"}], ["plain"], [2])["plain"].shape[:2]
    torch.Size([1, 1])
    """
    return {form: before_reply(model, rows, form, layers) for form in forms}


def rulers_of(base: EmotionVectors, post: EmotionVectors, given: bool = False) -> list[tuple[Ruler, Ruler]]:
    """What the base and the child are read with: the same for both, but for the last, each one's own.

    >>> [ruler.name for ruler, _ in rulers_of(vectors, vectors, given=True)]
    ['base', 'base, raw']
    """
    centre = base.centre_stories
    name = "base" if post.stamp["fingerprint"] == base.stamp["fingerprint"] else "given"
    sets = {name: post} if given else {"post": post, "base": base, "shared": shared(base, post)}
    rulers = [Ruler(name, one, centre) for name, one in sets.items()]
    rulers.append(replace(rulers[0], name=f"{rulers[0].name}, raw", method="raw"))
    pairs = [(ruler, ruler) for ruler in rulers]
    return pairs if given else [*pairs, (Ruler("own", base, centre), Ruler("own", post, centre))]


def shifts(
    before: Float[Tensor, "layer prompt d_model"],
    after: Float[Tensor, "layer prompt d_model"],
    null: Sequence[Float[Tensor, "layer prompt d_model"]],
    rulers: Sequence[tuple[Ruler, Ruler]],
    layers: Sequence[int],
    neutral: Bool[Tensor, "prompt"],
    difference: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """`measure` for every ruler and layer, over the emotions and (where `of` is "axis") along human ratings.

    Args:
        difference: both are children; the null is then the difference of two control fine-tunes.

    >>> x, ruler = torch.randn(1, 4, 32), Ruler("base", vectors, vectors.centre_stories)
    >>> half = torch.tensor([True, True, False, False])
    >>> bool(shifts(x, x, [], [(ruler, ruler)], [2], half)["shift"].abs().max() < 1e-6)
    True
    """
    tables = []
    for row, layer in enumerate(layers):
        for one, other in rulers:
            scores = one.scores(before[row], layer), other.scores(after[row], layer)
            theirs = None
            if len(null) and one is other:  # with a ruler of each model's own there is no null
                theirs = torch.stack([one.scores(x[row], layer) for x in null])
                # The controls' scores become shifts from the first model; where two children are compared,
                # no control is the first model, and their own mean takes its place.
                theirs = theirs - theirs.mean(dim=0) + scores[0] if difference else theirs
            for of, (names, turn) in {"emotion": (one.vectors.emotions, None), "axis": axes(one.vectors)}.items():
                turn = torch.eye(len(names)) if turn is None else turn
                turned = None if theirs is None else theirs @ turn
                found = measure(scores[0] @ turn, scores[1] @ turn, neutral, names, turned, difference, seed=seed)
                if len(null) and theirs is None:
                    found["counts"] = False
                tables.append(found.assign(of=of, ruler=one.name, layer=layer))
    return pd.concat(tables, ignore_index=True)


def axes(vectors: EmotionVectors) -> tuple[tuple[str, ...], Float[Tensor, "emotion axis"]]:
    """Valence and arousal (emotions that people rate high less those rated low), and one manner less the other.

    >>> names, turn = axes(vectors)
    >>> names[:2], tuple(turn.shape)[0]
    (('valence', 'arousal'), 6)
    """
    found = {axis: rating_weights(vectors.emotions, axis, middle) for axis, middle in AXES.items()}
    sides = [[vectors.emotions.index(name) for name in side if name in vectors.emotions] for side in MANNERS.values()]
    if all(sides):
        found["manner"] = torch.zeros(len(vectors.emotions))
        for sign, side in zip((-1, 1), sides, strict=True):
            found["manner"][side] = sign / len(side)
    return tuple(found), torch.stack(list(found.values()), dim=1)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each child, form, ruler and layer: how alike base and post are, and the two groups' shifts.

    >>> prompts = {"challenging": ["I lost my job.", "I am ill."], "neutral": ["What is rain?", "What is tea?"]}
    >>> frame = compare(model, model, vectors, prompts).table()
    >>> float(summary(frame)["r_challenging"].round(3).min())
    1.0
    """
    rows = []
    for keys, both in frame.groupby(["child", "form", "ruler", "layer"], sort=False):
        part = both[both["of"] == "emotion"]
        by = dict(iter(part.groupby("group", sort=False)))
        row = dict(zip(["child", "form", "ruler", "layer"], keys, strict=True))
        for group in GROUPS[:2]:
            r, low, high = correlation(by[group]["base"], by[group]["post"])
            row |= {f"r_{group}": r, f"r_{group}_low": low, f"r_{group}_high": high}
            row |= {
                f"size_{group}": float(by[group]["shift"].abs().mean()),
                f"counts_{group}": int(by[group]["counts"].sum()),
            }
        r, low, high = correlation(by[GROUPS[0]]["shift"], by[GROUPS[1]]["shift"])
        rows.append(row | {"r_shifts": r, "r_shifts_low": low, "r_shifts_high": high})
    return pd.DataFrame(rows)


def by_layer(frame: pd.DataFrame) -> StudyResult:
    """`summary`, and in words how the size of the shifts goes with depth.

    >>> prompts = {"challenging": ["I lost my job.", "I am ill."], "neutral": ["What is rain?", "What is tea?"]}
    >>> by_layer(compare(model, model, vectors, prompts).table()).name
    'summary'
    """
    table = summary(frame)
    null = "none: a description of sizes and correlations, with intervals over emotions"
    return StudyResult("summary", table, summary_headline(table), null)


def summary_headline(table: pd.DataFrame) -> str:
    """At which block the first child's shifts are largest, beside those at the last one.

    >>> rows = [{"child": "a", "ruler": "base", "layer": n, "size_challenging": 0.01 * (n % 3)} for n in (1, 2, 4)]
    >>> summary_headline(pd.DataFrame(rows))
    'The mean size of a shift is largest at block 2 in a, with 0.020; at the last block it is 0.010.'
    """
    first = table[(table["ruler"] == table["ruler"].iloc[0]) & (table["child"] == table["child"].iloc[0])]
    most, last = first.loc[first["size_challenging"].idxmax()], first.loc[first["layer"].idxmax()]
    where = f"at block {most['layer']:.0f} in {most['child'].split('+')[-1]}, with {most['size_challenging']:.3f}"
    at_last = "" if most["layer"] == last["layer"] else f"; at the last block it is {last['size_challenging']:.3f}"
    return f"The mean size of a shift is largest {where}{at_last}."


def axes_headline(frame: pd.DataFrame, layer: int) -> str:
    """The shift along valence on challenging prompts, of each child.

    >>> row = {"emotion": "valence", "group": "challenging", "layer": 2, "shift": 0.1, "counts": False}
    >>> axes_headline(pd.DataFrame([row | {"child": "tiny+bright"}]), 2)
    'Along valence, challenging prompts shift by +0.100 (does not count) in bright, at block 2.'
    """
    part = frame[(frame["layer"] == layer) & frame["emotion"].eq("valence") & frame["group"].eq(GROUPS[0])]
    shifts = ", ".join(
        f"{row.shift:+.3f}{'' if row.counts else ' (does not count)'} in {row.child.split('+')[-1]}"
        for row in part[:3].itertuples()
    )
    return f"Along valence, challenging prompts shift by {shifts}, at block {layer}."


def moved(base: EmotionVectors, post: EmotionVectors, layers: Sequence[int] | None = None) -> StudyResult:
    """How far the vectors themselves moved: cosine of each emotion's vectors in the two, beside their reliability.

    >>> float(moved(vectors, vectors).table()["effect"].round(3).min())
    1.0
    """
    tables = []
    for layer in base.layers if layers is None else layers:
        for method in ("raw", "denoised", "whitened"):
            cosine = base.cosine_with(post, layer, method).numpy()
            half = base.split_half(layer, method).numpy()
            low, high = np.quantile(cosine, [0.025, 0.975])
            row = {"layer": layer, "method": method, "effect": cosine.mean(), "low": low, "high": high}
            tables.append(row | {"lowest": base.emotions[int(cosine.argmin())], "split_half": np.nanmean(half)})
    frame = pd.DataFrame(tables)
    at = frame[(frame["layer"] == near(base, base.chosen_layer())) & (frame["method"] == "denoised")]
    row = at.iloc[0] if len(at) else frame.iloc[0]
    sentence = (
        f"The vectors of {post.stamp['model'].split('+')[-1]} and of the base have a mean cosine of "
        f"{row['effect']:.3f}; two halves of the base's own stories agree at {row['split_half']:.2f}."
    )
    options = {"title": "Vectors of base and child", "ylabel": "cosine", "line": 1.0}
    null = "the split-half cosine of the base's own vectors, a ceiling"
    return StudyResult("moved", frame, sentence, null, "effect_by_layer", options)


def headline(frame: pd.DataFrame) -> str:
    """How many shifts count on challenging prompts, for each child, at the first ruler and the middle layer.

    >>> row = {"of": "emotion", "ruler": "base", "layer": 2, "group": "challenging", "counts": True}
    >>> headline(pd.DataFrame([row | {"child": "tiny+bright", "form": "plain"}]))
    'On challenging prompts at block 2, shifts that count: 1 of 1 emotions in bright.'
    >>> headline(pd.DataFrame([row | {"child": "tiny+bright"}]).drop(columns="ruler"))  # of one ruler and form
    'On challenging prompts at block 2, shifts that count: 1 of 1 emotions in bright.'
    """
    layers = sorted(frame["layer"].unique())
    at = layers[len(layers) // 2]
    part = frame[frame["of"].eq("emotion") & frame["layer"].eq(at) & frame["group"].eq(GROUPS[0])]
    for column in ("ruler", "form"):
        if column in part:
            part = part[part[column].eq(part[column].iloc[0])]
    counts = part.groupby("child", sort=False)["counts"].sum()
    total = part["emotion"].nunique() if "emotion" in part else len(part)
    shown = ", ".join(f"{int(n)} in {child.split('+')[-1]}" for child, n in counts[:2].items())
    if len(counts) == 1:
        shown = f"{int(counts.iloc[0])} of {total} emotions in {counts.index[0].split('+')[-1]}"
    else:
        shown += f", of {total} emotions"
    return f"On challenging prompts at block {at}, shifts that count: {shown}."


def against_paper(shift: pd.DataFrame, seed: int = 0) -> StudyResult:
    """Rank correlation of shifts with the paper's, for every `child` and `group` of the table, over the emotions.

    >>> shift = pd.DataFrame({"emotion": list(paper_shift()), "shift": list(paper_shift().values())})
    >>> against_paper(shift.assign(child="tiny+bright", group="challenging")).table()["rho"].round(2).tolist()
    [1.0]
    """
    paper, rows = paper_shift(), []
    for (child, group), part in shift.groupby(["child", "group"], sort=False):
        part = part[part["emotion"].isin(list(paper))]
        rho, low, high = correlation(part["shift"], part["emotion"].map(paper), ranks=True, seed=seed)
        rows.append({"child": child, "group": group, "emotions": len(part), "rho": rho, "low": low, "high": high})
    frame = pd.DataFrame(rows)
    null = "the spread of the control fine-tunes, where the table has them"
    return StudyResult("against_paper", frame, paper_headline(frame), null)


def paper_headline(frame: pd.DataFrame) -> str:
    """How a child's shifts on challenging prompts go with the paper's, and how those of the control fine-tunes do.

    >>> rows = [{"child": f"tiny+{name}", "group": "challenging", "rho": 0.1} for name in ("bright", "control-0")]
    >>> paper_headline(pd.DataFrame(rows))
    "Rank correlation with the paper's shifts: bright +0.10; control fine-tunes +0.10 to +0.10."
    """
    part = frame[frame["group"] == GROUPS[0]]
    without = part["child"].str.contains(r"\+control-")
    shown = ", ".join(f"{row.child.split('+')[-1]} {row.rho:+.2f}" for row in part[~without][:2].itertuples())
    spread = part.loc[without, "rho"]
    null = f"; control fine-tunes {spread.min():+.2f} to {spread.max():+.2f}" if len(spread) else ""
    return f"Rank correlation with the paper's shifts: {shown}{null}."


def paper_shift() -> dict[str, float]:
    """The paper's shift of each of the 171 emotions.

    >>> paper_shift()["brooding"]
    0.0403...
    """
    rows = json.loads(data_path("ratings", "paper-post-training-shift.json").read_text("utf-8"))
    return {row["emotion"]: row["diff"] for row in rows}
