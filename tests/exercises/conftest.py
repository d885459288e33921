"""What all tests of exercises share."""

import pytest


@pytest.fixture
def said(capsys):
    """What a check prints about an answer."""

    def ask(check, answer, *given):
        check(answer, *given)
        return capsys.readouterr().out.strip()

    return ask
