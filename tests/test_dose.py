"""Dose-response on a small model in which the truth is planted: what is found, and how often chance is called."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted import CARRIED_BY, WRITES_IN, neutral, planted_model, sentence, stories

import emolens as el
from emolens import corpus
from emolens.stats import Verdict, family_p
from emolens.steering.dose_response import Doses, dose_response, headline
from emolens.steering.measures import expressed, log_odds, repeated_share
from emolens.steering.nulls import Nulls, null_directions, random_directions
from emolens.vectors.direction import unit

LAYER = 2  # after the planted direction has been written and carried
STRENGTHS = [-0.05, 0.05]
ODDS = log_odds([" afraid"], [" calm", " sad", " happy"])


def prompts(seed, n=4):
    generator = torch.Generator().manual_seed(500 + seed)
    return [sentence(generator) for _ in range(n)]


def next_word(model, prompt):
    """The same odds from one pass over the prompt."""
    logits = model.logits(prompt)
    afraid, *others = (model.tokenizer.convert_tokens_to_ids(word) for word in ("afraid", "calm", "sad", "happy"))
    return logits[:, afraid] - logits[:, others].mean(dim=1)


def derived(seed, monkeypatch):
    monkeypatch.setattr(corpus, "neutral", lambda: neutral(seed))
    model, truth = planted_model(seed)
    return model, truth, el.derive(model, stories(seed), cache=False, progress=False)


def random_families(like, draws, seed, size=1):
    """Null families of one random direction each, of both kinds by name, so that a verdict can be given."""
    drawn = random_directions(like, 2 * draws * size, seed)
    families = [drawn[i : i + size] for i in range(0, len(drawn), size)]
    return Nulls({"random": families[:draws], "more random": families[draws:]})


@pytest.mark.parametrize("seed", range(20))
def test_the_planted_direction_is_derived_although_the_topics_are_louder(seed, monkeypatch):
    model, truth, vectors = derived(seed, monkeypatch)
    assert WRITES_IN < LAYER == CARRIED_BY[0]
    assert torch.cosine_similarity(vectors.matrix(LAYER), truth, dim=1).min() > 0.9
    assert torch.cosine_similarity(vectors.matrix(0), truth, dim=1).abs().max() < 0.5  # not there yet
    told = stories(seed)
    x = el.pool(model, told.texts, [LAYER], (0,), cache=False, progress=False).means(0, LAYER)

    def variance(label):  # of the means over the texts that share a label
        groups = [torch.tensor([getattr(s, label) == name for s in told]) for name in {getattr(s, label) for s in told}]
        return torch.stack([x[rows].mean(dim=0) for rows in groups]).var(dim=0).sum()

    assert variance("topic") > variance("emotion")


def test_dose_response_finds_what_the_planted_direction_does(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    directions = [vectors[name] for name in ("afraid", "calm", "guilty")]
    nulls = null_directions(model, vectors, directions, layers=LAYER, corpus=stories(0), seed=1)
    doses = Doses(directions, [*STRENGTHS, 0], nulls, LAYER)
    result = dose_response(model, ODDS, prompts(0), doses, progress=False)
    table = result.table().set_index(["direction", "strength"])
    assert table.loc[("afraid", 0.05), "effect"] > 0.2 > -0.2 > table.loc[("afraid", -0.05), "effect"]
    assert table.loc[("calm", 0.05), "effect"] < -0.05
    verdicts = table.groupby("direction")["verdict"].first()
    assert verdicts["afraid"] == Verdict.BEYOND
    assert verdicts["guilty"] == Verdict.INSIDE  # its own word is not among those that are asked for
    row = table.loc[("afraid", 0.05)]
    assert row["low"] <= row["effect"] <= row["high"] and row["random_low"] < 0 < row["random_high"]
    assert result.headline().startswith("Of 3 directions, afraid changes the measure most, by +")
    assert "beyond the null: afraid" in result.headline() and "39 families of shuffled labels" in result.null
    assert result.plot().get_ylabel() == "effect" and result.options["nulls"] == ["random", "shuffled labels"]


def test_200_random_directions_are_called_as_often_as_a_5_percent_test_may(monkeypatch):
    model, _, vectors = derived(1, monkeypatch)
    like, called = vectors["calm"], 0
    for number, one in enumerate(random_directions(like, 200, seed=7)):
        nulls = random_families(like, 39, 10_000 + number)
        doses = Doses([one], STRENGTHS, nulls, LAYER)
        result = dose_response(model, next_word, prompts(1, 2), doses, rows_at_once=256, progress=False)
        called += result.table()["verdict"].iloc[0] == Verdict.BEYOND
    assert called <= 16


def test_a_planted_effect_of_a_stated_size_is_called_in_45_of_50_seeds(monkeypatch):
    called, sizes = 0, []
    for seed in range(50):
        model, truth = planted_model(seed)
        if not seed:
            _, _, vectors = derived(0, monkeypatch)
        like = vectors["afraid"]
        planted = like.__class__(**{**vars(like), "values": unit(truth[:1]).expand_as(like.values)})
        planted = planted.__class__(**{**vars(planted), "stamp": like.stamp | {"fingerprint": model.fingerprint}})
        doses = Doses([planted], STRENGTHS, random_families(planted, 39, seed), LAYER)
        table = dose_response(model, next_word, prompts(seed), doses, progress=False).table()
        called += table["verdict"].iloc[0] == Verdict.BEYOND
        sizes.append(table["slope"].iloc[0] / 20)  # at strength 0.05
    assert called >= 45
    assert 0.2 < np.mean(sizes) < 0.8  # nats


def test_a_baseline_at_a_bound_is_not_measured(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    never = lambda model, item: torch.zeros(model.rows)  # noqa: E731
    doses = Doses([vectors["calm"]], [0.1], random_families(vectors["calm"], 39, 0))
    result = dose_response(model, never, ["a", "b"], doses, bounds=(0, 1), progress=False)
    assert result.table()["verdict"].tolist() == [Verdict.UNMEASURABLE] and result.table()["baseline"].item() == 0
    assert "cannot be measured" in result.headline()


def test_costs_stand_beside_the_effects(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    doses = Doses([vectors["calm"]], [0.01, 2.0], layers=LAYER)
    result = dose_response(model, ODDS, prompts(0), doses, cost_prompts=prompts(9, 2), progress=False)
    table = result.table()
    assert table["verdict"].unique().tolist() == [Verdict.NO_NULL] and "no null" in result.headline()
    little, much = table.iloc[0], table.iloc[1]
    assert much["perplexity_own"] > little["perplexity_own"]
    assert much["perplexity_neutral"] > little["perplexity_neutral"]
    assert {"repeated", "length"} <= set(table)
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(0.25) and repeated_share([1, 2, 3, 4, 5]) == 0


def test_expressed_gives_the_judge_what_each_row_wrote(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    judge = lambda written: [text.count("proud") for text in written]  # noqa: E731
    with el.steer(model, [None, vectors["proud"]], [0, 2.0], LAYER):
        plain, steered = expressed(judge, 10, samples=2)(model, prompts(0)[0])
    assert plain < 2 < steered


def test_few_draws_are_judged_by_a_prediction_interval():
    many, few = np.linspace(0.9, 1.1, 39), np.linspace(0.9, 1.1, 10)
    assert family_p(2.0, many) == pytest.approx(1 / 40)
    assert family_p(1.0, few) == pytest.approx(1) and family_p(1.3, few) < 0.01  # at the centre, and far from it


def test_an_effect_below_a_displaced_null_is_beyond_it():
    null = np.linspace(-2.5, -1.5, 39)[:, None]
    nulls = Nulls().measured({"random": null, "shuffled labels": null})
    assert nulls.verdict([1.8]) == [Verdict.BEYOND] and nulls.verdict([-3.5]) == [Verdict.BEYOND]
    assert nulls.verdict([-2.0]) == [Verdict.INSIDE]  # however far from zero
    few = Nulls().measured({"random": null[::4]})
    assert few.verdict([1.8]) == [Verdict.BEYOND] and few.verdict([-2.0]) == [Verdict.INSIDE]


def test_the_headline_names_few_directions_and_the_steepest():
    frame = pd.DataFrame({"direction": list("abcde"), "slope": [1.0, -5, 2, 3, 4], "verdict": str(Verdict.BEYOND)})
    assert headline(frame) == (
        "Of 5 directions, b changes the measure most, by -0.500 for a strength of 0.1; beyond the null: a, b, c "
        "and others."
    )
    assert headline(frame.assign(verdict=Verdict.INSIDE)).endswith("beyond the null: none.")


def test_what_makes_no_sense_is_named(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    calm = vectors["calm"]
    with pytest.raises(ValueError, match="a strength besides 0"):
        Doses([calm], [0])
    with pytest.raises(ValueError, match="0 directions"):
        Doses([], [0.1])
    with pytest.raises(ValueError, match="the strength at index .1. is nan"):
        Doses([calm], [0.1, float("nan")])
    with pytest.raises(ValueError, match="no item to measure"):
        dose_response(model, ODDS, [], Doses([calm], [0.1]))
    with pytest.raises(ValueError, match="'random' needs at least 10 draws of 1"):
        Doses([calm], [0.1], Nulls({"random": [[calm]]}))
    imported = null_directions(model, vectors, random_directions(calm, 1), 10, LAYER)
    assert imported.kinds == ("random",)  # a direction that is no combination of emotions has no shuffled labels
    with pytest.raises(ValueError, match=r"gave \(3,\) values for 1 rows"):
        wrong = lambda model, item: torch.zeros(3)  # noqa: E731
        dose_response(model, wrong, ["a"], Doses([calm], [0.1, 0.2]), progress=False)
    with pytest.raises(ValueError, match=r"the measure of item 1 \('b'\), of calm at \+0.2 is nan"):
        undefined = lambda model, item: torch.where(torch.arange(model.rows) == 1, np.nan if item == "b" else 0.0, 0.0)  # noqa: E731
        dose_response(model, undefined, ["a", "b"], Doses([calm], [0.1, 0.2]), progress=False)
