"""Asked for one thing, given another: what vectors, directions and steering are given is checked where it enters."""

import gc
import threading
from dataclasses import replace

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

import emolens as el
from emolens.models.model import HookedModel
from emolens.steering import measures
from emolens.vectors import geometry
from emolens.vectors.direction import check_stamp
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors

TEXT = "she ran and the river was very cold"
OTHER = "she ran and the door was very cold"
EMOTIONS = ["calm", "serene", "angry", "furious", "sad"]
ODDS = {"odds": measures.log_odds([" angry"], [" calm"])}


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def another():
    """Another model of the same width and number of blocks."""
    return HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "another")


@pytest.fixture(scope="module")
def vectors(model, few_dialogues):
    return el.derive(model, el.corpus.stories().where(emotion=EMOTIONS), cache=False, progress=False)


@pytest.fixture
def unchecked():
    """Without the type checker of the tests, as people call it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# --- vectors as a container ------------------------------------------------------------------------


# dict and pandas users: `name in x`, `list(x)` and `len(x)` ended in "no vectors at layer 0" or looped over layers.
def test_vectors_are_a_container_of_emotions(vectors):
    assert "calm" in vectors and "clam" not in vectors
    assert list(vectors) == sorted(EMOTIONS) and len(vectors) == 5
    with pytest.raises(TypeError, match="2 is no name of an emotion; the layers are in vectors.layers"):
        assert 2 in vectors


# pandas users: a second layer in the brackets was ignored in silence.
@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (("calm", 1, 2), ValueError, "an emotion and a layer"),
        (("calm",), ValueError, "an emotion and a layer"),
        ([], ValueError, "at least one emotion"),
        (-1, ValueError, "no vectors at layer -1"),
        (("calm", "sad"), TypeError, "'sad' is no whole number"),
        (True, TypeError, "True is no whole number"),
        (1.0, TypeError, "1.0 is no whole number"),
        (slice(1, 3), TypeError, "no whole number"),
        (None, TypeError, "None is no whole number"),
        ([1, 2], TypeError, "1 is no name of an emotion"),
    ],
)
def test_keys_that_mean_nothing_are_refused(vectors, unchecked, key, error, message):
    with pytest.raises(error, match=message):
        vectors[key]


def test_a_layer_is_named_once(vectors):
    for layers in ((), (1, 1)):
        with pytest.raises(ValueError, match="each layer once"):
            vectors.at(*layers)


# numpy users: `for layer in np.arange(4)`; "no vectors for the emotion 2" or a TypeError of an indexer.
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numbers_of_numpy_are_layers(model, vectors, kind, unchecked):
    layer = kind(2)
    assert vectors[layer].layers == (2,) and type(vectors[layer].layers[0]) is int
    assert torch.equal(vectors["calm", layer], vectors["calm", 2])
    assert torch.equal(vectors.matrix(layer), vectors.matrix(2))
    assert vectors.nearest("calm", kind(1), layer) == vectors.nearest("calm", 1, 2)
    assert el.logit_lens(model, vectors, layer, k=kind(2)).equals(el.logit_lens(model, vectors, 2, k=2))
    assert el.attribute(model, TEXT, vectors, "calm", layer).equals(el.attribute(model, TEXT, vectors, "calm", 2))
    assert el.patch(model, TEXT, OTHER, ODDS, layers=[layer]).equals(el.patch(model, TEXT, OTHER, ODDS, layers=[2]))
    for layers in (layer, [layer], np.array([2]), torch.tensor([2]), pd.Series([2])):
        with el.steer(model, 0.1 * vectors["calm"], layers=layers) as steering:
            assert steering.layers == (2,)


# --- another model's vectors -----------------------------------------------------------------------


# Users of steering libraries: a vector file of another model of the same width is used without a word.
def test_vectors_of_another_model_of_the_same_width_are_refused(model, another, vectors, tmp_path):
    foreign = EmotionVectors(**{**vars(vectors), "stamp": vectors.stamp | {"model": "x", "fingerprint": "0"}})
    for call in (
        lambda: el.attribute(another, TEXT, vectors, "calm", 2),
        lambda: el.through(another, TEXT, OTHER, ODDS, [vectors["calm"]], [2]),
        lambda: vectors.nearest(foreign["calm"]),
        lambda: vectors.export_gguf(tmp_path / "x.gguf", foreign["calm"]),
        lambda: measures.emotion_score(vectors, "calm", 2)(another, TEXT),
        lambda: el.logit_lens(another, vectors),
        lambda: el.steer(another, 0.1 * vectors["calm"]),
        lambda: vectors["calm"] + foreign["calm"],
    ):
        with pytest.raises(ValueError, match=r"belong to (tiny-llama|x) .*|of another model"):
            call()
    with pytest.warns(UserWarning, match="other weights of tiny-llama"):
        revision = HookedModel.from_hf(tiny_llama(seed=1), tiny_tokenizer(), "tiny-llama")
        el.attribute(revision, TEXT, vectors, "calm", 2)


def test_a_checkpoint_is_compared_and_another_architecture_is_not(vectors, few_dialogues):
    gemma = HookedModel.from_hf(tiny_gemma(), tiny_tokenizer(), "tiny-gemma")
    child = replace(vectors, stamp=vectors.stamp | {"model": "child", "fingerprint": "0"})
    assert vectors.cosine_with(child, 2).min() > 0.999
    others = el.derive(gemma, el.corpus.stories().where(emotion=EMOTIONS), cache=False, progress=False)
    with pytest.raises(ValueError, match="other architectures have no axes in common"):
        vectors.cosine_with(others, 2)


# A stamp that was lost (a hand-made object, an edited file) ended in KeyError: 'fingerprint'.
def test_an_empty_stamp_is_named(model, vectors, tmp_path):
    nameless = replace(vectors, stamp={})
    assert "model unknown" in repr(nameless) and nameless.default_layer == 2
    for call in (
        lambda: el.read(model, TEXT, nameless),
        lambda: el.steer(model, 0.1 * nameless["calm"]),
        lambda: nameless.save(tmp_path / "v.safetensors"),
        lambda: nameless["calm"] + nameless["sad"],
        lambda: vectors.nearest(nameless["calm"]),
        lambda: check_stamp({}, 32, model),
    ):
        with pytest.raises(ValueError, match="stamp has no fingerprint"):
            call()
    with pytest.raises(ValueError, match="no layer was chosen"):
        nameless.chosen_layer()


# --- on disk ---------------------------------------------------------------------------------------


# torch users: `x.to(torch.int8)` of small numbers is zeros, and nobody says so.
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_dtype_that_ruins_vectors_is_refused(vectors, tmp_path, dtype):
    with pytest.raises(ValueError, match="vectors would be ruined in it"):
        vectors.save(tmp_path / "v.safetensors", dtype)
    assert not list(tmp_path.glob("*"))


def test_bfloat16_is_good_to_three_digits(vectors, tmp_path):
    loaded = EmotionVectors.load(vectors.save(tmp_path / "v.safetensors", torch.bfloat16))
    for method in METHODS:
        assert vectors.cosine_with(loaded, 2, method).min() > 0.9999


# An overflow in float16 weights gives such vectors; they were written and read without a word.
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("field", ["raw", "whitened", "centre_stories", "residual_norm", "noise_scale"])
def test_vectors_that_are_not_finite_are_neither_written_nor_read(vectors, tmp_path, monkeypatch, field, value):
    broken = getattr(vectors, field).clone()
    broken.view(-1)[3] = value
    broken = replace(vectors, **{field: broken})
    path = tmp_path / "v.safetensors"
    with pytest.raises(ValueError, match=f"{field} is not finite: {value} at"):
        broken.save(path)
    monkeypatch.setattr(EmotionVectors, "check", lambda self: None)
    broken.save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"v.safetensors: {field} is not finite"):
        EmotionVectors.load(path)


def test_an_emotion_that_cannot_be_halved_is_no_damage(vectors, tmp_path):
    reliability = vectors.reliability.clone()
    reliability[:, 1] = torch.nan
    partly = replace(vectors, reliability=reliability)
    for dtype in (torch.float32, torch.float16):
        loaded = EmotionVectors.load(partly.save(tmp_path / "v.safetensors", dtype))
        torch.testing.assert_close(loaded.reliability, reliability, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert geometry.reliable_layer(partly) in vectors.layers
    with pytest.raises(ValueError, match="no reliability"):
        geometry.reliable_layer(replace(vectors, reliability=reliability * torch.nan))


# --- what steering is given ------------------------------------------------------------------------


# PyTorch users: 1.5, "2" and True were layers 1, 2 and 1.
@pytest.mark.parametrize("layers", [[1.5], 1.5, "2", ["2"], True, [True], [2.0], None, np.array([1.5]), [np.True_]])
def test_what_only_looks_like_a_layer_is_none(model, vectors, unchecked, layers):
    if layers is None:
        layers = [None]
    for call in (
        lambda: el.steer(model, 0.1 * vectors["calm"], layers=layers),
        lambda: el.patch(model, TEXT, OTHER, ODDS, layers=layers),
        lambda: el.through(model, TEXT, OTHER, ODDS, [vectors["calm"]], layers),
    ):
        with pytest.raises(TypeError, match="is no whole number"):
            call()


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "at least one"), ([1, 1], "each block once"), (-1, "layer -1 is out of range"), ([0, 4], "out of range")],
)
def test_layers_that_are_not_there_are_named(model, vectors, layers, message):
    for call in (
        lambda: el.steer(model, 0.1 * vectors["calm"], layers=layers),
        lambda: el.patch(model, TEXT, OTHER, ODDS, layers=layers),
        lambda: el.through(model, TEXT, OTHER, ODDS, [vectors["calm"]], layers),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# numpy users: `strength=np.linspace(-0.1, 0.1, 3)`.
@pytest.mark.parametrize(
    "strengths",
    [np.array([-0.1, 0, 0.2]), np.float32([-0.1, 0, 0.2]), torch.tensor([-0.1, 0, 0.2]), pd.Series([-0.1, 0, 0.2]),
     (-0.1, 0, 0.2)],
    ids=["float64", "float32", "tensor", "Series", "tuple"],
)  # fmt: skip
def test_strengths_come_in_arrays(model, vectors, unchecked, strengths):
    before = strengths if isinstance(strengths, tuple) else strengths.copy() if hasattr(strengths, "copy") else None
    with (
        el.steer(model, [vectors["calm"]] * 3, [-0.1, 0.0, 0.2]) as wanted,
        el.steer(model, [vectors["calm"]] * 3, strengths) as steering,
    ):
        torch.testing.assert_close(steering.values, wanted.values)
    assert before is None or np.array_equal(before, strengths)


@pytest.mark.parametrize("strength", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), np.int64(1)])
def test_one_strength_may_be_a_number_of_numpy_or_torch(model, vectors, unchecked, strength):
    with (
        el.steer(model, [vectors["calm"]] * 2, strength) as steering,
        el.steer(model, strength * vectors["calm"]) as scaled,
    ):
        torch.testing.assert_close(steering.values[0], scaled.values[0])
        torch.testing.assert_close(steering.values[0], steering.values[1])
    assert (strength * vectors["calm"]).terms == (("calm", float(strength)),)


@pytest.mark.parametrize(
    ("strength", "error", "message"),
    [
        (True, TypeError, "strength True is not a number"),
        (np.True_, TypeError, "is not a number"),
        ("0.1", TypeError, "strength '0.1' is not a number"),
        (0.1j, TypeError, "is not a number"),
        ({"calm": 0.1}, TypeError, "is not a number"),
        ([[0.1]], TypeError, "is not a number"),
        (np.nan, ValueError, "strength nan is not finite"),
        (-np.inf, ValueError, "strength -inf is not finite"),
        (10**400, ValueError, "is not finite"),
        (1e300, ValueError, "gives in torch.float32 is not finite"),
        ([0.1, 0.2], ValueError, "2 strengths for 1 rows"),
    ],
)
def test_a_strength_is_a_finite_number(model, vectors, unchecked, strength, error, message):
    with pytest.raises(error, match=message):
        el.steer(model, vectors["calm"], strength)
    if not isinstance(strength, list) and strength != 1e300:
        with pytest.raises(error):
            strength * vectors["calm"]


def test_what_overflows_in_the_models_dtype_is_refused(vectors):
    half = HookedModel.from_hf(tiny_llama().half(), tiny_tokenizer(), "tiny-llama")
    direction = replace(vectors["calm"], stamp=vectors.stamp | {"fingerprint": half.fingerprint})
    with pytest.raises(ValueError, match="'calm' at strength 1000000000 gives in torch.float16 is not finite"):
        el.steer(half, direction, 10**9)


def test_a_name_alone_is_no_direction(model, unchecked):
    with pytest.raises(TypeError, match="not with 'calm'"):
        el.steer(model, "calm", 0.1)


# contextlib users: a second `with` on one object ended in "generator didn't yield".
def test_a_context_is_entered_once(model, vectors):
    steering = el.steer(model, 0.1 * vectors["calm"])
    with steering, pytest.raises(RuntimeError, match="can't be entered again; call el.steer once more"), steering:
        pass
    with pytest.raises(RuntimeError, match="can't be entered again"), steering:
        pass
    assert model.steering == []

    @el.steer(model, 0.1 * vectors["calm"])
    def steered():
        return len(model.steering)

    assert steered() == steered() == 1 and model.steering == []


# Users of a notebook server: a pass that ran in another thread was steered without a word.
@pytest.mark.parametrize("kind", ["steer", "patch"])
def test_a_pass_of_another_thread_is_not_steered_in_silence(model, vectors, kind):
    plain, errors = model.forward(TEXT), []

    def elsewhere():
        try:
            model.forward(TEXT, stop_after=2)
        except RuntimeError as error:
            errors.append(str(error))

    def run():
        thread = threading.Thread(target=elsewhere, name="reader")
        thread.start()
        thread.join()

    if kind == "steer":
        with el.steer(model, 0.1 * vectors["calm"], layers=1):
            run()
            assert not torch.equal(model.forward(TEXT), plain)
    else:
        measure = {"odds": lambda model, text: run() or ODDS["odds"](model, text)}
        el.patch(model, TEXT, OTHER, measure, layers=[1])
    assert errors and "runs in the thread 'reader' while the model is steered or patched by another" in errors[-1]
    assert torch.equal(model.forward(TEXT), plain)
    errors.clear()
    run()
    assert not errors


# --- what measures give ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_measure_that_is_not_finite_is_named(model, vectors, value):
    sometimes = iter([1.0, 2.0, *[value] * 99])
    broken = {"odds": lambda model, text: torch.full((model.rows,), next(sometimes))}
    with pytest.raises(ValueError, match="the measure 'odds', by row, is not finite"):
        el.patch(model, TEXT, OTHER, broken, layers=[1])
    with pytest.raises(ValueError, match="no measure to ask"):
        el.patch(model, TEXT, OTHER, {}, layers=[1])
    with pytest.raises(ValueError, match=r"gave \[2\] values for 1 rows"):
        el.patch(model, TEXT, OTHER, {"two": lambda model, text: torch.ones(2)}, layers=[1])
    assert model.steering == []


def test_a_direction_that_is_zero_or_missing_carries_nothing(model, vectors):
    zero = 0 * vectors["calm"]
    with pytest.raises(ValueError, match=r"'0\*calm' is a zero vector at layer 2"):
        el.through(model, TEXT, OTHER, ODDS, [vectors["sad"], zero], [2])
    with pytest.raises(ValueError, match="no direction to patch along"):
        el.through(model, TEXT, OTHER, ODDS, [], [2])


# A string where a list is asked for was taken letter by letter.
def test_continuations_are_a_list(unchecked):
    for favoured, other in ((" calm", [" sad"]), ([" calm"], " sad"), ([], [" sad"]), ([" calm"], [])):
        with pytest.raises(ValueError, match="give a list of continuations, at least one"):
            measures.log_odds(favoured, other)


@pytest.mark.parametrize("given", [[None], [np.nan], [], [0.1, 0.2], [[0.1]]])
def test_a_judge_gives_a_finite_number_for_each_text(model, given):
    with pytest.raises(ValueError, match="the judge gave"):
        measures.expressed(lambda texts: given, max_new_tokens=2)(model, TEXT)
    with pytest.raises(ValueError, match="samples=0"):
        measures.expressed(lambda texts: [0.0], samples=0)
    with pytest.raises(ValueError, match="no prompt"):
        measures.coherence(model, [])


# --- counts ----------------------------------------------------------------------------------------


# scikit-learn users: k as large as the number of points counted the point itself as its neighbour.
def test_an_emotion_is_no_neighbour_of_its_own(vectors, unchecked):
    similarity, labels = vectors.similarity(2), torch.tensor([0, 0, 1, 1, 2])
    for k in (5, 6):
        with pytest.raises(ValueError, match="fewer neighbours than rows"):
            geometry.neighbour_share(similarity, labels, k)
    assert geometry.neighbour_share(similarity, torch.zeros(5, dtype=torch.long), 4) == 1
    with pytest.raises(ValueError, match="4 labels"):
        geometry.neighbour_share(similarity, labels[:4], 2)
    with pytest.raises(ValueError, match=r"similarity .* is not finite: nan at \[0, 0\]"):
        geometry.neighbour_share(similarity * torch.nan, labels, 2)


@pytest.mark.parametrize(
    ("k", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError), ("2", TypeError)]
)
def test_a_count_is_a_whole_number_from_1(model, vectors, unchecked, k, error):
    x = vectors.matrix(2)
    for call in (
        lambda: vectors.nearest("calm", k),
        lambda: el.logit_lens(model, vectors, k=k),
        lambda: vectors.compact(k),
        lambda: geometry.components(x, k),
        lambda: geometry.clusters(x, k),
        lambda: geometry.neighbour_share(x @ x.T, torch.arange(5), k),
        lambda: measures.repeated_share([1, 2, 3], k),
    ):
        with pytest.raises(error):
            call()
    assert len(vectors.nearest("calm", 99)) == 4
    with pytest.raises(ValueError, match="more than the 80 tokens"):
        el.logit_lens(model, vectors, k=81)


def test_geometry_of_numbers_that_are_none_is_refused(vectors):
    broken = vectors.matrix(2).clone()
    broken[1, 5] = torch.nan
    for call in (
        lambda: geometry.components(broken, 2),
        lambda: geometry.clusters(broken, 2),
        lambda: geometry.alike([broken, broken]),
    ):
        with pytest.raises(ValueError, match=r"is not finite: nan at \[1, 5\]"):
            call()
    with pytest.raises(ValueError, match="all the same"):
        geometry.components(torch.ones(4, 8), 2)
    for arrangements in ([], [torch.ones(4, 8), torch.ones(5, 8)], [torch.ones(2, 8)] * 2):
        with pytest.raises(ValueError, match="the same ones in each"):
            geometry.alike(arrangements)


def test_nothing_is_left_behind(model):
    gc.collect()
    assert model.steering == [] and sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values()) == 0
