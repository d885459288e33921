"""One module for each experiment, all of one shape: `run(model, vectors, size="full" | "quick", **own)`.

`run` gives a `StudyResult`, or a dict of them by name. `full` sweeps all layers of the vectors and draws as many null
samples as the law asks for; `quick` looks at the chosen layers alone, for notebooks and tests. Adding an experiment is
adding one such module to one of the folders: `names()` finds it, and `studies.NAME` is it.
"""

import ast
import importlib
import importlib.util
import pkgutil
from functools import cache
from pathlib import Path
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
    """The studies that there are, in order of their folders and names.

    >>> "implicit" in names()
    True
    """
    return tuple(_homes())


def find(name: str) -> ModuleType:
    """The module of a study.

    Raises:
        ValueError: there is no such study; names the nearest.

    >>> find("implict")
    Traceback (most recent call last):
    ValueError: no study 'implict' (did you mean implicit...
    """
    if name not in _homes():
        raise ValueError(f"no study {name!r}{did_you_mean(name, names())}; there are {', '.join(names())}")
    return importlib.import_module(_homes()[name])


def describe() -> dict[str, str]:
    """What each study asks: the first line of its module, without importing it.

    >>> describe()["implicit"]
    "Do the vectors read an emotion that a user's message implies and never names? (paper, section 4)"
    """
    lines = {}
    for name, home in _homes().items():
        source = importlib.util.find_spec(home).origin  # type: ignore[union-attr]
        docstring = ast.get_docstring(ast.parse(Path(str(source)).read_text("utf-8"))) or ""
        lines[name] = docstring.split("\n")[0]
    return lines


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return find(name)


def __dir__() -> list[str]:
    return [*globals(), *names()]
