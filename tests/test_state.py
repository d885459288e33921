"""What kind of state it is: planted states that last and return, of speakers and persons, felt and shown."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import planted as known
import pytest
import torch
from test_studies import check

from emolens import corpus
from emolens.results import StudyResult, named
from emolens.stats import Verdict
from emolens.studies._common import near
from emolens.studies.state import (
    _left_out,
    beside,
    context,
    locality,
    masked,
    numbers,
    published,
    speakers,
    user_assistant,
)
from emolens.studies.state._crossed import crossed, leaving_each_out, nearest_without, within
from emolens.studies.state._scores import margins, permutations
from emolens.vectors.emotion_vectors import EmotionVectors

FOUR = ("afraid", "angry", "happy", "sad")
CUE = {name: f"cue{number}" for number, name in enumerate(known.EMOTIONS)}
SIX = known.EMOTIONS[:6]
LAYER = 3


def words(rng, n=20, cue=None, times=6):
    marked = [] if cue is None else [cue] * times
    drawn = [*marked, *(f"word{i}" for i in rng.integers(0, known.FILLERS, n - len(marked)))]
    return " ".join(drawn[i] for i in rng.permutation(n))


def model_of(seed, carries=True, elsewhere=False):
    """The planted model; one that carries nothing to later tokens, or carries the emotion in other directions.

    With its vectors, which are the planted directions.
    """
    model, directions = known.planted_model(seed)
    block, head = known.CARRIED_BY
    attention, size = model.hf_model.model.layers[block].self_attn, known.WIDTH // 4
    with torch.no_grad():
        own = attention.o_proj.weight[:, head * size : head * size + known.N]
        if not carries:
            own.zero_()
        elif elsewhere:  # orthogonal to all that is planted
            span = torch.cat([directions, own.T])
            free = torch.linalg.svd(span, full_matrices=True).Vh[known.N :][: known.N]
            own.copy_(2 * free.T)
    return model, vectors_along(model, directions)


def vectors_along(model, directions):
    """Vectors that are these directions at blocks 2 and 3, without anything to take out of them."""
    n, width = directions.shape
    both = directions[:, None].repeat(1, 2, 1)
    zeros = torch.zeros(2, width)
    chosen = {method: {"layer": LAYER, "shrinkage": 1.0} for method in ("denoised", "whitened", "raw")}
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": LAYER, "chosen": chosen}
    return EmotionVectors(
        known.EMOTIONS, (2, LAYER), both, both, torch.zeros(2, 1, width), torch.eye(width).repeat(2, 1, 1),
        torch.ones(2, width + 1), zeros, zeros, torch.ones(2), torch.ones(3, n, 2), torch.zeros(3, 2, 2), stamp=stamp,
    )  # fmt: skip


# --- locality


def local_rows(seed, each=5):
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(each):
        for emotion in FOUR:
            texts = [words(rng), words(rng), words(rng), words(rng, 24, CUE[emotion]), words(rng), words(rng)]
            turns = [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(texts)]
            parts = {part: {"message": place} for part, place in (("before", 1), ("inside", 3), ("after", 5))}
            rows.append({"id": f"{emotion}-{number}", "emotion": emotion, "turns": turns} | parts)
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_a_state_that_lasts_is_told_from_one_that_returns(seed):
    states = {}
    for carries in (True, False):
        model, vectors = model_of(seed, carries)
        said = locality.conversations(model, vectors, local_rows(seed))
        x, orders = locality.by_place(model, said, [LAYER])[0], permutations(said.truth, 99, seed)
        rows = locality.of_layer(x, said, vectors[list(said.emotions)], LAYER, "denoised", orders)
        rows = {row["place"]: row for row in rows}
        assert rows["inside"]["p"] == 0.01 and rows["before"]["p"] > 0.02
        states[carries] = rows["after"]
    assert states[True]["state"] == "persists" and states[True]["p"] == 0.01
    assert states[False]["state"] == "returns" and abs(states[False]["kept"]) < 0.1


def test_the_half_life_is_that_of_what_is_planted_and_is_not_made_up_where_nothing_falls():
    rng, t = np.random.default_rng(0), np.arange(160)
    rise = rng.normal(1, 0.1, 24)
    noise = rng.normal(0, 0.05, (24, 20))
    for true in (5, 20):
        after = rise[:, None] * np.exp(-np.log(2) * t / true) + rng.normal(0, 0.05, (24, 160))
        found = locality.half_life(rise, after, noise)
        assert found["half_life"] == pytest.approx(true, abs=2)
        assert found["half_life_low"] <= true <= found["half_life_high"] < found["back_inside"]
    stays = locality.half_life(rise, rise[:, None] + 0 * t, noise)
    assert np.isnan(stays["half_life"]) and stays["verdict"] == "does not fall by half"
    nothing = locality.half_life(rng.normal(0, 1, 24), np.zeros((24, 160)), noise)
    assert nothing["verdict"] == Verdict.UNMEASURABLE and np.isnan(nothing["back_inside"])


@pytest.mark.parametrize("carries", [True, False])
def test_locality_end_to_end(carries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, vectors = model_of(0, carries)
    results = locality.run(model, vectors, "quick", local_rows(0), known.stories(0), draws=39)
    told = results["persistence"].table().query("features == 'activations'").set_index("place")
    life = results["half_life"].table().iloc[0]
    bag = results["bag"].table().query("method == 'denoised'").set_index("place")
    assert (told.loc["after", "p"] <= 0.05) == carries and told.loc["inside", "p"] <= 0.05
    assert told.loc["before", "p"] > 0.05
    assert np.isnan(life["half_life"]) == carries
    assert bag.loc["inside", "p"] <= 0.05 < bag.loc["after", "p"]  # the words of the answer hold nothing
    shuffled = results["locality"].table().query("method == 'denoised'").set_index("place")["p_shuffled"]
    assert shuffled["inside"] <= 0.05
    assert ("it persists" in results["locality"].headline()) == carries
    if not carries:
        assert np.isfinite(life["back_inside"]) and list(results)[2] == "half_life"
        rest = {name: result for name, result in results.items() if name != "half_life"}  # an end that is not reached
        check(rest, ["locality", "decay", "persistence", "left_out", "bag"])
    for result in results.values():
        if result.figure:
            result.plot()


@pytest.mark.parametrize("carries", [True, False])
def test_what_a_story_leaves_is_read_against_the_same_text_without_it(carries):
    model, vectors = model_of(0, carries)
    said = locality.conversations(model, vectors, local_rows(0))
    result = locality.without_story(model, vectors, said, 99)
    table = result.table().set_index(["place", "story"])
    less = table.xs("difference", level="story")
    assert (table.xs("without it", level="story")["p"] > 0.01).all()
    assert (less.loc["answer after", "p"] == 0.01) == carries and len(less) == 6
    assert (less["p"] <= 0.05).sum() == (6 if carries else 0)
    assert "over the answer after it (p = 0.010)" in result.headline() or not carries


def test_the_same_question_stands_after_every_story_and_the_story_is_left_out_of_the_control():
    row = local_rows(0)[0]
    messages = [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]
    said = locality.Conversations(FOUR, np.array([0]), (messages,), ((),), ((1, 3, 5),))
    same = {"role": "user", "content": "Why?"}
    assert _left_out._chats(said, "Why?", "Why?") == [[*messages[:4], same]]
    assert _left_out._chats(said, "Why?", "Why?", story=False) == [[*messages[:2], same]]
    assert _left_out._chats(said, _left_out.ANSWER, None) == [messages]
    assert _left_out._chats(said, _left_out.ANSWER, None, story=False) == [messages[:2] + messages[4:]]


def test_a_regression_does_not_tell_what_is_not_there_and_has_no_bias_against_what_is_left_out():
    rng = np.random.default_rng(0)
    truth = np.tile(np.arange(4), 6)
    shares = [locality.told(rng.normal(0, 0.2, (24, 20)), truth).mean() for _ in range(30)]
    assert 0.2 < np.mean(shares) < 0.3  # a single one left out would give far less than a quarter
    assert locality.told(np.eye(4)[truth] + rng.normal(0, 0.2, (24, 4)), truth).mean() > 0.9


def test_margins_are_against_the_other_emotions():
    scores = np.array([[3.0, 1.0, 2.0]])
    assert margins(scores)[0].tolist() == pytest.approx([1.5, -1.5, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inside": None}, "conversation 'afraid-0' has no 'inside': name its message"),
        ({"inside": {"message": 9}}, "'afraid-0': 'inside' is message 9, and there are 6"),
        ({"inside": {"message": 2}}, "'inside' is message 2, which must be an assistant's after a user's"),
        ({"inside": {"message": 5}}, "before, inside and after are messages .1, 5, 5., not in the order"),
    ],
)
def test_a_story_turn_that_is_missing_is_named(change, message, planted):
    rows = local_rows(0)
    rows[0] = {key: value for key, value in (rows[0] | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        locality.run(*planted, "quick", rows)


# --- user and assistant


def both_rows(seed, each=4):
    rng, pairs = np.random.default_rng(seed), [("afraid", "calm"), ("angry", "happy"), ("sad", "proud")]
    return [
        {
            "id": f"{a}-{number}", "user_emotion": a, "assistant_emotion": b,
            "turns": [{"role": "user", "text": words(rng, 20, CUE[a])},
                      {"role": "assistant", "text": words(rng, 20, CUE[b], 15)}],
        }
        for number in range(each) for a, b in pairs
    ]  # fmt: skip


def test_the_users_emotion_is_read_before_a_reply_and_the_replys_over_it():
    model, vectors = model_of(0)
    results = user_assistant.run(model, vectors, "quick", both_rows(0), draws=99)
    table = results["user_assistant"].table().query("method == 'denoised'").set_index(["place", "whose"])
    difference = table.xs("user less assistant", level="whose")
    assert difference.loc["before the reply", "low"] > 0 and difference.loc["before the reply", "p"] <= 0.02
    assert difference.loc["reply", "high"] < 0
    assert "above the one that the reply will hold, beyond" in results["user_assistant"].headline()
    check(results, ["user_assistant", "between"])


def test_a_place_that_foretells_is_told_from_one_that_does_not():
    rng = np.random.default_rng(0)
    reply = rng.normal(size=(40, 8))
    orders = np.stack([rng.permutation(40) for _ in range(199)])
    read = (rng.normal(size=(40, 8)), reply + 0.3 * rng.normal(size=(40, 8)), reply)
    places = dict(zip(user_assistant.PLACES, read, strict=True))
    rows = {row["pair"]: row for row in user_assistant.correlations(places, orders)}
    assert rows["before the reply and reply"]["effect"] > 0.9 and rows["user's end and reply"]["p"] > 0.05
    assert rows["foretold better"]["low"] > 0.5 and rows["foretold better"]["p"] == 0.005


def test_users_and_assistants_that_cannot_be_told_apart_are_named(planted):
    alone, same = both_rows(0)[0], both_rows(0)[0]
    alone = alone | {"turns": alone["turns"][:1]}
    with pytest.raises(
        ValueError, match="conversation 'afraid-0' has the turns user; give a user's and an assistant's"
    ):
        user_assistant.run(*planted, "quick", [alone])
    with pytest.raises(ValueError, match="conversation 'afraid-0': both are afraid"):
        user_assistant.run(*planted, "quick", [same | {"assistant_emotion": "afraid"}])


# --- word and context


def context_rows(seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"p{i}", "kind": "prefix", "favourable": words(rng, 8, CUE["happy"], 3),
         "unfavourable": words(rng, 8, CUE["sad"], 3), "target": words(rng, 8)}
        for i in range(10)
    ]  # fmt: skip
    for i in range(10):
        own, other = (("happy", "sad"), ("sad", "happy"))[i % 2]
        text = f"{words(rng, 6)} {CUE[own]} {words(rng, 12, CUE[other], 5)} word1"
        sign = {"happy": "+", "sad": "-"}
        valences = {"word_valence": sign[own], "meaning_valence": sign[other]}
        rows.append({"id": f"c{i}", "kind": "connotation", "text": text, "word": CUE[own]} | valences)
    return rows


def test_a_prefix_is_read_at_the_same_tokens_only_where_something_is_carried():
    for carries in (True, False):
        model, vectors = model_of(1, carries)
        results = context.run(model, vectors, "full", context_rows(0), known.stories(0))
        rows = results["context"].table().query(f"method == 'denoised' and layer == {LAYER}").set_index("place")
        assert (rows.loc["target", "p"] <= 0.01 and rows.loc["target", "effect"] > 1) == carries
        assert rows.loc["word", "effect"] > 1 and rows.loc["word", "p"] <= 0.01  # there the word itself is read
        assert (rows.loc["end", "high"] < 0) == carries  # what is meant
        assert np.isfinite(results["crossing"].table().iloc[0]["block"]) or not carries


def test_the_valence_after_two_prefixes_gives_the_effect_of_the_table():
    model, vectors = model_of(1)
    rows = context_rows(0)
    found = context.run(model, vectors, "quick", rows)["context"].table()
    found = found.query(f"method == 'denoised' and layer == {LAYER} and place == 'target'")["effect"].item()
    valence = context.prefix_valence(model, vectors, LAYER, rows)
    difference = valence[:, 0] - valence[:, 1]
    assert valence.shape == (10, 2) and difference.mean() / difference.std(ddof=1) == pytest.approx(found, abs=1e-3)


def test_rows_of_context_that_cannot_be_read_are_named(planted):
    rows = context_rows(0)
    with pytest.raises(ValueError, match="row 'p0' is of the kind 'prefx'; give 'prefix' or 'connotation'"):
        context.run(*planted, "quick", [rows[0] | {"kind": "prefx"}])
    with pytest.raises(ValueError, match="row 'c0': 'joy' must stand in the text"):
        context.run(*planted, "quick", [rows[10] | {"word": "joy"}])
    with pytest.raises(ValueError, match="row 'p0': the target has other tokens after the two prefixes: ''"):
        context.run(*planted, "quick", [rows[0] | {"target": ""}])


# --- speakers

PAIRS = np.array([(i, j) for i in range(8) for j in range(8)])


def coded(kind, seed, width=64):
    """Activations of either speaker's turns: of a role, of a person, or of whoever speaks now and nothing else."""
    rng = np.random.default_rng(seed)
    one, two = np.linalg.qr(rng.normal(size=(width, 16)))[0].T.reshape(2, 8, width)
    user, assistant = PAIRS.T
    if kind == "role":
        turns = [one[user] + 0.7 * two[assistant], one[assistant] + 0.7 * two[user]]
    elif kind == "person":
        turns = [one[user] + 0.7 * two[assistant], two[assistant] + 0.7 * one[user]]
    else:
        turns = [one[user], one[assistant]]
    topic = rng.normal(0, 0.15, (len(PAIRS), width))  # of a dialogue, in both speakers' turns
    return torch.tensor(np.stack([x + topic + rng.normal(0, 0.1, x.shape) for x in turns])).float()


@pytest.fixture(scope="module")
def eight():
    return crossed(PAIRS, known.EMOTIONS[:8], speakers.WHO), vectors_of_eight()


def vectors_of_eight():
    model, directions = known.planted_model(0)
    return vectors_along(model, directions)[list(known.EMOTIONS[:8])]


@pytest.mark.parametrize("seed", range(20))
def test_a_code_of_roles_is_told_from_one_of_persons(seed, eight):
    weights, vectors = eight
    for kind in ("role", "person"):
        pairs, groups, _ = speakers.measure(coded(kind, seed), weights, vectors, LAYER, 99, seed)
        assert {row["grouped_by"] for row in groups} == {kind}
        by = {row["contrast"]: row for row in groups}
        assert by[kind]["effect"] == pytest.approx(1, abs=0.25) and by[kind]["p"] == 0.01
        assert all(0 < row["ceiling"] <= 1 for row in pairs if row["kind"] in speakers.GROUPS)


def test_common_topics_do_not_make_a_person_and_what_is_not_there_is_not_grouped(eight):
    weights, vectors = eight
    pairs, groups, matrix = speakers.measure(coded("present", 0), weights, vectors, LAYER, 99)
    rows = {row["pair"]: row for row in pairs}
    person = rows["present, user with other, assistant"]
    assert abs(person["effect"]) < 0.1 < person["same_dialogues"]  # the same dialogues are alike for their topics
    assert matrix.query("row == column")["score"].min() < 0.2
    assert {row["grouped_by"] for row in groups} == {Verdict.UNMEASURABLE}
    noise = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    _, groups, _ = speakers.measure(noise, weights, vectors, LAYER, 99)
    assert {row["grouped_by"] for row in groups} == {Verdict.UNMEASURABLE}


def test_noisy_vectors_of_one_code_have_a_low_cosine_and_reach_their_ceiling(eight):
    weights, vectors = eight
    x = coded("role", 3) + torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.35
    pairs, _, _ = speakers.measure(x, weights, vectors, LAYER, 99)
    present = pairs[0]
    assert present["effect"] < 0.6 and present["of_ceiling"] == pytest.approx(1, abs=0.2)


def speaker_rows(seed, person):
    rng = np.random.default_rng(seed)
    cue = {who: {name: f"cue{i + 5 * (person and who == 'assistant')}" for i, name in enumerate(SIX)}
           for who in speakers.WHO}  # fmt: skip
    return [
        {"user_emotion": a, "assistant_emotion": b,
         "turns": [{"role": who, "text": words(rng, 12, cue[who][e], 4)} for _ in range(2)
                   for who, e in zip(speakers.WHO, (a, b), strict=True)]}
        for a in SIX for b in SIX
    ]  # fmt: skip


@pytest.mark.parametrize(("person", "kind"), [(True, "person"), (False, "role")])
def test_speakers_end_to_end(person, kind, tmp_path, monkeypatch):
    """Words of either speaker's own are a code of persons; words carried in other directions are one of roles."""
    monkeypatch.chdir(tmp_path)
    model, vectors = model_of(0, elsewhere=not person)
    results = speakers.run(model, vectors, "quick", speaker_rows(0, person), draws=99)
    assert set(results["grouping"].table()["grouped_by"]) == {kind}
    check(results, ["grouping", "speakers", "matrix", "affect"])
    for result in results.values():
        result.plot()


def test_dialogues_that_cannot_be_compared_are_named(planted):
    rows = speaker_rows(0, False)
    alone = rows[0] | {"turns": rows[0]["turns"][::2]}
    with pytest.raises(ValueError, match="dialogue 0 has no turn of the assistant: two speakers are needed"):
        speakers.run(*planted, "quick", [alone, *rows[1:]])
    with pytest.raises(ValueError, match="dialogue 0: the user speaks in the first turn only"):
        speakers.run(*planted, "quick", [rows[0] | {"turns": rows[0]["turns"][:2]}, *rows[1:]])
    one_role = [row for row in rows if row["assistant_emotion"] != "calm"]
    with pytest.raises(ValueError, match="'calm' is an emotion of the user only, in no dialogue of the assistant"):
        speakers.run(*planted, "quick", one_role)
    with pytest.raises(
        ValueError, match="'afraid' is the emotion of the user in 2 dialogues; two halves of them need 4"
    ):
        speakers.run(*planted, "quick", [row for i, row in enumerate(rows) if i not in (0, 1, 2, 3)])


# --- masked

FELT = np.array([(i, j) for i in range(8) for j in range(8) if i != j])


def hidden(felt, shown, seed, width=64, noise=0.1):
    rng = np.random.default_rng(seed)
    x = felt[FELT[:, 0]] + shown[FELT[:, 1]] + rng.normal(0, noise, (len(FELT), width))
    return torch.tensor(x).float()


@pytest.fixture(scope="module")
def masks():
    return crossed(FELT, known.EMOTIONS[:8], masked.ROLES), vectors_of_eight()


def test_hidden_emotions_that_are_the_stories_own_are_told_from_others(masks):
    weights, vectors = masks
    stories = vectors.matrix(LAYER).double().numpy()
    free = torch.linalg.svd(vectors.matrix(LAYER), full_matrices=True).Vh[11:19].double().numpy()
    for felt, alike in ((stories, True), (free, False)):
        x = hidden(felt, stories, 0)
        row = masked.cosines(x, weights, vectors, LAYER, 199)[0]
        left = masked.outside(x, weights, vectors, LAYER, within(FELT, 0, 39, 0))[0]
        assert (row["of_ceiling"] > 0.8 and row["p"] <= 0.01) == alike and row["split_half"] > 0.5
        assert (left["reliable_left"] > 0.9) == (not alike)
    nothing = masked.cosines(hidden(0 * stories, stories, 0), weights, vectors, LAYER, 199)[0]
    assert nothing["split_half"] < 0.15 and nothing["p"] > 0.05
    # The norm that is left says nothing: noise lies outside of any few directions.
    noise = masked.outside(hidden(0 * stories, stories, 0), weights, vectors, LAYER, within(FELT, 0, 39, 0))[0]
    assert noise["effect"] > 0.85


def test_what_is_shown_does_not_stand_in_for_what_is_felt(masks):
    """A felt emotion is never shown by its own dialogues, so the plain means of the others' faces would tell it."""
    weights, vectors = masks
    stories = vectors.matrix(LAYER).double().numpy()
    x = hidden(0 * stories, 3 * stories, 0, noise=0.01)
    assert (weights.whole[0] @ x).norm(dim=1).max() < 0.05
    plain = torch.stack([x[torch.from_numpy(FELT[:, 0] == e)].mean(dim=0) for e in range(8)])
    assert (plain - plain.mean(dim=0)).norm(dim=1).min() > 0.2


def test_leaving_a_dialogue_out_is_a_fit_without_it_and_tells_only_what_is_there():
    left = leaving_each_out(FELT, 8, 0)
    rest = np.arange(len(FELT)) != 5
    design = np.zeros((len(FELT), 16))
    design[np.arange(len(FELT)), FELT[:, 0]] = design[np.arange(len(FELT)), 8 + FELT[:, 1]] = 1
    x = np.random.default_rng(0).normal(size=(len(FELT), 3))
    fitted = np.linalg.lstsq(design[rest], x[rest], rcond=None)[0][:8]
    assert left[5] @ x == pytest.approx(fitted - fitted.mean(axis=0))
    orders = within(FELT, 0, 39, 0)
    assert all((order[:, 0] != order[:, 1]).all() and (order[:, 1] == FELT[:, 1]).all() for order in orders)
    code = torch.eye(64).double().numpy()
    for strength, found in ((1.0, True), (0.0, False)):
        y = hidden(strength * code[:8], code[8:16], 0, noise=0.2).double()
        y = (y - y.mean(dim=0)).numpy()
        share = (nearest_without(left, y @ y.T, FELT[:, 1]) == FELT[:, 0]).mean()
        assert (share > 0.8) == found and (share < 0.3) == (not found)


def masked_rows(seed):
    rng = np.random.default_rng(seed)
    return [
        {"felt": a, "shown": b, "speaker": "word0", "scenario": words(rng, 10, CUE[a], 4),
         "turns": [{"speaker": who, "text": words(rng, 8, CUE[b] if who == "word0" else None, 3)}
                   for who in ("word1", "word0") * 2]}
        for a in SIX for b in SIX if a != b
    ]  # fmt: skip


def test_masked_end_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, vectors = model_of(0)
    results = masked.run(model, vectors, "full", masked_rows(0), known.stories(0), draws=99)
    told = results["recognised"].table().query(f"layer == {LAYER} and told == 'felt' and by == 'masked vectors'")
    told = told.set_index("condition")
    assert told.loc["after its scenario", "p"] == 0.01 and told.loc["dialogue alone", "p"] > 0.05
    cosine = results["masked"].table().query(f"layer == {LAYER} and pair == 'felt with stories'").set_index("condition")
    assert cosine.loc["after its scenario", "of_ceiling"] > 0.8 and cosine.loc["dialogue alone", "split_half"] < 0.3
    steered = results["steering"].table()
    assert np.corrcoef(steered["effect"], steered["steered"])[0, 1] > 0.9  # the slope is what steering does
    check(results, ["masked", "outside", "recognised", "steering"])
    for result in results.values():
        if result.figure:
            result.plot()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": [{"speaker": "word0", "text": "word3"}]}, "dialogue 0 has one speaker, word0: two are needed"),
        ({"speaker": "word9"}, "dialogue 0: 'word9' is masked and says nothing"),
        ({"shown": "afraid"}, "dialogue 0: what is felt and what is shown are both 'afraid'"),
        ({"scenario": " "}, "dialogue 0 has no scenario"),
    ],
)
def test_masked_dialogues_that_cannot_be_read_are_named(change, message, planted):
    rows = masked_rows(0)
    with pytest.raises(ValueError, match=message):
        masked.run(*planted, "quick", [rows[0] | change, *rows[1:]])


# --- all of them


@pytest.mark.parametrize("study", [locality, user_assistant, context, speakers, masked])
def test_vectors_of_too_few_emotions_are_named(study, planted):
    model, vectors = planted
    own = replace(vectors[["calm", "sad"]], emotions=("calm", "hygge"))
    with pytest.raises(ValueError, match="and two are needed|one kind is missing among calm, hygge"):
        study.run(model, own, "quick")


@pytest.mark.parametrize(("study", "rows"), [(user_assistant, both_rows), (masked, masked_rows)])
def test_a_curve_has_one_point_at_a_layer(study, rows):
    model, vectors = model_of(0)
    for result in named(study.run(model, vectors, "quick", rows(0), draws=39)).values():
        if result.figure == "effect_by_layer":
            assert not result.table().duplicated(["layer", result.options["series"]]).any()


def test_the_same_call_gives_the_same_numbers():
    model, vectors = model_of(0)
    one, two = (named(user_assistant.run(model, vectors, "quick", both_rows(0), draws=39)) for _ in range(2))
    assert all(one[name].table().equals(two[name].table()) for name in one)
    assert len(corpus.stimuli("user_assistant")) == 40 and re.match("Right before", one["user_assistant"].headline())


def test_the_table_has_the_published_figures_and_those_of_models_that_are_stored():
    rows = [
        {"layer": layer, "condition": told, "pair": "felt with stories", "effect": effect, "low": 0.1, "high": 0.3}
        | {"ceiling": 0.4}
        for layer, effect in ((1, 0.9), (2, 0.2))
        for told in masked.CONDITIONS
    ]
    told = {"masked": pd.DataFrame(rows), "steering": pd.DataFrame({"layer": [2]})}
    kept = {"place": "after", "method": ["whitened", "denoised"], "layer": 2, "kept": [0.5, np.nan]}
    studies = {"masked": results_of(told), "locality": results_of({"locality": pd.DataFrame(kept)})}
    table = beside({"one": studies, "two": {}})
    assert table.columns.tolist() == ["paper", "replication", "one", "two"] and (table["two"] == "").all()
    assert table.loc["hidden emotion with the stories', after its scenario"].tolist() == [
        "about 0.05", "0.24", "0.20 [0.10, 0.30], ceiling 0.40", "",
    ]  # fmt: skip
    assert table.loc["share of a story's emotion left in the next answer", "one"] == "cannot be measured"
    assert (table["one"] != "").sum() == 4  # two conditions, the missing pair, and what cannot be measured


def test_numbers_are_those_of_the_chosen_block_with_their_intervals():
    row = {
        "method": "denoised",
        "effect": 0.6,
        "low": 0.5,
        "high": 0.7,
        "p": 0.0002,
        "null_low": -0.1,
        "null_high": 0.1,
    }
    rows = [row | {"layer": layer, "place": place} for layer in (1, 2) for place in ("after", "inside")]
    found = {"masked": results_of({"steering": pd.DataFrame({"layer": [2]})})}
    models = {"one": found | {"locality": results_of({"locality": pd.DataFrame(rows)})}, "two": {}}
    table = numbers(models, "locality", "locality", "effect", "null", "p", index=["place"], place=["inside"])
    assert table.index.tolist() == [("one", "inside")]
    assert table.iloc[0].tolist() == ["0.600 [0.500, 0.700]", "-0.100 to 0.100", "< 0.001"]
    assert numbers({"two": {}}, "locality", "locality").empty
    assert numbers(models, "locality", "locality", "layer", "place")["place"].tolist() == ["after", "inside"]


def results_of(frames):
    return {name: StudyResult(name, frame, "A sentence.", "none") for name, frame in frames.items()}


def test_a_state_that_falls_below_where_it_was_leaves_nothing(planted):
    chosen = near(planted[1], planted[1].chosen_layer("denoised"))
    place = {"method": "denoised", "layer": chosen, "place": "after"}
    row = place | {"p": 0.3, "kept": -0.35, "state": "returns"}
    assert locality.headline(pd.DataFrame([row]), planted[1]).endswith(
        "nothing (-35%) of its rise is left: it returns."
    )


@pytest.mark.parametrize(("effect", "side"), [(0.05, "above"), (-0.05, "below")])
def test_the_answer_after_is_said_to_lie_on_its_side_of_the_null(effect, side, planted):
    chosen = near(planted[1], planted[1].chosen_layer("denoised"))
    row = {"method": "denoised", "layer": chosen, "place": "after", "p": 0.02, "kept": effect, "state": "returns"}
    band = {"effect": effect, "null_low": -0.02, "null_high": 0.02}
    said = locality.headline(pd.DataFrame([row | band]), planted[1])
    assert f"lies {side} the null" in said and ("more of it" if side == "above" else "less of it") in said


def test_published_figures_are_numbers_beside_those_of_models():
    row = {"layer": 2, "method": "denoised", "pair": "user's end and before the reply"}
    told = {"between": pd.DataFrame([row | {"effect": 0.6, "low": 0.5, "high": 0.7}])}
    block = {"steering": pd.DataFrame({"layer": [2]})}
    frame = published({"one": {"user_assistant": results_of(told), "masked": results_of(block)}, "two": {}}, "between")
    assert frame["model"].tolist() == ["one"] and frame["limit"].isna().all()
    ends = ["value", "low", "high", "paper_low", "paper_high", "replication_low", "replication_high"]
    assert frame.loc[0, ends].tolist() == [0.6, 0.5, 0.7, 0.11, 0.11, 0.63, 0.72]
