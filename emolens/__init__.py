"""emolens: derive, read, map and steer emotion representations in open-weight language models.

Nothing heavy is imported before it is used: `import emolens` takes milliseconds.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "loading",
    "HookedModel": "model",
    "Story": "corpus",
    "Corpus": "corpus",
    "pool": "pooling",
    "token_moments": "pooling",
    "PooledActivations": "pooling",
    "derive": "derive",
    "fit": "derive",
    "EmotionVectors": "vectors",
    "Direction": "direction",
    "random_directions": "direction",
    "packaged_vectors": "vectors",
    "refit": "refit",
    "read": "read",
    "detect": "read",
    "activations": "read",
    "Readout": "read",
    "scan": "scan",
    "Scan": "scan",
    "logit_lens": "lens",
    "steer": "steer",
    "Steering": "steer",
    "log_probs": "continuations",
    "dose_response": "dose",
    "null_directions": "dose",
    "patch": "patch",
    "through": "patch",
    "attribute": "patch",
    "StudyResult": "stats",
    "posttrain": "posttrain",
    "Recipe": "posttrain",
    "load_adapter": "adapters",
    "compare": "studies.post_training",
}
_MODULES = (
    "batching", "corpus", "embedded", "geometry", "judge", "measures", "model", "plots", "pooling", "rubrics",
    "sandbox", "stats", "studies", "vectors",
)  # fmt: skip

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from emolens import (
        batching,
        corpus,
        embedded,
        geometry,
        judge,
        measures,
        model,
        plots,
        pooling,
        sandbox,
        stats,
        studies,
        vectors,
    )
    from emolens.adapters import load_adapter
    from emolens.continuations import log_probs
    from emolens.corpus import Corpus, Story
    from emolens.derive import derive, fit
    from emolens.direction import Direction, random_directions
    from emolens.dose import dose_response, null_directions
    from emolens.lens import logit_lens
    from emolens.loading import load
    from emolens.model import HookedModel
    from emolens.patch import attribute, patch, through
    from emolens.pooling import PooledActivations, pool, token_moments
    from emolens.posttrain import Recipe, posttrain
    from emolens.read import Readout, activations, detect, read
    from emolens.refit import refit
    from emolens.scan import Scan, scan
    from emolens.stats import StudyResult
    from emolens.steer import Steering, steer
    from emolens.studies.post_training import compare
    from emolens.vectors import EmotionVectors, packaged_vectors


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"emolens.{name}")
    if name in _HOME:
        value = globals()[name] = getattr(importlib.import_module(f"emolens.{_HOME[name]}"), name)
        return value
    raise AttributeError(f"module 'emolens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """Keeps `el.derive` and `el.read` functions when their modules, of the same names, are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
