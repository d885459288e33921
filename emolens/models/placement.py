"""Where a model's weights lie, in what form, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emolens.errors import did_you_mean

CGROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use
MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # accelerate's own ways to spread a model


def quantised_as(hf_model: Any) -> str:
    """In words, of how few bits the weights of a Hugging Face model are or were; "" where they are whole.

    Of a model whose blocks were dequantised by `embedded.local_path` it is llama.cpp's name of their format.

    >>> quantised_as(model.hf_model)
    ''
    """
    config = getattr(hf_model, "config", None)
    form = getattr(config, "dequantised_from", "")
    return f"{form}, dequantised" if form else quantisation(config)


def quantisation(config: Any) -> str:
    """In words, how weights are packed, by a model's configuration or its quantisation's own; "" if they are not.

    >>> quantisation(model.hf_model.config)
    ''
    >>> from transformers import BitsAndBytesConfig
    >>> quantisation(BitsAndBytesConfig(load_in_4bit=True))
    'bitsandbytes, 4 bits'
    """
    live: Any = config if hasattr(config, "quant_method") else getattr(config, "quantization_config", None)
    if not live:
        return ""
    facts = live if isinstance(live, dict) else live.to_dict()
    method = facts.get("quant_method") or type(live).__name__
    bits = facts.get("bits") or (4 if facts.get("load_in_4bit") else 8 if facts.get("load_in_8bit") else None)
    return f"{getattr(method, 'value', method)}" + (f", {bits} bits" if bits else "")


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a model takes its tokens: the device of its embedding, or where that one computes if it is offloaded.

    >>> device_of(model.bridge)
    device(type='cpu')
    """
    first = next(module.parameters())
    if first.is_meta:
        for part in module.modules():
            device = getattr(part.__dict__.get("_hf_hook"), "execution_device", None)
            if device is not None:
                return torch.device(device)
    return first.device


def dtype_of(module: torch.nn.Module) -> torch.dtype:
    """The type that a model computes in: of its first weight that is not packed.

    >>> packed = torch.nn.Linear(2, 2)
    >>> packed.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.uint8), requires_grad=False)
    >>> dtype_of(packed)
    torch.float32
    """
    kinds = (weight.dtype for weight in module.parameters())
    whole = next((kind for kind in kinds if kind.is_floating_point and kind.itemsize > 1), None)
    return next(module.parameters()).dtype if whole is None else whole


@contextmanager
def placed(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside, the weights of `module` itself (not of its parts) can be read, also where they are offloaded.

    It is the module inside TransformerLens's wrapper, which has the hook of accelerate that fetches them.

    >>> with placed(model.hf_model.lm_head) as head:
    ...     head.weight.shape
    torch.Size([80, 32])
    """
    from accelerate.utils import align_module_device

    inner = module._modules.get("_original_component") or module
    with align_module_device(inner):
        yield inner


def weight_of(module: torch.nn.Module) -> Tensor:
    """The weight of an embedding or a linear map, fetched if it is offloaded.

    Raises:
        ValueError: a weight that is packed, which holds no numbers that one could take rows of.

    >>> weight_of(model.hf_model.lm_head).shape
    torch.Size([80, 32])
    """
    with placed(module) as inner:
        weight: Any = inner.weight
    if not weight.is_floating_point() or weight.element_size() == 1:
        raise ValueError(
            f"the weights of {type(inner).__name__} are quantised ({weight.dtype}), so that its rows cannot be read: "
            f"leave embedding and output out of the quantisation (llm_int8_skip_modules, modules_to_not_convert)"
        )
    return weight


def require_whole_weights(hf_model: Any, name: str, what: str) -> None:
    """Raise ValueError for a model whose weights are offloaded or quantised, where all of them are needed at once.

    >>> require_whole_weights(model.hf_model, "tiny", "post-training")
    """
    offloaded = any(weight.is_meta for weight in hf_model.parameters())
    packed = quantisation(hf_model.config)
    if offloaded or packed:
        state = f"quantised ({packed})" if packed else "offloaded to the CPU or the disk"
        raise ValueError(f"the weights of {name} are {state}; {what} needs them whole, on one device: load it without")


def weights(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter in the order of the names; an offloaded one is fetched, and let go when the next is asked for.

    >>> [name for name, _ in weights(torch.nn.Linear(2, 2))]
    ['bias', 'weight']
    """
    owners: dict[int, tuple[torch.nn.Module, str]] = {
        id(weight): (part, key)
        for root in (module, getattr(module, "original_model", None))
        if isinstance(root, torch.nn.Module)
        for part in root.modules()
        for key, weight in part._parameters.items()
    }
    tied = getattr(getattr(module, "original_model", module), "all_tied_weights_keys", None) or {}
    for name, weight in sorted(module.named_parameters(), key=lambda item: item[0]):
        if weight.is_meta and name.replace("._original_component", "") in tied:
            continue  # offloaded, it is no longer the same object as the one that it is tied to
        part, key = owners[id(weight)]
        with placed(part) as there:
            yield name, there._parameters[key]  # type: ignore[misc]


def packing(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What belongs to the packed weights of a quantised model beside its parameters: buffers, scales.

    >>> list(packing(model.bridge))
    []
    """
    if not quantisation(getattr(getattr(module, "original_model", module), "config", None)):
        return
    yield from sorted(module.named_buffers(), key=lambda item: item[0])
    for name, weight in sorted(module.named_parameters(), key=lambda item: item[0]):
        # bitsandbytes keeps the scales of its blocks beside the parameter, in no module.
        for scale in (getattr(weight, "SCB", None), getattr(getattr(weight, "quant_state", None), "absmax", None)):
            if isinstance(scale, Tensor):
                yield name, scale


def check_map(device_map: Any, device: Any) -> None:
    """Raise ValueError for a `device_map` that is none, or that is given beside a device.

    >>> check_map("auto", None)
    >>> check_map("atuo", None)
    Traceback (most recent call last):
    ValueError: device_map='atuo' (did you mean auto?): give one of auto, balanced, balanced_low_0, sequential, or ...
    """
    if device_map is None:
        return
    if device is not None:
        raise ValueError(f"device={device!r} and device_map={device_map!r} were both given: give one of them")
    if isinstance(device_map, str) and device_map not in MAPS:
        raise ValueError(
            f"device_map={device_map!r}{did_you_mean(device_map, MAPS)}: give one of {', '.join(MAPS)}, or a dict "
            f"that names a device (0, 'cpu', 'disk') for each part of the model; device= puts all of it on one"
        )
    if not isinstance(device_map, (str, Mapping)) or not device_map:
        raise ValueError(f"device_map={device_map!r}: give one of {', '.join(MAPS)}, or a dict with parts as keys")
    if isinstance(device_map, Mapping):
        require_one_kind("the model", device_map)


def require_one_kind(label: str, device_map: Mapping[str, Any]) -> None:
    """Raise ValueError where some parts are on a GPU and others wait on the CPU or the disk for their turn on it.

    >>> require_one_kind("a model", {"model.embed_tokens": 0, "model.layers": "disk"})
    Traceback (most recent call last):
    ValueError: a model does not fit on the GPUs: the map puts model.layers on disk, and TransformerLens refuses to ...
    """
    waiting = {part: str(place) for part, place in device_map.items() if str(place) in ("cpu", "disk")}
    if waiting and len(waiting) < len(device_map):
        part, place = next(iter(waiting.items()))
        raise ValueError(
            f"{label} does not fit on the GPUs: the map puts {part} on {place}, and TransformerLens refuses to compute "
            f"on a GPU with weights that wait elsewhere, as nobody has verified it. Give more GPUs, dtype='bfloat16', "
            f"a quantised checkpoint, or {{'': 'cpu'}} and 'disk' for all parts (slow)"
        )


def check_attention(implementation: Any) -> None:
    """Raise ValueError for an implementation of attention that transformers does not have itself.

    >>> check_attention("eager")
    >>> check_attention("sdap")
    Traceback (most recent call last):
    ValueError: attn_implementation='sdap' (did you mean sdpa?): give one of eager, ...
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ("eager", *(name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name and name != "eager"))
    if implementation is not None and implementation not in known:
        raise ValueError(
            f"attn_implementation={implementation!r}{did_you_mean(str(implementation), known)}: give one of "
            f"{', '.join(known)}; what would be fetched as compiled code is not"
        )


def bytes_needed(place: str, config: Any, dtype: torch.dtype) -> int:
    """Bytes that the weights of a checkpoint take at least, by its files, or where they are not here by its shape.

    >>> bytes_needed("absent", model.hf_model.config, torch.bfloat16)
    84544
    """
    if sizes := _stored(Path(place)):
        packed = bool(quantisation(config))
        return sum(count * (stored if packed or not floating else dtype.itemsize) for count, stored, floating in sizes)
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    except Exception:  # of whichever class: what cannot be made here is not weighed
        return 0
    bits = quantisation(config).partition(", ")[2].removesuffix(" bits")
    return count * int(bits) // 8 if bits.isdecimal() else count * (1 if quantisation(config) else dtype.itemsize)


def _stored(folder: Path) -> list[tuple[int, int, bool]]:
    """For each tensor in the safetensors of a folder the number of entries, bytes of each, and if they are floating."""
    from safetensors import safe_open

    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    kind, count = part.get_dtype(), 1
                    for size in part.get_shape():
                        count *= size
                    found.append((count, _width(kind), kind.startswith(("F", "BF"))))
        except Exception:  # a damaged file is named by what loads it
            return []
    return found


def _width(kind: str) -> int:
    digits = "".join(letter for letter in kind.partition("_")[0] if letter.isdecimal())
    return max(1, int(digits or 8) // 8)


def bytes_free(device: torch.device) -> int:
    """Bytes that a device has to give: of the machine, or of the container that this process is in.

    >>> bytes_free(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = psutil.virtual_memory().available + psutil.swap_memory().free
    try:
        return min(free, int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def require_room(label: str, needed: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise MemoryError, with numbers and what to do, where the weights alone are more than there is room for.

    >>> require_room("a small model", 1000, torch.float32, torch.device("cpu"))
    >>> require_room("a large model", 10**18, torch.bfloat16, torch.device("cpu"))
    Traceback (most recent call last):
    MemoryError: the weights of 'a large model' take 1000000000.0 GB in bfloat16, and cpu has ... GB free: ...
    """
    for each in dict.fromkeys((torch.device("cpu"), device)):  # the weights come by way of the machine's memory
        if needed > (free := bytes_free(each)):
            smaller = "" if dtype.itemsize <= 2 else f'dtype="bfloat16" ({needed * 2 / dtype.itemsize / 1e9:.1f} GB), '
            raise MemoryError(
                f"the weights of {label!r} take {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and "
                f'{each} has {free / 1e9:.1f} GB free: give {smaller}device_map="auto" (all GPUs, then memory, then '
                f"the disk), a checkpoint that is quantised, or close what takes the memory"
            )
