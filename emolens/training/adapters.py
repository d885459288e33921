"""LoRA adapters on disk and in the model: safetensors with the record of how they were made, merged on load."""

import copy
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.files import data_path, write_atomic
from emolens.models.model import HookedModel
from emolens.models.placement import require_whole_weights
from emolens.results import StudyResult

FORMAT = "emolens-adapter-1"
BLOCK = "._original_component"  # what TransformerBridge puts into the names of the modules it wraps


@dataclass(frozen=True)
class Posttrained:
    """A base model with its adapter merged in, the adapter's file, and the record of its training.

    `record` holds the base and its fingerprint, the recipe, the losses, what was watched, the versions.

    >>> dialogues = [{"user": f"the {word}", "assistant": "was calm ."} for word in ("river", "night", "door")]
    >>> recipe = el.Recipe(tokens=30, batch_tokens=40)
    >>> child = el.posttrain(model, dialogues, "child.safetensors", name="child", recipe=recipe, progress=False)
    >>> sorted(set(child.curve().table()["series"]))
    ['held out', 'trained on']
    """

    model: HookedModel
    path: Path
    record: dict[str, Any]

    def curve(self) -> StudyResult:
        """The loss on the reply tokens by tokens trained on, and the scores of the emotions watched beside it."""
        import pandas as pd

        losses = [row | {"series": "trained on"} for row in self.record["losses"]]
        held_out = [row | {"series": "held out"} for row in self.record["held_out"]]
        watched = [
            {"step": row["step"], "tokens": row["tokens"], "series": emotion, "score": score}
            for row in self.record["watched"]
            for emotion, score in row["scores"].items()
        ]
        before, after = self.record["held_out_loss"]["base"], self.record["held_out_loss"]["child"]
        sentence = (
            f"{self.record['name']}: {self.record['tokens']:,} reply tokens in {self.record['steps']} steps; loss on "
            f"held-out replies {before:.2f} before and {after:.2f} after."
        )
        table = pd.DataFrame(losses + held_out + watched)
        return StudyResult("training", table, sentence, "none: the curve of one training", "loss_curve")


def hugging_face_model(base: HookedModel) -> Any:
    """A fresh Hugging Face copy of a hooked model, with the same weights and dtype; the hooked one stays as it is.

    Raises:
        ValueError: the model is TransformerLens's own implementation, so there is no Hugging Face model in it; or its
            weights are quantised or offloaded.

    >>> type(hugging_face_model(model)).__name__
    'LlamaForCausalLM'
    """
    wrapped = getattr(base.bridge, "original_model", None)
    if wrapped is None:
        raise ValueError(
            f"{base.name} is a HookedTransformer; fine-tuning needs TransformerLens 4, which wraps the model"
        )
    require_whole_weights(wrapped, base.name, "post-training")
    # The bridge lists a module under its own names too, which the class does not know.
    weights = {name.replace(BLOCK, ""): value for name, value in wrapped.state_dict().items()}
    config = copy.deepcopy(wrapped.config)
    with torch.random.fork_rng():
        model = type(wrapped)(config).to(base.dtype)
    lacking = set(model.load_state_dict(weights, strict=False).missing_keys)
    if lacking:
        raise ValueError(f"{base.name} has no weight {min(lacking)!r} under the name that Hugging Face gives it")
    return model.to(base.device).eval()


def lora(model: Any, rank: int, alpha: int, seed: int) -> Any:
    """The model with a fresh LoRA adapter (Hu et al. 2021) in float32 on every linear map of its blocks.

    >>> adapted = lora(hugging_face_model(model), rank=2, alpha=4, seed=0)
    >>> len(trained(adapted))  # two matrices on each of the 7 maps of 4 blocks
    56
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers for a property by its former name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def trained(model: Any) -> dict[str, Tensor]:
    """The adapter's weights by name.

    >>> adapted = lora(hugging_face_model(model), rank=2, alpha=4, seed=0)
    >>> {weight.shape[0] for name, weight in trained(adapted).items() if "lora_A" in name}
    {2}
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def merge(base: HookedModel, weights: dict[str, Tensor], record: dict[str, Any]) -> Any:
    """The base as a Hugging Face model with an adapter added to its weights: in float32, then in the base's dtype.

    Raises:
        ValueError: weights that are not those of an adapter of this base.

    >>> fresh = trained(lora(hugging_face_model(model), rank=2, alpha=4, seed=0))  # changes nothing yet
    >>> merged = merge(model, fresh, {"name": "fresh", "recipe": {"rank": 2, "alpha": 4}})
    >>> torch.equal(merged.lm_head.weight, hugging_face_model(model).lm_head.weight)
    True
    """
    model = lora(hugging_face_model(base).float(), record["recipe"]["rank"], record["recipe"]["alpha"], 0)
    own = trained(model)
    if set(own) != set(weights) or any(own[name].shape != value.shape for name, value in weights.items()):
        raise ValueError(f"the adapter {record['name']!r} does not fit the linear maps of {base.name}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    return model.merge_and_unload().to(base.dtype)


def wrap(base: HookedModel, merged: Any, record: dict[str, Any]) -> HookedModel:
    """A merged model, hooked, under the name of the base and the adapter.

    >>> wrap(model, hugging_face_model(model), {"name": "same"}).name
    'tiny-llama+same'
    """
    return HookedModel.from_hf(merged, base.tokenizer, f"{base.name}+{record['name']}", base.revision)


def save_adapter(path: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
    """Write the weights as float16 and the record as JSON beside them; returns the record with the checksum.

    Raises:
        ValueError: a weight that is not finite in float16.

    >>> record = save_adapter(Path("a.safetensors"), {"weight": torch.ones(2)}, {"name": "a"})
    >>> sorted(record), Path("a.json").exists()
    (['format', 'name', 'sha256'], True)
    """
    _require_finite(path, {name: value.half() for name, value in weights.items()})
    data = save({name: value.detach().half().cpu().contiguous() for name, value in weights.items()}, {"format": FORMAT})
    record = record | {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(path, data)
    write_atomic(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    return record


def packaged_adapters(base: str) -> dict[str, Path]:
    """The adapters that ship for a model, by name.

    >>> list(packaged_adapters("gemma-3-270m"))
    ['bright', 'composed']
    """
    folder, base = data_path("adapters"), Path(base).name
    paths = (path for path in sorted(folder.glob(f"{base}-*.safetensors")) if not path.stem.endswith(".checkpoint"))
    return {path.stem.removeprefix(f"{base}-"): path for path in paths}


def load_adapter(base: HookedModel | str, adapter: str | Path) -> Posttrained:
    """A base model with an adapter merged in.

    Args:
        base: the hooked base model, or a name to load it by.
        adapter: one that ships with the package ("composed" and "bright", for gemma-3-270m), or the path that
            `posttrain` wrote.

    Raises:
        ValueError: no such adapter, one that was trained on another base, a damaged file.

    >>> dialogues = [{"user": f"the {word}", "assistant": "was calm ."} for word in ("river", "night", "door")]
    >>> recipe = el.Recipe(tokens=30, batch_tokens=40)
    >>> child = el.posttrain(model, dialogues, "child.safetensors", name="child", recipe=recipe, progress=False)
    >>> load_adapter(model, "child.safetensors").model.fingerprint == child.model.fingerprint
    True
    """
    if isinstance(base, str):
        from emolens.models.loading import load

        base = load(base)
    shipped = packaged_adapters(base.name)
    path = shipped.get(str(adapter), Path(adapter))
    if not path.exists() or path.suffix != ".safetensors":
        near = did_you_mean(str(adapter), shipped)
        raise ValueError(
            f"no adapter {str(adapter)!r}{near}: for {base.name} there ship {', '.join(shipped) or 'none'}"
        )
    record, weights = _read(path)
    if record["fingerprint"] != base.fingerprint:
        raise ValueError(
            f"the adapter {record['name']!r} was trained on {record['base']} (fingerprint {record['fingerprint']}), "
            f"not on {base.name} ({base.fingerprint}): load that base, or post-train this one with el.posttrain"
        )
    return Posttrained(wrap(base, merge(base, weights, record), record), path, record)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Record and weights of an adapter, compared with its checksum."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        raise ValueError(f"{path} has no record {beside.name} beside it, so its base is not known")
    try:
        record = json.loads(beside.read_text("utf-8"))
        if missing := [
            key for key in ("format", "sha256", "name", "base", "fingerprint", "recipe") if key not in record
        ]:
            raise ValueError(f"it has no {missing[0]!r}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{beside} is not the record of an adapter ({error}); train or copy it again") from error
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); train or copy it again") from error
    if record.get("format") != FORMAT or record["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ValueError(f"{path} is not the file that {beside.name} describes; train or copy it again")
    _require_finite(path, weights)
    return record, weights


def _require_finite(path: Path, weights: dict[str, Tensor]) -> None:
    """Raise ValueError for a weight with an infinite or NaN entry, which would spoil all that is computed with it."""
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"the weight {name!r} of {path.name} is not finite (in float16)")
