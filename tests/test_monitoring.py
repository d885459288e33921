"""What the monitors' studies say of conversations in which it is known what is there."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import planted as known
import pytest
import torch
from test_state import model_of
from test_studies import check

from emolens import corpus
from emolens.studies.watching import children, monitoring, while_writing
from emolens.studies.watching._conversations import conversations
from emolens.studies.watching._detectors import CHOSEN

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
TWO = {"afraid": "cue0", "angry": "cue1"}
WORDS = 16  # of a message


def rows(seed=0, rises=True, pairs=6):
    """Pairs of eight messages that part at the third; the cue comes with the fourth, the onset is the sixth."""
    rng, out = torch.Generator().manual_seed(seed), []
    for emotion, cue in TWO.items():
        for number in range(pairs):
            pair = f"{emotion}-{number}"
            same = [known.sentence(rng, length=WORDS) for _ in range(2)]
            for kind in ("escalating", "steady"):
                marks = [cue] * 3 if kind == "escalating" and rises else []
                said = [*same, *(known.sentence(rng, *(marks if n > 2 else []), length=WORDS) for n in range(2, 8))]
                turns = [{"role": ("user", "assistant")[n % 2], "text": text} for n, text in enumerate(said)]
                row = {"id": pair if kind == "escalating" else f"{pair}-steady", "condition": kind, "style": "chat"}
                row |= {"emotion": emotion, "bearer": ("user", "assistant")[number % 2], "pair": pair, "turns": turns}
                if kind == "escalating":
                    row |= {mark: {"message": n} for mark, n in (("fork", 2), ("onset", 5), ("act", 7))}
                out.append(row)
        out.append(out[-2] | {"id": f"{emotion}-log", "condition": "style", "style": "log"})
    for number in range(8):
        turns = [{"role": ("user", "assistant")[n % 2], "text": known.sentence(rng, length=WORDS)} for n in range(4)]
        style = ("chat", "log")[number % 2]
        row = {"id": f"benign-{number}", "condition": "benign", "style": style, "turns": turns}
        out.append(row | {"emotion": None, "bearer": None, "pair": None})
    return out


@pytest.fixture(scope="module")
def world():
    rng = torch.Generator().manual_seed(9)
    said = [f"Human: {known.sentence(rng)}\n\nAssistant: {known.sentence(rng)}" for _ in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "neutral", lambda: said)
        model, vectors = model_of(0, carries=False)
        model.tokenizer.chat_template = TEMPLATE
        yield model, vectors


@pytest.fixture(scope="module")
def found(world):
    return monitoring.run(*world, "quick", rows(), known.stories(0), draws=39)


def of(result, **only):
    frame = result.frame
    for key, value in only.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_a_planted_rise_is_found_before_the_onset_with_its_lead(found):
    for name in ("denoised", CHOSEN, "probe of conversations"):
        for cut in monitoring.CUTS:
            row = of(found["monitoring"], detector=name, emotion=monitoring.ALL, cut=cut)
            assert row["area"] > 0.97 and row["p"] < 0.01
    row = of(found["monitoring"], detector="denoised", emotion="angry", cut="whole")
    # Vectors of shuffled labels are sums of the few planted directions, so they find rises too, or the opposite.
    assert row["p_random"] < 0.05 and "p_shuffled labels" in row and row["against_others"] > 0.97
    lead = of(found["lead"], detector=CHOSEN, emotion=monitoring.ALL, rate=0.05)
    assert lead["caught"] == lead["before_onset"] == 1 and lead["false"] <= 0.2
    assert WORDS <= lead["lead_to_onset"] <= 2 * WORDS  # in the fourth message, where it begins, or early in the fifth
    assert lead["lead_to_act"] == lead["lead_to_onset"] + 2 * WORDS
    pairs = found["within_pairs"].frame.groupby("emotion")["sure_from"].first()
    assert all(WORDS <= token <= 2 * WORDS for token in pairs)


def test_words_know_what_stands_in_words_only(found):
    """The cue is no word that a list or a lexicon knows; the embedding of the cue is."""
    for name, area in (("VADER", 0.5), ("keywords", 0.5)):
        assert of(found["monitoring"], detector=name, emotion="angry", cut="whole")["area"] == area
    assert of(found["monitoring"], detector="token embeddings", emotion="angry", cut="whole")["area"] > 0.9


def test_each_monitor_knows_its_own_emotion(found):
    cells = found["specificity"].frame.set_index(["row", "column"])["score"]
    assert cells["afraid", "afraid"] > 0.97 and abs(cells["afraid", "angry"] - 0.5) < 0.35
    borne = found["bearers"].frame.set_index(["emotion", "bearer"])["score"]
    assert borne["angry", "user"] > 0.97


def test_without_a_rise_nothing_is_found(world):
    still = monitoring.run(*world, "quick", rows(1, rises=False), known.stories(0), draws=39)
    for name in ("denoised", CHOSEN, "probe of conversations", "token embeddings"):
        row = of(still["monitoring"], detector=name, emotion=monitoring.ALL, cut="whole")
        assert row["low"] < 0.6 and row["p"] > 0.01
    alarms = still["false_alarms"].frame
    part = alarms[(alarms["kind"] == "all quiet") & (alarms["rate"] == 0.05)]
    assert part["alarms"].mean() < 0.12


def test_every_result_has_the_shape_of_all(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["monitoring", "roc", "added", "lead", "false_alarms", "specificity", "bearers", "style", "within_pairs"]
    check(found, names)
    for result in found.values():
        if result.figure:
            plt.close(result.plot().figure)


def test_rows_that_cannot_be_read_are_named(world):
    model, vectors = world
    given = rows()
    with pytest.raises(ValueError, match="'afraid-0' belongs to the pair 'afraid-0', of which one twin is missing"):
        conversations(model, [row for row in given if row["id"] != "afraid-0-steady"])
    with pytest.raises(ValueError, match="'afraid-1' has no message 'act'"):
        conversations(model, [row | ({"act": {"message": 8}} if row["id"] == "afraid-1" else {}) for row in given])
    with pytest.raises(ValueError, match="has the condition 'calm'"):
        conversations(model, [given[0] | {"condition": "calm"}])
    with pytest.raises(ValueError, match="the vectors have no afraid"):
        monitoring.run(model, vectors[["angry", "sad", "calm"]], "quick", given)


def test_the_text_alone_is_told_from_the_steering(world, tmp_path, monkeypatch):
    model, vectors = world
    monkeypatch.setattr(while_writing, "EMOTIONS", ("angry", "calm"))
    monkeypatch.setattr(while_writing, "SIZES", {"quick": (8, 20, 0), "full": (30, 20, 10)})
    monkeypatch.setattr(while_writing, "STRENGTHS", (1.0, 4.0))  # the residual norm of these vectors counts as 1
    rng = torch.Generator().manual_seed(3)
    prompts = [known.sentence(rng, length=8) for _ in range(60)]
    monkeypatch.chdir(tmp_path)
    results = while_writing.run(model, vectors, "full", prompts, known.stories(0))
    check(results, ["while_writing"])
    result = results["while_writing"]
    plt.close(result.plot().figure)
    loud = of(result, steered="angry", strength=4.0)
    assert loud["live"] > 0.9 and loud["live_random_p"] < 0.05
    assert of(result, steered="unsteered", watched="angry")["live"] < 0.25
    quiet = of(result, steered="unsteered", watched="angry")
    assert quiet["live"] == quiet["alone"]  # nothing is added, so both read the same
    assert np.isfinite(result.frame["nats"]).all()


def test_a_child_that_is_its_base_gives_no_more_alarms_than_it(world, monkeypatch):
    model, vectors = world
    louder, _ = model_of(0, carries=False)
    louder.tokenizer.chat_template = TEMPLATE
    with torch.no_grad():  # every word writes a little of what the cue of angry writes
        embed = louder.hf_model.model.embed_tokens.weight
        embed += 0.1 * embed[louder.tokenizer.convert_tokens_to_ids("cue1")]
    readers = {"same": model, "louder": louder}
    monkeypatch.setattr(children, "packaged_adapters", lambda name: readers)
    monkeypatch.setattr(children, "load_adapter", lambda base, name: SimpleNamespace(model=readers[name]))
    monkeypatch.setattr(children, "MANNERS", {"louder": ("angry", "calm")})
    rng = torch.Generator().manual_seed(4)
    quiet = [[{"role": "user", "content": known.sentence(rng)}] for _ in range(80)]
    monkeypatch.setattr(corpus, "quiet", lambda: quiet)
    frame = children.run(model, vectors).frame.set_index(["watched", "reader"])
    assert frame.loc[("angry", "same"), "alarms"] == frame.loc[("angry", "base"), "alarms"] <= 0.2
    assert frame.loc[("angry", "louder"), "alarms"] > 0.5 and frame.loc[("angry", "louder"), "warns"]
    assert not frame.loc[("calm", "louder"), "warns"]
