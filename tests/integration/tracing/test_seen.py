"""What real services tell of themselves is enough to make a scenario of it."""

import asyncio

import pytest

from orchestrator.simulation.traces import look_at
from tests.integration.services import fixed
from tests.integration.tracing.traced import Traced

pytestmark = pytest.mark.integration


async def test_requests_that_were_traced(traced: Traced) -> None:
    prompts = [f"def f{number}(" for number in range(3)]
    answers = await asyncio.gather(*(traced.client.generate(prompt, speculation=fixed(3)) for prompt in prompts))
    await traced.finished(num_requests=3)
    seen = look_at(traced.collector.received)
    assert 0 < seen.num_cycles < sum(answer.counts.num_cycles for answer in answers)
    assert 1 <= seen.scenario.num_streams <= 3
    assert seen.num_draft_tokens == 3
    assert seen.tokens_per_s > 0
    assert 0 < seen.scenario.acceptance[0] <= 1
    assert seen.scenario.target.decode_ms(1, 4, 0) > 0
    assert seen.scenario.draft.decode_ms(1, 1, 0) > 0
