"""Directions made elsewhere: tensors, and control vectors of llama.cpp, in and out."""

import ctypes

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.models.model import HookedModel
from emolens.steering.nulls import random_directions
from emolens.vectors.control_vector import export_gguf
from emolens.vectors.direction import Direction

TEXT = "she ran and the river was very cold"
EMOTIONS = ["calm", "angry", "sad"]


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return el.derive(model, el.corpus.stories().where(emotion=EMOTIONS), cache=False, progress=False)


def written(path, tensors, hint="llama", kind="controlvector"):
    """A control vector as other tools write it."""
    writer = GGUFWriter(path, kind)
    if hint:
        writer.add_string(f"{kind}.model_hint", hint)
    writer.add_uint32(f"{kind}.layer_count", len(tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rows(layers=(1, 2, 3), width=32, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(len(layers), width)).astype(np.float32)
    return {f"direction.{layer}": row for layer, row in zip(layers, drawn, strict=True)}


# --- tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, lambda x: x.double().tolist()])
def test_a_tensor_steers_as_the_emotion_that_it_points_at(model, vectors, kind):
    given = kind(37 * vectors["calm"].values)
    before = torch.as_tensor(given).clone()
    direction = Direction.from_tensor(given, vectors.layers, vectors, "mine")
    assert (direction.name, direction.layers, direction.terms) == ("mine", vectors.layers, ())
    assert torch.equal(torch.as_tensor(given), before)
    torch.testing.assert_close(direction.values, vectors["calm"].values)
    with el.steer(model, 0.1 * vectors["calm"]):
        wanted = model.forward(TEXT)
    with el.steer(model, 0.1 * direction):
        torch.testing.assert_close(model.forward(TEXT), wanted)
    assert vectors.nearest(direction, 1)[0] == ("calm", pytest.approx(1, abs=1e-5))


def test_sizes_are_kept_where_that_is_asked_for(vectors):
    values = 3 * vectors["calm"].values
    assert torch.equal(Direction.from_tensor(values, vectors.layers, vectors, normalise=False).values, values)
    one = Direction.from_tensor(values[2], 2, vectors)
    assert one.layers == (2,) and one.values.norm() == pytest.approx(1)


def test_a_model_without_vectors_measures_its_residual_norm(model, few_dialogues):
    direction = Direction.from_tensor(torch.eye(32)[:2], [2, 1], model)
    norms = [model.forward(text, stop_after=2)[0, 10:].norm(dim=-1) for text in few_dialogues]
    assert float(direction.residual_norm[0]) == pytest.approx(float(torch.cat(norms).mean()), rel=1e-4)
    plain = model.forward(TEXT, stop_after=2)
    with el.steer(model, direction, 0.5, layers=2):
        moved = model.forward(TEXT, stop_after=2) - plain
    torch.testing.assert_close(moved, (0.5 * direction.residual_norm[0] * torch.eye(32)[0]).expand_as(moved))
    with el.steer(model, 0.1 * direction, layers=1), pytest.raises(ValueError, match="is being steered"):
        Direction.from_tensor(torch.eye(32)[0], 2, model)


def test_its_nulls_are_random_directions_and_a_sum_with_it_is_no_combination_of_emotions(vectors):
    mine = Direction.from_tensor(torch.eye(32)[:4], range(4), vectors, "mine")
    draws = random_directions(0.3 * mine, 5)
    torch.testing.assert_close(torch.stack([d.values.norm(dim=-1) for d in draws]), torch.full((5, 4), 0.3))
    assert (vectors["calm"] + mine).terms == (0.5 * mine - vectors["calm"]).terms == ()


@pytest.mark.parametrize(
    ("values", "layers", "message"),
    [
        (torch.ones(2, 31), [1, 2], r"have the shape \[2, 31\], not layer x d_model = \[2, 32\] of tiny-llama"),
        (torch.ones(3, 32), [1, 2], r"have the shape \[3, 32\]"),
        (torch.ones(2, 32), [1, 1], "each layer once"),
        (torch.ones(2, 32), [1, 9], "no vectors at layer 9"),
        (torch.ones(0, 32), [], "at least one"),
        (torch.tensor([[1.0] * 31 + [torch.nan]]), [1], r"of 'mine' is not finite: nan at \[0, 31\]"),
        (torch.zeros(1, 32), [1], "'mine' is a zero vector"),
    ],
)
def test_tensors_that_fit_no_model_are_refused(vectors, values, layers, message):
    with pytest.raises(ValueError, match=message):
        Direction.from_tensor(values, layers, vectors, "mine")


def test_tensors_of_another_kind_are_refused(vectors):
    with pytest.raises(TypeError, match="complex64: give real numbers"):
        Direction.from_tensor(torch.ones(32, dtype=torch.complex64), 1, vectors)
    with pytest.raises(TypeError, match="the model that the direction belongs to"):
        Direction.from_tensor(torch.ones(32), 1, "tiny-llama")


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["vectors", "model"])
def test_export_import_export_gives_the_same_bytes(model, vectors, tmp_path, of):
    first = vectors.export_gguf(tmp_path / "calm.gguf", 0.7 * vectors["calm"] - vectors["sad"])
    direction = el.import_gguf(first, vectors if of == "vectors" else model)
    assert direction.name == "calm" and direction.layers == (1, 2, 3) and not direction.scaled
    second = export_gguf(tmp_path / "again.gguf", direction)
    if of == "vectors":  # for the model's own residual norms the last bit may differ the first time
        assert second.read_bytes() == first.read_bytes()
        torch.testing.assert_close(direction.values, (0.7 * vectors["calm"] - vectors["sad"]).values[1:])
    third = export_gguf(tmp_path / "third.gguf", el.import_gguf(second, vectors if of == "vectors" else model))
    assert third.read_bytes() == second.read_bytes()


def test_a_strength_of_1_adds_what_the_file_holds(model, vectors, tmp_path):
    tensors = rows()
    path = written(tmp_path / "honest.gguf", tensors | {"unrelated": np.ones(3, dtype=np.float32)})
    for of in (vectors, model):
        direction = el.import_gguf(path, of)
        assert direction.name == "honest" and direction.layers == (1, 2, 3)
        plain = model.forward(TEXT, stop_after=2)
        with el.steer(model, direction, 1, layers=2):
            moved = model.forward(TEXT, stop_after=2) - plain
        torch.testing.assert_close(moved, torch.tensor(tensors["direction.2"]).expand_as(moved), rtol=1e-4, atol=1e-5)
    some = el.import_gguf(path, vectors.at(1, 3), layers=[3, 1], name="two")
    assert (some.name, some.layers) == ("two", (1, 3))
    torch.testing.assert_close(some.residual_norm[:, None] * some.values, torch.tensor(np.stack(
        [tensors["direction.1"], tensors["direction.3"]])))  # fmt: skip


@pytest.mark.parametrize("hint", ["", "llama", "LlamaForCausalLM", "Mistral"])
def test_one_architecture_has_several_names(vectors, tmp_path, hint):
    assert el.import_gguf(written(tmp_path / "c.gguf", rows(), hint), vectors).layers == (1, 2, 3)


def bad(path, case):
    if case == "truncated":
        written(path, rows())
        path.write_bytes(path.read_bytes()[:200])
    elif case == "no GGUF":
        path.write_bytes(b"direction.1")
    else:
        tensors = rows()
        tensors["direction.2"] = {
            "NaN": np.full(32, np.nan, dtype=np.float32),
            "integers": np.ones(32, dtype=np.int8),
            "a matrix": np.ones((2, 32), dtype=np.float32),
            "two widths": np.ones(31, dtype=np.float32),
        }.get(case, tensors["direction.2"])
        tensors |= {"block 0": rows([0]), "block 9": rows([9])}.get(case, {})
        tensors = rows(width=64) if case == "width" else tensors
        tensors = {"token_embd.weight": np.ones((4, 4), dtype=np.float32)} if case == "a model" else tensors
        written(path, tensors, "qwen2" if case == "architecture" else "llama")
    return path


BAD = {
    "width": r"\[3, 64\], not layer x d_model = \[3, 32\]",
    "architecture": "for the architecture 'qwen2', not for 'LlamaForCausalLM'",
    "a model": "holds no directions .* but token_embd.weight",
    "NaN": r"direction.2 of bad.gguf is not finite: nan at \[0\]",
    "integers": "direction.2 of bad.gguf is int8",
    "a matrix": r"direction.2 of bad.gguf is float32 \[2, 32\]",
    "two widths": r"different widths: \[31, 32\]",
    "block 0": "counts the blocks of a control vector from 1",
    "block 9": r"bad.gguf: no vectors at layer 9; .*layers= takes some",
    "truncated": "is damaged or no GGUF file",
    "no GGUF": "is damaged or no GGUF file",
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_for_something_else_is_refused(vectors, tmp_path, case):
    with pytest.raises(ValueError, match=BAD[case]):
        el.import_gguf(bad(tmp_path / "bad.gguf", case), vectors)


def test_a_file_that_is_not_there_or_has_not_these_layers_is_named(vectors, tmp_path):
    with pytest.raises(FileNotFoundError):
        el.import_gguf(tmp_path / "nothing.gguf", vectors)
    with pytest.raises(ValueError, match=r"no direction for layer 0; it has \[1, 2, 3\]"):
        el.import_gguf(written(tmp_path / "c.gguf", rows()), vectors, layers=[0, 1])


def test_export_refuses_what_would_be_wrong_there(model, vectors, tmp_path):
    other = HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "another")
    foreign = Direction.from_tensor(torch.eye(32)[:3], [1, 2, 3], other)
    path = tmp_path / "c.gguf"
    with pytest.raises(ValueError, match="belong to another"):
        vectors.export_gguf(path, foreign)
    broken = Direction(**{**vars(vectors["calm"]), "values": vectors["calm"].values * torch.inf})
    for direction, layers, message in (
        ("calm", [0, 1], "block 0"),
        ("calm", [], "at least one"),
        ("calm", [1, 1], "each block once"),
        ("calm", [7], "no vectors at layer 7"),
        (broken, None, "'calm' at layer 1 is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            vectors.export_gguf(path, direction, layers)
    assert not path.exists()
    gemma = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    with pytest.raises(ValueError, match="for the architecture 'LlamaForCausalLM'"):
        el.import_gguf(vectors.export_gguf(path, "calm"), gemma)


# --- llama.cpp itself ------------------------------------------------------------------------------


def llama_gguf(path, hf_model):
    """A Llama of transformers as a GGUF file in float32; llama.cpp wants the rows of queries and keys in pairs."""
    config, weights = hf_model.config, hf_model.state_dict()
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    names = ["<unk>", "<s>", "</s>", "<0x0A>", *(f"w{i}" for i in range(config.vocab_size - 4))]
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types([2, 3, 3, 6, *[1] * (len(names) - 4)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def paired(x, heads):
        return x.reshape(heads, 2, x.shape[0] // heads // 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)

    short = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for block in range(config.num_hidden_layers):
        tensors |= {f"blk.{block}.{new}": f"model.layers.{block}.{old}" for old, new in short.items()}
    for new, old in tensors.items():
        x, kind = weights[f"{old}.weight"].float(), new.split(".")[-1]
        writer.add_tensor(f"{new}.weight", (paired(x, heads[kind]) if kind in heads else x).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_cpp_logits(llama_cpp, llama, ids, vector):
    """Logits of every token in llama.cpp, with a control vector [block d_model] from block 1 on."""
    names = ("llama_set_adapter_cvec", "llama_apply_adapter_cvec", "llama_control_vector_apply")  # newest first
    apply = next(getattr(llama_cpp, name) for name in names if hasattr(llama_cpp, name))
    data = np.ascontiguousarray(vector, dtype=np.float32)
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert apply(llama.ctx, pointer, data.size, data.shape[1], 1, len(data)) == 0
    llama.reset()
    llama.eval(ids)
    return np.array(llama.scores[: len(ids)])


def test_a_tiny_llama_is_the_same_in_a_gguf_file(tmp_path):
    """The model that llama.cpp is given, read back by transformers: so the next test compares like with like."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate")
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    original = tiny_llama()
    llama_gguf(tmp_path / "tiny.gguf", original)
    read = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.tensor([[5, 9, 20, 33, 41]])
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, original.eval()(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [[1], [2], [1, 3]])
def test_an_exported_vector_moves_llama_cpp_as_steer_moves_the_model(model, vectors, tmp_path, layers):
    reason = "needs llama-cpp-python: the export is checked against llama.cpp itself"
    llama_cpp = pytest.importorskip("llama_cpp", reason=reason)
    path = llama_gguf(tmp_path / "tiny.gguf", model.hf_model)
    llama = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    ids, scale = model.encode(TEXT).ids, 0.5
    plain = model.forward([ids])[0]
    vector = np.zeros((model.n_layers - 1, model.d_model), dtype=np.float32)
    there = llama_cpp_logits(llama_cpp, llama, ids, vector)
    np.testing.assert_allclose(there, plain.numpy(), atol=0.02)  # llama.cpp keeps keys and values in float16
    for tensor in GGUFReader(vectors.export_gguf(tmp_path / "calm.gguf", "calm", layers)).tensors:
        vector[int(tensor.name.removeprefix("direction.")) - 1] = scale * tensor.data
    change = llama_cpp_logits(llama_cpp, llama, ids, vector) - there
    with el.steer(model, scale * vectors["calm"], layers=layers):
        wanted = (model.forward([ids])[0] - plain).numpy()
    assert np.corrcoef(change.ravel(), wanted.ravel())[0, 1] > 0.99
    assert np.linalg.norm(change) == pytest.approx(np.linalg.norm(wanted), rel=0.05)
