"""Slopes of all emotions against human ratings: false alarms, coverage, planted truth, and what cannot be measured."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.stories import Corpus, Story
from emolens.models.model import HookedModel
from emolens.stats import Contrast, Verdict, contrast, family_p
from emolens.studies import _alignment as alignment
from emolens.studies._alignment import LABELS, NEEDED, RANDOM, WITHIN, Gradients, align
from emolens.vectors.fit import fit
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.shuffled_refits import shuffled_refits

WIDTH, TOPICS, LAYER = 48, 6, 2
VALENCE = 1.0  # along axis 0, in units of what an emotion has of its own
SIX = ["angry", "desperate", "afraid", "happy", "loving", "calm"]
SCENARIOS = [f"S{n // 4}" for n in range(96)]
SIGNS = np.tile([1, 1, -1, -1], 24)


class _Neutral:
    """Nothing to project out but the last axis."""

    layers, mean = (1, LAYER), torch.zeros(2, WIDTH)

    def components(self, layer, explained=0.5):
        return torch.eye(WIDTH)[-1:]


@pytest.fixture(scope="module")
def known():
    """Vectors of all 171 emotions with a known axis of valence, and 199 sets with shuffled labels."""
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    rng = np.random.default_rng(0)
    ratings = el.corpus.ratings("glasgow")
    valence = np.array([ratings.get(e, {"valence": rng.uniform(2, 8)})["valence"] for e in el.corpus.EMOTIONS])
    emotion = rng.normal(size=(171, WIDTH))
    emotion[:, 0] += VALENCE * 2 * (valence - valence.mean()) / valence.std()
    stories = [Story(e, "plain", f"topic {t}", f"{e} {t}") for t in range(TOPICS) for e in el.corpus.EMOTIONS]
    corpus = Corpus(tuple(stories))
    x = np.tile(emotion, (TOPICS, 1)) + 2 * rng.normal(size=(len(stories), WIDTH))
    means = torch.tensor(np.stack([x, x[:, ::-1]])).float()
    part = (list(range(len(stories))), {"mean.10": means})
    pooled = PooledActivations(
        (1, LAYER), (10,), torch.full((len(x),), 90), torch.ones(2), (part,), {"fingerprint": ""}
    )
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 1}
    vectors = fit(pooled, corpus, _Neutral(), stamp=stamp)
    refits = shuffled_refits(model, vectors, 199, corpus=corpus, pooled=pooled)
    return vectors, refits


def replies(rng, size, bent=0.0):
    """Gradients of replies that differ by `size` along the axis of valence, beside noise of scenario and wording."""
    planted = np.zeros(WIDTH)
    planted[0] = size
    scenario = np.repeat(rng.normal(size=(24, WIDTH)), 4, axis=0)
    return SIGNS[:, None] * (planted + 0.7 * scenario) / 2 + rng.normal(size=(96, WIDTH))


def told(gradient, contrasts, layers=(1,), scenarios=SCENARIOS):
    values = {"control": np.repeat(gradient[:, None], len(layers), axis=1)}
    return Gradients(layers, values, tuple(scenarios), contrasts)


def largest_p(known, gradients, draws=999):
    """The p of the headline that decides, for each column."""
    vectors, refits = known
    slopes = alignment.slopes_at(1, gradients, vectors, refits, draws=draws)
    rated = alignment.ratings_of(vectors.emotions, ["glasgow"])[0]
    r = alignment.relations(slopes.observed[:, rated.rows], rated.values)[:, 0]
    p = {}
    for kind, null in slopes.nulls.items():
        drawn = alignment.relations(null[:, :, rated.rows], rated.values)[..., 0]
        p[kind] = np.array([float(family_p(a, b)) for a, b in zip(r, drawn, strict=True)])
    return pd.DataFrame(p)


def test_200_random_gradients_are_called_as_often_as_a_5_percent_test_may(known):
    drawn = np.random.default_rng(1).normal(size=(200, WIDTH))
    each = {str(n): Contrast(row, row[None]) for n, row in enumerate(np.eye(200))}
    p = largest_p(known, told(drawn, each, scenarios=[f"S{n}" for n in range(200)]))
    assert list(p) == [RANDOM, LABELS]  # a mean has no kinds of reply to permute
    assert (p.max(axis=1) <= 0.05).sum() <= 16
    # Shuffled labels alone would call many of them: the vectors' own axis of valence is in any gradient.
    assert (p[LABELS] <= 0.05).sum() > 40


def test_200_contrasts_with_shuffled_replies_are_called_as_often_as_a_5_percent_test_may(known):
    rng = np.random.default_rng(2)
    over = contrast(SCENARIOS, SIGNS, draws=1)
    weights = alignment.shuffled_replies(over, SCENARIOS, 200, seed=9)
    gradient = replies(rng, 3.0)
    each = {str(n): Contrast(row, row[None]) for n, row in enumerate(weights)}
    p = largest_p(known, told(gradient, each))
    assert set(p) == set(NEEDED) and (p.max(axis=1) <= 0.05).sum() <= 16


def test_a_planted_axis_is_found_where_the_test_of_single_emotions_misses_it(known):
    vectors, refits = known
    found = missed = 0
    over = contrast(SCENARIOS, SIGNS, draws=1)
    rows = [vectors.index(name) for name in SIX]
    for seed in range(50):
        gradients = told(replies(np.random.default_rng(100 + seed), 1.5), {"planted": over})
        found += largest_p(known, gradients).max(axis=1).le(0.05).all()
        slopes = alignment.slopes_at(1, gradients, vectors, refits, draws=1)
        total = alignment.contrasted(over, gradients.controls["control"][:, 0])
        anything = np.random.default_rng(seed).normal(size=(199, 6, WIDTH))
        anything = 0.1 * anything / np.linalg.norm(anything, axis=2, keepdims=True) @ total
        p = [family_p(slopes.observed[0, rows], null) for null in (slopes.nulls[LABELS][0][:, rows], anything)]
        missed += np.max(p, axis=0).min() > 0.05
    assert found >= 45 and missed >= 25, (found, missed)


@pytest.mark.parametrize(("size", "scenarios"), [(0.0, 24), (1.0, 9), (2.0, 24)])
def test_the_intervals_cover_what_other_samples_give(size, scenarios):
    """The truth is the mean correlation over samples of as many scenarios and of other emotions."""
    points, ends = [], []
    rest = 0.3 * np.random.default_rng(5).normal(size=WIDTH - 1)
    names, signs = [f"S{n // 4}" for n in range(4 * scenarios)], np.tile([1, 1, -1, -1], scenarios)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        valence, emotions = rng.normal(size=82), 0.4 * rng.normal(size=(82, WIDTH))
        emotions[:, 0] += 0.8 * valence
        planted = size * np.concatenate([[1.0], rest])
        scenario = np.repeat(rng.normal(size=(scenarios, WIDTH)), 4, axis=0)
        gradient = signs[:, None] * (planted + scenario) / 2 + rng.normal(size=(len(names), WIDTH))
        over = contrast(names, signs, draws=300, seed=seed)
        again = over.draws @ gradient @ emotions.T
        slopes = alignment.Slopes((over.point @ gradient @ emotions.T)[None], again[None], {}, {})
        scales = np.stack([valence, rng.normal(size=82)])
        rated = alignment.Ratings("known", ("valence", "arousal"), np.arange(82), scales, np.zeros(82, dtype=int))
        found = alignment.relate(slopes, [rated], draws=2, seed=seed)
        points.append(found.observed[0, 0])
        ends.append(found.interval[0, 0])
    low, high = np.transpose(ends)
    truth = np.mean(points)
    assert 0.90 <= np.mean((low <= truth) & (truth <= high)) <= 0.98
    assert truth > 0.3 or size == 0


def test_what_is_planted_is_in_every_table(known):
    vectors, refits = known
    rng = np.random.default_rng(3)
    over = contrast(SCENARIOS, SIGNS, draws=200)
    planted, none = replies(rng, 4.0), replies(rng, 0.0)
    controls = {"others": np.stack([planted, none], axis=1), "twin": np.stack([planted, none], axis=1) * 0.5}
    gradients = Gradients((1, LAYER), controls, tuple(SCENARIOS), {"harsh over honest": over})
    probes = torch.linspace(-1, 1, WIDTH)
    found = align(gradients, vectors, refits, lambda layer: {"probe": lambda v: v @ probes}, marked=SIX, draws=199)
    row = found.headline.iloc[0]
    assert len(found.headline) == 1 and row["control"] == "others" and row["layer"] == 1 and row["holds"]
    assert row["r"] > 0.7 and row["low"] > 0.3 and row["verdict"] == Verdict.BEYOND
    assert max(row[f"p_{kind}"] for kind in NEEDED) <= 0.01 and row[f"{LABELS}_sd"] < 0.2
    assert max(row[f"p_{kind}_blocks"] for kind in NEEDED) <= 0.05 and row["verdict_blocks"] == Verdict.BEYOND
    other = found.frame.query("layer == 2 and control == 'others' and measure == 'valence, glasgow'").iloc[0]
    assert other["verdict"] == Verdict.INSIDE and other["low"] < 0 < other["high"]
    measures = set(found.frame["measure"])
    assert {"valence, glasgow", "arousal, russell_mehrabian", "valence beside arousal, glasgow", "probe"} <= measures
    assert found.frame.query("measure == 'probe'")[f"p_{WITHIN}"].isna().all()
    ranked = found.ranked.query("control == 'others'")
    assert len(ranked) == 171 and set(ranked[ranked["marked"]]["emotion"]) == set(SIX)
    assert ranked["effect"].abs().is_monotonic_decreasing
    beyond = ranked[ranked["verdict"] == Verdict.BEYOND]
    assert len(beyond) and (np.sign(beyond["effect"]) == np.sign(beyond["valence"].fillna(9) - 5)).all()
    assert (ranked["q"] >= ranked["p"] - 1e-12).all() and ranked["p"].min() < 1 / 200  # finer than a draw of the null


def test_wording_is_told_apart_only_where_there_are_scenarios_and_paraphrases(known):
    vectors, refits = known
    gradient = replies(np.random.default_rng(3), 4.0)
    one_scenario = contrast(SCENARIOS[:4], SIGNS[:4], draws=5)
    first = Contrast(np.pad(one_scenario.point, (0, 92)), np.pad(one_scenario.draws, ((0, 0), (0, 92))))
    over = {"all": contrast(SCENARIOS, SIGNS, draws=5), "one": first}
    found = align(told(gradient, over), vectors, refits, draws=39)
    assert found.wording["contrast"].tolist() == ["all"] and found.wording["effect"].item() > 0
    shown = alignment.results(found, "slope")
    assert list(shown) == ["alignment", "ranked", "wording"] and "all:" in shown["ranked"].headline()


def test_the_sign_under_another_control_is_told(known):
    vectors, refits = known
    planted = replies(np.random.default_rng(3), 4.0)[:, None]
    over = contrast(SCENARIOS, SIGNS, draws=20)
    gradients = Gradients((1,), {"others": planted, "twin": -planted}, tuple(SCENARIOS), {"a": over})
    assert not align(gradients, vectors, refits, draws=39).headline["holds"].any()


def test_the_same_call_gives_the_same_numbers(known):
    vectors, refits = known
    over = contrast(SCENARIOS, SIGNS, draws=50)
    gradients = told(replies(np.random.default_rng(3), 1.0), {"a": over})
    one, two = (align(gradients, vectors, refits, draws=39, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(one.frame, two.frame)
    pd.testing.assert_frame_equal(one.ranked, two.ranked)


def test_relations_are_those_of_a_regression():
    rng = np.random.default_rng(0)
    scales = rng.normal(size=(3, 40))
    scales[1] += 0.5 * scales[0]
    slopes = 2 * scales[0] - scales[1] + rng.normal(size=40)
    standard = lambda x: (x - x.mean()) / x.std()  # noqa: E731
    expected = [np.corrcoef(slopes, scale)[0, 1] for scale in scales]
    design = np.stack([standard(scales[0]), standard(scales[1])], axis=1)
    expected += np.linalg.lstsq(design, standard(slopes), rcond=None)[0].tolist()
    expected.append((slopes * standard(scales[0])).mean())
    assert alignment.relations(slopes, scales) == pytest.approx(expected)
    assert np.isnan(alignment.relations(np.full(40, 0.3), scales)).all()


def test_gradients_that_cancel_cannot_be_measured(known):
    vectors, refits = known
    over = contrast(SCENARIOS, SIGNS, draws=20)
    same = np.repeat(np.random.default_rng(0).normal(size=(1, WIDTH)), 96, axis=0)
    found = align(told(same, {"constant": over}), vectors, refits, draws=39)
    assert (found.frame["verdict"] == Verdict.UNMEASURABLE).all() and found.frame["r"].isna().all()
    assert (found.ranked["verdict"] == Verdict.UNMEASURABLE).all()
    assert found.frame.filter(regex="^p_|_centre|_sd").isna().all(axis=None)


def test_bad_input_is_named(known):
    vectors, refits = known
    over = {"a": contrast(SCENARIOS, SIGNS, draws=5)}
    gradient = replies(np.random.default_rng(0), 1.0)
    with pytest.raises(ValueError, match=r"6 of 6 emotions have ratings in 'glasgow'.*at least 20"):
        alignment.ratings_of(SIX, ["glasgow"])
    with pytest.raises(ValueError, match=r"0 of 2 emotions have ratings in 'glasgow' \(none for smug, smugger"):
        alignment.ratings_of(["smug", "smugger"], ["glasgow"])
    broken = gradient.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"gradient 'control' of reply number 7 \(S1\) at index \[0, 3\] is nan"):
        told(broken, over)
    with pytest.raises(ValueError, match="'control' have the shape .95, 1, 48., not 96 replies at 1 blocks"):
        told(gradient[1:], over)
    with pytest.raises(ValueError, match=r"that of block 1, which is not among \[2\]"):
        align(told(gradient, over, (LAYER,)), vectors, refits)


def test_ratings_that_do_not_differ_are_refused(tmp_path):
    path = tmp_path / "flat.csv"
    path.write_text(
        "emotion,valence,arousal\n" + "".join(f"{e},5,{n}\n" for n, e in enumerate(el.corpus.EMOTIONS[:30]))
    )
    with pytest.raises(ValueError, match="all 30 emotions have the same valence"):
        alignment.ratings_of(el.corpus.EMOTIONS, [str(path)])


def test_replies_are_permuted_within_scenarios_and_ratings_within_clusters():
    over = contrast(SCENARIOS, SIGNS, draws=1)
    weights = alignment.shuffled_replies(over, SCENARIOS, 30)
    for name in set(SCENARIOS):
        rows = np.array(SCENARIOS) == name
        assert np.allclose(np.sort(weights[:, rows]), np.sort(over.point[rows]))
    assert alignment.shuffled_replies(contrast(SCENARIOS, draws=1), SCENARIOS) is None
    clusters = np.array([0, 0, 0, 1, 1, -1])
    orders = alignment.permuted_within(clusters, 50, np.random.default_rng(0))
    assert (clusters[orders] == clusters).all() and len(np.unique(orders, axis=0)) == 12


def test_wording_and_scenario_are_told_apart():
    rng = np.random.default_rng(0)
    spread = {"sd_scenario": [], "sd_wording": []}
    for _ in range(40):
        scenario = np.repeat(rng.normal(0, 2.0, 24), 4)
        values = SIGNS * (1.0 + scenario) / 2 + rng.normal(0, 1.0, 96)
        found = alignment.by_wording(values, SCENARIOS, SIGNS.tolist())
        for name in spread:
            spread[name].append(found[name])
    assert np.mean(spread["sd_scenario"]) == pytest.approx(2.0, abs=0.15)
    assert np.mean(spread["sd_wording"]) == pytest.approx(1.0, abs=0.05)  # of a difference of two means of two
    assert found["low"] < 1.0 < found["high"]
    with pytest.raises(ValueError, match="scenario 'S0' has no reply with one of the signs"):
        alignment.by_wording(np.ones(96), SCENARIOS, [1] * 96)
    with pytest.raises(ValueError, match="1 scenarios, 4 replies"):
        alignment.by_wording(np.arange(4.0), ["a"] * 4, [1, 1, -1, -1])
