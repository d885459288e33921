"""While a model is loaded and wrapped, no dependency installs a package, fetches compiled code or asks the hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INSTALLERS = re.compile(
    r"(pip[\d.]*|uv|pipx|easy_install|conda|mamba|micromamba|poetry|pdm|npm|yarn|apt|apt-get)(\.exe)?"
)
ACTIONS = {"install", "add", "sync"}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}  # events of Python's audit hooks

_guards: list[None] = []  # one entry for each context that is open
_watching: list[None] = []  # one entry once the audit hook is set: Python has no way to take it away


@contextmanager
def nothing_installed() -> Iterator[None]:
    """Inside, a call of pip, uv or another installer raises, and transformers takes no kernels from the hub.

    TransformerLens 4.3 runs `pip install torchvision` for a multimodal class, which can replace torch itself.

    Raises:
        RuntimeError: inside, for the dependency that starts an installer, with its command.

    >>> import subprocess, sys
    >>> with nothing_installed():
    ...     subprocess.run([sys.executable, "-m", "pip", "install", "torchvision"])
    Traceback (most recent call last):
    RuntimeError: a dependency tried to run ... -m pip install torchvision': nothing is installed behind your back...
    """
    if not _watching:
        sys.addaudithook(_refuse)
        _watching.append(None)
    kernels = sys.modules.get("transformers.integrations.hub_kernels")
    enabled = getattr(kernels, "_kernels_enabled", None)
    _guards.append(None)
    try:
        if enabled is not None:
            kernels._kernels_enabled = False  # type: ignore[union-attr]
        yield
    finally:
        _guards.pop()
        if enabled is not None:
            kernels._kernels_enabled = enabled  # type: ignore[union-attr]


@contextmanager
def hub_offline() -> Iterator[None]:
    """Inside, `huggingface_hub` takes files from its cache alone.

    >>> from huggingface_hub import constants
    >>> with hub_offline():
    ...     constants.HF_HUB_OFFLINE
    True
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if _guards and event in STARTS:
        words = list(_words(arguments))
        if ACTIONS & set(words) and any(INSTALLERS.fullmatch(os.path.basename(word)) for word in words):
            raise RuntimeError(
                f"a dependency tried to run {' '.join(words)!r}: nothing is installed behind your back. "
                f"Install it yourself if you want it, and load the model again"
            )


def _words(arguments: Any) -> Iterator[str]:
    for part in arguments:
        if isinstance(part, (list, tuple)):
            yield from _words(part)
        elif isinstance(part, (str, bytes, os.PathLike)):
            yield from os.fsdecode(part).split()
