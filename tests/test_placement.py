"""Models on several devices, quantised or too large: what is read and steered is the same bits, or refused by name."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from elsewhere import DEVICE, TwoDevices, blocks_elsewhere, there
from tiny import tiny_llama, tiny_tokenizer
from transformers import BitsAndBytesConfig, OPTConfig, OPTForCausalLM

import emolens as el
from emolens.models import placement
from emolens.models.log_probs import SharedPrompt, gradients, token_ids
from emolens.steering.patch import Patching, patching
from emolens.training.adapters import hugging_face_model
from emolens.vectors.direction import stamp_of

TEXTS = ["she ran and he was very calm .", "he was cold ."]
BLOCKS = ("cpu", "disk", "cpu", "disk")
MAPS = {
    "all on the disk": {"": "disk"},
    "blocks on the disk": {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    | {"lm_head": "cpu"}
    | {f"model.layers.{number}": place for number, place in enumerate(BLOCKS)},
    "ends on the disk": {"model.embed_tokens": "disk", "model.norm": "disk", "model.rotary_emb": "cpu"}
    | {"lm_head": "disk"}
    | {f"model.layers.{number}": "cpu" for number in range(4)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its tokenizer, saved."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_llama().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> el.HookedModel:
    return el.load(folder, "cpu", "float32")


@pytest.fixture(scope="module")
def direction(whole: el.HookedModel) -> el.Direction:
    values = torch.linspace(-1, 1, 32).expand(4, -1)
    return el.Direction.from_tensor(values, range(4), whole, "up")


def pooled(model, up):
    means = el.pool(model, TEXTS, rules=(0, 20), cache=False, progress=False)
    return torch.cat([means.means(rule, layer) for rule in (0, 20) for layer in range(4)]).nan_to_num(7)


def moments(model, up):
    return el.token_moments(model, TEXTS, [1, 3], from_rank=1, progress=False).covariance


def read(model, up):
    return el.activations(model, TEXTS, [0, 2, 3], at=[[(1, 3)], [(0, 1), (1, 2)]])


def logits(model, up):
    return model.logits(TEXTS, [0, -1])


def steered(model, up):
    with el.steer(model, [up, None], 0.5, layers=[1, 2], where="prompt"):
        return model.forward(TEXTS[0], stop_after=3)


def masked(model, up):
    with el.steer(model, up, 0.5, layers=2, where=torch.tensor([True, False, True])):
        return model.forward(TEXTS[1], stop_after=3)


def ablated(model, up):
    with el.steer(model, up, layers=[1, 2], mode="ablate"):
        return model.forward(TEXTS, stop_after=3)


def operated(model, up):
    with el.steer(model, up, 1.0, layers=2, mode=lambda x, d, s: x + s[:, None, None] * d[:, None]):
        return model.forward(TEXTS[0], stop_after=3)


def patched(model, up):
    with patching(model, Patching((1,), torch.ones(3, 32), ((0, None), (2, None)), torch.eye(32)[:2])):
        return model.forward("he was calm", stop_after=3)


def scored(model, up):
    return el.log_probs(model, "she was", [" calm", " very angry"])


def sloped(model, up):
    shared = SharedPrompt(model, model.encode("she was"), anywhere=True)
    return torch.cat(gradients(model, shared, [token_ids(model, " calm"), token_ids(model, " very cold")], 2)[1:])


def written(model, up):
    with el.steer(model, up, 0.5, layers=2):
        replies = model.generate(TEXTS, max_new_tokens=4, temperature=0)
    return torch.tensor([id_ for reply in replies for id_ in model.tokenizer(reply).input_ids])


USES = (pooled, moments, read, logits, steered, masked, ablated, operated, patched, scored, sloped, written)


@pytest.fixture(scope="module", params=MAPS)
def split(request, folder: Path) -> el.HookedModel:
    return el.load(folder, dtype="float32", device_map=MAPS[request.param])


@pytest.mark.parametrize("use", USES, ids=[use.__name__ for use in USES])
def test_a_split_model_gives_the_bits_of_the_whole_one(whole, split, direction, use) -> None:
    assert torch.equal(use(split, direction), use(whole, direction))


def test_a_split_model_says_where_it_takes_tokens_and_is_known_by_its_weights(whole, split, folder: Path) -> None:
    assert split.device == torch.device("cpu") == torch.device(split.bridge.cfg.device)
    assert split.dtype == torch.float32 and split.fingerprint == whole.fingerprint
    assert split.is_plain and split.quantised == ""
    with pytest.raises(ValueError, match=r"tiny-llama are offloaded to the CPU or the disk; post-training"):
        hugging_face_model(split)


def test_a_broken_weight_on_the_disk_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tiny_llama()
    with torch.no_grad():
        broken.model.layers[2].mlp.up_proj.weight[3, 5] = torch.inf
    broken.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"not finite: 1 of .* of 'model\.layers\.2\.mlp\.up_proj\.weight'"):
        el.load(tmp_path / "broken", device_map=MAPS["all on the disk"])


@pytest.mark.parametrize("tied", [False, True])
def test_auto_is_the_cpu_where_there_is_no_gpu(tmp_path: Path, tied: bool) -> None:
    config = tiny_llama().config
    config.tie_word_embeddings = tied
    type(tiny_llama())(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    plain = el.load(tmp_path, "cpu")
    for where in ("auto", {"": "cpu"}, {"": "disk"}):
        model = el.load(tmp_path, device_map=where)
        assert model.fingerprint == plain.fingerprint
        assert torch.equal(model.forward(TEXTS), plain.forward(TEXTS))


@pytest.mark.parametrize("use", USES, ids=[use.__name__ for use in USES])
def test_every_hook_takes_what_it_holds_to_the_device_of_the_block(whole, direction, use, monkeypatch) -> None:
    expected = use(whole, direction)
    with blocks_elsewhere(whole, monkeypatch):
        found = use(whole, direction)
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("at, method", [("tokens", "whitened"), ("document", "whitened"), ("tokens", "raw")])
def test_a_scan_takes_its_vectors_to_the_device_of_the_block(planted, monkeypatch, at, method) -> None:
    model, vectors = planted
    texts = ["w1 w2 w3 w4", "w5 w6 w7"]
    scan = lambda: el.scan(model, vectors, texts, at=at, method=method, progress=False)  # noqa: E731
    expected = scan().frame()
    with blocks_elsewhere(model, monkeypatch):
        found = scan().frame()
    pd.testing.assert_frame_equal(found, expected)


def test_the_played_device_refuses_what_two_devices_refuse() -> None:
    with TwoDevices():
        x = there(torch.ones(2, 3))
        assert x.device == DEVICE and (x + 1).device == DEVICE and x.cpu().device.type == "cpu"
        assert torch.ones(3).to(x.device).device == DEVICE and torch.zeros(2, device=x.device).device == DEVICE
        for mix in (lambda: x + torch.ones(3), lambda: x[torch.tensor([0])], lambda: torch.ones(3, 2) @ x):
            with pytest.raises(RuntimeError, match="on two devices"):
                mix()


# --- what is asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device_map": "atuo"}, r"device_map='atuo' \(did you mean auto\?\): give one of auto"),
        ({"device_map": {}}, r"device_map={}: give one of"),
        ({"device_map": "auto", "device": "cpu"}, r"device='cpu' and device_map='auto' were both given"),
        ({"device_map": {"a": 0, "b": "disk"}}, r"the map puts b on disk, and TransformerLens refuses"),
        ({"attn_implementation": "sdap"}, r"attn_implementation='sdap' \(did you mean sdpa\?\): give one of eager"),
        ({"attn_implementation": "kernels-community/x"}, r"give one of eager.* fetched as compiled code is not"),
    ],
)
def test_what_is_no_map_and_no_attention_is_named(folder: Path, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        el.load(folder, **options)


def test_the_attention_that_is_asked_for_is_used_or_a_warning_says_not(whole, folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"attn_implementation='sdpa' has no effect on .*tiny-llama: TransformerLens"):
        model = el.load(folder, "cpu", "float32", attn_implementation="sdpa")
    assert torch.equal(model.forward(TEXTS), whole.forward(TEXTS))
    config = OPTConfig(vocab_size=80, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4)
    OPTForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sdpa, eager = (el.load(tmp_path, "cpu", "float32", attn_implementation=name) for name in ("sdpa", "eager"))
    assert [one.hf_model.config._attn_implementation for one in (sdpa, eager)] == ["sdpa", "eager"]
    assert torch.allclose(sdpa.forward(TEXTS), eager.forward(TEXTS), atol=1e-5)


def test_a_missing_attention_package_is_named(folder: Path) -> None:
    with pytest.raises(ImportError, match=r"tiny-llama' needs a package that is not installed here: .*[Ff]lash"):
        el.load(folder, attn_implementation="flash_attention_2")


# --- room ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_a_model_larger_than_memory_is_named_before_it_is_loaded(folder: Path, monkeypatch, dtype, size) -> None:
    count = sum(weight.numel() for weight in tiny_llama().parameters())
    needed = placement.bytes_needed(str(folder), tiny_llama().config, getattr(torch, dtype))
    assert needed == count * size
    assert needed == placement.bytes_needed("not here", tiny_llama().config, getattr(torch, dtype))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("was loaded"))
    monkeypatch.setattr(placement, "bytes_free", lambda device: needed - 1)
    with pytest.raises(MemoryError, match=rf"tiny-llama' take 0\.0 GB in {dtype}, and cpu has .* GB free") as caught:
        el.load(folder, "cpu", dtype)
    said = str(caught.value)
    assert ('dtype="bfloat16"' in said) == (dtype == "float32") and 'device_map="auto"' in said


def test_a_container_has_the_memory_that_it_may_use(monkeypatch, tmp_path: Path) -> None:
    free = placement.bytes_free(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(placement, "CGROUP", tmp_path)
    assert placement.bytes_free(torch.device("cpu")) == 600_000 < free
    (tmp_path / "memory.max").write_text("max\n")
    assert placement.bytes_free(torch.device("cpu")) > 600_000


# --- quantised -----------------------------------------------------------------------------------------


def quantise(folder: Path, tmp_path: Path, **facts) -> Path:
    """A copy of a saved model that says it is quantised."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": facts}))
    return tmp_path


@pytest.mark.parametrize(
    "facts, named",
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}, "gptq, 4 bits"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}, "awq, 4 bits"),
        ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    ],
)
def test_quantised_weights_that_cannot_be_loaded_here_are_named(folder: Path, tmp_path: Path, facts, named) -> None:
    if facts["quant_method"] == "bitsandbytes" and find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is here")
    with pytest.raises((ImportError, ValueError), match=rf"'.*' is quantised \({named}\)"):
        el.load(quantise(folder, tmp_path, **facts), "cpu")


class Packed(torch.nn.Module):
    """A linear map whose weights are stored in 8 bits, with a scale for each row, as a buffer like GPTQ's."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        packed = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight * self.scale).T.to(x.dtype)


@pytest.fixture
def packed() -> el.HookedModel:
    hf_model = tiny_llama()
    for block in hf_model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(block.mlp, name, Packed(getattr(block.mlp, name)))
    hf_model.config.quantization_config = {"quant_method": "of ours", "bits": 8}
    return el.HookedModel.from_hf(hf_model, tiny_tokenizer(), "packed")


def test_packed_weights_are_read_and_known(packed: el.HookedModel, direction) -> None:
    assert packed.quantised == "of ours, 8 bits" and packed.dtype == torch.float32
    before = packed.take_fingerprint()
    assert pooled(packed, None).isfinite().all() and sloped(packed, None).isfinite().all()
    mlp = packed.hf_model.model.layers[1].mlp.up_proj
    weight, scale = (dict(mlp.named_parameters())[n] for n in ["_original_component.weight"]), None
    (weight,) = weight
    weight[0, 0] += 1
    assert (changed := packed.take_fingerprint()) != before
    weight[0, 0] -= 1
    assert packed.take_fingerprint() == before
    scale = dict(mlp.named_buffers())["_original_component.scale"]
    scale.mul_(2)
    assert packed.take_fingerprint() not in (before, changed)
    with pytest.raises(ValueError, match=r"packed are quantised \(of ours, 8 bits\); post-training needs them whole"):
        hugging_face_model(packed)


def test_a_packed_output_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"the weights of Packed are quantised \(torch\.int8\), so that its rows"):
        placement.weight_of(Packed(torch.nn.Linear(4, 4, bias=False)))


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_quantises_on_loading_and_reads_what_it_wrote(folder: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    model = el.load(folder, "cpu", "float32", quantization_config=config)
    assert model.quantised == f"bitsandbytes, {bits} bits" and stamp_of(model)["quantised"] == model.quantised
    assert model.dtype == torch.float32 and pooled(model, None).isfinite().all()
    own = model.hf_model(model.to_tokens("she was calm").ids).logits[0, 1].float().log_softmax(-1)
    (calm,) = token_ids(model, " calm")
    assert abs(float(scored(model, None)[0, 0]) - own[calm].item()) < 1e-4
    tiny = tiny_llama()
    reloaded = type(tiny).from_pretrained(folder, quantization_config=config, device_map={"": "cpu"}, dtype="float32")
    reloaded.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    again = el.load(tmp_path, "cpu", "float32")
    assert (again.fingerprint, again.quantised) == (model.fingerprint, model.quantised)
