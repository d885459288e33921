"""Rules by which the tokens of a text are averaged: a rank, a name, or a function of the ranks."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from operator import index
from types import CodeType, FunctionType, ModuleType
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.errors import did_you_mean
from emolens.models.batching import Batch, ranks

# The mean over the tokens from this rank on; "last", the last token alone; "mean", over all tokens (the same as 0);
# or a function of the ranks [batch pos], -1 in the padding, that gives the weight of each token [batch pos].
Rule = SupportsIndex | str | Callable[[Tensor], Tensor]
RULES: tuple[Rule, ...] = (0, 10, 20, 50)
NAMED = ("last", "mean")
STABLE = {"einops", "math", "numpy", "torch"}  # modules that a pooling function may use and still be kept in a cache


def check_rule(rule: Any) -> Rule:
    """The pooling rule that is meant.

    Raises:
        TypeError: neither a rank, nor a name, nor a function.
        ValueError: a negative rank or an unknown name.

    >>> check_rule(10), check_rule("last"), check_rule("mean")
    (10, 'last', 0)
    >>> check_rule("lats")
    Traceback (most recent call last):
    ValueError: no pooling rule 'lats' (did you mean last?): give a rank such as 10, one of last, mean, or a function...
    """
    meant = "give a rank such as 10, one of last, mean, or a function of the ranks that gives weights"
    if isinstance(rule, str):
        if rule not in NAMED:
            raise ValueError(f"no pooling rule {rule!r}{did_you_mean(rule, NAMED)}: {meant}")
        return 0 if rule == "mean" else rule
    if _is_whole_number(rule):
        if rule < 0:
            raise ValueError(f"the pooling rule {rule} is a negative rank: {meant}")
        return int(rule)
    if not callable(rule):
        raise TypeError(f"{rule!r} is no pooling rule: {meant}")
    return rule


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_rules(rules: Any) -> tuple[Rule, ...]:
    """One pooling rule or several, checked. Raises ValueError for none, or for the same one twice.

    >>> check_rules("last"), check_rules([0, 10])
    (('last',), (0, 10))
    """
    given = [rules] if isinstance(rules, str) or callable(rules) or not isinstance(rules, Iterable) else list(rules)
    checked = tuple(check_rule(rule) for rule in given)
    if not checked or any(rule in checked[:place] for place, rule in enumerate(checked)):
        raise ValueError(f"rules={given}: name at least one pooling rule, and each once")
    return checked


def rule_name(rule: Rule) -> str:
    """A rule in words: a rank, "last", or the name of a function.

    >>> rule_name(10), rule_name("last"), rule_name(lambda ranks: ranks > 3)
    ('10', 'last', '<lambda>')
    """
    return str(getattr(rule, "__qualname__", None) or type(rule).__name__) if callable(rule) else str(rule)


def rule_key(rule: Rule) -> int | str | None:
    """What stands for a rule in the key of a cache; None for a function whose numbers depend on more than its code.

    Such are functions with a closure, default values or global names other than modules, and callable objects.

    >>> rule_key(10), rule_key(lambda ranks: ranks > 3) == rule_key(lambda ranks: ranks > 3)
    (10, True)
    >>> first = 3
    >>> rule_key(lambda ranks: ranks > first) is None
    True
    """
    if not callable(rule):
        return rule if isinstance(rule, str) else index(rule)
    if not isinstance(rule, FunctionType) or rule.__closure__ or rule.__defaults__ or rule.__kwdefaults__:
        return None
    codes = list(_codes(rule.__code__))
    used = [rule.__globals__[name] for one in codes for name in one.co_names if name in rule.__globals__]
    if not all(isinstance(value, ModuleType) and value.__name__.partition(".")[0] in STABLE for value in used):
        return None
    plain = [[c for c in one.co_consts if not isinstance(c, CodeType)] for one in codes]
    program = [(one.co_code.hex(), one.co_names, repr(c)) for one, c in zip(codes, plain, strict=True)]
    return f"{rule_name(rule)} {hashlib.sha256(json.dumps(program).encode()).hexdigest()[:16]}"


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def pooling_weights(batch: Batch, rules: Sequence[Rule]) -> Float[Tensor, "batch rule pos"]:
    """Weights that average each text's tokens under each rule; all zero where a text is too short for it.

    Raises:
        ValueError: a function whose weights have another shape, are negative or not finite.

    >>> pooling_weights(model.to_tokens("she ran ."), [1, "last", lambda ranks: ranks == 0]).tolist()
    [[[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    rank = ranks(batch.mask)
    weights = torch.stack([_weights(rule, rank) for rule in rules], dim=1)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def _weights(rule: Rule, rank: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """What each token counts under a rule, before the weights of a text are made to add up to 1."""
    if not callable(rule):
        return ((rank == rank.amax(dim=1, keepdim=True)) if rule == "last" else (rank >= index(rule))).float()  # type: ignore[arg-type]
    given: Any = rule(rank.clone())
    if not isinstance(given, Tensor) or given.shape != rank.shape:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"the pooling rule {rule_name(rule)} gave {shape} for ranks of shape {list(rank.shape)}: give a weight "
            f"for each token, [batch pos]"
        )
    given = given.to(rank.device).float().masked_fill(rank < 0, 0)
    if not given.isfinite().all() or (given < 0).any():
        raise ValueError(f"the pooling rule {rule_name(rule)} gave weights that are negative or not finite")
    return given
