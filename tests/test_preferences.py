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


@pytest.fixture(autouse=True)
def short_question(monkeypatch):
    monkeypatch.setattr(pairs, "QUESTION", "was it (A) {a} . or (B) {b} ?")
    monkeypatch.setattr(pairs, "ANSWERS", ("( river", "( door"))  # the tiny tokenizer has no letters


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
        pairs.all_pairs(model, OPTIONS)
    with el.steer(model, one, 3.0, where="prompt"):
        odds = pairs.all_pairs(model, OPTIONS)
        _, a, b = pairs.answer_tokens(model)
        logits = model.logits([pairs.choice(model, OPTIONS[0], OPTIONS[1]).ids])[0]
    assert odds[0, 1] == pytest.approx(float(logits[a] - logits[b]), abs=1e-3)


def test_spans_hold_the_options(model):
    same = pairs.choice(model, "it", "was it")
    assert model.tokenizer.decode(same.ids[slice(*same.second)]) in ("was <unk>", "was it")
    one = pairs.choice(model, OPTIONS[0], OPTIONS[1])
    said = [model.tokenizer.decode(one.ids[start:end]) for start, end in (one.first, one.second)]
    assert said == OPTIONS[:2]
    with pytest.raises(ValueError, match="an option is empty"):
        pairs.choice(model, " ", "the river")


def test_shared_prefixes_change_no_log_odds(model):
    odds = pairs.all_pairs(model, OPTIONS)
    _, a, b = pairs.answer_tokens(model)
    assert np.isnan(odds.diagonal()).all()
    for i in range(4):
        for j in range(4):
            if i != j:
                logits = model.logits([pairs.choice(model, OPTIONS[i], OPTIONS[j]).ids])[0]
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
    _, a, b = pairs.answer_tokens(model)

    def odds(one, direction, strength, span):
        with el.steer(model, direction, strength, 1, [span]):
            logits = model.logits([one.ids])[0]
        return float(logits[a] - logits[b])

    for column, i in enumerate(np.flatnonzero(steered)):
        for row, direction in enumerate(directions):
            changes = []
            for j in np.flatnonzero(~steered):
                first, second = (pairs.choice(model, OPTIONS[x], OPTIONS[y]) for x, y in ((i, j), (j, i)))
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
    assert set(results) == {"strengths", "order", "observed", "valence"}
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
    for result in (*results.values(), by_layer, causal):
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
