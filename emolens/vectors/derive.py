"""From a model and stories to emotion vectors in one call: pooling, what is chosen on the stories, the fit."""

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.files import cache_dir
from emolens.models.hooked import Layers
from emolens.models.model import HookedModel
from emolens.vectors.choose import EXPLAINED, best, choose
from emolens.vectors.emotion_vectors import METHODS, EmotionVectors
from emolens.vectors.fit import FittedStories, fit, halves_of
from emolens.vectors.folds import Folds
from emolens.vectors.pooling import PooledActivations
from emolens.vectors.pooling_rules import Rule, check_rule, rule_key, rule_name
from emolens.vectors.story_means import SHORT, pool_stories, register_ranks, story_ranks
from emolens.vectors.token_moments import SAMPLE, Moments, token_moments
from emolens.vectors.whitening import algebra_device

GRID = 16  # layers that are tried first; then those between them and the best
RECIPE = 2  # part of every key; raise it when the numbers that `fit` gives change


def derive(
    model: HookedModel,
    corpus: Any = None,
    layers: Layers | None = None,
    *,
    emotions: Sequence[str] = (),
    rank: Rule | None = None,
    cache: bool | str | Path = True,
    progress: bool = True,
    **pooling: Any,
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
        rank: the rule that the stories are averaged by, see `fit` and `pool`.
        cache: of the pass over the stories, see `pool`; whatever it names, vectors are kept in the user's cache folder.
        pooling: `token_budget` and `engine` of that pass, see `pool`. The neutral dialogues are run in this process.

    Raises:
        ValueError: a corpus with one emotion or without one that was asked for, an empty or too short story, no
            layer or one out of range, an activation that is not finite.
    """
    corpus = texts.stories() if corpus is None else Corpus.of(corpus)
    corpus.check(emotions)
    layers, rank = model.check_layers(layers), None if rank is None else check_rule(rank)
    cache = model.is_plain and (rank is None or rule_key(rank) is not None) and cache
    options: dict[str, Any] = {"cache": cache, "progress": progress} | pooling
    budget = {"token_budget": pooling["token_budget"]} if "token_budget" in pooling else {}
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
            return _kept(path, model, about, pooled, corpus, rank)
    neutral = token_moments(model, texts.neutral(), pooled.layers, progress=progress, **budget)
    sweep = coarse_then_fine(pooled, corpus, neutral, progress, rank)
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


def most_tried(layers: int) -> int:
    """At how many of so many layers `coarse_then_fine` tries the readouts at most: all, where there are fewer than 32.

    >>> most_tried(30), most_tried(32), most_tried(80)
    (30, 22, 40)
    """
    step = max(1, layers // GRID)
    return min(layers, -(-layers // step) + 2 * (step - 1) * len(METHODS))


def coarse_then_fine(
    pooled: PooledActivations, corpus: Corpus, neutral: Moments, progress: bool = True, rank: Rule | None = None
) -> list[dict[str, Any]]:
    """What `choose` gives for about 16 layers, evenly spaced, and then for all between them and each method's best.

    Of a model with fewer than 32 layers, all are tried.

    >>> moments = el.token_moments(model, el.corpus.neutral(), progress=False)
    >>> pooled = pool_stories(model, corpus, cache=False, progress=False)
    >>> sorted({row["layer"] for row in coarse_then_fine(pooled, corpus, moments, progress=False)})
    [0, 1, 2, 3]
    """
    layers, step = pooled.layers, max(1, len(pooled.layers) // GRID)
    coarse = set(range(0, len(layers), step))

    def rows(places: set[int]) -> list[dict[str, Any]]:
        tried = [layers[place] for place in sorted(places)]
        return choose(pooled, corpus, neutral, progress=progress, rank=rank, layers=tried)

    sweep = rows(coarse)
    if step > 1 and sweep:
        around = {layers.index(best(sweep, method)["layer"]) for method in METHODS}
        near = {place + shift for place in around for shift in range(1 - step, step)}
        sweep += rows({place for place in near - coarse if 0 <= place < len(layers)})
    return sorted(sweep, key=lambda row: layers.index(row["layer"]))


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
    if model.d_model > SAMPLE:
        recipe["neutral_tokens"] = SAMPLE  # of a narrower model the components are those of all tokens
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
    path: Path,
    model: HookedModel,
    about: dict[str, Any],
    pooled: PooledActivations,
    corpus: Corpus,
    rank: Rule | None,
) -> EmotionVectors:
    """Vectors of an earlier call. Raises ValueError for a damaged file, or one that holds other vectors."""
    vectors, wanted = EmotionVectors.load(path, model), (pooled.layers, tuple(corpus.emotions))
    # A stamp of before says nothing of quantised weights; the fingerprint says that they are the same.
    vectors = replace(vectors, stamp={"quantised": about["quantised"]} | vectors.stamp)
    held = {name: vectors.stamp.get(name) for name in about if name != "revision"}
    if held | {"revision": about["revision"]} != about or (vectors.layers, vectors.emotions) != wanted:
        raise ValueError(f"{path} holds other vectors")
    if vectors.noise_layers == vectors.layers:
        return vectors
    keep, device = torch.ones(len(corpus), dtype=torch.bool), algebra_device(model.device)
    shrinkage = vectors.stamp["chosen"]["whitened"]["shrinkage"]
    return replace(vectors, noise_source=FittedStories(pooled, corpus, keep, rank, shrinkage, device))


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
    measured = halves_of(corpus)[1].tolist()
    unmeasured = [emotion for emotion, known in zip(corpus.emotions, measured, strict=True) if not known]
    if unmeasured:
        named = ", ".join(map(repr, unmeasured[:5])) + (f" and {len(unmeasured) - 5} more" if unmeasured[5:] else "")
        warnings.warn(
            f"the reliability of {named} cannot be measured and is NaN: their stories cannot be halved. Give at least "
            "two different texts for each emotion",
            stacklevel=3,
        )
