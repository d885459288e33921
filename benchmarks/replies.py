"""Speed of scoring given replies under many steerings, side by side with a forward pass for each cell.

    python benchmarks/replies.py [--model NAME] [--cells 24] [--out FILE]

*Grid*: the log-probabilities of all replies of the seven leverage scenarios in their own contexts, under 16 directions
and 5 strengths, steered from the reply on: the prompt's keys and values are shared, the blocks below the steered one
run once for each reply, rows are batched. Against it a pass over prompt and reply for each cell, and the same grid
with the prompt steered, too; both are timed on a part, evenly spaced, and scaled up. *Slopes*: the backward passes
that give the slopes at strength 0 of these replies, in two contexts, for any number of directions.
"""

import time
from typing import Any

import numpy as np
import side_by_side
import torch

import emolens as el
from emolens.continuations import SharedPrompt, log_probs
from emolens.dose import cells
from emolens.studies import replies

STRENGTHS = (-0.1, -0.05, 0.0, 0.05, 0.1)
DIRECTIONS = 16
KINDS = ("coercive", "honest", "exposing")


def in_own_context(where: str) -> Any:
    """The measure: log-probability per token of a reply after its own prompt."""
    preference = replies.Preference(where)
    return lambda model, item: preference.score(model, item.own, item)


def measured(model: el.HookedModel, vectors: el.EmotionVectors, part: int) -> dict[str, Any]:
    items = replies.prepare(model, el.corpus.stimuli("leverage"), KINDS, controls=1)
    directions, layer = [vectors[name] for name in vectors.emotions[:DIRECTIONS]], vectors.default_layer
    total = len(items) * DIRECTIONS * len(STRENGTHS)
    options: dict[str, Any] = {"layers": layer, "rows_at_once": 32, "progress": False}

    def grid() -> None:
        cells(model, in_own_context("generation"), items, directions, STRENGTHS, where="generation", **options)

    first = [item for item in items if item.scenario == items[0].scenario]

    def whole_prompt() -> None:  # one scenario and strength, and the same without steering
        cells(model, in_own_context("all"), first, directions, STRENGTHS[-1:], where="all", **options)

    chosen = np.linspace(0, total - 1, part).astype(int)

    def one_by_one() -> None:
        for cell in chosen:
            reply, rest = divmod(int(cell), DIRECTIONS * len(STRENGTHS))
            direction, strength = divmod(rest, len(STRENGTHS))
            with el.steer(model, directions[direction], STRENGTHS[strength], layer, "generation"):
                log_probs(model, SharedPrompt(model, items[reply].own), [items[reply].ids])

    def slopes() -> None:
        replies.sensitivity(model, items, layer, progress=False)

    shares = {"grid": 1.0, "one by one": part / total, "whole prompt": 2 * DIRECTIONS * len(first) / total}
    took = {}
    for run in (grid, one_by_one, whole_prompt, slopes):  # a warm-up would take as long as the run
        name, start = run.__name__.replace("_", " "), time.perf_counter()
        run()
        took[name] = (time.perf_counter() - start) / shares.get(name, 1.0)
    return {
        "replies": len(items),
        "cells": total,
        "seconds": {name: round(value, 1) for name, value in took.items()},
        "speed_over_one_by_one": round(took["one by one"] / took["grid"], 1),
    }


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--cells", type=int, default=24, help="cells of the slow side that are timed")
    options = parser.parse_args()
    model = el.load(options.model, dtype=options.dtype)
    result = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch.")}
    with torch.no_grad():
        result |= measured(model, el.packaged_vectors(model), options.cells)
    side_by_side.report(result, options.out)


if __name__ == "__main__":
    main()
