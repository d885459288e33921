"""Scores while a text is written, and the monitor: the same as reading, nothing left behind, alarms that are rare."""

import gc
import json
import threading
import weakref
from itertools import pairwise

import numpy as np
import planted as known
import pytest
import torch
from chats import CHATML, byte_model, byte_tokenizer
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.models import support
from emolens.models.generation import Cached, Sampling, Writing
from emolens.watching.monitor import HALF_LIVES, Track, places
from emolens.watching.watch import Watch

CHAT = [{"role": "user", "content": "she was calm and warm"}]
TEXTS = ["she ran and he walked", "a cold night", "the river was very warm and calm"]


@pytest.fixture(scope="module")
def vectors(few_dialogues):
    model = el.HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    stories = el.corpus.stories("plain").where(emotion=["afraid", "angry", "calm", "happy", "proud", "sad"])
    return el.derive(model, stories, cache=False, progress=False)


def hooks_on(model) -> int:
    return sum(len(module._forward_hooks) for module in model._every_module())


def finished(running) -> list[list[int]]:
    """The token ids of each row of a stream that was walked through to its end, without the end token."""
    writing = running.writing
    return [
        [*encoding.ids, *(token for token in new if token not in writing.ends)]
        for encoding, new in zip(writing.encoded, writing.written, strict=True)
    ]


# --- the same as reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["cache", "whole passes"])
@pytest.mark.parametrize("method", ["cosine", "whitened"])
@pytest.mark.parametrize("steered", [False, True])
def test_what_is_read_while_writing_is_what_is_read_of_the_finished_text(
    tiny, vectors, engine, method, steered, monkeypatch
):
    if engine == "whole passes":
        works = support.works
        monkeypatch.setattr(support, "works", lambda model, name: name != "generate with cache" and works(model, name))
    steer = 0.3 * vectors["angry"] if steered else None
    watch = Watch.of(vectors, method=method)
    running = el.stream(tiny, TEXTS, watch, steer=steer, max_new_tokens=8, seed=2)
    steps = list(running)
    assert {step.row for step in steps} == {0, 1, 2}  # of different length, so that there is padding on the left
    readout = running.readout()
    for row, ids in enumerate(finished(running)):
        with el.steer(tiny, steer) if steered else el.steer(tiny, vectors["calm"], strength=0):
            wanted = el.read(tiny, ids, vectors, method=method).scores
        torch.testing.assert_close(readout.of_text(row).scores, wanted, atol=1e-4, rtol=0)
        own = [step for step in steps if step.row == row]
        for step in own:
            assert step.token == ids[step.rank]
            np.testing.assert_allclose(list(step.scores.values()), wanted[step.rank], atol=1e-4)


def test_rows_of_a_steering_share_their_prompt_and_are_read_each_under_its_own(tiny, vectors):
    directions = [0.3 * vectors["angry"], None, -0.3 * vectors["angry"]]
    running = el.stream(tiny, CHAT, vectors, ["angry", "calm"], directions, max_new_tokens=6, seed=1)
    list(running)
    for row, (direction, ids) in enumerate(zip(directions, finished(running), strict=True)):
        with el.steer(tiny, direction) if direction else el.steer(tiny, vectors["calm"], strength=0):
            wanted = el.read(tiny, ids, vectors[["angry", "calm"]]).scores
        torch.testing.assert_close(running.readout().of_text(row).scores, wanted, atol=1e-4, rtol=0)


def test_a_sliding_window_is_read_like_the_finished_text(vectors, few_dialogues):
    model = el.HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    stories = el.corpus.stories("plain").where(emotion=["calm", "sad", "angry"])
    own = el.derive(model, stories, cache=False, progress=False)
    running = el.stream(model, "she ran and " * 12, own, max_new_tokens=12)
    list(running)
    wanted = el.read(model, finished(running)[0], own).scores
    torch.testing.assert_close(running.readout().scores, wanted, atol=1e-4, rtol=0)


def test_a_stream_writes_what_generate_writes(tiny, vectors):
    for options in ({"seed": 3}, {"temperature": 0}, {"seed": 4, "stop": ["w1", "calm"]}):
        plain = tiny.generate(TEXTS, 12, **options)
        pieces = ["", "", ""]
        for step in el.stream(tiny, TEXTS, vectors, "calm", max_new_tokens=12, **options):
            pieces[step.row] += step.piece
            assert pieces[step.row] == step.text
        assert pieces == plain
        readout = tiny.generate(TEXTS, 12, **options, watch=Watch.of(vectors, ["calm", "sad"]))
        assert readout.emotions == ("calm", "sad")
        assert "".join(readout.of_text(1).labels).replace(" ", "").startswith("acoldnight")


def test_log_probabilities_are_the_models_own(tiny, vectors):
    steps = list(el.stream(tiny, "she ran", vectors, "calm", max_new_tokens=5, temperature=1.7))
    ids = [*tiny.encode("she ran").ids, *(step.token for step in steps)]
    logits = tiny.forward([ids])[0].log_softmax(dim=-1)
    wanted = [float(logits[step.rank - 1, step.token]) for step in steps]
    np.testing.assert_allclose([step.log_prob for step in steps], wanted, atol=1e-4)


def test_half_a_character_and_half_a_stop_string_are_held_back():
    """The pieces are whole characters, and nothing of a stop string that comes true is ever shown."""
    model = byte_model(byte_tokenizer())
    tokenizer = model.tokenizer
    writing = Writing(model, "she ran", Sampling(60, stop=["END"]))
    shown = []
    for token in tokenizer("ä 😀 an E and an END of it", add_special_tokens=False).input_ids:
        writing.written[0].append(token)
        writing.ended[0] = "END" in tokenizer.decode(writing.written[0])
        shown.append(writing.whole_text(0))
        if writing.ended[0]:
            break
    assert all("\ufffd" not in text and "EN" not in text for text in shown)
    assert shown[-1] == "ä 😀 an E and an "
    assert all(after.startswith(before) for before, after in pairwise(shown))


# --- nothing is left behind ------------------------------------------------------------------------


def test_leaving_a_stream_leaves_nothing_on_the_model(tiny, vectors):
    before, clean = hooks_on(tiny), tiny.forward("she ran")
    running = el.stream(tiny, "she ran", vectors, "calm", 0.5 * vectors["angry"], max_new_tokens=20)
    for step in running:
        assert hooks_on(tiny) == before and tiny.is_plain and not tiny.steering  # between two steps, too
        assert torch.equal(tiny.forward("she ran"), clean)
        if step.rank > 4:
            break
    assert hooks_on(tiny) == before and tiny.is_plain  # `running` is still held
    text = step.text
    rest = "".join(step.piece for step in running)  # and may go on
    with el.steer(tiny, 0.5 * vectors["angry"]):
        assert text + rest == tiny.generate("she ran", 20)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_in_the_middle_of_a_pass_leaves_nothing(tiny, vectors, error, monkeypatch):
    before = hooks_on(tiny)
    running = el.stream(tiny, "she ran", vectors, "calm", 0.5 * vectors["angry"], max_new_tokens=20)
    next(running)
    forward = tiny.hf_model.model.layers[-1].mlp.forward

    def interrupted(*args, **kwargs):
        raise error

    tiny.hf_model.model.layers[-1].mlp.forward = interrupted
    with pytest.raises(error):
        next(running)
    tiny.hf_model.model.layers[-1].mlp.forward = forward
    assert hooks_on(tiny) == before and not tiny.steering and tiny.passing is None
    with pytest.raises(RuntimeError, match="interrupted in the middle of a pass and can't go on"):
        next(running)  # what it holds of the text is half of a pass


def test_what_a_text_held_is_freed_with_it_and_not_at_a_later_collection(tiny, vectors, monkeypatch):
    """Keys and values are large, and Python's collector of cycles counts objects and not bytes."""
    alive, begin = weakref.WeakSet(), Cached.__init__

    def begun(self, *args, **kwargs):
        alive.add(self)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(Cached, "__init__", begun)
    push = 0.1 * vectors["sad"]
    gc.collect()
    gc.disable()
    try:
        tiny.generate(TEXTS, 3)
        tiny.generate("she ran", 3, watch=Watch.of(vectors, "calm"))
        assert len(list(el.stream(tiny, "she ran", vectors, "calm", push, max_new_tokens=3))) == 3
        assert next(el.stream(tiny, "she ran", vectors, "calm", push, max_new_tokens=3)).row == 0
        assert not alive
    finally:
        gc.enable()


def test_a_thousand_streams_leave_hooks_and_memory_as_they_were(tiny, vectors):
    def few(n):
        for seed in range(n):
            for step in el.stream(tiny, "she ran", vectors, "calm", 0.1 * vectors["sad"], max_new_tokens=2, seed=seed):
                if seed % 2 and step.rank == 2:
                    break

    few(20)
    gc.collect()
    before = (hooks_on(tiny), sum(torch.is_tensor(each) for each in gc.get_objects()))
    few(1000)
    gc.collect()
    after = (hooks_on(tiny), sum(torch.is_tensor(each) for each in gc.get_objects()))
    assert after[0] == before[0] and after[1] <= before[1] + 5


def test_a_stream_may_go_on_in_another_thread(tiny, vectors):
    """A live display draws from a thread of its own."""
    running = el.stream(tiny, "she ran", vectors, "calm", 0.3 * vectors["angry"], max_new_tokens=6)
    texts = [next(running).text]
    other = threading.Thread(target=lambda: texts.extend(step.text for step in running))
    other.start()
    other.join()
    with el.steer(tiny, 0.3 * vectors["angry"]):
        assert texts[-1] == tiny.generate("she ran", 6)


def test_reading_in_one_thread_and_writing_in_another_do_not_meet(tiny, vectors):
    alone = el.read(tiny, TEXTS, vectors).scores
    written = tiny.generate("she ran", 40, watch=Watch.of(vectors))
    wrong = []

    def reads():
        for _ in range(25):
            wrong.append(float((el.read(tiny, TEXTS, vectors).scores - alone).abs().max()))

    other = threading.Thread(target=reads)
    other.start()
    running = el.stream(tiny, "she ran", vectors, max_new_tokens=40)
    list(running)
    other.join()
    assert len(wrong) == 25 and max(wrong) == 0
    torch.testing.assert_close(running.readout().scores, written.scores)


# --- what may be watched ---------------------------------------------------------------------------


def test_sums_of_emotions_other_directions_and_probes(tiny, vectors):
    layer = vectors.default_layer
    x = torch.randn(7, tiny.d_model, generator=torch.Generator().manual_seed(0))
    bare = el.Direction.from_tensor(torch.randn(tiny.d_model), layer, vectors, "bare")
    probe = el.Probe.fit(tiny, TEXTS, [True, False, True], layer, name="warmth")
    watch = Watch.of(vectors, [vectors["afraid"] - 3 * vectors["calm"], bare, probe, "sad"], method="whitened")
    from emolens.reading.read import score

    each = score(x, vectors, layer, "whitened")
    afraid, calm, sad = (each[:, vectors.index(name)] for name in ("afraid", "calm", "sad"))
    found = watch(x)
    torch.testing.assert_close(found[:, 0], (afraid - 3 * calm) / 4)
    centred = x - vectors.at(layer).centre_stories[0]
    torch.testing.assert_close(found[:, 1], torch.cosine_similarity(centred, bare.at(layer)[None]))
    torch.testing.assert_close(found[:, 2], x @ probe.weights + probe.bias)
    torch.testing.assert_close(found[:, 3], sad)


def test_a_probe_finds_what_it_was_fitted_on(planted):
    model, _ = planted
    rng = torch.Generator().manual_seed(5)
    loud, still = ([known.sentence(rng, *cues) for _ in range(20)] for cues in (["cue1", "cue1"], []))
    probe = el.Probe.fit(model, loud[:10] + still[:10], [True] * 10 + [False] * 10, layer=3)
    x = el.activations(model, loud[10:] + still[10:], [3])[0]
    assert (probe(x)[:10].min() > probe(x)[10:].max()).item()


# --- the monitor -----------------------------------------------------------------------------------

MESSAGE = 24


def conversation(rng, cue=None, turns=6, quiet_turns=3):
    """Messages of fillers; from the fourth on the cue stands among them. The last message is the act."""
    out = []
    for turn in range(turns):
        marks = [cue] * 6 if cue and turn >= quiet_turns else []
        role = "assistant" if turn % 2 else "user"
        out.append({"role": role, "content": known.sentence(rng, *marks, length=MESSAGE)})
    return out


@pytest.fixture(scope="module")
def watched_model():
    """The planted model, which carries nothing on, and the vectors that are its directions."""
    from test_state import model_of

    model, own = model_of(0, carries=False)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return model, own


def monitor_of(model, own, seed=0, quiet=60, rate=0.05, **options):
    rng = torch.Generator().manual_seed(seed)
    watch = Watch.of(own, "angry", 3, "denoised")
    return el.Monitor.calibrate(model, own, watch, [conversation(rng) for _ in range(quiet)], rate, **options)


def test_a_planted_rise_is_found_with_its_lead_and_nothing_else_is(watched_model):
    model, own = watched_model
    false, leads = [], []
    for seed in range(20):
        rng = torch.Generator().manual_seed(1000 + seed)
        monitor = monitor_of(model, own, seed)
        found = monitor.watch(conversation(rng, "cue1"))  # angry is the second emotion
        first = found.alarms[0]
        act = next(place.rank for place in found.at if place.turn == 5)
        leads.append(act - first.token)
        assert first.turn == 3 and first.emotion == "angry" and first.height > monitor.threshold
        assert first.unusual == monitor.smallest_rate
        false.append(np.mean([bool(found) for found in monitor.watch([conversation(rng) for _ in range(60)])]))
    assert all(MESSAGE < lead <= 2 * MESSAGE for lead in leads)  # in the message in which it begins, one before the act
    # Each calibration has a threshold of its own, so the error is that of the mean over calibrations.
    assert np.mean(false) - 2 * np.std(false, ddof=1) / len(false) ** 0.5 <= 0.05


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_rate_holds_on_texts_that_the_threshold_was_not_set_on(vectors, rate):
    """Over many calibrations, in numbers alone: scores of white noise, which no two conversations share."""
    rng, alarms = np.random.default_rng(0), []
    watch = Watch.of(vectors, ["calm", "sad"])
    for _ in range(60):
        draw = lambda n: [rng.normal(size=(60, 2)) for _ in range(n)]  # noqa: E731
        monitor = el.Monitor.of_scores(watch, draw(99), rate)
        heights = [monitor.scale(x).max() for x in draw(50)]
        alarms.append(np.mean(np.array(heights) > monitor.threshold))
    assert abs(np.mean(alarms) - rate) < 0.2 * rate + 0.01
    low, high = monitor.promise
    assert low <= rate <= high


def test_reading_at_once_and_while_it_is_written_give_the_same_alarms(tiny, vectors):
    quiet = [
        [{"role": "user", "content": text}] for text in ["she ran", "he walked", "a cold river", "so warm and calm"]
    ]
    monitor = el.Monitor.calibrate(tiny, vectors, ["calm", "angry"], quiet, rate=0.4, half_life=3)
    running = el.stream(tiny, CHAT, monitor, steer=0.5 * vectors["angry"], max_new_tokens=30, seed=7)
    live = [alarm for step in running for alarm in step.alarms]
    writing = running.writing
    encoding = writing.encoded[0]
    ids = finished(running)[0]
    turns = [*encoding.turns, el.models.texts.Turn("assistant", len(encoding.ids), len(ids))]
    with el.steer(tiny, 0.5 * vectors["angry"]):
        found = monitor.watch(el.models.texts.Encoding(ids, turns))
    assert len(found) and [alarm[0] for alarm in live] == [alarm.token for alarm in found]
    np.testing.assert_allclose([alarm.height for alarm in live], [alarm.height for alarm in found], atol=1e-3)


def test_a_monitor_stops_a_text_and_calls_back(tiny, vectors):
    monitor = el.Monitor.calibrate(tiny, vectors, ["calm", "angry"], ["she ran", "he sat", "a river"], 0.4, half_life=2)
    options = {"steer": 0.5 * vectors["angry"], "max_new_tokens": 30, "seed": 7}
    called = []
    steps = list(el.stream(tiny, "she ran", monitor, **options, on_alarm=called.append))
    assert len(steps) == 30 and called == [alarm for step in steps for alarm in step.alarms] and called
    stopped = list(el.stream(tiny, "she ran", monitor, **options, on_alarm="stop"))
    assert stopped[-1].alarms and not any(step.alarms for step in stopped[:-1]) and len(stopped) < 30

    def broken(alarm):
        raise LookupError("no line to the duty officer")

    with pytest.raises(LookupError, match="duty officer"):
        list(el.stream(tiny, "she ran", monitor, **options, on_alarm=broken))
    assert tiny.is_plain and not tiny.steering


def test_the_half_life_is_chosen_on_loud_texts(vectors):
    rng = np.random.default_rng(0)
    quiet = [rng.normal(size=(80, 1)) for _ in range(40)]
    loud = [rng.normal(size=(80, 1)) + np.linspace(0, 0.9, 80)[:, None] for _ in range(40)]  # slow, below the noise
    monitor = el.Monitor.of_scores(Watch.of(vectors, "calm"), quiet, 0.05, loud)
    assert monitor.half_life >= 10 and monitor.half_life in HALF_LIVES
    short = [x.copy() for x in quiet]
    for x in short:
        x[40:43] += 4  # a short burst
    assert el.Monitor.of_scores(Watch.of(vectors, "calm"), quiet, 0.05, short).half_life <= 5


def test_only_messages_are_watched_and_only_of_whom_it_is_asked(tiny, vectors):
    tiny.tokenizer.chat_template = CHATML
    chat = [*CHAT, {"role": "assistant", "content": "he ran"}, {"role": "user", "content": "so cold"}]
    encoding = tiny.encode(chat)
    at = places(encoding, tiny.token_strings(encoding))
    assert [place.turn for place in at] == [0] * 5 + [1] * 2 + [2] * 2
    assert {place.role for place in places(encoding, tiny.token_strings(encoding), ["assistant"])} == {"assistant"}
    monitor = el.Monitor.calibrate(tiny, vectors, "calm", [chat] * 3, 0.3, roles=["assistant"])
    assert [place.turn for place in monitor.watch(chat).at] == [1, 1]
    with pytest.raises(ValueError, match="text 0 has no token that is watched: no message of assistant"):
        monitor.watch(CHAT)
    track = Track(monitor)
    whole = track.follow(torch.arange(4.0)[:, None], at[:4])[0]
    parts = Track(monitor)
    halves = [parts.follow(torch.arange(4.0)[:, None][rows], at[:4][rows])[0] for rows in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(np.concatenate(halves), whole)


def test_a_monitor_is_saved_with_all_that_it_watches_and_loaded_for_its_own_model_only(tiny, vectors, tmp_path):
    layer = vectors.default_layer
    bare = el.Direction.from_tensor(torch.randn(tiny.d_model), layer, vectors, "bare")
    probe = el.Probe.fit(tiny, TEXTS, [True, False, True], layer, name="warmth")
    things = {"fear": vectors["afraid"] - 0.5 * vectors["calm"], "sad": "sad", "bare": bare, "warmth": probe}
    watch = Watch.of(vectors, things, layer, "whitened")
    monitor = el.Monitor.calibrate(tiny, vectors, watch, TEXTS, 0.3, roles=None)
    path = monitor.save(tmp_path / "monitor.json")
    again = el.Monitor.load(path, tiny, vectors)
    assert again == monitor
    ours, theirs = monitor.watch("she was calm"), again.watch("she was calm")
    np.testing.assert_allclose(ours.heights, theirs.heights, atol=1e-4)

    other = el.HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "another")
    with pytest.raises(ValueError, match="belong to tiny-llama"):
        el.Monitor.load(path, other, vectors)
    fewer = el.derive(tiny, el.corpus.stories("plain").where(emotion=["calm", "sad"]), cache=False, progress=False)
    with pytest.raises(ValueError, match="calibrated with other vectors: their corpus"):
        el.Monitor.load(path, tiny, fewer)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"format": "something"}))
    with pytest.raises(ValueError, match="holds no monitor"):
        el.Monitor.load(path, tiny, vectors)


def test_a_conversation_longer_than_the_context_is_read_as_far_as_it_reaches(tiny, vectors):
    monitor = el.Monitor.calibrate(tiny, vectors, "calm", ["she ran", "he sat", "a river"], 0.4)
    long = monitor.watch("she ran and " * 200)
    assert long.stopped_at == tiny.n_ctx == 256 and long.at[-1].rank == 255
    chat = monitor.watch(
        [{"role": "user", "content": "she ran and " * 60}, {"role": "assistant", "content": "calm " * 300}]
    )
    assert chat.stopped_at == 256 and chat.at[-1].turn == 1
    assert monitor.watch("she ran").stopped_at is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quiet": []}, "no quiet texts: an alarm can't be set"),
        (
            {"rate": 0.01},
            r"6 quiet texts support no rate of 1 %: the smallest is 14 %. Give at least 99, or rate=0.143",
        ),
        ({"rate": 0}, "rate=0: give the share"),
        ({"rate": 1.5}, "rate=1.5: give the share"),
        ({"watch": "angr"}, r"no vector for the emotion 'angr' \(did you mean angry"),
        ({"watch": []}, "nothing to watch"),
        ({"watch": ["sad", "sad"]}, "'sad' is watched twice"),
        ({"half_life": -1}, "half_life=-1: give a number of tokens"),
        ({"quiet": ["she ran", ""] * 3}, "text 1: the text '' is empty"),
    ],
)
def test_bad_input_is_named(tiny, vectors, change, message):
    given = {"watch": "calm", "quiet": TEXTS * 2, "rate": 0.2} | change
    with pytest.raises(ValueError, match=message):
        el.Monitor.calibrate(tiny, vectors, given.pop("watch"), given.pop("quiet"), **given)


def test_bad_streams_are_named(tiny, vectors):
    other = el.HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    with pytest.raises(ValueError, match="these vectors belong to tiny-llama"):
        el.stream(other, "she ran", vectors, "calm")
    with pytest.raises(ValueError, match="no vector for the emotion 'clam'"):
        el.stream(tiny, "she ran", vectors, ["clam"])
    with pytest.raises(TypeError, match="3 can't be watched: give the name of an emotion"):
        el.stream(tiny, "she ran", vectors, [3])
    with pytest.raises(TypeError, match="3 can't be watched"):
        el.stream(tiny, "she ran", vectors, 3)
    with pytest.raises(ValueError, match="on_alarm is called at a monitor's alarms"):
        el.stream(tiny, "she ran", vectors, "calm", on_alarm="stop")
    with pytest.raises(TypeError, match="stream has no option 'temprature'"):
        el.stream(tiny, "she ran", vectors, "calm", temprature=1)
    with pytest.raises(ValueError, match="leaves room for"):
        el.stream(tiny, "she ran", vectors, "calm", max_new_tokens=1000)
    with pytest.raises(TypeError, match=r"give an el\.Watch"):
        tiny.generate("she ran", watch=vectors)
    with pytest.raises(ValueError, match="was fitted at block 1, and block"):
        el.stream(tiny, "she ran", vectors, el.Probe.fit(tiny, TEXTS, [True, False, True], 1))
