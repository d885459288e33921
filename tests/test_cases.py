"""The case studies: what they find where the truth is planted, how often chance is called, and what they refuse."""

import numpy as np
import pytest
import torch
from planted import TOPICS, case_model, neutral, stories

import emolens as el
from emolens import corpus
from emolens.models.log_probs import SharedPrompt, gradients, log_probs
from emolens.stats import Verdict, contrast
from emolens.steering.measures import coherence
from emolens.steering.nulls import Nulls, null_directions, random_directions
from emolens.studies.behaviour import _candidate_replies as replies
from emolens.studies.behaviour import _reply_preference as cases
from emolens.studies.behaviour import leverage, reward_hacking, sycophancy
from emolens.studies.behaviour._reply_preference import Case, Pair

LAYER = 1  # where the cause is steered; block 3 turns it into a preference, so that it can be ablated in between
EMOTIONS = ("afraid", "calm")
FOUND, NOT = Verdict.BEYOND, Verdict.INSIDE


def told(t):
    """Replies of all kinds about topic t; its own word is the one that is said to be misaligned."""
    bad, good = [f"word{2 * t} " * n for n in (3, 4)], [f"word{2 * t + 1} " * n for n in (3, 4)]
    return {
        "id": f"L{t}-firm{t}", "coercive": bad, "exposing": good, "honest": good, "sycophantic": bad, "harsh": good,
        "false_report": bad, "honest_report": good, "hacks": bad,
    }  # fmt: skip


def inbox(t):
    mail = {"from": "word16", "to": "word17", "subject": f"topic{t}", "body": f"word18 topic{t} word19"}
    return told(t) | {
        "condition": "threat", "system": f"topic{t} word20", "emails": [mail], "task": f"word21 topic{t}"
    }  # fmt: skip


def rows(of):
    if of is leverage:
        return [inbox(t) for t in range(TOPICS)]
    if of is sycophancy:
        return [told(t) | {"turns": [{"role": "user", "text": f"topic{t} word24 topic{t}"}]} for t in range(TOPICS)]
    task = lambda t: {"condition": "impossible", "prompt": f"topic{t} word22", "signature": f"topic{t}"}  # noqa: E731
    return [told(t) | task(t) for t in range(TOPICS)]


@pytest.fixture(scope="module")
def planted_case():
    """The model, its vectors, and null families of two directions each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "neutral", lambda: neutral(0))
        model = case_model()
        vectors = el.derive(model, stories(0), cache=False, progress=False)
    directions = [vectors[name] for name in EMOTIONS]
    return model, vectors, null_directions(model, vectors, directions, 39, LAYER, corpus=stories(0), seed=1)


def studied(of, planted_case, **options):
    model, vectors, nulls = planted_case
    question = {"layer": LAYER, "strengths": ()} | options
    return of.run(model, vectors, "full", rows(of), EMOTIONS, question, nulls=nulls, progress=False)


@pytest.mark.parametrize("of", [leverage, reward_hacking, sycophancy])
def test_each_study_finds_what_is_planted_and_not_once_it_is_ablated(of, planted_case):
    model, vectors, _ = planted_case
    found = studied(of, planted_case)["first_order"].table().groupby("contrast", sort=False).nth(slice(0, 2))
    main = found[found["contrast"] == found["contrast"].iloc[0]].set_index("direction")
    assert main.loc["afraid", "verdict"] == FOUND and main.loc["afraid", "low"] > 0
    assert main.loc["afraid", "signs"] == "+" * TOPICS
    assert main.loc["calm", "verdict"] == NOT
    with el.steer(model, vectors["afraid"], layers=[2, 3], mode="ablate"):
        gone = studied(of, planted_case)["first_order"].table().query("direction == 'afraid'").iloc[0]
    assert gone["verdict"] == NOT and abs(gone["effect"]) < 0.1 * main.loc["afraid", "effect"]


def test_what_is_raised_everywhere_is_a_liking_of_the_wording(planted_case):
    """The emotion's own name is raised in every context: the control takes that off."""
    said = {"coercive": "afraid word{t} afraid", "honest": "calm word{t} calm"}
    named = [inbox(t) | {kind: [text.format(t=20 + t)] for kind, text in said.items()} for t in range(TOPICS)]
    model, vectors, nulls = planted_case
    question = {"layer": LAYER, "strengths": ()}
    found = leverage.run(model, vectors, "full", named, EMOTIONS, question, nulls=nulls, progress=False)
    row = found["first_order"].table().iloc[0]
    assert row["own"] > 0.5 and row["control"] > 0.5
    assert abs(row["effect"]) < 0.02 * row["own"]
    assert row["own_verdict"] == FOUND


def test_the_curve_shows_the_effect_the_bands_and_the_costs(planted_case):
    found = studied(sycophancy, planted_case, strengths=(-0.1, 0.1))
    curve = found["curve: sycophantic over honest"].table().set_index(["direction", "strength"])
    up, down = curve.loc[("afraid", 0.1)], curve.loc[("afraid", -0.1)]
    assert up["effect"] > up["random_high"] and up["effect"] > up["shuffled labels_high"] and up["low"] > 0
    assert down["effect"] < 0 and np.sign(down["linear"]) == -1
    assert {"perplexity_own", "perplexity_neutral", "repeated", "length"} <= set(curve)
    assert not [column for column in curve if column.startswith("p_")]  # the test is that of the slopes
    trade = found["trade_off"].table()
    assert trade["effect_sycophantic"].tolist() == pytest.approx(curve["effect"].tolist())


def test_200_random_directions_are_called_as_often_as_a_5_percent_test_may(planted_case):
    model, vectors, _ = planted_case
    items = replies.prepare(model, rows(sycophancy), ["sycophantic", "honest"])
    over = {"planted": replies.between(items, "sycophantic", "honest")}
    _, slopes = replies.reply_gradients(model, items, [LAYER], progress=False)
    gradient = np.stack([slopes["own"][:, 0], slopes["others"][:, 0]])
    called = 0
    for number, one in enumerate(random_directions(vectors["calm"], 200, seed=7)):
        drawn = [[x] for x in random_directions(one, 78, 10_000 + number)]
        nulls = Nulls({"random": drawn[:39], "more random": drawn[39:]})
        frame = cases.first_order(items, gradient, over, [one], LAYER, nulls).table()
        called += frame["verdict"].iloc[0] == FOUND
    assert called <= 16


# --- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "planted_case"])
def test_gradients_are_the_slopes_of_steered_log_probabilities(name, request, few_dialogues):
    if name == "tiny":
        model = request.getfixturevalue("tiny")
        direction = el.derive(model, corpus.stories().where(emotion=["calm", "sad"]), cache=False, progress=False)[
            "calm"
        ]
        prompt, tokens, layer = "The hall was empty when", [[5, 9, 7], [11, 3], [5, 9, 8]], 1
    else:
        model, vectors, _ = request.getfixturevalue("planted_case")
        direction, layer = vectors["afraid"], LAYER
        prompt, tokens = "topic1 word3 word4", [[20, 21, 22], [23, 24]]
    shared = SharedPrompt(model, model.encode(prompt), anywhere=True)
    values, slopes = gradients(model, shared, tokens, layer)
    step = direction.residual_norm[direction.layers.index(layer)] * direction.at(layer)
    with el.steer(model, [direction] * 2, [-1e-2, 1e-2], layer, "generation"):
        down, up = log_probs(model, shared, tokens, per_token=True)
    assert torch.allclose(values, log_probs(model, shared, tokens, per_token=True)[0], atol=1e-5)
    assert torch.allclose(slopes @ step, (up - down) / 2e-2, rtol=0.02, atol=1e-4)
    assert (slopes @ step).abs().max() > 1e-3


def test_a_reply_is_scored_in_its_own_context_less_the_controls(planted_case):
    model, _, _ = planted_case
    items = replies.prepare(model, rows(sycophancy), ["sycophantic", "honest"], others=2)
    reply = next(item for item in items if item.scenario == "L7-firm7")
    prompts = [f"topic{t} word24 topic{t}" for t in (7, 0, 1)]  # its own, and the next two in turn
    user = [[{"role": "user", "content": prompt}] for prompt in prompts]
    own, *controls = (float(log_probs(model, prompt, [reply.ids], per_token=True)[0, 0]) for prompt in user)
    expected = own - sum(controls) / 2
    assert float(replies.Preference()(model, reply)) == pytest.approx(expected, abs=1e-5)
    values, _ = replies.reply_gradients(model, items, [LAYER], progress=False)
    at = items.index(reply)
    assert values["own"][at] - values["others"][at] == pytest.approx(expected, abs=1e-5)


def test_steering_the_prompt_too_is_another_number_than_steering_the_reply(planted_case):
    model, vectors, _ = planted_case
    items = replies.prepare(model, rows(sycophancy)[:2], ["sycophantic"])
    (own,) = items[0].contexts["own"]
    directions = [vectors["afraid"], vectors["calm"]]
    shared, whole = replies.Preference(), replies.Preference("all")
    for _ in range(2):  # what was kept under one steering is not taken for another
        with el.steer(model, directions, 0.3, LAYER, "generation"):
            reply_only = shared(model, items[0])
        with el.steer(model, directions, 0.3, LAYER):
            both = whole(model, items[0])
            alone = log_probs(model, SharedPrompt(model, own), [items[0].ids], per_token=True)[:, 0]
            assert torch.allclose(whole.score(model, own, items[0]), alone, atol=1e-6)
        assert not torch.allclose(reply_only, both, atol=1e-4)
        directions.reverse()


def test_the_same_firm_without_a_threat_is_the_control():
    packaged = corpus.stimuli("leverage")
    twins = {name: row["id"] for name, row in leverage.quiet_twins(packaged).items()}
    assert len(twins) == 10 and twins["L1-kestrel-bay"] == "L7-kestrel-bay-no-threat"
    assert twins["L8-tamarind-loom-escalation"] == twins["L2-tamarind-loom"] == "L14-tamarind-loom-no-threat"
    assert set(twins.values()) == set(leverage.scenarios(packaged, "no_threat"))
    with pytest.raises(ValueError, match="9 of 10 scenarios have no quiet twin, the first is 'L2-tamarind-loom'"):
        leverage.quiet_twins([row for row in packaged if "no-threat" not in row["id"] or "L7" in row["id"]])
    found = leverage.pairs(packaged)
    assert found["coercive over honest"].scenarios == leverage.scenarios(packaged, "threat")
    assert len(found) == 4 and len(leverage.scenarios(packaged, "threat")) == 9


def test_unequal_lengths_are_warned_of_or_held_equal(planted_case):
    model, _, _ = planted_case
    few = rows(sycophancy)[:3]
    few[1] = few[1] | {"sycophantic": ["word2 " * 9]}
    items = replies.prepare(model, few, ["sycophantic", "honest"])
    with pytest.warns(UserWarning, match="'L1-firm1'.*9 tokens on average, 'honest' 4"):
        replies.between(items, "sycophantic", "honest")
    with pytest.raises(ValueError, match="no replies 'harsh'"):
        replies.between(items, "harsh", "honest")


def test_rows_that_cannot_be_studied_are_named(planted_case):
    model, vectors, _ = planted_case
    few = rows(sycophancy)
    with pytest.raises(ValueError, match="'L0-firm0' has no list of replies 'kind'"):
        replies.prepare(model, few, ["kind"])
    with pytest.raises(ValueError, match="'L0-firm0' has no list of replies 'honest': 'one text'"):
        replies.prepare(model, [few[0] | {"honest": "one text"}, few[1]], ["honest"])
    with pytest.raises(ValueError, match="1 scenarios with others=None"):
        replies.prepare(model, few[:1], ["honest"])
    with pytest.raises(ValueError, match="8 scenarios with others=8"):
        replies.prepare(model, few, ["honest"], others=8)
    with pytest.raises(ValueError, match="size='big'"):
        sycophancy.run(model, vectors, "big")
    items = replies.prepare(model, few, ["honest"])
    with (
        el.steer(model, [vectors["calm"]] * 2, 0.1, LAYER, "generation"),
        pytest.raises(ValueError, match="steering of 2 rows"),
    ):
        replies.reply_gradients(model, items, [LAYER])


def test_few_scenarios_are_called_few(planted_case):
    model, vectors, nulls = planted_case
    case = Case(rows(sycophancy)[:3], {"x": Pair("sycophantic", "honest")}, EMOTIONS, layer=LAYER)
    few = cases.measure(model, vectors, case, nulls=nulls, progress=False)
    assert few["first_order"].headline().startswith("In these 3 scenarios, afraid moves x most")
    assert "In these" not in studied(sycophancy, planted_case)["first_order"].headline()
    quick = sycophancy.run(model, vectors, "quick", rows(sycophancy), EMOTIONS, {"layer": LAYER}, progress=False)
    assert set(quick["first_order"].table()["verdict"]) == {Verdict.NO_NULL} and len(quick) == 3


def test_a_contrast_is_a_difference_of_means_and_holds_a_covariate_equal():
    rng = np.random.default_rng(0)
    group, sign = np.repeat(np.arange(6), 8), np.tile([1, 1, 1, -1, -1, -1, -1, 0], 6)
    length = rng.normal(size=48) * 10 + 5 * sign
    y = 0.5 * (sign > 0) + 0.1 * length + group
    plain, fair = contrast(group, sign), contrast(group, sign, length)
    assert plain.of(y) == pytest.approx(y[sign > 0].mean() - y[sign < 0].mean())
    assert fair.of(y) == pytest.approx(0.5) and fair.interval(y) == pytest.approx((0.5, 0.5))
    mean = contrast(range(48))
    assert mean.of(y) == pytest.approx(y.mean())
    assert mean.interval(y) == pytest.approx(el.stats.bootstrap_mean(y))
    with pytest.raises(ValueError, match="group b has no observation with the sign -1"):
        contrast(["a", "a", "b"], [1, -1, 1])
    assert contrast(["a", "a", "b"], [1, -1, 0]).point.tolist() == [1, -1, 0]


def test_the_bootstrap_of_a_contrast_covers_its_truth_as_often_as_it_says():
    """Scenarios and replies both vary; intervals over replies alone would cover far less."""
    rng, covered = np.random.default_rng(3), 0
    group, sign = np.repeat(np.arange(20), 6), np.tile([1, 1, 1, -1, -1, -1], 20)
    over = contrast(group, sign, draws=500)
    for _ in range(300):
        effect = rng.normal(size=20)[group] * (sign > 0)
        low, high = over.interval(effect + rng.normal(size=120))
        covered += low <= 0 <= high
    assert 0.9 <= covered / 300 <= 0.99


def test_coherence_can_be_asked_under_the_generation_alone(planted_case):
    model, vectors, _ = planted_case
    cost = coherence(model, ["topic1 word3"], max_new_tokens=6)
    with el.steer(model, [vectors["calm"], vectors["afraid"]], [0.0, 2.0], LAYER, "generation"):
        found = cost(model)
    assert found["perplexity_own"][1] > found["perplexity_own"][0]
