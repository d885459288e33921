"""Time of the algebra after the forward pass, side by side with one eigendecomposition of the model's width.

    python benchmarks/algebra.py [--width 4096] [--layers 32] [--repeats 1] [--threads 2] [--whole] [--out FILE]

*Choose*: shrinkage and readouts of one layer, by leaving topics of the packaged stories out. *Fit*: the vectors of one
layer, their reliability and noise, the components of neutral text counted. *Eigh*: `torch.linalg.eigh` of one matrix
of that width in float64. Ratios are medians of the ratios within a repeat. The activations are random, for time does
not depend on them. With `--whole`, everything that `derive` computes for all layers is timed once, and the size of the
file is measured; else both are reckoned from one layer. Processor time is given beside, for a machine that others use.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side
import torch

import emolens as el
from emolens.vectors import derive as recipe
from emolens.vectors.choose import choose
from emolens.vectors.fit import NOISE_BYTES, fit
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.token_moments import SAMPLE, Moments, SampledMoments, TokenMoments

BARS = {"choose": 0.5, "fit": 1 / 3}
RULES = (10, 50)


def activations(width: int, layers: int, device: str) -> tuple[PooledActivations, Moments]:
    """Random stories and neutral tokens, a few dimensions loud; the same in each layer, so that they are small."""
    draw = torch.Generator().manual_seed(0)
    loudness = torch.exp(torch.randn(width, generator=draw))
    stories = loudness * torch.randn(len(el.corpus.stories()), width, generator=draw)
    tokens = loudness * torch.randn(SAMPLE, width, generator=draw)
    everywhere = stories[None].expand(layers, -1, -1)
    shard = {f"mean.{rule}": everywhere for rule in RULES}
    parts = ((list(range(len(stories))), shard),)
    counts, at = torch.full((len(stories),), 200), tuple(range(layers))
    pooled = PooledActivations(at, RULES, counts, torch.ones(layers), parts, {"fingerprint": "random"})
    mean = torch.zeros(layers, width, device=device)
    if width <= SAMPLE:
        return pooled, TokenMoments(at, mean, tokens.T.cov().to(device).expand(layers, -1, -1))
    return pooled, SampledMoments(at, mean, torch.ones(layers), tokens.expand(layers, -1, -1))


def alternate(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each run; the repeats alternate."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, busy = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - busy))
    return seconds


def one_layer(pooled: PooledActivations, neutral: Moments, width: int, repeats: int) -> dict[str, Any]:
    corpus, device = el.corpus.stories(), neutral.mean.device
    half = torch.randn(width, width, dtype=torch.float64, device=device)
    square = half @ half.T
    runs = {
        "eigh": lambda: torch.linalg.eigh(square),
        "choose": lambda: choose(pooled, corpus, neutral, progress=False, layers=[0]),
        "fit": lambda: fit(pooled, corpus, neutral, layers=[0]),
    }
    seconds = alternate(runs, repeats)
    ratio, busy = (
        {
            name: statistics.median(
                mine[which] / whole[which] for mine, whole in zip(seconds[name], seconds["eigh"], strict=True)
            )
            for name in BARS
        }
        for which in (0, 1)
    )
    return {
        "seconds": {name: round(statistics.median(wall for wall, _ in took), 2) for name, took in seconds.items()},
        "processor_seconds": {name: round(statistics.median(b for _, b in took), 2) for name, took in seconds.items()},
        "share_of_one_eigh": {name: round(value, 3) for name, value in ratio.items()},
        "share_of_its_processor_time": {name: round(value, 3) for name, value in busy.items()},
        "bars": {name: {"at_most": round(bar, 3), "met": ratio[name] <= bar} for name, bar in BARS.items()},
    }


def reckoned(one: dict[str, Any], pooled: PooledActivations) -> dict[str, Any]:
    """What all layers take if each takes what one took, of which not all are tried for the choice."""
    layers = len(pooled.layers)
    tried = recipe.most_tried(layers)
    minutes = (layers * one["seconds"]["fit"] + tried * one["seconds"]["choose"]) / 60
    return {"layers": layers, "layers_tried_at_most": tried, "minutes_of_all_layers_reckoned": round(minutes, 2)}


def whole(pooled: PooledActivations, neutral: Moments) -> dict[str, Any]:
    """Minutes of everything that `derive` computes after the passes, and the size of its file."""
    corpus, start = el.corpus.stories(), time.perf_counter()
    sweep = recipe.coarse_then_fine(pooled, corpus, neutral)
    vectors = fit(pooled, corpus, neutral)
    minutes = (time.perf_counter() - start) / 60
    with tempfile.TemporaryDirectory() as folder:
        size = vectors.save(Path(folder) / "vectors.safetensors").stat().st_size
    tried = len({row["layer"] for row in sweep})
    return {"minutes_of_all_layers": round(minutes, 2), "layers_tried": tried, "file_mb": round(size / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--whole", action="store_true", help="time all layers, and measure the file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pooled, neutral = activations(options.width, options.layers, options.device)
    result = {"width": options.width, "stories": len(pooled.counts), "device": options.device}
    result |= {"repeats": options.repeats, "noise_mb_at_most": NOISE_BYTES / 1e6}
    one = one_layer(pooled, neutral, options.width, options.repeats)
    result |= one | reckoned(one, pooled)
    if options.whole:
        result |= whole(pooled, neutral)
    side_by_side.report(result, options.out)


if __name__ == "__main__":
    main()
