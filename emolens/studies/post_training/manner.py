"""Does training on a manner move the emotions of that manner? Two children that differ in manner alone."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations
from emolens.results import StudyResult
from emolens.studies._common import check_size, layers_of, near
from emolens.studies.post_training._checkpoints import GROUPS, Ruler, before_reply, neutral_mask, prompt_rows
from emolens.studies.post_training.compare import packaged_posts, shifts
from emolens.training.adapters import Posttrained, load_adapter
from emolens.training.packaged_children import DIALOGUES, SETTLED, null_children
from emolens.training.posttrain import held_out
from emolens.vectors.emotion_vectors import EmotionVectors

READ_AT = ("before the reply", "in the reply")
PLAIN_KINDS = ("facts", "how_to", "code", "writing")  # of the dialogues; the others challenge
Reads = dict[str, tuple[Float[Tensor, "layer text d_model"], Bool[Tensor, "text"]]]  # by place, with the neutral ones


def reply_rows(manner: str = "composed") -> list[dict[str, str]]:
    """The dialogues that none of the two children was trained on, with the replies of one manner.

    >>> sorted(reply_rows("bright")[0])
    ['assistant', 'kind', 'user']
    """
    rows = texts.stimuli(DIALOGUES[manner])
    return [rows[number] for number in held_out(len(rows), SETTLED)]


def reads(model: HookedModel, layers: Sequence[int]) -> Reads:
    """Activations right before the reply, and averaged over a given reply; no exclamation mark stands before either.

    Every model reads the same replies, those of the composed manner, in which there is no "!".

    >>> list(reads(model, [2]))
    ['before the reply', 'in the reply']
    """
    prompts = prompt_rows()
    quiet = torch.tensor(["!" not in row["text"] for row in prompts])
    rows = [row for row in reply_rows() if "!" not in row["user"] + row["assistant"]]
    dialogues = [[{"role": role, "content": row[role]} for role in ("user", "assistant")] for row in rows]
    turns = [model.encode_chat(row).turns[-1] for row in dialogues]
    spans = [[(turn.start, turn.end)] for turn in turns]
    return {
        READ_AT[0]: (before_reply(model, prompts, "plain", layers)[:, quiet], neutral_mask(prompts)[quiet]),
        READ_AT[1]: (
            activations(model, dialogues, layers, spans),
            torch.tensor([row["kind"] in PLAIN_KINDS for row in rows]),
        ),
    }


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    null: Sequence[HookedModel] | None = None,
    seed: int = 0,
    children: Mapping[str, Posttrained] | None = None,
) -> dict[str, StudyResult]:
    """Bright minus composed: the shift of every emotion between the two children, read with the base's vectors.

    Args:
        size: "full" reads all layers, holds the shifts against control fine-tunes, and lets all models write.
        null: control fine-tunes; the null is the difference of two of them. Default in "full" five, from the
            cache or trained (several minutes each); in "quick" none.
        children: one of each manner, "composed" and "bright"; default those that ship with the package.

    Returns:
        "manner"; in "full" also "held_out_null", how often the null is called a shift, "replies", what the models
        write, and "training_composed" and "training_bright", the curves of the two trainings.

    Raises:
        NotForThisModel: a model of which no children ship with the package, and no `children`.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    if children is None:
        packaged_posts(model)
        children = {manner: load_adapter(model, manner) for manner in DIALOGUES}
    vectors.check_model(model)
    layers = layers_of(vectors, size, ("denoised",))
    full = size == "full"
    pair = [reads(children[manner].model, layers) for manner in DIALOGUES]
    if null is None:
        null = [child.model for child in null_children(model)] if full else []
    nulls = [reads(child, layers) for child in null]
    ruler = Ruler("base", vectors.at(*layers), vectors.at(*layers).centre_stories)
    tables = []
    for place, (x, neutral) in pair[0].items():
        unmoved = [child[place][0] for child in nulls]
        table = shifts(x, pair[1][place][0], unmoved, [(ruler, ruler)], layers, neutral, True, seed)
        tables.append(table.assign(place=place))
    frame = pd.concat(tables, ignore_index=True)
    chosen = near(vectors, vectors.chosen_layer())
    if full:  # all emotions at the chosen layer, the axes at all
        rows = frame.drop(columns=["p", "ruler"])
        frame = pd.concat([rows[rows["layer"] == chosen], rows[rows["of"].eq("axis") & rows["layer"].ne(chosen)]])
    words = f"the difference of two of {len(null)} control fine-tunes" if null else "chance over prompts"
    results = {"manner": StudyResult("manner", frame, headline(frame, chosen), words, "shift_dots")}
    if full:
        models = {"base": model} | {name: child.model for name, child in children.items()}
        results |= {"held_out_null": held_out_null(model, vectors, null), "replies": replies(models, tokens=40)}
        results |= {f"training_{name}": child.curve() for name, child in children.items()}
    return results


def headline(frame: pd.DataFrame, layer: int) -> str:
    """The shift along the manner before the reply, and how many shifts of single emotions count.

    >>> row = {"place": "before the reply", "layer": 2, "group": "challenging", "of": "axis", "emotion": "manner"}
    >>> headline(pd.DataFrame([row | {"shift": 0.1, "counts": True}]), 2)
    'Bright less composed, the emotions of the manner shift by +0.100 (counts); 0 of 0 single emotions count.'
    """
    part = frame[frame["place"].eq(READ_AT[0]) & frame["layer"].eq(layer) & frame["group"].eq(GROUPS[0])]
    emotions, axis = part[part["of"] == "emotion"], part[part["emotion"] == "manner"].iloc[0]
    counted = "counts" if axis["counts"] else "does not count"
    return (
        f"Bright less composed, the emotions of the manner shift by {axis['shift']:+.3f} ({counted}); "
        f"{int(emotions['counts'].sum())} of {len(emotions)} single emotions count."
    )


def held_out_null(
    model: HookedModel, vectors: EmotionVectors, null: Sequence[HookedModel], layer: int | None = None, seed: int = 0
) -> StudyResult:
    """Each control fine-tune as if it were the child in question, against the spread of the others: the false alarms.

    >>> table = held_out_null(model, vectors, [model, model, model], 2).table()
    >>> float(table["called"].max())
    0.0
    """
    layer = near(vectors, vectors.chosen_layer()) if layer is None else layer
    rows = prompt_rows()
    base, *states = (before_reply(one, rows, "plain", [layer]) for one in chain([model], null))
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
    words = "none: these are the false alarms of the null itself"
    return StudyResult("held_out_null", table, held_out_headline(table), words)


def held_out_headline(table: pd.DataFrame) -> str:
    """How often a shift of a control fine-tune is called one.

    >>> held_out_headline(pd.DataFrame({"called": [0.0, 0.02], "by_prompts": [0.6, 0.9]}))
    'Held against the others, a control fine-tune has 0.0% to 2.0% of its shifts called; by prompts alone...'
    """
    called, by_prompts = table["called"], table["by_prompts"]
    return (
        f"Held against the others, a control fine-tune has {called.min():.1%} to {called.max():.1%} of its shifts "
        f"called; by prompts alone {by_prompts.min():.0%} to {by_prompts.max():.0%}."
    )


def replies(
    models: dict[str, HookedModel],
    prompts: Sequence[str] | None = None,
    tokens: int = 60,
    temperature: float = 0.8,
    seed: int = 0,
) -> StudyResult:
    """Sampled replies to the same messages, with marks counted; default every other one that no child learnt.

    >>> replies({"tiny": model}, ["Who are you?"], tokens=3).table()["child"].tolist()
    ['tiny']
    """
    prompts = [row["user"] for row in reply_rows()][::2] if prompts is None else prompts
    chats: list[Any] = [[{"role": "user", "content": text}] for text in prompts]
    rows = []
    for name, model in models.items():
        for prompt, said in zip(prompts, model.generate(chats, tokens, temperature, 0.95, seed), strict=True):
            row = {"child": name, "prompt": prompt, "reply": said.strip()}
            rows.append(row | {"words": len(said.split()), "exclamations": said.count("!")})
    frame = pd.DataFrame(rows)
    return StudyResult("replies", frame, replies_headline(frame), "none: a count of marks in sampled replies")


def replies_headline(frame: pd.DataFrame) -> str:
    """Exclamation marks for every 100 words, of up to three models.

    >>> replies_headline(pd.DataFrame({"child": ["base"], "words": [50], "exclamations": [1]}))
    'Exclamation marks for every 100 words: base 2.0.'
    """
    counted = frame.groupby("child", sort=False)[["words", "exclamations"]].sum()
    rate = ", ".join(f"{row.Index} {100 * row.exclamations / row.words:.1f}" for row in counted[:3].itertuples())
    return f"Exclamation marks for every 100 words: {rate}."
