"""What Inspect finds under the name `emolens`, by the entry point of the package."""

from emolens.evals.provider import emolens
from emolens.evals.sandbox_environment import ConfinedPython
from emolens.evals.scorers import by_alarm, by_execution, by_judge
from emolens.evals.solvers import attempts, reply
from emolens.evals.tasks import honest_report, leverage, reward_hacking, sycophancy

__all__ = [
    "ConfinedPython",
    "attempts",
    "by_alarm",
    "by_execution",
    "by_judge",
    "emolens",
    "honest_report",
    "leverage",
    "reply",
    "reward_hacking",
    "sycophancy",
]
