"""Every public function, class and method says what it does; its example runs on a tiny model and shipped vectors."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.packaged import neutral

FEW = ["afraid", "angry", "calm", "happy", "proud", "sad"]


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """What a module defines without an underscore: functions, classes, and the methods of these."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or callable(value):
            yield f"{module.__name__}.{name}", value


MODULES = sorted(
    found.name for found in pkgutil.walk_packages(el.__path__, "emolens.")
    if not found.ispkg and not any(part.startswith("_") for part in found.name.split("."))
)  # fmt: skip


@pytest.fixture(scope="module")
def names():
    """What an example may use: `el`, a tiny `model`, its `vectors` and a `monitor`, and SmolLM2's `shipped` vectors."""
    corpus = el.corpus.stories("plain").where(emotion=FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(el.corpus, "neutral", lambda: sorted(neutral(), key=len)[:6])
        model = el.HookedModel.from_hf(tiny_llama(context=2048), tiny_tokenizer(), "tiny-llama")
        vectors = el.derive(model, corpus, cache=False, progress=False)
        yield {
            "el": el,
            "model": model,
            "vectors": vectors,
            "corpus": corpus,
            "shipped": el.packaged_vectors("smollm2-135m-instruct"),
            "monitor": el.Monitor.calibrate(model, vectors, "calm", ["she ran !", "he was sad", "and cold !"], 0.3),
        }


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = importlib.import_module(module)
    finder, runner = (
        doctest.DocTestFinder(exclude_empty=True),
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE),
    )
    for test in finder.find(found, module.rpartition(".")[2], globs=vars(found) | names):
        assert not runner.run(test).failed, test.name
