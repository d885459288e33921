"""Running a study and keeping what it measured, so that a long walk over all studies goes on where it was stopped."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from emolens import plots, studies
from emolens.errors import TooLongError, UnsupportedError
from emolens.models.model import HookedModel
from emolens.results import load_results, named, save_results
from emolens.studies._common import NotForThisModel
from emolens.vectors.emotion_vectors import EmotionVectors


def measure(name: str, model: HookedModel, vectors: EmotionVectors, folder: Path, size: str = "full") -> Path | None:
    """Run a study and write its numbers as `folder/MODEL/STUDY.json`, with what it took and the vectors' stamp.

    A study that cannot be run on this model is passed over, with a line that says why; then there is no path.
    """
    began = time.monotonic()
    try:
        results = named(studies.find(name).run(model, vectors, size))
    except ValueError as reason:
        if not unsuited(reason):
            raise
        print(f"{name}: not on this model. {reason}", file=sys.stderr)
        return None
    took = {"size": size, "minutes": round((time.monotonic() - began) / 60, 1), "threads": torch.get_num_threads()}
    took["parameters"] = sum(weight.numel() for weight in model.bridge.parameters())
    path = save_results(place(name, model, folder), vectors.stamp | took, results)
    print(*(f"{name}, {key}: {result.headline()}" for key, result in results.items()), sep="\n", file=sys.stderr)
    return path


def unsuited(error: BaseException | None) -> bool:
    """Whether an error says that a study is not for this model: what it lacks, or a text longer than its context."""
    return isinstance(error, (NotForThisModel, TooLongError, UnsupportedError)) or (
        error is not None and unsuited(error.__cause__)
    )


def is_measured(name: str, model: HookedModel, vectors: EmotionVectors, folder: Path) -> bool:
    """Whether the numbers of a study are there, of the same weights and stories."""
    path = place(name, model, folder)
    if not path.exists():
        return False
    stamp = json.loads(path.read_text("utf-8"))["stamp"]
    return all(stamp.get(key) == vectors.stamp[key] for key in ("fingerprint", "corpus", "recipe"))


def place(name: str, model: HookedModel, folder: Path) -> Path:
    """Where the numbers of a study are."""
    return folder / Path(model.name).name / f"{name}.json"


def draw(path: Path) -> Iterator[Path]:
    """Write the figures of a study's results as PNG beside them."""
    for key, result in load_results(path).items():
        if result.figure:
            stem = "-".join([path.stem, *key.replace(":", "").split()])
            yield plots.save(result.plot(), path.with_name(f"{stem}.png"), result.headline())
