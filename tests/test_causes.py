"""The studies of steering and patching, end to end on a tiny model and on planted answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import EMOTIONS, sentence
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens import corpus
from emolens.models.model import HookedModel
from emolens.plots.doses import patch_map, scatter
from emolens.studies.causes import expression, patching, word_probability


@pytest.fixture
def questions(monkeypatch):
    asked = [sentence(torch.Generator().manual_seed(seed)) for seed in range(3)]
    monkeypatch.setattr(word_probability, "TWELVE", EMOTIONS)
    monkeypatch.setattr(word_probability, "QUESTIONS", {"he": tuple(asked[:2]), "control": tuple(asked[2:])})


def families(model, vectors, directions, draws, layers=None, seed=0):
    """Two kinds of random families in the place of `null_directions`, which needs the packaged stories."""

    def drawn(seed):
        found = el.random_directions(directions[0], len(directions), seed)
        return [replace(one, name=of.name) for one, of in zip(found, directions, strict=True)]

    return {
        kind: [drawn(seed + d + 100 * k) for d in range(draws)] for k, kind in enumerate(("random", "shuffled labels"))
    }


def test_planted_words_rise_under_their_own_vector_and_random_families_do_not(planted, questions, monkeypatch):
    monkeypatch.setattr(word_probability, "null_directions", families)
    table = word_probability.run(*planted, "full", strength=0.1, layer=2).table().set_index("question")
    row = table.loc["he"]
    assert row["rows"] == len(EMOTIONS) and row["matching"] > 0.5 and row["rows_random_p"] == 1 / 40
    assert abs(row["matching_random"]) < 0.2 and row["rows_random"] < 4
    drawn = word_probability.matrix(*planted, strength=0.1, layer=2)
    assert len(drawn.table()) == len(EMOTIONS) ** 2 and f"in {len(EMOTIONS)} of" in drawn.verdict()
    drawn.plot()


def test_a_summary_counts_the_diagonal():
    found = word_probability.summary(np.eye(4) * 3 - 1)
    assert found == {"matching": 2.0, "others": -1.0, "rows": 4.0}


def test_patching_of_planted_pairs_moves_from_the_word_to_the_end(planted, monkeypatch):
    model, vectors = planted
    words = [sentence(torch.Generator().manual_seed(seed), length=12) + " {} word1 word2" for seed in range(4)]
    pairs = [patching.Pair(text, f"cue{e}", "word3", EMOTIONS[e]) for e, text in zip((0, 1, 0, 1), words, strict=True)]
    monkeypatch.setattr(patching, "PAIRS", pairs)
    monkeypatch.setattr(patching, "ODDS", el.measures.log_odds([" afraid", " angry"], [" calm", " happy"]))
    assert patching.changed_position(model, pairs[0]) == 12
    assert (patching.changes(model, vectors)["change"] > 0).all()
    found = patching.run(model, vectors).table().query("measure == 'log-odds'").set_index(["place", "layer"])["effect"]
    assert found["changed word", 0] > 0.9 and found["last token", 0] < 0.1 and found["last token", 2] > 0.9
    through = patching.through_the_vector(model, vectors)
    table = through.table().set_index(["kind", "layer"])
    assert table.loc[("vector", 3), "effect"] > 0.6 > table.loc[("vector", 3), "null_high"]
    assert table.loc[("vector", 0), "effect"] < 0.4 and "p = 0.025" in through.verdict()
    heads = patching.heads(model, vectors)
    best = heads.table().sort_values("share").iloc[-1]
    assert (best["layer"], best["head"]) == (2, 0)
    for result in (through, heads):
        result.plot()


def test_shares_are_those_of_all_pairs_together():
    rows = [[0, 0, 1.0, 2.0], [1, 0, 9.0, 10.0]] * 7
    frame = pd.DataFrame([[i, *row[1:]] for i, row in enumerate(rows)], columns=["pair", "layer", "change", "whole"])
    found = patching.shares(frame.assign(measure="m"), ["measure", "layer"])
    assert found["effect"].iloc[0] == pytest.approx(70 / 84) and found["low"].iloc[0] < 70 / 84 < found["high"].iloc[0]


@pytest.fixture(scope="module")
def tiny_pair(few_dialogues):
    chosen = corpus.stories().where(emotion=list(expression.EMOTIONS))
    out = []
    for seed in (0, 1):
        model = HookedModel.from_hf(tiny_llama(seed), tiny_tokenizer(), f"tiny-{seed}")
        out.append((model, el.derive(model, chosen, cache=False, progress=False)))
    return out


def test_expression_reads_what_was_written_once(tiny_pair, monkeypatch):
    (model, vectors), other = tiny_pair
    monkeypatch.setattr(expression, "null_directions", families)
    monkeypatch.setattr(expression, "OPENINGS", ("she ran and", "the river was"))
    calls = []
    generate = HookedModel.generate
    monkeypatch.setattr(HookedModel, "generate", lambda self, *a, **k: calls.append(1) or generate(self, *a, **k))
    found = expression.run(model, vectors, "full", other, ("calm", "angry"), progress=False)
    asked = len(calls)
    assert set(found) == {"tone", "emotion"} and "perplexity_own" in found["tone"].table()
    expression.run(model, vectors, "full", None, ("calm", "angry"), progress=False)
    assert asked == len(calls) - asked  # the second reader cost no text
    window = expression.window(found["tone"].table(), 10.0)
    assert len(window.table()) == 8 and "calm:" in window.verdict()
    found["emotion"].plot()


def test_conditions_and_samples_cover_what_is_asked(tiny_pair, monkeypatch):
    model, vectors = tiny_pair[0]
    monkeypatch.setattr(expression, "OPENINGS", ("she ran and", "the river was"))
    found = expression.conditions(model, vectors, draws=3).table()
    assert found["condition"].str.contains("while reading").any() and (found["null_low"] <= found["null_high"]).all()
    assert len(expression.by_layer(found).table()) == 3
    table = expression.samples(model, [vectors["calm"], vectors["angry"]], [-0.1, 0.0], "she ran and")
    assert table.shape == (2, 2) and table.columns.tolist() == ["-0.1", "+0"]


def test_a_window_needs_effect_and_coherence():
    frame = pd.DataFrame({"direction": "calm", "strength": [0.05, 0.1, 0.4], "effect": [0.1, 0.5, 0.9],
                          "perplexity_own": [10.0, 12.0, 80.0], "p_random": 0.02, "random_low": -0.3,
                          "random_high": 0.3})  # fmt: skip
    assert "calm: +0.1." in expression.window(frame, 10.0).verdict()


def test_figures_of_interventions_refuse_what_they_cannot_draw():
    frame = pd.DataFrame({"layer": [0, 0], "position": [0, 1], "token": ["a", "b"], "share": [0.0, 1.0]})
    with pytest.raises(ValueError, match="several measures, one, two"):
        patch_map(frame.assign(measure=["one", "two"]))
    with pytest.raises(ValueError, match="missing: y"):
        scatter(pd.DataFrame({"x": [1, 2]}), "x", "y")
    ax = scatter(pd.DataFrame({"x": [1.0, None, 3.0], "y": [1, 2, 3], "name": list("abc")}), "x", "y", label="name")
    assert {text.get_text() for text in ax.texts} == set("ac")  # b has no x
