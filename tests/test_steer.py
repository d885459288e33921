"""Steering on small random models: what it adds, where, in which row, and that nothing of it stays."""

import math

import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.models.log_probs import SharedPrompt
from emolens.models.model import HookedModel
from emolens.steering.steer import _plan as plan
from emolens.vectors.direction import Direction, unit

TEXT = "she ran and the river was very cold"
CHAT = [
    {"role": "user", "content": "she ran and ran"},
    {"role": "assistant", "content": "he was calm"},
    {"role": "user", "content": "the river"},
]
LAYERS = (1, 2)


@pytest.fixture(params=[tiny_llama, tiny_gemma], ids=["llama", "gemma"])
def model(request):
    return HookedModel.from_hf(request.param(), tiny_tokenizer(), "tiny")


def directions(model, n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    stamp = {"fingerprint": model.fingerprint, "model": model.name, "default_layer": 2}
    norm, centre = torch.full((2,), 20.0), torch.randn(2, model.d_model, generator=generator)
    drawn = unit(torch.randn(n, 2, model.d_model, generator=generator))
    return [Direction(f"d{i}", LAYERS, x, norm, centre, False, stamp, ((f"d{i}", 1.0),)) for i, x in enumerate(drawn)]


def hooks_left(model):
    return sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values())


# --- nothing stays, and 0 is nothing ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["forward", "generate", "log_probs"])
def test_strength_0_changes_no_bit(model, mode):
    run = {
        "forward": lambda: model.forward(TEXT),
        "generate": lambda: model.generate([TEXT, TEXT], 8, seed=3),
        "log_probs": lambda: el.log_probs(model, TEXT, [" calm", " angry and cold"]),
    }[mode]
    plain = run()
    d = directions(model)[0]
    for options in ({"direction": 0 * d}, {"direction": d, "strength": 0.0, "layers": [1, 2]}):
        with el.steer(model, **options):
            same = run()
        assert torch.equal(same, plain) if mode != "generate" else same == plain
    with el.steer(model, 3 * d):  # and more is something
        other = run()
    assert other != plain if mode == "generate" else not torch.equal(other, plain)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_hook_is_left_after_an_exception(model, error):
    plain, before = model.forward(TEXT), hooks_left(model)

    def interrupt(x, hook):
        raise error("in the middle of the pass")

    with pytest.raises(error), el.steer(model, directions(model), 0.2), el.steer(model, 0.1 * directions(model)[0]):
        model.forward(TEXT, fwd_hooks=[((2, "resid_post"), interrupt)])
    assert hooks_left(model) == before and model.steering == [] and model.passing is None and model.rows == 1
    assert torch.equal(model.forward(TEXT), plain)


# --- what is added, and where ----------------------------------------------------------------------


def test_strength_is_in_residual_norms_and_contexts_add_up(model):
    a, b = directions(model, 2)
    plain = model.forward(TEXT, stop_after=2)
    with el.steer(model, 0.05 * a), el.steer(model, b, strength=-0.1):
        steered = model.forward(TEXT, stop_after=2)
    torch.testing.assert_close(steered - plain, (1.0 * a.at(2) - 2.0 * b.at(2)).expand_as(plain), rtol=1e-4, atol=1e-4)
    with el.steer(model, 0.05 * a - 0.1 * b):
        torch.testing.assert_close(model.forward(TEXT, stop_after=2), steered, rtol=1e-4, atol=1e-4)


def test_each_layer_gets_the_whole_strength(model):
    (a,) = directions(model, 1)
    with el.steer(model, a, 0.05, layers=1):
        first = model.forward(TEXT, stop_after=2)
    with el.steer(model, a, 0.05, layers=[1, 2]):
        both = model.forward(TEXT, stop_after=2)
    torch.testing.assert_close(both - first, a.at(2).expand_as(both), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", [[(1, 3), (5, 6)], [[(1, 3), (5, 6)]], "mask"])
def test_spans_and_masks_touch_no_other_position(model, where):
    (a,) = directions(model, 1)
    n = len(model.encode(TEXT).ids)
    inside = torch.zeros(n, dtype=torch.bool)
    inside[[1, 2, 5]] = True
    plain = model.forward(TEXT, stop_after=2)
    with el.steer(model, a, 0.1, where=inside if where == "mask" else where):
        steered = model.forward(TEXT, stop_after=2)
    assert torch.equal(steered[0, ~inside], plain[0, ~inside])
    moved = (steered - plain)[0, inside]
    torch.testing.assert_close(moved, (2 * a.at(2)).expand_as(moved), rtol=1e-4, atol=1e-4)


def test_turns_prompts_and_generations_are_told_apart(model):
    (a,) = directions(model, 1)
    encoding = model.encode(CHAT)
    plain = model.forward(CHAT and [CHAT], stop_after=2)[0]

    def moved(where):
        with el.steer(model, a, 0.1, where=where):
            return ((model.forward([CHAT], stop_after=2)[0] - plain).norm(dim=-1) > 1).nonzero().flatten().tolist()

    spans = [list(range(turn.start, turn.end)) for turn in encoding.turns]
    assert moved("turn:assistant") == spans[1]
    assert moved("turn:user") == spans[0] + spans[2]
    assert moved("turn:system") == [] and moved("generation") == []
    assert moved("prompt") == moved("all") == list(range(len(encoding.ids)))


def recorded(model, run, layer=2):
    """The block's outputs at the columns of one row, over all passes of a generation, as later hooks see them."""
    seen = []
    with model.hooks([((layer, "resid_post"), lambda x, hook: seen.append(x[-1].detach().clone()))]):
        run()
    return torch.cat(seen)


@pytest.mark.parametrize("place", ["prompt", "generation"])
def test_generation_with_a_cache_steers_the_tokens_it_should(model, place):
    (a,) = directions(model, 1)
    texts = [[5, 6, 7], model.encode(TEXT).ids]  # rows of different length: the first is padded on the left
    n = max(map(len, texts))
    run = lambda: model.generate(texts, 4, temperature=0)  # noqa: E731
    with el.steer(model, a, 1e-4, where=place):  # too little to change what is written
        steered = recorded(model, run)
    plain = recorded(model, run)
    moved = ((steered - plain) @ a.at(2)).abs() > 1e-3
    assert moved.tolist() == [place == "prompt"] * n + [place == "generation"] * 3


def test_padding_on_either_side_changes_nothing(model):
    (a,) = directions(model, 1)
    long = "the river was very cold and calm . " * 3
    for where in ("all", [(1, 3)], "prompt"):
        with el.steer(model, a, 0.2, where=where):
            alone = model.forward(TEXT, stop_after=3)[0]
            n = len(alone)
            right = model.forward(model.to_tokens([TEXT, long], "right"), stop_after=3)[0, :n]
            left = model.forward(model.to_tokens([TEXT, long], "left"), stop_after=3)[0, -n:]
        torch.testing.assert_close(right, alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["ablate", "clamp"])
def test_ablate_and_clamp_set_the_component(model, mode):
    (a,) = directions(model, 1)
    strength = None if mode == "ablate" else 0.3
    plain = model.forward(TEXT, stop_after=2)
    with el.steer(model, a, strength, mode=mode):
        steered = model.forward(TEXT, stop_after=2)
    wanted = a.centre[1] @ a.at(2) + (strength or 0) * 20
    along = steered @ a.at(2)
    torch.testing.assert_close(along, wanted.expand_as(along), rtol=1e-3, atol=1e-4)
    across = lambda x: x - (x @ a.at(2))[..., None] * a.at(2)  # noqa: E731
    torch.testing.assert_close(across(steered), across(plain), rtol=1e-4, atol=1e-4)


# --- operators of one's own --------------------------------------------------------------------------


def along(activation, direction, strength):
    """What "add" does, as a callable."""
    return activation + strength[:, None, None] * direction[:, None]


def reflect(activation, direction, strength):
    component = (activation * direction[:, None]).sum(dim=-1, keepdim=True)
    return activation - 2 * component * direction[:, None]


def in_place(activation, direction, strength):
    activation += strength[:, None, None] * direction[:, None]
    direction *= 0
    strength *= 0
    return activation


@pytest.mark.parametrize("operator", [along, in_place])
@pytest.mark.parametrize("where", ["all", "prompt", "generation", [(2, 4)]])
def test_an_operator_that_adds_is_add(model, operator, where):
    a, b, _ = directions(model)
    rows, strengths = [a, a + b, None, b], [0.1, -0.2, 0.3, 0.0]
    run = lambda: (model.forward(TEXT), el.log_probs(model, TEXT, [" calm", " angry and cold"]))  # noqa: E731
    with el.steer(model, rows, strengths, [1, 2], where):
        wanted, written = run(), model.generate(TEXT, 5, temperature=0)
    with el.steer(model, rows, strengths, [1, 2], where, operator) as steering:
        for ours, theirs in zip(run(), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert model.generate(TEXT, 5, temperature=0) == written
    assert (steering.mode, steering.operator) == (operator.__name__, operator)
    plain = run()
    for row in (2, 3):  # no direction, and strength 0: no bit is changed by the operator
        with el.steer(model, rows[row] or a, 0.0, where=where, mode=operator):
            assert torch.equal(run()[0], plain[0])


def test_an_operator_is_given_units_and_strengths_in_units_of_the_activations(model):
    a, b, _ = directions(model)
    seen = []

    def look(activation, direction, strength):
        seen.append((activation.shape, activation.dtype, direction, strength))
        return activation

    for direction, strength, wanted in ((a, -0.1, [-2.0]), (-0.1 * a, None, [2.0]), ([a, b], 0.5, [10.0, 10.0])):
        with el.steer(model, direction, strength, mode=look):
            model.forward(TEXT)
        shape, dtype, units, sizes = seen.pop()
        assert shape == (len(wanted), len(model.encode(TEXT).ids), model.d_model) and dtype == torch.float32
        torch.testing.assert_close(units.norm(dim=-1), torch.ones(len(wanted)))
        torch.testing.assert_close(sizes, torch.tensor(wanted))
    with el.steer(model, a, -0.1, mode=look):
        model.forward([TEXT, TEXT])  # one direction for a batch: a row for each text
    assert seen[-1][2].shape == (2, model.d_model) and seen[-1][3].tolist() == pytest.approx([-2.0, -2.0])


def test_an_operator_acts_on_chosen_tokens_only(model):
    (a,) = directions(model, 1)
    plain = model.forward(TEXT, stop_after=2)[0]
    with el.steer(model, a, 1, where=[(1, 3)], mode=reflect):
        mirrored = model.forward(TEXT, stop_after=2)[0]
    assert torch.equal(mirrored[[0, *range(3, len(plain))]], plain[[0, *range(3, len(plain))]])
    torch.testing.assert_close(mirrored[1:3] @ a.at(2), -plain[1:3] @ a.at(2), rtol=1e-4, atol=1e-4)


def test_operators_that_are_none_are_named(model):
    (a,) = directions(model, 1)
    for operator, error, said in (
        (
            lambda x, d, s: x[:, 1:],
            ValueError,
            r"operator <lambda> returned the shape \[1, 7, 32\] for .* \[1, 8, 32\]",
        ),
        (lambda x, d, s: x[0], ValueError, "must keep the shape"),
        (lambda x, d, s: None, TypeError, "returned NoneType; it must return the activation"),
        (lambda x, d, s: x.numpy(), TypeError, "returned ndarray"),
        (lambda x, d, s: x.long(), TypeError, "returned torch.int64"),
        (lambda x, d, s: x / 0, ValueError, "made activations of block 2 that are not finite"),
    ):
        with pytest.raises(error, match=said), el.steer(model, a, 0.1, mode=operator):
            model.forward(TEXT)
    for mode in ("rotate", 3, None):
        with pytest.raises(ValueError, match=r"mode=.* is none of add, ablate, clamp.*, nor a callable"):
            plan(model, a, 0.1, None, "all", mode)
    with pytest.raises(ValueError, match="how strongly"):
        el.steer(model, a, mode=reflect)
    assert model.steering == []


# --- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["all", "prompt", "generation", [(2, 4)]])
def test_rows_of_a_batch_equal_the_rows_one_by_one(model, where):
    rows = [*directions(model, 3), None]
    strengths = [0.1, -0.2, 0.3, 0.1]
    words = [" calm", " angry and very cold"]
    with el.steer(model, rows, strengths, layers=[1, 2], where=where):
        logits = model.forward(TEXT)
        scored = el.log_probs(model, TEXT, words)
        written = model.generate(TEXT, 6, temperature=0)
        assert written == model.generate([TEXT] * 4, 6, temperature=0)
        paired = model.forward([TEXT] * 4)
    torch.testing.assert_close(paired, logits, rtol=1e-4, atol=1e-4)
    for row, (one, strength) in enumerate(zip(rows, strengths, strict=True)):
        if one is None:
            one, strength = directions(model, 1)[0], 0.0
        with el.steer(model, one, strength, layers=[1, 2], where=where):
            torch.testing.assert_close(model.forward(TEXT)[0], logits[row], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(el.log_probs(model, TEXT, words)[0], scored[row], rtol=1e-4, atol=1e-4)
            assert model.generate(TEXT, 6, temperature=0) == written[row]


def test_blocks_below_the_steered_one_run_once(model):
    seen = {}
    with (
        el.steer(model, directions(model), 0.1, layers=2),
        model.hooks([((n, "resid_post"), lambda x, hook, n=n: seen.update({n: len(x)})) for n in range(4)]),
    ):
        assert len(model.forward(TEXT)) == 3
    assert seen == {0: 1, 1: 1, 2: 3, 3: 3}


def test_nested_rows_meet_and_the_cache_keeps_hooks_and_reading_apart(model):
    a, b, c = directions(model)
    with el.steer(model, [a, b, c], 0.1, layers=1), el.steer(model, [None, None, a], 0.2, layers=2):
        rows = model.run_with_cache(TEXT, layers=[2])["resid_post", 2]
        assert model.rows == 3 and len(rows) == 3
    with el.steer(model, c, 0.1, layers=1), el.steer(model, a, 0.2, layers=2):
        torch.testing.assert_close(model.forward(TEXT, stop_after=2)[0], rows[2], rtol=1e-4, atol=1e-4)


def test_contexts_of_one_direction_nest_and_end(model):
    (a,) = directions(model, 1)
    plain = model.forward(TEXT, stop_after=2)
    with el.steer(model, a, 0.1, where=[(0, 3)]), el.steer(model, a, -0.1, where=[(3, 5)]):
        moved = (model.forward(TEXT, stop_after=2) - plain)[0] @ a.at(2)
    torch.testing.assert_close(moved[:6], torch.tensor([2.0, 2, 2, -2, -2, 0]), rtol=1e-3, atol=1e-3)
    assert model.steering == [] and torch.equal(model.forward(TEXT, stop_after=2), plain)


def test_each_text_has_spans_of_its_own(model):
    (a,) = directions(model, 1)
    where = [[(1, 2)], [(4, 5)]]
    plain = model.forward([TEXT, TEXT], stop_after=2)
    with el.steer(model, a, 0.1, where=where):
        moved = (model.forward([TEXT, TEXT], stop_after=2) - plain) @ a.at(2) > 1
        assert moved.nonzero().tolist() == [[0, 1], [1, 4]]
        seen = []
        with model.hooks([((2, "resid_post"), lambda x, hook: seen.append(x.detach().clone()))]):
            model.generate([TEXT, TEXT], 1, temperature=0)
        assert ((seen[0] - plain) @ a.at(2) > 1).nonzero().tolist() == [[0, 1], [1, 4]]
        with pytest.raises(ValueError, match="of 2 texts, but 1 are run"):
            model.forward(TEXT)


def test_a_shared_prompt_stays_in_its_context(model):
    (a,) = directions(model, 1)
    shared = SharedPrompt(model, model.encode(TEXT))
    with el.steer(model, a, 0.1), pytest.raises(ValueError, match="run under another steering"):
        el.log_probs(model, shared, [[5]])
    elsewhere = SharedPrompt(model, model.encode(TEXT), anywhere=True)
    with el.steer(model, a, 0.1, where="generation"):
        inside = el.log_probs(model, TEXT, [" calm and cold"])
        ids = model.encode(TEXT + " calm and cold").ids[len(model.encode(TEXT).ids) :]
        torch.testing.assert_close(el.log_probs(model, elsewhere, [ids]), inside, rtol=1e-5, atol=1e-5)


def test_pooling_under_steering_leaves_the_cache_alone(model):
    (a,) = directions(model, 1)
    texts = [TEXT, TEXT + " and calm"]
    with el.steer(model, a, 1.0):
        steered = el.pool(model, texts, [2], (0,), progress=False).means(0, 2)
    plain = el.pool(model, texts, [2], (0,), progress=False).means(0, 2)
    assert (steered - plain).norm(dim=1).min() > 1
    with el.steer(model, a, 1.0):
        torch.testing.assert_close(el.pool(model, texts, [2], (0,), progress=False).means(0, 2), steered)


# --- bad input -------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense_are_named(model):
    a, b = directions(model, 2)
    other = HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "another")
    zero = Direction(**{**vars(a), "values": a.values * 0})
    for raised, said, arguments in (
        (ValueError, "did you mean prompt", {"direction": 0.1 * a, "where": "promt"}),
        (ValueError, "mode='substract'", {"direction": 0.1 * a, "mode": "substract"}),
        (ValueError, "zero vector", {"direction": zero, "strength": 0.1}),
        (TypeError, "'much' is not a number", {"direction": a, "strength": "much"}),
        (ValueError, "not finite", {"direction": a, "strength": math.nan}),
        (ValueError, "how strongly", {"direction": a}),
        (ValueError, "count twice", {"direction": 0.1 * a, "strength": 0.1}),
        (ValueError, "no vectors at layer 3", {"direction": 0.1 * a, "layers": 3}),
        (ValueError, "out of range", {"direction": 0.1 * a, "layers": 99}),
        (ValueError, "each block once", {"direction": 0.1 * a, "layers": [1, 1]}),
        (ValueError, "1 strengths for 2 rows", {"direction": [a, b], "strength": [0.1]}),
        (ValueError, "no direction", {"direction": []}),
        (TypeError, "not with 'calm'", {"direction": ["calm"]}),
        (ValueError, "takes 'd0' out whole", {"direction": a, "strength": 0.1, "mode": "ablate"}),
        (ValueError, r"give spans \[start, end\)", {"direction": 0.1 * a, "where": (1, 3)}),
        (ValueError, "give spans", {"direction": 0.1 * a, "where": []}),
        (ValueError, "a mask is boolean", {"direction": 0.1 * a, "where": torch.tensor([4, 6])}),
        (ValueError, "belong to another", {"direction": 0.1 * directions(other)[0]}),
    ):
        arguments = {"strength": None, "layers": None, "where": "all", "mode": "add"} | arguments
        with pytest.raises(raised, match=said):
            plan(model, **arguments)  # what `steer` does first, without the type checker of the tests


def test_a_combination_knows_its_terms(model):
    a, b = directions(model, 2)
    assert (0.1 * a - 0.2 * b).terms == (("d0", 0.1), ("d1", -0.2)) and (-(a + b)).terms == (("d0", -1.0), ("d1", -1.0))


def test_texts_that_do_not_fit_are_named(model):
    rows = directions(model)
    n = len(model.encode(TEXT).ids)
    past = f"has {n} tokens; the steered span ends at 99"
    with pytest.raises(ValueError, match=past), el.steer(model, rows[0], 0.1, where=[(2, 99)]):
        model.forward(TEXT)
    with pytest.raises(ValueError, match="2:2 of text 0 is empty"), el.steer(model, rows[0], 0.1, where=[(2, 2)]):
        model.forward(TEXT)
    with pytest.raises(ValueError, match="no conversation"), el.steer(model, rows[0], 0.1, where="turn:user"):
        model.forward(TEXT)
    with el.steer(model, rows, 0.1):
        with pytest.raises(ValueError, match="2 texts can't be steered in 3 rows"):
            model.forward([TEXT, TEXT])
        with pytest.raises(ValueError, match="under a steering of 3 rows"):
            el.pool(model, [TEXT], progress=False)
        with pytest.raises(ValueError, match="is empty"):
            model.generate(" ")
    with el.steer(model, rows[0], 0.1):
        with pytest.raises(ValueError, match=r"leaves room for 0 new ones"):
            model.generate([3] * model.n_ctx, 4)
        for run in (lambda: el.log_probs(model, TEXT, [" calm"]), lambda: model.generate(TEXT, 2)):
            with pytest.raises(ValueError, match="past its end"), el.steer(model, rows[0], 0.1, where=[(2, 99)]):
                run()
        with pytest.raises(ValueError, match="continuation 0 is empty"):
            el.log_probs(model, TEXT, [[], [5]])
        with pytest.raises(ValueError, match="more than the context"):
            el.log_probs(model, [3] * model.n_ctx, [" calm"])
        with pytest.raises(ValueError, match="is empty: it has no log-probability"):
            el.log_probs(model, TEXT, [" calm", ""])
        with pytest.raises(ValueError, match="give a list of continuations"):
            el.log_probs(model, TEXT, " calm")
    with pytest.raises(ValueError, match="not in the bridge's own"), el.steer(model, rows[0], 0.1, where="prompt"):
        model.bridge(model.to_tokens(TEXT).ids)
