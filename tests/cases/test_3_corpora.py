"""Section 3, stories: what comes in is read by its names, or refused with the call to use."""

import json
import warnings
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
from tiny import WORDS

from emolens import corpus
from emolens.corpus.stories import Corpus, Story
from emolens.files import read_text
from emolens.vectors.derive import _checked_layers, derive

pytestmark = pytest.mark.usefixtures("few_dialogues")
PAIRS = [("sad", "He wept."), ("calm", "She sat by the window."), ("sad", "It was over."), ("calm", "Rain fell.")]
EXPECTED = Corpus.from_rows(PAIRS)
FRAME = pd.DataFrame(PAIRS, columns=["emotion", "text"])
Row = namedtuple("Row", ["text", "emotion"])


def long_pairs(stories=4, words=40):
    rng = np.random.default_rng(0)
    return [(e, " ".join(rng.choice(WORDS, words))) for _ in range(stories) for e in ("calm", "afraid", "angry")]


# --- rows


@pytest.mark.parametrize(
    "rows",
    [
        FRAME[["text", "emotion"]].itertuples(
            index=False
        ),  # pandas users: columns in another order, swapped in silence
        FRAME.itertuples(),  # pandas users: the index comes first
        FRAME,  # pandas users: a frame was iterated as its column names
        FRAME[["text", "emotion"]],
        FRAME.iterrows(),  # pandas users: pairs of index and Series
        [row for _, row in FRAME.iterrows()],
        FRAME.to_dict("records"),
        FRAME.assign(topic=None, register=np.nan),  # pandas users: an empty cell is NaN
        FRAME.to_numpy(),  # numpy users: rows are arrays, strings are np.str_
        [Row(text, emotion) for emotion, text in PAIRS],  # a named tuple is read by its fields
        iter(PAIRS),
        [[emotion, text] for emotion, text in PAIRS],
        EXPECTED,
    ],
)
def test_rows_are_read_by_their_names(rows):
    assert Corpus.from_rows(rows) == EXPECTED


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        # pandas users: plain tuples have no names, and columns in the other order were taken as they came
        (FRAME[["text", "emotion"]].itertuples(index=False, name=None), "a pair is .emotion, text.; swap them"),
        # data sets whose labels are not among the 171
        ([("He wept all day.", "sadness"), ("She wept.", "sadness"), ("He sang.", "joy")], "3 emotions are longer"),
        (FRAME["text"], r"a Series is one column; .*from_rows\(zip\(emotions, texts\)\)"),
        (pd.concat([FRAME, FRAME], axis=1), "a column twice"),
        # users of dictionaries by emotion, and of columns
        ({"sad": ["a", "b"], "calm": ["c"]}, r"keys 'sad', 'calm' .*for text in rows\[emotion\]"),
        ({"emotion": ["sad"], "text": ["a"]}, r'zip\(rows\["emotion"\], rows\["text"\]\)'),
        ({"emotion": "sad", "text": "a"}, "one story; give a list"),
        ("stories.jsonl", "from_jsonl"),
        (None, "None of type NoneType is no list of rows"),
        (7, "7 of type int is no list of rows"),
        ([None], r"row 0 .*NoneType 'None' is no story"),
        ([("sad", "plain", "rain", "He wept.")], "row 0 .* is no story"),
        ([("sad", b"He wept.")], "'text' is b'He wept.', which is not a string"),
        ([("sad", float("nan"))], "'text' is nan, which is not a string"),
        ([{"emotion": None, "text": "a"}], "'emotion' is None"),
        # a story generator's own keys
        ([{"emotion": "sad", "story": "a"}], r"'text' is missing; .*'text': row\['story'\]"),
        ([{"Emotion": "sad", "Text": "a"}], r"\{'emotion': row\['Emotion'\], 'text': row\['Text'\]\}"),
        # dialogues with a speaker
        ([{"speaker": "Ann", "text": "a"}], r"'emotion' is missing; .*'emotion': \.\.\., 'text': row\['text'\]"),
        # Hugging Face data sets: classes are numbers, or lists of numbers
        ([{"label": 3, "text": "a"}], r"'emotion': names\[row\['label'\]\].*its features"),
        ([{"labels": [3, 7], "text": "a"}], r"names\[row\['labels'\]\[0\]\]"),
        ([{"emotion": 3, "text": "a"}], r"'emotion' is 3, which is not a string. Map it: .*names\[row\['emotion'\]\]"),
    ],
)
def test_other_rows_are_refused_with_what_to_call(rows, message):
    with pytest.raises(ValueError, match=message):
        Corpus.from_rows(rows)


def test_what_is_passed_in_stays_as_it_was():
    rows = [{"emotion": "calm ", "text": "a", "topic": None}]
    Corpus.from_rows(rows)
    assert rows == [{"emotion": "calm ", "text": "a", "topic": None}]


def test_a_corpus_of_something_else_than_stories_is_refused():
    with pytest.raises((ValueError, TypeError)):
        Corpus((("sad", "He wept."),))


# --- labels


@pytest.mark.parametrize("other", ["calm ", " calm", "Calm", "CALM", "calm\u200b", "\ufeffcalm", "calm\n"])
def test_spellings_of_one_label_are_one_emotion(other):
    # spreadsheets: blanks and capitals made emotions of their own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = Corpus.from_rows([("calm", "a"), (other, "b"), ("sad", "c")])
    assert own.emotions == ("calm", "sad") and [s.emotion for s in own] == ["calm", "calm", "sad"]


def test_a_label_read_otherwise_is_named():
    with pytest.warns(UserWarning, match="the emotion 'Calm' as 'calm': read as one label"):
        assert Corpus.from_rows([("Calm", "a"), ("sad", "b")]).emotions == ("calm", "sad")
    with pytest.warns(UserWarning, match="the emotion 'joy' as 'Joy'"):
        assert Corpus.from_rows([("Joy", "a"), ("joy", "b")]).emotions == ("Joy",)
    with pytest.warns(UserWarning, match="the topic 'Rain' as 'rain'"):
        rows = [{"emotion": e, "text": e, "topic": t} for e, t in (("sad", "rain"), ("mad", "Rain "))]
        assert {s.topic for s in Corpus.from_rows(rows)} == {"rain"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Corpus.from_rows([("joy", "a"), ("sad", "b"), ("at  ease", "c")])  # white space alone needs no word


# --- texts


@pytest.mark.parametrize("copy", ["He wept.", " He  wept.\n", "He\u00a0wept."])
def test_one_text_under_two_emotions_is_refused(copy):
    # scraped data sets: identical rows with several labels
    with pytest.raises(ValueError, match=r"rows 0 and 2 .* 'He wept.', under two emotions, 'sad' and 'calm'"):
        Corpus.from_rows([("sad", "He wept."), ("calm", "b"), ("calm", copy)]).check()


def test_a_text_that_is_there_twice_is_warned_of_by_its_rows():
    with pytest.warns(UserWarning, match=r"1 of 4 stories repeat .* rows 1, 3 .*'He wept.' for 'sad'"):
        Corpus.from_rows([("calm", "a"), ("sad", "He wept."), ("calm", "c"), ("sad", "He wept. ")]).check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus.stories().check()


# --- files


def test_null_means_not_given(tmp_path):
    # JSON exports write null for what is not given
    path = tmp_path / "own.JSONL"
    path.write_text('{"emotion": "sad", "text": "a", "topic": null, "register": null}\n')
    assert Corpus.from_jsonl(path)[0] == Story("sad", "default", "", "a")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_json_array_is_read(tmp_path, indent, mark):
    # pandas' to_json and many downloads are one array
    path = tmp_path / "own.json"
    rows = [{"emotion": e, "text": t} for e, t in PAIRS]
    path.write_bytes(mark + json.dumps(rows, indent=indent).encode())
    assert Corpus.from_jsonl(path) == EXPECTED
    path.write_text(json.dumps(PAIRS, indent=indent))
    assert Corpus.from_jsonl(path) == EXPECTED


def test_pairs_on_lines_are_no_array(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    assert Corpus.from_jsonl(path) == EXPECTED
    path.write_text(json.dumps(PAIRS[0]) + "\n")
    assert len(Corpus.from_jsonl(path)) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("own.csv", b"emotion,text\n", r"own.csv is a table, not JSON Lines; use .*pandas.read_csv\(path\)"),
        ("own.CSV", b"emotion,text\n", "is a table"),
        ("own.tsv", b"emotion\ttext\n", r"sep='\\t'"),
        ("own.parquet", b"PAR1", "read_parquet"),
        ("own.json", b'{\n"rows": [\n]}', r"line 1: no JSON: .*one JSON object \('rows'\), not JSON Lines"),
        ("own.json", b'[\n{"emotion": "sad",\n]', "line 3: no JSON array"),
        ("own.json", b'[{"emotion": "sad", "text": "a"}, {"text": "b"}]', r"item 1 .*'emotion' is missing"),
        ("own.jsonl", '{"emotion": "sad", "text": "a"}'.encode("utf-16"), "line 1: the file is in UTF-16"),
        ("own.jsonl", b'\n{"emotion": "sad", "text": "\xe9"}', "line 2: byte 29 is not UTF-8"),
    ],
)
def test_other_files_are_told(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        Corpus.from_jsonl(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*gone.jsonl; a corpus is"):
        Corpus.of(tmp_path / "gone.jsonl")


def test_a_text_is_read_without_its_byte_order_mark(tmp_path):
    # editors on Windows write the mark; it was three tokens of junk
    path = tmp_path / "own.txt"
    path.write_bytes(b"\xef\xbb\xbfcalm\r\n")
    assert read_text(path) == "calm\r\n"


# --- derive


def test_derive_takes_rows_and_files(tiny, tmp_path):
    pairs = long_pairs()
    expected = derive(tiny, Corpus.from_rows(pairs), progress=False)
    path = Corpus.from_rows(pairs).to_jsonl(tmp_path / "own.jsonl")
    frame = pd.DataFrame(pairs, columns=["emotion", "text"])[["text", "emotion"]]
    for given in (pairs, iter(pairs), str(path), path, frame, frame.itertuples()):
        vectors = derive(tiny, given, cache=False, progress=False)
        assert vectors.emotions == ("afraid", "angry", "calm") and vectors.raw.equal(expected.raw)
    with pytest.raises(FileNotFoundError, match="no file"):
        derive(tiny, str(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match="42 of type int is no list of rows"):
        derive(tiny, 42)
    with pytest.raises(ValueError, match="no story for 'proud'"):
        derive(tiny, pairs, emotions="proud")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers is .*there is none"),
        (2, r"layers=2: give a list of blocks, such as \[2\]"),
        ("12", "layers='12': give a list"),
        ([1.5], "1.5, which is no whole number"),
        ([True], "True, which is no whole number"),
        (["1"], "'1', which is no whole number"),
        ([1, 1], "a block twice"),
        ([-1], "layer -1 is out of range"),
        ([4], "layer 4 is out of range"),
    ],
)
def test_layers_are_checked(tiny, layers, message):
    with pytest.raises(ValueError, match=message):
        _checked_layers(tiny, layers)
