"""Issue 13, section 3: one gate for what is taken as a text."""

import io
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.packaged import stories
from emolens.models.model import HookedModel
from emolens.models.texts import gate
from emolens.vectors.pooling import pool

A, B = "she ran !", "he was calm ."
CHAT = [{"role": "user", "content": A}]
Row = namedtuple("Row", ["Index", "text"])


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return el.derive(model, stories("plain").where(emotion=["calm", "sad", "angry"]), cache=False, progress=False)


def entries(model, vectors):
    """Every function that takes texts."""
    return {
        "read": lambda texts: el.read(model, texts, vectors),
        "activations": lambda texts: el.activations(model, texts, [2]),
        "generate": lambda texts: model.generate(texts, max_new_tokens=2),
        "pool": lambda texts: pool(model, texts, cache=False, progress=False),
        "forward": lambda texts: model.forward(texts, stop_after=1),
        "logits": lambda texts: model.logits(texts),
        "run_with_cache": lambda texts: model.run_with_cache(texts, [1]),
        "log_probs": lambda texts: el.log_probs(model, A, texts),
    }


ENTRIES = list(entries(None, None))
FRAME = pd.DataFrame({"text": [A, B, A], "emotion": ["sad", "calm", "sad"]})
SERIES = FRAME["text"][FRAME["emotion"] == "calm"]  # its index has no 0


@pytest.mark.parametrize(
    "texts, expected",
    [
        ((A, B), [A, B]),
        (FRAME["text"], [A, B, A]),
        (SERIES, [B]),  # pandas users: a filtered column is KeyError: 0
        (FRAME["text"].astype("category"), [A, B, A]),
        (np.array([A, B]), [A, B]),
        (np.array([A, B], dtype=object), [A, B]),
        ((text for text in (A, B)), [A, B]),  # a generator: "object of type 'generator' has no len()"
        ({"a": A, "b": B}.values(), [A, B]),
        (map(str.strip, (A, B)), [A, B]),
        ([torch.tensor([4, 5]), np.array([6])], [[4, 5], [6]]),
        (torch.tensor([[4, 5], [6, 7]]), [[4, 5], [6, 7]]),
        ([A, CHAT, [4, 5], (6, 7)], [A, CHAT, [4, 5], [6, 7]]),
    ],
)
def test_many_texts_in_any_container(texts, expected):
    assert gate(texts) == (expected, False)


@pytest.mark.parametrize(
    "text, expected",
    [
        (A, A),
        (np.str_(A), A),
        (CHAT, CHAT),
        (tuple(CHAT), CHAT),
        ([4, 5], [4, 5]),
        ((4, 5), [4, 5]),
        (torch.tensor([4, 5]), [4, 5]),
        (np.array([4, 5]), [4, 5]),
        ([np.int64(4), torch.tensor(5)], [4, 5]),
    ],
)
def test_one_text(text, expected):
    assert gate(text) == ([expected], True)


REFUSED = [
    (b"she ran", r"text 0 is bytes: decode them first"),  # bytes were read as token ids
    ([A, b"she ran"], r"text 1 is bytes: decode"),
    ([A, bytearray(b"x")], r"text 1 is bytearray: decode"),
    (FRAME, r'text 0 is a DataFrame with the columns text, emotion: give the one .*df\["text"\]'),
    (FRAME.rename(columns={"text": "story"}), r'df\["story"\]'),
    (FRAME.iloc[0], r"text 0 is a Series: give its .text"),
    (pd.Series([4, 5]), r"text 0 is a Series of numbers"),
    ({A, B}, r"text 0 is a set, which has no order: give sorted"),
    (Path("story.txt"), r"text 0 is a path: .*Path\('story.txt'\).read_text"),
    ([A, Path("story.txt")], r"text 1 is a path"),
    (io.StringIO(A), r"text 0 is an open file: give file.read\(\)"),
    (None, r"text 0 is missing \(None\)"),
    ([A, None], r"text 1 is missing \(None\): leave it out"),
    ([A, float("nan")], r"text 1 is missing \(nan\)"),
    (pd.Series([A, None, B]), r"text 1 is missing"),
    (pd.Series([A, pd.NA], dtype="string"), r"text 1 is missing"),
    ([float("nan"), A], r"text 0 is missing"),
    (7, r"text 0 is the int 7: a text is a str"),
    (7.5, r"text 0 is the float 7.5"),
    (True, r"text 0 is the bool True"),
    ([True, False], r"text 0 is the bool True"),  # booleans were the ids 1 and 0
    ([4, True], r"text 0: item 1 of the list is the bool 'True'"),
    ([4.0, 5.0], r"text 0 is the float 4.0: .*token ids are a list of integers"),
    (torch.tensor([4.0]), r"text 0 is the float 4.0"),
    (np.array([4.0]), r"text 0 is the float 4.0"),
    (torch.tensor(4), r"text 0 is the int 4"),
    ([4, -1], r"text 0: item 1 of the list is the int '-1'"),  # an index from the end of the embedding
    ([[4], [5, 80]], r"text 1: token 1 is 80, beyond the vocabulary of tiny-llama \(80 tokens"),
    ([4, 10**9], r"text 0: token 1 is 1000000000, beyond"),
    ([4, "she"], r"text 0: item 1 of the list is the str 'she'"),
    ([A, 4], r"text 1 is the int 4"),
    ([A, [B]], r"text 1: item 0 of the list is the str 'he was calm .'.*one flat list"),
    ([(A, "sad"), (B, "calm")], r"text 0: item 0 of the list is the str"),
    ([[[4, 5]]], r"text 0: item 0 of the list is the list"),
    (torch.zeros(1, 1, 2).long(), r"text 0: item 0 of the list is the list"),
    ([], r"no text was given: the list of texts is empty"),
    (np.array([]), r"no text was given"),
    ((text for text in ()), r"no text was given"),
    ([A, []], r"text 1: .*is empty"),
    ([A, " \n"], r"text 1: .*is empty"),
    ({"role": "user", "content": A}, r"text 0 is a single message: a conversation is a list of them"),
    ({"text": A}, r'text 0 is a dict with the keys text: give its \["text"\]'),
    ({"input_ids": [4]}, r'give its \["input_ids"\]'),
    ([A, {"a": 1}], r"text 1 is a dict with the keys a"),
    ([Row(0, A)], r"text 0 is a Row with the fields Index, text: give the one that holds the text"),
    (list(FRAME.itertuples()), r"text 0 is a Pandas with the fields Index, text, emotion"),
    ([A, object()], r"text 1 is an object, which is no text"),
    ([A, "half \ud83e of a pair"], r"text 1: .*half a surrogate pair at character 5"),
]


@pytest.mark.parametrize("texts, said", REFUSED)
def test_what_is_no_text_is_refused_by_name(model, texts, said):
    with pytest.raises(ValueError, match=said):
        model.encode_all(texts)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_has_the_gate(model, vectors, entry):
    ask = entries(model, vectors)[entry]
    for texts in (b"she ran", FRAME, {A, B}, Path("a"), None, [A, None], [A, [B]], [], [[4], [80]], [[4], [-1]]):
        with pytest.raises(ValueError, match=r"(text|continuation)s? (\d|was given)|a list of"):
            ask(texts)
    assert ask(SERIES) is not None and ask(text for text in (A, B)) is not None and ask([[4], [5, 6]]) is not None


def test_a_column_gives_what_its_list_gives(model, vectors):
    assert torch.equal(el.read(model, SERIES, vectors).scores, el.read(model, [B], vectors).scores)
    several = (A, B)
    assert model.generate((text for text in several), 3) == model.generate(list(several), 3)
    assert torch.equal(
        el.log_probs(model, A, pd.Series(["calm", "very cold"])), el.log_probs(model, A, ["calm", "very cold"])
    )
    assert isinstance(model.generate(pd.Series([A]), 2), list) and isinstance(model.generate(CHAT, 2), str)


def test_objects_that_hold_texts_say_where(model):
    corpus = stories("plain").where(emotion="calm")
    with pytest.raises(ValueError, match=r"text 0 is a Corpus: give its .texts"):
        model.encode_all(corpus)
    with pytest.raises(ValueError, match=r"text 0 is a Story: give its .text"):
        model.encode_all(list(corpus))
    with pytest.raises(ValueError, match=r"text 0 is a Batch with the fields ids, mask, turns"):
        model.encode_all(model.to_tokens(A))


def test_what_is_passed_in_stays_as_it_was(model):
    chat, ids = [{"role": "user", "content": [{"type": "text", "text": A}]}], [4, 5]
    before = model.tokenizer.backend_tokenizer.to_str(), str(chat), str(ids), dict(model.tokenizer.init_kwargs)
    model.generate([chat, ids, A], 2, stop=(stop := ["x"]))
    after = model.tokenizer.backend_tokenizer.to_str(), str(chat), str(ids), dict(model.tokenizer.init_kwargs)
    assert before == after and stop == ["x"]
    gate(chat).texts[0].append("x")
    assert len(chat) == 1


def test_a_model_without_a_tokenizer_says_so(model):
    bare = HookedModel(model.bridge, model.tokenizer, "bare")
    bare.tokenizer = None
    with pytest.raises(ValueError, match="text 0: the model has no tokenizer: give token ids"):
        bare.encode_all("she ran")


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 90), st.floats(), st.text(max_size=8), st.binary(max_size=4),
    st.sampled_from([A, B, "calm"]), st.builds(np.int64, st.integers(0, 79)),
)  # fmt: skip
MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "text", "from"]),
    st.one_of(SCALARS, st.sampled_from(["user", "assistant"])),
    max_size=3,
)


def containers(inner):
    lists = st.lists(inner, max_size=4)
    return st.one_of(
        lists,
        lists.map(tuple),
        lists.map(lambda items: pd.Series(items, dtype=object)),
        lists.map(lambda items: (item for item in items)),
        st.lists(st.integers(0, 79), max_size=4).map(np.array),
        st.lists(st.sampled_from([A, B]), max_size=3).map(
            lambda items: pd.Series(items, index=range(5, 5 + len(items)))
        ),
        st.lists(st.sampled_from([A, B]), max_size=3).map(np.array),
        st.lists(MESSAGES, max_size=3),
        MESSAGES,
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(SCALARS, containers, max_leaves=10))
def test_any_nesting_is_encoded_as_the_tokenizer_does_or_refused_with_its_number(model, value):
    try:
        texts = gate(value).texts
    except (ValueError, TypeError) as error:
        assert "text " in str(error)
        assert "no text was given" in str(error) or any(sign.isdigit() for sign in str(error))
        return
    try:
        encoded = model.encode_all(texts)
    except (ValueError, TypeError) as error:
        assert str(error).startswith("text ") and str(error)[5].isdigit()
        return
    for text, encoding in zip(texts, encoded, strict=True):
        if isinstance(text, str):
            assert encoding.ids == model.tokenizer(text).input_ids
        elif isinstance(text[0], dict):
            assert encoding.ids == model.tokenizer(encoding.text, add_special_tokens=False).input_ids
            assert all(message["content"].strip() in encoding.text for message in text)
        else:
            assert encoding.ids == text and all(type(token) is int and 0 <= token < 80 for token in text)


# --- generate's own options (section 7) ------------------------------------------------------------


def test_a_stop_string_is_one_string(model):
    # Hugging Face users: stop="END" stopped at any of E, N and D
    text = model.generate(A, max_new_tokens=20, temperature=0)
    first, second, *_ = text.split()
    assert model.generate(A, 20, temperature=0, stop=f"{first} {second}") == model.generate(
        A, 20, temperature=0, stop=[f"{first} {second}"]
    )
    assert model.generate(A, 20, temperature=0, stop=second[::-1] + "zz") == text


@pytest.mark.parametrize(
    "options, said",
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"temperature": -0.1}, "temperature=-0.1: give 0 .greedy. or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": True}, "temperature=True"),
        ({"top_p": 0.0}, "top_p=0.0: give a number above 0, up to 1"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"seed": True}, "seed=True"),
        ({"stop": [""]}, "stop string 0 is ''"),
        ({"stop": ""}, "stop string 0 is ''"),
    ],
)
def test_options_of_generate_are_checked(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.generate(A, **options)


@pytest.mark.parametrize("budget", [0, -1, True])
def test_a_token_budget_is_a_whole_number(model, vectors, budget):
    for ask in (
        el.read,
        lambda model, text, vectors, token_budget: el.activations(model, text, [2], token_budget=token_budget),
    ):
        with pytest.raises(ValueError, match=f"token_budget is {budget}"):
            ask(model, A, vectors, token_budget=budget)
    with pytest.raises(ValueError, match=f"token_budget is {budget}"):
        el.scan(model, vectors, [A], token_budget=budget, progress=False)
