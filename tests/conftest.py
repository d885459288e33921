"""Shared fixtures. Every tensor annotation of the package is checked at run time in the tests."""

from jaxtyping import install_import_hook

install_import_hook("emolens", "tiny.typechecker")

import os

# Before torch is imported: for the tiny models a second thread costs more than it gives.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


@pytest.fixture
def tiny():
    """A hooked random Llama of four blocks."""
    from tiny import tiny_llama, tiny_tokenizer

    from emolens.models.model import HookedModel

    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def few_dialogues():
    """`derive` denoises with six short neutral dialogues instead of the packaged 150."""
    from emolens import corpus

    few = sorted(corpus.neutral(), key=len)[:6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "neutral", lambda: few)
        yield few


@pytest.fixture(scope="module")
def planted():
    """The planted model and the vectors derived from its stories."""
    import planted as known

    from emolens import corpus
    from emolens.vectors.derive import derive

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "neutral", lambda: known.neutral(0))
        model, _ = known.planted_model(0)
        yield model, derive(model, known.stories(0), cache=False, progress=False)


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    """Tests of mechanics write to a folder of their own; tests of real models use the user's cache and all cores."""
    if "model" not in request.keywords:
        torch.set_num_threads(1)  # a library that an earlier test used may have left another number
        monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path / "cache"))
        yield
    else:
        torch.set_num_threads(os.cpu_count() or 1)
        yield
        torch.set_num_threads(1)


@pytest.fixture
def page():
    """A page of a real browser, and what went wrong in it."""
    from looking import BROWSER

    if BROWSER is None:
        pytest.skip("no browser: neither chromium, chromium-browser nor google-chrome is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        yield page
        browser.close()
