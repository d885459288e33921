"""One forward pass over the texts: mean block outputs, pooled inside the hooks in float32, resumable on disk."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from emolens.files import cache_dir, write_atomic
from emolens.models.batching import Batch, pad, plan, ranks
from emolens.models.model import HookedModel
from emolens.models.texts import Text

log = logging.getLogger(__name__)

Rule = int | str  # mean over the tokens from this rank on, or "last": the last token alone
RULES: tuple[Rule, ...] = (0, 10, 20, 50)
NORM_FROM_RANK = 10  # the first tokens, an attention sink above all, would dominate a mean norm
SHARD_TEXTS = 128
RECIPE = 1  # part of every cache key; raise it when the numbers that pooling gives change


@dataclass(frozen=True)
class PooledActivations:
    """Mean block outputs of each text, for every layer and pooling rule.

    `means(rule, layer)` reads `text d_model` from the shards (safetensors files, or memory). A text
    without a token for a rule holds NaN there.
    """

    layers: tuple[int, ...]
    rules: tuple[Rule, ...]
    counts: Int[Tensor, "text"]
    residual_norm: Float[Tensor, "layer"]  # mean over the tokens of all texts from rank 10 on
    parts: tuple[tuple[list[int], Any], ...]  # (text indices, shard on disk or its tensors)
    stamp: dict[str, Any]

    def means(self, rule: Rule, layer: int) -> Float[Tensor, "text d_model"]:
        """Mean output of block `layer` for every text, over the tokens that `rule` names, in float32."""
        if rule not in self.rules or layer not in self.layers:
            raise ValueError(
                f"rule {rule!r} at layer {layer} was not pooled; there are rules {list(self.rules)} at layers "
                f"{self.layers[0]} to {self.layers[-1]}"
            )
        row, out = self.layers.index(layer), None
        for indices, part in self.parts:
            if isinstance(part, Path):
                with safe_open(part, framework="pt") as shard:
                    values = shard.get_slice(f"mean.{rule}")[row]
            else:
                values = part[f"mean.{rule}"][row]
            out = torch.empty(len(self.counts), values.shape[-1]) if out is None else out
            out[indices] = values
        assert out is not None
        return out


def pooling_weights(batch: Batch, rules: Sequence[Rule]) -> Float[Tensor, "batch rule pos"]:
    """Weights that average each text's tokens under each rule; all zero where a text is too short for it."""
    rank = ranks(batch.mask)
    last = rank.amax(dim=1, keepdim=True)
    chosen = torch.stack([(rank == last) if rule == "last" else (rank >= int(rule)) for rule in rules], dim=1)
    chosen = (chosen & batch.mask[:, None]).float()
    return chosen / chosen.sum(dim=-1, keepdim=True).clamp(min=1)


class _Collector:
    """Hook functions that pool each layer's output of the current batch."""

    def __init__(self, layers: Sequence[int], rules: Sequence[Rule]) -> None:
        self.layers, self.rules = layers, rules
        self.means: dict[int, Tensor] = {}
        self.norms: dict[int, Tensor] = {}

    def start(self, batch: Batch) -> None:
        self.batch = batch
        self.weights = pooling_weights(batch, self.rules)
        self.short = self.weights.sum(dim=-1) == 0
        self.padding = (~batch.mask).nonzero(as_tuple=True)
        self.counted = ranks(batch.mask) >= NORM_FROM_RANK

    def hooks(self) -> list[tuple[tuple[int, str], Any]]:
        return [((layer, "resid_post"), lambda x, hook, layer=layer: self._pool(x, layer)) for layer in self.layers]

    def _pool(self, resid: Tensor, layer: int) -> None:
        x = resid.detach().to(torch.float32, copy=True)
        x[self.padding] = 0  # weights of 0 alone would let an infinity in the padding through
        self.means[layer] = torch.bmm(self.weights, x).masked_fill(self.short[..., None], torch.nan).cpu()
        self.norms[layer] = (torch.linalg.vector_norm(x, dim=-1) * self.counted).sum().cpu()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def pool_batches(
    model: HookedModel,
    encoded: Sequence[Sequence[int]],
    batches: Sequence[Sequence[int]],
    layers: Sequence[int],
    rules: Sequence[Rule] = RULES,
    done: Callable[[list[int]], None] = lambda rows: None,
) -> dict[str, Tensor]:
    """Run the batches; gives `mean.{rule}` (`layer text d_model`), the `rows` they belong to, sum and count of norms.

    A batch for which memory does not suffice is split in two, as often as needed, and logged.
    """
    model.require_one_row("pool")
    collector, parts, order = _Collector(layers, rules), [], []
    norm_sum, norm_count = torch.zeros(len(layers), dtype=torch.float64), 0
    waiting = [list(rows) for rows in reversed(batches)]
    with model.stopping(max(layers), collector.hooks()) as run:
        while waiting:
            rows = waiting.pop()
            batch = pad([encoded[row] for row in rows], "right", model.pad_token_id).to(model.device)
            collector.start(batch)
            try:
                run(batch)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or len(rows) == 1:
                    raise
                half = len(rows) // 2
                waiting += [rows[half:], rows[:half]]
                log.warning("out of memory with %d texts of %d tokens: halving the batch", *batch.ids.shape)
                continue
            parts.append(
                rearrange([collector.means[layer] for layer in layers], "layer text rule d -> rule layer text d")
            )
            norm_sum += torch.stack([collector.norms[layer] for layer in layers]).double()
            norm_count += int(collector.counted.sum())
            order += rows
            done(rows)
    means = torch.cat(parts, dim=2)
    shard = {f"mean.{rule}": means[i].contiguous() for i, rule in enumerate(rules)}
    return shard | {"rows": torch.tensor(order), "norm_sum": norm_sum, "norm_count": torch.tensor(norm_count)}


def _write_shard(path: Path, shard: dict[str, Tensor], key: str) -> None:
    checksum = hashlib.sha256(b"".join(shard[name].numpy().tobytes() for name in sorted(shard))).hexdigest()
    write_atomic(path, save(shard, metadata={"key": key, "sha256": checksum}))


def _is_whole(path: Path, key: str) -> bool:
    """Whether a shard from an earlier run can be used: readable, of this key, and with the right checksum."""
    try:
        with safe_open(path, framework="pt") as shard:
            metadata = shard.metadata() or {}
            data = b"".join(shard.get_tensor(name).numpy().tobytes() for name in sorted(shard.keys()))
    except (OSError, SafetensorError):
        return False
    if metadata.get("key") == key and metadata.get("sha256") == hashlib.sha256(data).hexdigest():
        return True
    log.warning("%s is damaged; its texts are run again", path)
    return False


def pool(
    model: HookedModel,
    texts: Text | Sequence[Text],
    layers: Sequence[int] | None = None,
    rules: Sequence[Rule] = RULES,
    *,
    token_budget: int = 2048,
    folder: str | Path | None = None,
    cache: bool = True,
    progress: bool = True,
) -> PooledActivations:
    """Pool the block outputs of all texts in one pass (paper, section 3: mean over the later tokens of a story).

    With `cache`, shards are written as the run goes on, in a folder named by the model's fingerprint,
    the texts and the rules: a run that was killed goes on where it stopped, and a second run costs
    no forward pass. A damaged shard is found by its checksum and redone.

    Args:
        layers: blocks to read; default all.
        rules: ranks from which tokens are averaged, and "last" for the last token.
        token_budget: tokens of a batch, padding counted.
        folder: where shards go instead of the user's cache folder.

    Raises:
        ValueError: an empty text or a layer out of range, named.
        OSError: the disk is full; the shards written so far stay and are used next time.
    """
    layers = tuple(range(model.n_layers)) if layers is None else tuple(model.check_layer(layer) for layer in layers)
    cache = cache and not model.steering  # what is steered is not what the model's fingerprint stands for
    encoded = [encoding.ids for encoding in model.encode_all(texts)]
    lengths = [len(ids) for ids in encoded]
    batches = plan(lengths, token_budget)
    stamp = {
        "fingerprint": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": hashlib.sha256(json.dumps(encoded).encode()).hexdigest(),
        "layers": list(layers),
        "rules": list(rules),
        "token_budget": token_budget,
        "shard_texts": SHARD_TEXTS,
        "recipe": RECIPE,
    }
    key = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:16]
    home = Path(folder) if folder is not None else cache_dir() / "pooled" / key
    parts: list[tuple[list[int], Any]] = []
    norm_sum, norm_count = torch.zeros(len(layers), dtype=torch.float64), 0
    with tqdm(total=sum(lengths), unit="token", unit_scale=True, desc="pooling", disable=not progress) as bar:

        def advance(rows: list[int]) -> None:
            bar.update(sum(lengths[row] for row in rows))

        for number, group in enumerate(_groups(batches)):
            path = home / f"{number:04d}.safetensors"
            if cache and path.exists() and _is_whole(path, key):
                with safe_open(path, framework="pt") as shard:
                    kept = {name: shard.get_tensor(name) for name in ("norm_sum", "norm_count", "rows")}
                advance(kept["rows"].tolist())
            else:
                kept = pool_batches(model, encoded, group, layers, rules, advance)
                if cache:
                    _write_shard(path, kept, key)
            rows = kept["rows"].tolist()
            norm_sum, norm_count = norm_sum + kept["norm_sum"], norm_count + int(kept["norm_count"])
            parts.append((rows, path if cache else kept))
    norm = (norm_sum / norm_count).float() if norm_count else torch.full((len(layers),), torch.nan)
    return PooledActivations(layers, tuple(rules), torch.tensor(lengths), norm, tuple(parts), stamp)


def _groups(batches: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Whole batches in shards of about SHARD_TEXTS texts."""
    group: list[list[int]] = []
    for batch in batches:
        group.append(batch)
        if sum(map(len, group)) >= SHARD_TEXTS:
            yield group
            group = []
    if group:
        yield group


@runtime_checkable
class Moments(Protocol):
    """What `fit` needs of neutral text: its mean, and the components that are projected out."""

    @property
    def layers(self) -> tuple[int, ...]: ...

    @property
    def mean(self) -> Float[Tensor, "layer d_model"]: ...

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]: ...


@dataclass(frozen=True)
class TokenMoments:
    """Mean and covariance of single-token activations, for each layer; the material of the denoising."""

    layers: tuple[int, ...]
    mean: Float[Tensor, "layer d_model"]
    covariance: Float[Tensor, "layer d_model d_model"]

    def components(self, layer: int, explained: float = 0.5) -> Float[Tensor, "component d_model"]:
        """The first principal components that together explain this share of the variance (paper, section 3)."""
        values, vectors = torch.linalg.eigh(self.covariance[self.layers.index(layer)].double())
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        share = values.cumsum(0) / values.sum()
        return vectors[:, : int((share < explained).sum()) + 1].T.float()


def token_moments(
    model: HookedModel,
    texts: Text | Sequence[Text],
    layers: Sequence[int] | None = None,
    *,
    from_rank: int = NORM_FROM_RANK,
    token_budget: int = 2048,
    progress: bool = True,
) -> TokenMoments:
    """First and second moments of the token activations of `texts`, summed inside the hooks.

    Tokens before `from_rank` are left out: the first one, an attention sink with a norm up to a hundred
    times that of the others, would be the first principal component and nothing else would be removed.
    """
    model.require_one_row("token_moments")
    layers = tuple(range(model.n_layers)) if layers is None else tuple(model.check_layer(layer) for layer in layers)
    encoded = [encoding.ids for encoding in model.encode_all(texts)]
    total = torch.zeros(len(layers), model.d_model, dtype=torch.float64)
    square = torch.zeros(len(layers), model.d_model, model.d_model, dtype=torch.float64)
    count, chosen = 0, torch.empty(0)

    def add(resid: Tensor, hook: Any, row: int) -> None:
        x = resid.detach()[chosen].float()
        total[row] += x.sum(dim=0).double().cpu()
        square[row] += (x.T @ x).double().cpu()

    hooks = [((layer, "resid_post"), lambda x, hook, row=row: add(x, hook, row)) for row, layer in enumerate(layers)]
    lengths = [len(ids) for ids in encoded]
    with tqdm(total=sum(lengths), unit="token", unit_scale=True, desc="neutral", disable=not progress) as bar:
        for rows in plan(lengths, token_budget):
            batch = pad([encoded[row] for row in rows], "right", model.pad_token_id).to(model.device)
            chosen = ranks(batch.mask) >= from_rank
            count += int(chosen.sum())
            model.forward(batch, stop_after=max(layers), fwd_hooks=hooks)
            bar.update(sum(lengths[row] for row in rows))
    if count < 2:
        raise ValueError(f"the texts have {count} tokens from rank {from_rank} on; give longer ones")
    mean = total / count
    covariance = square / count - mean[:, :, None] * mean[:, None, :]
    return TokenMoments(layers, mean.float(), covariance.float())
