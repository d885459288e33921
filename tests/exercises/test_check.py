"""What is said to an answer that is missing, wrong, right, or raises."""

import pytest

from emolens.exercises._check import MISSING, checked


@checked("It is seven.")
def seven(answer, offset=0):
    if callable(answer):
        answer = answer()
    if answer is None or answer is ...:
        return MISSING
    return None if answer == 7 + offset else f"{answer} is too {'small' if answer < 7 + offset else 'large'}."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., MISSING),
        (lambda: None, MISSING),
        (6, "Not yet: 6 is too small."),
        (7, "Right. It is seven."),
        (lambda: 7, "Right. It is seven."),
        (lambda: 1 / 0, "Not yet: your answer raised ZeroDivisionError: division by zero"),
    ],
)
def test_each_answer_is_told_what_it_is(answer, said, capsys):
    seven(answer)
    assert capsys.readouterr().out == f"{said}\n"


def test_a_check_takes_what_it_needs(capsys):
    seven(8, offset=1)
    assert capsys.readouterr().out == "Right. It is seven.\n"
