"""Story generation with a stand-in for the model: what is asked, what is refused, what survives a kill."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from emolens import corpus
from emolens.corpus.audit import mention

STORY = "She went out into the yard and looked at the sky for a while. " * 5


class FakeModel:
    """Writes a story that depends on the prompt, the seed and the place in the batch, as sampling does."""

    name, fingerprint = "fake", "0123"

    def __init__(self, spoil=lambda prompt, seed: None, calls_before_kill: int = 10**6) -> None:
        self.spoil, self.calls, self.left = spoil, [], calls_before_kill

    def generate(self, texts, max_new_tokens, temperature, top_p, seed):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.calls.append(len(texts))
        return [self._write(chat[0]["content"], row, seed) for row, chat in enumerate(texts)]

    def _write(self, prompt: str, row: int, seed: int) -> str:
        mark = hashlib.sha256(f"{prompt}{row}{seed}".encode()).hexdigest()[:8]
        return self.spoil(prompt, seed) or f"{STORY}It was number {mark}. And then she"


def generate(model, path: Path, **options):
    arguments = {
        "emotions": ["happy", "sad"],
        "topics": ["a bus", "a letter", "rain"],
        "n": 2,
        "batch_size": 5,
    }
    return corpus.generate(model, path=path, progress=False, **arguments | options)


def test_writes_every_cell_and_whole_sentences_only(tmp_path):
    model = FakeModel()
    made = generate(model, tmp_path / "new" / "own.jsonl")
    assert model.calls == [5, 5, 2]
    assert sorted((s.emotion, s.topic) for s in made) == sorted(
        (e, t) for e in ("happy", "sad") for t in ("a bus", "a letter", "rain") for _ in range(2)
    )
    assert {s.register for s in made} == {"generated"}
    assert all(text.endswith(".") for text in made.texts)
    assert len(set(made.texts)) == 12
    made.check()


def test_prompt_holds_the_emotion_and_the_topic(tmp_path):
    prompts = []
    generate(FakeModel(lambda prompt, seed: prompts.append(prompt)), tmp_path / "own.jsonl")
    assert "happy" in prompts[0] and "a bus" in prompts[0]


@pytest.mark.parametrize("calls", range(3))
def test_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, calls):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    generate(FakeModel(), whole)
    with pytest.raises(KeyboardInterrupt):
        generate(FakeModel(calls_before_kill=calls), cut)
    with open(cut, "ab") as file:
        file.write(b'{"emotion": "happy", "regi')  # the line at which the process was killed
    again = FakeModel()
    generate(again, cut)
    assert cut.read_bytes() == whole.read_bytes()
    assert len(again.calls) == 3 - calls


def test_killed_process_is_resumed(tmp_path):
    script = (
        "import os, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; import test_generate as t\n"
        "def kill(prompt, seed):\n"
        "    kill.n += 1\n"
        "    if kill.n == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "kill.n = 0\n"
        "t.generate(t.FakeModel(kill), Path(sys.argv[1]))\n"
    )
    here = Path(__file__).parent
    cut, whole = tmp_path / "cut.jsonl", tmp_path / "whole.jsonl"
    killed = subprocess.run([sys.executable, "-c", script, str(cut), str(here), str(here.parent)], check=False)
    assert killed.returncode == -9
    assert len(corpus.Corpus.from_jsonl(cut)) == 5
    assert generate(FakeModel(), cut) == generate(FakeModel(), whole)


def test_finished_run_costs_no_generation(tmp_path):
    first = generate(FakeModel(), tmp_path / "own.jsonl")
    again = FakeModel()
    assert generate(again, tmp_path / "own.jsonl") == first
    assert again.calls == []


def test_refused_stories_are_written_anew(tmp_path):
    seeds = []

    def happy_at_first(prompt, seed):
        seeds.append(seed) if seed not in seeds else None
        return f"{STORY}She smiled happily." if "happy" in prompt and len(seeds) == 1 else None

    model = FakeModel(happy_at_first)
    made = generate(model, tmp_path / "own.jsonl", n=1, batch_size=6)
    assert model.calls == [6, 3]
    assert len(made) == 6
    assert not any(mention(story.emotion, story.text) for story in made)


def test_stories_given_up_are_reported_and_not_tried_again(tmp_path):
    def too_short(prompt, seed):
        return "No." if "sad" in prompt else None

    path = tmp_path / "own.jsonl"
    with pytest.warns(UserWarning, match=r"6 of 12 stories given up; see .*own\.jsonl\.state\.json"):
        made = generate(FakeModel(too_short), path, tries=2)
    assert made.emotions == ("happy",)
    rejected = json.loads((tmp_path / "own.jsonl.state.json").read_text())["rejected"]
    assert rejected[0] == {
        "emotion": "sad",
        "topic": "a bus",
        "number": 0,
        "reason": "only 1 words in whole sentences",
    }
    with pytest.warns(UserWarning, match="6 of 12"):
        again = FakeModel()
        generate(again, path, tries=2)
    assert again.calls == []


def test_greedy_decoding_is_tried_once(tmp_path):
    model = FakeModel(lambda prompt, seed: "No.")
    with pytest.warns(UserWarning, match="12 of 12"):
        assert len(generate(model, tmp_path / "own.jsonl", temperature=0.0)) == 0
    assert model.calls == [5, 5, 2]


def test_another_run_is_not_mixed_in(tmp_path):
    path = tmp_path / "own.jsonl"
    generate(FakeModel(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="begun with seed=0, not 1; give another path, or delete"):
        generate(FakeModel(), path, seed=1)
    assert path.read_bytes() == before


def test_changed_or_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / "own.jsonl"
    generate(FakeModel(), path)
    path.write_bytes(path.read_bytes().replace(b"yard", b"park"))
    with pytest.raises(ValueError, match="was changed after generate wrote it"):
        generate(FakeModel(), path)
    foreign = tmp_path / "mine.jsonl"
    foreign.write_text("mine")
    with pytest.raises(ValueError, match="was not written by generate"):
        generate(FakeModel(), foreign)
    assert foreign.read_text() == "mine"


def test_emotions_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"'hapy'.*happy"):
        generate(FakeModel(), tmp_path / "a.jsonl", emotions=["hapy"])
    with pytest.raises(ValueError, match="give lists"):
        generate(FakeModel(), tmp_path / "a.jsonl", emotions="happy")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        generate(FakeModel(), tmp_path / "a.jsonl", n=0)
    assert list(tmp_path.iterdir()) == []
    assert len(generate(FakeModel(), tmp_path / "a.jsonl", emotions=["wistful"], any_emotion=True)) == 6


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("happy", "She smiled HAPPILY."),
        ("happy", "such happiness"),
        ("angry", "angrily"),
        ("angry", "in her anger"),
        ("sad", "a sadder face"),
        ("hope", "she was hoping"),
        ("loving", "with love"),
        ("worried", "do not worry"),
        ("bored", "the boredom"),
        ("patient", "with patience"),
        ("indifferent", "indifference"),
        ("proud", "full of pride"),
        ("trapped", "in a trap"),
        ("at ease", "quite at\nease"),
        ("worn out", "a worn-out man"),
        ("grief-stricken", "his grief"),
        ("self-conscious", "self-consciousness"),
    ],
)
def test_mention_finds_the_word_and_its_forms(emotion, text):
    assert mention(emotion, text)


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("happy", "what happened, unhappy"),
        ("mad", "he made madams"),
        ("hope", "hop"),
        ("weary", "wearing a coat"),
        ("at ease", "at the easel"),
        ("content", "to contend"),
        ("scared", "a scarf"),
    ],
)
def test_mention_leaves_other_words_alone(emotion, text):
    assert mention(emotion, text) is None


def test_every_emotion_finds_itself():
    assert all(mention(emotion, f"so {emotion}!") == emotion for emotion in corpus.EMOTIONS)


# --- drawing tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [3, 50])
def test_tokens_are_drawn_from_the_nucleus_as_often_as_they_are_likely(first):
    """Also where the first few tokens looked at don't hold the nucleus."""
    import torch

    from emolens.models.generation import Nucleus

    p = torch.tensor([0.4, 0.05, 0.3, 0.1, 0.15])
    scores = (p.log() * 2).expand(4000, -1)  # temperature 2 undoes the factor
    drawn = Nucleus(2.0, 0.8, first=first)(scores)
    share = torch.bincount(drawn, minlength=5) / len(drawn)
    wanted = torch.tensor([0.4, 0, 0.3, 0, 0.15]) / 0.85  # the fewest that hold 0.8
    torch.testing.assert_close(share, wanted, atol=0.03, rtol=0)
