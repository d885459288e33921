"""The studies of steering and patching, end to end on a tiny model and on planted answers."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import EMOTIONS, sentence, stories
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens import corpus
from emolens.models.model import HookedModel
from emolens.plots.doses import patch_map, scatter
from emolens.results import StudyResult
from emolens.stats import Verdict
from emolens.steering.nulls import Nulls
from emolens.studies._common import NotForThisModel
from emolens.studies.causes import expression, patching, word_probability
from emolens.vectors.shuffled_refits import shuffled_refits


@pytest.fixture
def questions(monkeypatch):
    asked = [sentence(torch.Generator().manual_seed(seed)) for seed in range(3)]
    monkeypatch.setattr(word_probability, "QUESTIONS", {"he": tuple(asked[:2]), "control": tuple(asked[2:])})


def families(model, vectors, directions, draws, layers=None, seed=0):
    """Two kinds of random families in the place of `null_directions`, which needs the packaged stories."""

    def drawn(seed):
        random = el.random_directions(directions[0], len(directions), seed)
        return [replace(null, name=of.name) for null, of in zip(random, directions, strict=True)]

    return Nulls({
        kind: [drawn(seed + d + 100 * k) for d in range(draws)] for k, kind in enumerate(("random", "shuffled labels"))
    })  # fmt: skip


@pytest.fixture
def nulls(monkeypatch):
    """Nulls of the planted stories in the place of those of the packaged ones."""

    def refits(model, vectors, draws, seed):
        return shuffled_refits(model, vectors, draws, seed, stories(0))

    monkeypatch.setattr(word_probability, "null_directions", families)
    monkeypatch.setattr(word_probability, "shuffled_refits", refits)


def test_planted_words_rise_under_their_own_vector_and_random_families_do_not(planted, questions, nulls):
    results = word_probability.run(*planted, "full", strength=0.1, layer=2, emotions=EMOTIONS)
    table = results["word_probability"].table().set_index(["question", "measure"])
    rows, matching = table.loc[("he", "rows")], table.loc[("he", "matching")]
    assert rows["value"] == rows["words"] == len(EMOTIONS) and rows["p_random"] == 1 / 40 and rows["random_high"] < 6
    assert matching["value"] > 0.5 and matching["p_random"] == 1 / 40 and matching["verdict"] == Verdict.BEYOND
    assert -0.2 < matching["random_low"] < 0 < matching["random_high"] < 0.2
    assert matching["low"] < matching["value"] < matching["high"]
    assert results["word_probability"].headline().count("beyond the null") == 2
    drawn = word_probability.matrix(*planted, strength=0.1, layer=2, emotions=EMOTIONS)
    assert len(drawn.table()) == len(EMOTIONS) ** 2 and f"in {len(EMOTIONS)} of" in drawn.headline()
    pd.testing.assert_frame_equal(drawn.table(), results["matrix"].table())
    drawn.plot()


def test_a_planted_words_own_vector_ranks_first_among_all_and_another_row_does_not(
    planted, questions, nulls, monkeypatch
):
    model, vectors = planted
    result = word_probability.all_rows(model, vectors, layer=2, emotions=EMOTIONS[:6])
    table = result.table().set_index("word")
    assert list(table.index) == [*EMOTIONS[:6], "all words"] and (table["vectors"] == len(EMOTIONS)).all()
    assert (table["share"] == 1).all() and (table["rank"].dropna() == 1).all() and (table["slope"] > 0).all()
    assert list(table["highest"][:-1]) == list(EMOTIONS[:6]) and (table["low"] > 0.9).all()
    mean = table.loc["all words"]
    assert mean["verdict"] == Verdict.BEYOND and mean["p_random"] <= 0.002 and mean["p_shuffled labels"] <= 0.002
    assert mean["random_low"] < 0.5 < mean["random_high"] < 0.8
    assert (table["q"][:-1] >= table[["p_random", "p_shuffled labels"]].max(axis=1)[:-1] - 1e-9).all()
    assert len(re.findall(r"\d+(?:[.,]\d+)?%?", result.headline())) <= 4 and "(beyond the null)" in result.headline()
    each = word_probability.word_gradients(model, word_probability.QUESTIONS["he"], EMOTIONS[:6], 2)
    monkeypatch.setattr(word_probability, "word_gradients", lambda *_: each.roll(1, dims=1))  # those of other words
    other = word_probability.all_rows(model, vectors, layer=2, emotions=EMOTIONS[:6]).table().set_index("word")
    assert other.loc["all words", "share"] < 0.5 and (other["rank"].dropna() > 1).all()
    assert list(other["highest"][:-1]) == [EMOTIONS[5], *EMOTIONS[:5]]


def test_word_gradients_are_the_derivatives_of_steered_log_probabilities(tiny):
    asked, words = ["he was", "she ran and"], ["calm", "very cold", "sad w3 w4"]
    slopes = word_probability.word_gradients(tiny, asked, words, 1)
    assert slopes.shape == (2, 3, 32)
    stamp = {"fingerprint": tiny.fingerprint, "model": tiny.name, "default_layer": 1}
    values = torch.nn.functional.normalize(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    direction = el.Direction("d", (1,), values, torch.ones(1), torch.zeros(1, 32), False, stamp)
    for number, question in enumerate(asked):
        found = []
        for step in (0.01, 0.005):
            with el.steer(tiny, [direction, direction], [step, -step], 1):
                up, down = el.log_probs(tiny, question, [f" {word}" for word in words])
            found.append((up - down) / (2 * step))
        assert torch.allclose(slopes[number] @ values[0], (4 * found[1] - found[0]) / 3, rtol=1e-3, atol=1e-4)


def test_shares_count_the_others_below_and_halves_of_ties():
    slopes = torch.tensor([[3.0, 1, 2, 0], [0, 1, 2, 2]])
    assert word_probability.shares(slopes, [0, 3]).tolist() == pytest.approx([1.0, 2.5 / 3])
    assert word_probability.shares(torch.stack([slopes, -slopes]), [1, 0])[:, 0].tolist() == pytest.approx(
        [1 / 3, 2 / 3]
    )
    flat = word_probability.shares(torch.zeros(2, 5), [0, 4])
    assert flat.tolist() == [0.5, 0.5]


def test_words_that_rise_where_the_null_falls_are_beyond_it():
    """A null that is displaced: +1.8 nats against draws around -2, which is not inside however large their size."""
    rng = np.random.default_rng(0)
    drawn = {"shuffled labels": [word_probability.summary(rng.normal(-2, 0.3, (12, 12))) for _ in range(39)]}
    matrix = np.where(np.eye(12), 1.8, -2.0)
    rows = {row["measure"]: row for row in word_probability.compared(matrix, drawn)}
    assert rows["matching"]["p_shuffled labels"] == 1 / 40 and rows["matching"]["verdict"] == Verdict.BEYOND
    assert rows["others"]["verdict"] == Verdict.INSIDE and rows["rows"]["verdict"] == Verdict.BEYOND


def test_a_quick_run_has_no_null_and_says_so(planted, questions):
    results = word_probability.run(*planted, "quick", strength=0.1, layer=2, emotions=[*EMOTIONS, "no emotion here"])
    result = results["word_probability"]
    assert result.null.startswith("none") and set(result.table()["verdict"]) == {Verdict.NO_NULL}
    assert results["all_rows"].null.startswith("none") and set(results["all_rows"].table()["share"]) == {1.0}
    assert "(no null)" in results["all_rows"].headline()
    assert result.headline().count("no null") == 2 and set(result.table()["words"]) == {len(EMOTIONS)}
    with pytest.raises(NotForThisModel, match="the vectors have 1 of the 2 emotions"):
        word_probability.run(*planted, "quick", emotions=["calm", "wistful"])
    with pytest.raises(ValueError, match="size='ful' is none of full, quick"):
        word_probability.run(*planted, "ful")


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
    results = patching.run(model, vectors)
    table = results["where"].table().query("measure == 'log-odds'").set_index(["place", "layer"])["effect"]
    assert table["changed word", 0] > 0.9 and table["last token", 0] < 0.1 and table["last token", 2] > 0.9
    assert "from block 2 on the last token carries more" in results["where"].headline()
    through = results["through_the_vector"]
    table = through.table().set_index(["kind", "layer"])
    assert table.loc[("vector", 3), "effect"] > 0.6 > table.loc[("vector", 3), "null_high"]
    assert table.loc[("vector", 3), "p_random"] == 1 / 40 and "random directions: p = 0.025" in through.headline()
    assert table.loc[("vector", 0), "effect"] < 0.4 and table.loc["all but the vector", "p_random"].isna().all()
    best = results["heads"].table().sort_values("share").iloc[-1]
    assert (best["layer"], best["head"]) == (2, 0) and "Head 0 of block 2" in results["heads"].headline()
    for result in results.values():
        result.plot()
    quick = patching.run(model, vectors, "quick")
    assert set(quick) == set(results) and len(quick["where"].table()) < len(results["where"].table())


def test_pairs_that_do_not_fit_the_vectors_or_the_tokenizer_are_left_out(planted, monkeypatch):
    model, vectors = planted
    fits = [patching.Pair(f"word1 {{}} word{i}", "cue0", "word3", "afraid") for i in (2, 4)]
    longer = patching.Pair("word1 {} word2", "cue0 cue0", "word3", "afraid")
    unread = patching.Pair("word1 {} word2", "cue0", "word3", "wistful")
    same = patching.Pair("word1 {} word2", "not-a-word", "nor-this", "afraid")
    monkeypatch.setattr(patching, "PAIRS", [longer, *fits, unread, same])
    assert patching.pairs_for(model, vectors) == fits
    monkeypatch.setattr(patching, "PAIRS", [longer, fits[0], unread, same])
    with pytest.raises(NotForThisModel, match="1 of the 4 pairs have a vector for their emotion .afraid, wistful."):
        patching.run(model, vectors, "quick")


def test_shares_are_those_of_all_pairs_together():
    rows = [[0, 0, 1.0, 2.0], [1, 0, 9.0, 10.0]] * 7
    frame = pd.DataFrame([[i, *row[1:]] for i, row in enumerate(rows)], columns=["pair", "layer", "change", "whole"])
    pooled = patching.shares(frame.assign(measure="m"), ["measure", "layer"]).iloc[0]
    assert pooled["effect"] == pytest.approx(70 / 84) and pooled["low"] < 70 / 84 < pooled["high"]


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
    directions = [vectors["calm"], vectors["angry"]]
    results = expression.written(model, vectors, directions, "full", other, progress=False)
    asked = len(calls)
    assert set(results) == {"tone", "emotion"} and "perplexity_own" in results["tone"].table()
    expression.written(model, vectors, directions, "full", progress=False)
    assert asked == len(calls) - asked  # the second reader cost no text
    window = expression.window(results["tone"], 10.0)
    assert len(window.table()) == 8 and " of 8 cells" in window.headline()
    assert "read by tiny-1" in results["emotion"].plot().get_title()


def test_expression_in_full_answers_all_and_quick_the_first(tiny_pair, monkeypatch):
    (model, vectors), other = tiny_pair
    monkeypatch.setattr(expression, "null_directions", families)
    monkeypatch.setattr(expression, "OPENINGS", ("she ran and", "the river was"))
    monkeypatch.setattr(expression, "STRENGTHS", (-0.1, 0.1))
    full = expression.run(model, vectors, "full", None, ("calm", "angry"), progress=False)
    assert set(full) == {"tone", "unsteered", "window", "conditions", "by_layer"}  # no other model is embedded
    assert all(len(re.findall(r"\d+(?:[.,]\d+)?%?", result.headline())) <= 4 for result in full.values())
    quick = expression.run(model, vectors, "quick", other, ("calm", "angry"), progress=False)
    assert set(quick) == {"tone", "emotion"} and "no null" in quick["tone"].headline()
    with pytest.raises(ValueError, match="measured without nulls: run the study in full"):
        expression.window(quick["tone"], 10.0)
    with pytest.raises(NotForThisModel, match="have 1 of the 2 emotions"):
        expression.run(model, vectors, "full", other, poles=("calm", "wistful"), progress=False)


def test_conditions_and_samples_cover_what_is_asked(tiny_pair, monkeypatch):
    model, vectors = tiny_pair[0]
    monkeypatch.setattr(expression, "OPENINGS", ("she ran and", "the river was"))
    result = expression.conditions(model, vectors, draws=3)
    table = result.table()
    assert table["condition"].str.contains("while reading").any() and (table["null_low"] <= table["null_high"]).all()
    outside = ~table["effect"].between(table["null_low"], table["null_high"])
    assert (outside == (table["verdict"] == Verdict.BEYOND)).all() and (outside == (table["p"] <= 0.05)).all()
    assert f"Of {len(table)} conditions" in result.headline()
    assert len(expression.by_layer(table).table()) == 3
    table = expression.samples(model, [vectors["calm"], vectors["angry"]], [-0.1, 0.0], "she ran and")
    assert table.shape == (2, 2) and table.columns.tolist() == ["-0.1", "+0"]


def test_a_window_needs_effect_and_coherence():
    frame = pd.DataFrame({"direction": "calm", "strength": [0.05, 0.1, 0.4], "effect": [0.1, 0.5, 0.9],
                          "perplexity_own": [10.0, 12.0, 80.0], "p_random": 0.02, "random_low": -0.3,
                          "random_high": 0.3})  # fmt: skip
    result = expression.window(StudyResult("tone", frame, "", "", options={"nulls": ["random"]}), 10.0)
    kept = result.table().query("outside and coherent")
    assert (
        kept["strength"].tolist() == [0.1] and "In 1 of 3 cells" in result.headline() and "(calm)" in result.headline()
    )


def test_figures_of_interventions_refuse_what_they_cannot_draw():
    frame = pd.DataFrame({"layer": [0, 0], "position": [0, 1], "token": ["a", "b"], "share": [0.0, 1.0]})
    with pytest.raises(ValueError, match="several measures, one, two"):
        patch_map(frame.assign(measure=["one", "two"]))
    with pytest.raises(ValueError, match="missing: y"):
        scatter(pd.DataFrame({"x": [1, 2]}), "x", "y")
    ax = scatter(pd.DataFrame({"x": [1.0, None, 3.0], "y": [1, 2, 3], "name": list("abc")}), "x", "y", label="name")
    assert {text.get_text() for text in ax.texts} == set("ac")  # b has no x
