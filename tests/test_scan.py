"""`scan` on a tiny model against `read` on each document."""

import itertools
import json
import logging
import shutil
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import WORDS, tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
import emolens.reading.document_stream
import emolens.reading.scan_result
from emolens.corpus.packaged import stories
from emolens.models.model import HookedModel
from emolens.reading.document_stream import documents, split
from emolens.reading.read import score
from emolens.reading.scan import scan
from emolens.reading.scan_result import Scan
from emolens.vectors.derive import derive

MODULE = sys.modules["emolens.reading.scan"]  # the name itself is the function
EMOTIONS = ["calm", "serene", "angry", "furious", "sad"]


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return derive(model, stories().where(emotion=EMOTIONS), cache=False, progress=False)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(emolens.reading.document_stream, "WINDOW", 8)


def some_texts(n, longest=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (n,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (m,), generator=generator)) for m in lengths]


def by_reading(model, vectors, texts, **options):
    """For each document, its scores and for tokens the place of each."""
    out = []
    for text in texts:
        scores = el.read(model, text, vectors, **options).scores
        if options.get("at") != "document":
            scores = scores.clone()
            scores[: 10 if len(scores) >= 20 else 1] = -torch.inf
        out.append(scores)
    return out


@pytest.mark.parametrize("method, centre", [("cosine", "stories"), ("raw", "neutral"), ("whitened", "stories")])
@pytest.mark.parametrize("at", ["tokens", "document"])
def test_hits_are_the_best_of_reading_each_document(model, vectors, small_windows, at, method, centre):
    texts = some_texts(40)
    options = {"layer": 2, "method": method, "centre": centre, "at": at}
    found = scan(model, vectors, texts, k=7, token_budget=200, progress=False, **options)
    scores = by_reading(model, vectors, texts, **options)
    best = torch.stack([s.amax(dim=0) for s in scores])
    for column, emotion in enumerate(vectors.emotions):
        hits = found.top(emotion)
        expected = best[:, column].topk(7).values
        torch.testing.assert_close(torch.tensor([hit.score for hit in hits]), expected, rtol=1e-4, atol=1e-5)
        assert len({hit.document for hit in hits}) == 7
        for hit in hits:
            ids = model.encode(texts[hit.document]).ids
            if at == "document":
                assert hit.rank is None and hit.span == (0, len(hit.text)) and texts[hit.document].startswith(hit.text)
                assert abs(float(best[hit.document, column]) - hit.score) < 1e-4
            else:
                assert abs(float(scores[hit.document][hit.rank, column]) - hit.score) < 1e-4
                assert hit.text[slice(*hit.span)] == model.token_strings(ids)[hit.rank]
                assert hit.text in texts[hit.document] and f"[{hit.text[slice(*hit.span)]}]" in hit.marked()
    assert (found.documents, found.split, found.skipped) == (40, 0, 0)
    assert found.tokens == sum(len(model.encode(text).ids) for text in texts)


def test_what_a_scan_offers(model, vectors, tmp_path):
    found = scan(model, vectors, [{"text": text, "name": f"n{i}"} for i, text in enumerate(some_texts(5))], k=3)
    assert [hit.name for hit in found.top("sad", 2)] == [f"n{hit.document}" for hit in found.top("sad")[:2]]
    frame = found.frame()
    assert len(frame) == 5 * 3 and list(frame.columns[:4]) == ["emotion", "place", "score", "document"]
    with pytest.raises(ValueError, match=r"'angri' was not scanned for \(did you mean angry\?\)"):
        found.top("angri")
    assert Scan.load(found.save(tmp_path / "scan.json")) == found
    assert repr(found).startswith("Scan(5 documents, 0 of them split and 0 skipped;")
    assert callable(el.scan) and el.scan is scan and el.Scan is Scan


def test_among_equals_the_first_document_wins(model, vectors, small_windows):
    text = some_texts(1, seed=3)[0]
    hits = scan(model, vectors, [text] * 20, k=3, progress=False).top("calm")
    assert [hit.document for hit in hits] == [0, 1, 2]


def test_padding_holds_no_hit_and_does_not_matter(model, vectors):
    texts = some_texts(12)
    together = scan(model, vectors, texts, progress=False, token_budget=10_000)
    alone = scan(model, vectors, texts, progress=False, token_budget=1)
    for emotion in EMOTIONS:
        assert [(h.document, h.rank) for h in together.top(emotion)] == [
            (h.document, h.rank) for h in alone.top(emotion)
        ]


# --- long documents --------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(12, 80), st.integers(10, 78), st.booleans())
def test_pieces_score_every_token_once(n, context, overlap, bos):
    overlap = min(overlap, context - 2)
    ids = list(range(n))
    scored = []
    for piece in split(0, ids, context, overlap, 0 if bos else None):
        assert len(piece.ids) <= context
        assert piece.first >= (10 if n >= 20 else 1)
        assert all(i == rank + piece.shift or (bos and rank == 0 and i == 0) for rank, i in enumerate(piece.ids))
        scored += [rank + piece.shift for rank in range(piece.first, len(piece.ids))]
    assert scored == list(range(10 if n >= 20 else 1, n))


@pytest.mark.parametrize("bos", [False, True])
def test_a_long_document_is_split_and_counted(few_dialogues, bos):
    model = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(bos), "tiny-gemma")
    vectors = derive(model, stories().where(emotion=EMOTIONS), cache=False, progress=False)
    short, long = some_texts(1)[0], " ".join(some_texts(30, seed=1))
    ids = model.encode(short).ids, model.tokenizer(long).input_ids
    assert len(ids[1]) > 2 * model.n_ctx
    found = scan(model, vectors, [short, long], layer=3, overlap=20, progress=False)
    assert (found.documents, found.split, found.tokens) == (2, 1, sum(map(len, ids)))
    scores = torch.full((len(ids[1]), 5), -torch.inf)
    total = torch.zeros(model.d_model)
    for piece in split(0, ids[1], model.n_ctx, 20, model.tokenizer.bos_token_id):
        read = el.read(model, [piece.ids], vectors, layer=3).scores[piece.first :]
        scores[piece.first + piece.shift : len(piece.ids) + piece.shift] = read
        total += model.forward([piece.ids], stop_after=3)[0, piece.first :].sum(dim=0)
    for column, emotion in enumerate(vectors.emotions):
        (hit,) = (hit for hit in found.top(emotion) if hit.document == 1)
        assert abs(hit.score - float(scores[:, column].max())) < 1e-4
        assert abs(hit.score - float(scores[hit.rank, column])) < 1e-4
        assert hit.text[slice(*hit.span)] == model.token_strings(ids[1])[hit.rank]
    whole = scan(model, vectors, [long], layer=3, overlap=20, at="document", progress=False)
    expected = score(total[None] / (len(ids[1]) - 10), vectors, 3)[0]
    found = torch.tensor([whole.top(emotion)[0].score for emotion in vectors.emotions])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_smaller_context_splits_more(model, vectors):
    found = scan(model, vectors, some_texts(6, longest=100), context=30, overlap=10, progress=False)
    assert found.split > 0
    assert found.tokens == sum(len(model.encode(text).ids) for text in some_texts(6, longest=100))


# --- interruptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["tokens", "document"])
def test_after_an_interruption_the_same_call_goes_on(model, vectors, small_windows, tmp_path, monkeypatch, at):
    texts, path = some_texts(45), tmp_path / "state.json"
    options = {"k": 4, "at": at, "progress": False}
    expected = scan(model, vectors, texts, **options)

    def interrupted():
        yield from texts[:21]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(model, vectors, interrupted(), path=path, **options)
    assert Scan.load(path).documents == 16

    calls, merge = itertools.count(), emolens.reading.scan_result.merge

    def merge_once(*args):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return merge(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MODULE, "merge", merge_once)
        scan(model, vectors, texts, path=path, **options)
    assert Scan.load(path).documents == 24
    assert scan(model, vectors, iter(texts), path=path, **options) == expected
    with monkeypatch.context() as patch:
        patch.setattr(model, "stopping", None)  # nothing is left to run
        assert scan(model, vectors, texts, path=path, **options) == expected
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["state.json"]


def test_a_killed_scan_goes_on_from_what_was_written(model, vectors, small_windows, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "SAVE_SECONDS", 0)
    texts, path, copy = some_texts(30), tmp_path / "state.json", tmp_path / "copy.json"

    def watched():
        for number, text in enumerate(texts):
            if number == 20:
                shutil.copy(path, copy)
            yield text

    expected = scan(model, vectors, watched(), path=path, progress=False)
    assert Scan.load(copy).documents == 16
    assert scan(model, vectors, texts, path=copy, progress=False) == expected


def test_a_finished_scan_goes_on_with_further_documents(model, vectors, small_windows, tmp_path):
    texts = some_texts(24)
    scan(model, vectors, texts[:16], path=tmp_path / "state.json", progress=False)
    assert scan(model, vectors, texts, path=tmp_path / "state.json", progress=False) == scan(
        model, vectors, texts, progress=False
    )


def test_a_state_of_something_else_is_refused(model, vectors, tmp_path):
    texts, path = some_texts(4), tmp_path / "state.json"
    scan(model, vectors, texts, k=2, layer=2, path=path, progress=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"another scan \(layer 2 there, 1 here; k 2 there, 3 here\)"):
        scan(model, vectors[EMOTIONS].at(1, 2), texts, k=3, layer=1, path=path, progress=False)
    with pytest.raises(ValueError, match=r"another scan \(vectors '\w+' there, '\w+' here\)"):
        scan(model, vectors[EMOTIONS[::-1]], texts, k=2, layer=2, path=path, progress=False)
    other = HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "tiny-llama")
    with pytest.raises(ValueError, match=r"fingerprint '\w+' there"), pytest.warns(UserWarning, match="other weights"):
        scan(other, vectors, texts, k=2, layer=2, path=path, progress=False)
    with pytest.raises(ValueError, match="of 4 other documents .they are not the first ones here"):
        scan(model, vectors, texts[::-1], k=2, layer=2, path=path, progress=False)
    with pytest.raises(ValueError, match="of 4 other documents .here are only 3"):
        scan(model, vectors, texts[:3], k=2, layer=2, path=path, progress=False)
    assert path.read_bytes() == before
    for damaged in (before[:-20], b"[1]", b'{"format": "other"}', b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"state.json holds no scan, or a damaged one .*delete it"):
            scan(model, vectors, texts, k=2, layer=2, path=path, progress=False)


# --- streams ---------------------------------------------------------------------------------------


def test_no_more_than_a_window_is_held(model, vectors, small_windows, monkeypatch):
    taken, ahead, merge = 0, [], emolens.reading.scan_result.merge

    def endless():
        nonlocal taken
        for text in itertools.cycle(some_texts(8, longest=6)):
            taken += 1
            if taken > 100:
                return
            yield text

    def watched(hits, scores, *rest):
        ahead.append(taken)
        return merge(hits, scores, *rest)

    monkeypatch.setattr(MODULE, "merge", watched)
    assert scan(model, vectors, endless(), progress=False).documents == 100
    assert ahead == [*range(8, 97, 8), 101]  # the last window ends where the generator does
    monkeypatch.setattr(emolens.reading.document_stream, "CHARACTERS", 20)
    taken, ahead[:] = 0, []
    scan(model, vectors, endless(), progress=False)
    assert max(b - a for a, b in itertools.pairwise(ahead)) <= 6


def test_a_generator_may_use_the_model(model, vectors):
    def written():
        for text in some_texts(3):
            yield model.generate(text, max_new_tokens=12)

    assert scan(model, vectors, written(), progress=False).documents == 3


def test_files_and_folders(model, vectors, tmp_path, caplog):
    texts = some_texts(7)
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b" / "z.TXT").write_text("\ufeff" + texts[0])
    (tmp_path / "b" / "a.md").write_text(texts[1])
    (tmp_path / ".hidden" / "c.txt").write_text(texts[2])
    (tmp_path / "data.csv").write_text(texts[3])
    rows = [{"text": texts[4], "name": "own"}, {"text": texts[5], "other": 1}, {"text": None}]
    lines = [json.dumps(row).encode() for row in rows]
    (tmp_path / "c.jsonl").write_bytes(b"\n".join([*lines, b"", b'{"text": "caf\xe9"}']) + b"\n")
    (tmp_path / "d.txt").write_bytes("naïve".encode("latin-1"))
    found = [row["name"] for row in documents(tmp_path)]
    assert found == ["own", "c.jsonl:2", "c.jsonl:3", "c.jsonl:5", "d.txt", "b/a.md", "b/z.TXT"]
    with caplog.at_level(logging.WARNING):
        result = scan(model, vectors, tmp_path, progress=False)
    assert (result.documents, result.skipped) == (7, 3)
    assert "document 3 (c.jsonl:5) is skipped: byte 13 is not UTF-8" in caplog.text and "(d.txt)" in caplog.text
    assert {hit.name: hit.document for hit in result.top("sad")} == {
        "own": 0,
        "c.jsonl:2": 1,
        "b/a.md": 5,
        "b/z.TXT": 6,
    }
    assert scan(model, vectors, [tmp_path / "b", texts[6]], progress=False).documents == 3
    assert all(not hit.text.startswith("\ufeff") for hit in result.top("sad"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder .*absent"):
        documents(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no .jsonl, .md, .txt file in"):
        list(documents(tmp_path))
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a.csv is none of .jsonl, .md, .txt"):
        documents(tmp_path / "a.csv")
    path = tmp_path / "a.jsonl"
    for line, said in (
        ('{"text": ', "line 2: no JSON: "),
        ("[1]", r"line 2: '\[1\]' is no object"),
        ('{"a": 1}', "line 2"),
    ):
        path.write_text(f'{{"text": "x"}}\n{line}\n')
        with pytest.raises(ValueError, match=rf"a.jsonl, {said}"):
            list(documents(path))


def test_documents_without_text_are_skipped_and_counted(model, vectors, caplog):
    good = some_texts(1)[0]
    found = scan(
        model, vectors, ["", " \n", "calm", "\ud800 x", b"\xff", {"text": None}, good.encode()], progress=False
    )
    assert (found.documents, found.skipped) == (7, 6)  # a single token is the attention sink
    assert [hit.document for hit in found.top("sad")] == [6]
    assert "document 3 is skipped" in caplog.text and "document 4 is skipped: byte 0" in caplog.text
    assert scan(model, vectors, [], progress=False).frame().empty
    assert scan(model, vectors, ["calm", ""], progress=False).skipped == 2


def test_numbers_that_are_none_are_no_hits(model, vectors, caplog):
    assert model.fingerprint
    weight = model.bridge.original_model.get_input_embeddings().weight
    bad = model.tokenizer("w39").input_ids[0]
    kept = weight[bad].detach().clone()
    texts = [*some_texts(3), "she ran w39 and he was calm"]
    with torch.no_grad():
        weight[bad] = torch.nan
    try:
        for at in ("tokens", "document"):
            found = scan(model, vectors, texts, at=at, progress=False)
            assert found.skipped == 1 and {hit.document for hit in found.top("calm")} == {0, 1, 2}
            assert "document 3 is skipped: its activations are no finite numbers" in caplog.text
    finally:
        with torch.no_grad():
            weight[bad] = kept


@pytest.mark.parametrize(
    "given, said",
    [
        ("she ran", "'she ran' is one document; give a list or generator of them, or a Path"),
        ({"text": "she ran"}, "is one document"),
        (["she ran", 7], "document 1 is of type int; a text is str or bytes"),
        ([{"content": "x", "id": 1}], "document 0 has no 'text', only content, id"),
    ],
)
def test_bad_documents(model, vectors, given, said):
    with pytest.raises(ValueError, match=said):
        scan(model, vectors, given, progress=False)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"at": "token"}, r"at='token' is none of tokens, document \(did you mean tokens\?\)"),
        ({"centre": "set"}, "centre='set' is none of stories, neutral"),
        ({"method": "cosin"}, "method 'cosin' is none of"),
        ({"k": 0}, "k=0: at least one"),
        ({"layer": 9}, "layer 9 is out of range"),
        ({"overlap": 5}, "overlap=5 does not go with a context of 256 tokens"),
        ({"overlap": 64, "context": 40}, "overlap=64 does not go with a context of 40 tokens"),
    ],
)
def test_bad_options(model, vectors, options, said):
    with pytest.raises(ValueError, match=said):
        scan(model, vectors, ["she ran"], progress=False, **options)


def test_vectors_of_another_model_are_refused(vectors):
    other = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    with pytest.raises(ValueError, match="belong to tiny-llama"):
        scan(other, vectors, ["she ran"])
