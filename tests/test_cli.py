"""The command line, end to end on a random model of four blocks."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
import types

import pytest
from tiny import WORDS, tiny_llama, tiny_tokenizer

import emolens
from emolens.cli import main
from emolens.corpus.stories import Corpus, Story
from emolens.models.model import HookedModel

EMOTIONS = ("afraid", "angry", "calm")


@pytest.fixture
def cli(tiny, monkeypatch, capsys, tmp_path):
    """Run a command in a folder of its own, with the tiny model for any name: (exit status, output, errors)."""
    monkeypatch.setattr(emolens, "load", lambda name, **options: tiny)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def derived(tmp_path_factory, few_dialogues):
    """The vectors of a small corpus, made by `emolens derive` once for all tests."""
    folder, rng = tmp_path_factory.mktemp("derived"), random.Random(0)
    stories = [
        Story(emotion, "plain", f"topic {topic}", " ".join([emotion] * 5 + rng.choices(WORDS, k=60)))
        for topic in range(6)
        for emotion in EMOTIONS
    ]
    corpus = Corpus(tuple(stories)).to_jsonl(folder / "stories.jsonl")
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOLENS_CACHE", str(folder / "cache"))
        patch.setattr(emolens, "load", lambda name, **options: model)
        out = folder / "tiny.safetensors"
        assert main(["derive", "--corpus", str(corpus), "--out", str(out), "--layers", "1", "2"]) == 0
    return out


@pytest.fixture
def vectors(derived, tmp_path):
    return shutil.copy(derived, tmp_path)


def test_importing_the_command_line_imports_nothing_heavy():
    heavy = ["torch", "transformers", "transformer_lens", "matplotlib", "pandas", "numpy", "scipy", "sklearn"]
    code = f"import sys, emolens.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [(), ("derive",), ("read",), ("nearest",), ("lens",), ("models",), ("demo",)])
def test_help(command):
    done = subprocess.run([sys.executable, "-m", "emolens.cli", *command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: emolens")
    if not command:
        assert all(name in done.stdout for name in ("derive", "read", "nearest", "lens", "models", "demo"))


def test_derive_writes_vectors_that_load(derived):
    vectors = emolens.EmotionVectors.load(derived)
    assert (vectors.emotions, vectors.layers) == (EMOTIONS, (1, 2))


def test_read_prints_the_strongest_emotions(cli, vectors):
    status, out, _ = cli("read", "she was very angry and cold", "--vectors", vectors, "--layer", 2, "--top", 2)
    rows = [row.split() for row in out.splitlines()]
    assert status == 0 and len(rows) == 2 and {name for name, _ in rows} < set(EMOTIONS)
    assert float(rows[0][1]) >= float(rows[1][1])


def test_read_takes_standard_input_or_a_file_and_prints_json(cli, vectors, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text("he walked and ran")
    asked = ("--vectors", vectors, "--layer", 1, "--method", "whitened", "--json")
    _, from_file, _ = cli("read", "--file", tmp_path / "text.txt", *asked)
    monkeypatch.setattr(sys, "stdin", io.StringIO("he walked and ran"))
    _, from_stdin, _ = cli("read", "-", *asked)
    assert from_file == from_stdin
    found = json.loads(from_file)
    assert (found["layer"], found["method"], found["at"], len(found["items"])) == (1, "whitened", "document", 1)
    assert set(found["items"][0]["scores"]) == set(EMOTIONS)


def test_read_tokens_with_a_heat_map(cli, vectors, tmp_path):
    page = tmp_path / "new" / "map.html"
    status, out, errors = cli("read", "the angry river", "--vectors", vectors, "--at", "tokens", "--html", page)
    assert status == 0 and str(page) in errors
    assert len(out.splitlines()) == 3 and out.startswith("'the'")
    assert "river" in page.read_text()
    once, *_ = cli("read", "the angry river", "--vectors", vectors, "--html", tmp_path / "again.html")
    assert once == 0 and (tmp_path / "again.html").read_text() == page.read_text()


def test_nearest(cli, vectors):
    status, out, _ = cli("nearest", "calm", "--vectors", vectors)
    assert status == 0 and {row.split()[0] for row in out.splitlines()} == {"angry", "afraid"}
    found = json.loads(cli("nearest", "calm", "--vectors", vectors, "--top", 1, "--layer", 1, "--json")[1])
    assert (found["emotion"], found["layer"], len(found["nearest"])) == ("calm", 1, 1)


def test_lens(cli, vectors):
    status, out, _ = cli("lens", "--vectors", vectors, "--top", 3)
    assert status == 0 and [row.split()[0] for row in out.splitlines()] == ["emotion", *EMOTIONS]
    (row,) = json.loads(cli("lens", "angry", "--vectors", vectors, "--top", 2, "--json")[1])
    assert row["emotion"] == "angry" and len(row["up"]) == len(row["down"]) == 2


def test_models_says_what_is_cached(cli, tmp_path):
    _, out, _ = cli("models")
    header, smollm2, gemma, *qwen = out.splitlines()
    assert header.split() == ["model", "licence", "weights", "download", "cached", "folder"]
    assert "  Q4_1, dequantised  " in smollm2 and "  Q4_K_M, dequantised  " in gemma
    assert [row.split()[0] for row in qwen] == ["qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"]
    assert smollm2.startswith("smollm2-135m-instruct") and gemma.startswith("gemma-3-270m")
    assert "  no  " in smollm2 and str(tmp_path) in smollm2
    folder = tmp_path / "cache" / "models" / "gemma-3-270m"
    folder.mkdir(parents=True)
    (folder / "emolens.json").write_text("{}")
    assert "  yes  " in cli("models")[1].splitlines()[2]


def test_demo_runs_the_demo(cli, monkeypatch):
    ran = []
    monkeypatch.setitem(sys.modules, "emolens.demo", types.SimpleNamespace(main=lambda: ran.append(1)))
    assert cli("demo")[0] == 0 and ran == [1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nearest", "calmm", "--vectors", "tiny.safetensors"), "did you mean calm"),
        (("nearest", "calm", "--vectors", "tiny.safetensors", "--layer", "9"), "9"),
        (("nearest", "calm", "--vectors", "tiny.safetensors", "--top", "0"), "--top 0"),
        (("nearest", "calm", "--vectors", "nowhere.safetensors"), "nowhere.safetensors"),
        (("nearest", "calm", "--model", "nobody/knows"), "nobody/knows"),
        (("read", "", "--vectors", "tiny.safetensors"), "empty"),
        (("read", "--file", "missing.txt"), "missing.txt"),
        (("read", "--file", "tiny.safetensors"), "UTF-8"),
        (("read", "calm", "--vectors", "tiny.safetensors", "--at", "nowhere"), "nowhere"),
        (("derive", "--corpus", "text.txt"), "line 1"),
    ],
)
def test_errors_take_one_line(cli, vectors, tmp_path, arguments, said):
    (tmp_path / "text.txt").write_text("not json\n")
    status, out, errors = cli(*arguments)
    assert (status, out) == (2, "")
    assert errors.startswith("emolens: error: ") and errors.count("\n") == 1 and said in errors


def test_debug_shows_the_traceback(cli, vectors):
    with pytest.raises(ValueError, match="calmm"):
        cli("nearest", "calmm", "--vectors", vectors, "--debug")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("no such name"), "no such name"),
        (RuntimeError("first\n  second"), "first second"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), "No such file or directory: x.txt"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ImportError("pip install it"), "pip install it"),
        (ValueError(), "ValueError"),
    ],
)
def test_every_expected_error_is_worded(cli, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(emolens, "packaged_vectors", fail)
    assert cli("nearest", "calm") == (2, "", f"emolens: error: {line}\n")


def test_control_c_says_what_is_kept(cli, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(emolens, "derive", interrupt)
    monkeypatch.setattr(emolens, "packaged_vectors", interrupt)
    status, _, errors = cli("derive")
    assert status == 130 and "kept in the cache" in errors
    status, _, errors = cli("nearest", "calm")
    assert status == 130 and "nothing was written" in errors


def test_a_text_is_needed_and_only_one():
    for arguments in (["read"], ["read", "calm", "--file", "x"], ["fly"], []):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_all_studies_go_on_past_those_that_are_not_for_the_model_and_past_one_that_fails(cli, vectors, monkeypatch):
    from emolens import studies
    from emolens.errors import UnsupportedError

    def too_long(model, *rest):
        model.encode_all(["she ran !", "calm " * 300])

    def fails(model, *rest):
        raise RuntimeError("the disk of the moon is full")

    def unsupported(model, *rest):
        raise UnsupportedError("'attribute' does not work on this")

    runs = {"a_long": too_long, "b_fails": fails, "c_refused": unsupported, "d_reliability": studies.reliability.run}
    monkeypatch.setattr(studies, "names", lambda: tuple(runs))
    monkeypatch.setattr(studies, "find", lambda name: types.SimpleNamespace(run=runs[name]))
    status, out, err = cli("run", "--all", "--vectors", vectors, "--out", "results")
    assert status == 2 and out.strip().endswith("tiny-llama/d_reliability.json")
    assert "a_long: not on this model. text 1: a text of 300 tokens is longer than the context" in err
    assert "c_refused: not on this model. 'attribute' does not work" in err
    assert "b_fails: failed. the disk of the moon is full" in err and "emolens: error: b_fails failed" in err
    runs["b_fails"] = too_long
    status, out, err = cli("run", "--all", "--vectors", vectors, "--out", "results")
    assert status == 0 and out == "" and "d_reliability" not in err  # it is there
