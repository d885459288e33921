"""emolens: derive, read, map and steer emotion representations in open-weight language models.

The public names stand in `__init__.pyi`, one list for people, type checkers and Python itself. Nothing heavy is
imported before it is used: `import emolens` takes milliseconds.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_HOME = {
    name.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(statement, ast.ImportFrom) and statement.module
    for name in statement.names
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'emolens' has no attribute {name!r}")
    home = _HOME[name]
    try:
        value = importlib.import_module(f"{home}.{name}")  # a module or a room
    except ModuleNotFoundError as error:
        if error.name != f"{home}.{name}":
            raise
        value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
