"""Draft tokens that come with chances: what is not worth its rows is not verified, and what rows cost is quoted."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from outrider.v1 import common_pb2, target_pb2
from services.frame.rpc.errors import ServiceError
from services.target.servicer import TargetServicer
from tests.unit.engine.fakes import FakeRuntime, true_text
from tests.unit.engine.works import running
from tests.unit.target.fakes import fake_target
from tests.waiting import PATIENCE_S

PROMPT = [1, 2, 3]
TEXT = true_text(PROMPT, 4)
# Handlers never look at the call.
ANY_CALL: Any = None
CHEAP, DEAR = 1e-9, 1e3


class Caller:
    """One session, whose requests all go on from the prompt."""

    def __init__(self, target: TargetServicer) -> None:
        self._target = target
        self._num_requests = 0

    async def verify(
        self, draft_tokens: Sequence[int] = (), chances: Sequence[float] = (), **fields: Any
    ) -> target_pb2.VerifyBatchResponse:
        self._num_requests += 1
        request = target_pb2.VerifyBatchRequest(
            request_id=self._num_requests,
            context=common_pb2.Context(session_id="a", tokens=PROMPT),
            draft_tokens=draft_tokens,
            draft_chance=chances,
            **fields,
        )
        async with asyncio.timeout(PATIENCE_S):
            return await self._target.VerifyBatch(request, ANY_CALL)


@asynccontextmanager
async def calling(row_s: float) -> AsyncIterator[Caller]:
    """A caller of a target that knows its rate, where a row takes so long."""
    runtime = FakeRuntime()
    for num_rows in (1, 8):
        runtime.costs.observe(num_rows, row_s * num_rows)
    async with running(runtime) as engine:
        caller = Caller(fake_target(engine, runtime))
        for _ in range(4):
            await caller.verify(quote_version=0)
        yield caller


async def test_what_is_not_worth_its_rows_is_not_verified() -> None:
    async with calling(DEAR) as caller:
        reply = await caller.verify(TEXT[:3], [0.9, 0.9, 0.9])
        assert reply.result == target_pb2.VerifyBatchResult(num_skipped=3, next_token=TEXT[0])
        assert reply.held_length == len(PROMPT)
        assert reply.timings.batch_rows == 1, "the last token of the prompt alone"


async def test_what_is_worth_its_rows_is() -> None:
    async with calling(CHEAP) as caller:
        reply = await caller.verify(TEXT[:3], [0.9, 0.9, 0.9])
        assert reply.result == target_pb2.VerifyBatchResult(num_accepted=3, next_token=TEXT[3])


async def test_who_tells_no_chances_has_all_verified() -> None:
    async with calling(DEAR) as caller:
        assert (await caller.verify(TEXT[:3])).result.num_accepted == 3


async def test_a_text_is_the_same_however_much_is_verified() -> None:
    text: dict[float, list[int]] = {}
    for row_s in (CHEAP, DEAR):
        async with calling(row_s) as caller:
            result = (await caller.verify(TEXT[:3], [0.9, 0.9, 0.9])).result
            text[row_s] = [*TEXT[: result.num_accepted], result.next_token]
    assert text[CHEAP][: len(text[DEAR])] == text[DEAR]


async def test_log_probabilities_are_those_of_what_was_committed() -> None:
    async with calling(DEAR) as caller:
        result = (await caller.verify(TEXT[:3], [0.9, 0.9, 0.9], num_log_probabilities=0)).result
        assert [each.chosen.token for each in result.log_probabilities] == TEXT[:1]


async def test_a_quote_comes_once() -> None:
    async with calling(1.0) as caller:
        assert not (await caller.verify()).result.HasField("quote"), "nobody asked for one"
        quote = (await caller.verify(quote_version=0)).result.quote
        assert quote.version
        assert list(quote.row_ms[:2]) == pytest.approx([1e3, 2e3])
        assert quote.decode_ms == pytest.approx(1e3)
        assert quote.tokens_per_ms > 0
        assert (quote.num_sessions, quote.num_drafting) == (1, 1)
        again = (await caller.verify(quote_version=quote.version)).result
        assert not again.HasField("quote") or again.quote.version != quote.version


@pytest.mark.parametrize(
    "chances", [[0.5], [0.5] * 3, [0.5, -0.1], [0.5, 1.1], [0.5, math.nan]], ids=["few", "many", "-0.1", "1.1", "nan"]
)
async def test_chances_that_are_none(chances: list[float]) -> None:
    async with calling(CHEAP) as caller:
        with pytest.raises(ServiceError) as info:
            await caller.verify(TEXT[:2], chances)
    assert info.value.reason == "INVALID_REQUEST"
    assert [violation.field for violation in info.value.field_violations] == ["draft_chance"]
