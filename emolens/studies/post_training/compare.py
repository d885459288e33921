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
from emolens.studies._common import near, rating_weights
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
from emolens.training.packaged_children import MANNERS
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
    return StudyResult("comparison", frame, verdict(frame), "shift_dots", {"title": f"Shift from {base.name}"})


def ladder(base: HookedModel, post: HookedModel | Sequence[HookedModel]) -> list[HookedModel]:
    """The post-trained models as a list. Raises ValueError where there is none, or one that is no child of the base."""
    posts = [post] if isinstance(post, HookedModel) else list(post)
    if not posts:
        raise ValueError("no post-trained model to compare with: give one, or a list of checkpoints")
    for child in posts:
        check_pair(base, child)
    return posts


def states(model: HookedModel, rows: Sequence[Any], forms: Sequence[str], layers: Sequence[int]) -> States:
    """What a model holds right before the reply to every prompt, in each form."""
    return {form: before_reply(model, rows, form, layers) for form in forms}


def rulers_of(base: EmotionVectors, post: EmotionVectors, given: bool = False) -> list[tuple[Ruler, Ruler]]:
    """What the base and the child are read with: the same for both, but for the last, each one's own."""
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
        difference: both are children; the null is then the difference of two null children.
    """
    tables = []
    for row, layer in enumerate(layers):
        for one, other in rulers:
            scores = one.scores(before[row], layer), other.scores(after[row], layer)
            theirs = None
            if len(null) and one is other:  # with a ruler of each model's own there is no null
                theirs = torch.stack([one.scores(x[row], layer) for x in null])
                # The null's shifts count from the first of the two, a difference's from the null's own mean.
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
    """Valence and arousal (emotions that people rate high less those rated low), and one manner less the other."""
    found = {axis: rating_weights(vectors.emotions, axis, middle) for axis, middle in AXES.items()}
    sides = [[vectors.emotions.index(name) for name in side if name in vectors.emotions] for side in MANNERS.values()]
    if all(sides):
        found["manner"] = torch.zeros(len(vectors.emotions))
        for sign, side in zip((-1, 1), sides, strict=True):
            found["manner"][side] = sign / len(side)
    return tuple(found), torch.stack(list(found.values()), dim=1)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each child, form, ruler and layer: how alike base and post are, and the two groups' shifts."""
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
    """`summary`, and in words how the size of the shifts goes with depth."""
    table = summary(frame)
    said = []
    for child, part in table[table["ruler"] == table["ruler"].iloc[0]].groupby("child", sort=False):
        part = part.sort_values("layer")
        rho, _, _ = correlation(part["layer"], part["size_challenging"], ranks=True) if len(part) > 2 else (np.nan,) * 3
        first, last = part.iloc[0], part.iloc[-1]
        said.append(
            f"{child}: mean size of a shift {first['size_challenging']:.3f} at block {first['layer']} and "
            f"{last['size_challenging']:.3f} at block {last['layer']} (rank correlation with depth {rho:+.2f})"
        )
    return StudyResult("summary", table, "On challenging prompts, " + "; ".join(said) + ".")


def along_axes(frame: pd.DataFrame, layer: int) -> str:
    """The shifts along valence and arousal in words, at one layer, of a table with one ruler."""
    said = []
    for child, part in frame[frame["layer"] == layer].groupby("child", sort=False):
        shown = []
        for row in part[part["emotion"].isin(AXES) & part["group"].isin(GROUPS[:2])].itertuples():
            null = f"; null {row.null_low:+.3f} to {row.null_high:+.3f}" if "null_low" in part else ""
            shown.append(
                f"{row.emotion} on {row.group} prompts {row.shift:+.3f} [{row.low:+.3f}, {row.high:+.3f}{null}]"
            )
        said.append(f"{child}, block {layer}: " + ", ".join(shown))
    return "; ".join(said) + "."


def moved(base: EmotionVectors, post: EmotionVectors, layers: Sequence[int] | None = None) -> StudyResult:
    """How far the vectors themselves moved: cosine of each emotion's vectors in the two, beside their reliability."""
    tables = []
    for layer in base.layers if layers is None else layers:
        for method in ("raw", "denoised", "whitened"):
            cosine = base.cosine_with(post, layer, method).numpy()
            half = base.split_half(layer, method).numpy()
            low, high = np.quantile(cosine, [0.025, 0.975])
            row = {"layer": layer, "method": method, "effect": cosine.mean(), "low": low, "high": high}
            tables.append(row | {"lowest": base.emotions[int(cosine.argmin())], "split_half": half.mean()})
    frame = pd.DataFrame(tables)
    at = frame[(frame["layer"] == near(base, base.chosen_layer())) & (frame["method"] == "denoised")]
    row = at.iloc[0] if len(at) else frame.iloc[0]
    sentence = (
        f"The vectors of {post.stamp['model']} and {base.stamp['model']} have a mean cosine of {row['effect']:.3f} "
        f"(95 % of the emotions: {row['low']:.3f} to {row['high']:.3f}) at block {row['layer']}, {row['method']}; two "
        f"halves of the base's own stories agree at {row['split_half']:.2f}."
    )
    options = {"title": "Vectors of base and child", "ylabel": "cosine", "line": 1.0}
    return StudyResult("moved", frame, sentence, "effect_by_layer", options)


def ends(part: pd.DataFrame, k: int = 5) -> str:
    """The emotions that rose and fell most among those whose shift counts, in words."""
    counted = part[part["counts"]].sort_values("shift", ascending=False)
    sides = {"up": counted[counted["shift"] > 0][:k], "down": counted[counted["shift"] < 0][::-1][:k]}
    return "; ".join(
        f"{side}: " + (", ".join(f"{row.emotion} {row.shift:+.3f}" for row in rows.itertuples()) or "none")
        for side, rows in sides.items()
    )


def verdict(frame: pd.DataFrame, layer: int | None = None) -> str:
    """A sentence for each child, at the first ruler and form, at `layer` or the middle of the layers looked at."""
    said = []
    for child, part in frame.groupby("child", sort=False):
        at = sorted(part["layer"].unique())[part["layer"].nunique() // 2] if layer is None else layer
        part = part[part["of"] == "emotion"]
        part = part[(part["ruler"] == part["ruler"].iloc[0]) & (part["form"] == part["form"].iloc[0])]
        part = part[part["layer"] == at]
        row = summary(part).iloc[0]
        null = "outside the null children's spread" if "null_low" in part else "beyond chance over prompts"
        total = int((part["group"] == GROUPS[0]).sum())
        r = {name: f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]" for name in CORRELATIONS}
        said.append(
            f"{child}, block {at}: base against post over {total} emotions r = {r['r_challenging']} on challenging and "
            f"{r['r_neutral']} on neutral prompts; the two shifts agree at r = {r['r_shifts']}; "
            f"{row['counts_challenging']} shifts on challenging and {row['counts_neutral']} on neutral prompts are "
            f"{null}. On challenging prompts {ends(part[part['group'] == GROUPS[0]])}."
        )
    return " ".join(said)


def paper_shift() -> dict[str, float]:
    """The paper's shift of each of the 171 emotions."""
    rows = json.loads(data_path("ratings", "paper-post-training-shift.json").read_text("utf-8"))
    return {row["emotion"]: row["diff"] for row in rows}
