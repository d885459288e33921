"""Vectors of many label shufflings at once are those that are refitted one by one."""

import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.steering.nulls import shuffled
from emolens.vectors import shuffled_refits as module
from emolens.vectors.derive import derive
from emolens.vectors.shuffled_refits import shuffled_refits

FEW = ["afraid", "angry", "calm", "happy", "proud", "sad"]


@pytest.fixture(scope="module")
def crossed(few_dialogues):
    """A model and its vectors from stories of both registers."""
    model = HookedModel.from_hf(tiny_llama(), tiny_tokenizer(), "tiny-llama")
    corpus = el.corpus.stories().where(emotion=FEW)
    return model, derive(model, corpus, cache=False, progress=False), corpus


def ragged(corpus: Corpus) -> Corpus:
    """Without some stories, so that emotions have unlike numbers of them and one has none in a register."""
    return Corpus(
        tuple(
            story for number, story in enumerate(corpus)
            if number % 7 and not (story.emotion == "sad" and story.register == "plain")
        )
    )  # fmt: skip


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("method", ["raw", "denoised"])
def test_the_same_seed_gives_the_vectors_of_refit_one_by_one(crossed, few_dialogues, uneven, method):
    model, vectors, corpus = crossed
    if uneven:
        corpus = ragged(corpus)
        vectors = derive(model, corpus, cache=False, progress=False)
    layers = [1, 3]
    one_by_one = list(shuffled(model, vectors, layers, 5, seed=3, corpus=corpus))
    refits = shuffled_refits(model, vectors, 5, seed=3, corpus=corpus)
    for layer in layers:
        sets = torch.cat(list(refits.at(layer, method)))
        expected = torch.stack([one.vectors(layer, method) for one in one_by_one])
        assert one_by_one[0].emotions == vectors.emotions
        assert (sets - expected).norm(dim=-1).max() < 1e-5 * expected.norm(dim=-1).min()
        assert (sets - vectors.vectors(layer, method)).norm(dim=-1).min() > 0.1 * expected.norm(dim=-1).min()


def test_memory_is_bounded_and_the_blocks_of_draws_join_to_the_same(crossed, monkeypatch):
    model, vectors, corpus = crossed
    refits = shuffled_refits(model, vectors, 50, corpus=corpus)
    whole = torch.cat(list(refits.at(2)))
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 4 * len(FEW) * 32 * 8)
    parts = list(refits.at(2))
    assert [len(part) for part in parts] == [8] * 6 + [2]
    assert torch.equal(torch.cat(parts), whole)


def test_a_topic_keeps_its_emotions_and_the_sets_differ(crossed):
    _, _, corpus = crossed
    codes = module.shuffled_codes(module.Layout.of(corpus), 20, seed=1)
    groups = module.Layout.of(corpus).group
    for group in groups.unique():
        assert (codes[:, groups == group].sort().values == torch.arange(len(FEW))).all()
    assert len(codes.unique(dim=0)) == 20
    assert torch.equal(codes, module.shuffled_codes(module.Layout.of(corpus), 20, seed=1))


def test_what_cannot_be_refitted_is_said(crossed):
    model, vectors, corpus = crossed
    with pytest.raises(ValueError, match="raw or denoised, not whitened"):
        next(shuffled_refits(model, vectors, 2, corpus=corpus).at(1, "whitened"))
    with pytest.raises(ValueError, match="draws=0: ask for at least one"):
        shuffled_refits(model, vectors, 0, corpus=corpus)
    with pytest.raises(ValueError, match="the stories have 5 emotions and the vectors 6"):
        shuffled_refits(model, vectors, 2, corpus=corpus.where(emotion=FEW[1:]))
    with pytest.raises(ValueError, match="not derived from the packaged stories"):
        shuffled_refits(model, vectors, 2)
    with pytest.raises(ValueError, match="no vectors at layer 9"):
        next(shuffled_refits(model, vectors, 2, corpus=corpus).at(9))


def test_activations_that_are_not_finite_are_named(crossed):
    model, vectors, corpus = crossed
    refits = shuffled_refits(model, vectors, 2, corpus=corpus)
    stories = module.story_means(refits.pooled, corpus, 1)
    stories[4, 0] = torch.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "story_means", lambda *given: stories)
        with pytest.raises(ValueError, match="story number 4 are not finite at block 1"):
            next(refits.at(1))


def test_vectors_of_some_blocks_need_no_other_pass(crossed, few_dialogues, monkeypatch):
    """`derive` of two blocks has pooled two blocks: what is refitted afterwards reads these."""
    model, _, corpus = crossed
    vectors = derive(model, corpus, [1, 2], progress=False)

    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass was run")

    monkeypatch.setattr("emolens.vectors.pooling.pool_batches", refuse)
    assert el.refit(model, vectors, register="plain", corpus=corpus).layers == (1, 2)
    assert len(el.null_directions(model, vectors, [vectors["calm"]], 10, 2, corpus=corpus).kinds) == 2
    assert next(shuffled_refits(model, vectors, draws=2, corpus=corpus).at(2)).shape[0] == 2
