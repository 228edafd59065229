"""What the scheduler decides step by step, without a thread."""

import pytest

from services.engine.scheduler import Scheduler
from tests.unit.engine.fakes import VOCABULARY_SIZE, FakeRuntime
from tests.unit.engine.works import Greedy, prefix

PROMPT = [1, 2, 3, 4, 5]


def test_a_session_that_stayed_away_is_not_waited_for_until_it_was_answered_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.engine.scheduler._NUM_UNAWAITED", 2)
    scheduler = Scheduler(FakeRuntime(num_slots=4), 64, 8)
    tokens = [*PROMPT]

    def answer(*session_ids: str) -> set[str]:
        tokens.append(len(tokens) % VOCABULARY_SIZE)
        for session_id in session_ids:
            scheduler.add(Greedy(prefix(session_id, [*tokens])))
        scheduler.step()
        return set(scheduler.answered)

    assert answer("a", "b") == {"a", "b"}
    assert answer("b") == {"b"}
    assert answer("a", "b") == {"a", "b"}
    scheduler.add(Greedy(prefix("b", PROMPT)))
    scheduler.give_up_waiting()
    scheduler.step()
    assert scheduler.answered == {"b"}
    assert answer("a", "b") == {"b"}
    assert answer("a", "b") == {"b"}
    assert answer("a", "b") == {"a", "b"}
