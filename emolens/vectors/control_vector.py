"""Control vectors of llama.cpp on disk (GGUF, its `--control-vector` option): a direction written, and one read."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emolens.files import write_atomic
from emolens.models.hooked import Layers, listed
from emolens.vectors.direction import Direction, check_finite, position_of

ARCHITECTURE = "controlvector"  # what a GGUF file of this kind calls itself
NUMBERS = (np.float64, np.float32, np.float16)  # what a tensor of numbers that are not quantised is read as
ALIKE = {"mistral": "llama", "mixtral": "llama"}  # what llama.cpp calls an architecture of transformers


def export_gguf(path: str | Path, direction: Direction, layers: Layers | None = None) -> Path:
    """Write a direction as a llama.cpp control vector.

    Each layer's tensor is `values x residual norm`, so that llama.cpp's scale is the strength of
    `steer`. llama.cpp numbers the output of block l as `direction.l` and has no place for block 0.

    Args:
        layers: one block or several; default all that the direction has, but block 0.

    Raises:
        ValueError: block 0 is asked for, no layer is left, the direction is zero or not finite there.

    >>> export_gguf("calm.gguf", shipped["calm"], layers=[19, 20]).name
    'calm.gguf'
    """
    from gguf import GGUFWriter

    chosen = [layer for layer in direction.layers if layer > 0] if layers is None else listed(layers)
    rows = {layer: position_of(direction.layers, layer) for layer in chosen}
    if 0 in rows:
        raise ValueError("llama.cpp has no control vector for block 0; leave it out of layers")
    if not rows or len(rows) < len(chosen):
        raise ValueError(f"layers={layers!r} of {direction.name!r}: name each block once, and at least one but 0")
    tensors = {layer: direction.residual_norm[row] * direction.values[row] for layer, row in rows.items()}
    for layer, tensor in tensors.items():
        check_finite(tensor, f"{direction.name!r} at layer {layer}")

    def write(target: Path) -> None:
        writer = GGUFWriter(target, ARCHITECTURE)
        if hint := direction.stamp.get("architecture"):
            writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(tensors))
        for layer, tensor in tensors.items():
            writer.add_tensor(f"direction.{layer}", tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write_atomic(path, write)


def import_gguf(path: str | Path, of: Any, layers: Layers | None = None, name: str | None = None) -> Direction:
    """Read a control vector that llama.cpp, repeng or `export_gguf` wrote, to steer with or to hold against nulls.

    The tensors keep their sizes: a strength of 1 adds to each block what llama.cpp adds at a scale of 1. For
    a strength in mean residual norms, as of an emotion, scale them: `Direction.from_tensor(d.values, d.layers, of)`.

    Args:
        of: the model that the file is for, or its `EmotionVectors`; see `Direction.from_tensor`.
        layers: which of the file's blocks to take; default all.
        name: default the name of the file.

    Raises:
        ValueError: a damaged file or one without directions, of another width or architecture, with layers that
            the model or vectors do not have, or with numbers that are quantised or not finite.

    >>> direction = import_gguf(shipped.export_gguf("calm.gguf", "calm"), shipped)
    >>> direction.name, direction.layers, shipped.nearest(direction, 1)
    ('calm', (18, 19, 20, 21, 22), [('calm', 1.0...)])
    """
    path = Path(path)
    hint, tensors = _tensors(path)
    if layers is not None:
        wanted = listed(layers)
        if lacking := [layer for layer in wanted if layer not in tensors]:
            raise ValueError(f"{path.name} has no direction for layer {lacking[0]!r}; it has {sorted(tensors)}")
        tensors = {layer: tensors[layer] for layer in wanted}
    chosen = sorted(tensors)
    if len(widths := {len(tensors[layer]) for layer in chosen}) > 1:
        raise ValueError(f"the directions of {path.name} have different widths: {sorted(widths)}")
    values = torch.stack([tensors[layer] for layer in chosen])
    try:
        direction = Direction.from_tensor(values, chosen, of, name or path.stem, normalise=False)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error} (layers= takes some of the file's directions only)") from error
    own = direction.stamp.get("architecture", "")
    if hint and "For" in own and _plain(hint) != _plain(own):
        raise ValueError(f"{path.name} is a control vector for the architecture {hint!r}, not for {own!r}")
    return replace(direction, values=direction.values / direction.residual_norm[:, None])


def _tensors(path: Path) -> tuple[str, dict[int, Tensor]]:
    """The architecture that a file of directions is for, or "", and the tensor of each block."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {key: reader.fields[key].contents() for key in reader.fields if key.startswith(ARCHITECTURE)}
        tensors = {str(tensor.name): np.array(tensor.data) for tensor in reader.tensors}
    except OSError:
        raise
    except Exception as error:  # the reader fails in many ways on what is no such file
        raise ValueError(f"{path} is damaged or no GGUF file: {error}") from error
    rows: dict[int, Tensor] = {}
    for key, values in tensors.items():
        if not (number := re.fullmatch(r"direction\.(\d+)", key)):
            continue
        if int(number[1]) == 0:
            raise ValueError(f"{path.name} has a {key}: llama.cpp counts the blocks of a control vector from 1")
        if values.dtype not in NUMBERS or values.ndim != 1:
            raise ValueError(f"{key} of {path.name} is {values.dtype} {list(values.shape)}: give a row of float32")
        rows[int(number[1])] = torch.from_numpy(values.astype(np.float32))
        check_finite(rows[int(number[1])], f"{key} of {path.name}")
    if not rows:
        few = ", ".join(sorted(tensors)[:3]) or "no tensor at all"
        raise ValueError(f"{path.name} holds no directions (tensors direction.1 and so on), but {few}")
    return str(fields.get(f"{ARCHITECTURE}.model_hint", "")), rows


def _plain(architecture: str) -> str:
    """One name for "Gemma3ForCausalLM", "gemma3_text" and "gemma3"."""
    short = re.sub("[^a-z0-9]", "", re.sub("For[A-Z].*", "", architecture).lower()).removesuffix("text")
    return ALIKE.get(short, short)
