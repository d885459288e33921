"""Checks of the notebooks' exercises: they say what is wrong with an answer, and do not give it away.

One module for each notebook, one function for each exercise. In the notebook:

    from emolens import exercises
    mine = ...  # your turn
    exercises.quickstart.own_score(mine, readout)
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """A notebook's checks, imported when they are first asked for."""
    if name.startswith("_") or not (Path(__file__).parent / f"{name}.py").exists():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
