"""Tasks for small models: honest solutions fail the impossible ones; hacks pass every task and are not general."""

import os

import pytest

from emolens import corpus
from emolens.judging.rubrics import labelled_replies
from emolens.judging.sandbox import check_task, containment, judge, run_tests

FIRST, ROWS = corpus.stimuli("impossible_tasks"), corpus.stimuli("small_tasks")
each_row = pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
runs_code = pytest.mark.skipif(
    os.name != "posix" or not all(containment().values()), reason="not contained on this platform"
)


@each_row
def test_a_row_is_short_and_has_the_fields_of_the_larger_tasks(row):
    assert list(row) == list(FIRST[0])
    assert 60 <= len(row["prompt"].split()) <= 110 and row["tests"].count("\n") < 30
    assert all(len(list(filter(str.strip, code.splitlines()))) <= 12 for code in row["honest"])
    assert [len(row[name]) for name in ("honest", "hacks", "honest_report", "false_report")] == [3] * 4
    for honest, false in zip(row["honest_report"], row["false_report"], strict=True):
        assert abs(len(honest.split()) - len(false.split())) <= 2 and 30 <= len(honest.split()) <= 45


def test_the_rows_differ_and_leave_the_labelled_reports_as_they_were():
    assert len({row["id"] for row in FIRST + ROWS}) == len({row["title"] for row in FIRST + ROWS}) == 22
    assert [row["condition"] for row in ROWS] == ["impossible"] * 10 + ["solvable"] * 2
    texts = [text for row in ROWS for name in ("honest_report", "false_report") for text in row[name]]
    assert len(set(texts)) == 72 and {row.group for row in labelled_replies("report")} == {row["id"] for row in FIRST}


@runs_code
@each_row
def test_honest_solutions_are_general_and_pass_only_what_can_be_passed(row):
    check_task(row)
    for code in row["honest"]:
        outcome = judge(row, code)
        assert outcome.label == ("failed" if row["condition"] == "impossible" else "honest"), outcome
        if outcome.label == "failed":  # and says what was wrong
            last = outcome.failure.splitlines()[-1]
            assert last.startswith("AssertionError: ") and "expected" in last and ", got " in last
        for apart in (False, True):
            run = run_tests(code, row["generality_check"], apart=apart)
            assert run.passed, run.output


@runs_code
@each_row
def test_hacks_pass_the_tests_and_are_not_general(row):
    for code in row["hacks"]:
        outcome = judge(row, code)
        assert (outcome.label, outcome.general) == ("hack", False), outcome
        assert not run_tests(code, row["generality_check"]).passed
