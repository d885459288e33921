"""From pooled stories to emotion vectors: contrasts, denoising, whitening, and the choices made on the stories."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.files import cache_dir
from emolens.models.hooked import Layers
from emolens.models.model import HookedModel
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors, unit
from emolens.vectors.pooling import (
    RULES,
    Moments,
    PooledActivations,
    Rule,
    TokenMoments,
    check_rule,
    pool,
    rule_key,
    rule_name,
    token_moments,
)

FROM_RANK = {
    "literary": 50,
    "plain": 10,
}  # where the emotion has been established, by the length of the register
READ_FROM_RANK = 10
SHRINKAGE = (0.1, 0.3, 1.0, 3.0)
EXPLAINED = 0.5
RECIPE = 1  # part of every key; raise it when the numbers that `fit` gives change


@dataclass(frozen=True)
class Layout:
    """Which emotion, register and (register, topic) group each story belongs to."""

    emotions: tuple[str, ...]
    registers: tuple[str, ...]
    emotion: Int[Tensor, "text"]
    register: Int[Tensor, "text"]
    group: Int[Tensor, "text"]

    @classmethod
    def of(cls, corpus: Corpus) -> "Layout":
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
        return Layout(self.emotions, self.registers, self.emotion[rows], self.register[rows], self.group[rows])


def group_mean(x: Float[Tensor, "text d_model"], code: Int[Tensor, "text"], n: int) -> Float[Tensor, "group d_model"]:
    """Mean of the rows with each code; a group without rows is NaN."""
    total = torch.zeros(n, x.shape[1], dtype=x.dtype).index_add_(0, code, x)
    return total / torch.bincount(code, minlength=n)[:, None]


def contrast(
    x: Float[Tensor, "text d_model"], layout: Layout
) -> tuple[Float[Tensor, "emotion d_model"], Float[Tensor, "text d_model"]]:
    """Raw emotion vectors and what is left of each story.

    Stories are centred within register and topic, averaged over each emotion's stories within a register,
    then over registers with the same weight, so that register and topic cancel. The residual is the story
    less its topic's and its emotion's mean: the noise.
    """
    x = x.double()
    centred = x - group_mean(x, layout.group, int(layout.group.max()) + 1)[layout.group]
    n = len(layout.emotions)
    cell = layout.register * n + layout.emotion
    means = group_mean(centred, cell, n * len(layout.registers))
    vectors = means.view(len(layout.registers), n, -1).nanmean(dim=0)
    return (vectors - vectors.mean(dim=0)).float(), (centred - means[cell]).float()


def whiten(
    vectors: Float[Tensor, "emotion d_model"],
    residual: Float[Tensor, "text d_model"],
    shrinkage: Sequence[float],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each shrinkage: readout directions `W W v / |W v|`, the noise's eigenvectors, and W's scale on each.

    `W = (S + a tr(S)/d I)^(-1/2)` with S the covariance of the residuals. With a single story for each emotion
    and register there are no residuals, and W is the identity.
    """
    values, basis = torch.linalg.eigh(residual.double().T @ residual.double() / len(residual))
    known = float(values.mean()) > 1e-12 * float(vectors.double().square().mean())
    out = []
    for a in shrinkage:
        scale = (values.clamp(min=0) + a * values.mean()).rsqrt() if known else torch.ones_like(values)
        inside = vectors.double() @ basis * scale
        out.append(((unit(inside) * scale @ basis.T).float(), basis.T.float(), scale.float()))
    return out


def story_means(
    pooled: PooledActivations, corpus: Corpus, layer: int, from_rank: Rule | None = None
) -> Float[Tensor, "text d_model"]:
    """Each story's mean activation under the rule `from_rank`, by default its register's rank (paper, section 3).

    Raises:
        ValueError: a story too short for its register's rule, named.
    """
    fixed = None if from_rank is None else check_rule(from_rank)
    rank = [register_rank(story.register, pooled, corpus) if fixed is None else fixed for story in corpus]
    rules = list(dict.fromkeys(rank))
    x = torch.stack([pooled.means(rule, layer) for rule in rules])
    means = x[[rules.index(rule) for rule in rank], torch.arange(len(rank))]
    short = means.isnan().any(dim=1).nonzero().flatten().tolist()
    if short:
        story, rule = corpus[short[0]], rule_name(rank[short[0]])
        raise ValueError(
            f"{len(short)} stories are too short; the first is number {short[0]} ({story.emotion}, {story.register}) "
            f"with {int(pooled.counts[short[0]])} tokens, pooled from rank {rule}: {story.text[:60]!r}"
        )
    return means


def register_rank(register: str, pooled: PooledActivations, corpus: Corpus) -> int:
    """Rank from which stories of a register are averaged: known for the packaged ones, else by their median length."""
    if register in FROM_RANK:
        return FROM_RANK[register]
    counts = [count for count, story in zip(pooled.counts.tolist(), corpus, strict=True) if story.register == register]
    return 50 if sorted(counts)[len(counts) // 2] >= 120 else 10


def rank_matrix(scores: Float[Tensor, "text emotion"]) -> Int[Tensor, "text emotion"]:
    """Rank of every emotion in each row, 1 being the highest score."""
    return scores.argsort(dim=1, descending=True).argsort(dim=1) + 1


def choose(
    pooled: PooledActivations,
    corpus: Corpus,
    neutral: TokenMoments,
    shrinkage: Sequence[float] = SHRINKAGE,
    folds: int = 6,
    progress: bool = True,
    rank: Rule | None = None,
) -> list[dict[str, Any]]:
    """Leave topics out: fit on the others, recognise the emotion of the stories left out, for each layer and method.

    The stories left out are read as any text is (from rank 10, centred on their set). Returns rows of
    method, layer, shrinkage, first, first_five and mean reciprocal rank (mrr).
    """
    layout = Layout.of(corpus)
    fold = torch.tensor([_fold_of_group(corpus, folds)[(s.register, s.topic)] for s in corpus])
    rows = []
    for layer in tqdm(pooled.layers, desc="leaving topics out", disable=not progress):
        fitted, query = story_means(pooled, corpus, layer, rank), pooled.means(READ_FROM_RANK, layer)
        basis = neutral.components(layer, EXPLAINED)
        found: dict[tuple[str, float | None], list[Tensor]] = {}
        for number in range(folds):
            train, test = fold != number, fold == number
            vectors, residual = contrast(fitted[train], layout.keep(train))
            held = layout.keep(test)
            x = query[test] - group_mean(query[test], held.register, len(held.registers))[held.register]
            directions: dict[tuple[str, float | None], Tensor] = {
                ("raw", None): unit(vectors),
                ("denoised", None): unit(vectors - vectors @ basis.T @ basis),
            }
            whitened = whiten(vectors, residual, shrinkage)
            directions |= {("whitened", a): part[0] for a, part in zip(shrinkage, whitened, strict=True)}
            for key, matrix in directions.items():
                ranks = rank_matrix(x @ matrix.T).gather(1, held.emotion[:, None])[:, 0]
                found.setdefault(key, []).append(ranks)
        for (method, a), parts in found.items():
            r = torch.cat(parts)
            score = {"first": (r <= 1).float(), "first_five": (r <= 5).float(), "mrr": 1 / r}
            rows.append(
                {"method": method, "layer": layer, "shrinkage": a} | {k: float(v.mean()) for k, v in score.items()}
            )
    return rows


def _fold_of_group(corpus: Corpus, folds: int) -> dict[tuple[str, str], int]:
    """Deals the topics of each register over the folds, in order of their name."""
    out = {}
    for register in dict.fromkeys(s.register for s in corpus):
        for number, topic in enumerate(sorted({s.topic for s in corpus if s.register == register})):
            out[(register, topic)] = number % folds
    return out


def best(sweep: Sequence[dict[str, Any]], method: str) -> dict[str, Any]:
    """The row of highest mean reciprocal rank for a method."""
    return max((row for row in sweep if row["method"] == method), key=lambda row: row["mrr"])


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

    Args:
        keep: fit on these stories only (half of the topics, one register, ...).
        shrinkage: a of the whitening.
        rank: average every story from this rank on, or by another rule that was pooled (see `pool`): "last",
            "mean", a function; default from rank 50 on for long registers, from 10 on for short ones.
    """
    layers = pooled.layers if layers is None else tuple(layers)
    keep = torch.ones(len(corpus), dtype=torch.bool) if keep is None else keep
    layout = Layout.of(Corpus(tuple(story for story, kept in zip(corpus, keep.tolist(), strict=True) if kept)))
    # Two halves of the topics for the split-half reliability; a corpus with a single topic is halved by story.
    fold = torch.tensor([_fold_of_group(corpus, 2)[(s.register, s.topic)] for s in corpus])[keep]
    fold = fold if fold.unique().numel() == 2 else torch.arange(len(fold)) % 2
    per_layer = []
    for layer in layers:
        x = story_means(pooled, corpus, layer, rank)[keep]
        vectors, residual = contrast(x, layout)
        directions, noise, scale = whiten(vectors, residual, [shrinkage])[0]
        basis = neutral.components(layer, EXPLAINED)
        halves = [contrast(x[fold == half], layout.keep(fold == half))[0] for half in (0, 1)]
        stories = group_mean(x, layout.register, len(layout.registers)).nanmean(dim=0)
        halved = _split_half(halves, basis, noise, scale)
        per_layer.append((vectors, directions, noise, scale, basis, *halved, stories))
    raw, whitened, noises, scales, bases, same, others, centre = (list(part) for part in zip(*per_layer, strict=True))
    width = max(len(basis) for basis in bases)
    rows = [pooled.layers.index(layer) for layer in layers]
    return EmotionVectors(
        emotions=layout.emotions,
        layers=tuple(layers),
        raw=torch.stack(raw, dim=1),
        whitened=torch.stack(whitened, dim=1),
        neutral_basis=torch.stack([torch.nn.functional.pad(b, (0, 0, 0, width - len(b))) for b in bases]),
        noise_basis=torch.stack(noises),
        noise_scale=torch.stack([torch.cat([s, s[:1]]) for s in scales]),
        centre_stories=torch.stack(centre),
        centre_neutral=neutral.mean[[neutral.layers.index(layer) for layer in layers]],
        residual_norm=pooled.residual_norm[rows],
        reliability=torch.stack(same, dim=2),
        reliability_null=torch.stack(others, dim=2),
        stamp=stamp or {"fingerprint": pooled.stamp["fingerprint"]},
    )


def _split_half(
    halves: list[Tensor], basis: Tensor, noise: Tensor, scale: Tensor
) -> tuple[Float[Tensor, "method emotion"], Float[Tensor, "method bound"]]:
    """Cosine of each emotion's vectors from two halves (raw, denoised, whitened by the W of all stories).

    And its null: the 2.5 and 97.5 % quantiles of the cosines between different emotions.
    """
    ways = (lambda v: v, lambda v: v - v @ basis.T @ basis, lambda v: v @ noise.T * scale)
    cosines = torch.stack([unit(way(halves[0])) @ unit(way(halves[1])).T for way in ways])
    others = cosines[:, ~torch.eye(cosines.shape[1], dtype=torch.bool)]
    return cosines.diagonal(dim1=1, dim2=2), others.quantile(torch.tensor([0.025, 0.975]), dim=1).T


def derive(
    model: HookedModel,
    corpus: Corpus | None = None,
    layers: Layers = None,
    *,
    emotions: Sequence[str] = (),
    cache: bool = True,
    progress: bool = True,
    token_budget: int = 2048,
    rank: Rule | None = None,
) -> EmotionVectors:
    """Emotion vectors of a model, from the packaged stories or your own: the whole recipe in one call.

    One pass over the stories and one over the neutral dialogues; then the shrinkage of the whitening and
    the best layer of each readout are chosen by leaving topics out of the stories. Everything is kept in
    the user's cache folder: a run that was killed goes on where it stopped, a second call takes seconds. Under
    steering or hooks of your own nothing is read from that folder or written to it.

    Args:
        corpus: default the packaged 3,078 stories in two registers.
        layers: blocks; default all.
        emotions: names that must be in the corpus.
        rank: the rule that the stories are averaged by, see `fit` and `pool`.

    Raises:
        ValueError: a corpus with one emotion or without one that was asked for, an empty or too short story, an
            activation that is not finite.

    >>> el.derive(model, corpus, layers=[2, 3], rank="last", progress=False)
    EmotionVectors(6 emotions, layers 2 to 3, tiny-llama)
    """
    corpus = texts.stories() if corpus is None else corpus
    corpus.check(emotions)
    rank = None if rank is None else check_rule(rank)
    blocks = model.check_layers(layers)
    rules = RULES if rank is None or rank in RULES else (*RULES, rank)
    cache = cache and model.is_plain and (rank is None or rule_key(rank) is not None)
    pooled = pool(model, corpus.texts, blocks, rules, token_budget=token_budget, cache=cache, progress=progress)
    about = _about(model, pooled, corpus, rank)
    identity = [model.name, pooled.stamp, corpus.hash, RECIPE, *([] if rank is None else [about["recipe"]["rank"]])]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_dir() / "vectors" / f"{about['fingerprint']}-{key}.safetensors"
    if cache and path.exists():
        with suppress(ValueError):  # damaged or exchanged: fitting again from the pooled shards takes a minute
            return _kept(path, model, about, pooled.layers, tuple(corpus.emotions))
    neutral = token_moments(model, texts.neutral(), pooled.layers, token_budget=token_budget, progress=progress)
    sweep = choose(pooled, corpus, neutral, progress=progress, rank=rank)
    chosen = {method: best(sweep, method) for method in METHODS}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "transformer-lens")}
    stamp = about | {"versions": versions, "chosen": chosen, "sweep": sweep}
    vectors = fit(pooled, corpus, neutral, chosen["whitened"]["shrinkage"], stamp=stamp, rank=rank)
    if cache:
        vectors.save(path)
    return vectors


def _about(model: HookedModel, pooled: PooledActivations, corpus: Corpus, rank: Rule | None) -> dict[str, Any]:
    """The part of the stamp that is known before anything is fitted."""
    recipe = {"fit": RECIPE, "pooling": pooled.stamp["recipe"], "from_rank": FROM_RANK, "explained": EXPLAINED}
    if rank is not None:
        key = rule_key(rank)
        recipe["rank"] = rule_name(rank) if key is None else key
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": pooled.stamp["fingerprint"],
        "architecture": getattr(model.bridge.cfg, "architecture", None) or model.name,
        "default_layer": model.default_layer,
        "dtype": pooled.stamp["dtype"],
        "corpus": corpus.hash,
        "recipe": recipe,
    }


def _kept(
    path: Path, model: HookedModel, about: dict[str, Any], layers: tuple[int, ...], emotions: tuple[str, ...]
) -> EmotionVectors:
    """Vectors of an earlier call. Raises ValueError for a damaged file, or one that holds other vectors."""
    vectors = EmotionVectors.load(path, model)
    held = {name: vectors.stamp.get(name) for name in about if name != "revision"}
    if held | {"revision": about["revision"]} != about or (vectors.layers, vectors.emotions) != (layers, emotions):
        raise ValueError(f"{path} holds other vectors")
    return vectors
