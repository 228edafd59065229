"""The parts of real cycles add up, and say what is so."""

import asyncio
from collections import Counter

import pytest

from orchestrator.bench.anatomy import anatomy
from orchestrator.bench.cycles import DRAFT, ORCHESTRATOR, REST, TARGET, Cycle, cycles_of
from orchestrator.bench.reliability import reliability
from tests.integration.services import AUTO, OFF, fixed
from tests.integration.tracing.traced import Traced

pytestmark = pytest.mark.integration

# Of all the time that cycles take. What is not accounted for is a few steps of a program between two looks at a clock.
_MOST_REST = 0.1


def assert_adds_up(cycles: list[Cycle]) -> None:
    total_ms = sum(cycle.duration_ms for cycle in cycles)
    assert sum(ms for cycle in cycles for ms in cycle.parts.values()) == pytest.approx(total_ms)
    rest_ms = sum(abs(ms) for cycle in cycles for (_, part), ms in cycle.parts.items() if part == REST)
    assert rest_ms < _MOST_REST * total_ms
    for cycle in cycles:
        # Clocks of one machine; a microsecond may be lost between two of them.
        assert all(ms > -0.1 for ms in cycle.parts.values())


async def test_cycles_of_many_requests(traced: Traced) -> None:
    prompts = [f"def f{number}(" for number in range(4)]
    answers = await asyncio.gather(*(traced.client.generate(prompt, speculation=fixed(3)) for prompt in prompts))
    await traced.finished(num_requests=4)
    cycles = cycles_of(traced.collector.received)
    assert Counter(cycle.session for cycle in cycles) == {
        answer.summary.trace_id: answer.counts.num_cycles for answer in answers
    }
    assert_adds_up(cycles)
    for cycle in cycles:
        assert cycle.target is not None
        assert cycle.target.parts["decode"] > 0
        assert cycle.target.parts["wire"] > 0
    found = anatomy(cycles)
    assert found["parts_ms"][ORCHESTRATOR][ORCHESTRATOR] > 0
    assert found["parts_ms"][DRAFT]["decode"] > 0
    # Some of them shared a decode, and none had a decode of its own twice.
    decodes = Counter((cycle.target and cycle.target.decode and cycle.target.decode.index) for cycle in cycles)
    assert 0 < min(decodes.values()) <= max(decodes.values()) <= 4
    assert found["decodes"]["rows_per_decode"] >= found["decodes"]["sessions_per_decode"]


async def test_cycles_of_plain_decoding(traced: Traced) -> None:
    await traced.client.generate(max_tokens=8, speculation=OFF)
    await traced.finished()
    cycles = cycles_of(traced.collector.received)
    assert [(cycle.index, cycle.num_tokens, cycle.draft) for cycle in cycles] == [(at, 1, None) for at in range(8)]
    assert_adds_up(cycles)
    assert set(anatomy(cycles)["parts_ms"][TARGET]) == set(anatomy(cycles)["last_ms"][TARGET])
    # Alone, each of them is a decode.
    assert anatomy(cycles)["decodes"]["num_decodes"] == 7


async def test_the_chances_that_auto_gave_are_received(traced: Traced) -> None:
    answer = await traced.client.generate(max_tokens=32, speculation=AUTO)
    await traced.finished()
    cycles = cycles_of(traced.collector.received)
    drafted = [cycle for cycle in cycles if cycle.chances]
    assert sum(len(cycle.chances) for cycle in drafted) == answer.counts.num_draft_tokens > 0
    assert all(0 < chance <= 1 for cycle in drafted for chance in cycle.chances)
    assert {cycle.drafter for cycle in drafted} <= {"remote", "ngram"}
    found = reliability(cycles)
    assert answer.counts.num_accepted_tokens <= found["num_tried"] <= answer.counts.num_draft_tokens
