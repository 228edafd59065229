"""What a piece of work is told of its time: the parts of it, by a clock of the test's own, add up to the whole."""

from collections.abc import Sequence

import pytest

from services.engine.runtime.interface import Logits, Segment
from services.engine.scheduling.scheduler import Scheduler
from services.engine.scheduling.work import Phase, Phases, WorkTimings
from tests.unit.engine.fakes import FakeRuntime
from tests.unit.engine.works import Chain, Greedy, prefix

PROMPT = [1, 2, 3, 4, 5]
DECODE_S, SAMPLING_S, TURN_S = 8.0, 0.5, 0.25


class Clock:
    """Stands still until it is told otherwise."""

    now_s = 1.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("scheduler", "work", "gathering"):
        monkeypatch.setattr(f"services.engine.scheduling.{module}.time", clock)
    return clock


class Timed:
    """A scheduler whose steps take known times."""

    def __init__(self, clock: Clock, num_slots: int = 4) -> None:
        self.clock = clock
        runtime = FakeRuntime(num_slots, context_length=1024, max_batch_rows=512)
        decode = runtime.decode

        def timed(segments: Sequence[Segment]) -> list[Logits]:
            clock.now_s += DECODE_S
            return decode(segments)

        runtime.decode = timed  # type: ignore[method-assign]
        self.scheduler = Scheduler(runtime)
        self.scheduler._gathering._clock = clock.perf_counter
        self.scheduler._turns.begin = self._turn  # type: ignore[method-assign]

    def add(self, session_id: str, num_tokens: int = 1) -> WorkTimings:
        """Let a session ask for so many tokens, one after the other."""
        work = SlowChain(self.clock, session_id, num_tokens)
        self.scheduler.add(work)
        return work.timings

    def step(self) -> None:
        self.scheduler.wait_for_turn()
        self.scheduler.step()

    def _turn(self, usual_s: float) -> bool:
        self.clock.now_s += TURN_S
        return False


class SlowChain(Chain):
    """Takes its time for each token."""

    def __init__(self, clock: Clock, session_id: str, num_tokens: int) -> None:
        super().__init__(prefix(session_id, PROMPT), num_tokens)
        self._clock = clock

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        self._clock.now_s += SAMPLING_S
        return super().next_step(logits, held)


def test_a_turn_that_went_on_before_the_engine_heard_of_work_is_told_too(clock: Clock) -> None:
    timed = Timed(clock)
    timed.add("another")
    timed.scheduler.wait_for_turn()
    # It was asked for in the middle of that.
    work = SlowChain(clock, "late", 1)
    work.timings.submitted_s = clock.now_s - TURN_S / 2
    timed.scheduler.add(work)
    before_s = work.timings.turn_s
    timed.scheduler.step()
    assert before_s == pytest.approx(TURN_S / 2)
    assert work.timings.turn_s == pytest.approx(TURN_S / 2 + work.timings.phases_s[Phase.TURN])


def assert_adds_up(timings: WorkTimings) -> None:
    assert sum(timings.phases_s) == pytest.approx(timings.finished_s - timings.admitted_s)


def test_a_session_alone(clock: Clock) -> None:
    timed = Timed(clock)
    timings = timed.add("a")
    clock.now_s += 2.0
    timed.step()
    # A turn is waited for before what came meanwhile is taken in, and before each decode.
    assert timings.phases_s == [2.0, 2 * TURN_S, 0.0, DECODE_S, SAMPLING_S]
    assert (timings.decode_s, timings.num_decodes, timings.decode_index) == (DECODE_S, 1, 1)
    assert_adds_up(timings)


def test_sessions_in_one_decode_wait_for_the_tokens_of_those_before_them(clock: Clock) -> None:
    timed = Timed(clock)
    first, second = timed.add("a"), timed.add("b")
    timed.step()
    assert (first.phases_s[Phase.SAMPLING], second.phases_s[Phase.SAMPLING]) == (SAMPLING_S, 2 * SAMPLING_S)
    assert first.decode_index == second.decode_index
    for timings in (first, second):
        assert_adds_up(timings)


def test_a_session_that_goes_on_is_told_of_all_its_decodes(clock: Clock) -> None:
    timed = Timed(clock)
    timings = timed.add("a", num_tokens=3)
    for _ in range(3):
        timed.step()
    assert timings.phases_s == [0.0, 6 * TURN_S, 0.0, 3 * DECODE_S, 3 * SAMPLING_S]
    assert (timings.decode_s, timings.num_decodes, timings.decode_index) == (3 * DECODE_S, 3, 3)
    assert_adds_up(timings)


def test_whoever_has_no_slot_is_not_admitted(clock: Clock) -> None:
    timed = Timed(clock, num_slots=1)
    first, second = timed.add("a"), timed.add("b")
    timed.step()
    clock.now_s += 10.0
    timed.step()
    assert second.admitted_s >= first.finished_s + 10.0
    assert second.phases_s[Phase.DECODING] == second.decode_s == DECODE_S
    assert_adds_up(second)


def test_work_that_is_refused_has_no_parts(clock: Clock) -> None:
    timed = Timed(clock)
    work = Greedy(prefix("a", PROMPT, cached_length=3))
    timed.scheduler.add(work)
    assert work.timings.phases_s == [0.0] * len(Phase)
    assert work.timings.finished_s == clock.now_s


def test_the_phase_under_way_counts() -> None:
    phases = Phases(1.0)
    phases.enter(Phase.DECODING, 3.0)
    assert phases.spent_s(7.0) == [2.0, 0.0, 0.0, 4.0, 0.0]
    assert phases.spent_s(8.0) == [2.0, 0.0, 0.0, 5.0, 0.0]
