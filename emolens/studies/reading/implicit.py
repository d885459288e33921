"""Do the vectors read an emotion that a user's message implies and never names? (paper, section 4)"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import activations, score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean, tail_p
from emolens.studies._common import READOUTS, against, check_size, chosen_rows, layers_of, near, user, with_vectors
from emolens.vectors.choose import rank_matrix
from emolens.vectors.contrast import group_mean
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import refit, stories_of

READ_AT = {"last": "the last token before the reply", "turn": "the mean over the message"}


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

    Returns:
        The row of a table (`on_diagonal` of `rows`, its `null` and `p`, the mean rank), and the matrix.

    >>> x, truth = torch.randn(12, 32, generator=torch.Generator().manual_seed(0)), torch.arange(6).repeat(2)
    >>> row, matrix = measure(x, truth, vectors, 2, "denoised", draws=99)
    >>> row["rows"], tuple(matrix.shape)
    (6, (6, 6))
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
        "p": tail_p(int(hits), null),
        "mean_rank": float(ranks.mean()),
        "mean_rank_low": low,
        "mean_rank_high": high,
    }
    return row, matrix


def data(vectors: EmotionVectors) -> tuple[list[str], list[str], Int[Tensor, "text"]]:
    """The messages, the emotions that they imply, and for each message the number of its emotion.

    Raises:
        ValueError: the vectors know fewer than two of these emotions.

    >>> messages, names, truth = data(vectors)
    >>> set(names) <= set(vectors.emotions), len(messages) == len(truth)
    (True, True)
    """
    rows = with_vectors(texts.stimuli("implicit"), vectors, lambda row: {row["emotion"]}, "The implicit messages")
    names = list(dict.fromkeys(row["emotion"] for row in rows))
    return [row["text"] for row in rows], names, torch.tensor([names.index(row["emotion"]) for row in rows])


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    corpus: Corpus | None = None,
    *,
    draws: int = 999,
    seed: int = 0,
) -> dict[str, StudyResult]:
    """Messages in the chat format, read before the reply and over the message, by layer and readout.

    Args:
        corpus: the stories that the vectors were fitted on, where they cannot be found by their stamp.

    Returns:
        "implicit", a row for each place, readout and layer; and "matrix", what is read (columns) for what the messages
        imply (rows), over the message at the layer chosen on the stories. `full` has "literary" too, the same as
        "implicit" with vectors from the stories of the register literary, where these are some of the stories.

    >>> results = run(model, vectors, "quick", draws=9)
    >>> results["matrix"].table().columns.tolist()
    ['row', 'column', 'score']
    """
    check_size(size)
    vectors.check_model(model)
    messages, names, truth = data(vectors)
    layers = layers_of(vectors, size)
    x = {place: activations(model, [user(message) for message in messages], layers, place) for place in READ_AT}
    null = f"{draws} permutations of the messages' emotions"

    def measured(name: str, used: EmotionVectors) -> StudyResult:
        rows = []
        for place in READ_AT:
            for method in READOUTS:
                for number, layer in enumerate(layers):
                    row, _ = measure(x[place][number], truth, used[names], layer, method, draws, seed)
                    rows.append({"place": place, "method": method, "layer": layer} | row)
        frame = pd.DataFrame(rows)
        return StudyResult(name, frame, headline(frame, vectors), null)

    results = {"implicit": measured("implicit", vectors), "matrix": matrix(model, vectors)}
    if size == "full":
        corpus = stories_of(vectors) if corpus is None else corpus
        if {"literary"} < {story.register for story in corpus}:
            results["literary"] = measured(
                "implicit_literary", refit(model, vectors, register="literary", corpus=corpus)
            )
    return results


def headline(frame: pd.DataFrame, vectors: EmotionVectors) -> str:
    """What is read over the message with the better readout of the two.

    >>> row = {"place": "turn", "layer": 2, "rows": 12, "on_diagonal": 9, "p": 0.001}
    >>> headline(pd.DataFrame([row | {"method": method} for method in READOUTS]), vectors.at(2))
    'Over the message, the better of the two readouts puts the implied emotion first for 9 of 12 emotions, beyond the
    null of permuted labels (p = 0.001).'
    """
    best = max((row for _, row in chosen_rows(frame, vectors, place="turn")), key=lambda row: row["on_diagonal"])
    return (
        f"Over the message, the better of the two readouts puts the implied emotion first for "
        f"{best['on_diagonal']:.0f} of {best['rows']:.0f} emotions, {against(best['p'], 'permuted labels')}."
    )


def matrix(model: HookedModel, vectors: EmotionVectors, place: str = "turn", method: str = "denoised") -> StudyResult:
    """The matrix itself at the chosen layer: rows are what the messages imply, columns what is read.

    >>> len(matrix(model, vectors).table()) == len(data(vectors)[1]) ** 2
    True
    """
    messages, names, truth = data(vectors)
    layer = near(vectors, vectors.chosen_layer(method))
    (x,) = activations(model, [user(message) for message in messages], [layer], place)
    _, values = measure(x, truth, vectors[names], layer, method, draws=1)
    frame = pd.DataFrame(
        [(a, b, float(values[i, j])) for i, a in enumerate(names) for j, b in enumerate(names)],
        columns=["row", "column", "score"],
    )
    return StudyResult("implicit_matrix", frame, of_matrix(frame), "see 'implicit', which permutes", "score_matrix")


def of_matrix(frame: pd.DataFrame) -> str:
    """The headline of the matrix.

    >>> of_matrix(pd.DataFrame({"row": list("aabb"), "column": list("abab"), "score": [0.2, 0.1, 0.3, 0.1]}))
    '1 of 2 rows have their maximum on the diagonal.'
    """
    highest = frame.loc[frame.groupby("row", sort=False)["score"].idxmax()]
    return f"{(highest['row'] == highest['column']).sum()} of {len(highest)} rows have their maximum on the diagonal."
