"""LoRA supervised fine-tuning of a base model into an assistant, watched by its emotion vectors as it goes."""

import hashlib
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

import emolens.corpus as texts
from emolens.errors import finite_number, whole_number
from emolens.files import cache_dir, check_place, write_atomic
from emolens.models.batching import pad, plan
from emolens.models.model import HookedModel
from emolens.reading.read import score
from emolens.training.adapters import (
    Posttrained,
    hugging_face_model,
    load_adapter,
    lora,
    merge,
    save_adapter,
    trained,
    wrap,
)
from emolens.training.dialogues import Dialogue, Example, examples, listed, mean_loss, messages_of, reply_loss
from emolens.vectors.emotion_vectors import EmotionVectors
from emolens.watching.monitor import Monitor, Track, places

WATCHED_PROMPTS = 4  # of each kind of the packaged prompts
MONITORED = 6  # a monitor reads every sixth quiet conversation
ALARMS = "alarms"  # the share of them with an alarm, in the record
MACHINE = ("versions", "threads")  # what can change the last bits of the weights, not what is asked for


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, beside the base and the dialogues.

    Attributes:
        tokens: reply tokens trained on, exactly, however often the dialogues have to be gone through.
        batch_tokens: tokens of a step, padding counted.
        warmup: share of the steps in which the learning rate rises; then it falls linearly to 0.
        every: steps between checkpoints, at each of which the held-out loss is measured.
        patience: checkpoints without a lower held-out loss after which the training ends.

    Raises:
        TypeError: something that is no number.
        ValueError: a number with which there is no training, or no end of it.

    >>> Recipe(tokens=2_000).rank
    8
    >>> Recipe(every=0)
    Traceback (most recent call last):
    ValueError: every=0: give 1 or more
    """

    tokens: int = 8_000
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 1e-3
    batch_tokens: int = 512
    warmup: float = 0.1
    held_out: float = 0.1
    every: int = 10
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "rank", "alpha", "batch_tokens", "every", "patience"):
            whole_number(getattr(self, name), name, least=1)
        whole_number(self.seed, "seed", least=0)
        if not 0 < finite_number(self.learning_rate, "learning_rate") <= 100:
            raise ValueError(f"learning_rate={self.learning_rate}: give more than 0 and at most 100, such as 1e-3")
        if not 0 <= finite_number(self.warmup, "warmup") <= 1:
            raise ValueError(f"warmup={self.warmup} is no share of the steps: give 0 to 1")
        if not 0 < finite_number(self.held_out, "held_out") < 1:
            raise ValueError(f"held_out={self.held_out}: give a share of the dialogues between 0 and 1, such as 0.1")


def held_out(n: int, recipe: Recipe) -> list[int]:
    """The numbers of the dialogues that are never trained on; the same for any dialogues of the same number.

    One at least is held out, and one at least is trained on.

    Raises:
        ValueError: fewer than two dialogues.

    >>> held_out(20, Recipe(held_out=0.2))
    [2, 4, 6, 19]
    """
    if whole_number(n, "n") < 2:
        raise ValueError(f"{n} dialogues: at least two are needed, one to train on and one to hold out")
    order = np.random.default_rng(recipe.seed).permutation(n)
    return sorted(order[: min(n - 1, max(1, round(n * recipe.held_out)))].tolist())


def steps_of(found: Sequence[Example], recipe: Recipe) -> list[list[Example]]:
    """The batches of the training, each epoch in an order of its own, up to exactly `recipe.tokens` reply tokens.

    Raises:
        ValueError: fewer than two dialogues, or one without a token to learn, which could go on for ever.

    >>> found = [Example([1, 2, 3], [0, 1])] * 4
    >>> [len(batch) for batch in steps_of(found, Recipe(tokens=10, batch_tokens=9))]
    [3, 2]
    """
    for number, example in enumerate(found):
        if not example.learnt:
            raise ValueError(f"example {number} has no token to learn (the first is 0)")
    kept = sorted(set(range(len(found))) - set(held_out(len(found), recipe)))
    batches: list[list[Example]] = [[]]
    epoch, left = 0, recipe.tokens
    while left > 0:
        for row in np.random.default_rng([recipe.seed, epoch]).permutation(kept).tolist():
            example = Example(found[row].ids, found[row].learnt[:left])
            widest = max(len(other.ids) for other in [*batches[-1], example])
            if batches[-1] and widest * (len(batches[-1]) + 1) > recipe.batch_tokens:
                batches.append([])
            batches[-1].append(example)
            left -= len(example.learnt)
            if left <= 0:
                break
        epoch += 1
    return batches


class _Watch:
    """Scores of chosen emotions right before the reply to fixed prompts, read on the model in training."""

    def __init__(
        self,
        base: HookedModel,
        emotions: Sequence[str],
        vectors: EmotionVectors | None = None,
        prompts: Sequence[Any] | None = None,
    ) -> None:
        if isinstance(emotions, str):
            raise ValueError(f"watch={emotions!r} is one text; give a list: watch=[{emotions!r}]")
        self.emotions = list(emotions)
        if not self.emotions:
            return
        if vectors is None:
            raise ValueError("to watch emotions, give the vectors that read them: vectors=el.derive(base)")
        vectors.check_model(base)
        self.rows = [vectors.index(emotion) for emotion in emotions]
        self.vectors, self.layer = vectors, vectors.default_layer
        _check_not_last(self.layer, base)
        if prompts is None:
            seen: dict[str, list[str]] = {}
            for row in texts.stimuli("post_training_prompts"):
                seen.setdefault(row["kind"], []).append(row["text"])
            prompts = [text for kind in seen.values() for text in kind[:WATCHED_PROMPTS]]
        if not len(prompts):
            raise ValueError("prompts is empty: give some, or leave it out for the packaged ones")
        chats = [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in prompts]
        self.encoded = [encoding.ids for encoding in base.encode_all(chats)]

    def __call__(self, causal: Any) -> dict[str, float]:
        if not self.emotions:
            return {}
        means = torch.zeros(len(self.rows))
        for _, resid in _outputs(causal, self.encoded, self.layer):
            means += score(resid[-1:], self.vectors, self.layer)[0, self.rows]
        means /= len(self.encoded)
        return dict(zip(self.emotions, means.tolist(), strict=True))


class _Monitored:
    """The share of quiet conversations that give an alarm, as the model in training reads them."""

    def __init__(self, base: HookedModel, monitor: Monitor, prompts: Sequence[Any] | None = None) -> None:
        monitor.watched.check_model(base)
        self.monitor, self.layer = monitor, monitor.watched.layer
        _check_not_last(self.layer, base)
        read = base.encode_all(texts.quiet()[::MONITORED] if prompts is None else prompts)
        self.encoded = [encoding.ids for encoding in read]
        self.at = [places(encoding, [""] * len(encoding.ids), monitor.roles) for encoding in read]
        if not all(self.at):
            raise ValueError(f"prompt {self.at.index([])} has no token that the monitor watches")

    def __call__(self, causal: Any) -> dict[str, float]:
        highest = np.zeros((len(self.encoded), len(self.monitor.watched.names)))
        for number, resid in _outputs(causal, self.encoded, self.layer):
            scores = self.monitor.watched(resid[[place.rank for place in self.at[number]]])
            highest[number] = Track(self.monitor).follow(scores, self.at[number])[0].max(axis=0)
        share = float((highest.max(axis=1) > self.monitor.threshold).mean())
        most = self.monitor.promise[1]
        if share > most:
            name = self.monitor.watched.names[int(highest.mean(axis=0).argmax())]
            warnings.warn(
                f"the monitor gives an alarm in {share:.0%} of {len(highest)} quiet conversations, as the model in "
                f"training reads them, and promised at most {most:.0%}: what rises most is {name!r}",
                stacklevel=2,
            )
        heights = dict(zip(self.monitor.watched.names, highest.mean(axis=0).tolist(), strict=True))
        return heights | {ALARMS: share}


def _outputs(causal: Any, encoded: Sequence[Sequence[int]], layer: int) -> Iterator[tuple[int, Float[Tensor, "pos d"]]]:
    """Each text's number, and the outputs of a block at its tokens, from the model in training."""
    with torch.no_grad():
        for rows in plan([len(ids) for ids in encoded], 1024):
            batch = pad([encoded[row] for row in rows]).to(causal.device)
            out = causal.base_model(batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True)
            # The input of the next block is the output of this one; only the last block's is normalised.
            for place, row in enumerate(rows):
                resid = out.hidden_states[layer + 1][place, : len(encoded[row])]
                if not resid.isfinite().all():
                    raise ValueError(f"the activations of block {layer} in watched text {row} are not finite")
                yield row, resid


def _check_not_last(layer: int, base: HookedModel) -> None:
    if layer == base.n_layers - 1:
        raise ValueError(f"block {layer} is the last one, which cannot be watched; give vectors of earlier ones")


class _State:
    """Where a training stands: the weights, Adam's moments, the best weights, and the record so far, all on disk."""

    def __init__(self, path: Path, model: Any, optimiser: torch.optim.Optimizer, settings: dict[str, Any]) -> None:
        self.path, self.model, self.optimiser, self.settings = path, model, optimiser, settings
        self.best = {name: weight.detach().clone() for name, weight in trained(model).items()}
        self.log: dict[str, Any] = {"step": 0, "tokens": 0, "losses": [], "held_out": [], "watched": [], "seconds": 0.0}
        if path.exists():
            self._restore()

    def save(self) -> None:
        tensors = {f"best.{name}": weight for name, weight in self.best.items()}
        for name, weight in trained(self.model).items():
            tensors[f"weight.{name}"] = weight.detach()
            for key, value in self.optimiser.state[weight].items():
                tensors[f"{key}.{name}"] = value.detach()
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        checksum = _checksum(self.settings, self.log, tensors)
        header = {"settings": self.settings, "log": self.log, "sha256": checksum}
        write_atomic(self.path, save(tensors, {"header": json.dumps(header)}))

    def _restore(self) -> None:
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads(file.metadata()["header"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            whole = header["sha256"] == _checksum(header["settings"], header["log"], tensors)
        except (OSError, SafetensorError, ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise ValueError(f"{self.path} is damaged, or was not written by this version; delete it to begin anew")
        for key, wanted in self.settings.items():
            was = header["settings"].get(key)
            if was == wanted:
                continue
            if key in MACHINE:
                warnings.warn(
                    f"{self.path.name} was begun with {key} {was}, and goes on with {wanted}: the weights "
                    "will not be bit for bit those of an uninterrupted run",
                    stacklevel=4,
                )
            else:
                raise ValueError(f"{self.path} was begun with {key}={was!r}, not {wanted!r}; delete it to begin anew")
        self.log = header["log"]
        with torch.no_grad():
            for name, weight in trained(self.model).items():
                weight.copy_(tensors[f"weight.{name}"])
                self.best[name].copy_(tensors[f"best.{name}"])
                if f"exp_avg.{name}" in tensors:
                    state = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                    self.optimiser.state[weight] = {
                        key: value if key == "step" else value.to(weight.device) for key, value in state.items()
                    }


def _checksum(settings: dict[str, Any], log: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Of all that a checkpoint holds: what is resumed is what was written."""
    digest = hashlib.sha256(json.dumps([settings, log]).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _settings(base: HookedModel, dialogues: Sequence[Dialogue], recipe: Recipe, watched: Any) -> dict[str, Any]:
    said = json.dumps([[dict(m) for m in messages_of(dialogue)] for dialogue in dialogues])
    return {
        "base": base.name,
        "fingerprint": base.fingerprint,
        "dtype": str(base.dtype).removeprefix("torch."),
        "dialogues": {"rows": len(dialogues), "sha256": hashlib.sha256(said.encode()).hexdigest()},
        "recipe": asdict(recipe),
        "watch": watched,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
        "threads": torch.get_num_threads(),
    }


def posttrain(
    base: HookedModel,
    dialogues: Iterable[Dialogue],
    path: str | Path | None = None,
    *,
    name: str = "post-trained",
    recipe: Recipe | None = None,
    watch: Sequence[str] | Monitor = (),
    progress: bool = True,
    **watched_with: Any,
) -> Posttrained:
    """Turn a base model into an assistant: LoRA fine-tuning on the assistant's tokens of dialogues.

    A killed run goes on at its last checkpoint, with the same weights in the end as an uninterrupted one on the
    same machine; a finished one is loaded. The base stays as it is.

    Args:
        dialogues: rows with `user` and `assistant`, or lists of messages.
        path: the adapter's file, `.safetensors`, with its record as `.json` beside it; default in the user's cache.
        watch: emotions read with `vectors` right before the reply to `prompts` at every checkpoint; or an
            `el.Monitor`, which reads quiet conversations there and warns where more of them give an alarm than its
            calibration promised.
        watched_with: `vectors`, and `prompts`, by default four packaged ones of each kind; for a monitor the
            conversations, by default 30 of `corpus.quiet()`.

    Raises:
        ValueError: fewer than two dialogues or one without an assistant turn, a checkpoint of another training at
            this path, or a loss that is not finite, with the step; the last checkpoint before it is kept.

    >>> dialogues = [{"user": f"the {word} was cold", "assistant": "and calm ."} for word in ("river", "night", "door")]
    >>> recipe = el.Recipe(tokens=40, batch_tokens=40)
    >>> child = el.posttrain(model, dialogues, "cool.safetensors", name="cool", recipe=recipe, progress=False)
    >>> child.model.name, child.record["tokens"], child.record["held_out_loss"]["child"] < 5
    ('tiny-llama+cool', 40, True)
    """
    recipe = recipe or Recipe()
    dialogues = listed(dialogues)
    found = examples(base, dialogues)
    rows = set(held_out(len(found), recipe))
    watcher: Callable[[Any], dict[str, float]]
    watched: Any
    if isinstance(watch, Monitor):
        watcher = _Monitored(base, watch, **watched_with)
        watched = {"monitor": list(watch.watched.names), "threshold": watch.threshold}
    else:
        watcher, watched = _Watch(base, watch, **watched_with), list(watch)
    settings = _settings(base, dialogues, recipe, watched) | {"name": name}
    decisive = {part: value for part, value in settings.items() if part not in MACHINE}
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_dir() / "adapters" / f"{Path(base.name).name}-{name}-{key}.safetensors" if path is None else Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path {str(path)!r}: an adapter is a file whose name ends in .safetensors")
    if path.exists():
        return _finished(base, path, settings)
    check_place(path)
    left_out = [example for row, example in enumerate(found) if row in rows]
    model = lora(hugging_face_model(base), recipe.rank, recipe.alpha, recipe.seed)
    state = _train(model, steps_of(found, recipe), left_out, recipe, path, settings, watcher, progress)
    weights = {name: weight.half().float() for name, weight in state.best.items()}
    record = settings | {"steps": state.log.pop("step")} | state.log
    merged = merge(base, weights, record)
    after = mean_loss(merged, left_out, recipe.batch_tokens)
    child = wrap(base, merged, record)
    record["held_out_loss"] = {"base": record["held_out"][0]["loss"], "child": after}
    record = save_adapter(path, weights, record)
    state.path.unlink(missing_ok=True)
    return Posttrained(child, path, record)


def _finished(base: HookedModel, path: Path, settings: dict[str, Any]) -> Posttrained:
    """The adapter at `path`. Raises ValueError when it comes from another training."""
    done = load_adapter(base, path)
    if any(done.record[part] != settings[part] for part in ("dialogues", "recipe", "name")):
        raise ValueError(f"{path} is an adapter of another training; give another path, or delete it to begin anew")
    return done


def _train(
    model: Any,
    batches: Sequence[Sequence[Example]],
    left_out: Sequence[Example],
    recipe: Recipe,
    path: Path,
    settings: dict[str, Any],
    watcher: Callable[[Any], dict[str, float]],
    progress: bool,
) -> _State:
    causal, weights = model.get_base_model(), list(trained(model).values())
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    state = _State(path.with_suffix(".checkpoint.safetensors"), model, optimiser, settings)
    log, began = state.log, time.perf_counter()
    spent = log["seconds"]
    rise = max(1, round(recipe.warmup * len(batches)))

    def look() -> None:
        here = {"step": log["step"], "tokens": log["tokens"]}
        loss = mean_loss(causal, left_out, recipe.batch_tokens)
        if not np.isfinite(loss):
            _stop("the held-out loss", log["step"], state, recipe)
        log["held_out"].append(here | {"loss": loss})
        log["watched"].append(here | {"scores": watcher(causal)})
        if log["held_out"][-1]["loss"] <= min(row["loss"] for row in log["held_out"]):
            for name, weight in trained(model).items():
                state.best[name].copy_(weight.detach())
        log["seconds"] = spent + time.perf_counter() - began
        state.save()

    if not log["held_out"]:
        look()
    with tqdm(total=len(batches), initial=log["step"], desc="post-training", unit="step", disable=not progress) as bar:
        while log["step"] < len(batches) and not _stalled(log["held_out"], recipe.patience):
            number = log["step"]
            rate = min((number + 1) / rise, (len(batches) - number) / max(1, len(batches) - rise))
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * min(1.0, rate)
            total, count = reply_loss(causal, batches[number])
            if not total.isfinite():
                _stop("the loss", number + 1, state, recipe)
            (total / count).backward()
            if not torch.nn.utils.clip_grad_norm_(weights, 1.0).isfinite():
                _stop("the gradient", number + 1, state, recipe)
            optimiser.step()
            optimiser.zero_grad()
            log["step"], log["tokens"] = number + 1, log["tokens"] + count
            log["losses"].append({"step": number + 1, "tokens": log["tokens"], "loss": float(total.detach()) / count})
            bar.update()
            bar.set_postfix(loss=f"{log['losses'][-1]['loss']:.2f}", held_out=f"{log['held_out'][-1]['loss']:.2f}")
            if log["step"] % recipe.every == 0 or log["step"] == len(batches):
                look()
    return state


def _stop(what: str, step: int, state: _State, recipe: Recipe) -> NoReturn:
    """Raise ValueError for what is not finite at a step; no checkpoint holds the weights that gave it."""
    held = state.log["held_out"]
    kept = f"the checkpoint of step {held[-1]['step']} is kept at {state.path}" if held else "nothing was written"
    advice = f"give a lower learning_rate than {recipe.learning_rate:g}" if step else "load the base model again"
    raise ValueError(f"{what} at step {step} is not finite, so the training is stopped; {kept}; {advice}")


def _stalled(held: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the lowest held-out loss is `patience` checkpoints old."""
    lowest = min(range(len(held)), key=lambda row: held[row]["loss"])
    return len(held) - 1 - lowest >= patience
