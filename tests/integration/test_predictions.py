"""A prediction of the answer: what of it is right comes quicker, and whatever is wrong, the text is the same."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from outrider.v1 import generation_pb2
from services.frame.rpc.errors import error_from_rpc
from tests.integration.conftest import Pair, System
from tests.integration.orchestrated import SAMPLED
from tests.integration.services import (
    OFF,
    Client,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)

pytestmark = pytest.mark.integration

REMOTE, NGRAM, PREDICTION = (
    generation_pb2.DRAFTER_REMOTE,
    generation_pb2.DRAFTER_NGRAM,
    generation_pb2.DRAFTER_PREDICTION,
)
NONE = generation_pb2.DRAFTER_NONE
ASKED: list[dict[str, Any]] = [{"max_tokens": 96}, {"max_tokens": 96, **SAMPLED}]
KINDS = ["greedy", "sampled"]


def expecting(content: str | list[int]) -> generation_pb2.Prediction:
    if isinstance(content, str):
        return generation_pb2.Prediction(text=content)
    return generation_pb2.Prediction(tokens=generation_pb2.TokenPrompt(tokens=content))


def by(drafter: generation_pb2.Drafter.ValueType) -> generation_pb2.Speculation:
    return generation_pb2.Speculation(drafter=drafter)


def changed(text: str) -> str:
    """The text with a line put in, one left out and words in others."""
    lines = text.split("\n")
    del lines[len(lines) // 2]
    lines.insert(2, "    something_else = None")
    return "\n".join(lines).replace("self", "this", 1)


@pytest.fixture
async def exact(pair: Pair) -> AsyncIterator[Client]:
    """A client of an orchestrator of an exact target, with a draft."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, exact="on"))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = orchestrator_server(target.address, draft.address, drafter="auto")
        client = await stack.enter_async_context(client_of(await stack.enter_async_context(server)))
        await client.until_draft(is_available=True)
        yield client


async def test_the_text_is_the_same_whatever_is_expected(exact: Client) -> None:
    for asked in ASKED:
        plain = await exact.generate(**asked, speculation=OFF, require_exact=True)
        wrong = "no word of it\n" * 20
        for expected in (plain.text, plain.ids, changed(plain.text), wrong, list(reversed(plain.ids))):
            for speculation in (by(PREDICTION), by(generation_pb2.DRAFTER_AUTO), fixed(5)):
                generated = await exact.generate(
                    **asked, prediction=expecting(expected), speculation=speculation, require_exact=True
                )
                assert (generated.ids, generated.text) == (plain.ids, plain.text)
                assert generated.summary.exact


@pytest.mark.parametrize("asked", ASKED, ids=KINDS)
async def test_what_is_right_saves_passes(system: System, asked: dict[str, Any]) -> None:
    plain = await system.client.generate(**asked, speculation=OFF)
    as_expected = generation_pb2.Speculation(
        mode=generation_pb2.SPECULATION_MODE_FIXED, num_draft_tokens=15, drafter=PREDICTION
    )
    right = await system.client.generate(**asked, prediction=expecting(plain.ids), speculation=as_expected)
    assert right.ids == plain.ids
    assert right.counts.num_cycles == 96 / 16
    assert right.counts.num_accepted_tokens == right.counts.num_draft_tokens == 90
    assert right.summary.timings.draft_ms == 0
    edited = await system.client.generate(**asked, prediction=expecting(changed(plain.text)), speculation=as_expected)
    assert edited.ids == plain.ids
    assert right.counts.num_cycles < edited.counts.num_cycles < plain.counts.num_cycles / 2
    (counted,) = edited.counts.drafters
    assert counted.drafter == PREDICTION
    assert 0 < counted.num_accepted_tokens < counted.num_draft_tokens


async def test_it_is_not_even_read_where_nobody_is_to_draft(system: System) -> None:
    plain = await system.client.generate(speculation=OFF)
    for content in (plain.text, plain.text * 1000):
        generated = await system.client.generate(prediction=expecting(content), speculation=OFF)
        assert generated.ids == plain.ids
        assert generated.counts.num_draft_tokens == 0


async def test_a_text_is_tokenized_as_the_model_says_it(system: System) -> None:
    """Every token of it is accepted, but for where the model itself parts words otherwise than its tokenizer."""
    plain = await system.client.generate("class Stack:\n", max_tokens=64, speculation=OFF)
    generated = await system.client.generate(
        "class Stack:\n", max_tokens=64, prediction=expecting(plain.text), speculation=by(PREDICTION)
    )
    assert generated.ids == plain.ids
    assert generated.counts.num_accepted_tokens >= 0.9 * generated.counts.num_draft_tokens > 30


async def drafters_of(client: Client, expected: str, **speculation: Any) -> set[int]:
    asked: dict[str, Any] = {"speculation": generation_pb2.Speculation(**speculation)} if speculation else {}
    generated = await client.generate(max_tokens=32, prediction=expecting(expected), **asked)
    return {each.drafter for each in generated.counts.drafters}


@pytest.mark.parametrize(
    ("setting", "named", "expected"),
    [
        ("auto", None, {PREDICTION}),
        ("ngram", None, {PREDICTION}),
        ("remote", None, {PREDICTION}),
        ("prediction", None, {PREDICTION}),
        ("none", None, set()),
        ("none", PREDICTION, {PREDICTION}),
        ("prediction", NGRAM, set()),
        ("auto", REMOTE, set()),
        ("auto", NONE, set()),
    ],
)
async def test_who_uses_it(pair: Pair, setting: str, named: int | None, expected: set[int]) -> None:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        server = await stack.enter_async_context(orchestrator_server(target.address, drafter=setting))
        client = await stack.enter_async_context(client_of(server))
        text = (await client.generate(max_tokens=32, speculation=OFF)).text
        asked = {} if named is None else {"drafter": named}
        assert await drafters_of(client, text, **asked) == expected
        assert (await client.status()).drafter == {"auto": NGRAM, "remote": NONE, "none": NONE}.get(
            setting, generation_pb2.Drafter.Value(f"DRAFTER_{setting.upper()}")
        )


async def test_a_model_drafts_where_the_prediction_is_wrong(system: System) -> None:
    text = (await system.client.generate(max_tokens=96, speculation=OFF)).text
    half = expecting(text[: len(text) // 2] + "\nand so on, and so on")
    generated = await system.client.generate(max_tokens=96, prediction=half, speculation=fixed(5))
    assert {each.drafter for each in generated.counts.drafters} == {REMOTE, PREDICTION}


@pytest.mark.parametrize("content", ["", []])
async def test_nothing_expected_is_as_no_prediction(system: System, content: Any) -> None:
    plain = await system.client.generate()
    assert (await system.client.generate(prediction=expecting(content))).ids == plain.ids


@pytest.mark.parametrize(
    ("content", "reason", "field"),
    [
        pytest.param("a = 1\n" * 1000, "INVALID_REQUEST", "prediction.text", id="a text too long"),
        pytest.param([7] * 257, "INVALID_REQUEST", "prediction.tokens.tokens", id="too many tokens"),
        pytest.param([7, 4096], "TOKEN_OUT_OF_RANGE", "prediction.tokens.tokens", id="no such token"),
    ],
)
async def test_what_is_refused(system: System, content: Any, reason: str, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await system.client.generate(prediction=expecting(content))
    error = error_from_rpc(info.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [violation.field for violation in error.field_violations] == [field]
    assert "256" in error.message or "4096" in error.message
