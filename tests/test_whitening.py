"""Whitening without eigenvectors is whitening by its definition; the noise of a layer that is not held is found."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from tiny import WORDS

from emolens.corpus.stories import Corpus
from emolens.reading.read import score
from emolens.vectors import derive as recipe
from emolens.vectors import fit as fitting
from emolens.vectors.choose import choose
from emolens.vectors.contrast import Layout, contrast, contrast_and_noise
from emolens.vectors.emotion_vectors import EmotionVectors, _checksum
from emolens.vectors.fit import fit, nearest_first
from emolens.vectors.folds import Folds
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.refit import refit
from emolens.vectors.token_moments import TokenMoments
from emolens.vectors.whitening import SHRINKAGE, Whitening

EMOTIONS, TOPICS = 6, 5
STORIES = EMOTIONS * TOPICS


def pooled_of(d, layers=(0,), seed=0):
    """Random stories of six emotions told of five topics, loud along a few dimensions; their neutral moments."""
    draw = torch.Generator().manual_seed(seed)
    loudness = torch.exp(torch.randn(d, generator=draw))
    rows = [(f"e{i}", "plain", f"t{t}", f"{t} {i}") for t in range(TOPICS) for i in range(EMOTIONS)]
    corpus = Corpus.from_rows([dict(zip(("emotion", "register", "topic", "text"), row, strict=True)) for row in rows])
    shard = {f"mean.{r}": loudness * torch.randn(len(layers), STORIES, d, generator=draw) for r in (10, 50)}
    counts, norm = torch.full((STORIES,), 60), torch.ones(len(layers))
    pooled = PooledActivations(layers, (10, 50), counts, norm, ((list(range(STORIES)), shard),), {"fingerprint": "x"})
    square = torch.diag(loudness**2)
    return corpus, pooled, TokenMoments(layers, torch.zeros(len(layers), d), square.expand(len(layers), d, d))


def reference(residual, shrinkage):
    """W by the eigenvectors of S."""
    s = residual.T @ residual / len(residual)
    values, q = torch.linalg.eigh(s)
    return q * (values.clamp(min=0) + shrinkage * s.trace() / len(s)).rsqrt() @ q.T


def reference_sweep(pooled, corpus, neutral, folds):
    """The mean reciprocal rank of the whitened readout for each shrinkage, straight from the definition."""
    layout, parts = Layout.of(corpus), Folds.of(corpus, folds)
    x, basis = pooled.means(10, 0).double(), []
    for a in SHRINKAGE:
        ranks = []
        for number in range(parts.number):
            train, test = parts.fold != number, parts.fold == number
            vectors, residual = contrast(x[train], layout.keep(train))
            w = reference(residual, a)
            directions = vectors @ w @ w / (vectors @ w).norm(dim=1, keepdim=True)
            scores = (x[test] - x[test].mean(dim=0)) @ directions.T
            right = scores.gather(1, layout.emotion[test][:, None])
            ranks.append((scores >= right).sum(dim=1))
        basis.append(float((1 / torch.cat(ranks)).mean()))
    return basis


@pytest.mark.parametrize("d", [4, STORIES - 1, STORIES, STORIES + 1, 80])
@pytest.mark.parametrize("shrinkage", SHRINKAGE)
def test_it_equals_its_definition_whichever_matrix_is_smaller(d, shrinkage):
    corpus, pooled, _ = pooled_of(d)
    vectors, residual = contrast(pooled.means(10, 0), Layout.of(corpus))
    w, whitening = reference(residual, shrinkage), Whitening.of(residual, STORIES, shrinkage)
    torch.testing.assert_close(whitening.solve(vectors), vectors @ w @ w)
    x = torch.randn(7, d, dtype=torch.float64)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(whitening.cosines(x, vectors), unit(x @ w) @ unit(vectors @ w).T)
    assert len(whitening.factor) == min(d, STORIES)  # never the larger of the two
    fewer = Whitening.of(contrast_and_noise(pooled.means(10, 0).double(), Layout.of(corpus))[1], STORIES, shrinkage)
    assert len(fewer.factor) == min(d, STORIES - EMOTIONS)
    torch.testing.assert_close(fewer.solve(vectors), vectors @ w @ w)
    at = fit(pooled, corpus, pooled_of(d)[2], shrinkage)
    torch.testing.assert_close(at.whitened_norm(x.float(), 0), (x @ w).norm(dim=1).float(), rtol=1e-4, atol=1e-5)
    both = score(x.float(), replace(at, centre_stories=torch.zeros(1, d)), 0, "whitened")
    torch.testing.assert_close(both, (unit(x @ w) @ unit(vectors @ w).T).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("d", [8, 24, 25, 80])  # 30 stories have 24 rows of noise: both ways, and the edge
@pytest.mark.parametrize("folds", [2, 5])
def test_choosing_gives_what_eigenvectors_give(d, folds):
    corpus, pooled, neutral = pooled_of(d, seed=d)
    found = [row["mrr"] for row in choose(pooled, corpus, neutral, folds=folds, progress=False) if row["shrinkage"]]
    assert found == pytest.approx(reference_sweep(pooled, corpus, neutral, folds), abs=1e-6)


@pytest.mark.parametrize("loudest", [1, 30, 1e3])
def test_choosing_is_right_however_loud_a_topic_or_a_dimension_is(loudest):
    """In float32 a loud topic would take the digits of the vectors, and a loud dimension those of the ridge."""
    corpus, pooled, neutral = pooled_of(80, seed=3)
    layout, (rows, shard) = Layout.of(corpus), pooled.parts[0]
    shift = loudest * torch.randn(TOPICS, 80, generator=torch.Generator().manual_seed(0))
    for change in (lambda x: x + shift[layout.group], lambda x: torch.cat([loudest * x[..., :1], x[..., 1:]], dim=-1)):
        louder = replace(pooled, parts=((rows, {rule: change(x) for rule, x in shard.items()}),))
        found = [row["mrr"] for row in choose(louder, corpus, neutral, folds=5, progress=False) if row["shrinkage"]]
        assert found == pytest.approx(reference_sweep(louder, corpus, neutral, 5), abs=2e-3)


def test_choosing_where_stories_have_no_noise_whitens_nothing():
    corpus, pooled, neutral = pooled_of(80)
    layout, (rows, shard) = Layout.of(corpus), pooled.parts[0]
    own, topic = torch.randn(EMOTIONS, 80), torch.randn(TOPICS, 80)
    same = {rule: (own[layout.emotion] + topic[layout.group])[None] for rule in shard}
    quiet = replace(pooled, parts=((rows, same),))
    found = choose(quiet, corpus, neutral, folds=5, progress=False)
    assert {row["mrr"] for row in found if row["method"] != "denoised"} == {1.0}


@pytest.mark.parametrize("d", [4, 80])
def test_dimensions_without_variance_and_copies_of_others_do_no_harm(d):
    corpus, pooled, _ = pooled_of(d)
    x = pooled.means(10, 0).clone()
    x[:, 0], x[:, 1] = 3.0, x[:, 2]
    vectors, residual = contrast(x, Layout.of(corpus))
    for a in (1e-6, 1.0):
        directions = Whitening.of(residual, STORIES, a).directions(vectors)
        assert directions.isfinite().all() and directions[:, 0].abs().max() < 1e-6
        torch.testing.assert_close(directions[:, 1], directions[:, 2], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_inverted_is_named():
    with pytest.raises(ValueError, match="can't be inverted with a ridge of .*: the shrinkage is too small, raise it"):
        Whitening.of(torch.ones(5, 3), 5, 1e-300)


def test_noise_of_cells_of_many_sizes_is_the_same_in_fewer_rows():
    """One story, two and three of an emotion in a topic, and one that is told of another topic alone."""
    draw = torch.Generator().manual_seed(0)
    cells = [("a", "x")] * 3 + [("b", "x")] * 2 + [("c", "x"), ("a", "y"), ("b", "y"), ("d", "z")]
    corpus = Corpus.from_rows([{"emotion": e, "topic": t, "text": f"{i}"} for i, (e, t) in enumerate(cells)])
    x, layout = torch.randn(len(cells), 5, generator=draw), Layout.of(corpus)
    (vectors, residual), (same, noise) = contrast(x, layout), contrast_and_noise(x.double(), layout)
    assert torch.equal(vectors, same) and len(noise) == layout.noise_rows() == len(cells) - 4
    torch.testing.assert_close(noise.T @ noise, residual.T @ residual)


# --- layers whose noise is not held ----------------------------------------------------------------


def few(monkeypatch, layers, d=8):
    """Only so many layers hold their noise from now on."""
    monkeypatch.setattr(fitting, "NOISE_BYTES", layers * 4 * d * min(d, STORIES - EMOTIONS))


def test_noise_is_held_around_the_chosen_layer_and_the_default_one(monkeypatch):
    corpus, pooled, neutral = pooled_of(8, tuple(range(9)))
    stamp = {"fingerprint": "x", "default_layer": 6, "chosen": {"whitened": {"layer": 2}}}
    assert nearest_first(range(9), stamp)[:2] == [2, 6]
    few(monkeypatch, 4)
    assert fit(pooled, corpus, neutral, stamp=stamp).noise_layers == (1, 2, 3, 6)
    few(monkeypatch, 9)
    assert fit(pooled, corpus, neutral, stamp=stamp).noise_source is None


def test_a_layer_whitened_on_demand_is_the_layer_whitened_at_once(monkeypatch):
    corpus, pooled, neutral = pooled_of(8, tuple(range(5)))
    whole = fit(pooled, corpus, neutral)
    few(monkeypatch, 1)
    lazy, x = fit(pooled, corpus, neutral), torch.randn(3, 8)
    assert lazy.noise_layers == (2,) and whole.noise_layers == (0, 1, 2, 3, 4)
    assert torch.equal(lazy.raw, whole.raw) and torch.equal(lazy.whitened, whole.whitened)
    for layer in range(5):
        assert torch.equal(lazy.whitened_norm(x, layer), whole.whitened_norm(x, layer))
        assert torch.equal(lazy.at(layer, 2 - (layer == 2)).whitened_norm(x, layer), whole.whitened_norm(x, layer))
    assert torch.equal(lazy.with_noise().noise_basis, whole.noise_basis)
    assert torch.equal(lazy.at(4, 0).compact(3).noise_basis, whole.at(4, 0).compact(3).noise_basis)


def tiny_corpus():
    texts = (" ".join(WORDS[(t + i) % 9 : (t + i) % 9 + 12] * 3) + f" {t} {i}" for t in range(4) for i in range(3))
    names = [("plain", f"t{t}", emotion) for t in range(4) for emotion in ("calm", "afraid", "angry")]
    rows = zip(names, texts, strict=True)
    return Corpus.from_rows([{"register": r, "topic": t, "emotion": e, "text": x} for (r, t, e), x in rows])


@pytest.mark.usefixtures("few_dialogues")
def test_vectors_from_the_cache_find_the_noise_that_is_not_in_the_file(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(fitting, "NOISE_BYTES", 1)
    first, x = recipe.derive(tiny, tiny_corpus(), progress=False), torch.randn(3, 32)
    again = recipe.derive(tiny, tiny_corpus(), progress=False)
    assert len(again.noise_layers) == 1
    missing = next(layer for layer in again.layers if layer not in again.noise_layers)
    torch.testing.assert_close(again.whitened_norm(x, missing), first.whitened_norm(x, missing))
    # In a file alone it is not: the error says what to do, and that works.
    alone = EmotionVectors.load(again.save(tmp_path / "v.safetensors"))
    with pytest.raises(ValueError, match=rf"hold the noise of layers \d, not that of {missing}, .*el.refit"):
        alone.whitened_norm(x, missing)
    helped = refit(tiny, alone, [missing])
    torch.testing.assert_close(helped.whitened_norm(x, missing), first.whitened_norm(x, missing))
    # Nor is it where the cache was emptied meanwhile.
    for shard in (recipe.cache_dir() / "pooled").rglob("*.safetensors"):
        shard.unlink()
    another = [layer for layer in again.layers if layer not in again.noise_layers][-1]
    with pytest.raises(ValueError, match="pooled stories that it is computed from are gone .*: pool them again"):
        again.whitened_norm(x, another)


def test_many_layers_are_tried_coarsely_then_around_the_best(monkeypatch):
    corpus, pooled, neutral = pooled_of(8, tuple(range(12)))
    monkeypatch.setattr(recipe, "GRID", 4)
    tried = []

    def known(pooled, corpus, neutral, *, layers, **options):
        tried.extend(layers)
        best = {"raw": 4, "denoised": 5, "whitened": 11}
        return [{"method": m, "layer": at, "mrr": 1 / (1 + abs(at - b))} for at in layers for m, b in best.items()]

    monkeypatch.setattr(recipe, "choose", known)
    sweep = recipe.coarse_then_fine(pooled, corpus, neutral, progress=False)
    assert tried == [0, 3, 6, 9, 1, 2, 4, 5, 7, 8, 10, 11]
    assert [row["layer"] for row in sweep] == sorted(row["layer"] for row in sweep)
    for method, best in {"raw": 4, "denoised": 5, "whitened": 11}.items():
        assert recipe.best(sweep, method)["layer"] == best
    assert len(tried) == recipe.most_tried(12)
    tried.clear()
    monkeypatch.setattr(recipe, "GRID", 7)
    recipe.coarse_then_fine(pooled, corpus, neutral, progress=False)
    assert tried == list(range(12))  # fewer than twice as many layers are all tried


# --- files -----------------------------------------------------------------------------------------


def test_a_file_holds_the_noise_of_a_band_alone(monkeypatch, tmp_path):
    corpus, pooled, neutral = pooled_of(80, tuple(range(9)))
    few(monkeypatch, 2, 80)
    vectors = fit(pooled, corpus, neutral)
    path = vectors.save(tmp_path / "v.safetensors")
    loaded = EmotionVectors.load(path)
    assert loaded.noise_layers == vectors.noise_layers and len(loaded.noise_layers) == 2
    assert path.stat().st_size < vectors.with_noise().save(tmp_path / "w.safetensors").stat().st_size - 6 * 4 * 80 * 24


def rewritten(path, change):
    """The file with another header, and a checksum that fits."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, header = load(path.read_bytes()), json.loads(metadata["header"])
    form = change(header)
    text = json.dumps(header)
    path.write_bytes(save(tensors, {"format": form, "header": text, "sha256": _checksum(text, tensors)}))
    return path


def test_a_file_of_the_first_version_holds_the_noise_of_all_its_layers(tmp_path):
    corpus, pooled, neutral = pooled_of(8, (0, 1))
    vectors, x = fit(pooled, corpus, neutral), torch.randn(3, 8)

    def first(header):
        del header["noise_layers"]
        return "emolens-vectors-1"

    loaded = EmotionVectors.load(rewritten(vectors.save(tmp_path / "v.safetensors"), first))
    assert loaded.noise_layers == (0, 1)
    assert torch.equal(loaded.whitened_norm(x, 1), vectors.whitened_norm(x, 1))


def test_a_file_whose_noise_is_of_other_layers_is_refused(tmp_path):
    corpus, pooled, neutral = pooled_of(8, (0, 1))
    path = fit(pooled, corpus, neutral).save(tmp_path / "v.safetensors")

    def spoilt(header):
        header["noise_layers"] = [0]
        return "emolens-vectors-2"

    with pytest.raises(ValueError, match="v.safetensors.*noise of 2 layers, not of"):
        EmotionVectors.load(rewritten(path, spoilt))
