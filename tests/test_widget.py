"""The widget: what it writes is what `stream` writes; it stops, refuses, and works in a JupyterLab."""

import builtins
import importlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from chats import CHATML, byte_model, byte_tokenizer
from looking import HOSTILE, Page, answers, free_port
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens import plots
from emolens.plots.watching import Row, Written
from emolens.vectors.derive import derive
from emolens.watching.stream import Stream

pytest.importorskip("anywidget")
CHAT = [{"role": "user", "content": "she was calm and warm"}]
FEW = ["afraid", "angry", "calm", "happy", "proud", "sad"]


@pytest.fixture(scope="module")
def vectors(few_dialogues):
    model = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    return derive(model, el.corpus.stories("plain").where(emotion=FEW), cache=False, progress=False)


@pytest.fixture
def monitor(tiny, vectors):
    """One that gives alarms: its threshold is that of short texts at which nothing happens."""
    quiet = ["she ran !", "he was sad", "and cold !", "the river was cold"]
    return el.Monitor.calibrate(tiny, vectors, ["calm", "angry"], quiet, 0.3, half_life=2.0)


@pytest.fixture
def make(tiny, vectors):
    """A widget, and what it has sent."""

    def made(prompt="she ran", watch=("calm", "angry"), *more, of=None, **options):
        watch = list(watch) if isinstance(watch, tuple) else watch
        widget = el.Widget(tiny, of or vectors, prompt, watch, *more, **{"max_new_tokens": 8, **options})
        widget.sent = []
        widget.send = lambda content: widget.sent.append(json.loads(json.dumps(content, allow_nan=False)))
        return widget

    return made


def sent_steps(widget):
    return [step for message in widget.sent if message["kind"] == "steps" for step in message["steps"]]


# --- what is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.15])
def test_steps_are_those_of_stream_and_reach_the_page_in_order(make, tiny, vectors, strength):
    widget = make("she ran", ("calm", "angry"), "angry", strength, seed=4).run()
    steer = [strength * vectors["angry"], None] if strength else None
    wanted = list(el.stream(tiny, "she ran", vectors, ["calm", "angry"], steer, max_new_tokens=8, seed=4))
    assert widget.steps == wanted
    sent = sent_steps(widget)
    assert [(each["row"], each["rank"], each["piece"]) for each in sent] == [
        (step.row, step.rank, step.piece) for step in wanted
    ]
    assert [each["scores"] for each in sent] == [list(step.scores.values()) for step in wanted]
    begin = widget.sent[0]
    assert begin["rows"] == (["0.15*angry", "unsteered"] if strength else ["unsteered"]) and begin["running"]
    assert widget.sent[-1] == {"kind": "state", "running": False, "said": "Done.", "error": ""}


def test_a_conversation_a_text_and_a_message(make, tiny, vectors):
    def wanted(text):
        return [step.token for step in el.stream(tiny, text, vectors, "calm", max_new_tokens=8)]

    assert [step.token for step in make(CHAT).run().steps] == wanted(CHAT)
    assert make(CHAT).about["turns"] == [["user", "she was calm and warm"]]
    assert make("she ran").controls["chat"] is False  # a model without a chat template
    said = make("she ran", chat=True).run()
    assert [step.token for step in said.steps] == wanted([{"role": "user", "content": "she ran"}])


def test_a_monitor_sends_its_heights_and_alarms(make, tiny, vectors, monitor):
    widget = make(CHAT, monitor, "calm", 0.2, max_new_tokens=30).run()
    steer = [0.2 * vectors["calm"], None]
    assert widget.steps == list(el.stream(tiny, CHAT, monitor, steer=steer, max_new_tokens=30))
    alarms = [(each["row"], *alarm) for each in sent_steps(widget) for alarm in each["alarms"]]
    assert alarms == [(s.row, a.token, a.text, a.name, a.height) for s in widget.steps for a in s.alarms] and alarms
    for each in sent_steps(widget):
        for token, _, name, height in each["alarms"]:
            if token == each["rank"]:
                assert each["heights"][monitor.watched.names.index(name)] == pytest.approx(height)
    assert widget.about["threshold"] == monitor.threshold and widget.about["centres"] == monitor.scale.mean.tolist()
    assert "alarm" in widget.html().markup


def test_in_a_thread_it_stops_is_not_started_twice_and_ends_with_the_widget(make, monkeypatch):
    def slowly(self):
        time.sleep(0.02)
        return following(self)

    following = Stream.__next__
    monkeypatch.setattr(Stream, "__next__", slowly)
    widget = make(max_new_tokens=200, strength=0.1).start()
    until(lambda: len(widget.steps) > 2)
    first = widget._thread
    assert widget.start()._thread is first and "stop it first" in widget.sent[-1]["said"]
    with pytest.raises(RuntimeError, match="writing already"):
        widget.run()
    beside, alone = make(max_new_tokens=5, strength=0.2).run(), make(max_new_tokens=5, strength=0.2)
    assert widget.running  # a second widget on the same model wrote meanwhile; by itself it writes and reads the same
    assert not widget.stop().wait(20).running and len(widget.steps) < 400
    assert widget.sent[-1]["said"] == "Stopped." and len(sent_steps(widget)) == len(widget.steps)
    assert widget.set(max_new_tokens=3).run().sent[-1]["said"] == "Done."
    widget._receive(None, {"kind": "start", "controls": {"max_new_tokens": 200}}, [])
    until(lambda: widget.running)
    widget.close()
    assert not widget.running
    assert beside.steps == alone.run().steps


def until(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_page_that_comes_late_gets_everything(make):
    widget = make().run()
    widget.sent.clear()
    widget._receive(None, {"kind": "hello"}, [])
    (answer,) = widget.sent
    assert answer["kind"] == "all" and len(answer["steps"]) == len(widget.steps) and not answer["running"]
    widget._receive(None, {"kind": "page"}, [])
    assert widget.sent[-1]["html"].startswith("<!doctype html>") and widget.sent[-1]["name"] == "tiny-llama.html"


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"steer": "clam"}, "no vector for the emotion 'clam' (did you mean calm?)"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "she ran and " * 84}, "shorten it or lower max_new_tokens"),
        ({"seed": None}, "seed=None: give an integer"),
        ({"strength": 0.5}, "strength=0.5: give a number from -0.2 to 0.2"),
        ({"temperature": -1}, "temperature=-1: give 0 (greedy) or more"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_an_error_in_the_thread_is_shown_and_kept(make, controls, said):
    widget = make()
    widget._receive(None, {"kind": "start", "controls": controls}, [])
    widget.wait(20)
    assert said in str(widget.error) and said in widget.sent[-1]["error"]
    with pytest.raises(type(widget.error)):
        widget.run()
    assert widget.set(**{"steer": "calm", "prompt": "she ran", "seed": 0, "strength": 0, "temperature": 1}).run().steps
    assert widget.error is None


def test_bad_arguments_are_named(make, vectors):
    for error, said, arguments in (
        (ValueError, "7 are watched, and the widget draws 6", {"watch": {f"e{n}": "calm" for n in range(7)}}),
        (ValueError, "nothing to watch", {"watch": []}),
        (ValueError, "did you mean calm", {"watch": ["clam"]}),
        (ValueError, "did you mean calm", {"steer": "clam"}),
        (ValueError, "strength=0.3: give a number from -0.2 to 0.2", {"strength": 0.3}),
        (ValueError, "strength=0.3", {"steer": 0.3 * vectors["calm"]}),
        (ValueError, "has a strength", {"steer": 0.1 * vectors["calm"] + 0.1 * vectors["sad"]}),
        (TypeError, "did you mean seed", {"sed": 3}),
        (ValueError, "'sad' is not watched", {"colour": "sad"}),
        (TypeError, "prompt=5", {"prompt": 5}),
        (ValueError, "max_new_tokens", {"max_new_tokens": 0}),
    ):
        with pytest.raises(error, match=said):
            make(**arguments)
    with pytest.raises(ValueError, match="strength=nan|not finite"):
        make().set(strength=float("nan"))


def test_directions_and_strengths_are_taken_from_what_is_given(make, tiny, vectors):
    assert (
        make(steer=0.05 * vectors["sad"]).controls | {"steer": "sad", "strength": 0.05}
        == make(steer=0.05 * vectors["sad"]).controls
    )
    own = el.Direction.from_tensor(torch.ones(32), vectors.default_layer, vectors, "mine")
    widget = make(steer=own, strength=0.1)
    assert widget.about["choices"][0] == "mine" and widget.run().sent[0]["rows"] == ["0.1*mine", "unsteered"]
    assert make().controls["steer"] == "calm"  # the first that is watched
    watch = el.Watch.of(vectors, ["sad"], method="whitened")
    assert make(of=watch, watch=None).run().steps == list(el.stream(tiny, "she ran", watch, max_new_tokens=8))


def test_without_anywidget_the_error_says_what_to_install(monkeypatch, tiny, vectors):
    found, importing = sys.modules["emolens.watching.widget"], builtins.__import__

    def without(name, *rest, **more):
        if name == "anywidget":
            raise ImportError(name)
        return importing(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    spec = importlib.util.spec_from_file_location("widget_without", found.__file__)
    bare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bare)
    with pytest.raises(ImportError, match=r'pip install "emolens\[notebooks\]"'):
        bare.Widget(tiny, vectors, "she ran", "calm")


# --- where no kernel runs --------------------------------------------------------------------------


def hostile_run(threshold=None):
    pieces = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    heights = [[1.0]] * len(pieces) if threshold else None
    alarms = [(0, HOSTILE[0], HOSTILE[1], 1.0), (-3, HOSTILE[2], HOSTILE[1], 1.0)] if threshold else ()
    scores = [[(-1) ** number * 0.1] for number in range(len(pieces))]
    row = Row(HOSTILE[1], pieces, scores, [-1.0] * len(pieces), heights, alarms)
    return Written(HOSTILE[0], HOSTILE[2], [(HOSTILE[0], HOSTILE[1])], [HOSTILE[1]], [row], HOSTILE[1], 0.0, threshold)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_hostile_text_stays_text_on_the_static_page(threshold):
    page = Page(plots.written_page(hostile_run(threshold)).markup)
    assert not {"script", "img", "b/", "template"} & {tag for tag, _ in page.elements}
    assert not [name for _, given in page.elements for name in given if name.startswith("on") or name == "src"]
    assert [text for text, _ in page.tokens if text in HOSTILE][-4:] == HOSTILE[:4]


def test_the_page_shows_signs_alarms_and_what_was_not_written():
    page = plots.written_page(hostile_run(0.5)).markup
    assert (
        'class="down' in page and "token 0" in page and "in the prompt" in page and page.count("<path class=alarm") == 2
    )
    empty = Written("tiny", "block 3", [], ["calm"], [Row("unsteered", [], [], [])], "calm")
    assert "Nothing was written" in plots.written_page(empty).markup
    assert "Nothing was written" in plots.written_figure(empty).axes[0].texts[0].get_text()


def test_held_back_characters_are_joined_in_figures_and_the_bundle_has_page_and_picture(vectors):
    model = byte_model(byte_tokenizer(CHATML))
    own = derive(model, el.corpus.stories("plain").where(emotion=FEW), cache=False, progress=False)
    widget = el.Widget(model, own, "so 🥹", "calm", steer="sad", strength=0.1, max_new_tokens=12, seed=1)
    assert widget.controls["chat"] and "Nothing was written" in widget._repr_mimebundle_()[0]["text/html"]
    data, _ = widget.run()._repr_mimebundle_()
    assert {"text/html", "image/png", "application/vnd.jupyter.widget-view+json"} <= set(data)
    assert data["text/html"] == widget.html().markup and any(step.piece == "" for step in widget.steps)
    titles = [ax.get_title() for ax in widget.figure().axes if ax.get_title()]
    assert titles == ["byte-llama: 0.1*sad", "byte-llama: unsteered"]


# --- in a JupyterLab -------------------------------------------------------------------------------

CELL = """
import sys
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
import emolens as el
from chats import CHATML, byte_model, byte_tokenizer
from emolens.corpus.packaged import neutral
el.corpus.neutral = lambda: sorted(neutral(), key=len)[:6]
tokenizer = byte_tokenizer(CHATML)
tokenizer.add_tokens({hostile!r})  # so that one token in ten is hostile
model = byte_model(tokenizer)
stories = el.corpus.stories("plain").where(emotion=["calm", "sad", "angry"])
vectors = el.derive(model, stories, cache=False, progress=False)
monitor = el.Monitor.calibrate(model, vectors, ["calm", "sad"], ["she ran", "he was", "and so", "it is"], 0.3)
from dataclasses import replace
monitor = replace(monitor, threshold=-5.0)  # an alarm at the first token, whatever it is
widget = el.Widget(model, vectors, {prompt!r}, monitor, "sad", max_new_tokens=1500, seed=1)
widget
"""
ASK = """
from pathlib import Path
Path("seen.txt").write_text(str(widget.controls["strength"]) + " " + str(len(widget.steps)))
"""


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab of its own with a notebook of two cells, and the folder it works in."""
    import nbformat

    pytest.importorskip("jupyterlab")
    work = tmp_path / "work"
    work.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    hostile = [f"{text} {number}" for number in range(7) for text in HOSTILE[:4]]
    given = {"tests": str(Path(__file__).parent), "prompt": HOSTILE[1], "hostile": hostile}
    cells = [CELL.format(**given), ASK]
    nbformat.write(
        nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)), metadata=kernel),
        work / "page.ipynb",
    )
    environment = dict(os.environ, IPYTHONDIR=str(tmp_path / "ipython"), PYTHONPATH=str(Path(el.__file__).parents[1]))
    environment |= {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "spaces"),
    }
    port, token = free_port(), secrets.token_hex(16)
    options = [
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.ip=127.0.0.1",
        "--allow-root",
        "--no-browser",
    ]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={work}"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, cwd=work, stdout=log, stderr=log
        )
        try:
            until(lambda: answers(port) or running.poll() is not None, 60)
            assert running.poll() is None, (tmp_path / "log").read_text()
            yield f"http://127.0.0.1:{port}/lab/tree/page.ipynb?token={token}", work
        finally:
            running.terminate()
            running.wait(30)


def run_all_cells(page, address):
    page.goto(address)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)
    page.wait_for_timeout(1000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".emolens-w", timeout=90_000)


def test_in_jupyterlab_it_is_steered_started_and_stopped_and_hostile_text_stays_text(lab, page):
    address, work = lab
    run_all_cells(page, address)
    widget = page.locator(".emolens-w")
    assert widget.get_by_label("Prompt").input_value() == HOSTILE[1]
    strength = widget.get_by_role("slider", name="Strength")
    strength.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert strength.get_attribute("aria-valuetext") == "+0.05"
    widget.get_by_role("button", name="Start").click()
    page.wait_for_function("document.querySelectorAll('.emolens-w [data-at]').length > 40", timeout=60_000)
    widget.get_by_role("button", name="Stop").click()
    page.wait_for_function("document.querySelector('.emolens-w [role=status]').textContent === 'Stopped.'")
    assert widget.locator("h5").all_text_contents() == ["0.05*sad", "unsteered"]
    assert widget.locator("ul.alarms li").first.text_content().startswith("▲ alarm: ")
    tokens = widget.locator(".tokens").first.locator("[data-at]")
    drawn = tokens.evaluate_all(
        "all => all.map(one => [one.className, Number(one.dataset.score), getComputedStyle(one).backgroundColor])"
    )
    assert {kind.split()[0] for kind, *_ in drawn} <= {"up", "down"} and len({colour for *_, colour in drawn}) > 3
    assert all("alarm" not in kind or number < 20 for number, (kind, *_) in enumerate(drawn))
    assert any(text in "".join(widget.locator(".tokens").all_text_contents()) for text in HOSTILE[:4])
    first, second = [number for number in range(tokens.count()) if tokens.nth(number).text_content().strip()][1:3]
    tokens.nth(first).click()
    panel = widget.locator(".panel")
    held = panel.text_content()
    tokens.nth(second).hover()
    assert panel.text_content() == held and "log-probability" in held and f"token {first} (0.05*sad)" in held
    page.keyboard.press("Escape")
    widget.locator("header").hover()
    tokens.nth(second).hover()
    assert f"token {second} " in panel.text_content()
    assert widget.locator("script, img").count() == 0 and page.wrong == []
    ran = page.locator(".jp-Notebook .jp-Cell").nth(1)
    ran.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    until(lambda: (work / "seen.txt").exists() and (work / "seen.txt").read_text().startswith("0.05"), 30)
    assert 40 < int((work / "seen.txt").read_text().split()[1]) < 3000
