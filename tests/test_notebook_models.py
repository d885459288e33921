"""The notebooks run on any model: what EMOLENS_MODEL names is what is loaded, named, shown and written."""

import ast
import builtins
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import torch
from chats import CHATML

import emolens as el
from emolens.results import StudyResult, save_results

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
ELSEWHERE = ("el.load(", "plots.save(", "load_results(", "load_folder(", 'packaged_vectors("', "figures", "environ")


def sources(path):
    """The code cells, without the lines of IPython and of nbval, and without the remarks that stand after code."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    cells = [re.sub(r"^( *)%.*$", r"\1pass", source, flags=re.MULTILINE) for source in cells]
    return [re.sub(r"(\S)  # .*$", r"\1", source, flags=re.MULTILINE) for source in cells]


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_one_helper_gives_a_notebook_its_model_its_results_and_its_figures(path):
    rest = "\n".join(sources(path))
    (own,) = re.findall(r'el\.notebook\.page\("([a-z0-9.-]+)", "[^"]+"\)', rest)
    rest = rest.replace(f'page("{own}"', "")
    rest = re.sub(r"page\.second\([^)]*\)", "", rest)
    assert re.findall(r'"(?:smollm2|gemma|qwen)[\w.-]*"', rest) == []
    assert [part for part in ELSEWHERE if part in rest.replace("base = el.load(name)", "")] == []
    assert not re.search(r"layers?=\[?[1-9]|layer [<=>]+ [1-9]\d|blocks\.\d", rest.replace(".details(layer=10)", ""))


# --- run on a tiny model that nobody knows ---------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory):
    """The folder of a random Llama of four blocks, with a tokenizer of the stories' words and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    raw, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel
    raw.pre_tokenizer, raw.decoder = level(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>"]
    how = {"special_tokens": special, "initial_alphabet": level.alphabet(), "show_progress": False}
    raw.train_from_iterator(el.corpus.stories("plain").texts, trainers.BpeTrainer(vocab_size=2000, **how))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tiny_chat, few_dialogues, tmp_path, monkeypatch):
    """A folder of notebooks of its own, EMOLENS_MODEL set, and vectors from a few of the plain stories."""
    plain = el.corpus.stories("plain")
    topics = sorted({story.topic for story in plain})[:3]
    monkeypatch.setattr(el.corpus, "stories", lambda *registers: plain.where(topic=topics))
    monkeypatch.setenv("EMOLENS_CACHE", str(tiny_chat.parent / "cache"))  # derived once for all
    monkeypatch.setattr(builtins, "display", print, raising=False)
    monkeypatch.setenv("EMOLENS_MODEL", str(tiny_chat))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def run(path):
    """Execute the code cells, showing the last expression of each as a notebook does."""
    names = {"__name__": "__main__"}
    for number, source in enumerate(sources(path)):
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.stem}, code cell {number}", "exec"), names)
        if last is not None:
            names["shown"] = eval(
                compile(ast.Expression(last.value), f"{path.stem}, code cell {number}", "eval"), names
            )
            print(names["shown"])
        plt.close("all")


@pytest.mark.parametrize("number", [0])
def test_a_notebook_runs_on_another_model_and_speaks_of_no_other(number, here, capsys):
    run(PATHS[number])
    printed = capsys.readouterr().out
    assert printed.startswith("This is tiny-chat.") and "tiny-chat: " in printed
    assert "No stored results of detection for tiny-chat" in printed and "emolens run detection --model" in printed
    assert not re.search("smollm2|gemma", printed.split("\n", 1)[1], re.IGNORECASE)
    written = [path.relative_to(here / "figures").parts[0] for path in here.glob("figures/**/*.png")]
    assert set(written) <= {"tiny-chat"}


def test_stored_results_are_shown_of_the_same_weights_alone(here, capsys):
    page = el.notebook.page("smollm2-135m-instruct", "SmolLM2")
    result = StudyResult("sources", pd.DataFrame({"first": [0.5]}), "Half are found.", "none: an example")
    data = here / "figures" / "data"
    save_results(data / "tiny-chat" / "sources.json", {"fingerprint": page.model.fingerprint}, {"sources": result})
    save_results(data / "tiny-chat" / "surface.json", {"fingerprint": "another"}, {"surface": result})
    save_results(data / "gemma-3-270m" / "sources.json", {"fingerprint": "another"}, {"sources": result})
    stored = page.stored(page.vectors())
    assert stored["sources"]["sources"].headline() == "tiny-chat: Half are found." and "sources" in stored["sources"]
    assert stored["sources"].run == "full run" and page.second("gemma-3-270m") == {}
    found = stored["surface"]  # which reads two blocks above the steered one
    assert "surface" not in found and found.run == "quick run"
    said = found["surface"].headline()
    assert said.startswith("surface of surface cannot be measured on tiny-chat: block 3 is steered")
    assert found["surface"].table().empty and "cannot be measured" in found["surface"].details(layer=3)
    assert "No stored results of surface for tiny-chat" in capsys.readouterr().out


def test_figures_go_to_the_models_own_folder_with_its_name_and_what_was_not_measured_is_not_written(here):
    from PIL import Image

    page = el.notebook.page("smollm2-135m-instruct", "SmolLM2")
    ax = el.plots.score_matrix([[0.5, 0.1]], ["calm"], ["calm", "sad"])
    ax.set_title("Scores")
    path = page.save(ax, "02_scores.png", "Calm texts score high.", "Dots anywhere.")
    assert path.resolve() == here / "figures" / "tiny-chat" / "02_scores.png" and ax.get_title() == "tiny-chat: Scores"
    with Image.open(path) as image:
        assert image.info["Description"] == "tiny-chat: Calm texts score high."
    assert page.save(el.notebook.NotMeasured("Not measured.").plot(), "02_nothing.png") is None
    own = el.notebook.Page(page.model, page.model.name, "Tiny")
    assert own.save(ax, "02_scores.png").resolve() == here / "figures" / "02_scores.png"
    assert own.title == "Tiny"
    assert sorted(here.glob("figures/**/02_nothing.png")) == []


def test_children_of_a_model_in_a_folder_are_kept_in_the_cache_and_found_again(here, tiny_chat, monkeypatch):
    page = el.notebook.page("gemma-3-270m", "Gemma 3 270M")
    monkeypatch.setattr(el.notebook, "SHORT", el.Recipe(tokens=64, batch_tokens=64))
    made = page.children(page.vectors())
    assert list(made) == ["composed", "bright"] and made["bright"].model.name.endswith("tiny-chat+bright")
    kept = sorted((tiny_chat.parent / "cache" / "adapters").glob("tiny-chat-*.safetensors"))
    assert len(kept) == 2 and list(tiny_chat.parent.glob("*.safetensors")) == []
    assert page.children(page.vectors())["bright"].record == made["bright"].record


def test_a_pair_is_the_base_that_is_named_beside_the_model_in_use_and_one_ruler_reads_both(
    here, tiny_chat, monkeypatch, capsys
):
    from transformers import AutoTokenizer, LlamaForCausalLM

    page = el.notebook.page("gemma-3-270m", "Gemma 3 270M")
    assert page.pair() is None and "EMOLENS_BASE=<base> EMOLENS_MODEL=<post-trained>" in capsys.readouterr().out
    other = LlamaForCausalLM.from_pretrained(tiny_chat)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(-1)
    other.save_pretrained(folder := here / "tiny-base")
    AutoTokenizer.from_pretrained(tiny_chat).save_pretrained(folder)
    monkeypatch.setenv("EMOLENS_BASE", str(folder))
    base, post = page.pair()
    assert post is page.model and base.name.endswith("tiny-base") and base.fingerprint != post.fingerprint
    prompts = {"praise": ["Well done!", "I like you."], "neutral": ["What is rain?", "What is tea?"]}
    table = el.compare(base, post, page.vectors(), prompts).table()
    assert set(table["ruler"]) == {"given", "given, raw"} and table["shift"].abs().max() > 1e-3
    assert el.notebook.Page(post, post.name, "Own").pair() is None  # the notebook's own model has no base beside it


def test_a_pair_of_two_architectures_is_refused(here, tiny_chat, monkeypatch):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    page = el.notebook.page("gemma-3-270m", "Gemma 3 270M")
    config = LlamaConfig.from_pretrained(tiny_chat)
    config.num_hidden_layers = 2
    LlamaForCausalLM(config).save_pretrained(folder := here / "tiny-shallow")
    AutoTokenizer.from_pretrained(tiny_chat).save_pretrained(folder)
    monkeypatch.setenv("EMOLENS_BASE", str(folder))
    with pytest.raises(ValueError, match="differ in number of blocks: 2 and 4"):
        page.pair()
