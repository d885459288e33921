import importlib

import numpy as np
import pytest
import torch
from tiny import WORDS, passes

from emolens.corpus.stories import Corpus
from emolens.stats import bootstrap_mean
from emolens.vectors.choose import best, choose, rank_matrix
from emolens.vectors.contrast import Layout, contrast
from emolens.vectors.derive import derive
from emolens.vectors.emotion_vectors import unit
from emolens.vectors.fit import fit
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.token_moments import TokenMoments
from emolens.vectors.whitening import Whitening

pytestmark = pytest.mark.usefixtures("few_dialogues")
MODULE = importlib.import_module("emolens.vectors.derive")
EMOTIONS = [f"emotion{i}" for i in range(12)]
D = 48


def planted(seed=0, noise=1.0, topic_scale=5.0):
    """Stories whose activation is emotion + topic + register + noise that is strong along a few directions."""
    rng = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    truth = unit(normal(len(EMOTIONS), D))
    truth = truth - truth.mean(dim=0)
    loud = torch.linalg.qr(normal(D, 6)).Q.T
    rows, x = [], []
    for register, topics in (("literary", 8), ("plain", 4)):
        register_shift = topic_scale * normal(D)
        for topic in range(topics):
            topic_shift = topic_scale * normal(D)
            for i, emotion in enumerate(EMOTIONS):
                rows.append(
                    {"emotion": emotion, "register": register, "topic": f"t{topic}", "text": f"{register}{topic}{i}"}
                )
                x.append(truth[i] + topic_shift + register_shift + noise * (0.1 * normal(D) + normal(6) @ loud))
    corpus, x = Corpus.from_rows(rows), torch.stack(x)
    shard = {f"mean.{rule}": x[None] for rule in (10, 50)}
    counts = torch.full((len(rows),), 60)
    everything = ((list(range(len(rows))), shard),)
    pooled = PooledActivations((0,), (10, 50), counts, torch.ones(1), everything, {"fingerprint": "planted"})
    neutral = TokenMoments((0,), torch.zeros(1, D), (loud.T @ loud + 0.01 * torch.eye(D))[None])
    return corpus, pooled, neutral, truth


def test_planted_vectors_are_found_although_topic_and_register_are_louder():
    corpus, pooled, neutral, truth = planted(noise=0.2)
    vectors = fit(pooled, corpus, neutral)
    cosine = (unit(vectors.raw[:, 0]) * unit(truth)).sum(dim=1)
    assert cosine.min() > 0.95
    averaged = torch.stack([pooled.means(50, 0)[[s.emotion == e for s in corpus]].mean(dim=0) for e in EMOTIONS])
    left_in = (unit(averaged) * unit(truth)).sum(dim=1)
    assert cosine.mean() > left_in.mean() + 0.3  # the plain mean of an emotion's stories is swamped


def test_topic_and_register_cancel_exactly():
    corpus, pooled, *_ = planted()
    layout = Layout.of(corpus)
    x = pooled.means(50, 0)
    shift = torch.randn(int(layout.group.max()) + 1, D)
    torch.testing.assert_close(
        contrast(x + shift[layout.group], layout)[0], contrast(x, layout)[0], rtol=1e-4, atol=1e-5
    )


def test_registers_have_the_same_weight():
    corpus, pooled, _, _ = planted()
    x, layout = pooled.means(50, 0), Layout.of(corpus)
    both = contrast(x, layout)[0]
    one = [contrast(x[layout.register == r], layout.keep(layout.register == r))[0] for r in (0, 1)]
    torch.testing.assert_close(both, (one[0] + one[1]) / 2, rtol=1e-4, atol=1e-5)


def test_whitening_reads_planted_emotions_better_when_the_noise_has_a_direction():
    corpus, pooled, neutral, _ = planted(noise=2.0)
    sweep = choose(pooled, corpus, neutral, folds=4, progress=False)
    assert best(sweep, "whitened")["mrr"] > best(sweep, "raw")["mrr"] + 0.1
    assert best(sweep, "denoised")["mrr"] > best(sweep, "raw")["mrr"]  # the neutral components are the loud ones


def test_left_out_topics_of_pure_noise_are_at_chance():
    corpus, pooled, neutral, _ = planted()
    (rows, shard) = pooled.parts[0]
    noise = {rule: torch.randn_like(x, generator=None) for rule, x in shard.items()}
    empty = PooledActivations((0,), (10, 50), pooled.counts, torch.ones(1), ((rows, noise),), pooled.stamp)
    chance = np.mean([1 / k for k in range(1, len(EMOTIONS) + 1)])
    for row in choose(empty, corpus, neutral, folds=4, progress=False):
        assert abs(row["mrr"] - chance) < 0.12


def test_whitening_equals_its_definition():
    corpus, pooled, _, _ = planted()
    vectors, residual = contrast(pooled.means(50, 0), Layout.of(corpus))
    vectors, residual = vectors.float(), residual.float()
    whitening = Whitening.of(residual, len(residual), 0.5)
    directions, (basis, scale) = whitening.directions(vectors).float(), whitening.kept()
    s = residual.T @ residual / len(residual)
    values, q = torch.linalg.eigh(s + 0.5 * torch.eye(D) * s.trace() / D)
    w = q @ torch.diag(values.rsqrt()) @ q.T
    expected = torch.stack([w @ w @ v / (w @ v).norm() for v in vectors])
    torch.testing.assert_close(directions, expected, rtol=1e-3, atol=1e-4)
    x = torch.randn(5, D)
    torch.testing.assert_close((x @ basis.T * scale[:-1]).norm(dim=1), (x @ w).norm(dim=1), rtol=1e-3, atol=1e-4)


def test_reliability_is_high_for_planted_vectors_and_about_zero_for_noise():
    corpus, pooled, neutral, _ = planted(noise=0.2)
    assert fit(pooled, corpus, neutral).split_half(0, "raw").mean() > 0.8
    rows, shard = pooled.parts[0]
    noise = {rule: torch.randn_like(x) for rule, x in shard.items()}
    empty = PooledActivations((0,), (10, 50), pooled.counts, torch.ones(1), ((rows, noise),), pooled.stamp)
    assert abs(fit(empty, corpus, neutral).split_half(0, "raw").mean()) < 0.25


def test_a_register_alone_can_be_fitted():
    corpus, pooled, neutral, truth = planted(noise=0.2)
    keep = torch.tensor([story.register == "plain" for story in corpus])
    assert (unit(fit(pooled, corpus, neutral, keep=keep).raw[:, 0]) * unit(truth)).sum(dim=1).mean() > 0.9


def test_ranks_count_from_one():
    assert rank_matrix(torch.tensor([[0.1, 0.9, 0.5]])).tolist() == [[3, 1, 2]]


def tiny_corpus():
    rng = np.random.default_rng(0)
    rows = [
        {"emotion": emotion, "register": register, "topic": f"t{topic}", "text": " ".join(rng.choice(WORDS, 70))}
        for register in ("literary", "plain")
        for topic in range(6)
        for emotion in ("calm", "afraid", "angry")
    ]
    return Corpus.from_rows(rows)


def test_derive_end_to_end_and_again_from_the_cache(tiny, monkeypatch):
    vectors = derive(tiny, tiny_corpus(), progress=False)
    assert vectors.raw.shape == (3, 4, 32)
    assert vectors.emotions == ("afraid", "angry", "calm")  # the order of the 171
    assert vectors.stamp["fingerprint"] == tiny.fingerprint
    monkeypatch.setattr(MODULE, "fit", lambda *args, **kwargs: pytest.fail("fitted again"))
    assert torch.equal(derive(tiny, tiny_corpus(), progress=False).raw, vectors.raw)


def test_derive_is_the_same_with_and_without_cache(tiny):
    with_cache = derive(tiny, tiny_corpus(), progress=False)
    assert torch.equal(derive(tiny, tiny_corpus(), cache=False, progress=False).whitened, with_cache.whitened)


def test_ctrl_c_keeps_the_shards(tiny, monkeypatch, few_dialogues):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MODULE, "choose", interrupt)
        derive(tiny, tiny_corpus(), progress=False)
    ran = passes(monkeypatch)
    derive(tiny, tiny_corpus(), progress=False)
    assert sum(ran) == len(few_dialogues)  # no story was run again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row for row in rows if row["emotion"] == "calm"], "at least two are needed"),
        (
            lambda rows: [*rows[:-1], rows[-1] | {"text": "too short ."}],
            r"too short; the first is number 35 \(angry, plain\)",
        ),
    ],
)
def test_bad_corpora_are_named(tiny, change, message):
    rows = [{k: getattr(s, k) for k in ("emotion", "register", "topic", "text")} for s in tiny_corpus()]
    with pytest.raises(ValueError, match=message):
        derive(tiny, Corpus.from_rows(change(rows)), progress=False)


def test_a_missing_emotion_is_named(tiny):
    with pytest.raises(ValueError, match="no story for 'joyful': add some"):
        derive(tiny, tiny_corpus(), emotions=["calm", "joyful"], progress=False)
    with pytest.raises(ValueError, match="no story for 'clam' .did you mean calm"):
        derive(tiny, tiny_corpus(), emotions=["clam"], progress=False)


def test_the_bootstrap_interval_covers_the_mean_and_groups_widen_it():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(60):
        low, high = bootstrap_mean(rng.normal(size=40), draws=300, seed=seed)
        covered += low <= 0 <= high
    assert covered >= 50
    groups = np.repeat(np.arange(20), 10)
    values = np.repeat(rng.normal(size=20), 10)
    narrow, wide = bootstrap_mean(values), bootstrap_mean(values, groups)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean(np.array([]))


def test_without_two_stories_of_an_emotion_the_noise_is_unknown_and_whitening_changes_nothing():
    vectors = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    whitening = Whitening.of(torch.zeros(5, 12), 5, 0.3, float(vectors.square().mean()))
    directions, (rows, scale) = whitening.directions(vectors).float(), whitening.kept()
    torch.testing.assert_close(directions, torch.nn.functional.normalize(vectors, dim=1))
    assert rows.shape == (0, 12) and torch.equal(scale, torch.ones(1))  # a norm is the plain norm
