"""`load`: any model by name, folder or GGUF file, hooked and ready."""

from __future__ import annotations

import gc
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from emolens.errors import did_you_mean
from emolens.fetch import hub_answers
from emolens.models import support
from emolens.models.embedded import MODELS, known_models, local_path
from emolens.models.guard import nothing_installed
from emolens.models.model import HookedModel
from emolens.models.multimodal import has_text_model
from emolens.models.placement import (
    bytes_needed,
    check_attention,
    check_map,
    quantisation,
    quantised_as,
    require_one_kind,
    require_room,
)

DTYPES = ("float32", "bfloat16", "float16", "float64")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelSource:
    """One kind of place that models come from.

    Attributes:
        holds: whether a label names a model of this source; the first source of `SOURCES` that says so is asked.
        locate: the folder, or the name on the hub, that transformers loads for a label.
        local: whether nothing of it is looked up on the hub.

    >>> ModelSource(lambda label: label.startswith("lab:"), lambda label: "models/" + label[4:], True).locate("lab:a")
    'models/a'
    """

    holds: Callable[[str], bool]
    locate: Callable[[str], str]
    local: bool


# A new source is one entry, before "hub", which takes every name.
SOURCES = {
    "embedded": ModelSource(lambda label: label in known_models(), lambda label: str(local_path(label)), True),
    "gguf": ModelSource(lambda label: label.lower().endswith(".gguf"), lambda label: str(local_path(label)), True),
    "folder": ModelSource(
        lambda label: Path(label).expanduser().is_dir(), lambda label: str(Path(label).expanduser()), True
    ),
    "hub": ModelSource(lambda label: True, lambda label: label, False),
}


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it natively, else float32.

    >>> native_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
    True
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("bf16") else torch.float32


def check_device(device: str | torch.device | None) -> torch.device:
    """The device that is meant, by default the best there is.

    Raises:
        ValueError: no device, or one that is not here.

    >>> check_device("cpu")
    device(type='cpu')
    >>> check_device("cuad")
    Traceback (most recent call last):
    ValueError: device='cuad' is no device (did you mean cuda or cpu?): give cpu, cuda, cuda:1, mps, or leave it out...
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kinds = ("cpu", "cuda", "mps")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        near = did_you_mean(str(device), kinds)
        raise ValueError(
            f"device={device!r} is no device{near}: give cpu, cuda, cuda:1, mps, or leave it out for the best there is"
        ) from error
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = here.get(chosen.type, int(chosen.type not in ("meta", "cpu") and _answers(chosen)))
    if (chosen.index or 0) >= count:
        there = ", ".join(kind for kind in kinds if here[kind])
        raise ValueError(
            f"device={str(device)!r} is not on this machine (there is {there}); leave it out or choose one"
        )
    return chosen


def _answers(device: torch.device) -> bool:
    """Whether a device of another kind (xpu, hpu, ...) takes a tensor."""
    try:
        return torch.zeros(1, device=device).numel() == 1
    except Exception:  # of whichever backend
        return False


def check_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The type of weights that is meant, by default `native_dtype`.

    Raises:
        ValueError: a type that is not of floating point, or an unknown name.

    >>> check_dtype("bfloat16", torch.device("cpu"))
    torch.bfloat16
    >>> check_dtype("float23", torch.device("cpu"))
    Traceback (most recent call last):
    ValueError: dtype='float23' (did you mean float32 or float64 or float16?): give one of float32, bfloat16, ...
    """
    if dtype is None:
        return native_dtype(device)
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, (str, torch.dtype)) or name not in DTYPES:
        raise ValueError(f"dtype={dtype!r}{did_you_mean(name, DTYPES)}: give one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    *,
    device_map: str | Mapping[str, Any] | None = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    **hf_kwargs: Any,
) -> HookedModel:
    """Load and hook a model: the one place that touches the network.

    Of a multimodal model (`google/gemma-3-4b-it`) the text model is taken. No code of the model's is run, no
    package is installed, and weights are read from safetensors alone.

    Args:
        name: one of `emolens models` (they install from the package index), a Hugging Face name, a
            local folder, or a `.gguf` file of an architecture that transformers can dequantise; see `SOURCES`.
        device: default CUDA, then Apple's MPS, then the CPU.
        dtype: default bfloat16 where the processor has it natively, else float32. A model in which a pass raises in
            16 bits (OLMo 1 to 3) is loaded in float32, whatever was asked for, with a warning.
        device_map: spreads a model that is larger than one device, instead of `device`: "auto" over all GPUs, then
            the memory, then the disk; or a dict that names a device for each part. What is kept on the CPU or the disk
            for a GPU to compute on is refused: TransformerLens has not been verified there.
        attn_implementation: "eager", "sdpa" or another that transformers has and that is installed here. A warning says
            where it has no effect; with another than "eager" no attention pattern is there to be hooked.
        quantization_config: how to quantise the weights on loading (`transformers.BitsAndBytesConfig(...)`); a
            checkpoint that is quantised (GPTQ, AWQ, FP8, bitsandbytes) says so itself. Stamps name it.
        hf_kwargs: passed to `AutoModelForCausalLM.from_pretrained`.

    Raises:
        TypeError: a name that is no string or path.
        ValueError: no such model, with the nearest names; no such device, dtype, map or attention; weights that are
            missing, pickled, truncated or not finite, named; quantised weights that cannot be used here.
        MemoryError: weights that are larger than the memory, before they are loaded, with what they need.
        ImportError: quantised weights or an attention that need a package that is not installed, named.

    >>> el.load("smollm2-135m-instrct")
    Traceback (most recent call last):
    ValueError: no model 'smollm2-135m-instrct' (did you mean smollm2-135m-instruct or ...?): give one of smollm2-...
    """
    check_map(device_map, device)
    check_attention(attn_implementation)
    asked, device = device, check_device(device)
    dtype = check_dtype(dtype, device)
    if not isinstance(name, (str, Path)):
        raise TypeError(f"{name!r} is no name of a model: give one of {', '.join(known_models())}, a folder or a file")
    if hf_kwargs.get("use_safetensors") is False:
        raise ValueError(f"use_safetensors=False: {_no_pickle(str(name))}")
    label = str(name)
    source = next(source for source in SOURCES.values() if source.holds(label))
    place = source.locate(label)
    options = {"revision": revision, "local_files_only": source.local or not hub_answers(), "trust_remote_code": False}
    given = {"attn_implementation": attn_implementation, "quantization_config": quantization_config}
    loading = {"dtype": dtype} | {key: value for key, value in given.items() if value is not None} | hf_kwargs
    with nothing_installed():
        tokenizer, hf_model = _from_transformers(
            label, place, options, loading, device if device_map is None else device_map
        )
    if label in MODELS:  # a folder that an earlier version made does not say it
        hf_model.config.dequantised_from = MODELS[label].quantised
    known_as = Path(label).stem if label.lower().endswith(".gguf") else label
    model = HookedModel.from_hf(hf_model, tokenizer, known_as, revision or "")
    if why := support.fails_in_its_dtype(model):
        kind, short = support.architecture(model), str(dtype).removeprefix("torch.")
        warnings.warn(f"{kind} ({label}) does not work in {short}: {why}. It is loaded in float32", stacklevel=2)
        del model, hf_model
        gc.collect()  # before the other weights need the room
        return load(
            name, asked, torch.float32, revision, device_map=device_map, attn_implementation=attn_implementation,
            quantization_config=quantization_config, **hf_kwargs,
        )  # fmt: skip
    model.quantised = quantised_as(hf_model)  # of a multimodal model the outer configuration says it
    if attn_implementation not in (None, "eager"):
        _ask_for_attention(model, attn_implementation)
    return model


def _ask_for_attention(model: HookedModel, implementation: str) -> None:
    """Give a wrapped model its implementation of attention back, for which TransformerLens always puts "eager".

    Warns where it has no effect, as a pass through the first block shows: TransformerLens computes the attention of
    most architectures itself.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    used, attend = [], ALL_ATTENTION_FUNCTIONS[implementation]

    def noting(*args: Any, **options: Any) -> Any:
        used.append(True)
        return attend(*args, **options)

    residual = support.verdict(model, "residual")  # held to the bare pass, whose attention is "eager"
    model.hf_model.set_attn_implementation(implementation)
    model.verdicts, model.bare = {"residual": residual}, None  # the rest is asked again of this attention
    ALL_ATTENTION_FUNCTIONS[implementation] = noting
    try:
        model.forward([0, 0], stop_after=0)
    finally:
        ALL_ATTENTION_FUNCTIONS[implementation] = attend
    if not used:
        model.hf_model.set_attn_implementation("eager")
        warnings.warn(
            f"attn_implementation={implementation!r} has no effect on {model.name}: TransformerLens computes the "
            f"attention of this architecture itself, so that its patterns can be hooked",
            stacklevel=3,
        )


def _from_transformers(
    label: str, place: str, options: dict[str, Any], loading: dict[str, Any], where: Any
) -> tuple[Any, Any]:
    """Tokenizer and model, whose weights are all from the file, on a device or spread by a map of devices."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    options = options | {key: loading[key] for key in ("trust_remote_code", "token", "subfolder") if key in loading}
    packed = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        config = loading.get("config") or AutoConfig.from_pretrained(place, **options)
        packed = quantisation(loading.get("quantization_config") or config)
        auto: Any = AutoModelForImageTextToText if has_text_model(config) else AutoModelForCausalLM
        if one := where if isinstance(where, torch.device) else None:
            needed = 0 if loading.get("quantization_config") else bytes_needed(place, config, loading["dtype"])
            require_room(label, needed, loading["dtype"], one)
            # packed weights cannot be moved afterwards
            placing: dict[str, Any] = {"device_map": {"": one}} if packed else {}
        else:
            placing = {"device_map": where, "offload_folder": (folder := TemporaryDirectory(prefix="emolens-")).name}
        report = {"use_safetensors": True, "output_loading_info": True}
        hf_model, info = auto.from_pretrained(place, **options | placing | loading | report)
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"the weights of {label!r} are damaged or cut short ({error}): copy them again") from error
    except ImportError as error:
        what = f"is quantised ({packed}) and needs" if packed else "needs"
        raise ImportError(f"{label!r} {what} a package that is not installed here: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(_what_failed(label, place, packed, error)) from error
    except RuntimeError as error:
        if not packed:
            raise
        raise ValueError(_what_failed(label, place, packed, error)) from error
    _require_all_weights(label, info)
    if one is None:
        require_one_kind(label, getattr(hf_model, "hf_device_map", {}))
        hf_model.offloaded_to = folder  # deleted with the model
    return tokenizer, hf_model if packed or one is None else hf_model.to(one)


def _what_failed(label: str, place: str, packed: str, error: Exception) -> str:
    """What transformers complains of, in terms of what was asked for."""
    if _is_pickled(place, str(error)):
        return f"the weights of {label!r} are pickled: {_no_pickle(label)}"
    if "trust_remote_code" in str(error):
        return f"{label!r} comes with code of its own, which is not run: {_first_line(error)}"
    if packed and not isinstance(error, OSError):
        return f"{label!r} is quantised ({packed}), and transformers cannot load that here: {_first_line(error)}"
    return (
        f"no model {label!r}{did_you_mean(label, known_models())}: give one of {', '.join(known_models())}, "
        f"a local folder, a .gguf file or a Hugging Face name that can be reached from here. "
        f"({_first_line(error)})"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _no_pickle(label: str) -> str:
    return (
        f"loading such a file runs whatever it says, so it is refused. Take a revision of {label!r} with .safetensors, "
        f"or convert the file where you trust it (model.save_pretrained writes safetensors)"
    )


def _is_pickled(place: str, message: str) -> bool:
    """Whether a folder has weights as pickle alone, or transformers says that a repository has no safetensors."""
    names = [path.name for path in Path(place).iterdir()] if Path(place).is_dir() else []
    if any(name.endswith(".safetensors") for name in names):
        return False
    return any(name.endswith(PICKLES) for name in names) or "cannot be loaded with `safetensors`" in message


def _require_all_weights(label: str, info: dict[str, Any]) -> None:
    """Raise ValueError where transformers has filled weights with random numbers."""
    lacking = [*info.get("missing_keys", ()), *(key for key, *_ in info.get("mismatched_keys", ()))]
    if lacking:
        some = ", ".join(sorted(lacking)[:3]) + (", ..." if len(lacking) > 3 else "")
        raise ValueError(
            f"{len(lacking)} weights of {label!r} are not in its files, or of another shape, so that random numbers "
            f"would stand in for them: {some}. Is it the whole checkpoint of a causal language model?"
        )
