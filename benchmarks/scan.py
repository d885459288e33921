"""Speed of `scan`, side by side with bare forward passes on the same texts, and its memory as documents grow many.

    python benchmarks/scan.py [--model NAME] [--repeats 7] [--texts 64] [--documents 2000 20000] [--out FILE]

Compared with the bare Hugging Face forward pass without unembedding, of all blocks and of only the blocks up
to the one that is read, on the same texts, token ids given, in the same batches. `scan` is timed as a whole:
it makes the token ids, scores every token on every emotion and keeps the best passages. The repeats
alternate, so that drift of the machine hits all alike; ratios are medians of the ratios within a repeat.
"""

import argparse
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import emolens as el
from emolens.batching import pad, plan
from emolens.embedded import local_path
from emolens.model import HookedModel
from emolens.vectors import EmotionVectors

CHARACTERS = 300  # of each document when memory is measured, so that 20,000 take minutes


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def contestants(
    model: HookedModel, vectors: EmotionVectors, bare: Any, texts: list[str], budget: int
) -> dict[str, Callable[[], Any]]:
    encoded = [model.encode(text).ids for text in texts]
    batches = plan([len(ids) for ids in encoded], budget)
    padded = [pad([encoded[row] for row in rows], "right", model.pad_token_id) for rows in batches]
    blocks = bare.base_model.layers

    def bare_pass(depth: int) -> None:
        bare.base_model.layers = blocks[:depth]
        for batch in padded:
            bare.base_model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)

    depth = vectors.default_layer + 1
    return {
        "bare forward": lambda: bare_pass(len(blocks)),
        "bare forward as deep as the scan": lambda: bare_pass(depth),
        "emolens scan": lambda: el.scan(model, vectors, texts, token_budget=budget, progress=False),
    }


def peak_memory(name: str, dtype: str, budget: int, documents: int) -> float:
    """MB above the loaded model at the peak of a scan, in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import scan; "
        f"scan.memory_child({name!r}, {dtype!r}, {budget}, {documents})"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def memory_child(name: str, dtype: str, budget: int, documents: int) -> None:
    model = el.load(name, dtype=dtype)
    vectors = el.packaged_vectors(model)
    stories = el.corpus.stories().texts
    model.forward("Warm up the kernels.", stop_after=model.n_layers - 1)
    # The peak so far includes loading; what counts is how far the scan rises above the resident model.
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    stream = itertools.islice(itertools.cycle(stories), documents)
    el.scan(model, vectors, (text[:CHARACTERS] for text in stream), token_budget=budget, progress=False)
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
    parser.add_argument("--documents", type=int, nargs="*", default=[2000, 20_000], help="for memory")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM

    model = el.load(options.model, dtype=options.dtype)
    vectors = el.packaged_vectors(model)
    source = local_path(options.model) if options.model in el.embedded.known_models() else options.model
    bare = AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype).eval()
    stories = el.corpus.stories().texts
    texts = stories[:: len(stories) // options.texts][: options.texts]
    tokens = sum(len(model.encode(text).ids) for text in texts)
    runs = contestants(model, vectors, bare, texts, options.token_budget)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for repeat in range(-1, options.repeats):
            for name, run in runs.items():
                took = timed(run)
                if repeat >= 0:  # the first round warms up
                    seconds[name].append(took)
    ours = seconds["emolens scan"]
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
        "blocks": model.n_layers,
        "block_read": vectors.default_layer,
        "emotions": len(vectors.emotions),
        "tokens": tokens,
        "repeats": options.repeats,
        "tokens_per_second": {name: round(tokens / statistics.median(took)) for name, took in seconds.items()},
        "emolens_speed_over": {name: round(value, 3) for name, value in ratio.items()},
        "peak_memory_above_model_mb": {
            str(n): round(peak_memory(options.model, dtype, options.token_budget, n)) for n in options.documents
        },
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
