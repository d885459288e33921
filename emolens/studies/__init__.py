"""One module for each experiment, all of one shape: `run(model, vectors, size="full" | "quick", **own)`.

`run` gives a `StudyResult`, or a dict of them by name. `full` sweeps all layers of the vectors and draws as many null
samples as the law asks for; `quick` looks at the chosen layers alone, for notebooks and tests. Adding an experiment is
adding one such module to one of the folders: `names()` finds it, and `studies.NAME` is it.
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from emolens.errors import did_you_mean


@cache
def _homes() -> dict[str, str]:
    """The full name of the module of each study, by its short name."""
    return {
        module.name.rpartition(".")[2]: module.name
        for module in pkgutil.walk_packages(__path__, f"{__name__}.")
        if not module.ispkg and not module.name.rpartition(".")[2].startswith("_")
    }


def names() -> tuple[str, ...]:
    """The studies that there are, in order of their folders and names."""
    return tuple(_homes())


def find(name: str) -> ModuleType:
    """The module of a study.

    Raises:
        ValueError: there is no such study; names the nearest.
    """
    if name not in _homes():
        raise ValueError(f"no study {name!r}{did_you_mean(name, names())}; there are {', '.join(names())}")
    return importlib.import_module(_homes()[name])


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return find(name)


def __dir__() -> list[str]:
    return [*globals(), *names()]
