"""When a service that fails is asked again. Time stands still unless a test moves it."""

import pytest

from orchestrator.drafting import drafter as drafter_module
from orchestrator.drafting.drafter import Breaker


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(drafter_module, "time", clock)
    return clock


def test_a_service_that_works_may_always_be_asked(clock: Clock) -> None:
    breaker = Breaker(retry_s=2.0)
    assert [breaker.may_try() for _ in range(3)] == [True, True, True]
    assert not breaker.is_open


def test_after_a_failure_one_caller_tries_in_each_period(clock: Clock) -> None:
    breaker = Breaker(retry_s=2.0)
    breaker.fail("it is down")
    assert breaker.is_open
    assert breaker.reason == "it is down"
    assert not breaker.may_try()
    clock.now_s += 1.9
    assert not breaker.may_try()
    clock.now_s += 0.2
    assert [breaker.may_try() for _ in range(3)] == [True, False, False]
    clock.now_s += 2.1
    assert [breaker.may_try() for _ in range(3)] == [True, False, False]


def test_a_try_that_fails_begins_a_new_period(clock: Clock) -> None:
    breaker = Breaker(retry_s=2.0)
    breaker.fail("down")
    clock.now_s += 2.1
    assert breaker.may_try()
    clock.now_s += 1.5
    breaker.fail("still down")
    clock.now_s += 1.9
    assert not breaker.may_try()
    assert breaker.reason == "still down"
    clock.now_s += 0.2
    assert breaker.may_try()


def test_a_try_that_succeeds_opens_the_way_for_all(clock: Clock) -> None:
    breaker = Breaker(retry_s=2.0)
    breaker.fail("down")
    clock.now_s += 2.1
    assert breaker.may_try()
    breaker.succeed()
    assert not breaker.is_open
    assert breaker.reason == ""
    assert [breaker.may_try() for _ in range(3)] == [True, True, True]


def test_a_service_that_does_not_fit_is_never_tried(clock: Clock) -> None:
    breaker = Breaker(retry_s=2.0)
    breaker.disable("another tokenizer")
    clock.now_s += 1e9
    assert not breaker.may_try()
    assert breaker.reason == "another tokenizer"
    # Answers that were on their way.
    breaker.succeed()
    breaker.fail("late")
    clock.now_s += 1e9
    assert not breaker.may_try()
    assert breaker.reason == "another tokenizer"
    breaker.enable()
    assert breaker.may_try()
    assert not breaker.is_open


def test_a_service_that_is_late_is_not_lost(clock: Clock) -> None:
    """However often: nothing says that it does not work on what was asked."""
    breaker = Breaker(retry_s=2.0)
    for _ in range(3):
        assert not breaker.fail("late", is_late=True)
        assert (breaker.is_open, breaker.is_lost) == (True, False)
        assert not breaker.may_try()
        clock.now_s += 2.1
        assert breaker.may_try()


def test_a_service_that_is_lost_stays_so_until_it_answers() -> None:
    breaker = Breaker(retry_s=2.0)
    assert breaker.fail("down")
    assert not breaker.fail("down"), "that is no news"
    assert not breaker.fail("late", is_late=True)
    assert breaker.is_lost
    breaker.succeed()
    assert not breaker.is_lost
    assert breaker.fail("down")


def test_an_answer_that_comes_late_opens_the_way_once() -> None:
    """A service that is always late is asked no more often for that."""
    breaker = Breaker(retry_s=2.0)
    breaker.fail("late", is_late=True)
    breaker.hear()
    assert not breaker.is_open
    breaker.fail("late again", is_late=True)
    breaker.hear()
    assert (breaker.is_open, breaker.is_lost) == (True, False)
    breaker.succeed()
    breaker.fail("late", is_late=True)
    breaker.hear()
    assert not breaker.is_open


def test_an_answer_that_comes_late_is_none_of_a_service_that_does_not_fit(clock: Clock) -> None:
    breaker = Breaker(retry_s=2.0)
    breaker.disable("another tokenizer")
    breaker.hear()
    assert (breaker.is_open, breaker.is_lost) == (True, True)
    breaker.enable()
    assert (breaker.is_open, breaker.is_lost) == (False, False)
