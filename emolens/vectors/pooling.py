"""One forward pass over the texts: mean block outputs, pooled inside the hooks in float32, resumable on disk."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from emolens.engines.engine import Engine, Step, each
from emolens.files import cache_dir, file_system, is_url, write_atomic, write_url
from emolens.models.batching import Batch, pad, plan, ranks
from emolens.models.hooked import Layers
from emolens.models.model import HookedModel
from emolens.models.texts import Text
from emolens.vectors.pooling_rules import RULES, Rule, check_rule, check_rules, pooling_weights, rule_key, rule_name

log = logging.getLogger(__name__)

NORM_FROM_RANK = 10  # the first tokens, an attention sink above all, would dominate a mean norm
SHARD_TEXTS = 128
RECIPE = 1  # part of every cache key; raise it when the numbers that pooling gives change


def _entries(rules: Sequence[Rule]) -> list[str]:
    """The name of each rule's tensor in a shard; functions may share a name, so they go by their place."""
    return [f"mean.{place}:{rule_name(rule)}" if callable(rule) else f"mean.{rule}" for place, rule in enumerate(rules)]


@dataclass
class _Shard:
    """A shard on disk. It is hashed when it is opened, and again when the file is no longer the one that was hashed."""

    path: Path | str  # a URL is a string
    key: str
    rows: list[int]  # the texts it must hold; once it is whole, in the order of the file
    shapes: dict[str, tuple[int, int, int]]  # of its means
    seen: tuple[Any, ...] = ()

    def held(self) -> dict[str, Tensor] | None:
        """All but the means; None unless it can be used: readable, of this key, with the right checksum and texts."""
        try:
            seen = self._state()
            held, metadata = _contents(self.path)
        except (OSError, SafetensorError):
            return None
        shapes = {name: tuple(tensor.shape) for name, tensor in held.items() if name.startswith("mean.")}
        if (metadata.get("key"), metadata.get("sha256"), shapes) != (self.key, _checksum(held), self.shapes):
            return None
        rows = held["rows"].tolist()
        if sorted(rows) != sorted(self.rows):
            return None
        self.rows, self.seen = rows, seen
        return _without_means(held)

    def layer(self, entry: str, row: int) -> Tensor:
        """One layer of one rule. Raises ValueError where the file was damaged or exchanged since it was opened."""
        rows = list(self.rows)
        if self._state() != self.seen and (self.held() is None or self.rows != rows):
            raise ValueError(f"{self.path} was changed while it was in use: pool the texts again")
        if isinstance(self.path, str):
            return _remote_layer(self.path, entry, row, self.shapes[entry])
        with safe_open(self.path, framework="pt") as file:
            return file.get_slice(entry)[row]

    def write(self, tensors: dict[str, Tensor]) -> None:
        data = save(tensors, metadata={"key": self.key, "sha256": _checksum(tensors)})
        if isinstance(self.path, str):
            write_url(self.path, data)
        else:
            write_atomic(self.path, data)
        self.written(tensors["rows"].tolist())

    def written(self, rows: list[int]) -> None:
        """It is there now, with the texts in this order: this process or an actor has written it.

        Raises:
            FileNotFoundError: it can't be seen from here.
        """
        try:
            self.rows, self.seen = rows, self._state()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                error.errno,
                "an actor has written this shard, and it is not to be seen from here: give `cache` a folder or a "
                "bucket that all machines share",
                str(self.path),
            ) from error

    def exists(self) -> bool:
        if isinstance(self.path, str):
            fs, path = file_system(self.path)
            return fs.exists(path)
        return self.path.exists()

    def _state(self) -> tuple[Any, ...]:
        if isinstance(self.path, str):
            fs, path = file_system(self.path)
            return (fs.ukey(path),)
        stat = self.path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _contents(place: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of a safetensors file, and its metadata."""
    if isinstance(place, str):
        fs, path = file_system(place)
        data = fs.cat_file(path)
        return load(data), _header(data).get("__metadata__", {})
    with safe_open(place, framework="pt") as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, file.metadata() or {}


def _header(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _remote_layer(url: str, entry: str, row: int, shape: tuple[int, int, int]) -> Tensor:
    """`tensor[row]` of a float32 tensor, of which alone the bytes are fetched."""
    fs, path = file_system(url)
    size = 8 + int.from_bytes(fs.cat_file(path, 0, 8), "little")
    begin = size + _header(fs.cat_file(path, 0, size))[entry]["data_offsets"][0]
    length = 4 * shape[1] * shape[2]
    data = fs.cat_file(path, begin + row * length, begin + (row + 1) * length)
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape[1:])


def _without_means(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in ("norm_sum", "norm_count", "rows")}


def _checksum(shard: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(shard[name].numpy().tobytes() for name in sorted(shard))).hexdigest()


@dataclass(frozen=True)
class PooledActivations:
    """Mean block outputs of each text, for every layer and pooling rule.

    `means(rule, layer)` reads `text d_model` from the shards (safetensors files, or memory). A text
    without a token for a rule holds NaN there; an activation that is not finite was refused before.

    Raises:
        ValueError: parts whose texts are not each text once.

    >>> pooled = el.pool(model, ["she ran .", "he was calm and cold ."], rules=[0, "last"], progress=False)
    >>> pooled.means("last", 3).shape, pooled.counts.tolist()
    (torch.Size([2, 32]), [3, 6])
    """

    layers: tuple[int, ...]
    rules: tuple[Rule, ...]
    counts: Int[Tensor, "text"]
    residual_norm: Float[Tensor, "layer"]  # mean over the tokens of all texts from rank 10 on
    parts: tuple[tuple[list[int], Any], ...]  # (text indices, shard on disk or its tensors)
    stamp: dict[str, Any]

    def __post_init__(self) -> None:
        held = sorted(row for rows, _ in self.parts for row in rows)
        if held != list(range(len(self.counts))):
            raise ValueError(f"the shards hold {len(held)} texts, not each of {len(self.counts)} texts once")

    def means(self, rule: Rule, layer: int) -> Float[Tensor, "text d_model"]:
        """Mean output of block `layer` for every text, over the tokens that `rule` names, in float32.

        Raises:
            ValueError: a rule or layer that was not pooled, or a shard that was changed since.

        >>> el.pool(model, ["she ran ."], progress=False).means(10, 3).isnan().all()  # too short for rank 10
        tensor(True)
        """
        rule = check_rule(rule)
        if rule not in self.rules or layer not in self.layers:
            raise ValueError(
                f"rule {rule_name(rule)} at layer {layer} was not pooled; there are rules "
                f"{', '.join(map(rule_name, self.rules))} at layers {self.layers[0]} to {self.layers[-1]}"
            )
        row, entry, out = self.layers.index(layer), _entries(self.rules)[self.rules.index(rule)], None
        for indices, part in self.parts:
            values = part.layer(entry, row) if isinstance(part, _Shard) else part[entry][row]
            out = torch.empty(len(self.counts), values.shape[-1]) if out is None else out
            out[indices] = values
        assert out is not None
        return out


class _Collector:
    """Hook functions that pool each layer's output of the current batch."""

    def __init__(self, layers: Sequence[int], rules: Sequence[Rule]) -> None:
        self.layers, self.rules = layers, rules
        self.means: dict[int, Tensor] = {}
        self.norms: dict[int, Tensor] = {}
        self.finite: dict[int, Tensor] = {}  # whether all tokens of each text are

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
        here = x.device  # a block may be on another device than the tokens
        x[tuple(index.to(here) for index in self.padding)] = 0  # weights of 0 alone would let an infinity through
        means = torch.bmm(self.weights.to(here), x).masked_fill(self.short.to(here)[..., None], torch.nan)
        self.means[layer] = means.cpu()
        norm = torch.linalg.vector_norm(x, dim=-1)
        self.norms[layer] = (norm * self.counted.to(here)).sum().cpu()
        self.finite[layer] = norm.isfinite().all(dim=1).cpu()

    def gather(self, model: HookedModel, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Means `rule layer text d_model` and the sum of norms of each layer, of the batch that was run.

        Raises:
            ValueError: an activation that is not finite, with its text and the first layer.
        """
        for layer in self.layers:
            if not self.finite[layer].all():
                raise model.not_finite(rows[int(self.finite[layer].int().argmin())], layer)
        means = rearrange([self.means[layer] for layer in self.layers], "layer text rule d -> rule layer text d")
        norms = torch.stack([self.norms[layer] for layer in self.layers]).double()
        return means, norms


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def pool_batches(
    model: HookedModel,
    encoded: Sequence[Sequence[int]] | Mapping[int, Sequence[int]],
    batches: Sequence[Sequence[int]],
    layers: Sequence[int],
    rules: Sequence[Rule] = RULES,
    done: Callable[[list[int]], None] = lambda rows: None,
) -> dict[str, Tensor]:
    """Run the batches; gives `mean.{rule}` (`layer text d_model`), the `rows` they belong to, sum and count of norms.

    A batch for which memory does not suffice is split in two, as often as needed, and logged.

    Raises:
        ValueError: an activation that is not finite, with its text and layer.

    >>> shard = pool_batches(model, [model.encode("she ran .").ids], [[0]], [1, 3], rules=[0])
    >>> shard["mean.0"].shape, shard["rows"].tolist()
    (torch.Size([2, 1, 32]), [0])
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
            part, norms = collector.gather(model, rows)
            parts.append(part)
            norm_sum += norms
            norm_count += int(collector.counted.sum())
            order += rows
            done(rows)
    means = torch.cat(parts, dim=2)
    shard = {entry: means[i].contiguous() for i, entry in enumerate(_entries(rules))}
    return shard | {"rows": torch.tensor(order), "norm_sum": norm_sum, "norm_count": torch.tensor(norm_count)}


def pool(
    model: HookedModel,
    texts: Text | Sequence[Text],
    layers: Layers | None = None,
    rules: Rule | Iterable[Rule] = RULES,
    *,
    token_budget: int = 2048,
    cache: bool | str | Path = True,
    engine: Engine | None = None,
    progress: bool = True,
) -> PooledActivations:
    """Pool the block outputs of all texts in one pass (paper, section 3: mean over the later tokens of a story).

    With `cache`, shards are written as the run goes on, in a folder named by the model's fingerprint,
    the texts and the rules: a run that was killed goes on where it stopped, and a second run costs
    no forward pass. A damaged or exchanged shard is found by its checksum and its texts, and redone. Nothing is
    read or written under steering or hooks of your own, nor for a function that `rule_key` has no key for.

    Args:
        layers: blocks to read; default all.
        rules: ranks from which tokens are averaged; "last" for the last token; "mean" for all; or a function from
            ranks (`batch pos`, -1 in the padding) to weights (`batch pos`), with which tokens are averaged.
        token_budget: tokens of a batch, padding counted.
        cache: where shards go, under their key: True is the user's cache folder; or a folder, or a URL of fsspec
            ("s3://bucket/shards"). False keeps them in memory.
        engine: who runs them: this process, or `el.engines.Ray(...)`, whose machines must share what `cache` names.
            The shards are the same, so that a run that was begun on one engine goes on in another.

    Raises:
        ValueError: an empty text, a layer out of range, an unknown rule, or an activation that is not finite, named;
            and what the engine raises.
        OSError: the disk is full; the shards written so far stay and are used next time.

    >>> later = lambda ranks: (ranks >= 2) * ranks.float()  # the later a token, the more it counts
    >>> el.pool(model, ["she ran .", "he was calm and cold ."], rules=later, progress=False).means(later, 3).shape
    torch.Size([2, 32])
    """
    blocks, rules = model.check_layers(layers), check_rules(rules)
    encoded = [encoding.ids for encoding in model.encode_all(texts)]
    lengths = [len(ids) for ids in encoded]
    keys = [rule_key(rule) for rule in rules]
    stamp = {
        "fingerprint": model.take_fingerprint(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": hashlib.sha256(json.dumps(encoded).encode()).hexdigest(),
        "layers": list(blocks),
        "rules": [rule_name(rule) if key is None else key for rule, key in zip(rules, keys, strict=True)],
        "token_budget": token_budget,
        "shard_texts": SHARD_TEXTS,
        "recipe": RECIPE,
    }
    key = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:16]
    home = _home(cache, key)
    home = home if model.is_plain and None not in keys else None
    groups = list(_groups(plan(lengths, token_budget)))
    shards = [_shard(home, number, key, group, blocks, rules, model.d_model) for number, group in enumerate(groups)]
    done: dict[int, dict[str, Tensor]] = {}
    with tqdm(total=sum(lengths), unit="token", unit_scale=True, desc="pooling", disable=not progress) as bar:

        def advance(rows: list[int]) -> None:
            bar.update(sum(lengths[row] for row in rows))

        for number, shard in enumerate(shards):
            if shard is not None and (kept := _kept(shard)) is not None:
                done[number] = kept
                advance(kept["rows"].tolist())
        tasks, numbers = {}, {}
        for number in sorted(set(range(len(groups))) - set(done)):
            rows = sorted(row for batch in groups[number] for row in batch)
            name = f"shard {number} (texts {', '.join(map(str, rows))})"
            tasks[name], numbers[name] = (groups[number], {row: encoded[row] for row in rows}, shards[number]), number
        start: Start = partial(_pooler, layers=blocks, rules=rules)
        if engine is None:
            start = partial(start, advance=advance)
        for name, kept in each(engine, model, start, tasks):
            done[numbers[name]] = kept
            if engine is not None:
                advance(kept["rows"].tolist())
                if (shard := shards[numbers[name]]) is not None:
                    shard.written(kept["rows"].tolist())
    return _gathered(blocks, rules, lengths, [(shards[number], done[number]) for number in sorted(done)], stamp)


def _gathered(
    blocks: tuple[int, ...], rules: tuple[Rule, ...], lengths: list[int], shards: list[Any], stamp: dict[str, Any]
) -> PooledActivations:
    """The result, from shards and what is kept of each in memory; sums go in the order of the shards."""
    norm_sum, norm_count = torch.zeros(len(blocks), dtype=torch.float64), 0
    for _, kept in shards:
        norm_sum, norm_count = norm_sum + kept["norm_sum"], norm_count + int(kept["norm_count"])
    norm = (norm_sum / norm_count).float() if norm_count else torch.full((len(blocks),), torch.nan)
    parts = tuple((kept["rows"].tolist(), kept if shard is None else shard) for shard, kept in shards)
    return PooledActivations(blocks, rules, torch.tensor(lengths), norm, parts, stamp)


def _home(cache: bool | str | Path, key: str) -> Path | str | None:
    """Where the shards of a key go; None for nowhere. Raises TypeError, ValueError or ImportError where it is none."""
    if isinstance(cache, bool):
        return cache_dir() / "pooled" / key if cache else None
    if not isinstance(cache, (str, Path)):
        raise TypeError(f"cache={cache!r} is no folder: give one, a URL, True or False")
    if isinstance(cache, str) and not cache.strip():
        raise ValueError(f"cache={cache!r} names no folder: give one, a URL, True or False")
    if isinstance(cache, Path) and re.fullmatch(r"[a-z0-9+]{2,}:", (cache.parts or ("",))[0]):
        raise ValueError(f"cache={cache!r} has lost a slash: give a URL as a string")
    if is_url(cache):
        fs, path = file_system(str(cache))
        if "file" not in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            return f"{str(cache).rstrip('/')}/{key}"
        cache = path  # it is a folder, and what is written to a folder is renamed
    return Path(cache).expanduser().absolute() / key


def _shard(
    home: Path | str | None,
    number: int,
    key: str,
    group: list[list[int]],
    blocks: tuple[int, ...],
    rules: tuple[Rule, ...],
    width: int,
) -> _Shard | None:
    if home is None:
        return None
    name, rows = f"{number:04d}.safetensors", [row for batch in group for row in batch]
    shapes = dict.fromkeys(_entries(rules), (len(blocks), len(rows), width))
    return _Shard(f"{home}/{name}" if isinstance(home, str) else home / name, key, rows, shapes)


def _pooler(
    model: HookedModel, layers: Sequence[int], rules: Sequence[Rule], advance: Callable[..., None] = lambda rows: None
) -> Step:
    """Runs a shard's batches and writes it; gives all but the means, or everything where it is not written."""

    def run(task: tuple[list[list[int]], dict[int, list[int]], _Shard | None]) -> dict[str, Tensor]:
        group, encoded, shard = task
        # It may be there by now: written by an actor that died before it could say so.
        if shard is not None and (kept := shard.held()) is not None:
            return kept
        tensors = pool_batches(model, encoded, group, layers, rules, advance)
        if shard is None:
            return tensors
        shard.write(tensors)
        return _without_means(tensors)

    return run


def _kept(shard: _Shard) -> dict[str, Tensor] | None:
    """What an earlier run has left in a shard, but for the means; None where there is none that can be used."""
    if not shard.exists():
        return None
    if (held := shard.held()) is None:
        log.warning("%s is damaged or holds other texts; its texts are run again", shard.path)
    return held


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
