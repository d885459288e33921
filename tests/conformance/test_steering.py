"""Steering behaves alike in all of TransformerLens's model classes, with a shared key-value cache or without."""

import torch

import emolens as el
from emolens.models.log_probs import SharedPrompt, continuation_ids, gradients, log_probs
from emolens.vectors.direction import Direction, unit

TEXT, WORDS = "she ran and the river was very cold", [" calm", " angry and cold"]


def directions(model):
    drawn = unit(torch.randn(2, 1, model.d_model, generator=torch.Generator().manual_seed(0)))
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 2}
    norm, centre = torch.tensor([20.0]), torch.zeros(1, model.d_model)
    return [Direction(f"d{i}", (2,), x, norm, centre, False, stamp) for i, x in enumerate(drawn)]


def test_a_strength_is_added_and_goes_away(model):
    a, _ = directions(model)
    plain = model.forward(TEXT, stop_after=2)
    with el.steer(model, 0.05 * a):
        steered = model.forward(TEXT, stop_after=2)
    torch.testing.assert_close(steered - plain, a.at(2).expand_as(plain), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.forward(TEXT, stop_after=2), plain)


def test_rows_equal_the_rows_one_by_one(model):
    a, b = directions(model)
    for where in ("all", "prompt", "generation"):
        with el.steer(model, [a, b, None], [0.3, -0.2, 0.0], where=where):
            logits = model.forward(TEXT)
            scored = el.log_probs(model, TEXT, WORDS)
            written = model.generate(TEXT, 5, temperature=0)
        for row, (one, strength) in enumerate([(a, 0.3), (b, -0.2), (a, 0.0)]):
            with el.steer(model, one, strength, where=where):
                torch.testing.assert_close(model.forward(TEXT)[0], logits[row], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(el.log_probs(model, TEXT, WORDS)[0], scored[row], rtol=1e-4, atol=1e-4)
                assert model.generate(TEXT, 5, temperature=0) == written[row]


def test_a_continuation_has_the_log_probability_of_its_tokens(model):
    encoding = model.encode(TEXT + WORDS[1])
    n = len(model.encode(TEXT).ids)
    log_p = model.forward([encoding.ids]).float().log_softmax(dim=-1)[0]
    own = sum(float(log_p[i - 1, encoding.ids[i]]) for i in range(n, len(encoding.ids)))
    found = el.log_probs(model, TEXT, WORDS)
    assert abs(float(found[0, 1]) - own) < 1e-4
    mean = el.log_probs(model, TEXT, WORDS, per_token=True)
    torch.testing.assert_close(mean[0, 1] * (len(encoding.ids) - n), found[0, 1])


def test_gradients_are_the_slopes_of_steered_log_probabilities(model):
    a, b = directions(model)
    shared = SharedPrompt(model, model.encode(TEXT), anywhere=True)
    ids = [continuation_ids(model, TEXT, word) for word in WORDS]
    values, slopes = gradients(model, shared, ids, 2)
    torch.testing.assert_close(values, el.log_probs(model, TEXT, WORDS, per_token=True)[0], rtol=1e-4, atol=1e-4)
    with el.steer(model, [a, a, b, b], [-2e-4, 2e-4] * 2, where="generation"):
        scored = log_probs(model, shared, ids, per_token=True)
    steps = torch.stack([one.residual_norm * one.at(2) for one in (a, b)])
    torch.testing.assert_close(steps @ slopes.T, (scored[1::2] - scored[0::2]) / 4e-4, rtol=0.05, atol=2e-2)
    assert (steps @ slopes.T)[:, 1].abs().max() > 1e-2  # the first word of one token is not steered
    assert (slopes[0] == 0).all() == (len(ids[0]) == 1)
