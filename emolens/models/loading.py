"""`load`: any model by name, folder or GGUF file, hooked and ready."""

from pathlib import Path
from typing import Any

import torch

from emolens.errors import did_you_mean
from emolens.models.embedded import known_models, local_path
from emolens.models.model import HookedModel


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("bf16") else torch.float32


def _hub_answers() -> bool:
    """Whether the hub can be reached; without this look, each file would be asked for six times, for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # of whichever HTTP library it uses
        return False
    return True


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    **hf_kwargs: Any,
) -> HookedModel:
    """Load and hook a model: the one place that touches the network.

    Args:
        name: one of `emolens models` (they install from the package index), a Hugging Face name, a
            local folder, or a `.gguf` file of an architecture that transformers can dequantise.
        device: default CUDA, then Apple's MPS, then the CPU.
        dtype: default bfloat16 where the processor has it natively, else float32.
        hf_kwargs: passed to `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: no such model, with the nearest names.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(device)
    dtype = native_dtype(device) if dtype is None else getattr(torch, dtype) if isinstance(dtype, str) else dtype
    label = str(name)
    source = local_path(label) if label in known_models() or label.endswith(".gguf") else label
    options = {"revision": revision, "local_files_only": Path(source).is_dir() or not _hub_answers()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        hf_model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options | hf_kwargs)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no model {label!r}{did_you_mean(label, known_models())}: give one of {', '.join(known_models())}, "
            f"a local folder, a .gguf file or a Hugging Face name that can be reached from here. "
            f"({str(error).splitlines()[0]})"
        ) from error
    return HookedModel.from_hf(hf_model.to(device), tokenizer, label, revision or "")
