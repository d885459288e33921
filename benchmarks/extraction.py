"""Speed and memory of pooled extraction, side by side in one run on the same texts, batches and dtype.

    python benchmarks/extraction.py [--model NAME] [--repeats 7] [--texts 64] [--out FILE]

Compared with: the bare Hugging Face forward pass without unembedding on the same batches; a loop of
TransformerLens's `run_with_cache` on the residual of all layers at the same batches; the usual loop of
one text at a time that caches everything. The repeats alternate, so that drift of the machine hits all
alike; ratios are medians of the ratios within a repeat.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import emolens as el
from emolens.batching import pad, plan
from emolens.embedded import local_path
from emolens.model import HookedModel
from emolens.pooling import RULES, pool_batches


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def contestants(
    model: HookedModel, bare: Any, texts: list[str], budget: int
) -> dict[str, tuple[Callable[[], Any], float]]:
    """Name -> (what to run, share of the tokens that it covers)."""
    encoded = [model.encode(text).ids for text in texts]
    batches = plan([len(ids) for ids in encoded], budget)
    padded = [pad([encoded[row] for row in rows], "right", model.pad_token_id) for rows in batches]
    names = [model.hook_name(layer) for layer in range(model.n_layers)]
    layers = range(model.n_layers)
    eighth = encoded[:: max(1, len(encoded) // 8)]

    def bare_pass() -> None:
        for batch in padded:
            bare.base_model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)

    def pooled() -> None:
        pool_batches(model, encoded, batches, layers, RULES)

    def cached_batches() -> None:
        for batch in padded:
            model.bridge.run_with_cache(batch.ids, attention_mask=batch.mask.long(), names_filter=names)

    def one_by_one() -> None:
        for ids in eighth:
            model.bridge.run_with_cache(torch.tensor([ids]))

    share = sum(map(len, eighth)) / sum(map(len, encoded))
    return {
        "bare forward": (bare_pass, 1.0),
        "emolens pooled": (pooled, 1.0),
        "run_with_cache, all residuals": (cached_batches, 1.0),
        "run_with_cache, one text, everything": (one_by_one, share),
    }


def peak_memory(name: str, dtype: str, budget: int, texts: int) -> float:
    """MB above the loaded model at the peak of an extraction, in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import extraction; "
        f"extraction.memory_child({name!r}, {dtype!r}, {budget}, {texts})"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def memory_child(name: str, dtype: str, budget: int, texts: int) -> None:
    model = el.load(name, dtype=dtype)
    model.forward("Warm up the kernels.", stop_after=model.n_layers - 1)
    # The peak so far includes loading; what counts is how far the extraction rises above the resident model.
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    with tempfile.TemporaryDirectory() as folder:
        el.pool(model, el.corpus.stories().texts[:texts], token_budget=budget, folder=folder, progress=False)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    print(peak - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    model = el.load(options.model, dtype=options.dtype)
    source = local_path(options.model) if options.model in el.embedded.known_models() else options.model
    bare = AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype).eval()
    stories = el.corpus.stories().texts
    texts = stories[:: len(stories) // options.texts][: options.texts]
    tokens = sum(len(model.encode(text).ids) for text in texts)
    runs = contestants(model, bare, texts, options.token_budget)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for repeat in range(-1, options.repeats):
            for name, (run, share) in runs.items():
                took = timed(run) / share
                if repeat >= 0:  # the first round warms up
                    seconds[name].append(took)
    rate = {name: tokens / statistics.median(took) for name, took in seconds.items()}
    ours = seconds["emolens pooled"]
    ratio = {
        name: statistics.median(theirs / mine for theirs, mine in zip(took, ours, strict=True))
        for name, took in seconds.items()
    }
    dtype = str(model.dtype).removeprefix("torch.")
    result = {
        "model": options.model,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "tokens": tokens,
        "repeats": options.repeats,
        "tokens_per_second": {name: round(value) for name, value in rate.items()},
        "emolens_speed_over": {name: round(value, 3) for name, value in ratio.items()},
        "peak_memory_above_model_mb": round(peak_memory(options.model, dtype, options.token_budget, 300)),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
