"""Arrangements with a known answer; and the studies of geometry on vectors of one's own stories."""

import json
import re

import numpy as np
import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens import corpus
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.results import load_results, named, save_results
from emolens.studies._common import NotForThisModel
from emolens.studies.geometry import alignment, circumplex, clusters, robustness
from emolens.vectors import geometry, refit


def blobs(groups=4, each=8, d=30, noise=0.15, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(groups, d, generator=g), dim=1)
    labels = torch.arange(groups).repeat_interleave(each)
    return centres[labels] + noise * torch.randn(groups * each, d, generator=g), labels


def test_components_find_the_planted_axis_and_explain_the_variance():
    g = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(20, generator=g), dim=0)
    told = torch.randn(50, generator=g)
    x, explained = geometry.components(3 * told[:, None] * axis + 0.3 * torch.randn(50, 20, generator=g), 5)
    assert abs(torch.corrcoef(torch.stack([x[:, 0], told]))[0, 1]) > 0.99
    assert explained[0] > 0.8 and (explained.diff() <= 0).all() and explained.sum() <= 1
    with pytest.raises(ValueError, match="3 emotions have at most 2 components, not 5"):
        geometry.components(torch.randn(3, 20), 5)


@pytest.mark.parametrize("how", geometry.CLUSTERINGS)
def test_clusters_are_those_that_were_planted(how):
    x, labels = blobs()
    found = geometry.clusters(x, 4, how)
    same = lambda codes: codes[:, None] == codes[None]  # noqa: E731
    assert torch.equal(same(found), same(labels))


def test_bad_clusterings_are_named():
    with pytest.raises(ValueError, match="'dbscan' is none of k-means, hierarchical"):
        geometry.clusters(torch.randn(5, 3), 2, "dbscan")
    with pytest.raises(ValueError, match="6 clusters of 5 emotions"):
        geometry.clusters(torch.randn(5, 3), 6)


def test_neighbours_of_planted_clusters_are_their_own_and_of_random_ones_are_at_chance():
    x, labels = blobs()
    x = torch.nn.functional.normalize(x, dim=1)
    assert geometry.neighbour_share(x @ x.T, labels) == 1
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    assert geometry.neighbour_share(x @ x.T, shuffled) < 0.45


def test_an_arrangement_is_alike_to_its_rotation_and_not_to_another():
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    other = torch.randn(40, 9, generator=torch.Generator().manual_seed(2))
    for matrix in geometry.alike([x, 5 * x @ turn, other]).values():
        assert matrix[0, 1] == pytest.approx(1, abs=1e-4)
    found = geometry.alike([x, other])
    assert abs(found["pearson"][0, 1]) < 0.2 and abs(found["spearman"][0, 1]) < 0.2


def test_umap_gives_two_coordinates_for_each_emotion_and_the_same_ones_again():
    pytest.importorskip("umap")
    x, _ = blobs()
    first, second = (geometry.umap(x, seed=3) for _ in range(2))
    assert first.shape == (32, 2) and torch.equal(first, second)


# --- the studies -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(few_dialogues):
    """A tiny model and vectors of stories of one's own: plain ones, of fourteen emotions, one of them unheard of."""
    rated = [name for name in corpus.ratings("glasgow") if name in corpus.EMOTIONS][:14]
    stories = corpus.stories("plain").where(emotion=rated)
    renamed = [dict(vars(s), emotion="wistful" if s.emotion == rated[0] else s.emotion) for s in stories]
    stories = Corpus.from_rows(renamed)
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-own")
    with pytest.MonkeyPatch.context() as patch:
        for module in (refit, alignment, circumplex, robustness):
            patch.setattr(module, "stories_of", lambda vectors: stories)
        yield model, el.derive(model, stories, cache=False, progress=False), stories


def checked(results, path):
    """Headlines of at most four numbers, a null or a word why not, and the same again from JSON."""
    results = named(results)
    for name, result in results.items():
        assert len(re.findall(r"\d+(?:[.,]\d+)?%?", result.headline())) <= 4, result.headline()
        assert "nan" not in result.headline() and result.null and len(result.table()), name
        assert not re.search("NaN|Infinity", json.dumps(result.options))
    again = load_results(save_results(path, {}, results))
    assert {name: result.headline() for name, result in again.items()} == {
        name: result.headline() for name, result in results.items()
    }
    return results


@pytest.mark.parametrize("study", [alignment, circumplex, clusters, robustness])
@pytest.mark.parametrize("size", ["quick", "full"])
def test_a_study_of_geometry_runs_on_stories_of_ones_own(study, size, own, tmp_path):
    model, vectors, _ = own
    checked(study.run(model, vectors, size), tmp_path / "results.json")


@pytest.mark.parametrize("study", [alignment, circumplex, clusters, robustness])
def test_a_misspelt_size_is_refused_before_anything_is_run(study, own):
    model, vectors, _ = own
    with pytest.raises(ValueError, match="size='ful' is none of full, quick"):
        study.run(model, vectors, "ful")


@pytest.mark.parametrize("study", [alignment, circumplex, clusters, robustness])
def test_too_few_emotions_are_named(study, own):
    model, vectors, _ = own
    with pytest.raises(ValueError, match="emotions"):
        study.run(model, vectors[list(vectors.emotions[:2])], "quick")


def test_two_models_are_compared_on_the_emotions_that_both_have(own):
    model, vectors, stories = own
    result = alignment.run(model, vectors, "quick", other=(model, vectors))["between_models"]
    row = result.table().iloc[0]
    assert row["pearson"] == pytest.approx(1, abs=1e-5) and row["p"] == 1 / 1000 and row["half"] == row["other_half"]
    fewer = vectors[list(vectors.emotions[:8])]
    assert alignment.between(model, vectors, (model, fewer), draws=9).table()["pearson"].item() > 0.99
    first, second = alignment.halves(model, vectors, 2, stories)
    assert alignment.first_half(stories).sum() not in (0, len(stories))
    assert not torch.equal(first.raw, second.raw)
    stranger = vectors.__class__(**{**vars(vectors), "emotions": tuple(f"e{i}" for i in range(len(vectors.emotions)))})
    with pytest.raises(NotForThisModel, match="the vectors have 0 of the 14 emotions"):
        alignment.between(model, vectors, (model, stranger))


def test_clusters_leave_out_what_the_paper_does_not_know(own):
    _, vectors, _ = own
    assert "wistful" in vectors.emotions and "wistful" not in clusters.in_paper(vectors)
    with pytest.raises(ValueError, match="'wistful' is in none of the paper's ten clusters"):
        clusters.paper_labels(vectors.emotions)


def test_planted_clusters_of_the_paper_are_found_beyond_permuted_ones():
    names = tuple(corpus.EMOTIONS)
    labels = clusters.paper_labels(names)
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.one_hot(labels).float() + 0.1 * torch.randn(len(names), 10, generator=g)
    x = torch.nn.functional.normalize(x, dim=1)
    rng = np.random.default_rng(0)
    shares = clusters.neighbours(x @ x.T, labels, rng, 199)
    assert shares["neighbours"] > 0.95 and shares["neighbours_p"] == 1 / 200
    row = clusters.clustering(x, labels, "k-means", 10, rng)
    assert row["rand"] > 0.7 > row["rand_null"] and row["rand_p"] == 1 / 1000
    noise = torch.nn.functional.normalize(torch.randn(len(names), 10, generator=g), dim=1)
    assert clusters.neighbours(noise @ noise.T, labels, rng, 199)["neighbours_p"] > 0.02


def test_a_source_that_rates_too_few_is_passed_over_and_none_is_an_error(caplog):
    names = tuple(name for name in corpus.ratings("glasgow") if name not in corpus.ratings("russell_mehrabian"))[:14]
    x = torch.randn(14, 30, generator=torch.Generator().manual_seed(0))
    assert set(circumplex.against_ratings(x, names, 9)["source"]) == {"glasgow"}
    with pytest.raises(ValueError, match="at least 10 are needed"):
        circumplex.against_ratings(x, tuple(f"e{i}" for i in range(14)), 9)
