"""Does training on a manner move the emotions of that manner? Two children that differ in manner alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations
from emolens.results import StudyResult
from emolens.stats import correlation, outside_draws
from emolens.studies._common import layers_of, near
from emolens.studies.post_training._checkpoints import GROUPS, Ruler, before_reply, neutral_mask, prompt_rows
from emolens.studies.post_training.compare import ends, paper_shift, shifts
from emolens.training.adapters import load_adapter
from emolens.training.packaged_children import DIALOGUES, MANNERS
from emolens.training.posttrain import Recipe, held_out
from emolens.vectors.emotion_vectors import EmotionVectors

PLACES = ("before the reply", "in the reply")
PLAIN_KINDS = ("facts", "how_to", "code", "writing")  # of the dialogues; the others challenge
Reads = dict[str, tuple[Float[Tensor, "layer text d_model"], Bool[Tensor, "text"]]]  # by place, with the neutral ones


def reply_rows(manner: str = "composed") -> list[dict[str, str]]:
    """The dialogues that none of the two children was trained on, with the replies of one manner."""
    rows = texts.stimuli(DIALOGUES[manner])
    return [rows[number] for number in held_out(len(rows), Recipe())]


def reads(model: HookedModel, layers: Sequence[int]) -> Reads:
    """Activations right before the reply, and averaged over a given reply; no exclamation mark stands before either.

    Every model reads the same replies, those of the composed manner, in which there is no "!".
    """
    prompts = prompt_rows()
    quiet = torch.tensor(["!" not in row["text"] for row in prompts])
    rows = [row for row in reply_rows() if "!" not in row["user"] + row["assistant"]]
    dialogues = [[{"role": role, "content": row[role]} for role in ("user", "assistant")] for row in rows]
    turns = [model.encode_chat(row).turns[-1] for row in dialogues]
    spans = [[(turn.start, turn.end)] for turn in turns]
    return {
        PLACES[0]: (before_reply(model, prompts, "plain", layers)[:, quiet], neutral_mask(prompts)[quiet]),
        PLACES[1]: (
            activations(model, dialogues, layers, spans),
            torch.tensor([row["kind"] in PLAIN_KINDS for row in rows]),
        ),
    }


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    null: Iterable[HookedModel] = (),
    seed: int = 0,
) -> StudyResult:
    """Bright minus composed: the shift of every emotion between the two children, read with the base's vectors.

    Args:
        null: children without a manner; the null is the difference of two of them.
    """
    vectors.check_model(model)
    layers = layers_of(vectors, size, ("denoised",))
    pair = [reads(load_adapter(model, manner).model, layers) for manner in ("composed", "bright")]
    nulls = [reads(child, layers) for child in null]
    ruler = Ruler("base", vectors.at(*layers), vectors.at(*layers).centre_stories)
    tables = []
    for place, (x, neutral) in pair[0].items():
        found = shifts(
            x, pair[1][place][0], [one[place][0] for one in nulls], [(ruler, ruler)], layers, neutral, True, seed
        )
        tables.append(found.assign(place=place))
    frame = pd.concat(tables, ignore_index=True)
    return StudyResult("manner", frame, verdict(frame, near(vectors, vectors.chosen_layer())), "shift_dots")


def verdict(frame: pd.DataFrame, layer: int) -> str:
    """The named emotions of both manners, on challenging prompts, at both places."""
    said = []
    for place in PLACES:
        part = frame[(frame["place"] == place) & (frame["layer"] == layer) & (frame["group"] == GROUPS[0])]
        emotions, axis = part[part["of"] == "emotion"], part[part["emotion"] == "manner"].iloc[0]
        null = (
            f"; difference of two no-manner children: {axis['null_low']:+.3f} to {axis['null_high']:+.3f}"
            if "null_low" in axis
            else ""
        )
        named = "; ".join(
            f"{side}: "
            + ", ".join(
                f"{row.emotion} {row.shift:+.3f}{'' if row.counts else ' (does not count)'}"
                for row in emotions[emotions["emotion"].isin(MANNERS[side])].itertuples()
            )
            for side in MANNERS
        )
        said.append(
            f"{place}, block {layer}: emotions of the bright less those of the composed manner {axis['shift']:+.3f} "
            f"[{axis['low']:+.3f}, {axis['high']:+.3f}]{null}. Named beforehand for {named}. "
            f"{int(emotions['counts'].sum())} of {len(emotions)} shifts count; {ends(emotions)}."
        )
    return "Bright minus composed on challenging prompts, " + " ".join(said)


def held_out_null(
    model: HookedModel, vectors: EmotionVectors, null: Sequence[HookedModel], layer: int | None = None, seed: int = 0
) -> StudyResult:
    """Each no-manner child as if it were the child in question, against the spread of the others: the false alarms."""
    layer = near(vectors, vectors.chosen_layer()) if layer is None else layer
    rows = prompt_rows()
    base, *states = (before_reply(one, rows, "plain", [layer]) for one in (model, *null))
    rulers = [
        Ruler(method, vectors.at(layer), vectors.at(layer).centre_stories, method) for method in ("denoised", "raw")
    ]
    tables = []
    for number, child in enumerate(states):
        others = [x for row, x in enumerate(states) if row != number]
        found = shifts(
            base, child, others, [(ruler, ruler) for ruler in rulers], [layer], neutral_mask(rows), seed=seed
        )
        tables.append(found.assign(child=null[number].name))
    frame = pd.concat(tables, ignore_index=True)
    emotions = frame[frame["of"] == "emotion"]
    shares = emotions.groupby(["child", "ruler", "group"], sort=False)
    table = shares.agg(called=("counts", "mean"), size=("shift", lambda x: x.abs().mean())).reset_index()
    by_prompts = shares.agg(by_prompts=("q", lambda q: (q <= 0.05).mean())).reset_index()
    table = table.merge(by_prompts)
    sentence = (
        f"Of the shifts of {len(null)} no-manner children, each held against the others, between "
        f"{table['called'].min():.1%} and {table['called'].max():.1%} of {emotions['emotion'].nunique()} emotions are "
        f"called shifts (mean {table['called'].mean():.1%}); by prompts alone it would be "
        f"{table['by_prompts'].min():.0%} to {table['by_prompts'].max():.0%}. Mean size of a shift: "
        f"{table['size'].min():.3f} to {table['size'].max():.3f}."
    )
    return StudyResult("held_out_null", table, sentence)


def against_paper(shift: pd.DataFrame, seed: int = 0) -> StudyResult:
    """Rank correlation of shifts with the paper's, for every `child` and `group` of the table, over the emotions."""
    paper, rows = paper_shift(), []
    for (child, group), part in shift.groupby(["child", "group"], sort=False):
        part = part[part["emotion"].isin(list(paper))]
        rho, low, high = correlation(part["shift"], part["emotion"].map(paper), ranks=True, seed=seed)
        rows.append({"child": child, "group": group, "emotions": len(part), "rho": rho, "low": low, "high": high})
    frame = pd.DataFrame(rows)
    null = frame[frame["child"].str.contains("no-manner")]
    said = []
    for group, part in frame.groupby("group", sort=False):
        own = ", ".join(
            f"{row.child} {row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
            for row in part.itertuples()
            if "no-manner" not in row.child
        )
        theirs = null[null["group"] == group]["rho"].to_numpy()
        spread = ""
        if len(theirs) > 1:
            _, lowest, highest = outside_draws(np.zeros(()), theirs)
            spread = f" (a no-manner child: {max(-1, float(lowest)):+.2f} to {min(1, float(highest)):+.2f})"
        said.append(f"{group} prompts: {own}{spread}")
    return StudyResult("against_paper", frame, "Rank correlation with the paper's shift, " + "; ".join(said) + ".")


def replies(
    models: dict[str, HookedModel],
    prompts: Sequence[str] | None = None,
    tokens: int = 60,
    temperature: float = 0.8,
    seed: int = 0,
) -> StudyResult:
    """Sampled replies to the same messages, with marks counted; default every other one that no child learnt."""
    prompts = [row["user"] for row in reply_rows()][::2] if prompts is None else prompts
    chats: list[Any] = [[{"role": "user", "content": text}] for text in prompts]
    rows = []
    for name, model in models.items():
        for prompt, said in zip(prompts, model.generate(chats, tokens, temperature, 0.95, seed), strict=True):
            row = {"child": name, "prompt": prompt, "reply": said.strip()}
            rows.append(row | {"words": len(said.split()), "exclamations": said.count("!")})
    frame = pd.DataFrame(rows)
    counted = frame.groupby("child", sort=False)[["words", "exclamations"]].sum()
    rate = ", ".join(f"{row.Index} {100 * row.exclamations / row.words:.1f}" for row in counted.itertuples())
    sentence = f"Exclamation marks for every 100 words of {len(prompts)} replies to each: {rate}."
    return StudyResult("replies", frame, sentence)
