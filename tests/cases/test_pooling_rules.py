"""Pooling by a name, a rank or a function, to the end: pool, fit, derive and refit."""

import inspect
import json

import numpy as np
import pytest
import torch
from tiny import WORDS, passes

import emolens as el
from emolens.corpus.stories import Corpus
from emolens.files import cache_dir
from emolens.vectors.fit import fit
from emolens.vectors.pooling import pool
from emolens.vectors.pooling_rules import RULES, rule_key
from emolens.vectors.refit import refit
from emolens.vectors.token_moments import token_moments

pytestmark = pytest.mark.usefixtures("few_dialogues")
TEXTS = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(3 + 2 * i)) for i in range(12)]


def later(ranks):
    return torch.where(ranks >= 2, ranks, 0).float()


@pytest.fixture
def corpus():
    rows = [
        {"emotion": e, "register": "plain", "topic": f"t{t}", "text": f"{e} {TEXTS[t + 6]}"}
        for t in range(5)
        for e in ("calm", "afraid", "angry")
    ]
    return Corpus.from_rows(rows)


# steering-vectors and repeng users: the last token, the mean, or weights of one's own.
@pytest.mark.parametrize(
    ("rule", "by_hand"),
    [
        ("last", lambda x: x[-1]),
        ("mean", lambda x: x.mean(dim=0)),
        (2, lambda x: x[2:].mean(dim=0)),
        (np.int64(2), lambda x: x[2:].mean(dim=0)),
        (later, lambda x: (torch.arange(len(x))[2:, None] * x[2:]).sum(dim=0) / sum(range(2, len(x)))),
        (lambda ranks: ranks >= 1, lambda x: x[1:].mean(dim=0)),
    ],
)
def test_a_rule_gives_the_average_that_it_says(tiny, rule, by_hand):
    for again in (False, True):  # from the cache the second time, where there is one
        means = pool(tiny, TEXTS, rules=rule, progress=False).means(rule, 3)
        for row, text in enumerate(TEXTS):
            expected = by_hand(tiny.forward(text, stop_after=3)[0])
            torch.testing.assert_close(means[row], expected, rtol=1e-4, atol=1e-5, msg=str((again, row)))


def test_a_function_for_which_a_text_is_too_short_gives_nan(tiny):
    means = pool(tiny, TEXTS, rules=lambda ranks: ranks > 3, progress=False)
    short = means.means(means.rules[0], 2).isnan().all(dim=1)
    assert short.tolist() == [len(text.split()) <= 4 for text in TEXTS]


# The case of the report: fit(rank="last") died in a tensor constructor.
@pytest.mark.parametrize("rule", ["last", "mean", 3, later], ids=["last", "mean", "3", "a function"])
def test_a_rule_goes_through_fit_derive_and_refit(tiny, corpus, rule):
    pooled = pool(tiny, corpus.texts, rules=["last", 0, 3, 10, later], progress=False)
    moments = token_moments(tiny, el.corpus.neutral(), progress=False)
    expected = fit(pooled, corpus, moments, rank=rule)
    vectors = el.derive(tiny, corpus, rank=rule, progress=False)
    torch.testing.assert_close(vectors.raw, expected.raw, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(vectors.raw, el.derive(tiny, corpus, progress=False).raw)
    assert torch.equal(el.derive(tiny, corpus, rank=rule, progress=False).raw, vectors.raw)
    json.dumps(vectors.stamp)
    if not callable(rule):  # a function is not in the stamp, so it is given again
        torch.testing.assert_close(refit(tiny, vectors, corpus=corpus).raw, vectors.raw, rtol=1e-4, atol=1e-6)
    again = refit(tiny, vectors, corpus=corpus, rank=rule)
    torch.testing.assert_close(again.raw, vectors.raw, rtol=1e-4, atol=1e-6)


def test_the_keys_of_the_ranks_are_those_of_before(tiny, corpus):
    vectors = el.derive(tiny, corpus, progress=False)
    assert "rank" not in vectors.stamp["recipe"]
    assert pool(tiny, corpus.texts, progress=False).stamp["rules"] == list(RULES)


# Notebooks: a function is edited in its cell and run again under the same name.
def test_an_edited_function_is_another_rule(tiny, monkeypatch):
    first, second = (eval(f"lambda ranks: ranks >= {rank}", {"torch": torch}) for rank in (1, 2))
    assert rule_key(first) != rule_key(second) is not None
    a = pool(tiny, TEXTS, rules=first, progress=False).means(first, 2)
    b = pool(tiny, TEXTS, rules=second, progress=False).means(second, 2)
    assert not torch.equal(a, b)
    ran = passes(monkeypatch)
    assert torch.equal(pool(tiny, TEXTS, rules=first, progress=False).means(first, 2), a) and ran == []


class Rule:
    def __call__(self, ranks):
        return ranks >= 1

    def method(self, ranks):
        return ranks >= 1


def test_what_depends_on_more_than_its_code_is_not_kept(tiny):
    def closed_over(start):
        return lambda ranks: ranks >= start

    from_globals = eval("lambda ranks: ranks >= START", {"START": 1})
    with_default = lambda ranks, start=1: ranks >= start  # noqa: E731
    for rule in (closed_over(1), from_globals, with_default, Rule(), Rule().method, torch.ones_like):
        assert rule_key(rule) is None
        pool(tiny, TEXTS, rules=rule, progress=False)
    assert not list(cache_dir().rglob("*.safetensors"))
    one, two = closed_over(1), closed_over(2)
    pooled = pool(tiny, TEXTS, rules=[one, two], progress=False)
    assert not torch.equal(pooled.means(one, 2), pooled.means(two, 2))


@pytest.mark.parametrize(
    ("rules", "error", "said"),
    [
        ([], ValueError, "name at least one pooling rule"),
        ([0, "mean"], ValueError, "each once"),
        ("lats", ValueError, r"no pooling rule 'lats' \(did you mean last\?\)"),
        ("10", ValueError, "no pooling rule '10'"),
        (-1, ValueError, "negative rank"),
        (1.5, TypeError, "1.5 is no pooling rule"),
        (True, TypeError, "True is no pooling rule"),
        ([None], TypeError, "None is no pooling rule"),
        (lambda ranks: ranks[:, 1:] >= 0, ValueError, r"gave \[12, 24\] for ranks of shape \[12, 25\]"),
        (lambda ranks: ranks[0], ValueError, "gave"),
        (lambda ranks: 1.0, ValueError, "gave float for ranks"),
        (lambda ranks: -ranks.float() - 2, ValueError, "negative or not finite"),
        (lambda ranks: 1 / (ranks.float() * 0), ValueError, "negative or not finite"),
    ],
)
def test_bad_rules_are_named(tiny, rules, error, said):
    pool_ = inspect.unwrap(pool)  # without the check of types that the tests have
    with pytest.raises(error, match=said):
        pool_(tiny, TEXTS, rules=rules, progress=False)


def test_a_bad_rule_of_derive_is_named_before_anything_is_run(tiny, corpus, monkeypatch):
    ran = passes(monkeypatch)
    with pytest.raises(ValueError, match="no pooling rule 'lats'"):
        el.derive(tiny, corpus, rank="lats", progress=False)
    assert ran == []
