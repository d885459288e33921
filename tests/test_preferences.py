"""Preferences: the strengths behind planted choices, and the shared, batched passes against plain ones."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens import corpus
from emolens.models.model import HookedModel
from emolens.stats import Verdict
from emolens.steering.nulls import Nulls
from emolens.studies._common import NotForThisModel
from emolens.studies.causes import _pairs as pairs
from emolens.studies.causes import preferences
from emolens.vectors.derive import derive

OPTIONS = ["she ran and ran", "the river was cold", "he walked", "a very warm night"]


@pytest.fixture(params=[tiny_llama, tiny_gemma], ids=["llama", "gemma"])
def model(request):
    return HookedModel.from_hf(request.param(), tiny_tokenizer(), "tiny")


ASKED = pairs.Question("was it (A) {a} . or (B) {b} ?", ("( river", "( door"))  # the tiny tokenizer has no letters
LENGTH = pairs.Question("the night was very cold . (A) {a} . (B) {b} !", ("( river", "( door"))


@pytest.fixture(autouse=True)
def short_questions(monkeypatch):
    monkeypatch.setattr(preferences, "ASKED", ASKED)
    monkeypatch.setattr(preferences, "LENGTH", LENGTH)


def planted(strength, bias, noise=0.0, seed=0):
    noise = noise * np.random.default_rng(seed).normal(size=(len(strength), len(strength)))
    odds = strength[:, None] - strength[None, :] + bias + noise
    np.fill_diagonal(odds, np.nan)
    return odds


def test_bradley_terry_finds_strengths_and_position_bias():
    strength = np.linspace(-1, 1, 12)
    fit = pairs.bradley_terry(planted(strength, 0.7))
    assert np.allclose((fit.elo - 1500) / pairs.ELO, strength, atol=0.02) and fit.bias == pytest.approx(0.7, abs=0.02)
    wins = pairs.bradley_terry(planted(strength, 0.3, noise=0.5), soft=False)
    assert np.corrcoef(wins.elo.argsort().argsort(), strength)[0, 1] > 0.95  # the best and worst win or lose all
    elo = pairs.plain_elo(planted(strength, 0.7))
    assert np.corrcoef(elo, strength)[0, 1] > 0.98 and elo.mean() == pytest.approx(1500)


def test_order_consistency_is_1_without_bias_0_with_nothing_else_and_a_half_by_chance():
    strength = np.linspace(-1, 1, 40)
    assert pairs.order_consistency(planted(strength, 0)).mean() == 1
    assert pairs.order_consistency(planted(0 * strength, 1)).mean() == 0
    assert pairs.order_consistency(planted(0 * strength, 0, 1)).mean() == pytest.approx(0.5, abs=0.05)


def test_the_interval_of_consistency_covers_a_half_when_nothing_is_preferred():
    covered = 0
    for seed in range(60):
        low, high = pairs.consistency_interval(np.where(np.eye(24), np.nan, planted(np.zeros(24), 0, 1, seed)), 200)
        covered += low <= 0.5 <= high
    assert covered >= 50
    assert pairs.consistency_interval(planted(np.linspace(-1, 1, 24), 0, 0.3))[0] > 0.8


def test_pairs_run_under_one_steering_only(model):
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 1}
    values = torch.randn(1, model.d_model)
    one = el.Direction("d", (1,), values, torch.ones(1), torch.zeros(1, model.d_model), False, stamp)
    with el.steer(model, [one, None], 0.1), pytest.raises(ValueError, match="all_pairs batches its texts"):
        pairs.all_pairs(model, ASKED, OPTIONS)
    with el.steer(model, one, 3.0, where="prompt"):
        odds = pairs.all_pairs(model, ASKED, OPTIONS)
        _, a, b = pairs.answer_tokens(model, ASKED)
        logits = model.logits([pairs.choice(model, ASKED, OPTIONS[0], OPTIONS[1]).ids])[0]
    assert odds[0, 1] == pytest.approx(float(logits[a] - logits[b]), abs=1e-3)


def test_spans_hold_the_options(model):
    same = pairs.choice(model, ASKED, "it", "was it")
    assert model.tokenizer.decode(same.ids[slice(*same.second)]) in ("was <unk>", "was it")
    one = pairs.choice(model, ASKED, OPTIONS[0], OPTIONS[1])
    said = [model.tokenizer.decode(one.ids[start:end]) for start, end in (one.first, one.second)]
    assert said == OPTIONS[:2]
    with pytest.raises(ValueError, match="an option is empty"):
        pairs.choice(model, ASKED, " ", "the river")


def test_shared_prefixes_change_no_log_odds(model):
    odds = pairs.all_pairs(model, ASKED, OPTIONS)
    _, a, b = pairs.answer_tokens(model, ASKED)
    assert np.isnan(odds.diagonal()).all()
    for i in range(4):
        for j in range(4):
            if i != j:
                logits = model.logits([pairs.choice(model, ASKED, OPTIONS[i], OPTIONS[j]).ids])[0]
                assert odds[i, j] == pytest.approx(float(logits[a] - logits[b]), abs=1e-4)


def table():
    return pd.DataFrame({"text": OPTIONS, "category": ["x", "x", "y", "y"], "elo": [1510.0, 1490.0, 1520.0, 1480.0]})


def test_only_the_tokens_of_the_steered_activity_are_steered(model):
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 1}
    values = torch.nn.functional.normalize(torch.randn(2, 1, model.d_model), dim=-1)
    directions = [
        el.Direction(f"d{i}", (1,), x, torch.ones(1) * 20, torch.zeros(1, model.d_model), False, stamp)
        for i, x in enumerate(values)
    ]
    frame = table()
    found = preferences._changes(model, frame, directions, 1, 0.3, seed=0)
    steered = preferences.split(frame)
    assert steered.sum() == 2 and frame[steered]["category"].tolist() == ["x", "y"]
    _, a, b = pairs.answer_tokens(model, ASKED)

    def odds(one, direction, strength, span):
        with el.steer(model, direction, strength, 1, [span]):
            logits = model.logits([one.ids])[0]
        return float(logits[a] - logits[b])

    for column, i in enumerate(np.flatnonzero(steered)):
        for row, direction in enumerate(directions):
            changes = []
            for j in np.flatnonzero(~steered):
                first, second = (pairs.choice(model, ASKED, OPTIONS[x], OPTIONS[y]) for x, y in ((i, j), (j, i)))
                changes += [odds(first, direction, 0.3, first.first) - odds(first, direction, 0.0, first.first)]
                changes += [odds(second, direction, 0.0, second.second) - odds(second, direction, 0.3, second.second)]
            assert found[row, column] == pytest.approx(pairs.ELO * np.mean(changes), abs=0.05)


def test_the_study_runs_from_end_to_end(few_dialogues, monkeypatch):
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny")
    stories = corpus.stories().where(emotion=[*preferences.CAUSAL, "joyful", "gloomy"])
    vectors = derive(model, stories, cache=False, progress=False)
    rated = [name for name in corpus.ratings("glasgow") if name in stories.emotions]
    assert len(rated) >= 10
    results = preferences.run(model, vectors, "quick")
    assert set(results) == {"strengths", "order", "observed", "valence", "alignment"}
    left = results["alignment"]  # 24 emotions, of which too few are rated
    assert left.table()["verdict"].item() == Verdict.UNMEASURABLE and "needs at least 20" in left.null
    strengths, order = results["strengths"].table(), results["order"].table().iloc[0]
    assert len(strengths) == 16 and strengths["elo"].mean() == pytest.approx(1500)
    assert order["pairs"] == 16 * 15 and "the same activity wins in both orders" in results["order"].headline()
    assert order["consistency"] == pytest.approx(strengths["consistency"].mean())
    assert order["consistency_low"] <= order["consistency"] <= order["consistency_high"]
    plain = preferences.strengths(model, "quick", method="elo")["strengths"].table()
    assert plain["elo"].mean() == pytest.approx(1500) and not np.allclose(plain["elo"], strengths["elo"], atol=1e-9)
    with pytest.raises(ValueError, match="method='glicko' is neither"):
        preferences.strengths(model, "quick", method="glicko")
    observed = results["observed"]
    assert observed.table()["q"].ge(observed.table()["p"] - 1e-9).all()
    assert results["valence"].table()["words"].item() == len(rated) and "human valence" in results["valence"].headline()
    monkeypatch.setattr(preferences, "null_directions", lambda model, vectors, named, draws, layer, seed: Nulls({
        kind: [[null] for null in el.random_directions(named[0], draws, seed)] for kind in ("random", "shuffled labels")
    }))  # fmt: skip
    emotions = ["calm", "sad", "happy", "no emotion here"]
    causal = preferences.causal(model, vectors, strengths, observed.table(), emotions, draws=10)
    assert len(causal.table()) == 23 and "of 3 emotions" in causal.headline()
    tested = causal.table().query("kind == 'emotion'")
    beyond = tested[["p_random", "p_shuffled labels"]].max(axis=1) <= 0.05
    assert (beyond == (tested["verdict"] == Verdict.BEYOND)).all() and causal.table()["verdict"].isna().sum() == 20
    by_layer = preferences.by_layer(model, vectors, strengths)
    for result in (results["strengths"], observed, by_layer, causal):
        result.plot()
    for result in (*results.values(), by_layer, causal, preferences.largest(model, vectors, strengths)):
        assert len(re.findall(r"\d+(?:[.,]\d+)?%?", result.headline())) <= 4, result.headline()
    with pytest.raises(NotForThisModel, match="at least 3 are needed"):
        preferences.causal(model, vectors, strengths, observed.table(), ["calm", "sad"])
    few = preferences.observed(model, vectors[["joyful", "gloomy", "calm"]], strengths)
    assert "valence" in few or few["observed"].table()["valence"].notna().sum() < 3


def test_a_planted_correlation_is_found_and_chance_is_not(monkeypatch, few_dialogues):
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny")
    stories = corpus.stories().where(emotion=[*preferences.CAUSAL, "joyful", "gloomy"])
    vectors = derive(model, stories, cache=False, progress=False)
    rng, n = np.random.default_rng(0), 64
    frame = preferences.activities().assign(elo=rng.normal(1500, 100, n))
    noise = rng.normal(size=(n, len(vectors.emotions)))
    planted_scores = noise.copy()
    calm = vectors.index("calm")
    planted_scores[:, calm] += (frame["elo"].to_numpy() - 1500) / 50
    for name, given, called in (("planted", planted_scores, True), ("noise", noise, False)):
        monkeypatch.setattr(preferences, "scores", lambda *args, given=given, **_: given[None])
        observed = preferences.observed(model, vectors, frame)["observed"].table()
        row = observed.set_index("emotion").loc["calm"]
        assert (row["q"] <= 0.05) == called, name
        assert (row["q_within"] <= 0.05) == called, name
        monkeypatch.setattr(preferences, "scores", lambda *args, given=given, **_: np.stack([given] * len(args[3])))
        largest = preferences.largest(model, vectors, frame)
        assert largest.table()["p"].le(0.05).eq(called).all(), name
        assert "calm at block" in largest.headline() or not called


def directions(model, n=3, layers=(0, 2), norm=1.0):
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 1}
    values = torch.nn.functional.normalize(torch.randn(n, len(layers), model.d_model), dim=-1)
    rest = (torch.full((len(layers),), norm), torch.zeros(len(layers), model.d_model), False, stamp)
    return [el.Direction(f"d{i}", layers, x, *rest) for i, x in enumerate(values)]


def test_the_slopes_are_the_derivatives_of_steered_log_odds(model):
    torch.manual_seed(0)
    _, a, b = pairs.answer_tokens(model, ASKED)
    choices = [pairs.choice(model, ASKED, OPTIONS[i], OPTIONS[j]) for i, j in ((0, 1), (1, 0), (3, 2))]
    odds, slopes = pairs.option_slopes(model, ASKED, choices, [2, 0])

    def steered(one, direction, strength, layer, span):
        with el.steer(model, direction, strength, layer, [span]):
            logits = model.logits([one.ids])[0]
        return float(logits[a] - logits[b])

    for number, one in enumerate(choices):
        logits = model.logits([one.ids])[0]
        assert float(odds[number]) == pytest.approx(float(logits[a] - logits[b]), abs=1e-5)
        for place, span in enumerate((one.first, one.second)):
            for column, layer in enumerate((2, 0)):
                for direction in directions(model, 1):
                    whole, half = (
                        (steered(one, direction, h, layer, span) - steered(one, direction, -h, layer, span)) / (2 * h)
                        for h in (0.02, 0.01)
                    )
                    along = direction.values[direction.layers.index(layer)]
                    slope = float(slopes[number, place, column] @ along)
                    assert slope == pytest.approx((4 * half - whole) / 3, abs=3e-5)  # Richardson's extrapolation


def test_the_place_of_an_option_is_free(model):
    """It does not matter which of a pair is named first, and an option counts with the mean over its pairs."""
    met = [(0, 1), (2, 3), (1, 2)]
    once = preferences.place_free(model, ASKED, OPTIONS, met, [1, 3])
    turned = preferences.place_free(model, ASKED, OPTIONS, [(j, i) for i, j in met], [1, 3])
    assert np.allclose(once, turned, atol=1e-6) and once.shape == (4, 2, 32)
    first, last = ([(0, 1), (2, 3)], [(1, 2), (3, 0)])
    halves = [preferences.place_free(model, ASKED, OPTIONS, part, [1]) for part in (first, last)]
    assert np.allclose(preferences.place_free(model, ASKED, OPTIONS, first + last, [1]), np.mean(halves, axis=0))


def test_what_pulls_towards_a_place_is_no_preference(monkeypatch, model):
    pull = torch.randn(2, model.d_model)
    monkeypatch.setattr(
        preferences,
        "option_slopes",
        lambda model, question, choices, layers: (None, pull.expand(len(choices), 2, 2, -1)),
    )
    assert np.allclose(preferences.place_free(model, ASKED, OPTIONS, [(0, 1), (2, 3)], [1, 2]), 0)


def test_each_activity_meets_as_many_others_once_and_in_both_orders(monkeypatch, model):
    asked = []

    def seen(model, question, choices, layers):
        asked.append([(tuple(one.ids[slice(*one.first)]), tuple(one.ids[slice(*one.second)])) for one in choices])
        return torch.zeros(len(choices)), torch.zeros(len(choices), 2, len(layers), model.d_model)

    monkeypatch.setattr(preferences, "option_slopes", seen)
    frame = pd.DataFrame({"text": [f"she w{n} ran" for n in range(9)]})
    found = preferences.preference_gradients(model, frame, [1], met=4)
    assert list(found.controls) == [preferences.LESS_LENGTH, preferences.OWN] and len(asked) == 2
    for ordered in asked:
        assert len(ordered) == len(set(ordered)) == 9 * 4 and {(b, a) for a, b in ordered} == set(ordered)
        assert set(pd.Series([a for a, _ in ordered]).value_counts()) == {4}
    for met in (0, 3, 10):
        with pytest.raises(ValueError, match=f"met={met} of 9 activities"):
            preferences.preference_gradients(model, frame, [1], met=met)


@pytest.fixture
def rated(few_dialogues):
    """A model, and vectors of 33 emotions that both sources rate, whose stories are in the cache."""
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny")
    both = set(corpus.ratings("glasgow")) & set(corpus.ratings("russell_mehrabian"))
    emotions = [name for name in corpus.EMOTIONS if name in both]
    return model, derive(model, corpus.stories("plain").where(emotion=emotions), progress=False)


def test_the_readout_is_what_is_observed(rated):
    model, vectors = rated
    elo = preferences.activities("quick").assign(elo=np.random.default_rng(0).normal(1500, 50, 16))
    observed = preferences.observed(model, vectors, elo)["observed"].table()
    (x,) = preferences.readings(model, elo, [vectors.default_layer])
    readout = preferences.observed_r(x, elo["elo"].to_numpy())
    units = vectors.matrix(vectors.default_layer)
    assert np.allclose(readout(units).numpy(), observed["r"], atol=1e-4)
    assert torch.allclose(readout(torch.stack([units, -units]))[1], -readout(units), atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1.5])
def test_a_planted_preference_for_pleasant_emotions_is_found_and_none_is_not(monkeypatch, rated, size):
    model, vectors = rated
    layer = vectors.default_layer
    units = vectors.matrix(layer).double()
    valence = torch.tensor([corpus.ratings("glasgow")[name]["valence"] for name in vectors.emotions]).double()
    planted = torch.linalg.lstsq(units.T @ units + 1e-3 * torch.eye(32), units.T @ (valence - valence.mean())).solution
    planted = size * planted / planted.norm()
    rng = torch.Generator().manual_seed(3)

    def slopes(model, question, choices, layers):
        own = torch.randn(len(choices), 2, len(layers), 32, generator=rng) / 32**0.5
        if question == ASKED:
            own = own + torch.tensor([1.0, -1.0])[:, None, None] * planted.float()
        pull = torch.randn(32, generator=rng)  # towards the first answer, whatever it is
        return None, own + pull

    monkeypatch.setattr(preferences, "option_slopes", slopes)
    elo = preferences.activities("quick").assign(elo=np.random.default_rng(0).normal(1500, 50, 16))
    results = preferences.alignment(model, vectors, elo, "quick")
    assert set(results) == {"alignment", "ranked", "foretold"}
    row = results["alignment"].table().query("measure == 'valence, glasgow'").iloc[0]
    assert row["control"] == preferences.LESS_LENGTH and row["layer"] == layer
    assert (row["verdict"] == Verdict.BEYOND) == (size > 0) and (row["effect"] > 0.6) == (size > 0)
    read = results["alignment"].table().query("measure == @preferences.OBSERVED")
    assert len(read) == 2 and read[["p_shuffled labels", "p_random gradients"]].notna().all(axis=None)
    table = results["foretold"].table()
    assert np.corrcoef(table["effect"], table["r"])[0, 1] == pytest.approx(read["effect"].iloc[0], abs=1e-6)
    for result in results.values():
        result.plot()
    for result in results.values():
        assert len(re.findall(r"\d+(?:[.,]\d+)?%?", result.headline())) <= 4, result.headline()
        assert result.headline().endswith(".") and result.headline().count(". ") == 0


def test_stories_that_are_not_at_hand_leave_it_unmeasured_with_the_reason(rated):
    model, vectors = rated
    elo = preferences.activities("quick").assign(elo=1500.0)
    few = preferences.alignment(model, vectors[list(vectors.emotions[:12])], elo, "quick")["alignment"]
    assert few.table()["verdict"].item() == Verdict.UNMEASURABLE and "12 of 12 emotions have ratings" in few.null
    part = preferences.alignment(model, vectors[list(vectors.emotions[:25])], elo, "quick")["alignment"]
    assert part.table()["verdict"].item() == Verdict.UNMEASURABLE and "the stories have 33 emotions" in part.null


def test_answers_that_the_tokenizer_does_not_tell_apart_are_named(model):
    with pytest.raises(ValueError, match=r"tokens of tiny do not tell the answers '\(A\)' and '\(B\)' apart"):
        pairs.answer_tokens(model, pairs.Question("was it {a} or {b} ?"))


def test_a_question_without_places_or_with_one_answer_is_named():
    with pytest.raises(ValueError, match=r"'was it \(A\) \{a\} \?' must have \{a\} and then \{b\}"):
        pairs.Question("was it (A) {a} ?")
    with pytest.raises(ValueError, match=r"must have \{a\} and then \{b\}"):
        pairs.Question("{b} or {a}")
    with pytest.raises(ValueError, match=r"the answers are \('A', 'A'\): give two that differ"):
        pairs.Question("{a} or {b}", ("A", "A"))
