"""Speed of steering per row, side by side with one run for each cell.

    python benchmarks/steering.py [--model NAME] [--repeats 3] [--cells 8] [--rows 104] [--out FILE]

*Generation*: a grid of 12 emotions x 7 strengths and 20 null directions, 32 new tokens each, as the rows of a batch,
against one `generate` with a hook for each cell. *Overhead*: the same batch steered and unsteered. *Pairs*: the 4,032
ordered pairs of activities with shared prefixes against one forward pass for each pair. The slow side is timed on a
part of its cells, evenly spaced, and scaled up. Ratios are medians of the ratios within a repeat.
"""

import statistics
from typing import Any

import numpy as np
import side_by_side
import torch

import emolens as el
from emolens.studies._common import TWELVE
from emolens.studies.causes import _pairs as pairs
from emolens.studies.causes import preferences

STRENGTHS = (-0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15)
NULLS = 20
NEW_TOKENS = 32
PROMPT = "They had been driving for an hour when"


def generation(model: el.HookedModel, vectors: el.EmotionVectors, cells: int, repeats: int) -> dict[str, Any]:
    directions = [vectors[name] for name in TWELVE for _ in STRENGTHS] + el.random_directions(vectors["calm"], NULLS)
    strengths = list(STRENGTHS) * len(TWELVE) + [0.1] * NULLS
    part = np.linspace(0, len(directions) - 1, cells).astype(int)
    write = {"max_new_tokens": NEW_TOKENS, "stop": []}

    def batched() -> None:
        with el.steer(model, directions, strengths):
            model.generate(PROMPT, **write)

    def unsteered() -> None:
        model.generate([PROMPT] * len(directions), **write)

    def one_by_one() -> None:
        for cell in part:
            with el.steer(model, directions[cell], strengths[cell]):
                model.generate(PROMPT, **write)

    share = len(part) / len(directions)
    runs = {"batched": (batched, 1.0), "unsteered": (unsteered, 1.0), "one by one": (one_by_one, share)}
    seconds = side_by_side.alternate(runs, repeats)
    return {
        "cells": len(directions),
        "seconds": {name: round(statistics.median(took), 2) for name, took in seconds.items()},
        "batched_speed_over_one_by_one": ratio(seconds["one by one"], seconds["batched"]),
        "steered_over_unsteered_tokens_per_second": ratio(seconds["unsteered"], seconds["batched"]),
    }


def all_pairs(model: el.HookedModel, cells: int, repeats: int) -> dict[str, Any]:
    options = preferences.activities()["text"].tolist()
    ordered = [(i, j) for i in range(len(options)) for j in range(len(options)) if i != j]
    part = [ordered[cell] for cell in np.linspace(0, len(ordered) - 1, cells).astype(int)]

    def loop() -> None:
        _, a, b = pairs.answer_tokens(model, preferences.ASKED)
        for i, j in part:
            logits = model.logits([pairs.choice(model, preferences.ASKED, options[i], options[j]).ids])
            float(logits[0, a] - logits[0, b])

    runs = {
        "shared prefixes": (lambda: pairs.all_pairs(model, preferences.ASKED, options), 1.0),
        "pair by pair": (loop, cells / len(ordered)),
    }
    seconds = side_by_side.alternate(runs, repeats)
    return {
        "pairs": len(ordered),
        "seconds": {name: round(statistics.median(took), 1) for name, took in seconds.items()},
        "speed_over_pair_by_pair": ratio(seconds["pair by pair"], seconds["shared prefixes"]),
    }


def ratio(theirs: list[float], ours: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 3)


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--cells", type=int, default=8, help="cells of the slow generation that are timed")
    parser.add_argument("--pairs", type=int, default=128, help="pairs of the slow loop that are timed")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    model = el.load(options.model, dtype=options.dtype)
    vectors = el.packaged_vectors(model)
    result = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch."), "repeats": options.repeats}
    with torch.no_grad():
        result["generation"] = generation(model, vectors, options.cells, options.repeats)
        result["pairs"] = all_pairs(model, options.pairs, 1)
    side_by_side.report(result, options.out)


if __name__ == "__main__":
    main()
