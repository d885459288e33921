"""Arrangements with a known answer."""

import pytest
import torch

from emolens.vectors import geometry


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
