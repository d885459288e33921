import struct

import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

from emolens.corpus.packaged import stories
from emolens.models.model import HookedModel
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, check_method

EMOTIONS = ["calm", "serene", "angry", "furious", "sad"]


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return derive(model, stories().where(emotion=EMOTIONS), cache=False, progress=False)


def test_methods_are_of_length_one_and_denoised_is_orthogonal_to_the_neutral_components(vectors):
    for method in METHODS:
        torch.testing.assert_close(vectors.matrix(2, method).norm(dim=1), torch.ones(5))
    assert (vectors.vectors(2, "denoised") @ vectors.at(2).neutral_basis[0].T).abs().max() < 1e-5
    assert check_method("cosine") == "denoised"
    with pytest.raises(ValueError, match="method 'cos' is none of"):
        check_method("cos")


def test_indexing(vectors):
    assert vectors["calm"].name == "calm"
    assert vectors[["sad", "calm"]].emotions == ("sad", "calm")
    assert torch.equal(vectors[["sad"]].raw[0], vectors.raw[vectors.index("sad")])
    assert vectors[2].layers == (2,)
    assert torch.equal(vectors["sad", 2], vectors["sad"].at(2))
    assert torch.equal(vectors.at(3, 1).raw[:, 0], vectors.raw[:, 3])
    assert vectors[["sad", "calm"]].split_half(1).tolist() == [
        vectors.split_half(1)[vectors.index("sad")],
        vectors.split_half(1)[vectors.index("calm")],
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [("clam", r"emotion 'clam' \(did you mean calm"), (9, "no vectors at layer 9; there are layers 0, 1, 2, 3")],
)
def test_unknown_names_and_layers_are_answered_with_the_known_ones(vectors, key, message):
    with pytest.raises(ValueError, match=message):
        vectors[key]


def test_combinations_are_sums_of_unit_vectors_in_strengths(vectors):
    combined = 0.5 * vectors["calm"] - vectors["angry"]
    torch.testing.assert_close(combined.values, 0.5 * vectors["calm"].values - vectors["angry"].values)
    assert combined.name == "0.5*calm - angry"
    assert combined.scaled and not vectors["calm"].scaled
    torch.testing.assert_close(vectors["calm"].values.norm(dim=1), torch.ones(4))
    with pytest.raises(ValueError, match="other layers"):
        vectors["calm"] + vectors.at(1)["sad"]


def test_nearest_and_similarity_agree(vectors):
    similarity = vectors.similarity(2)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(5))
    name, cosine = vectors.nearest("calm", k=1, layer=2)[0]
    assert name != "calm"
    row = similarity[vectors.index("calm")].clone()
    row[vectors.index("calm")] = -2
    assert cosine == pytest.approx(float(row.max()))
    assert vectors.nearest(1.0 * vectors["calm"], k=1, layer=2)[0] == ("calm", pytest.approx(1.0))


@pytest.mark.parametrize(("dtype", "cosine"), [(torch.float32, 1.0), (torch.float16, 0.9999)])
def test_save_and_load(vectors, model, tmp_path, dtype, cosine):
    loaded = EmotionVectors.load(vectors.save(tmp_path / "v.safetensors", dtype), model)
    assert (loaded.emotions, loaded.layers, loaded.stamp) == (vectors.emotions, vectors.layers, vectors.stamp)
    for method in METHODS:
        assert vectors.cosine_with(loaded, 2, method).min() >= cosine - 1e-6
    torch.testing.assert_close(loaded.residual_norm, vectors.residual_norm, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("damage", ["flip", "truncate", "other"])
def test_a_damaged_file_is_refused(vectors, tmp_path, damage):
    path = vectors.save(tmp_path / "v.safetensors")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-50] ^= 255
    path.write_bytes(
        data[: len(data) // 2] if damage == "truncate" else b"not safetensors" if damage == "other" else data
    )
    with pytest.raises(ValueError, match="damaged"):
        EmotionVectors.load(path)


def test_another_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no emotion vectors"):
        EmotionVectors.load(tmp_path / "x.safetensors")


def test_vectors_of_another_model_are_refused_and_another_revision_warned_of(vectors, tmp_path):
    path = vectors.save(tmp_path / "v.safetensors")
    other = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    with pytest.raises(ValueError, match="belong to tiny-llama .* not to tiny-gemma"):
        EmotionVectors.load(path, other)
    revision = HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "tiny-llama")
    with pytest.warns(UserWarning, match="other weights of tiny-llama"):
        EmotionVectors.load(path, revision)


def test_compact_keeps_the_readout_and_nearly_the_norm(vectors):
    small = vectors.compact(8)
    assert torch.equal(small.whitened, vectors.whitened)
    x = torch.randn(200, 32)
    ratio = small.whitened_norm(x, 2) / vectors.whitened_norm(x, 2)
    assert ratio.median() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(
        vectors.compact(32).whitened_norm(x, 2), vectors.whitened_norm(x, 2), rtol=1e-3, atol=1e-3
    )


def test_gguf_export_reads_back(vectors, tmp_path):
    from gguf import GGUFReader

    reader = GGUFReader(vectors.export_gguf(tmp_path / "calm.gguf", "calm"))
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.layer_count"].contents() == 3
    read = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    assert sorted(read) == ["direction.1", "direction.2", "direction.3"]
    torch.testing.assert_close(read["direction.2"], vectors["calm", 2] * vectors.residual_norm[2])
    with pytest.raises(ValueError, match="block 0"):
        vectors.export_gguf(tmp_path / "x.gguf", 0.5 * vectors["calm"], layers=[0, 1])
    assert struct.unpack("<4s", (tmp_path / "calm.gguf").read_bytes()[:4])[0] == b"GGUF"
