"""Pauses between tries grow up to a bound, and work that keeps failing is given up."""

from __future__ import annotations

import itertools

from vlarig.envs.backoff import LONGEST_ABSENCE, LONGEST_PAUSE, Backoff


def pauses(backoff: Backoff) -> list[float]:
    return list(itertools.takewhile(lambda pause: pause is not None, iter(backoff.failed, object())))


def test_something_that_never_worked_is_given_up_after_five_failures() -> None:
    assert pauses(Backoff()) == [0, 0.5, 1, 2, 4]


def test_something_that_worked_is_tried_for_five_minutes_and_each_success_restarts_the_count() -> None:
    backoff = Backoff()
    for _ in range(2):
        backoff.succeeded()
        assert pauses(backoff) == [0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
        assert backoff.failures == 13


def test_a_machine_that_is_away_is_looked_for_an_hour_long() -> None:
    backoff = Backoff(LONGEST_ABSENCE)
    found = pauses(backoff)
    assert max(found) == LONGEST_PAUSE
    assert LONGEST_ABSENCE <= sum(found) == backoff.paused < LONGEST_ABSENCE + LONGEST_PAUSE
