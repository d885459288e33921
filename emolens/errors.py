"""Wording shared by error messages."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" with the nearest known words, or nothing when none is near.

    >>> did_you_mean("clam", ["calm", "angry"])
    ' (did you mean calm?)'
    """
    near = get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
