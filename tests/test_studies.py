"""The studies on planted answers, and each of them end to end on a tiny model, where nothing is to be found."""

import re
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

from emolens import corpus, studies
from emolens.models.model import HookedModel
from emolens.results import load_results, named, save_results
from emolens.stats import Verdict
from emolens.steering.nulls import shuffled
from emolens.studies._common import layers_of
from emolens.studies.geometry import circumplex, clusters, reliability
from emolens.studies.reading import (
    binding,
    detection,
    documents,
    implicit,
    lexical,
    negation,
    numbers,
    sources,
    transcripts,
)
from emolens.studies.reading.detection import detect
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


def test_a_component_is_held_against_random_directions_of_its_space():
    """A planted axis is beyond them; a rating that all directions share is inside, but beyond its permutations."""
    rated = corpus.ratings("glasgow")
    human = torch.tensor([row["valence"] for row in rated.values()]).double()
    human = torch.nn.functional.normalize(human - human.mean(), dim=0)
    g = torch.Generator().manual_seed(0)

    def of_valence(x):
        table = circumplex.against_ratings(x, tuple(rated), 999, sources=["glasgow"])
        return table[table["scale"] == "valence"]

    noise = torch.randn(len(human), 40, generator=g).double()
    planted_axis = of_valence(noise + 20 * human[:, None] * torch.eye(40).double()[0]).iloc[0]
    assert planted_axis["r"] > 0.8 and planted_axis["p_random"] == 1 / 1000
    assert planted_axis["verdict"] == Verdict.BEYOND and planted_axis["random_high"] < planted_axis["r"]

    basis = torch.linalg.qr(torch.cat([torch.ones(len(human), 1).double(), human[:, None], noise[:, :5]], dim=1)).Q[
        :, 1:
    ]
    even = torch.linalg.qr(torch.cat([torch.ones(6, 1), torch.randn(6, 5, generator=g)], dim=1).double()).Q.T
    shared = of_valence(basis @ even * torch.linspace(1.2, 1, 6).double())
    assert shared["r"].round(2).tolist() == [0.41] * 5 and (shared["p"] <= 0.05).all()
    assert (shared["p_random"] > 0.2).all() and set(shared["verdict"]) == {Verdict.INSIDE}


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
    assert draws[0].cosine_with(same, 2).abs().max() < 0.9 and not torch.equal(draws[0].raw, draws[1].raw)
    assert torch.equal(next(shuffled(model, vectors, [2], 1, **options)).raw, draws[0].raw)  # the seed


# --- end to end ------------------------------------------------------------------------------------


NUMBER = r"\d+(?:[.,]\d+)?%?"


def check(results, keys):
    """Every result of a study has a headline for reading aloud and a null or a word why not, and is stored whole."""
    assert list(results) == keys
    for result in results.values():
        assert len(re.findall(NUMBER, result.headline())) <= 4 and "nan" not in result.headline()
        assert result.headline().endswith(".") and result.null
        assert result.table().select_dtypes("number").notna().any().all()
    with tempfile.TemporaryDirectory() as folder:
        path = save_results(f"{folder}/results.json", {}, results)
        for name, result in load_results(path).items():
            assert result.headline() == results[name].headline() and len(result.table()) == len(results[name].table())


@pytest.mark.parametrize(
    ("study", "keys"),
    [
        (implicit, ["implicit", "matrix"]),
        (numbers, ["numbers", "curves"]),
        (negation, ["negation"]),
        (binding, ["binding"]),
        (transcripts, ["transcripts"]),
    ],
)
def test_a_study_runs_and_says_its_null(study, keys, model, vectors, stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(implicit, "stories_of", lambda vectors: stories)
    results, again, full = (named(study.run(model, vectors, size)) for size in ("quick", "quick", "full"))
    check(results, keys)
    check(full, [*keys, "literary"] if study is implicit else keys)
    result = results[keys[0]]
    for key in keys:
        pd.testing.assert_frame_equal(results[key].table(), again[key].table())
    assert sorted(set(result.table()["layer"])) == layers_of(vectors, "quick")
    assert result.table()["p"].between(0, 1).all() and "null of" in result.headline()
    assert result.table().select_dtypes("number").apply(np.isfinite).all().all()
    assert sorted(set(full[keys[0]].table()["layer"])) == list(vectors.layers)


def test_detection_gives_both_nulls_and_what_is_taken_for_what(model, vectors, stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = detection.run(model, vectors, "quick", draws=5, corpus=stories)
    check(results, ["detection", "confusions", "wrong_answers", "centres"])
    table = results["detection"].table()
    chosen = [(method, vectors.chosen_layer(method)) for method in ("raw", "denoised", "whitened")]
    for row in table.itertuples():
        assert np.isnan(row.first_shuffled_highest) == ((row.method, row.layer) not in chosen)
    assert "of permuted labels and of vectors from shuffled labels" in results["detection"].headline()
    matrix = results["confusions"].table()
    assert matrix.groupby("row")["score"].sum().to_numpy() == pytest.approx(1)
    assert results["centres"].table().groupby("centre")["layer"].count().tolist() == [3, 3, 3, 3]
    alone = detect(model, vectors, detection.vignettes(vectors), [chosen[0][1]], ["raw"], progress=False).table()
    there = table[(table["method"] == "raw") & (table["layer"] == chosen[0][1])][alone.columns]
    pd.testing.assert_frame_equal(there.reset_index(drop=True), alone)


def test_wrong_answers_near_the_right_ones_are_told_from_permuted_ones():
    names = list(corpus.ratings("glasgow"))[:40]
    cluster = {name: str(number // 4) for number, name in enumerate(names)}
    near = [(names[i], names[i + 1]) for i in range(0, 40, 2)]
    table = detection.wrong_answers(near, cluster, draws=199).table().set_index("measure")
    assert table.loc["in the right cluster", "value"] == 1 and table.loc["in the right cluster", "p"] < 0.05
    far = detection.wrong_answers([(a, a) for a in names], cluster, draws=199).table().set_index("measure")
    assert far.loc["distance in valence and arousal", "value"] == 0
    assert far.loc["distance in valence and arousal", "p"] < 0.05  # below the null is not inside it
    single = detection.wrong_answers(near[:1], cluster)
    assert "cannot be measured" in single.headline() and single.table()["p"].isna().all()


def test_sources_name_each_register_and_the_stories_of_a_model(model, vectors, stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = named(sources.run(model, vectors, "quick", corpus=stories))
    check(results, ["sources"])
    table = results["sources"].table()
    shared = [name for name in corpus.written().emotions if name in EMOTIONS]
    assert table["source"].unique().tolist() == ["literary", "plain", "both", sources.WRITTEN]
    assert set(table["emotions"]) == {len(shared)}
    assert table["stories"].iloc[-1] == sum(story.emotion in shared for story in corpus.written())
    full = sources.run(model, vectors, "full", corpus=stories.where(register="plain")).table()
    assert full["source"].unique().tolist() == ["plain", sources.WRITTEN]
    assert sorted(set(full["emotions"])) == [len(shared), len(EMOTIONS)]


def test_features_are_read_like_activations(model, vectors, stories, monkeypatch):
    rated = [f"she was {word} ." for word in ("calm", "afraid", "angry", "cold", "warm", "very calm")]
    monkeypatch.setattr(documents, "rated", lambda kind, size, n, seed: (rated, np.arange(6.0)))
    result = lexical.run(model, vectors, "quick", corpus=stories)
    assert set(result.table()["null"]) == {"token embeddings", "style"} and len(result.table()) == 24
    assert len(re.findall(NUMBER, result.headline())) <= 4 and result.null.startswith("none: ")


def test_documents_are_held_against_both_nulls(model, vectors, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rated = [f"she was {word} ." for word in ("calm", "afraid", "angry", "cold", "warm", "very calm")]
    monkeypatch.setattr(documents, "rated", lambda kind, size, n, seed: (rated, np.arange(6.0)))
    results = named(documents.run(model, vectors, "quick"))
    check(results, ["documents"])
    assert results["documents"].table()["chosen"].sum() == 3  # one of each kind


def test_reliability_is_what_the_vectors_hold(model, vectors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = reliability.run(model, vectors, "quick")
    check(results, ["reliability", "sweep"])
    table = results["reliability"].table()
    at = table[(table["method"] == "whitened") & (table["layer"] == 2)]["cosine"].iloc[0]
    assert at == pytest.approx(float(vectors.split_half(2, "whitened").mean()))


OWN = ["calm", "hygge"]  # one emotion of the paper, and one that no stimulus knows


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (detection, "The vignettes can be read with these vectors for calm only, and two are needed"),
        (implicit, "The implicit messages can be read .* for (calm|no emotion) only"),
        (numbers, "The sentences with numbers can be read .* for calm only"),
        (negation, "The negated sentences can be read .* for (calm|no emotion) only"),
        (binding, "The texts about two people can be read .* for no emotion only"),
        (transcripts, "The transcripts can be read .* for (calm|no emotion) only"),
        (documents, "one kind is missing among calm, hygge"),
    ],
)
def test_too_few_emotions_for_a_stimulus_are_named(study, message, model, vectors):
    from dataclasses import replace

    own = replace(vectors[["calm", "sad"]], emotions=tuple(OWN))
    with pytest.raises(ValueError, match=message):
        study.run(model, own, "quick")


@pytest.mark.parametrize("name", ["detection", "implicit", "numbers", "negation", "binding", "transcripts"])
def test_emotions_of_ones_own_are_left_aside_where_a_stimulus_lacks_them(name, model, vectors, stories):
    from dataclasses import replace

    from emolens.corpus.stories import Corpus

    names = tuple("hygge" if emotion == "surprised" else emotion for emotion in vectors.emotions)
    mine = Corpus(tuple(replace(s, emotion="hygge") if s.emotion == "surprised" else s for s in stories))
    options = {"corpus": mine, "draws": 3} if name == "detection" else {}
    for result in named(studies.find(name).run(model, replace(vectors, emotions=names), "quick", **options)).values():
        assert "nan" not in result.headline() and len(result.table())


@pytest.mark.parametrize("study", [detection, documents, lexical, reliability, sources, implicit])
def test_a_study_refuses_an_unknown_size(study, model, vectors):
    with pytest.raises(ValueError, match="size='ful' is none of full, quick"):
        study.run(model, vectors, "ful")


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
