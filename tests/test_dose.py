"""Dose-response on a small model in which the truth is planted: what is found, and how often chance is called."""

import numpy as np
import pytest
import torch
from planted import CARRIED_BY, WRITES_IN, neutral, planted_model, sentence, stories

import emolens as el
from emolens import corpus
from emolens.steering.dose_response import dose_response
from emolens.steering.measures import expressed, log_odds, repeated_share
from emolens.steering.nulls import family_p, null_directions, random_directions
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
    return {"random": families[:draws], "more random": families[draws:]}


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
    found = dose_response(model, ODDS, prompts(0), directions, [*STRENGTHS, 0], nulls, layers=LAYER, progress=False)
    table = found.table().set_index(["direction", "strength"])
    assert table.loc[("afraid", 0.05), "effect"] > 0.2 > -0.2 > table.loc[("afraid", -0.05), "effect"]
    assert table.loc[("calm", 0.05), "effect"] < -0.05
    verdicts = table.groupby("direction")["verdict"].first()
    assert verdicts["afraid"] == "above the null"
    assert verdicts["guilty"] == "inside the null"  # its own word is not among those that are asked for
    row = table.loc[("afraid", 0.05)]
    assert row["low"] <= row["effect"] <= row["high"] and row["random_low"] < 0 < row["random_high"]
    assert "afraid: +" in found.verdict() and "In these 4 items" in found.verdict()


def test_200_random_directions_are_called_as_often_as_a_5_percent_test_may(monkeypatch):
    model, _, vectors = derived(1, monkeypatch)
    like, called = vectors["calm"], 0
    for number, one in enumerate(random_directions(like, 200, seed=7)):
        nulls = random_families(like, 39, 10_000 + number)
        found = dose_response(
            model, next_word, prompts(1, 2), [one], STRENGTHS, nulls, layers=LAYER, rows_at_once=256, progress=False
        )
        called += found.table()["verdict"].iloc[0] == "above the null"
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
        found = dose_response(
            model,
            next_word,
            prompts(seed),
            [planted],
            STRENGTHS,
            random_families(planted, 39, seed),
            layers=LAYER,
            progress=False,
        ).table()
        called += found["verdict"].iloc[0] == "above the null"
        sizes.append(found["slope"].iloc[0] / 20)  # at strength 0.05
    assert called >= 45
    assert 0.2 < np.mean(sizes) < 0.8  # nats


def test_a_baseline_at_a_bound_is_not_measured(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    never = lambda model, item: torch.zeros(model.rows)  # noqa: E731
    found = dose_response(
        model, never, ["a", "b"], [vectors["calm"]], [0.1], random_families(vectors["calm"], 39, 0),
        bounds=(0, 1), progress=False,
    )  # fmt: skip
    assert found.table()["verdict"].tolist() == ["cannot be measured (baseline at 0)"]


def test_costs_stand_beside_the_effects(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    found = dose_response(
        model,
        ODDS,
        prompts(0),
        [vectors["calm"]],
        [0.01, 2.0],
        layers=LAYER,
        cost_prompts=prompts(9, 2),
        progress=False,
    ).table()
    assert found["verdict"].unique().tolist() == ["no null"]
    little, much = found.iloc[0], found.iloc[1]
    assert much["perplexity_own"] > little["perplexity_own"]
    assert much["perplexity_neutral"] > little["perplexity_neutral"]
    assert {"repeated", "length"} <= set(found)
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
    assert family_p(1.0, few) == pytest.approx(0.5) and family_p(1.3, few) < 0.01


def test_what_makes_no_sense_is_named(monkeypatch):
    model, _, vectors = derived(0, monkeypatch)
    calm = vectors["calm"]
    with pytest.raises(ValueError, match="a strength besides 0"):
        dose_response(model, ODDS, prompts(0), [calm], [0])
    with pytest.raises(ValueError, match="0 items"):
        dose_response(model, ODDS, [], [calm], [0.1])
    with pytest.raises(ValueError, match="'random' needs at least 10 draws of 1"):
        dose_response(model, ODDS, prompts(0), [calm], [0.1], {"random": [[calm]]})
    with pytest.raises(ValueError, match="'random 0' is no combination of emotions"):
        null_directions(model, vectors, random_directions(calm, 1))
    with pytest.raises(ValueError, match=r"gave \(3,\) values for 1 rows"):
        wrong = lambda model, item: torch.zeros(3)  # noqa: E731
        dose_response(model, wrong, ["a"], [calm], [0.1, 0.2], progress=False)
