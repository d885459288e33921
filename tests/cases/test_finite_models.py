"""Section 1 of the report, the model's part: weights and activations that are not finite are named where they enter."""

import json
import re

import pytest
import torch
from tiny import WORDS, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.stories import Corpus
from emolens.files import cache_dir
from emolens.reading.scan import scan
from emolens.vectors.pooling import pool
from emolens.vectors.token_moments import token_moments

pytestmark = pytest.mark.usefixtures("few_dialogues")
TEXTS = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(15)) for i in range(6)]
BAD = [*TEXTS[:4], f"{TEXTS[4]} w39 warm", *TEXTS[5:]]  # text 4 has the token whose embedding is spoiled below
VALUES = [float("inf"), float("-inf"), float("nan")]


@pytest.fixture
def corpus():
    rows = [
        {"emotion": e, "register": "plain", "topic": f"t{topic}", "text": f"{e} {text} {text}"}
        for topic, text in enumerate(BAD)
        for e in ("calm", "afraid", "angry")
    ]
    return Corpus.from_rows(rows)


@pytest.fixture(params=VALUES, ids=str)
def spoiled(request, tiny):
    """A model in which one token became infinite or NaN after it was wrapped."""
    spoil(tiny, request.param)
    return tiny


def spoil(model, value):
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight[model.tokenizer("w39").input_ids[0], 3] = value


# transformers forum: bfloat16 checkpoints that are loaded in float16 overflow.
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["model.layers.2.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_weights_that_are_not_finite_are_refused(value, name, tmp_path):
    broken = tiny_llama()
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[7] = value
    match = rf"not finite: 1 of the \d+ entries of '{re.escape(name)}'"
    with pytest.raises(ValueError, match=match):
        el.HookedModel.from_hf(broken, tiny_tokenizer(), "broken")
    broken.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=match):
        el.load(tmp_path, dtype="float32", device="cpu")


def test_an_overflow_of_float16_at_load_is_named(tmp_path):
    wide = tiny_llama()
    with torch.no_grad():
        wide.model.layers[1].mlp.up_proj.weight[0, 0] = 70_000
    wide.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"entries of 'model.layers.1.mlp.up_proj.weight' .*bfloat16 or float32"):
        el.load(tmp_path, dtype="float16", device="cpu")
    assert el.load(tmp_path, dtype="float32", device="cpu").n_layers == 4


def test_large_finite_weights_are_no_error():
    wide = tiny_llama()
    with torch.no_grad():
        wide.lm_head.weight.fill_(3e38)  # their sum is infinite
    assert el.HookedModel.from_hf(wide, tiny_tokenizer(), "wide").n_layers == 4


# transformers users: "Some weights were newly initialized" scrolls by, and the numbers are noise.
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_weights_that_are_missing_in_the_file_are_refused(name, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 weights of .* are not in its files.*: {re.escape(name)}"):
        el.load(tmp_path)


def test_tied_weights_are_not_missing(tmp_path):
    from tiny import tiny_gemma

    tiny_gemma().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert el.load(tmp_path, dtype="float32").n_layers == 6


def test_weights_of_another_shape_are_refused(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 90}))
    with pytest.raises(ValueError, match="of another shape, so that random numbers"):
        el.load(tmp_path, ignore_mismatched_sizes=True)


# The case of the report: read(...).top() answered ('calm', nan).
@pytest.mark.parametrize("at", ["tokens", "document", "last"])
def test_reading_names_text_and_layer(spoiled, at):
    vectors = el.derive(el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama"), stories(), progress=False)
    with (
        pytest.raises(ValueError, match="text 4: the output of block 2 of tiny-llama is not finite"),
        pytest.warns(UserWarning, match="other weights"),
    ):
        el.read(spoiled, BAD, vectors, layer=2, at=at)
    with pytest.raises(ValueError, match="text 0: the output of block 0 "):
        el.activations(spoiled, BAD[4:5], at=at)
    with pytest.warns(UserWarning, match="other weights"):
        assert el.read(spoiled, TEXTS, vectors, layer=2, at=at).scores.isfinite().all()


def stories():
    rows = [
        {"emotion": e, "register": "plain", "topic": f"t{t}", "text": f"{e} {text} {text}"}
        for t, text in enumerate(TEXTS)
        for e in ("calm", "afraid", "angry")
    ]
    return Corpus.from_rows(rows)


def test_pooling_names_text_and_layer_and_keeps_nothing(spoiled):
    with pytest.raises(ValueError, match="text 4: the output of block 0 of tiny-llama is not finite"):
        pool(spoiled, BAD, progress=False)
    with pytest.raises(ValueError, match="text 4: the output of block 2 "):
        pool(spoiled, BAD, [2, 3], ["last"], progress=False)
    assert not list(cache_dir().rglob("*.safetensors"))
    short = pool(spoiled, [*TEXTS, "she ran ."], progress=False).means(10, 3)
    assert short.isnan().all(dim=1).tolist() == [False] * 6 + [True]  # too short is another thing


def test_the_first_block_that_overflows_is_named(tiny):
    with torch.no_grad():
        tiny.hf_model.model.layers[2].mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match="text [0-5]: the output of block 2 "):
        pool(tiny, TEXTS, progress=False)


def test_a_token_that_no_rule_counts_is_named_too(tiny):
    with tiny.hooks([((3, "resid_post"), first_token_infinite)]):
        for rule in (0, 10):  # the norm of the residual stream would be NaN
            with pytest.raises(ValueError, match="text 0: the output of block 3"):
                pool(tiny, TEXTS, [3], rule, progress=False)


def first_token_infinite(x, hook):
    x = x.clone()
    x[:, 0] = torch.inf
    return x


def test_deriving_says_not_finite_instead_of_too_short(spoiled, corpus):
    with pytest.raises(ValueError, match=r"text 1[2-4]: the output of block 0 of tiny-llama is not finite"):
        el.derive(spoiled, corpus, progress=False)


def test_moments_name_text_and_layer(spoiled):
    with pytest.raises(ValueError, match="text 4: the output of block 1 of tiny-llama is not finite"):
        token_moments(spoiled, BAD, [1, 3], progress=False)
    assert token_moments(spoiled, TEXTS, [1, 3], progress=False).covariance.isfinite().all()


def test_a_scan_skips_the_document_and_says_why(spoiled, caplog):
    vectors = el.derive(el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama"), stories(), progress=False)
    with pytest.warns(UserWarning, match="other weights"):
        found = scan(spoiled, vectors, BAD, layer=2, progress=False)
    assert found.skipped == 1 and {hit.document for hit in found.top("calm")} == {0, 1, 2, 3, 5}
    assert "document 4 is skipped: its activations are no finite numbers (block 2)" in caplog.text


@pytest.mark.parametrize("value", VALUES)
def test_a_ranking_is_never_made_of_what_is_not_a_number(tiny, value):
    vectors = el.derive(tiny, stories(), cache=False, progress=False)
    readout = el.read(tiny, TEXTS[:2], vectors)
    readout.scores[-1, 1] = value
    with pytest.raises(ValueError, match="text 1: the score of 'angry' is not finite"):
        readout.top()
