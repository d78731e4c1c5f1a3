"""What is counted as the handbook's way, and which years break an invariant."""

from dataclasses import replace

import pytest

from cmdcm.jobs.year.page import page
from cmdcm.jobs.year.verdicts import Attempt, invariants

FIRST = Attempt(
    "a-2024", "lead", "2024-06-01", "", "", "published", "version 1 is published",
    None, 1, 1, "published", "", "", "",
)  # fmt: skip
FAILED = Attempt(
    "b-2024", "lead", "2024-10-25", "missing_day", "no event of 2024-10-24", "failed",
    "1 days without an event: 2024-10-24", 1, 1, None, "failed", "2024-10-24", "page.md", "",
)  # fmt: skip
MENDED = Attempt(
    "b-2024", "lead", "2024-10-25", "", "mended", "promoted", "version 2 is stable",
    1, 2, 2, "promoted", "", "", "decisions/3.html",
)  # fmt: skip
YEAR = [FIRST, FAILED, MENDED]
OPENS = {"a-2024": "2024-06-08", "b-2024": "2024-11-01"}


def test_the_handbooks_way():
    assert [attempt.faults() for attempt in YEAR] == [[], [], []]


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (replace(FAILED, outcome="promoted", version=2, after=2), "promoted in place of failed"),
        (replace(FAILED, reason="step check failed"), "does not name '2024-10-24'"),
        (replace(FAILED, after=None), "version None serves in place of 1"),
        (replace(MENDED, after=1), "version 1 serves in place of 2"),
        (replace(MENDED, outcome="refused", after=1), "refused in place of promoted"),
    ],
)
def test_another_outcome_cause_or_version_is_told(attempt, told):
    assert told in "; ".join(attempt.faults())


def held(attempts=YEAR, answered=None, failures=(), served=(1, 2)):
    answers = {1: 5, 2: 3} if answered is None else answered
    return [one.held for one in invariants(attempts, OPENS, answers, failures, served)]


def test_a_good_year_holds_all_invariants():
    assert held() == [True, True, True]


def test_each_invariant_can_break():
    assert held(failures=["UNAVAILABLE: gone"]) == [False, True, True]
    assert held(answered={}) == [False, True, True]
    assert held(served=(2,)) == [False, True, True]
    assert held(answered={1: 5, 3: 1}) == [True, False, True]
    assert held([FIRST, FAILED]) == [True, False, False]
    late = replace(MENDED, as_of="2024-11-02")
    assert held([FIRST, FAILED, late]) == [True, True, False]


def test_the_page_shows_each_decision_and_what_broke():
    wrong = replace(FAILED, reason="<b>odd</b>")
    text = page([FIRST, wrong, MENDED], invariants(YEAR, OPENS, {1: 5, 9: 1}, [], (1, 2)), 90.0)
    assert "2 of 3 decisions are what the handbook says; not those of 2024-10-25." in text
    assert "Broken: No unblessed model answers." in text and "not accepted: [9]" in text
    assert "&lt;b&gt;odd" in text and 'href="decisions/3.html"' in text and "missing day" in text
