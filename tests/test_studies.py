"""The studies on planted answers, and each of them end to end on a tiny model, where nothing is to be found."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

from emolens import corpus
from emolens.models.model import HookedModel
from emolens.steering.nulls import shuffled
from emolens.studies._common import layers_of
from emolens.studies.geometry import circumplex, clusters
from emolens.studies.reading import binding, documents, implicit, lexical, negation, numbers, transcripts
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.vectors.refit import refit

STIMULI = {row["emotion"] for name in ("implicit", "negation", "showcase") for row in corpus.stimuli(name)}
EMOTIONS = sorted(STIMULI | {name for row in corpus.stimuli("intensity") for name in row["expected"]})


@pytest.fixture(scope="module")
def model():
    return HookedModel.from_hf(tiny_llama(context=512), tiny_tokenizer(), "tiny-llama")


@pytest.fixture(scope="module")
def stories():
    return corpus.stories().where(emotion=EMOTIONS)


@pytest.fixture(scope="module")
def vectors(model, stories, few_dialogues):
    return derive(model, stories, cache=False, progress=False)


def planted(names):
    """Vectors whose emotions are the axes: an activation along axis e is read as emotion e."""
    n = len(names)
    eye, one = torch.eye(n), torch.ones(1)
    zeros = {
        "neutral_basis": torch.zeros(1, 1, n),
        "centre_stories": torch.zeros(1, n),
        "centre_neutral": torch.zeros(1, n),
    }
    noise = {"noise_basis": eye[None], "noise_scale": torch.ones(1, n + 1), "residual_norm": one}
    halves = {"reliability": torch.ones(3, n, 1), "reliability_null": torch.zeros(3, 2, 1)}
    both = {"raw": eye[:, None], "whitened": eye[:, None]}
    return EmotionVectors(
        tuple(names), (0,), **both, **zeros, **noise, **halves, stamp={"fingerprint": "", "model": "eye"}
    )


# --- planted answers -------------------------------------------------------------------------------


def test_implicit_finds_a_planted_diagonal_and_no_other():
    names = [f"e{i}" for i in range(12)]
    truth = torch.arange(12).repeat_interleave(4)
    noise = torch.randn(48, 12, generator=torch.Generator().manual_seed(0))
    found, matrix = implicit.measure(5 * torch.eye(12)[truth] + noise, truth, planted(names), 0, "denoised")
    assert found["on_diagonal"] == 12 and found["mean_rank"] == 1 and found["p"] == pytest.approx(1 / 1000)
    assert matrix.mean(dim=0).abs().max() < 1e-6  # every column is centred
    nothing, _ = implicit.measure(noise, truth, planted(names), 0, "denoised")
    assert nothing["on_diagonal"] <= nothing["null"] and nothing["p"] > 0.05


def intensity(sign):
    rows = [
        (row["id"], emotion, direction, value, sign * (1 if direction == "+" else -1) * rank)
        for row in corpus.stimuli("intensity")
        for rank, value in enumerate(row["values"])
        for emotion, direction in row["expected"].items()
    ]
    return pd.DataFrame(rows, columns=["template", "emotion", "expected", "value", "score"])


def test_numbers_count_the_signs_that_hold_and_flip_whole_templates():
    found, table = numbers.signs(intensity(1))
    assert found["share"] == 1 and found["p"] < 0.001 and np.allclose(table["rho"].abs(), 1)
    found, _ = numbers.signs(intensity(-1))
    assert found["share"] == 0 and found["p"] < 0.001
    mixed = intensity(1)
    flip = mixed["template"].isin(mixed["template"].unique()[::2])
    mixed.loc[flip, "score"] *= -1
    found, _ = numbers.signs(mixed)
    assert 0.4 < found["share"] < 0.6 and found["p"] > 0.5


def test_the_null_of_the_numbers_differs_in_the_note_alone():
    for row, text in zip(corpus.stimuli("intensity"), numbers.prompts(True)[::6], strict=True):
        assert text.startswith(row["template"].split("{x}")[0]) and "This is note number" in text
        assert f"{row['values'][3]:,}" in text  # the median stays where the meaning is
    assert len(set(numbers.prompts(True))) == len(numbers.prompts(False))


def test_binding_versions_differ_in_the_last_name_alone():
    for row in corpus.stimuli("binding"):
        first, second = versions = binding.versions(row)
        assert row["text"] in versions
        a, b = first.split(), second.split()
        assert len(a) == len(b) and [i for i in range(len(a)) if a[i] != b[i]] == [
            max(i for i, word in enumerate(a) if word.startswith(row["first"]) and a[i] != b[i])
        ]


def test_marked_passages_are_found_in_tokens(model):
    for row in corpus.stimuli("showcase"):
        start, end = transcripts.marked_span(model, row)
        ids = model.encode_chat(transcripts.messages(row)).ids
        want = len(model.tokenizer(row["marker"], add_special_tokens=False).input_ids)
        assert 0 < start < end <= len(ids) and abs((end - start) - want) <= 1


def test_style_counts_marks_and_persons():
    a, b = lexical.style(["I ran! I ran!", "The river was cold."])
    at = lexical.MARKS.index("!")
    assert a[at] == pytest.approx(0.5) and b[at] == 0
    assert a[len(lexical.MARKS)] == pytest.approx(0.5) and b[len(lexical.MARKS)] == 0


def test_embeddings_do_not_know_the_order_of_the_words(model):
    features = lexical.embeddings(model)
    torch.testing.assert_close(*features(["the river ran and she walked", "the walked she and ran river"]))


def test_circumplex_finds_planted_valence_and_pays_for_looking_at_several_components():
    rated = corpus.ratings("glasgow")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(len(corpus.EMOTIONS), 40, generator=g)
    plain = circumplex.against_ratings(x, corpus.EMOTIONS, 199)
    assert (plain["p"] < 0.05).mean() < 0.15
    valence = torch.tensor([rated.get(name, {"valence": 5})["valence"] - 5 for name in corpus.EMOTIONS])
    x += 3 * valence[:, None] * torch.nn.functional.normalize(torch.randn(40, generator=g), dim=0)
    found = circumplex.against_ratings(x, corpus.EMOTIONS, 199)
    first = found[(found["scale"] == "valence") & (found["component"] == 1)]
    assert (first["r"] > 0.8).all() and (first["p"] < 0.01).all() and (first["low"] < first["r"]).all()
    assert first["ridge"].iloc[0] > 0.9  # Glasgow; the other norms differ from it


def test_the_valence_axis_weighs_rated_emotions_only_and_reads_planted_valence():
    names = (*corpus.ratings("glasgow"), "unrated")
    weights = documents.valence_weights(names)
    assert weights[-1] == 0 and weights.clamp(min=0).sum() == pytest.approx(1) and weights.sum().abs() < 1e-6
    g = torch.Generator().manual_seed(0)
    told = torch.randn(200, generator=g)
    x = told[:, None] * weights.sign() + 0.5 * torch.randn(200, len(names), generator=g)
    read = documents.valence(x, planted(names), 0, "denoised")
    assert torch.corrcoef(torch.stack([read, told]))[0, 1] > 0.9
    assert documents.random_axes(x[:, :5], told.numpy(), 99, 0) <= 1
    blind = torch.randn(200, len(names), generator=g)
    assert documents.shuffled_ratings(blind, told.numpy(), planted(names), 0, "denoised", 0) < 0.3


def test_vader_scores_are_its_own():
    good, bad = documents.vader(["What a wonderful, happy day!", "This is horrible and I hate it."])
    assert good > 0.5 and bad < -0.5


def test_rated_words_without_a_vector_are_named_and_too_few_words_are_an_error(tmp_path, caplog):
    names = corpus.EMOTIONS[:20]
    rows = [f"{name},{place},{-place}" for place, name in enumerate([*names, "flabbergasted"])]
    path = tmp_path / "mine.csv"
    path.write_text("emotion,valence,arousal\n" + "\n".join(rows) + "\n")
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    table = circumplex.against_ratings(x, names, 9, sources=[str(path)])
    assert set(table["scale"]) == {"valence", "arousal"} and set(table["words"]) == {20}
    assert "1 words rated in" in caplog.text and "flabbergasted" in caplog.text
    with pytest.raises(ValueError, match="rates the valence of 3 of the 6 emotions; at least 10 are needed"):
        circumplex.against_ratings(x[:6], (*names[:3], "a", "b", "c"), 9, sources=[str(path)])
    with pytest.raises(ValueError, match="5 emotions have at most 4 components"):
        circumplex.against_ratings(x[:5], names[:5], 9)


# --- refitting -------------------------------------------------------------------------------------


def test_refit_of_everything_is_the_same_and_of_a_register_is_not(model, vectors, stories):
    from emolens.vectors.pooling import pool

    options = {"corpus": stories, "pooled": pool(model, stories.texts, cache=False, progress=False)}
    same = refit(model, vectors, [2], **options)
    torch.testing.assert_close(same.raw, vectors.at(2).raw)
    torch.testing.assert_close(same.matrix(2), vectors.matrix(2), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(refit(model, vectors, [2], register="plain", **options).raw, same.raw)
    with pytest.raises(ValueError, match="no story has the register 'sung'; there are literary, plain"):
        refit(model, vectors, register="sung", **options)
    with pytest.raises(ValueError, match="name theirs with corpus="):
        refit(model, vectors, [2])
    draws = list(shuffled(model, vectors, [2], 3, **options))
    assert draws[0].agreement(same, 2).abs().max() < 0.9 and not torch.equal(draws[0].raw, draws[1].raw)
    assert torch.equal(next(shuffled(model, vectors, [2], 1, **options)).raw, draws[0].raw)  # the seed


# --- end to end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", [implicit, numbers, negation, binding, transcripts])
def test_a_study_runs_and_says_its_null(study, model, vectors):
    result = study.run(model, vectors, "quick")
    again = study.run(model, vectors, "quick")
    pd.testing.assert_frame_equal(result.table(), again.table())
    assert sorted(set(result.table()["layer"])) == layers_of(vectors, "quick")
    assert "p " in result.verdict() and "nan" not in result.verdict()
    assert result.table().select_dtypes("number").apply(np.isfinite).all().all()
    full = study.run(model, vectors, "full")
    assert sorted(set(full.table()["layer"])) == list(vectors.layers)


def test_clusters_of_a_model_that_knows_nothing_are_compared_with_permuted_ones(model, vectors):
    result = clusters.run(model, vectors, "full", draws=199)
    table = result.table()
    assert set(table["k"]) == set(range(2, 21)) and table["silhouette"].between(-1, 1).all()
    at = table[table["neighbours"].notna()]
    assert len(at) == 2 and (at["neighbours_null"] < at["neighbours_null_highest"]).all()
    assert "permuted" in result.headline() and "199 permutations" in result.null


def test_an_unknown_size_is_named(vectors):
    with pytest.raises(ValueError, match="size='huge' is none of full, quick"):
        layers_of(vectors, "huge")
