"""Section 7 of the report, loading: errors say what was wrong and what to do; what is passed in stays as it was."""

import copy
import inspect
import json
import os

import numpy as np
import pytest
import torch
from tiny import WORDS, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.cli import main
from emolens.models import loading
from emolens.models.loading import SOURCES, ModelSource

TEXTS = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(14)) for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


# PyTorch forum: "Torch not compiled with CUDA enabled" at the end of a long load.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", torch.device("cuda"), "mps:7", "meta", "xpu"])
def test_a_device_that_is_not_here_is_named(folder, device):
    with pytest.raises(ValueError, match=r"device='.*' is not on this machine \(there is cpu"):
        el.load(folder, device=device)


@pytest.mark.parametrize("device", ["gpu", "cuda0", "", "cpu,cuda"])
def test_what_is_no_device_is_named(folder, device):
    with pytest.raises(ValueError, match=r"device=.* is no device"):
        el.load(folder, device=device)


# transformers users: strings for dtypes, among them those of quantisation libraries.
@pytest.mark.parametrize("dtype", ["float23", "fp16", "int8", torch.int8, "nn", "Tensor", ""])
def test_what_is_no_dtype_is_named(folder, dtype):
    with pytest.raises(ValueError, match="dtype=.*: give one of float32, bfloat16, float16, float64"):
        el.load(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", torch.float32, "torch.float32"])
def test_a_dtype_may_be_a_name(folder, dtype):
    assert el.load(folder, dtype=dtype, device="cpu").dtype == torch.float32


@pytest.mark.parametrize(("name", "error"), [(None, TypeError), (3, TypeError), (["a"], TypeError), ("", ValueError)])
def test_what_is_no_name_is_named(name, error):
    load = inspect.unwrap(el.load)  # without the check of types that the tests have
    with pytest.raises(error, match="is no name of a model|no model ''"):
        load(name)


def cut(path):
    os.truncate(path, 1000)


def cut_at_the_end(path):
    os.truncate(path, path.stat().st_size - 100)


def pickled(path):
    torch.save(tiny_llama().state_dict(), path)


def empty(path):
    path.write_bytes(b"")


# transformers issues: an interrupted download or copy.
@pytest.mark.parametrize("damage", [cut, cut_at_the_end, pickled, empty])
def test_damaged_weights_are_named(folder, damage, capsys):
    damage(folder / "model.safetensors")
    with pytest.raises(ValueError, match="the weights of .* are damaged or cut short"):
        el.load(folder)
    assert main(["read", "she ran", "--model", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "damaged or cut short" in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match="no model "):
        el.load(folder)


def test_a_broken_config_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no model .*not a valid JSON file"):
        el.load(folder)


def test_a_new_source_is_one_entry(folder, monkeypatch):
    lab = ModelSource(lambda label: label.startswith("lab:"), lambda label: str(folder), True)
    monkeypatch.setattr(loading, "SOURCES", {"lab": lab} | SOURCES)
    model = el.load("lab:tiny", dtype="float32", device="cpu")
    assert (model.name, model.n_layers) == ("lab:tiny", 4)


# Users who hand on what they passed in: configs, tokenizers, lists and arrays.
def test_what_is_passed_in_stays_as_it_was():
    hf_model, tokenizer = tiny_llama(), tiny_tokenizer()
    tokenizer.pad_token = None
    before = copy.deepcopy(hf_model.config.to_dict())
    kept = {name: copy.deepcopy(value) for name, value in vars(tokenizer).items() if name != "_tokenizer"}
    backend = tokenizer.backend_tokenizer.to_str()
    model = el.HookedModel.from_hf(hf_model, tokenizer, "tiny")
    layers, rules, texts = np.array([1, 2]), [0, "last"], list(TEXTS)
    pooled = el.pool(model, texts, layers, rules, progress=False)
    assert hf_model.config.to_dict() == before and hf_model.config.architectures is None
    assert {name: value for name, value in vars(tokenizer).items() if name != "_tokenizer"} == kept
    assert tokenizer.backend_tokenizer.to_str() == backend and tokenizer.pad_token is None
    assert layers.tolist() == [1, 2] and rules == [0, "last"] and texts == TEXTS
    assert pooled.layers == (1, 2) and json.dumps(pooled.stamp)


@pytest.mark.parametrize(
    ("layers", "error", "said"),
    [
        ([], ValueError, r"layers=\[\]: name each block once, and at least one"),
        ([1, 1], ValueError, "name each block once"),
        ([9], ValueError, "layer 9 is out of range"),
        ([-1], ValueError, "layer -1 is out of range"),
        ([1.5], TypeError, "1.5"),
        ("12", TypeError, "'12'"),
        (["2"], TypeError, "'2'"),
        (True, TypeError, "layer=True is no whole number"),
        ([True], TypeError, "layer=True is no whole number"),
    ],
)
def test_layers_are_checked_where_they_enter(tiny, layers, error, said):
    calls = [(el.pool, (TEXTS,)), (el.derive, (el.corpus.stories("plain"),)), (type(tiny).run_with_cache, (TEXTS,))]
    for call, given in calls:
        with pytest.raises(error, match=said):
            inspect.unwrap(call)(tiny, *given, layers)  # without the check of types that the tests have


def test_one_layer_and_those_of_numpy_will_do(tiny):
    assert el.pool(tiny, TEXTS, 2, progress=False).layers == (2,)
    assert el.pool(tiny, TEXTS, np.arange(2), progress=False).layers == (0, 1)
