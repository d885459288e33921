"""The comparison of two checkpoints finds what was planted, calls no shift where none is, and refuses what differs."""

import numpy as np
import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.models.model import HookedModel
from emolens.reading.read import score
from emolens.stats import bootstrap_draws, bootstrap_mean, false_discovery, outside_draws
from emolens.studies.post_training import _checkpoints as checkpoints
from emolens.studies.post_training import compare as post_training
from emolens.studies.post_training import manner
from emolens.studies.post_training._checkpoints import GROUPS, measure, prompt_rows
from emolens.training import packaged_children as children

EMOTIONS = ["brooding", "reflective", "calm", "exuberant", "enthusiastic", "angry", "sad", "happy", "proud", "afraid"]
EMOTIONS += ["guilty", "bored", "excited", "tense", "content"]
LAYER, CONSTANT = 2, 0.5
PROMPTS = {
    kind: [f"the {kind[0]} {word} was very cold and she ran w{number}" for number, word in enumerate(words)]
    for kind, words in {
        "hostility": ["river", "door", "night", "angry", "walked", "warm"],
        "isolation": ["a", "she", "he", "but", "and", "cold"],
        "neutral_facts": ["river", "door", "night", "calm", "walked", "warm"],
    }.items()
}


def llama(seed=None, name="tiny", noise=0.02, hook=None):
    """A tiny model: the base, or one whose weights moved a little at random, or with something added to a block."""
    hf = tiny_llama()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in hf.parameters():
                weight.add_(noise * weight.std() * torch.randn(weight.shape, generator=generator))
    if hook is not None:
        hf.model.layers[LAYER].register_forward_hook(hook)
    return HookedModel.from_hf(hf, tiny_tokenizer(), name if seed is None else f"{name}+control-{seed}")


@pytest.fixture(scope="module")
def base():
    return llama()


@pytest.fixture(scope="module")
def vectors(base, few_dialogues):
    return el.derive(base, el.corpus.stories().where(emotion=EMOTIONS), cache=False, progress=False)


@pytest.fixture(scope="module")
def null():
    return [llama(seed) for seed in range(1, 6)]


@pytest.fixture(scope="module")
def planted(vectors):
    """A child like the null's, with half the mean residual norm added along "sad" at one block."""
    push = CONSTANT * vectors.residual_norm[vectors.layers.index(LAYER)] * vectors["sad", LAYER]
    return llama(99, "pushed", hook=lambda module, args, out: out + push)


def shift_of(result, emotion, group=GROUPS[0], ruler="base"):
    table = result.table()
    rows = table[(table["emotion"] == emotion) & (table["group"] == group) & (table["ruler"] == ruler)]
    return rows.iloc[0]


# --- what is found


def test_the_whole_study_tells_the_planted_child_from_the_controls(base, vectors, null, planted):
    results = post_training.run(base, vectors, "full", [planted], null[:3])
    assert list(results) == ["shifts", "summary", "axes", "by_layer", "null", "against_paper"]
    assert "shifts that count" in results["shifts"].headline() and "emotions in" in results["shifts"].headline()
    assert [name for name in results["null"].table() if "control-" in name] == [f"tiny+control-{n}" for n in (1, 2, 3)]


def test_a_planted_shift_has_its_sign_and_size(base, vectors, null, planted):
    result = el.compare(base, planted, vectors, PROMPTS, null, layers=[LAYER])
    row = shift_of(result, "sad")
    assert row["counts"] and row["shift"] > 0 and row["low"] < row["shift"] < row["high"]
    assert shift_of(result, "sad", GROUPS[1])["counts"]
    # The size: what adding the constant to the base's own activations gives.
    rows = [row for row in prompt_rows(PROMPTS) if not row["kind"].startswith("neutral")]
    x = checkpoints.before_reply(base, rows, "plain", [LAYER])[0]
    push = CONSTANT * vectors.residual_norm[vectors.layers.index(LAYER)] * vectors["sad", LAYER]
    scores = [score(y, vectors, LAYER)[:, vectors.index("sad")].mean() for y in (x, x + push)]
    assert row["shift"] == pytest.approx(float(scores[1] - scores[0]), abs=0.02)
    assert row["base"] == pytest.approx(float(scores[0]), abs=1e-6)
    few = el.corpus.stories("plain").where(emotion=EMOTIONS[:3])  # of the other's vectors the centre alone is used
    opposite = el.compare(planted, base, vectors, PROMPTS, layers=[LAYER], corpus=few)
    assert shift_of(opposite, "sad", ruler="given")["shift"] == pytest.approx(-row["shift"], abs=0.01)
    assert result.headline().startswith("On challenging prompts at block") and "control fine-tunes" in result.null


def test_the_constant_cancels_between_challenging_and_neutral_prompts(base, vectors, null, planted):
    result = el.compare(base, planted, vectors, PROMPTS, null, layers=[LAYER])
    both = [shift_of(result, "sad", group)["shift"] for group in GROUPS]
    assert both[2] == pytest.approx(both[0] - both[1]) and abs(both[2]) < 0.2 * both[0]
    assert not shift_of(result, "sad", GROUPS[2])["counts"]


def test_a_held_out_child_without_manner_is_called_no_shift(base, vectors, null):
    result = manner.held_out_null(base, vectors, null, LAYER)
    table = result.table()
    assert set(table["child"]) == {child.name for child in null}
    # The correction promises it on average: now and then one of these 15 emotions, 7 %, is called in one of 30 cells.
    assert table["called"].mean() <= 0.05 and (table["called"] > 0).mean() <= 0.2
    assert table["by_prompts"].mean() > 0.3 and (table["size"] > 1e-4).all()


def test_the_shifts_are_not_zero_by_construction_and_those_of_the_same_model_are(base, vectors, null):
    same = el.compare(base, llama(), vectors, PROMPTS, layers=[LAYER]).table()
    assert (same["shift"] == 0).all() and not same["counts"].any() and (same["q"] == 1).all()
    other = el.compare(base, null[0], vectors, PROMPTS, layers=[LAYER]).table()
    assert (other["shift"].abs() > 1e-6).all()
    emotions = other[other["of"] == "emotion"]
    assert emotions.groupby("group")["relative"].mean().abs().max() < 1e-8
    assert emotions["shift"].mean() != pytest.approx(0, abs=1e-6)  # not centred away


def test_bright_minus_composed_is_measured_against_pairs_of_null_children(base, vectors, null, planted, monkeypatch):
    loaded = {"composed": llama(98, "c"), "bright": planted}
    monkeypatch.setattr(manner, "packaged_posts", lambda model: [])
    monkeypatch.setattr(manner, "load_adapter", lambda model, name: type("", (), {"model": loaded[name]}))
    monkeypatch.setattr(manner, "layers_of", lambda vectors, size, methods: [LAYER])
    monkeypatch.setattr(type(vectors), "chosen_layer", lambda self, method="denoised": LAYER)
    result = manner.run(base, vectors, "quick", null)["manner"]
    table = result.table()
    assert set(table["place"]) == set(manner.READ_AT)
    for place in manner.READ_AT:
        part = table[(table["place"] == place) & (table["group"] == GROUPS[0])].set_index("emotion")
        assert part.loc["sad", "counts"] and part.loc["sad", "shift"] > 0.1
        assert np.allclose(part["null_low"], -part["null_high"])
        named = part.loc["manner", "shift"]
        want = part.loc[list(children.MANNERS["bright"]), "shift"].mean()
        want -= part.loc[list(children.MANNERS["composed"]), "shift"].mean()
        assert named == pytest.approx(want)
    counted = "counts" if result.table().query("emotion == 'manner'")["counts"].iloc[0] else "does not count"
    assert f"({counted})" in result.headline()


def test_measure_knows_the_null_children(vectors):
    g = torch.Generator().manual_seed(0)
    names = [f"e{i}" for i in range(171)]
    neutral = torch.arange(60) >= 40
    base = torch.randn(60, 171, generator=g)
    common = torch.randn(171, generator=g)  # what every training does

    def child(extra=0.0):
        own = common + 0.1 * torch.randn(171, generator=g)
        return base + own + 0.05 * torch.randn(60, 171, generator=g) + extra

    null = torch.stack([child() for _ in range(6)])
    quiet = measure(base, child(), neutral, names, null)
    assert quiet["counts"].mean() <= 0.05 and (quiet["q"] < 0.05).mean() > 0.6  # by prompts alone all would be shifts
    extra = torch.zeros(171)
    extra[:40] = 3.0
    loud = measure(base, child(extra), neutral, names, null)
    called = loud[loud["group"] == GROUPS[0]].set_index("emotion")["counts"]
    assert called[names[:40]].mean() > 0.9 and called[names[40:]].mean() <= 0.05


def test_a_ladder_of_checkpoints_is_a_list(base, vectors, null):
    result = el.compare(base, null[:3], vectors, PROMPTS, layers=[1, LAYER])
    table = result.table()
    assert list(dict.fromkeys(table["child"])) == [child.name for child in null[:3]]
    assert set(table["layer"]) == {1, LAYER}
    rows = post_training.summary(table)
    assert len(rows) == 3 * 2 * 2 and rows["r_challenging"].between(0.5, 1).all()  # children, rulers, layers


def test_without_vectors_every_ruler_is_used_with_one_centre(base, vectors, null, monkeypatch, few_dialogues):
    stories = el.corpus.stories().where(emotion=EMOTIONS)
    own = el.derive(null[0], stories, cache=False, progress=False)
    monkeypatch.setattr(post_training, "derive", lambda model: vectors if model is base else own)
    result = el.compare(base, null[0], None, PROMPTS, null[1:3], layers=[LAYER])
    table = result.table()
    assert list(dict.fromkeys(table["ruler"])) == ["post", "base", "shared", "post, raw", "own"]
    single = el.compare(base, null[0], vectors, PROMPTS, null[1:3], layers=[LAYER]).table()
    shifts = [t[t["ruler"] == r]["shift"].to_numpy() for t, r in ((table, "base"), (single, "base"))]
    np.testing.assert_allclose(*shifts)
    mine = table[table["ruler"] == "own"]
    assert mine["null_low"].isna().all() and not mine["counts"].any()  # no null, so nothing is said
    moved = post_training.moved(vectors, own, [LAYER])
    assert moved.table()["effect"].between(0.5, 1).all() and "mean cosine" in moved.headline()
    moved = post_training.moved(vectors, vectors, [LAYER]).table()
    np.testing.assert_allclose(moved["effect"], 1, atol=1e-5)


# --- bad input


def test_models_that_differ_are_named(base, vectors):
    gemma = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    with pytest.raises(ValueError, match="tiny and tiny-gemma differ in architecture: Llama.* and Gemma"):
        el.compare(base, gemma, vectors, PROMPTS)
    short = HookedModel.from_hf(tiny_llama(layers=3), tiny_tokenizer(), "short")
    with pytest.raises(ValueError, match="tiny and short differ in number of blocks: 4 and 3"):
        el.compare(base, short, vectors, PROMPTS)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["unheard"])
    other = HookedModel.from_hf(tiny_llama(), tokenizer, "other")
    with pytest.raises(ValueError, match="tiny and other have different tokenizers"):
        el.compare(base, other, vectors, PROMPTS)
    with pytest.raises(ValueError, match="no post-trained model"):
        el.compare(base, [], vectors, PROMPTS)


def test_prompts_without_a_kind_or_of_one_group_only_are_named(base, vectors, null):
    with pytest.raises(ValueError, match="the kind 'praise' has no prompt"):
        el.compare(base, base, vectors, PROMPTS | {"praise": []})
    with pytest.raises(ValueError, match=r"prompt 1 has an empty kind or text .*'kind': ''"):
        prompt_rows([{"kind": "x", "text": "a"}, {"kind": "", "text": "b"}])
    with pytest.raises(ValueError, match="prompt 0 has an empty kind or text"):
        prompt_rows([{"kind": "x", "text": " "}])
    with pytest.raises(ValueError, match="0 neutral prompts; at least 2 are needed"):
        prompt_rows({"praise": ["a", "b"]})
    with pytest.raises(ValueError, match="a null of one child has no spread"):
        el.compare(base, null[0], vectors, PROMPTS, null[1:2], layers=[LAYER])


def test_the_prompts_are_120_challenging_and_60_neutral_ones():
    rows = prompt_rows()
    assert int(checkpoints.neutral_mask(rows).sum()) == 60 and len(rows) == 180
    assert sum("!" in row["text"] for row in rows) == 1


def test_the_two_manners_answer_the_same_messages():
    one, other = (el.corpus.stimuli(name) for name in children.DIALOGUES.values())
    assert [row["user"] for row in one] == [row["user"] for row in other] and len(one) == 260
    assert not any("!" in row["assistant"] for row in one) and sum("!" in row["assistant"] for row in other) > 250


def test_neutral_dialogues_keep_every_word():
    found = children.neutral_dialogues()
    names = {"user": "Human", "assistant": "Assistant"}
    said = ["\n\n".join(f"{names[m['role']]}: {m['content']}" for m in rows) for rows in found]
    assert said == el.corpus.neutral() and all(rows[-1]["role"] == "assistant" for rows in found)


def test_the_papers_shift_covers_the_171_emotions():
    paper = post_training.paper_shift()
    assert set(paper) == set(el.corpus.EMOTIONS) and paper["brooding"] == pytest.approx(0.0403)


# --- statistics


def test_bootstrap_of_columns_agrees_with_that_of_one():
    x = np.random.default_rng(0).normal(1, 2, (80, 3))
    low, high = np.quantile(bootstrap_draws(x), [0.025, 0.975], axis=0)
    for column in range(3):
        want = bootstrap_mean(x[:, column])
        assert (low[column], high[column]) == pytest.approx(want, abs=0.06)


def test_false_discovery_is_benjamini_and_hochbergs():
    np.testing.assert_allclose(false_discovery(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.16 / 3, 0.16 / 3, 0.5])


@pytest.mark.parametrize("difference", [False, True])
def test_one_more_draw_lies_in_the_prediction_interval_95_times_of_100(difference):
    rng = np.random.default_rng(1)
    null = rng.normal(3, 2, (5, 20000))
    one = rng.normal(3, 2, 20000)
    value = one - rng.normal(3, 2, 20000) if difference else one
    p, low, high = outside_draws(value, null, difference)
    assert np.mean((low <= value) & (value <= high)) == pytest.approx(0.95, abs=0.01)
    assert np.array_equal(p > 0.05, (low < value) & (value < high)) and np.mean(p <= 0.05) == pytest.approx(
        0.05, abs=0.01
    )
