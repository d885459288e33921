"""Wording shared by error messages, and the checks of arguments that every room needs."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any


class TooLongError(ValueError):
    """A text of more tokens than the model's context has."""


class UnsupportedError(ValueError):
    """What was asked for does not work on this architecture: which capability, what was found, what to use instead.

    >>> raise UnsupportedError("'attribute' does not work on MambaForCausalLM")
    Traceback (most recent call last):
    emolens.errors.UnsupportedError: 'attribute' does not work on MambaForCausalLM
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" with the nearest known words, or nothing when none is near.

    >>> did_you_mean("clam", ["calm", "sad"])
    ' (did you mean calm?)'
    """
    near = get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """`value` as an int; numpy's integers count, and what only looks like one does not (True, 2.0, "2").

    Raises:
        TypeError: another kind of value.
        ValueError: a number below `least`.

    >>> whole_number(5, "k", least=1)
    5
    >>> whole_number(0, "k", least=1)
    Traceback (most recent call last):
    ValueError: k=0: give 1 or more
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is no whole number")
    if least is not None and value < least:
        raise ValueError(f"{name}={value}: give {least} or more")
    return int(value)


def finite_number(value: Any, name: str) -> float:
    """`value` as a float; numpy's numbers and tensors of a single number count, and booleans do not.

    Raises:
        TypeError: another kind of value (a string, a complex number, a list).
        ValueError: NaN, or an infinity.

    >>> finite_number(float("nan"), "strength")
    Traceback (most recent call last):
    ValueError: strength nan is not finite
    """
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{name} {value!r} is not a number")
    try:
        number = float(plain)
    except OverflowError:  # a whole number of a thousand digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} {value!r} is not finite")
    return number
