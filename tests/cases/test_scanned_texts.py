"""Issue 13, section 3: what a scan takes for a document."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from chats import CHATML, byte_model, byte_tokenizer
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.packaged import stories
from emolens.models.encoding import encode
from emolens.models.model import HookedModel

TEXTS = ["she ran and he was very calm .", "the river was cold , and the night was warm ."]
CHAT = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": "she was calm"}]


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return el.derive(model, stories("plain").where(emotion=["calm", "sad", "angry"]), cache=False, progress=False)


def scan(model, vectors, documents, **options):
    return el.scan(model, vectors, documents, progress=False, **options)


def test_columns_and_generators_are_documents(model, vectors):
    expected = scan(model, vectors, TEXTS).hits
    column = pd.DataFrame({"text": ["x", *TEXTS]})["text"][1:]  # pandas users: a filtered column
    assert scan(model, vectors, column).hits == expected
    assert scan(model, vectors, (text for text in TEXTS)).hits == expected


@pytest.mark.parametrize("kind", ["conversation", "ids", "encoding"])
def test_a_conversation_and_ids_are_scanned_as_they_are_read(model, vectors, kind, tmp_path):
    given = {"conversation": CHAT, "ids": model.encode(TEXTS[1]).ids, "encoding": model.encode(CHAT)}[kind]
    path = tmp_path / "state.json"
    found = scan(model, vectors, [TEXTS[0], given], path=path)
    scores = el.read(model, [given], vectors).scores
    scores[: 10 if len(scores) >= 20 else 1] = -torch.inf
    assert found.documents == 2 and found.tokens == len(model.encode(TEXTS[0]).ids) + len(scores)
    for column, emotion in enumerate(vectors.emotions):
        (hit,) = (hit for hit in found.top(emotion) if hit.document == 1)
        assert abs(hit.score - float(scores[:, column].max())) < 1e-5
        assert hit.text[slice(*hit.span)] == model.token_strings(model.encode(given))[hit.rank]
    assert scan(model, vectors, [TEXTS[0], given], path=path) == found  # the same documents are known again
    with pytest.raises(ValueError, match="other documents"):
        scan(model, vectors, [TEXTS[0], [*model.encode(TEXTS[1]).ids, 5]], path=path)


def test_a_rendered_conversation_has_one_bos(few_dialogues):
    model = byte_model(byte_tokenizer("{{ bos_token }}" + CHATML, bos=True))
    names = [(emotion, topic) for emotion in ("calm", "sad", "angry") for topic in "abcdef"]
    rows = [{"emotion": emotion, "text": f"{topic} was here, {emotion}", "topic": topic} for emotion, topic in names]
    corpus = el.Corpus.from_rows(rows)
    vectors = el.derive(model, corpus, [2], cache=False, progress=False)
    text = model.tokenizer.apply_chat_template(CHAT, tokenize=False)
    hits = {kind: scan(model, vectors, [given], layer=2) for kind, given in (("text", text), ("chat", CHAT))}
    assert hits["text"].tokens == hits["chat"].tokens == len(encode(model.tokenizer, CHAT).ids)
    for emotion in vectors.emotions:
        ours, other = hits["text"].top(emotion)[0], hits["chat"].top(emotion)[0]
        assert (ours.score, ours.rank, ours.marked()) == (other.score, other.rank, other.marked())


@pytest.mark.parametrize(
    "given, said",
    [
        # pandas users: the column names were scanned
        (
            pd.DataFrame({"text": TEXTS, "emotion": ["a", "b"]}),
            r'DataFrame with the columns text, emotion.*df\["text"\]',
        ),
        (set(TEXTS), "is a set, which has no order"),
        (None, "is missing"),
        (7, "is the int 7"),
        (io.StringIO("she ran\n"), "an open file is no list of documents"),
        (stories("plain"), "a Corpus is no document: give its .texts"),
        ([TEXTS[0], None], "document 1 is of type NoneType; a text is str or bytes, .*missing"),
        (pd.Series([TEXTS[0], float("nan")]), "document 1 is of type float; .*missing"),
        ([TEXTS[0], [TEXTS[1]]], "document 1 is of type list; .*item 0 of the list is the str"),
        ([TEXTS[0], True], "document 1 is of type bool"),
        ([5, 7, 9], "document 0 is of type int"),  # ids of one document: [ids]
        ([TEXTS[0], [4, -1]], "document 1 is of type list; .*item 1 of the list is the int '-1'"),
        ([TEXTS[0], [4, 80]], "document 1: token 1 is 80, beyond the vocabulary"),
        ([TEXTS[0], [{"role": "robot", "content": "x"}]], "document 1: message 0: unknown role 'robot'"),
        (CHAT, "document 0 has no 'text', only role, content; a conversation is one document: put it in a list"),
    ],
)
def test_what_is_no_document_is_refused_by_name(model, vectors, given, said):
    with pytest.raises(ValueError, match=said):
        scan(model, vectors, given)


def test_documents_in_a_list_of_paths(model, vectors, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    assert [hit.text for hit in scan(model, vectors, [Path(path)]).top("calm")] == [
        hit.text for hit in scan(model, vectors, TEXTS).top("calm")
    ]
