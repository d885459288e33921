"""What all checks of exercises share: what is said to an answer that is missing, wrong, right, or raises."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

P = ParamSpec("P")
Check = Callable[Concatenate[Any, P], str | None]

MISSING = "Your turn: put your answer in the place of the dots."


def checked(right: str) -> Callable[[Check[P]], Callable[Concatenate[Any, P], None]]:
    """Make a check of a function from an answer (and what else it needs) to what is wrong with it.

    The check prints one sentence: that the answer is still missing (it is `...`), what is wrong with it, or `right`.
    An answer is often a function; where it returns `...` or None, as a stub does, the check returns `MISSING`.

    >>> @checked("Two vectors at a right angle have a cosine of 0.")
    ... def right_angle(answer: object) -> str | None:
    ...     return None if answer == 0 else f"a cosine of {answer} is that of another angle."
    >>> right_angle(...), right_angle(1), right_angle(0)
    Your turn: put your answer in the place of the dots.
    Not yet: a cosine of 1 is that of another angle.
    Right. Two vectors at a right angle have a cosine of 0.
    (None, None, None)
    """

    def made(check: Check[P]) -> Callable[Concatenate[Any, P], None]:
        @wraps(check)
        def run(answer: Any, *given: P.args, **named: P.kwargs) -> None:
            try:
                wrong = MISSING if answer is ... else check(answer, *given, **named)
            except Exception as error:  # whatever an answer does, the notebook goes on
                wrong = f"your answer raised {type(error).__name__}: {error}"
            print(wrong if wrong == MISSING else f"Not yet: {wrong}" if wrong else f"Right. {right}")

        return run

    return made
