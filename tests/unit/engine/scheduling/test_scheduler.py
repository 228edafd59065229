"""What the scheduler decides step by step, without a thread, by a clock of the test's own."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from services.engine.errors import SlotsTakenError
from services.engine.scheduling.scheduler import Decode, Scheduler
from services.engine.scheduling.work import Miss
from tests.unit.engine.fakes import VOCABULARY_SIZE, FakeRuntime
from tests.unit.engine.linear_costs import LinearCosts
from tests.unit.engine.works import Chain, Greedy, prefix

PROMPT = [1, 2, 3, 4, 5]
LONG = [index % VOCABULARY_SIZE for index in range(1000)]
# A decode costs 16 ms by itself and 1 ms a row: a one-row decode takes 17 ms.
COSTS = LinearCosts(16.0)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("services.engine.scheduling.scheduler.time", clock)
    monkeypatch.setattr("services.engine.scheduling.work.time", clock)
    monkeypatch.setattr("services.engine.scheduling.gathering.time", clock)
    return clock


class Scheduled:
    """A scheduler, what it decoded and what it answered."""

    def __init__(self, clock: Clock, num_slots: int = 4, prompt_rows: int = 0) -> None:
        self.clock = clock
        self.runtime = FakeRuntime(num_slots, context_length=1024, max_batch_rows=512)
        self.runtime.costs = COSTS
        self.scheduler = Scheduler(self.runtime, prompt_rows)
        self.scheduler._gathering._clock = clock.perf_counter
        self.scheduler.on_decode = self._on_decode
        self.decodes: list[dict[str, int]] = []
        self.answers: dict[str, list[int] | Miss | Exception] = {}

    def add(self, session_id: str, tokens: Sequence[int] = PROMPT, rows: Sequence[int] = (), **fields: Any) -> None:
        is_draft = "waits_for_slot" in fields
        work = Chain(prefix(session_id, tokens), 1) if is_draft else Greedy(prefix(session_id, tokens), rows)
        for name, value in fields.items():
            setattr(work, name, value)
        # Its default was bound before there was this clock.
        work.timings.submitted_s = self.clock.now_s

        def deliver(answer: list[int] | Miss | Exception) -> None:
            self.answers[session_id] = answer

        work.deliver = deliver
        self.scheduler.add(work)

    def step(self, *session_ids: str) -> dict[str, int]:
        """Let sessions ask, and return what they gave to the next decode, which begins when it is due."""
        for session_id in session_ids:
            self.add(session_id)
        num_decodes = len(self.decodes)
        while len(self.decodes) == num_decodes:
            due_s = self.scheduler.due_s()
            assert due_s < math.inf
            self.clock.now_s = max(self.clock.now_s, due_s)
            self.scheduler.step()
        return self.decodes[-1]

    def finish(self, *session_ids: str) -> None:
        """Decode until these sessions are answered."""
        for session_id in session_ids:
            self.answers.pop(session_id, None)
        while not self.answers.keys() >= set(session_ids):
            self.step()

    def come_back(self, session_id: str) -> None:
        """Let a session ask often enough to be expected again."""
        for _ in range(2):
            self.step(session_id)

    def _on_decode(self, decode: Decode) -> None:
        self.clock.now_s += COSTS.decode_s(decode.num_rows)
        self.decodes.append(dict(decode.sessions))


def test_nothing_is_due_where_nothing_is_asked(clock: Clock) -> None:
    assert Scheduled(clock).scheduler.due_s() == math.inf


def test_a_decode_is_due_when_all_are_back(clock: Clock) -> None:
    scheduled = Scheduled(clock)
    assert scheduled.step("a", "b").keys() == {"a", "b"}
    scheduled.add("a")
    assert scheduled.scheduler.due_s() > clock.now_s
    scheduled.add("b")
    assert scheduled.scheduler.due_s() <= clock.now_s
    assert scheduled.step().keys() == {"a", "b"}


class _Steep(LinearCosts):
    """Beyond some rows each costs as much as a decode: there is nothing to be saved by one decode in place of two."""

    def decode_s(self, num_rows: int) -> float:
        return super().decode_s(num_rows) + 0.016 * max(0, num_rows - 8)

    usual_s = decode_s


def test_rows_that_are_not_worth_verifying_do_not_shorten_the_wait_for_others(clock: Clock) -> None:
    due_s = []
    for num_worthless in (0, 16):
        scheduled = Scheduled(clock)
        scheduled.runtime.costs = scheduled.scheduler._gathering._costs = _Steep(16.0)
        for _ in range(3):
            for session_id in ("a", "b"):
                scheduled.add(session_id, wants_quote=True)
            scheduled.finish("a", "b")
        scheduled.add("a", rows=[1] * num_worthless, worths=[0.0] * num_worthless)
        due_s.append(scheduled.scheduler.due_s() - clock.now_s)
        scheduled.add("b")
        assert scheduled.step() == {"a": 1, "b": 1}
    assert due_s[0] == pytest.approx(due_s[1]) == pytest.approx(0.016)


def test_who_reads_ahead_is_not_waited_for(clock: Clock) -> None:
    scheduled = Scheduled(clock)
    work = Greedy(prefix("ahead", PROMPT))
    work.is_awaited = False
    scheduled.scheduler.add(work)
    scheduled.step("a")
    scheduled.add("a")
    assert scheduled.scheduler.due_s() <= clock.now_s
    assert scheduled.step().keys() == {"a"}


def test_a_wait_begins_anew_where_another_process_had_the_cores(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled = Scheduled(clock)
    scheduled.step("a", "b")
    scheduled.add("a")
    clock.now_s = scheduled.scheduler.due_s()
    monkeypatch.setattr(scheduled.scheduler._turns, "begin", lambda usual_s: True)
    scheduled.scheduler.wait_for_turn()
    assert scheduled.scheduler.due_s() > clock.now_s
    scheduled.add("b")
    assert scheduled.step().keys() == {"a", "b"}


def test_work_that_goes_on_waits_for_nobody(clock: Clock) -> None:
    scheduled = Scheduled(clock)
    scheduled.step("a", "b")
    scheduled.scheduler.add(Chain(prefix("a", PROMPT), 3))
    clock.now_s = max(clock.now_s, scheduled.scheduler.due_s())
    scheduled.scheduler.step()
    assert scheduled.scheduler.due_s() <= clock.now_s


@pytest.mark.parametrize("reads_a_prompt", [False, True])
def test_sessions_that_draft_for_as_long_as_a_decode_takes_go_in_two_groups(clock: Clock, reads_a_prompt: bool) -> None:
    """A prompt that was alone says nothing of what follows it."""
    scheduled = Scheduled(clock)
    if reads_a_prompt:
        scheduled.add("0", LONG)
        scheduled.finish("0")
    for _ in range(3):
        for session_id in "0123":
            scheduled.add(session_id, rows=[1] * 7)
        scheduled.finish(*"0123")
        clock.now_s += 0.03
    for session_id in "0123":
        scheduled.add(session_id, rows=[1] * 7)
    assert [len(scheduled.step()) for _ in range(2)] == [2, 2]


def test_a_prompt_goes_in_parts_while_a_session_is_between_two_cycles(clock: Clock) -> None:
    """Not only while one waits: a session at its draft comes back any moment."""
    scheduled = Scheduled(clock)
    scheduled.come_back("a")
    scheduled.add("long", LONG)
    assert scheduled.step() == {"long": 52}, "four one-row decodes take 68 ms, as 52 rows do"
    scheduled.add("a")
    assert scheduled.step() == {"a": 1}, "the prompt has had its turn"
    assert scheduled.step() == {"long": 52}


def test_a_prompt_is_evaluated_while_others_are_waited_for(clock: Clock) -> None:
    scheduled = Scheduled(clock)
    scheduled.step("a", "b")
    scheduled.step("a", "b")
    scheduled.add("a")
    scheduled.add("long", LONG)
    assert scheduled.scheduler.due_s() <= clock.now_s
    assert scheduled.step() == {"long": 52}
    scheduled.add("b")
    assert scheduled.step() == {"a": 1, "b": 1}


def test_a_prompt_alone_takes_a_quarter_of_a_second_at_most(clock: Clock) -> None:
    scheduled = Scheduled(clock)
    scheduled.add("long", LONG)
    assert scheduled.step() == {"long": 234}


def test_a_setting_limits_prompts_beside_others(clock: Clock) -> None:
    scheduled = Scheduled(clock, prompt_rows=7)
    scheduled.come_back("a")
    scheduled.add("long", LONG)
    assert scheduled.step() == {"long": 7}


def test_a_short_prompt_does_not_queue_behind_long_ones(clock: Clock) -> None:
    scheduled = Scheduled(clock, num_slots=8)
    for number in range(6):
        scheduled.add(f"long {number}", LONG)
    for _ in range(10):
        scheduled.step()
    scheduled.add("short", LONG[:30])
    assert "short" in scheduled.step()


def test_a_slot_is_not_taken_from_a_session_between_two_cycles(clock: Clock) -> None:
    scheduled = Scheduled(clock, num_slots=2)
    for _ in range(3):
        scheduled.step("a", "b")
    scheduled.add("c")
    assert scheduled.scheduler.num_waiting == 1
    assert scheduled.step("a", "b").keys() == {"a", "b"}
    assert scheduled.scheduler.admission.slots.num_evictions == 0
    scheduled.scheduler.release("a")
    assert scheduled.step("b").keys() == {"b", "c"}


def test_a_session_that_stays_away_loses_its_slot(clock: Clock) -> None:
    scheduled = Scheduled(clock, num_slots=2)
    for _ in range(3):
        scheduled.step("a", "b")
    scheduled.add("c")
    clock.now_s += 10.0
    assert scheduled.step().keys() == {"c"}
    assert scheduled.scheduler.admission.slots.find("a") is None


def test_those_without_a_slot_get_one_in_the_order_of_asking(clock: Clock) -> None:
    scheduled = Scheduled(clock, num_slots=1)
    scheduled.step("a")
    for session_id in ("b", "c", "d"):
        scheduled.add(session_id)
    served = []
    for _ in range(3):
        clock.now_s += 10.0
        served += scheduled.step()
    assert served == ["b", "c", "d"]


def test_work_that_does_not_wait_for_a_slot_is_refused_at_once(clock: Clock) -> None:
    scheduled = Scheduled(clock, num_slots=1)
    scheduled.come_back("a")
    scheduled.add("b", waits_for_slot=False)
    assert isinstance(scheduled.answers["b"], SlotsTakenError)
    scheduled.scheduler.release("a")
    scheduled.add("b", waits_for_slot=False)
    scheduled.step()
    assert isinstance(scheduled.answers["b"], list)


def test_those_who_just_came_fill_gaps_by_themselves(clock: Clock) -> None:
    """Each slot holds the prompt of one of them, and the second comes last: none is moved from its own."""
    scheduled = Scheduled(clock, num_slots=16)
    prompts = {f"session {index}": [index, *LONG[:80]] for index in range(16)}
    for session_id, prompt in prompts.items():
        scheduled.add(session_id, prompt)
    while len(scheduled.answers) < len(prompts):
        scheduled.step()
    homes = {slot.session_id: slot.index for slot in scheduled.scheduler.admission.slots.slots}
    for session_id in prompts:
        scheduled.scheduler.release(session_id)
    first, second, *others = prompts
    for session_id in (first, *others, second):
        scheduled.add(f"{session_id} again", prompts[session_id])
    found = {slot.session_id: slot.index for slot in scheduled.scheduler.admission.slots.slots}
    assert found == {f"{session_id} again": index for session_id, index in homes.items()}


def test_two_that_a_larger_company_left_far_apart_come_to_sit_side_by_side(clock: Clock) -> None:
    scheduled = Scheduled(clock, num_slots=6)
    scheduled.step("a", "b", "c", "d", "e", "f")
    for session_id in "bcde":
        scheduled.scheduler.release(session_id)
    for _ in range(8):
        scheduled.step("a", "f")
    slots = {slot.session_id: slot.index for slot in scheduled.scheduler.admission.slots.slots}
    assert abs(slots["a"] - slots["f"]) == 1
    assert scheduled.runtime.caches[slots["a"]] == scheduled.runtime.caches[slots["f"]] == PROMPT
