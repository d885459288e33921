"""Issue 13, section 5: labels of tokens come from offsets, and a character made of several tokens is shown once."""

import re
import warnings

import numpy as np
import pytest
import torch
from chats import CHATML, byte_model, byte_tokenizer, sentencepiece_tokenizer
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens import plots
from emolens.models.encoding import encode, labels
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding
from emolens.plots.heatmap import whole_characters
from emolens.plots.tokens import fonts_for
from emolens.reading.read import Readout

# "so proud": Llama 2's decoder drops the spaces; the others are more than one byte a character
TEXTS = [
    "so proud 🥹",
    "  two  spaces ",
    "日本語です",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "a\n\n\tb",
    "👩‍👩‍👧 👍🏽",
    "é e\u0301",
    "x",
]
TOKENIZERS = {
    "bytes": byte_tokenizer,
    "bytes and BOS": lambda: byte_tokenizer(bos=True),
    "bytes, BOS, end": lambda: byte_tokenizer(bos=True, eos=True),
    "trimmed offsets": lambda: byte_tokenizer(bos=True, trim=True),  # as RoBERTa's and Llama 3's: no space in them
    "sentencepiece": sentencepiece_tokenizer,
}


def readout_of(model, texts):
    """A readout in which the score of each token is a tenth of its rank, for two emotions."""
    encoded = model.encode_all(texts)
    found = [model.token_strings(encoding) for encoding in encoded]
    scores = torch.cat([torch.arange(len(part)).float()[:, None].expand(-1, 2) for part in found]) / 10
    index = tuple(number for number, part in enumerate(found) for _ in part)
    where = tuple((i, i + 1) for part in found for i in range(len(part)))
    return Readout(
        scores,
        ("calm", "sad"),
        tuple(label for part in found for label in part),
        index,
        where,
        2,
        "cosine",
        "stories",
        "tokens",
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_labels_join_to_the_text(kind, text):
    tokenizer = TOKENIZERS[kind]()
    encoding = encode(tokenizer, text)
    found = labels(tokenizer, encoding)
    assert len(found) == len(encoding.ids) and "".join(found) == text
    assert not any("\ufffd" in label for label in found)
    if encoding.ids[0] == 1:
        assert found[0] == ""  # a BOS that is not in the text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_alone_have_the_labels_of_their_text(kind, text):
    # TransformerLens users: read(model, model.to_tokens(text).ids) showed one broken sign for each byte
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = labels(tokenizer, Encoding(ids, []))
    assert len(found) == len(ids) and "".join(found).strip() == text.strip()


def test_ids_that_the_tokenizer_would_not_give_have_labels_too():
    tokenizer = sentencepiece_tokenizer()
    pieces = ["▁s", "o", "▁p", "ro", "u", "d", *(f"<0x{byte:02X}>" for byte in "🥹".encode())]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    found = labels(tokenizer, Encoding(ids, []))
    assert found == ["s", "o", " p", "ro", "u", "d", "🥹", "", "", ""]
    cut = labels(tokenizer, Encoding(ids[:-1], []))  # half a character at the end
    assert len(cut) == 9 and "".join(cut).startswith("so proud")


def test_a_readout_has_them(planted):
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(bos=True), "tiny-llama")
    found = model.token_strings(model.encode("she  ran !"))
    assert found == ["", "she", "ran", "!"]  # this tokenizer drops white space
    model, vectors = planted
    assert el.read(model, "word3 word4  word5", vectors).labels == ("word3", "word4", "word5")
    assert el.read(model, ["word3 word4", "word1"], vectors, at="last").labels == ("word4", "word1")


def test_a_conversation_has_the_labels_of_its_template():
    model = byte_model(byte_tokenizer(CHATML))
    encoding = model.encode([{"role": "user", "content": "so 🥹"}])
    assert "".join(model.token_strings(encoding)) == encoding.text


# --- heat maps -------------------------------------------------------------------------------------


def test_a_character_is_one_cell_with_the_mean_of_its_tokens():
    model = byte_model(byte_tokenizer(bos=True))
    page = plots.heatmap(readout_of(model, "o 🥹 日"), "calm").markup
    cells = re.findall(r'<span class="[^"]*" title="([^"]*)">([^<]*)</span>', page.split("<small>")[0])
    assert [text for _, text in cells] == ["∅", "o", "·", "🥹", "·", "日"]
    assert cells[3][0] == "🥹 +0.450"  # tokens 3 to 6
    assert cells[5][0] == "日 +0.900"  # tokens 8 to 10


def test_marks_and_joined_emoji_stay_with_their_character():
    # Hindi and emoji users: a vowel sign alone is drawn on a dotted circle
    for text in ("नमस्ते", "👍🏽", "👩‍👩‍👧", "e\u0301"):
        model = byte_model(byte_tokenizer())
        tokens, means = whole_characters(model.token_strings(model.encode(text)), np.zeros((len(text.encode()), 1)))
        assert "".join(tokens) == text and len(means) == len(tokens)
        assert len(tokens) == {"नमस्ते": 4, "👍🏽": 1, "👩‍👩‍👧": 1, "e\u0301": 1}[text]


def test_bars_of_a_conversation_and_figures_show_a_character_once():
    model = byte_model(byte_tokenizer(CHATML))
    chat = [{"role": "user", "content": "o 🥹"}]
    read = readout_of(model, [chat])
    page = plots.conversation(read, None, model.encode_chat(chat).turns).markup
    assert page.count(">🥹<i") == 1 and "\ufffd" not in page
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ax = plots.token_scores(readout_of(model, "o 🥹!"), ["calm"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["o", "␣", "🥹", "!"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.0, 0.1, 0.35, 0.6]], atol=1e-6)


def test_turns_that_a_template_moved_are_shown_where_they_stand():
    read = readout_of(byte_model(byte_tokenizer()), "abcdef")
    page = plots.conversation(read, "calm", [("system", 4, 6), ("user", 0, 3)]).markup
    assert page.index("<b>user</b>") < page.index("<b>system</b>")


def test_glyphs_that_no_font_has_are_named(monkeypatch):
    from emolens.plots import tokens

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts_for("she ran é ␣") == []
    own = tokens._glyphs
    monkeypatch.setattr(tokens, "_glyphs", lambda path: own(path) - {ord("日"), ord("é")})
    with pytest.warns(UserWarning, match="no installed font has the glyphs of é 日: the figure"):
        fonts_for("aé日")


def test_a_font_that_has_the_glyphs_is_used(monkeypatch):
    from types import SimpleNamespace

    from emolens.plots import tokens

    fonts = {"own": {97}, "Has It": {0x65E5}, "Last Resort": {0x65E5, 0x672C}}
    listed = [SimpleNamespace(name=name, fname=name, style="normal") for name in fonts]
    monkeypatch.setattr(tokens, "_glyphs", lambda path: frozenset(fonts.get(path, fonts["own"])))
    monkeypatch.setattr(tokens.font_manager.fontManager, "ttflist", listed)
    monkeypatch.setattr(tokens.font_manager, "findfont", lambda *_: "own")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts_for("a日")[-1] == "Has It"


# --- real tokenizers -------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_real_tokenizers(name):
    model = el.load(name)
    vectors = el.packaged_vectors(name)
    for text in TEXTS:
        readout = el.read(model, text, vectors)
        assert "".join(readout.labels) == text
        assert len(readout) == len(model.encode(text).ids)
    readout = el.read(model, "so proud 🥹", vectors)
    tokens, means = whole_characters(readout.labels, readout.scores.numpy())
    assert tokens[-1].strip() == "🥹" and means.shape == (len(tokens), len(vectors.emotions))
    if model.tokenizer.chat_template:
        chat = [{"role": "user", "content": "नमस्ते"}, {"role": "assistant", "content": "so proud 🥹"}]
        turns = model.encode(chat).turns
        said = [model.tokenizer.decode(model.encode(chat).ids[turn.start : turn.end]) for turn in turns]
        assert said == ["नमस्ते", "so proud 🥹"]
    else:
        assert model.encode("<bos>so proud").ids == model.encode("so proud").ids
