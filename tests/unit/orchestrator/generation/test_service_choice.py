"""Which of several draft services drafts: by what they are worth, with visits to the others."""

import math
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.drafting.drafter import REMOTE, Breaker, Draft
from orchestrator.drafting.experience import Experience
from orchestrator.generation.service_choice import ServiceChoice
from outrider.v1 import common_pb2

CYCLE_S, DRAFT_S = 0.05, 0.02
TRY_S = 0.01
# So long a visited service may take until more is known of it: two plain cycles, in a cycle that takes as long again.
PLAIN_S = CYCLE_S / 3
MOST = 16


class Service:
    """What is shared of a draft service, as far as it is looked at here."""

    def __init__(self) -> None:
        self.breaker = Breaker(1.0)
        self.model = common_pb2.ModelInfo(max_draft_tokens=MOST)


class Request:
    """A request that goes through cycles, each drafted by the service that was chosen if it can be used."""

    def __init__(self, *worths: float, experience: Experience | None = None) -> None:
        services: list[Any] = [Service() for _ in worths]
        self.experience = experience or Experience(services)
        self.breakers = [service.breaker for service in self.experience.services]
        self.worths = list(worths)
        self.choice = ServiceChoice(self.experience)
        self.is_drafting = True
        self.num_waiting = 1
        self.experience.plain_s.add(PLAIN_S)
        self.visits_s = 0.0

    def cycle(self) -> int:
        rooms = self.experience.rooms(MOST)
        service = self.choice.choose(rooms, self.worths.__getitem__, is_drafting=self.is_drafting)
        draft = Draft()
        if not (self.is_drafting or self.choice.is_visit):
            pass
        elif not self.breakers[service].is_open:
            draft = Draft([7], waited_s=DRAFT_S, drafter=REMOTE, service=service)
        elif any(rooms):
            other = next(each for each, room in enumerate(rooms) if room)
            draft = Draft([7], waited_s=DRAFT_S, drafter=REMOTE, service=other)
        self.choice.note(draft)
        if draft.drafter == REMOTE:
            self.experience.remote[draft.service].tried_s = self.experience.exploration.elapsed_s
        if self.choice.is_visit:
            self.visits_s += CYCLE_S
        self.choice.spend(draft, CYCLE_S - draft.waited_s, self.num_waiting, TRY_S, is_drafting=self.is_drafting)
        return service

    def cycles(self, number: int) -> list[int]:
        return [self.cycle() for _ in range(number)]


def test_one_service_is_no_choice() -> None:
    request = Request(1.0)
    assert set(request.cycles(2000)) == {0}
    assert request.visits_s == 0


def test_a_better_one_is_used_after_a_while() -> None:
    request = Request(1.0, 2.0)
    used = request.cycles(100)
    assert used.index(1) == 20
    assert set(used[20:]) == {1}


def test_one_that_is_hardly_better_is_not_worth_a_change() -> None:
    assert set(Request(1.0, 1.04).cycles(300)) == {0}


def test_the_next_request_begins_with_the_one_that_was_found_best() -> None:
    request = Request(1.0, 2.0)
    request.cycles(30)
    assert Request(1.0, 2.0, experience=request.experience).cycle() == 1


def test_there_are_changes_once_in_twenty_cycles_at_most() -> None:
    request, used = Request(1.0, 2.0), []
    for _ in range(400):
        used.append(request.cycle())
        request.worths.reverse()
    assert sum(before != after for before, after in pairwise(used)) <= 20


def test_others_are_visited_in_a_hundredth_of_the_time() -> None:
    request = Request(1.0, -math.inf, 0.2)
    used = request.cycles(4000)
    assert used.count(1) == pytest.approx(used.count(2), abs=5), "in turn"
    assert 0.005 < request.visits_s / (4000 * CYCLE_S) <= 0.01
    assert used[:400].count(0) > 390, "not before the time for it has come together"


def test_one_that_turns_out_better_is_used_right_after_the_visit() -> None:
    request = Request(1.0, -math.inf)
    while request.cycle() == 0:
        pass
    request.worths[1] = 2.0
    assert set(request.cycles(50)) == {1}


def test_all_requests_share_the_time_for_visits() -> None:
    first = Request(1.0, 0.5)
    requests = [first, *(Request(1.0, 0.5, experience=first.experience) for _ in range(7))]
    for _ in range(1000):
        for request in requests:
            request.cycle()
    assert sum(request.visits_s for request in requests) <= 0.01 * 8000 * CYCLE_S


def test_a_visit_is_paid_for_by_all_who_wait_for_it() -> None:
    alone, together = Request(1.0, 0.5), Request(1.0, 0.5)
    together.num_waiting = 4
    for request in (alone, together):
        request.cycles(8000)
    # A visit's cycle has a draft of 20 ms that four wait for, and a decode of 30 ms.
    assert together.visits_s * (4 * 0.02 + 0.03) == pytest.approx(alone.visits_s * 0.05, rel=0.1)


def test_a_long_time_without_visits_does_not_make_up_for_them_at_once() -> None:
    request = Request(1.0, 0.5)
    request.experience.exploration.elapse(100_000.0, most_saved_s=1000.0)
    assert request.cycles(2000).count(1) <= 5 * (2 + 2)


def test_one_that_is_lost_is_left_at_once() -> None:
    request = Request(1.0, 2.0, 1.5)
    request.cycles(40)
    request.breakers[1].disable("it is away")
    assert request.cycles(3) == [2, 2, 2]
    request.breakers[1].enable()
    assert set(request.cycles(60)[21:]) == {1}


def test_one_that_takes_no_more_of_this_text_is_left_by_this_request_alone() -> None:
    request = Request(1.0, 2.0)
    request.cycles(40)
    request.choice.note(Draft([7], drafter=REMOTE, service=0))
    assert request.cycle() == 0
    assert Request(1.0, 2.0, experience=request.experience).cycle() == 1


def test_one_that_failed_is_visited_to_find_out_whether_it_is_back() -> None:
    request = Request(1.0, 2.0)
    request.cycles(40)
    request.breakers[1].fail("it was late")
    record = request.experience.remote[0]
    record.note_times(Draft([7], waited_s=0.02, computed_s=0.01, drafter=REMOTE))
    used = request.cycles(2000)
    assert 0 < used.count(1) < 10, "each time another one took its place"
    assert record.comes.count == 1, "its times are still known"


def test_one_that_is_not_there_is_not_visited() -> None:
    request = Request(1.0, 2.0)
    request.breakers[1].disable("it does not fit")
    assert set(request.cycles(2000)) == {0}


def test_where_nobody_can_be_used_the_choice_stays() -> None:
    request = Request(1.0, 2.0)
    for breaker in request.breakers:
        breaker.disable("it is away")
    assert set(request.cycles(100)) == {0}


def test_a_request_that_asks_no_service_visits_none() -> None:
    request = Request(1.0, 0.5)
    request.is_drafting = False
    request.cycles(2000)
    assert request.visits_s == 0


def test_where_drafts_are_not_worth_it_every_service_is_visited() -> None:
    request = Request(-0.5, -1.0)
    request.cycle()
    request.is_drafting = False
    visited = []
    for _ in range(4000):
        service = request.cycle()
        if request.choice.is_visit:
            visited.append(service)
    assert set(visited) == {0, 1}


def test_a_visit_begins_without_the_times_of_the_last_one() -> None:
    request = Request(1.0, 0.5)
    record = request.experience.remote[1]
    record.note_times(Draft([7], waited_s=0.5, computed_s=0.4, drafter=REMOTE))
    while request.cycle() == 0:
        assert record.comes.count == 1
    assert record.comes.count == 0
    assert record.usual_s(1) == 0
