"""Evaluations of what models do, on Inspect: models under steering, tasks, solvers, scorers and a sandbox.

Needs the extra `inspect`. Inspect finds what is here by itself: `inspect eval emolens/reward_hacking --model
emolens/smollm2-135m-instruct`.
"""

import importlib.util

if importlib.util.find_spec("inspect_ai") is None:
    raise ModuleNotFoundError(
        "what models do is evaluated on Inspect, which is not installed: pip install 'emolens[inspect]'",
        name="inspect_ai",
    )

from emolens.evals.provider import as_inspect
from emolens.evals.tasks import honest_report, leverage, reward_hacking, sycophancy

__all__ = ["as_inspect", "honest_report", "leverage", "reward_hacking", "sycophancy"]
