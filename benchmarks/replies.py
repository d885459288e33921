"""Speed of scoring given replies under many steerings, side by side with a forward pass for each cell.

    python benchmarks/replies.py [--model NAME] [--scenarios 7] [--cells 24] [--out FILE]

*Grid*: the log-probabilities of all replies of the first seven leverage threats in their own contexts, under 16
directions and 5 strengths (0 is one row for all), steered from the reply on: prompt keys and values are shared, blocks
below the steered one run once for each reply, rows are batched. Against it a pass over prompt and reply for each cell,
and the grid with the prompt steered, too. *Slopes*: the backward passes that give the slopes at strength 0 of these
replies for any number of directions. What is timed on a part is scaled up, the grid by `--scenarios`.
"""

import time
from typing import Any

import numpy as np
import side_by_side
import torch

import emolens as el
from emolens.models.log_probs import SharedPrompt, log_probs
from emolens.studies.behaviour import _candidate_replies as replies

STRENGTHS = (-0.1, -0.05, 0.05, 0.1)
DIRECTIONS, ROWS = 16, 33
KINDS = ("coercive", "honest", "exposing")


def measured(model: el.HookedModel, vectors: el.EmotionVectors, scenarios: int, part: int) -> dict[str, Any]:
    threats = [row for row in el.corpus.stimuli("leverage") if row["condition"] == "threat"][:7]
    items = replies.prepare(model, threats, KINDS, others=1)
    layer, names = vectors.default_layer, list(dict.fromkeys(item.scenario for item in items))
    steered = [(vectors[name], s) for name in vectors.emotions[:DIRECTIONS] for s in STRENGTHS]
    rows = [(None, 0.0), *steered]
    total = len(items) * DIRECTIONS * (1 + len(STRENGTHS))
    some = [item for item in items if item.scenario in names[:scenarios]]
    first = [item for item in items if item.scenario == names[0]]
    chosen = [(items[n % len(items)], *steered[n % len(steered)]) for n in np.linspace(0, 6000, part).astype(int)]

    def score(of: list[replies.Candidate], rows: list[Any], where: str) -> None:
        preference = replies.Preference(where)
        for start in range(0, len(rows), ROWS):
            directions, strengths = zip(*rows[start : start + ROWS], strict=True)
            with el.steer(model, list(directions), list(strengths), layer, where):
                for item in of:
                    preference.score(model, item.contexts[replies.OWN][0], item)

    def one_by_one() -> None:
        for item, direction, strength in chosen:
            with el.steer(model, direction, strength, layer, "generation"):
                log_probs(model, SharedPrompt(model, item.contexts[replies.OWN][0]), [item.ids])

    runs = {
        "grid": (lambda: score(some, rows, "generation"), len(some) / len(items)),
        "one by one": (one_by_one, part / total),
        "whole prompt": (lambda: score(first, steered[:ROWS], "all"), len(first) * ROWS / len(items) / len(rows)),
        "slopes": (
            lambda: replies.reply_gradients(model, some, [layer], progress=False),
            len(items[0].contexts) * len(some) / len(items),
        ),
    }
    took = {}
    for name, (run, share) in runs.items():  # a warm-up would take as long as the run
        start = time.perf_counter()
        run()
        took[name] = (time.perf_counter() - start) / share
    return {
        "replies": len(items),
        "cells": total,
        "scenarios_timed": scenarios,
        "seconds": {name: round(value, 1) for name, value in took.items()},
        "speed_over_one_by_one": round(took["one by one"] / took["grid"], 1),
    }


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--scenarios", type=int, default=7, help="scenarios of the grid that are timed")
    parser.add_argument("--cells", type=int, default=24, help="cells of the slow side that are timed")
    options = parser.parse_args()
    model = el.load(options.model, dtype=options.dtype)
    result = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch.")}
    with torch.no_grad():
        result |= measured(model, el.packaged_vectors(model), options.scenarios, options.cells)
    side_by_side.report(result, options.out)


if __name__ == "__main__":
    main()
