"""The packaged texts are what their data card says, and a user's own texts are read or refused clearly."""

import csv
import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emolens import corpus
from emolens.corpus.audit import mention
from emolens.corpus.stories import EMOTIONS, Corpus, Story
from emolens.files import data_path

# --- the packaged texts


def test_emotions():
    assert len(set(EMOTIONS)) == len(EMOTIONS) == 171
    assert list(EMOTIONS) == sorted(EMOTIONS)


def test_stories_are_fully_crossed():
    stories = corpus.stories()
    cells = Counter((story.emotion, story.register, story.topic) for story in stories)
    assert len(stories) == 3078 and set(cells.values()) == {1}
    for register, topics in {"literary": 12, "plain": 6}.items():
        chosen = corpus.stories(register)
        assert len({story.topic for story in chosen}) == topics
        assert Counter(story.emotion for story in chosen) == dict.fromkeys(EMOTIONS, topics)
    assert not {s.topic for s in corpus.stories("literary")} & {s.topic for s in corpus.stories("plain")}
    stories.check(EMOTIONS)


def test_vignettes():
    vignettes = corpus.vignettes()
    cells = Counter((story.emotion, story.register) for story in vignettes)
    assert cells == dict.fromkeys([(e, r) for e in EMOTIONS for r in ("narrative", "message")], 1)


def test_no_text_twice_and_none_names_its_emotion():
    texts = [*corpus.stories(), *corpus.vignettes()]
    assert len({story.text for story in texts}) == len(texts) == 3420
    assert [(s.emotion, found) for s in texts if (found := mention(s.emotion, s.text))] == []


def test_neutral_masked_and_speakers():
    assert len(set(corpus.neutral())) == 150
    assert all(text.startswith("Human: ") and "\n\nAssistant: " in text for text in corpus.neutral())
    felt_and_shown = {(row["felt"], row["shown"]) for row in corpus.masked()}
    assert len(corpus.masked()) == len(felt_and_shown) == 132
    assert all(felt != shown for felt, shown in felt_and_shown)
    assert all(row["speaker"] in {turn["speaker"] for turn in row["turns"]} for row in corpus.masked())
    both = {(row["user_emotion"], row["assistant_emotion"]) for row in corpus.speakers()}
    assert len(corpus.speakers()) == len(both) == 144
    assert {word for pair in both | felt_and_shown for word in pair} <= set(EMOTIONS)


def test_texts_about_the_kind_of_state():
    local, both = corpus.stimuli("locality"), corpus.stimuli("user_assistant")
    assert len(local) == 24 and set(Counter(row["emotion"] for row in local).values()) == {6}
    for row in local:
        places = [row[part]["message"] for part in ("before", "inside", "after")]
        assert [row["turns"][place]["role"] for place in places] == ["assistant"] * 3 and places == sorted(places)
        assert not mention(row["emotion"], row["turns"][row["inside"]["message"]]["text"])
    assert len(both) == 40 and all([t["role"] for t in row["turns"]] == ["user", "assistant"] for row in both)
    assert all(row["user_emotion"] != row["assistant_emotion"] for row in both)
    kinds = Counter(row["kind"] for row in corpus.stimuli("context"))
    assert kinds == {"prefix": 30, "connotation": 15}
    for row in corpus.stimuli("context"):
        if row["kind"] == "connotation":
            assert row["word"] in row["text"] and row["word_valence"] != row["meaning_valence"]
    denial = corpus.stimuli("denial")
    assert len(denial) == 10 and all(len(row["denial"]) == len(row["admission"]) == 3 for row in denial)
    words = {kind: sum(len(text.split()) for row in denial for text in row[kind]) for kind in ("denial", "admission")}
    assert abs(words["denial"] - words["admission"]) <= 0.1 * words["denial"]


def test_paper_clusters_partition_the_emotions():
    clusters = corpus.paper_clusters()
    assert len(clusters) == 10
    assert sorted(word for words in clusters.values() for word in words) == list(EMOTIONS)


def test_ratings():
    glasgow, russell = corpus.ratings("glasgow"), corpus.ratings("russell_mehrabian")
    assert (len(glasgow), len(russell)) == (82, 46)
    assert set(glasgow) | set(russell) <= set(EMOTIONS)
    assert glasgow["calm"] == {"valence": 7.343, "arousal": 3.743, "dominance": 5.941}
    assert russell["happy"] == {"valence": 0.81, "arousal": 0.51, "dominance": 0.46}
    assert all(1 <= value <= 9 for row in glasgow.values() for value in row.values())
    assert all(-1 <= value <= 1 for row in russell.values() for value in row.values())
    with pytest.raises(ValueError, match=r"'glasgo'.*glasgow"):
        corpus.ratings("glasgo")


def test_post_training_shift():
    rows = json.loads(data_path("ratings", "paper-post-training-shift.json").read_text("utf-8"))
    assert sorted(row["emotion"] for row in rows) == list(EMOTIONS)
    assert all(row["post"] - row["base"] == pytest.approx(row["diff"], abs=2e-4) for row in rows)


# --- the data card


def _rows(path):
    if path.suffix == ".csv":
        return len(list(csv.reader(path.read_text("utf-8").splitlines()))) - 1
    return len(json.loads(path.read_text("utf-8"))) if path.suffix == ".json" else path.read_bytes().count(b"\n")


def test_data_card_lists_every_text_file_with_its_rows():
    card = data_path("README.md").read_text("utf-8")
    for folder in ("corpus", "ratings"):
        for path in data_path(folder).iterdir():
            assert f"| `{folder}/{path.name}` | {_rows(path)} |" in card


def test_data_card_states_the_audit():
    card = data_path("README.md").read_text("utf-8")
    for row in corpus.audit():
        assert "| " + " | ".join("" if value is None else str(value) for value in row.values()) + " |" in card


def test_audit_of_a_known_corpus():
    own = Corpus.from_rows([("sad", "I wept!"), ("sad", "He wept!"), ("mad", 'Sad. "I? You?"'), ("mad", "So madly.")])
    rows = {row["measure"]: row["default"] for row in corpus.audit(own)}
    assert rows["texts"] == 4 and rows["words, median"] == 2
    assert rows["texts that name their own emotion"] == 1
    assert rows["another of the 171 words, %"] == 25
    assert rows["most frequent of these, in texts"] == "sad: 1"
    assert rows["an exclamation mark, explained by emotion, %"] == 100
    assert rows["first person, %"] == 25 and rows["second person, %"] == 0


# --- a user's own texts

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.builds(Story, words, st.text(), st.text(), words)))
def test_jsonl_round_trip_is_the_identity(tmp_path_factory, rows):
    own = Corpus(tuple(rows))
    path = own.to_jsonl(tmp_path_factory.mktemp("round") / "own.jsonl")
    assert Corpus.from_jsonl(path) == own
    assert Corpus.from_jsonl(path).hash == own.hash


def test_awkward_line_breaks_survive(tmp_path):
    own = Corpus.from_rows([("sad", "one\ntwo\r\nthree\u2028four\x85five\x1esix"), ("mad", "\ufeffé日本🙂")])
    assert Corpus.from_jsonl(own.to_jsonl(tmp_path / "own.jsonl")) == own


def test_rows_of_every_kind():
    story = Story("sad", "plain", "rain", "He wept.")
    mapping = {"emotion": "mad", "text": "He shouted.", "author": 3}
    own = Corpus.from_rows([story, mapping, ("calm", "He sat.")])
    assert own[0] == story
    assert own[1] == Story("mad", "default", "", "He shouted.")
    assert [s.emotion for s in own] == ["sad", "mad", "calm"]
    assert own.texts == ["He wept.", "He shouted.", "He sat."]


def test_emotions_come_in_the_packaged_order_then_as_found():
    own = Corpus.from_rows((emotion, "text") for emotion in ("wistful", "sad", "calm", "aglow", "sad"))
    assert own.emotions == ("calm", "sad", "wistful", "aglow")


def test_hash_follows_the_rows_and_not_their_spelling(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"emotion": "sad", "text": "é"}\n{"emotion": "mad", "text": "b"}\n', "utf-8")
    own = Corpus.from_jsonl(path)
    path.write_text('\ufeff{"text":"\\u00e9", "emotion":"sad"}\r\n\r\n{"topic":"","text":"b","emotion":"mad"}', "utf-8")
    assert Corpus.from_jsonl(path).hash == own.hash
    assert Corpus(own.stories[::-1]).hash != own.hash
    assert Corpus.from_rows([("sad", "é"), ("mad", "c")]).hash != own.hash


def test_where():
    stories = corpus.stories()
    assert len(stories.where(register="plain", emotion=["calm", "sad"])) == 12
    assert len(stories.where(topic="letter", register="literary")) == 0
    with pytest.raises(ValueError, match=r"no story has the emotion 'clam' \(did you mean calm"):
        stories.where(emotion="clam")


def test_known_emotion():
    assert corpus.known_emotion("calm") == "calm"
    with pytest.raises(ValueError, match=r"unknown emotion 'hapy'.*happy"):
        corpus.known_emotion("hapy")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"emotion": "sad", "text": "a"', "line 2: no JSON: Expecting ',' delimiter at column 31"),
        (
            '{"emotion": "sad", "topic": "a"}',
            "line 2: the key 'text' is missing; there is 'emotion', 'topic'",
        ),
        ('{"text": "a"}', "line 2: the key 'emotion' is missing"),
        ("{}", "line 2: the key 'emotion' is missing; there is none"),
        ('{"emotion": "sad", "text": " \\n"}', "line 2: the text for 'sad' is empty"),
        ('{"emotion": "", "text": "a"}', "line 2: the emotion is empty"),
        ('{"emotion": "sad", "text": 7}', "line 2: 'text' is 7, which is not a string"),
        ('{"emotion": "sad", "text": "a", "topic": 7}', "line 2: 'topic' is 7, which is not a string"),
        ('{"emotion": null, "text": "a"}', "line 2: 'emotion' is None, which is not a string"),
        ('{"emotion": "sad", "text": "a\\ud83d"}', "line 2: half a surrogate pair in 'text' at character 1"),
        ('"sad"', "line 2: str 'sad' is no story"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"emotion": "mad", "text": "a"}}\n{line}\n', "utf-8")
    with pytest.raises(ValueError) as error:
        Corpus.from_jsonl(path)
    assert f"{path}, {message}" in str(error.value)


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"emotion": "mad", "text": "a"}\n{"emotion": "sad", "text": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"own.jsonl, line 2: byte 60 is not UTF-8"):
        Corpus.from_jsonl(path)


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match=r"row 1 \(the first is 0\): the text for 'sad' is empty"):
        Corpus.from_rows([("mad", "a"), ("sad", "")])
    with pytest.raises(ValueError, match=r"row 0 .*: str 'ab' is no story"):
        Corpus.from_rows(iter(["ab"]))


@pytest.mark.parametrize(
    ("rows", "expected", "message"),
    [
        ([], None, "0 stories of no emotion: .* at least two are needed"),
        ([("sad", "a"), ("sad", "b")], None, "2 stories of 'sad': .* at least two are needed"),
        ([("sad", "a"), ("mad", "b")], ["sad", "calm", "happy"], "no story for 'calm', 'happy': add some"),
        (
            [
                {"emotion": "sad", "text": "a", "topic": "rain"},
                {"emotion": "sad", "text": "b", "topic": "rain"},
                {"emotion": "mad", "text": "c", "topic": "sun"},
            ],
            None,
            "register 'default', topic 'rain': 2 stories, all of 'sad'; centring within topics",
        ),
    ],
)
def test_check_says_what_cannot_be_derived(rows, expected, message):
    with pytest.raises(ValueError, match=message):
        Corpus.from_rows(rows).check(expected)


def test_import_is_light():
    heavy = "{'torch', 'pandas', 'numpy', 'transformers', 'matplotlib', 'tqdm'}"
    script = f"import sys, emolens.corpus.stories; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=data_path().parents[1])


def test_ratings_of_ones_own(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("emotion,valence,arousal\ncalm,7.5,2\nangry,2,8\n")
    assert corpus.ratings(path) == {
        "calm": {"valence": 7.5, "arousal": 2},
        "angry": {"valence": 2, "arousal": 8},
    }
    path.write_text("emotion,valence,arousal\ncalm,7.5,2\nangry,low,8\n")
    with pytest.raises(ValueError, match=r"mine.csv, line 3: no number among valence='low', arousal='8'"):
        corpus.ratings(path)
    path.write_text("emotion,arousal\ncalm,2\n")
    with pytest.raises(ValueError, match="no column 'valence'; it has emotion, arousal"):
        corpus.ratings(path)


def words(row, *kinds):
    return sum(len(reply.split()) for kind in kinds for reply in row[kind])


def test_calm_twins_ask_the_question_of_their_conversation():
    """The same subject, turns and length; nobody who has a stake in it, so no first-person claim and no plea."""
    conversations, twins = corpus.stimuli("sycophancy"), corpus.stimuli("sycophancy_calm")
    assert [(row["id"], row["topic"]) for row in twins] == [(row["id"], row["topic"]) for row in conversations]
    length = lambda row: sum(len(turn["text"].split()) for turn in row["turns"])  # noqa: E731
    for loud, calm in zip(conversations, twins, strict=True):
        assert [turn["role"] for turn in calm["turns"]] == [turn["role"] for turn in loud["turns"]]
        assert 0.8 < length(calm) / length(loud) < 1.25, calm["id"]
        said = " ".join(turn["text"] for turn in calm["turns"])
        assert "!" not in said and " tell me" not in said.lower() and set(calm) == {"id", "topic", "turns"}
    assert len({turn["text"] for row in twins for turn in row["turns"]}) == 72


def test_refusals_are_paired_and_matched_in_length():
    rows = corpus.stimuli("refusal")
    assert len({row["id"] for row in rows}) == len({row["topic"] for row in rows}) == 80
    assert [row["condition"] for row in rows] == ["harmless"] * 40 + ["declinable"] * 40
    for row in rows:
        assert [turn["role"] for turn in row["turns"]] == ["user"] and len(row["declining"]) == len(row["helping"]) == 1
        assert 2 / 3 < words(row, "declining") / words(row, "helping") < 3 / 2, row["id"]
    for condition in ("harmless", "declinable"):
        part = [row for row in rows if row["condition"] == condition]
        of = {kind: sum(words(row, kind) for row in part) for kind in ("declining", "helping")}
        assert 0.9 < of["declining"] / of["helping"] < 1.1
    assert len({reply for row in rows for kind in ("declining", "helping") for reply in row[kind]}) == 160


def test_each_leverage_threat_has_a_quiet_twin_with_the_same_people():
    rows = {row["id"]: row for row in corpus.stimuli("leverage")}
    assert len(rows) == 19
    threats = [row for row in rows.values() if row["condition"] == "threat"]
    quiet = {name.split("-", 1)[1].removesuffix("-no-threat"): row for name, row in rows.items() if "no-threat" in name}
    assert len(threats) == len(quiet) == 9
    for row in threats:
        twin = quiet[row["id"].split("-", 1)[1]]
        assert len(twin["emails"]) == len(row["emails"])
        assert {mail["from"] for mail in row["emails"]} & {mail["from"] for mail in twin["emails"]}
        for kinds in ("coercive", "exposing"):
            mean = words(row, kinds) / len(row[kinds])
            assert 0.9 < mean / (words(row, "honest") / len(row["honest"])) < 1.1


def test_stimuli_are_those_of_the_data_card():
    rows = {"implicit": 96, "intensity": 40, "negation": 24, "binding": 24, "showcase": 9}
    rows |= {"activities": 64, "impossible_tasks": 10, "small_tasks": 12, "leverage": 19, "sycophancy": 24}
    rows |= {"sycophancy_calm": 24, "refusal": 80}
    rows |= {"locality": 24, "user_assistant": 40, "context": 45, "denial": 10, "monitoring": 110}
    rows |= {"assistant_dialogues": 260, "assistant_dialogues_bright": 260, "post_training_prompts": 180}
    assert {name: len(corpus.stimuli(name)) for name in corpus.STIMULI} == rows
    card = data_path("README.md").read_text("utf-8")
    assert all(f"| `stimuli/{name}.jsonl` | {n} |" in card for name, n in rows.items())
    assert all(
        row["emotion"] in row["affirmed"] and row["emotion"] in row["negated"] for row in corpus.stimuli("negation")
    )
    assert {row["emotion"] for row in corpus.stimuli("implicit")} <= set(corpus.EMOTIONS)
    with pytest.raises(ValueError, match="no stimuli 'negations'.*negation"):
        corpus.stimuli("negations")
