"""Patching: exact on random models, and it finds the planted block, position and head."""

import pytest
import torch
from planted import CARRIED_BY, EMOTIONS, WRITES_IN, sentence
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens import corpus
from emolens.models.model import HookedModel
from emolens.steering.measures import emotion_score, log_odds
from emolens.steering.nulls import random_directions
from emolens.steering.patch import attribute, patch, through

ODDS = log_odds([" angry"], [" calm", " cold and warm"])
ONE_TOKEN = log_odds([" angry"], [" calm"])  # the tokens of a longer continuation read the target below the patch
SOURCE, TARGET = "she ran and the river was very cold", "she ran and the door was very cold"


@pytest.fixture(params=[tiny_llama, tiny_gemma], ids=["llama", "gemma"])
def model(request):
    return HookedModel.from_hf(request.param(), tiny_tokenizer(), "tiny")


def versions(cue, other, seed=3, at=8):
    """Two texts that differ in one word, the one at position `at`."""
    words = sentence(torch.Generator().manual_seed(seed), length=16).split()
    return [" ".join([*words[:at], word, *words[at:]]) for word in (cue, other)]


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "mlp_out", "head"])
def test_a_patch_equals_one_made_by_hand(model, site):
    layer, place = 1, 3
    found = patch(model, SOURCE, TARGET, {"odds": ODDS}, site, [layer]).iloc[place]
    point = {"head": "attn.hook_z"}.get(site, site)
    source = model.run_with_cache(SOURCE, [layer], [point])[model.hook_name(layer, point)][0]

    def by_hand(x, hook):
        if site == "head":
            x[0, :, place] = source[:, place]
        else:
            x[0, place] = source[place]
        return x

    whole = [model.encode(TARGET + word).ids for word in (" angry", " calm", " cold and warm")]
    n, scores = len(model.encode(TARGET).ids), []
    for ids in whole:  # without a cache, so that no later token escapes the patch
        log_p = model.forward([ids], fwd_hooks=[((layer, point), lambda x, hook: pad_by_hand(x, by_hand, n, hook))])
        log_p = log_p.float().log_softmax(dim=-1)[0]
        scores.append(sum(float(log_p[i - 1, ids[i]]) for i in range(n, len(ids))))
    plain = float(ODDS(model, TARGET))
    assert found["change"] == pytest.approx(scores[0] - (scores[1] + scores[2]) / 2 - plain, abs=1e-4)
    assert found["whole"] == pytest.approx(float(ODDS(model, SOURCE)) - plain, abs=1e-4)


def pad_by_hand(x, by_hand, n, hook):
    head = by_hand(x[:, :n].clone(), hook)
    return torch.cat([head, x[:, n:]], dim=1)


def test_patching_everything_carries_everything(model):
    generator = torch.Generator().manual_seed(0)
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 1}
    values = torch.randn(1, model.d_model, generator=generator)
    d = el.Direction("d", (1,), values, torch.ones(1), torch.zeros(1, model.d_model), False, stamp)
    shares = {part: through(model, SOURCE, TARGET, {"odds": ONE_TOKEN}, [d], [1], part)["share"][0] for part in
              ("whole", "direction", "rest")}  # fmt: skip
    assert shares["whole"] == pytest.approx(1, abs=1e-3)
    source, u = model.run_with_cache(SOURCE, [1])["resid_post", 1], values[0] / values.norm()

    def odds(logits):
        return float(logits[0, -1, model.encode("angry").ids[0]] - logits[0, -1, model.encode("calm").ids[0]])

    plain, whole = (odds(model.forward(text)) for text in (TARGET, SOURCE))
    for part in ("direction", "rest"):

        def by_hand(x, hook, part=part):
            component = ((source - x) @ u)[..., None] * u
            return x + component if part == "direction" else source - component

        value = odds(model.forward(TARGET, fwd_hooks=[((1, "resid_post"), by_hand)]))
        assert shares[part] == pytest.approx((value - plain) / (whole - plain), abs=1e-3)
    last = patch(model, SOURCE, TARGET, {"odds": ONE_TOKEN}, layers=[model.n_layers - 1]).set_index("position")["share"]
    assert last.iloc[-1] == pytest.approx(1, abs=1e-3) and last.iloc[:-1].abs().max() < 1e-3


def test_the_planted_site_is_found(planted):
    model, vectors = planted
    source, target = versions("cue0", "word1")
    last = len(model.encode(source).ids) - 1
    measures = {"odds": log_odds([" afraid"], [" calm"]), "score": emotion_score(vectors, "afraid", 3)}
    for name in measures:  # noqa: B007 (the queries name it)
        mlp = patch(model, source, target, measures, "mlp_out").query("measure == @name")
        best = mlp.loc[mlp["share"].idxmax()]
        assert (best["layer"], best["position"]) == (WRITES_IN, 8) and best["share"] > 0.7
        heads = patch(model, source, target, measures, "head").query("measure == @name")
        best = heads.loc[heads["share"].idxmax()]
        assert (best["layer"], best["head"]) == CARRIED_BY and best["share"] > 0.7
        resid = (
            patch(model, source, target, measures).query("measure == @name").set_index(["layer", "position"])["share"]
        )
        assert resid[(1, 8)] > 0.9 and resid[(1, last)] < 0.1 < 0.9 < resid[(2, last)]


def test_the_effect_goes_through_the_planted_direction(planted):
    model, vectors = planted
    source, target = versions("cue0", "word1")
    directions = [vectors["afraid"], *random_directions(vectors["afraid"], 39)]
    shares = through(model, source, target, {"odds": log_odds([" afraid"], [" calm"])}, directions, [1])["share"]
    rest = through(model, source, target, {"odds": log_odds([" afraid"], [" calm"])}, directions[:1], [1], "rest")
    assert shares[0] > 0.7 and shares[1:].abs().max() < 0.4 and rest["share"][0] < shares[0] - 0.2


def test_attribution_adds_up_and_names_the_head(planted):
    model, vectors = planted
    source, _ = versions("cue0", "word1")
    found = attribute(model, source, vectors, "afraid", 3)
    parts = found[found["kind"] != "head"]
    resid = model.forward(source, stop_after=3)[0, -1]
    assert parts["contribution"].sum() == pytest.approx(
        float(resid @ vectors["afraid", 3] / vectors.residual_norm[3]), abs=1e-4
    )
    best = found[found["kind"] == "head"].sort_values("contribution").iloc[-1]
    assert (best["layer"], best["head"]) == CARRIED_BY
    heads = found[found["kind"] == "head"].groupby("layer")["contribution"].sum()
    attention = found[found["kind"] == "attention"].set_index("layer")["contribution"]
    assert (heads - attention).abs().max() < 1e-4


def test_heads_add_up_where_a_norm_follows_the_attention():
    model = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny")
    for weight in (p for name, p in model.bridge.named_parameters() if "post_attention" in name or "ln1_post" in name):
        torch.nn.init.normal_(weight.data)
    stories_ = corpus.stories().where(emotion=["calm", "sad"])
    vectors = el.fit(el.pool(model, stories_.texts, cache=False, progress=False), stories_, el.token_moments(
        model, sorted(corpus.neutral(), key=len)[:6], progress=False), 1.0)  # fmt: skip
    found = attribute(model, TARGET, vectors, "calm", 3)
    heads = found[found["kind"] == "head"].groupby("layer")["contribution"].sum()
    attention = found[found["kind"] == "attention"].set_index("layer")["contribution"]
    assert (heads - attention).abs().max() < 1e-4


def test_what_makes_no_sense_is_named(model):
    with pytest.raises(ValueError, match="source has 8 tokens, the target 9"):
        patch(model, SOURCE, TARGET + " river", {"odds": ODDS})
    with pytest.raises(ValueError, match="the same tokens"):
        patch(model, SOURCE, SOURCE, {"odds": ODDS})
    with pytest.raises(ValueError, match="did you mean mlp_out"):
        patch(model, SOURCE, TARGET, {"odds": ODDS}, "mlp")
    with pytest.raises(ValueError, match="'constant' is the same on both"):
        patch(model, SOURCE, TARGET, {"constant": lambda model, text: torch.ones(1)})
    assert len(EMOTIONS) and model.steering == []
