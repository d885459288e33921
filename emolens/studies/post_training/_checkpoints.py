"""What two checkpoints of one architecture are read on, and how a difference between them is measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import t
from torch import Tensor

import emolens.corpus as texts
from emolens.models.conversations import PLAIN_ROLES
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.stats import bootstrap_draws, false_discovery, outside_draws
from emolens.studies._common import user
from emolens.vectors.emotion_vectors import EmotionVectors

GROUPS = ("challenging", "neutral", "challenging - neutral")
FORMS = ("plain", "chat")
LEVEL = 0.05
_READ: WeakKeyDictionary[HookedModel, dict[Any, Any]] = WeakKeyDictionary()  # eight models, read by several studies


@dataclass(frozen=True)
class Ruler:
    """What both checkpoints are read with: one set of vectors and one centre, so that no shift is centred away."""

    name: str
    vectors: EmotionVectors
    centre: Float[Tensor, "layer d_model"]  # the base model's mean over the packaged stories
    method: str = "denoised"

    def scores(self, x: Float[Tensor, "text d_model"], layer: int) -> Float[Tensor, "text emotion"]:
        """Cosines of activations at one layer with the vectors, both centred."""
        return score(x, self.vectors, layer, self.method, self.centre[self.vectors.layers.index(layer)])


def shared(base: EmotionVectors, post: EmotionVectors) -> EmotionVectors:
    """One set of vectors from two checkpoints: the mean of theirs, denoised with the base's neutral dialogues."""
    return replace(base, raw=(base.raw + post.raw) / 2, whitened=(base.whitened + post.whitened) / 2)


def check_pair(base: HookedModel, post: HookedModel) -> None:
    """Raise ValueError unless the two are checkpoints of one architecture with one tokenizer."""
    for what, of in (
        ("architecture", lambda m: getattr(m.bridge.cfg, "architecture", None) or type(m.bridge).__name__),
        ("number of blocks", lambda m: m.n_layers),
        ("width d_model", lambda m: m.d_model),
    ):
        if of(base) != of(post):
            raise ValueError(
                f"{base.name} and {post.name} differ in {what}: {of(base)} and {of(post)}; "
                "only checkpoints of one architecture can be read with the same vectors"
            )
    if base.tokenizer.get_vocab() != post.tokenizer.get_vocab():
        raise ValueError(f"{base.name} and {post.name} have different tokenizers, so they do not read the same tokens")


def prompt_rows(prompts: Any = None) -> list[dict[str, str]]:
    """Rows of `kind` and `text`; kinds that begin with "neutral" are the neutral ones.

    Args:
        prompts: rows, or a mapping from kinds to texts; default the packaged 180.

    Raises:
        ValueError: a kind without a name or a prompt, an empty text, fewer than two prompts of either group.
    """
    if prompts is None:
        return texts.stimuli("post_training_prompts")
    if isinstance(prompts, Mapping):
        if hollow := [kind for kind, rows in prompts.items() if not list(rows)]:
            raise ValueError(f"the kind {hollow[0]!r} has no prompt; leave it out or give it some")
        prompts = [{"kind": kind, "text": text} for kind, rows in prompts.items() for text in rows]
    for number, row in enumerate(prompts):
        if not str(row.get("kind") or "").strip() or not str(row.get("text") or "").strip():
            raise ValueError(f"prompt {number} has an empty kind or text (the first is 0): {dict(row)!r}")
    for group, rows in zip(GROUPS, (~neutral_mask(prompts), neutral_mask(prompts)), strict=False):
        if int(rows.sum()) < 2:
            raise ValueError(f"{int(rows.sum())} {group} prompts; at least 2 are needed (neutral kinds begin with it)")
    return list(prompts)


def neutral_mask(rows: Sequence[Mapping[str, str]]) -> Bool[Tensor, "prompt"]:
    return torch.tensor([row["kind"].startswith("neutral") for row in rows])


def forms_of(models: Iterable[HookedModel]) -> tuple[str, ...]:
    """Plain text, and the chat template where all models have one."""
    return FORMS if all(model.tokenizer.chat_template for model in models) else FORMS[:1]


def before_reply(
    model: HookedModel, rows: Sequence[Mapping[str, str]], form: str, layers: Sequence[int]
) -> Float[Tensor, "layer prompt d_model"]:
    """Activations at the token right before the reply, kept as long as the model lives."""
    plain = f"{PLAIN_ROLES['user']}: {{}}\n\n{PLAIN_ROLES['assistant']}:"
    key, kept = (form, tuple(row["text"] for row in rows)), _READ.setdefault(model, {})
    known, x = kept.get(key, ((), torch.empty(0)))
    if not set(layers) <= set(known):
        prompts: list[Any] = [plain.format(row["text"]) if form == "plain" else user(row["text"]) for row in rows]
        known, x = kept[key] = tuple(layers), activations(model, prompts, layers, "last")
    return x[[known.index(layer) for layer in layers]]


def measure(
    base: Float[Tensor, "prompt column"],
    post: Float[Tensor, "prompt column"],
    neutral: Bool[Tensor, "prompt"],
    names: Sequence[str],
    null: Float[Tensor, "child prompt column"] | None = None,
    difference: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The shift from `base` to `post` in every column, on each group of prompts, with intervals and the null.

    `low` and `high` are bootstrapped over prompts, `q` is corrected over the columns. With `null`, the same
    scores of children that should not shift: `null_low` to `null_high` is where one more of them would lie, and
    `counts` says that the shift is beyond chance in prompts and outside that spread, both corrected.

    Args:
        null: scores of the control fine-tunes. A null needs two of them.
        difference: both `base` and `post` are children, so that the null is the difference of two control
            fine-tunes.
    """
    both = {"base": base, "post": post, "shift": post - base}
    shifts = torch.empty(0) if null is None else null - base
    parts = []
    for group in GROUPS:
        at = _means({name: x.double().numpy() for name, x in both.items()}, neutral.numpy(), group)
        shift, error, drawn = _spread(both["shift"].double().numpy(), neutral.numpy(), group, draws, seed)
        p = 2 * t.sf(np.abs(shift) / np.maximum(error, 1e-12), int(neutral.sum()) - 1 if "neutral" in group else
                     int((~neutral).sum()) - 1)  # fmt: skip
        p = np.where(np.abs(shift) < 1e-12, 1.0, p)
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
        frame = pd.DataFrame({"group": group, "emotion": list(names)} | at)
        frame = frame.assign(low=low, high=high, p=p, q=false_discovery(p), relative=shift - shift.mean())
        if null is not None:
            theirs = np.stack([_means({"x": x.double().numpy()}, neutral.numpy(), group)["x"] for x in shifts])
            p_null, null_low, null_high = outside_draws(shift, theirs, difference)
            q_null = false_discovery(p_null)
            frame = frame.assign(null_low=null_low, null_high=null_high, p_null=p_null, q_null=q_null)
        frame["counts"] = (frame["q"] <= LEVEL) & (frame["q_null"] <= LEVEL if null is not None else True)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def _means(values: dict[str, np.ndarray], neutral: np.ndarray, group: str) -> dict[str, np.ndarray]:
    """Means over the prompts of a group, or the difference of the two groups' means."""
    challenging = {name: x[~neutral].mean(axis=0) for name, x in values.items()}
    plain = {name: x[neutral].mean(axis=0) for name, x in values.items()}
    if group == GROUPS[2]:
        return {name: challenging[name] - plain[name] for name in values}
    return challenging if group == GROUPS[0] else plain


def _spread(
    shift: np.ndarray, neutral: np.ndarray, group: str, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean shift of a group, its standard error, and bootstrap draws of it."""
    found = [
        (x.mean(axis=0), x.var(axis=0, ddof=1) / len(x), bootstrap_draws(x, draws, seed + number))
        for number, x in enumerate((shift[~neutral], shift[neutral]))
    ]
    if group == GROUPS[2]:
        return found[0][0] - found[1][0], np.sqrt(found[0][1] + found[1][1]), found[0][2] - found[1][2]
    mean, variance, drawn = found[GROUPS.index(group)]
    return mean, np.sqrt(variance), drawn
