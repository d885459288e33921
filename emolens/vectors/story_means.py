"""The mean activation of each story: from which token on a text is averaged, and pooling under all those rules."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.corpus.stories import Corpus
from emolens.models.model import HookedModel
from emolens.vectors.pooling import PooledActivations, pool
from emolens.vectors.pooling_rules import RULES, Rule, check_rule, rule_name

FROM_RANK = {
    "literary": 50,
    "plain": 10,
}  # where the emotion has been established, by the length of the register
READ_FROM_RANK = 10
SHORT = 20  # texts with fewer tokens are read from rank 1: all but the first token, an attention sink


def document_start(tokens: int) -> int:
    """The rank from which a text of so many tokens is averaged as a document.

    >>> [document_start(n) for n in (1, 5, 19, 20, 500)]
    [0, 1, 1, 10, 10]
    """
    return READ_FROM_RANK if tokens >= SHORT else min(1, tokens - 1)


def pool_stories(
    model: HookedModel,
    corpus: Corpus,
    layers: Sequence[int] | None = None,
    rank: Rule | None = None,
    **options: Any,
) -> PooledActivations:
    """`pool` of a corpus under every rule that `fit` and `choose` need: rank 1 too where a story is short, and `rank`.

    >>> pool_stories(model, corpus, [2], cache=False, progress=False).rules
    (0, 10, 20, 50)
    """
    encoded = [encoding.ids for encoding in model.encode_all(corpus.texts)]
    short = min(map(len, encoded), default=SHORT) < SHORT
    rules: tuple[Rule, ...] = tuple(sorted((*RULES, 1))) if short else RULES  # type: ignore[type-var]
    rules = rules if rank is None or rank in rules else (*rules, rank)
    return pool(model, encoded, layers, rules, **options)


def register_ranks(counts: Int[Tensor, "text"], corpus: Corpus) -> dict[str, int]:
    """Rank from which the stories of each register are averaged.

    That of the packaged ones is known (paper, section 3: 50 for its stories), unless the stories here are shorter;
    of others it is 50 where the median story has 120 tokens or more, else 10.

    >>> register_ranks(torch.full((len(corpus),), 90), corpus)
    {'plain': 10}
    """
    lengths: dict[str, list[int]] = {}
    for count, story in zip(counts.tolist(), corpus, strict=True):
        lengths.setdefault(story.register, []).append(count)
    ranks = {}
    for register, found in lengths.items():
        median, known = sorted(found)[len(found) // 2], FROM_RANK.get(register)
        ranks[register] = known if known and median >= known + 10 else 50 if median >= 120 else 10
    return ranks


def story_ranks(counts: Int[Tensor, "text"], corpus: Corpus) -> Int[Tensor, "text"]:
    """Rank from which each story is averaged: its register's, and as in `read` where less than 10 tokens were left.

    In a register of the packaged stories, whose length is known, no story is averaged otherwise than the others.

    >>> tweets = Corpus.from_rows([("sad", "Gone."), ("calm", "A very long tweet."), ("happy", "Yes!")])
    >>> story_ranks(torch.tensor([3, 30, 19]), tweets)
    tensor([ 1, 10,  1])
    """
    by_register = register_ranks(counts, corpus)
    ranks = []
    for count, story in zip(counts.tolist(), corpus, strict=True):
        rank = by_register[story.register]
        ranks.append(rank if count >= rank + 10 or FROM_RANK.get(story.register) == rank else document_start(count))
    return torch.tensor(ranks)


def story_means(
    pooled: PooledActivations, corpus: Corpus, layer: int, from_rank: Rule | None = None
) -> Float[Tensor, "text d_model"]:
    """Each story's mean activation under a rule, by default from where `story_ranks` says (paper, section 3).

    >>> pooled = pool_stories(model, corpus, [2], cache=False, progress=False)
    >>> story_means(pooled, corpus, 2).shape
    torch.Size([36, 32])

    Raises:
        ValueError: a story too short for its register's rule or for `from_rank`, named; activations of other texts.
    """
    if len(pooled.counts) != len(corpus):
        raise ValueError(
            f"the activations are of {len(pooled.counts)} texts and the corpus has {len(corpus)}; pool this corpus"
        )
    if from_rank is None:
        ranks = story_ranks(pooled.counts, corpus)
        means, rules = means_from(pooled, ranks, layer), ranks.tolist()
    else:
        means, rules = pooled.means(check_rule(from_rank), layer), [check_rule(from_rank)] * len(corpus)
    short = means.isnan().any(dim=1).nonzero().flatten().tolist()
    if short:
        story, count, rule = corpus[short[0]], int(pooled.counts[short[0]]), rule_name(rules[short[0]])
        raise ValueError(
            f"{len(short)} stories are too short; the first is number {short[0]} ({story.emotion}, {story.register}) "
            f"with {count} tokens, pooled from rank {rule}: {story.text[:60]!r}. Leave them out, or give their "
            "register another name than the packaged ones, so that short texts are averaged from a lower rank"
        )
    return means


def means_from(pooled: PooledActivations, ranks: Int[Tensor, "text"], layer: int) -> Float[Tensor, "text d_model"]:
    """Each text's mean from its own rank on.

    >>> pooled = pool_stories(model, corpus, [2], cache=False, progress=False)
    >>> means_from(pooled, torch.full((len(corpus),), 10), 2).shape
    torch.Size([36, 32])
    """
    rules = sorted(set(ranks.tolist()))
    x = torch.stack([pooled.means(rule, layer) for rule in rules])
    return x[torch.searchsorted(torch.tensor(rules), ranks), torch.arange(len(ranks))]
