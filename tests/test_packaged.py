"""The vectors that ship with the package: whole, small, stamped, and what the committed recipe gives."""

import pytest

import emolens as el
from emolens.files import data_path
from emolens.models.embedded import MODELS, known_models
from emolens.vectors.direction import unit

FOLDER = data_path("vectors")
BOTH_REGISTERS = ("smollm2-135m-instruct", "gemma-3-270m")  # the others, which take hours, have the plain stories


@pytest.fixture(params=list(known_models()), ids=list(known_models()))
def name(request):
    return request.param


def test_they_are_small_and_no_model_is_missing():
    files = sorted(FOLDER.glob("*.safetensors"))
    assert [file.stem for file in files] == sorted(known_models())
    assert sum(file.stat().st_size for file in files) <= 18_000_000


def test_they_hold_every_emotion_at_five_layers_among_them_the_default_one(name):
    vectors = el.packaged_vectors(name)
    default, first = vectors.stamp["default_layer"], vectors.layers[0]
    assert vectors.emotions == el.corpus.EMOTIONS
    assert vectors.layers == tuple(range(first, first + 5))
    assert vectors.default_layer == default and default in vectors.layers
    if name in BOTH_REGISTERS:
        assert first == default - 2
    else:
        assert vectors.stamp["chosen"]["whitened"]["layer"] in vectors.layers
    assert all(tensor.isfinite().all() for tensor in (vectors.raw, vectors.whitened, vectors.noise_basis))


def test_their_stamp_names_the_model_the_recipe_and_the_packaged_stories(name):
    stamp = el.packaged_vectors(name).stamp
    assert stamp["model"] == name
    stories = el.corpus.stories()
    told = stories if name in BOTH_REGISTERS else stories.where(register="plain")
    assert stamp["corpus"] == told.hash
    assert stamp["quantised"] == f"{MODELS[name].quantised}, dequantised"
    assert len(stamp["fingerprint"]) == 16 and stamp["versions"].keys() >= {"torch", "transformers"}
    assert {"fit", "pooling", "from_rank", "explained"} <= stamp["recipe"].keys()


def test_the_terms_stand_beside_what_was_made_from_gemma():
    assert "Gemma Terms of\nUse" in (FOLDER / "NOTICE").read_text()


def test_an_unknown_model_has_none():
    with pytest.raises(
        ValueError, match=r"no vectors ship for 'gpt2'; they do for gemma-3-270m, qwen2.5-coder-0.5b-instruct"
    ):
        el.packaged_vectors("gpt2")


@pytest.mark.model
@pytest.mark.parametrize("name", BOTH_REGISTERS)
def test_they_are_those_of_the_model_and_the_stories(name):
    """On a sample of emotions: the corpus is crossed, so that fewer emotions change the common mean alone."""
    sample = ["calm", "desperate", "proud"]
    model, packaged = el.load(name), el.packaged_vectors(name)
    stories = el.corpus.stories().where(emotion=sample)
    pooled = el.pool(model, stories.texts, packaged.layers, (10, 50), cache=False, progress=False)
    neutral = el.token_moments(model, el.corpus.neutral()[:3], packaged.layers, progress=False)
    fresh = el.fit(pooled, stories, neutral)
    for layer in packaged.layers:
        expected = packaged[sample].vectors(layer, "raw")
        expected = expected - expected.mean(dim=0)
        cosine = (unit(expected) * fresh.matrix(layer, "raw")).sum(dim=1)
        assert cosine.min() > 0.995, (layer, dict(zip(sample, cosine.tolist(), strict=True)))


@pytest.mark.model
def test_packaged_monitors_belong_to_their_models_and_find_what_escalates():
    model = el.load("smollm2-135m-instruct")
    rows = {row["id"]: row for row in el.corpus.stimuli("monitoring")}
    for emotion in ("desperate", "angry", "afraid", "miserable"):
        monitor = el.Monitor.packaged(model, emotion)
        assert monitor.rate == 0.01 and len(monitor.quiet) >= 200 and monitor.watched.names == (emotion,)
    monitor = el.Monitor.packaged(model, "angry")
    loud, still = (
        monitor.watch([{"role": turn["role"], "content": turn["text"]} for turn in rows[name]["turns"]])
        for name in ("angry-01", "angry-01-steady")
    )
    assert loud.highest > still.highest and loud.alarms and not still.alarms
