"""When a proposal ends early, by what its caller has seen accepted."""

import asyncio
import math
from typing import Any

import pytest

from outrider.v1 import common_pb2, draft_pb2
from services.draft.servicer import chance_of
from services.frame.rpc.errors import ServiceError
from tests.unit.draft.fakes import fake_draft
from tests.unit.engine.fakes import FakeRuntime, true_text
from tests.unit.engine.works import running
from tests.waiting import PATIENCE_S

PROMPT = [1, 2, 3]
# Handlers never look at the call.
ANY_CALL: Any = None


async def propose(end: draft_pb2.EarlyEnd | None, num_draft_tokens: int = 6) -> list[draft_pb2.DraftToken]:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        request = draft_pb2.ProposeRequest(
            request_id=1,
            context=common_pb2.Context(session_id="a", tokens=PROMPT),
            num_draft_tokens=num_draft_tokens,
            early_end=end,
        )
        async with asyncio.timeout(PATIENCE_S):
            reply = await fake_draft(engine, runtime).Propose(request, ANY_CALL)
    return list(reply.result.draft_tokens)


async def refusal(end: draft_pb2.EarlyEnd) -> ServiceError:
    with pytest.raises(ServiceError) as info:
        await propose(end)
    return info.value


def end(min_joint_chance: float, margins: list[float], chances: list[float]) -> draft_pb2.EarlyEnd:
    return draft_pb2.EarlyEnd(min_joint_chance=min_joint_chance, margins=margins, chances=chances)


async def test_without_a_rule_all_are_proposed() -> None:
    assert [each.token for each in await propose(None)] == true_text(PROMPT, 6)


@pytest.mark.parametrize(
    ("min_joint_chance", "num_tokens"), [(0.0, 6), (0.1, 4), (0.125, 4), (0.5, 2), (0.6, 1), (1.0, 1)]
)
async def test_it_ends_after_the_first_token_with_which_the_chance_is_too_low(
    min_joint_chance: float, num_tokens: int
) -> None:
    proposed = await propose(end(min_joint_chance, [], [0.5]))
    assert [each.token for each in proposed] == true_text(PROMPT, num_tokens)


async def test_chances_are_those_of_margins() -> None:
    margins = [each.margin for each in await propose(None)]
    middle = sorted(margins)[len(margins) // 2]
    first_low = next(place for place, margin in enumerate(margins) if margin < middle)
    assert len(await propose(end(0.5, [middle], [0.0, 1.0]))) == first_low + 1


def test_a_margin_at_an_edge_is_above_it() -> None:
    rule = end(0.5, [1.0, 2.0], [0.25, 0.5, 0.75])
    assert [chance_of(margin, rule) for margin in (0.0, 0.99, 1.0, 1.5, 2.0, math.inf)] == [
        0.25, 0.25, 0.5, 0.5, 0.75, 0.75,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        pytest.param(end(1.5, [], [0.5]), "min_joint_chance", id="more than sure"),
        pytest.param(end(math.nan, [], [0.5]), "min_joint_chance", id="not a number"),
        pytest.param(end(0.5, [], [1.5]), "chances", id="a chance above 1"),
        pytest.param(end(0.5, [], []), "chances", id="no chance"),
        pytest.param(end(0.5, [1.0], [0.5]), "chances", id="a chance is missing"),
        pytest.param(end(0.5, [2.0, 1.0], [0.5] * 3), "margins", id="not ascending"),
        pytest.param(end(0.5, [math.nan], [0.5] * 2), "margins", id="a margin that is no number"),
        pytest.param(end(0.5, [float(n) for n in range(65)], [0.5] * 66), "margins", id="too many"),
    ],
)
async def test_rules_that_cannot_be_followed(rule: draft_pb2.EarlyEnd, field: str) -> None:
    error = await refusal(rule)
    assert error.reason == "INVALID_REQUEST"
    assert [violation.field for violation in error.field_violations] == [f"early_end.{field}"]
