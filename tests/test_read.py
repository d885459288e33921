import pandas as pd
import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

from emolens.corpus.packaged import stories
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.reading.read import read, score
from emolens.studies.reading.detection import detect, headline
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import unit
from emolens.vectors.logit_lens import logit_lens

EMOTIONS = ["calm", "serene", "angry", "furious", "sad"]
LONG = " ".join(["the river was very cold and calm ."] * 4)
CHAT = [
    {"role": "user", "content": "the door was cold ."},
    {"role": "assistant", "content": "she ran !"},
    {"role": "user", "content": "and he walked"},
]


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return derive(model, stories().where(emotion=EMOTIONS), cache=False, progress=False)


def by_hand(model, vectors, ids, start, end, layer=2):
    x = model.forward([ids], stop_after=layer)[0, start:end].mean(dim=0) - vectors.at(layer).centre_stories[0]
    return unit(x) @ vectors.matrix(layer).T


def test_tokens_last_and_documents_equal_the_definition(model, vectors):
    texts = ["she ran !", LONG]
    ids = [model.encode(text).ids for text in texts]
    tokens = read(model, texts, vectors, layer=2)
    assert len(tokens) == sum(map(len, ids))
    torch.testing.assert_close(tokens.of_text(0).scores[1], by_hand(model, vectors, ids[0], 1, 2), rtol=1e-4, atol=1e-5)
    last = read(model, texts, vectors, layer=2, at="last")
    torch.testing.assert_close(last.scores[1], by_hand(model, vectors, ids[1], -1, None), rtol=1e-4, atol=1e-5)
    document = read(model, texts, vectors, layer=2, at="document")
    assert document.spans == ((1, 3), (10, len(ids[1])))
    torch.testing.assert_close(document.scores[1], by_hand(model, vectors, ids[1], 10, None), rtol=1e-4, atol=1e-5)


def test_turns_cover_the_content_of_each_message(model, vectors):
    readout = read(model, CHAT, vectors, layer=2, at="turn")
    assert readout.labels == ("user", "assistant", "user")
    encoding = model.encode(CHAT)
    for message, (start, end) in zip(CHAT, readout.spans, strict=True):
        assert model.tokenizer.decode(encoding.ids[start:end]) == message["content"]
    torch.testing.assert_close(
        readout.scores[1], by_hand(model, vectors, encoding.ids, *readout.spans[1]), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="text 1 is no conversation"):
        read(model, [CHAT, "she ran"], vectors, at="turn")


def test_a_base_model_gets_a_plain_form_that_ends_before_the_reply(model):
    assert model.tokenizer.decode(model.encode(CHAT).ids).replace(" ", "").endswith("Assistant:")
    assert not model.tokenizer.decode(model.encode(CHAT[:2]).ids).replace(" ", "").endswith("Assistant:")
    with pytest.raises(ValueError, match="unknown role 'robot'"):
        model.encode([{"role": "robot", "content": "he ran"}])


def test_the_set_centre_takes_the_mean_of_what_is_read_off(model, vectors):
    texts = [LONG, LONG.replace("calm", "afraid"), LONG.replace("cold", "warm")]
    for at in ("tokens", "document"):
        readout = read(model, texts, vectors, layer=2, at=at, centre="set", method="raw")
        resid = [model.forward(text, stop_after=2)[0] for text in texts]
        x = torch.cat(resid) if at == "tokens" else torch.stack([r[10:].mean(dim=0) for r in resid])
        expected = unit(x - x.mean(dim=0)) @ vectors.matrix(2, "raw").T
        torch.testing.assert_close(readout.scores, expected, rtol=1e-3, atol=1e-4)


def test_the_whitened_score_is_the_cosine_after_whitening_both(vectors):
    x = torch.randn(7, 32)
    at = vectors.at(2)
    squares = at.noise_scale[0] ** 2
    w_w = at.noise_basis[0].T * (squares[:-1] - squares[-1]) @ at.noise_basis[0] + squares[-1] * torch.eye(32)
    w = torch.linalg.cholesky(w_w)  # an angle is the same whichever square root is taken
    expected = unit((x - at.centre_neutral[0]) @ w) @ unit(vectors.raw[:, 2] @ w).T
    torch.testing.assert_close(score(x, vectors, 2, "whitened", "neutral"), expected, rtol=1e-3, atol=1e-4)


def test_batches_and_order_do_not_matter(model, vectors):
    texts = [LONG, "she ran !", LONG + " she ran !", "he was calm ."]
    whole = read(model, texts, vectors, at="document").scores
    small = read(model, texts, vectors, at="document", token_budget=40).scores
    torch.testing.assert_close(small, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        read(model, texts[::-1], vectors, at="document").scores.flip(0), whole, rtol=1e-4, atol=1e-5
    )


def test_top_and_columns(model, vectors):
    readout = read(model, [LONG, "she ran !"], vectors)
    tops = readout.top(2)
    assert [len(t) for t in tops] == [2, 2]
    mean = readout.of_text(0).scores.mean(dim=0)
    assert tops[0][0] == (vectors.emotions[int(mean.argmax())], pytest.approx(float(mean.max())))
    assert len(read(model, LONG, vectors).top(3)) == 3
    frame = readout.frame()
    assert list(frame.columns) == ["text", "label", *vectors.emotions]
    assert torch.equal(readout["sad"], readout.scores[:, vectors.index("sad")])
    with pytest.raises(ValueError, match="'clam' was not read .did you mean calm"):
        readout["clam"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "token"}, "at='token' is none of .*did you mean tokens"),
        ({"centre": "story"}, "did you mean stories"),
        ({"method": "cosinus"}, "method 'cosinus'"),
        ({"layer": 40}, "layer 40 is out of range"),
    ],
)
def test_unknown_options_are_named(model, vectors, options, message):
    with pytest.raises(ValueError, match=message):
        read(model, "she ran !", vectors, **options)


def test_vectors_of_another_model_are_refused(vectors):
    other = HookedModel.from_hf(tiny_llama(seed=3, layers=5), tiny_tokenizer(), "another")
    with pytest.raises(ValueError, match="belong to tiny-llama"):
        read(other, "she ran !", vectors)


def test_detection_finds_the_training_stories_and_not_permuted_labels(model, vectors):
    corpus = stories().where(emotion=EMOTIONS, register="plain")
    table = detect(model, vectors, corpus, methods=("whitened",), layers=[3], progress=False).table().iloc[0]
    assert table["first"] > table["first_null"]
    shuffled = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [(corpus[j].emotion, corpus[i].text) for i, j in enumerate(shuffled)]
    null = detect(model, vectors, Corpus.from_rows(rows), methods=("whitened",), layers=[3], progress=False)
    assert null.table().iloc[0]["first"] <= null.table().iloc[0]["first_null"] + 0.05
    assert "null of permuted labels" in null.headline() and "permutations of the labels" in null.null


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "the corpus is empty"),
        ([("calm", LONG)], {"centre": "storys"}, "centre='storys' is none of set, .*did you mean stories"),
        ([("calm", LONG)], {"methods": ["cosinus"]}, "method 'cosinus' is none of"),
        ([("calm", LONG), ("clam", LONG)], {}, "clam"),
        ([("calm", LONG), ("sad", "calm")], {}, "text 1 .sad. is too short, a single token: 'calm'"),
    ],
)
def test_detection_names_what_it_cannot_use(model, vectors, rows, options, message):
    with pytest.raises(ValueError, match=message):
        detect(model, vectors, Corpus.from_rows(rows), **options, progress=False)


def test_the_headline_of_detection_is_held_against_the_higher_null(vectors):
    row = {"method": "whitened", "layer": vectors.chosen_layer("whitened"), "first": 0.3, "first_null": 0.2}
    assert "beyond the null of permuted labels (up to 20.0%)" in headline(pd.DataFrame([row]), vectors)
    both = headline(pd.DataFrame([row | {"first_shuffled_highest": 0.4}]), vectors)
    assert "inside the null of permuted labels and of vectors from shuffled labels (up to 40.0%)" in both


def test_the_logit_lens_reads_a_planted_token(model, vectors):
    frame = logit_lens(model, vectors, layer=2, emotions=["sad", "calm"], k=3)
    assert frame["emotion"].tolist() == ["sad", "calm"]
    assert frame["up"].map(len).tolist() == [3, 3]
    from dataclasses import replace

    token = model.tokenizer.convert_tokens_to_ids("river")
    weight = model.bridge.unembed.weight if hasattr(model.bridge.unembed, "weight") else model.bridge.W_U.T
    raw = vectors.raw.clone()
    raw[vectors.index("sad"), 2] = weight[token].detach() * 100
    planted = replace(vectors, raw=raw)
    assert logit_lens(model, planted, layer=2, emotions=["sad"], method="raw")["up"][0][0] == "river"
