"""What the benchmarks share: alternating repeats, peak memory in a process of its own, the file of results."""

import argparse
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
from emolens.models.embedded import local_path


def parser(description: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--dtype", default=None)
    options.add_argument("--texts", type=int, default=64)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--token-budget", type=int, default=2048)
    options.add_argument("--out", type=Path)
    return options


def models(name: str, dtype: str | None) -> tuple[el.HookedModel, Any]:
    """The model, wrapped and bare, each with weights of its own."""
    from transformers import AutoModelForCausalLM

    model = el.load(name, dtype=dtype)
    source = local_path(name) if name in el.embedded.known_models() else name
    return model, AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype).eval()


def texts(n: int) -> list[str]:
    """n of the packaged stories, evenly spaced."""
    stories = el.corpus.stories().texts
    return stories[:: len(stories) // n][:n]


def alternate(runs: dict[str, tuple[Callable[[], Any], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run for all the tokens, by name: (what to run, share of the tokens that it covers).

    The repeats alternate, so that drift of the machine hits all alike; the first round warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for repeat in range(-1, repeats):
            for name, (run, share) in runs.items():
                start = time.perf_counter()
                run()
                if repeat >= 0:
                    seconds[name].append((time.perf_counter() - start) / share)
    return seconds


def compared(seconds: dict[str, list[float]], ours: str, tokens: int) -> dict[str, Any]:
    """Tokens per second, and the median of how much faster `ours` is within a repeat."""
    ratio = {
        name: statistics.median(theirs / mine for theirs, mine in zip(took, seconds[ours], strict=True))
        for name, took in seconds.items()
    }
    return {
        "tokens": tokens,
        "tokens_per_second": {name: round(tokens / statistics.median(took)) for name, took in seconds.items()},
        "emolens_speed_over": {name: round(value, 3) for name, value in ratio.items()},
    }


def peak_memory(module: str, *arguments: Any) -> int:
    """MB that `module.memory_child(*arguments)` prints, in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {module}; "
    code += f"{module}.memory_child(*{arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return round(float(done.stdout.split()[-1]))


def rise_of(model: el.HookedModel, run: Callable[[], Any]) -> float:
    """How many MB the peak of `run` lies above the loaded model: the peak of loading it does not count."""
    model.forward("Warm up the kernels.", stop_after=model.n_layers - 1)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3 - before


def report(result: dict[str, Any], out: Path | None) -> None:
    """Print the result with the machine's facts, and write it to `out`."""
    text = json.dumps(machine() | result, indent=1)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


def machine() -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), "processor": platform.processor() or platform.machine()}
