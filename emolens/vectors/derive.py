"""From pooled stories to emotion vectors: contrasts, denoising, whitening, and the choices made on the stories."""

import hashlib
import importlib.metadata
import json
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.engines.engine import Engine
from emolens.files import cache_dir
from emolens.models.hooked import Layers
from emolens.models.model import HookedModel
from emolens.vectors.direction import position_of
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, unit
from emolens.vectors.folds import FOLDS, Folds
from emolens.vectors.pooling import NORM_FROM_RANK, Moments, PooledActivations, TokenMoments, pool, token_moments
from emolens.vectors.pooling_rules import RULES, Rule, check_rule, rule_key, rule_name

FROM_RANK = {
    "literary": 50,
    "plain": 10,
}  # where the emotion has been established, by the length of the register
READ_FROM_RANK = 10
SHORT = 20  # texts with fewer tokens are read from rank 1: all but the first token, an attention sink
SHRINKAGE = (0.1, 0.3, 1.0, 3.0)
EXPLAINED = 0.5
RECIPE = 2  # part of every key; raise it when the numbers that `fit` gives change


@dataclass(frozen=True)
class Layout:
    """Which emotion, register and (register, topic) group each story belongs to.

    >>> layout = Layout.of(corpus)
    >>> layout.emotions[:2], layout.registers, len(layout.group.unique())
    (('afraid', 'angry'), ('plain',), 6)
    """

    emotions: tuple[str, ...]
    registers: tuple[str, ...]
    emotion: Int[Tensor, "text"]
    register: Int[Tensor, "text"]
    group: Int[Tensor, "text"]

    @classmethod
    def of(cls, corpus: Corpus) -> "Layout":
        """The layout of a corpus; see `Layout`."""
        emotions = tuple(corpus.emotions)
        registers = tuple(dict.fromkeys(story.register for story in corpus))
        groups = list(dict.fromkeys((story.register, story.topic) for story in corpus))
        row = {name: i for i, name in enumerate(emotions)}
        return cls(
            emotions,
            registers,
            torch.tensor([row[story.emotion] for story in corpus]),
            torch.tensor([registers.index(story.register) for story in corpus]),
            torch.tensor([groups.index((story.register, story.topic)) for story in corpus]),
        )

    def keep(self, rows: Bool[Tensor, "text"]) -> "Layout":
        """The same for some of the stories, with every emotion, register and group under its number.

        >>> layout = Layout.of(corpus)
        >>> layout.keep(layout.emotion == 2).emotion
        tensor([2, 2, 2, 2, 2, 2])
        """
        return Layout(self.emotions, self.registers, self.emotion[rows], self.register[rows], self.group[rows])

    def told_beside_others(self) -> Bool[Tensor, "emotion"]:
        """Which emotions have a story in a group that another emotion is in too; centring erases those of others.

        >>> Layout.of(corpus).told_beside_others().all()
        tensor(True)
        """
        there = torch.zeros(int(self.group.max()) + 1 if len(self.group) else 0, len(self.emotions), dtype=torch.bool)
        there[self.group, self.emotion] = True
        return (there & (there.sum(dim=1, keepdim=True) > 1)).any(dim=0)


def group_mean(x: Float[Tensor, "text d_model"], code: Int[Tensor, "text"], n: int) -> Float[Tensor, "group d_model"]:
    """Mean of the rows with each code; a group without rows is NaN.

    >>> group_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    tensor([[2.], [nan], [5.]])
    """
    total = torch.zeros(n, x.shape[1], dtype=x.dtype).index_add_(0, code, x)
    return total / torch.bincount(code, minlength=n)[:, None]


def contrast(
    x: Float[Tensor, "text d_model"], layout: Layout
) -> tuple[Float[Tensor, "emotion d_model"], Float[Tensor, "text d_model"]]:
    """Raw emotion vectors and what is left of each story.

    Stories are centred within register and topic, averaged over each emotion's stories within a register,
    then over registers with the same weight, so that register and topic cancel. The residual is the story
    less its topic's and its emotion's mean: the noise. An emotion without a story is NaN.

    >>> x = torch.randn(len(corpus), 3)
    >>> raw, residual = contrast(x, Layout.of(corpus))
    >>> raw.shape, bool(raw.mean(dim=0).abs().max() < 1e-6)
    (torch.Size([6, 3]), True)
    """
    x = x.double()
    centred = x - group_mean(x, layout.group, int(layout.group.max()) + 1)[layout.group]
    n = len(layout.emotions)
    cell = layout.register * n + layout.emotion
    means = group_mean(centred, cell, n * len(layout.registers))
    vectors = means.view(len(layout.registers), n, -1).nanmean(dim=0)
    present = torch.bincount(layout.emotion, minlength=n) > 0
    return (vectors - vectors[present].mean(dim=0)).float(), (centred - means[cell]).float()


def whiten(
    vectors: Float[Tensor, "emotion d_model"],
    residual: Float[Tensor, "text d_model"],
    shrinkage: Sequence[float],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each shrinkage: readout directions `W W v / |W v|`, the noise's eigenvectors, and W's scale on each.

    `W = (S + a tr(S)/d I)^(-1/2)` with S the covariance of the residuals. With a single story for each emotion
    and register there are no residuals, and W is the identity.

    >>> directions, basis, scale = whiten(torch.randn(3, 4), torch.randn(50, 4), [1.0])[0]
    >>> directions.shape, basis.shape, scale.shape
    (torch.Size([3, 4]), torch.Size([4, 4]), torch.Size([4]))

    Raises:
        ValueError: no shrinkage, or one that is not above 0.
    """
    if not len(shrinkage) or not all(0 < a < math.inf for a in shrinkage):
        raise ValueError(f"shrinkage is {list(shrinkage)}; give finite numbers above 0, such as {list(SHRINKAGE)}")
    values, basis = torch.linalg.eigh(residual.double().T @ residual.double() / len(residual))
    known = float(values.mean()) > 1e-12 * float(vectors.double().square().mean())
    out = []
    for a in shrinkage:
        scale = (values.clamp(min=0) + a * values.mean()).rsqrt() if known else torch.ones_like(values)
        inside = vectors.double() @ basis * scale
        out.append(((unit(inside) * scale @ basis.T).float(), basis.T.float(), scale.float()))
    return out


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
        means, rules = _means(pooled, ranks, layer), ranks.tolist()
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


def _means(pooled: PooledActivations, ranks: Int[Tensor, "text"], layer: int) -> Float[Tensor, "text d_model"]:
    """Each text's mean from its own rank on."""
    rules = sorted(set(ranks.tolist()))
    x = torch.stack([pooled.means(rule, layer) for rule in rules])
    return x[torch.searchsorted(torch.tensor(rules), ranks), torch.arange(len(ranks))]


def rank_matrix(scores: Float[Tensor, "text emotion"]) -> Int[Tensor, "text emotion"]:
    """Rank of every emotion in each row, 1 being the highest score.

    >>> rank_matrix(torch.tensor([[0.1, 0.9, 0.5]]))
    tensor([[3, 1, 2]])
    """
    return scores.argsort(dim=1, descending=True).argsort(dim=1) + 1


def choose(
    pooled: PooledActivations,
    corpus: Corpus,
    neutral: TokenMoments,
    shrinkage: Sequence[float] = SHRINKAGE,
    folds: int = FOLDS,
    progress: bool = True,
    rank: Rule | None = None,
) -> list[dict[str, Any]]:
    """Leave topics out: fit on the others, recognise the emotion of the stories left out, for each layer and method.

    The stories left out are read as any text is (from rank 10, short ones from rank 1, centred on their set). Where
    topics cannot be left out, single stories are; see `Folds`. A story is not asked for when nothing of another
    emotion is left out in its register. Returns rows of method, layer, shrinkage, first, first_five and mean
    reciprocal rank (mrr); none where no story could be left out.

    >>> moments = el.vectors.pooling.token_moments(model, el.corpus.neutral(), [2], progress=False)
    >>> sweep = choose(pool_stories(model, corpus, [2], cache=False, progress=False), corpus, moments, progress=False)
    >>> [(row["method"], row["shrinkage"]) for row in sweep[:3]]
    [('raw', None), ('denoised', None), ('whitened', 0.1)]

    Raises:
        ValueError: fewer than two folds, no shrinkage or one not above 0, a story too short for its register.
    """
    layout, parts = Layout.of(corpus), Folds.of(corpus, folds)
    start = torch.tensor([document_start(count) for count in pooled.counts.tolist()])
    rows = []
    said = f"leaving {'topics' if parts.by == 'topic' else 'stories'} out"
    for layer in tqdm(pooled.layers, desc=said, disable=not progress):
        fitted, query = story_means(pooled, corpus, layer, rank), _means(pooled, start, layer)
        basis = neutral.components(layer, EXPLAINED)
        found: dict[tuple[str, float | None], list[Tensor]] = {}
        for number in range(parts.number):
            train, test = parts.fold != number, parts.fold == number
            known, held = layout.keep(train), layout.keep(test)
            several = Layout(held.emotions, held.registers, held.emotion, held.register, held.register)
            asked = (several.told_beside_others() & known.told_beside_others())[held.emotion]
            if not asked.any():
                continue
            vectors, residual = contrast(fitted[train], known)
            x = query[test] - group_mean(query[test], held.register, len(held.registers))[held.register]
            directions: dict[tuple[str, float | None], Tensor] = {
                ("raw", None): unit(vectors),
                ("denoised", None): unit(vectors - vectors @ basis.T @ basis),
            }
            whitened = whiten(vectors, residual, shrinkage)
            directions |= {("whitened", a): part[0] for a, part in zip(shrinkage, whitened, strict=True)}
            for key, matrix in directions.items():
                ranks = rank_matrix(x @ matrix.T).gather(1, held.emotion[:, None])[:, 0]
                found.setdefault(key, []).append(ranks[asked])
        for (method, a), ranked in found.items():
            r = torch.cat(ranked)
            score = {"first": (r <= 1).float(), "first_five": (r <= 5).float(), "mrr": 1 / r}
            rows.append(
                {"method": method, "layer": layer, "shrinkage": a} | {k: float(v.mean()) for k, v in score.items()}
            )
    return rows


def best(sweep: Sequence[dict[str, Any]], method: str) -> dict[str, Any]:
    """The row of highest mean reciprocal rank for a method.

    >>> best([{"method": "raw", "layer": 1, "mrr": 0.2}, {"method": "raw", "layer": 2, "mrr": 0.3}], "raw")["layer"]
    2

    Raises:
        ValueError: no row of this method.
    """
    rows = [row for row in sweep if row["method"] == method]
    if not rows:
        raise ValueError(f"the sweep has no row of the method {method!r}")
    return max(rows, key=lambda row: row["mrr"])


def fit(
    pooled: PooledActivations,
    corpus: Corpus,
    neutral: Moments,
    shrinkage: float = 1.0,
    keep: Bool[Tensor, "text"] | None = None,
    layers: Sequence[int] | None = None,
    stamp: dict[str, Any] | None = None,
    rank: Rule | None = None,
) -> EmotionVectors:
    """Emotion vectors from pooled stories (paper, section 3), with the whitened readout of this project beside them.

    The reliability of an emotion is NaN where it cannot be measured: a single text cannot be halved. Its mean over
    emotions is therefore taken with `nanmean`.

    >>> moments = el.vectors.pooling.token_moments(model, el.corpus.neutral(), [2], progress=False)
    >>> fit(pool_stories(model, corpus, [2], cache=False, progress=False), corpus, moments).raw.shape
    torch.Size([6, 1, 32])

    Args:
        keep: fit on these stories only (half of the topics, one register, ...).
        shrinkage: a of the whitening.
        rank: average every story from this rank on, or by another rule that was pooled (see `pool`): "last",
            "mean", a function; default from rank 50 on for long registers, from 10 on for short ones.

    Raises:
        ValueError: stories of fewer than two emotions; a story too short; a layer, rule or corpus that was not pooled.
    """
    layers = pooled.layers if layers is None else tuple(layers)
    if not layers:
        raise ValueError("layers is empty: give at least one block, or None for all that were pooled")
    keep = torch.ones(len(corpus), dtype=torch.bool) if keep is None else _checked(keep, corpus)
    kept = Corpus(tuple(story for story, chosen in zip(corpus, keep.tolist(), strict=True) if chosen))
    layout, (half, measured) = Layout.of(kept), _halves(kept)
    per_layer = []
    for layer in layers:
        x = story_means(pooled, corpus, layer, rank)[keep]
        vectors, residual = contrast(x, layout)
        directions, noise, scale = whiten(vectors, residual, [shrinkage])[0]
        basis = neutral.components(layer, EXPLAINED)
        sides = [contrast(x[half == side], layout.keep(half == side))[0][measured] for side in (0, 1) if measured.any()]
        stories = group_mean(x, layout.register, len(layout.registers)).nanmean(dim=0)
        halved = _split_half(sides, measured, basis, noise, scale)
        per_layer.append((vectors, directions, noise, scale, basis, *halved, stories))
    raw, whitened, noises, scales, bases, same, others, centre = (list(part) for part in zip(*per_layer, strict=True))
    width = max(len(basis) for basis in bases)
    return EmotionVectors(
        emotions=layout.emotions,
        layers=tuple(layers),
        raw=torch.stack(raw, dim=1),
        whitened=torch.stack(whitened, dim=1),
        neutral_basis=torch.stack([torch.nn.functional.pad(b, (0, 0, 0, width - len(b))) for b in bases]),
        noise_basis=torch.stack(noises),
        noise_scale=torch.stack([torch.cat([s, s[:1]]) for s in scales]),
        centre_stories=torch.stack(centre),
        centre_neutral=neutral.mean[[position_of(neutral.layers, layer) for layer in layers]],
        residual_norm=_residual_norm(pooled, neutral, layers),
        reliability=torch.stack(same, dim=2),
        reliability_null=torch.stack(others, dim=2),
        stamp=stamp or {"fingerprint": pooled.stamp["fingerprint"]},
    )


def _residual_norm(pooled: PooledActivations, neutral: Moments, layers: Sequence[int]) -> Float[Tensor, "layer"]:
    """Mean norm of the stories' tokens from rank 10 on; where no story is so long, that of the neutral tokens."""
    if not isinstance(neutral, TokenMoments) or (pooled.counts > NORM_FROM_RANK).any():
        return pooled.residual_norm[[position_of(pooled.layers, layer) for layer in layers]]
    rows = [position_of(neutral.layers, layer) for layer in layers]
    variance = neutral.covariance[rows].diagonal(dim1=1, dim2=2).sum(dim=1)
    return (variance + neutral.mean[rows].square().sum(dim=1)).sqrt()


def _checked(keep: Bool[Tensor, "kept"], corpus: Corpus) -> Bool[Tensor, "text"]:
    """`keep`, if it says of each story whether it is kept, and keeps two emotions."""
    if keep.shape != (len(corpus),):
        raise ValueError(f"keep has {len(keep)} entries and the corpus {len(corpus)} stories: give one for each story")
    emotions = {story.emotion for story, chosen in zip(corpus, keep.tolist(), strict=True) if chosen}
    if len(emotions) < 2:
        raise ValueError(f"keep leaves stories of {len(emotions)} emotions; at least two are needed")
    return keep


def _halves(corpus: Corpus) -> tuple[Int[Tensor, "text"], Bool[Tensor, "emotion"]]:
    """Which half each story is in for the split-half reliability, and for which emotions it can be measured."""
    half, layout = Folds.of(corpus, 2).fold, Layout.of(corpus)
    first, second = (layout.keep(half == side).told_beside_others() for side in (0, 1))
    return half, first & second


def _split_half(
    sides: list[Tensor], measured: Bool[Tensor, "emotion"], basis: Tensor, noise: Tensor, scale: Tensor
) -> tuple[Float[Tensor, "method emotion"], Float[Tensor, "method bound"]]:
    """Cosine of each emotion's vectors from two halves (raw, denoised, whitened by the W of all stories).

    And its null: the 2.5 and 97.5 % quantiles of the cosines between different emotions. NaN where not measured.
    """
    same, bounds = torch.full((len(METHODS), len(measured)), torch.nan), torch.full((len(METHODS), 2), torch.nan)
    if sides:
        ways = (lambda v: v, lambda v: v - v @ basis.T @ basis, lambda v: v @ noise.T * scale)
        cosines = torch.stack([unit(way(sides[0])) @ unit(way(sides[1])).T for way in ways])
        same[:, measured] = cosines.diagonal(dim1=1, dim2=2)
        others = cosines[:, ~torch.eye(cosines.shape[1], dtype=torch.bool)]
        if others.shape[1]:
            bounds = others.quantile(torch.tensor([0.025, 0.975]), dim=1).T
    return same, bounds


def derive(
    model: HookedModel,
    corpus: Any = None,
    layers: Layers | None = None,
    *,
    emotions: Sequence[str] = (),
    cache: bool | str | Path = True,
    engine: Engine | None = None,
    progress: bool = True,
    token_budget: int = 2048,
    rank: Rule | None = None,
) -> EmotionVectors:
    """Emotion vectors of a model, from the packaged stories or your own: the whole recipe in one call.

    One pass over the stories and one over the neutral dialogues; then the shrinkage of the whitening and
    the best layer of each readout are chosen by leaving topics out of the stories. Everything is kept in
    the user's cache folder: a run that was killed goes on where it stopped, a second call takes seconds. Under
    steering or hooks of your own nothing is read from that folder or written to it. Your own stories are kept there
    too, so that studies find them by the stamp of their vectors.

    Short texts are averaged from a lower rank, as `read` does (and where none has more than 10 tokens, the residual
    norm, the unit of steering strength, is that of the neutral dialogues). Emotions with a single text get a vector,
    but no reliability (it is NaN). A warning says either; the stamp says how stories were left out ("folds").

    >>> derive(model, corpus, [1, 2], cache=False, progress=False)
    EmotionVectors(6 emotions, layers 1 to 2, tiny-llama)
    >>> derive(model, corpus, layers=[2, 3], rank="last", cache=False, progress=False)
    EmotionVectors(6 emotions, layers 2 to 3, tiny-llama)

    Args:
        corpus: default the packaged 3,078 stories in two registers. Else a `Corpus`, the path of a JSON Lines file,
            or rows: see `Corpus.from_rows`.
        layers: blocks; default all.
        emotions: names that must be in the corpus.
        cache, engine: of the pass over the stories, see `pool`; whatever `cache` names, vectors are kept in the user's
            cache folder. The neutral dialogues are run in this process.
        rank: the rule that the stories are averaged by, see `fit` and `pool`.

    Raises:
        ValueError: a corpus with one emotion or without one that was asked for, an empty or too short story, no
            layer or one out of range, an activation that is not finite.
    """
    corpus = texts.stories() if corpus is None else Corpus.of(corpus)
    corpus.check(emotions)
    layers, rank = model.check_layers(layers), None if rank is None else check_rule(rank)
    cache = model.is_plain and (rank is None or rule_key(rank) is not None) and cache
    options: dict[str, Any] = {"token_budget": token_budget, "cache": cache, "engine": engine, "progress": progress}
    pooled = pool_stories(model, corpus, layers, rank, **options)
    _warn_of_thin_places(corpus, pooled)
    about = _about(model, pooled, corpus, rank)
    identity = [model.name, pooled.stamp, corpus.hash, RECIPE, *([] if rank is None else [about["recipe"]["rank"]])]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_dir() / "vectors" / f"{about['fingerprint']}-{key}.safetensors"
    if cache and not (own := corpus_path(corpus.hash)).exists() and corpus.hash != texts.stories().hash:
        corpus.to_jsonl(own)
    if cache and path.exists():
        with suppress(ValueError):  # damaged or exchanged: fitting again from the pooled shards takes a minute
            return _kept(path, model, about, pooled.layers, tuple(corpus.emotions))
    neutral = token_moments(model, texts.neutral(), pooled.layers, token_budget=token_budget, progress=progress)
    sweep = choose(pooled, corpus, neutral, progress=progress, rank=rank)
    stamp = about | _choices(model, corpus, pooled, sweep)
    vectors = fit(pooled, corpus, neutral, stamp["chosen"]["whitened"]["shrinkage"], stamp=stamp, rank=rank)
    if cache:
        vectors.save(path)
    return vectors


def corpus_path(digest: str) -> Path:
    """Where `derive` keeps stories of one's own, by the hash of their corpus.

    >>> corpus_path(corpus.hash).name == f"{corpus.hash}.jsonl"
    True
    """
    return cache_dir() / "corpora" / f"{digest}.jsonl"


def _choices(
    model: HookedModel, corpus: Corpus, pooled: PooledActivations, sweep: list[dict[str, Any]]
) -> dict[str, Any]:
    """The part of the stamp that says what was chosen on the stories, and how."""
    parts, halves = Folds.of(corpus), Folds.of(corpus, 2)
    if not sweep:
        warnings.warn(
            "no story can be left out and asked for: an emotion needs two different texts, beside those of others. "
            "Layer and shrinkage are not chosen on the stories; they are the model's default layer and 1",
            stacklevel=3,
        )
    return {
        "folds": {"by": parts.by, "number": parts.number, "halves": halves.by},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "transformer-lens")},
        "chosen": {method: best(sweep, method) if sweep else _unchosen(model, pooled, method) for method in METHODS},
        "sweep": sweep,
    }


def _about(model: HookedModel, pooled: PooledActivations, corpus: Corpus, rank: Rule | None) -> dict[str, Any]:
    """The part of the stamp that is known before anything is fitted."""
    recipe = {
        "fit": RECIPE,
        "pooling": pooled.stamp["recipe"],
        "from_rank": register_ranks(pooled.counts, corpus),
        "explained": EXPLAINED,
    }
    if rank is not None:
        key = rule_key(rank)
        recipe["rank"] = rule_name(rank) if key is None else key
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": pooled.stamp["fingerprint"],
        "architecture": getattr(model.bridge.cfg, "architecture", None) or model.name,
        "default_layer": model.default_layer,
        "layers": list(pooled.layers),
        "dtype": pooled.stamp["dtype"],
        "quantised": model.quantised,
        "corpus": corpus.hash,
        "recipe": recipe,
    }


def _kept(
    path: Path, model: HookedModel, about: dict[str, Any], layers: tuple[int, ...], emotions: tuple[str, ...]
) -> EmotionVectors:
    """Vectors of an earlier call. Raises ValueError for a damaged file, or one that holds other vectors."""
    vectors = EmotionVectors.load(path, model)
    # A stamp of before says nothing of quantised weights; the fingerprint says that they are the same.
    vectors = replace(vectors, stamp={"quantised": about["quantised"]} | vectors.stamp)
    held = {name: vectors.stamp.get(name) for name in about if name != "revision"}
    if held | {"revision": about["revision"]} != about or (vectors.layers, vectors.emotions) != (layers, emotions):
        raise ValueError(f"{path} holds other vectors")
    return vectors


def _unchosen(model: HookedModel, pooled: PooledActivations, method: str) -> dict[str, Any]:
    """The row that stands for a choice where no story could be left out, which `derive` warns of."""
    layer = model.default_layer
    layer = layer if layer in pooled.layers else pooled.layers[len(pooled.layers) // 2]
    unknown = dict.fromkeys(("first", "first_five", "mrr"))
    return {"method": method, "layer": layer, "shrinkage": 1.0 if method == "whitened" else None} | unknown


def _warn_of_thin_places(corpus: Corpus, pooled: PooledActivations) -> None:
    """Warnings of what a corpus is too small for, each with what was done instead."""
    counts = pooled.counts
    usual = register_ranks(counts, corpus)
    lowered = story_ranks(counts, corpus) < torch.tensor([usual[story.register] for story in corpus])
    if lowered.any():
        first = int(lowered.nonzero()[0])
        warnings.warn(
            f"{int(lowered.sum())} of {len(corpus)} stories are short, the first number {first} with "
            f"{int(counts[first])} tokens: they are averaged from a lower rank than {usual[corpus[first].register]}, "
            f"those of fewer than {SHORT} tokens from rank 1, as `read` does",
            stacklevel=3,
        )
    measured = _halves(corpus)[1].tolist()
    unmeasured = [emotion for emotion, known in zip(corpus.emotions, measured, strict=True) if not known]
    if unmeasured:
        named = ", ".join(map(repr, unmeasured[:5])) + (f" and {len(unmeasured) - 5} more" if unmeasured[5:] else "")
        warnings.warn(
            f"the reliability of {named} cannot be measured and is NaN: their stories cannot be halved. Give at least "
            "two different texts for each emotion",
            stacklevel=3,
        )
