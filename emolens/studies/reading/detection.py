"""Which emotion a held-out text is read as: the rank of the right one among all (paper, section 4)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from emolens.corpus import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import score
from emolens.results import StudyResult
from emolens.stats import bootstrap_mean
from emolens.vectors.derive import READ_FROM_RANK, SHORT, group_mean, rank_matrix
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, check_method
from emolens.vectors.pooling import pool


def detect(
    model: HookedModel,
    vectors: EmotionVectors,
    corpus: Corpus,
    layers: Iterable[int] | None = None,
    methods: Sequence[str] = METHODS,
    centre: str = "set",
    draws: int = 99,
    seed: int = 0,
    progress: bool = True,
) -> StudyResult:
    """Rank of the right emotion among all on labelled texts, by layer and method.

    Each text is read as a document. The table has, for every layer and method, the share of texts whose
    emotion comes first and among the first five, bootstrap intervals over emotions, and the 97.5 %
    quantile of both shares when the labels are permuted over the texts.

    Args:
        layers: default all of the vectors.
        centre: "set" (the mean of these texts), "register" (the mean of each register's texts: a difference of
            style between the registers is taken off too), "stories" or "neutral".
    """
    vectors.check_model(model)
    truth = torch.tensor([vectors.index(story.emotion) for story in corpus])
    layers = list(vectors.layers if layers is None else layers)
    pooled = pool(model, corpus.texts, layers, (1, READ_FROM_RANK), progress=progress)
    if len(tiny := (pooled.counts < 2).nonzero()):
        story = corpus[int(tiny[0])]
        raise ValueError(f"text {int(tiny[0])} ({story.emotion}) is too short, a single token: {story.text!r}")
    short = pooled.counts < SHORT
    registers = list(dict.fromkeys(story.register for story in corpus))
    register = torch.tensor([registers.index(story.register) for story in corpus])
    rng, rows = np.random.default_rng(seed), []
    shuffles = torch.stack([truth[torch.from_numpy(rng.permutation(len(truth)))] for _ in range(draws)])
    for layer in layers:
        x = torch.where(short[:, None], pooled.means(1, layer), pooled.means(READ_FROM_RANK, layer))
        fixed: Any = centre
        if centre == "set":
            fixed = x.mean(dim=0)
        elif centre == "register":
            x, fixed = x - group_mean(x, register, len(registers))[register], torch.zeros(model.d_model)
        for method in methods:
            ranked = rank_matrix(score(x, vectors, layer, method, fixed))
            ranks = ranked.gather(1, truth[:, None])[:, 0]
            null = ranked.gather(1, shuffles.T)
            row: dict[str, Any] = {
                "layer": layer,
                "method": check_method(method),
                "centre": centre,
                "texts": len(truth),
            }
            for name, k in (("first", 1), ("first_five", 5)):
                hit = (ranks <= k).float().numpy()
                low, high = bootstrap_mean(hit, groups=truth.numpy(), seed=seed)
                row |= {name: float(hit.mean()), f"{name}_low": low, f"{name}_high": high}
                row[f"{name}_null"] = float((null <= k).float().mean(dim=0).quantile(0.975))
            rows.append(row | {"mean_rank": float(ranks.float().mean())})
    frame = pd.DataFrame(rows)
    marked = {method: vectors.chosen_layer(method) for method in METHODS} if "chosen" in vectors.stamp else {}
    sentence = _detection_verdict(frame, marked, len(vectors.emotions))
    options = {"chance": 1 / len(vectors.emotions), "chosen": marked.get("whitened")}
    return StudyResult("detection", frame, sentence, "layer_sweep", options)


def _detection_verdict(frame: pd.DataFrame, marked: dict[str, int], n_emotions: int) -> str:
    """One clause for each method, at the layer that was chosen on the stories where it is among those looked at."""
    said = []
    for method, part in frame.groupby("method", sort=False):
        at = part[part["layer"] == marked.get(str(method))]
        row = (at if len(at) else part).iloc[0 if len(at) else len(part) // 2]
        said.append(
            f"{method} at block {int(row['layer'])}: right emotion first for {row['first']:.0%} "
            f"[{row['first_low']:.0%}, {row['first_high']:.0%}] and in the first five for {row['first_five']:.0%} "
            f"[{row['first_five_low']:.0%}, {row['first_five_high']:.0%}] of the texts (permuted labels: at most "
            f"{row['first_null']:.1%} and {row['first_five_null']:.1%})"
        )
    texts = int(frame["texts"].iloc[0])
    return (
        f"Among {n_emotions} emotions on {texts} texts (chance {1 / n_emotions:.1%} and {5 / n_emotions:.1%}), "
        f"centred on {frame['centre'].iloc[0]!r}: " + "; ".join(said) + "."
    )
