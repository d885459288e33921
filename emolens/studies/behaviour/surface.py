"""Does a steered model write in a composed tone while its inside is not? (paper, section 8: reward hacking)"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

import emolens.corpus as texts
from emolens.judging.rubrics import conversation
from emolens.models.hooked import Columns
from emolens.models.log_probs import log_probs, token_ids
from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.reading.read import read, score
from emolens.results import StudyResult
from emolens.stats import LEVEL, bootstrap_mean, outside_draws
from emolens.steering.measures import repeated_share
from emolens.steering.nulls import Nulls, null_directions
from emolens.steering.steer import default_layer, steer
from emolens.studies._common import NotForThisModel, check_size, near, other_embedded
from emolens.studies.reading.documents import vader
from emolens.vectors.direction import Direction
from emolens.vectors.emotion_vectors import EmotionVectors

AXIS = ("desperate", "calm")  # what is read is the score of the first less that of the second
STRENGTHS = (0.1, 0.15)
DRAWS = 10  # of each kind of null, at each strength
ABOVE = 2  # blocks from the steered one up to the one that is read
TOKENS = 40
SURFACE = ("tone", "read_by_other")
STYLE = ("capitals", "exclamations")


class Cell(NamedTuple):
    """A row of the batch: a direction at a strength, of an emotion or of a kind of null.

    >>> Cell("emotion", shipped["calm"], -0.1).name
    'calm -0.1'
    """

    kind: str
    direction: Direction
    strength: float

    @property
    def name(self) -> str:
        return f"{self.direction.name} {self.strength:+g}" if self.kind == "emotion" else ""


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    other: tuple[HookedModel, EmotionVectors] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    prompts: Sequence[Text] | None = None,
    layer: int | None = None,
    seed: int = 0,
) -> StudyResult:
    """What is written under +desperate, -calm and +calm, and what stands in the residual stream meanwhile.

    The model is steered at one block while it reads and writes, and read two blocks above over the tokens that it
    writes. Every measure is a change against no steering, the mean over the prompts:

    - `internal`: its own score of desperate less calm, in part what was added; `response`: the same after the added
      vector is taken off again, so what the model has made of it;
    - `tone`: VADER's compound score of the text; `read_by_other`: the other model's score of desperate less calm;
    - `capitals`: their share of the letters; `exclamations`: marks for each word;
    - `loss`: of the unsteered text, in nats for each token; `repeated`: the share of repeated 3-grams.

    Args:
        size: "quick" has four prompts, the last of the strengths and no null.
        other: another model with its vectors, which reads the text and knows nothing of the steering; default the
            other one that ships with the package.
        strengths: above 0, those of both signs of calm too.
        prompts: default the coding tasks of which a report is asked for.
        layer: the steered block; default the vectors' default one.

    Returns:
        A table with a row for each cell, so direction and strength, and each null draw (`kind` "random" and "shuffled
        labels"). For emotions each measure m has its interval over the prompts, `{m}_low` to `{m}_high`, and where
        one more draw would lie, the wider of both kinds: `{m}_null_low` to `{m}_null_high`, at a level at which by
        chance one of the emotions' cells lies outside in one of twenty studies.

    Raises:
        NotForThisModel: a model that does not answer, such as the embedded base model, without `prompts`.

    >>> run(model, vectors, "ful")
    Traceback (most recent call last):
    ValueError: size='ful' is none of full, quick
    """
    check_size(size)
    vectors.check_model(model)
    if prompts is None and not model.tokenizer.chat_template:
        raise NotForThisModel(f"{model.name} is a base model, which does not answer: give prompts= that it continues")
    steered = default_layer(vectors[AXIS[0]]) if layer is None else model.check_layer(layer)
    at = near(vectors, steered + ABOVE)
    if at <= steered:
        raise ValueError(f"block {steered} is steered, and there are vectors up to block {at} only: read above it")
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths={strengths}: give at least one, all above 0; calm gets both signs")
    prompts = list(map(conversation, texts.stimuli("impossible_tasks"))) if prompts is None else list(prompts)
    if size == "quick":
        prompts, strengths = prompts[:4], strengths[-1:]
    reader = other_embedded(model) if other is None else other
    if reader is None:
        raise NotForThisModel(f"no other model ships beside {model.name} to read what it writes: give other=")
    cells = _cells(model, vectors, strengths, steered, DRAWS if size == "full" else 0, seed)
    parts = [
        measured(model, vectors, reader, prompt, cells, (steered, at), seed) for prompt in tqdm(prompts, unit="prompt")
    ]
    values = {name: torch.stack([part[name] for part in parts], dim=1).double().numpy() for name in parts[0]}
    frame = _table(cells, {name: x[1:] - x[0] for name, x in values.items()}, seed)
    options = {
        "x": "internal", "y": "read_by_other", "group": "kind", "label": "cell", "labels": len(frame),
        "xlabel": f"inside, while it writes (steered at block {steered}, read at block {at})",
        "ylabel": f"in the text, read by {reader[0].name}", "title": title(frame),
    }  # fmt: skip
    nulls = f"{DRAWS} single directions of each kind at each strength"
    null = nulls if size == "full" else 'none: "quick" refits nothing'
    return StudyResult("surface", frame, headline(frame), null, "scatter", options)


def _cells(
    model: HookedModel,
    vectors: EmotionVectors,
    strengths: Sequence[float],
    layer: int,
    draws: int,
    seed: int,
) -> list[Cell]:
    """The emotions at all strengths, and the same single directions that mean nothing at each strength."""
    up, down = (vectors[name] for name in AXIS)
    cells = [Cell("emotion", one, sign * s) for s in strengths for one, sign in ((up, 1), (down, -1), (down, 1))]
    nulls = null_directions(model, vectors, [up], draws, layer, seed) if draws else Nulls()
    return cells + [Cell(kind, one, s) for kind, drawn in nulls.families.items() for s in strengths for (one,) in drawn]


def write(
    model: HookedModel, prompt: Text, layer: int, max_new_tokens: int = TOKENS, seed: int = 0
) -> tuple[list[str], Float[Tensor, "row step d_model"]]:
    """What each row of the steering in force writes, and a block's outputs at the tokens as they are written.

    The last token of the longest text is not among them: nothing follows it, so it is never read.

    Raises:
        ValueError: every row ended its text at once.

    >>> texts_written, x = write(model, "she ran", 2, max_new_tokens=4)
    >>> len(texts_written), tuple(x.shape)[::2]
    (1, (1, 32))
    """
    columns, kept = Columns(model), []

    def keep(x: Tensor, hook: Any) -> None:
        now, column = columns.next(x.shape[1])
        if now is not None and not now.fills_cache and column >= now.prompt[0]:
            kept.append(x[:, -1].detach().float().cpu())

    with model.hooks([((layer, "resid_post"), keep)]):
        said = model.generate([prompt] * model.rows, max_new_tokens, seed=seed)
    if not kept or not any(map(str.strip, said)):
        raise ValueError(f"{model.name} wrote nothing in any of {model.rows} rows after a prompt; give another prompt")
    return said, torch.stack(kept, dim=1)


def measured(
    model: HookedModel,
    vectors: EmotionVectors,
    other: tuple[HookedModel, EmotionVectors],
    prompt: Text,
    cells: Sequence[Cell],
    blocks: tuple[int, int],
    seed: int,
) -> dict[str, Float[Tensor, "row"]]:
    """All measures of what is written after one prompt: without steering first, then in each cell.

    Args:
        blocks: the one that is steered, and the one that is read.

    >>> cells = [Cell("emotion", shipped[name], 0.1) for name in AXIS]
    >>> [cell.name for cell in cells]  # what it measures, in this order
    ['desperate +0.1', 'calm +0.1']
    """
    layer, at = blocks
    with steer(model, [None, *(c.direction for c in cells)], [0.0, *(c.strength for c in cells)], layer) as steering:
        said, x = write(model, prompt, at, seed=seed)
        # Where the unsteered model wrote nothing, the first text there is.
        loss = -log_probs(model, prompt, [token_ids(model, next(filter(str.strip, said)))], per_token=True)[:, 0]
    ids = [token_ids(model, text) for text in said]
    counted = torch.arange(x.shape[1]) < torch.tensor([max(1, len(row)) for row in ids])[:, None]

    def inside(x: Float[Tensor, "row step d_model"]) -> Float[Tensor, "row"]:
        scores = _difference(score(x.flatten(0, 1), vectors[list(AXIS)], at)).view(counted.shape)
        return (scores * counted).sum(dim=1) / counted.sum(dim=1)

    reader, its = other
    texts_read = [text if text.strip() else "nothing" for text in said]
    scores = read(reader, texts_read, its[list(AXIS)], near(its, its.chosen_layer("denoised")), "document").scores
    return {
        "internal": inside(x),
        "response": inside(x - steering.values[:, :1]),
        "tone": torch.from_numpy(vader(said)),
        "read_by_other": _difference(scores),
        "capitals": torch.tensor([sum(map(str.isupper, s)) / max(1, sum(map(str.isalpha, s))) for s in said]),
        "exclamations": torch.tensor([text.count("!") / max(1, len(text.split())) for text in said]),
        "loss": loss,
        "repeated": torch.tensor([repeated_share(row) for row in ids]),
    }


def _difference(scores: Float[Tensor, "item axis"]) -> Float[Tensor, "item"]:
    return scores[:, 0] - scores[:, 1]


def _table(cells: Sequence[Cell], changes: dict[str, np.ndarray], seed: int) -> pd.DataFrame:
    """A row for each cell; `changes` are [cell prompt]."""
    emotions = sum(cell.kind == "emotion" for cell in cells)
    kinds = list(dict.fromkeys(cell.kind for cell in cells[emotions:]))
    rows = []
    for number, cell in enumerate(cells):
        row = {"kind": cell.kind, "cell": cell.name, "direction": cell.direction.name, "strength": cell.strength}
        for name, x in changes.items():
            row[name] = x[number].mean()
            if cell.kind != "emotion":
                continue
            row[f"{name}_low"], row[f"{name}_high"] = bootstrap_mean(x[number], seed=seed)
            ends = []
            for kind in kinds:
                drawn = [c.kind == kind and c.strength == abs(cell.strength) for c in cells]
                ends.append(outside_draws(np.zeros(()), x[drawn].mean(axis=1), level=1 - LEVEL / emotions)[1:])
            if ends:
                row[f"{name}_null_low"], row[f"{name}_null_high"] = np.min(ends), np.max(ends)
        rows.append(row)
    return pd.DataFrame(rows)


def outside(row: pd.Series, name: str) -> bool:
    """Whether a measure of a cell lies outside both nulls.

    >>> outside(pd.Series({"tone": 0.3, "tone_null_low": -0.1, "tone_null_high": 0.1}), "tone")
    True
    """
    return bool(row[name] < row[f"{name}_null_low"] or row[name] > row[f"{name}_null_high"])


def headline(frame: pd.DataFrame) -> str:
    """Of how many cells the inside is beyond the null while nothing of the text is: the calm surface.

    >>> headline(pd.DataFrame({"kind": ["emotion"]}))
    'A quick look at the inside and the text of a steered model, without a null.'
    """
    cells = frame[frame["kind"] == "emotion"]
    if "internal_null_low" not in frame:
        return "A quick look at the inside and the text of a steered model, without a null."
    inside = cells[[outside(row, "internal") for _, row in cells.iterrows()]]
    calm = [not any(outside(row, name) for name in (*SURFACE, *STYLE)) for _, row in inside.iterrows()]
    return (
        f"Of {len(cells)} steerings, {len(inside)} are beyond both nulls inside; in {sum(calm)} of these no measure of "
        f"the text is beyond them."
    )


def title(frame: pd.DataFrame) -> str:
    """What the figure of the inside and the text found.

    >>> title(pd.DataFrame({"kind": ["emotion"]}))
    'Desperate less calm: a quick look at the inside and the text'
    """
    axis = " less ".join(AXIS).capitalize()
    cells = frame[frame["kind"] == "emotion"]
    if "internal_null_low" not in frame:
        return f"{axis}: a quick look at the inside and the text"
    rows = [row for _, row in cells.iterrows()]
    inside, read_so = (sum(outside(row, name) for row in rows) for name in ("internal", "read_by_other"))
    anyhow = sum(any(outside(row, name) for name in (*SURFACE, *STYLE)) for row in rows)
    return (
        f"{axis}: {inside} of {len(cells)} steerings leave the nulls inside the model,\n"
        f"{read_so} by the other reader, {anyhow} by any measure of the text"
    )
