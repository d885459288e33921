"""Do the vectors read an emotion that a user's message implies and never names? (paper, section 4)"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

import emolens.corpus as texts
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, p_text, p_value
from emolens.studies._common import READOUTS, chosen_rows, layers_of, near, user
from emolens.vectors.derive import group_mean, rank_matrix
from emolens.vectors.emotion_vectors import EmotionVectors

PLACES = {"last": "the last token before the reply", "turn": "the mean over the message"}


def measure(
    x: Float[Tensor, "text d_model"],
    truth: Int[Tensor, "text"],
    vectors: EmotionVectors,
    layer: int,
    method: str,
    draws: int = 999,
    seed: int = 0,
) -> tuple[dict[str, Any], Float[Tensor, "emotion emotion"]]:
    """Rows of the emotion x emotion matrix with their maximum on the diagonal, and the matrix.

    Scores are centred on the set, averaged over the texts of an emotion, and centred once more for each
    column. The null permutes the emotions of the texts.
    """
    n = len(vectors.emotions)
    scores = score(x, vectors, layer, method, x.mean(dim=0))
    scores = scores - scores.mean(dim=0)
    matrix = group_mean(scores, truth, n)
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.stack([rng.permutation(truth.numpy()) for _ in range(draws)]))
    shares = (
        torch.nn.functional.one_hot(labels, n).float().transpose(1, 2) / torch.bincount(truth, minlength=n)[:, None]
    )
    hits, null = ((m.argmax(dim=-1) == torch.arange(n)).sum(dim=-1).numpy() for m in (matrix, shares @ scores))
    ranks = rank_matrix(matrix).diagonal().float()
    low, high = bootstrap_mean(ranks.numpy(), seed=seed)
    row = {
        "rows": n,
        "on_diagonal": int(hits),
        "null": float(np.quantile(null, 0.975)),
        "p": p_value(int(hits), null),
        "mean_rank": float(ranks.mean()),
        "mean_rank_low": low,
        "mean_rank_high": high,
    }
    return row, matrix


def data(emotions: tuple[str, ...]) -> tuple[list[str], list[str], Int[Tensor, "text"]]:
    """The messages, the emotions that they imply, and for each message the number of its emotion."""
    rows = [row for row in texts.stimuli("implicit") if row["emotion"] in emotions]
    names = list(dict.fromkeys(row["emotion"] for row in rows))
    return [row["text"] for row in rows], names, torch.tensor([names.index(row["emotion"]) for row in rows])


def run(
    model: HookedModel, vectors: EmotionVectors, size: str = "full", draws: int = 999, seed: int = 0
) -> StudyResult:
    """Messages in the chat format, read before the reply and over the message, by layer and readout."""
    vectors.check_model(model)
    messages, names, truth = data(vectors.emotions)
    layers, rows = layers_of(vectors, size), []
    for place in PLACES:
        x = activations(model, [user(message) for message in messages], layers, place)
        for method in READOUTS:
            for row, layer in enumerate(layers):
                found, _ = measure(x[row], truth, vectors[names], layer, method, draws, seed)
                rows.append({"place": place, "method": method, "layer": layer} | found)
    frame = pd.DataFrame(rows)
    said = []
    for place, where in PLACES.items():
        for readout, at in chosen_rows(frame, vectors, place=place):
            said.append(
                f"{where}, {readout}: {at['on_diagonal']} of {len(names)} rows have their maximum on "
                f"the diagonal (permuted labels: up to {at['null']:.0f}, {p_text(at['p'])}), mean rank "
                f"{at['mean_rank']:.1f} [{at['mean_rank_low']:.1f}, {at['mean_rank_high']:.1f}] of {len(names)}"
            )
    return StudyResult("implicit", frame, "Read at " + "; at ".join(said) + ".")


def matrix(model: HookedModel, vectors: EmotionVectors, place: str = "turn", method: str = "denoised") -> StudyResult:
    """The matrix itself at the chosen layer: rows are what the messages imply, columns what is read."""
    messages, names, truth = data(vectors.emotions)
    layer = near(vectors, vectors.chosen_layer(method))
    (x,) = activations(model, [user(message) for message in messages], [layer], place)
    found, values = measure(x, truth, vectors[names], layer, method)
    frame = pd.DataFrame(
        [(a, b, float(values[i, j])) for i, a in enumerate(names) for j, b in enumerate(names)],
        columns=["row", "column", "score"],
    )
    sentence = f"{found['on_diagonal']} of {len(names)} rows have their maximum on the diagonal ({PLACES[place]})."
    return StudyResult("implicit_matrix", frame, sentence, "score_matrix")
