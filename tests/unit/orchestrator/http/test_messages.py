"""`/v1/messages`: what its fields mean, whole answers, events in their order, errors, and counts."""

from typing import Any

import grpc
import pytest

from orchestrator.http.exchange import stream
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError, invalid_argument
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import chunk, face, summary, told_of
from tests.unit.orchestrator.http.test_chat_completions import thinking
from tests.waiting import soon

PATH = "/v1/messages"
ASKED: dict[str, Any] = {"model": "big", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}


async def events_of(script: Any, **more: Any) -> list[Any]:
    async with face(script) as made:
        exchange = Exchange(PATH, ASKED | {"stream": True} | more)
        await exchange.run(made.app)
        names = [line.removeprefix("event: ") for line in exchange.content.splitlines() if line.startswith("event: ")]
        assert names == [each["type"] for each in exchange.events]
        return exchange.events


async def test_what_the_fields_mean() -> None:
    text = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    asked = ASKED | {
        "system": [text],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "Hi"}]},
            {"role": "user", "content": "c"},
        ],
        "stop_sequences": ["\n"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low"},
        "metadata": {"user_id": "me"},
        "temperature": 0,
        "top_k": 3,
        "seed": 5,
        "outrider": {"mode": "off"},
    }
    async with face() as made:
        assert (await made.post(PATH, asked)).status_code == 200
        (request,) = made.service.requests
    told = told_of(request)
    assert told == [("system", "Be brief.", ""), ("user", "a|b", ""), ("assistant", "Hi", "hm"), ("user", "c", "")]
    variables = request.chat.template_variables
    assert (variables["enable_thinking"], variables["reasoning_effort"]) == (True, "low")
    assert (request.max_tokens, list(request.stop), request.seed) == (8, ["\n"], 5)
    assert (request.sampling.temperature, request.sampling.top_k) == (0, 3)
    assert request.speculation.mode == generation_pb2.SPECULATION_MODE_OFF


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {}, "type": "bash_20250124"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"context_management": {"edits": []}}, "context_management"),
        ({"stop": ["a"]}, "stop"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "a block of type text needs text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "4"}]}]},
            "a block of type tool_result needs tool_use_id",
        ),
    ],
)
async def test_what_is_refused(fields: dict[str, Any], named: str) -> None:
    async with face() as made:
        answer = await made.post(PATH, ASKED | fields)
    told = answer.json()
    assert (answer.status_code, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")
    assert named in told["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (invalid_argument("INVALID_REQUEST", "stop", "no"), 400, "invalid_request_error"),
        (ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full"), 429, "rate_limit_error"),
        (ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "away"), 503, "overloaded_error"),
    ],
)
async def test_errors_have_their_own_form(error: ServiceError, status: int, kind: str) -> None:
    async with face(lambda request: [error]) as made:
        answer = await made.post(PATH, ASKED)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


async def test_unknown_models_and_bodies_that_are_too_large() -> None:
    async with face(max_message_bytes=1 << 16) as made:
        unknown = await made.post(PATH, ASKED | {"model": "other"})
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
        large = await made.post(PATH, ASKED | {"system": "a" * (1 << 17)})
        assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")


async def test_a_whole_answer() -> None:
    async with face(thinking) as made:
        told = (await made.post(PATH, ASKED)).json()
    assert (told["type"], told["role"], told["model"]) == ("message", "assistant", "big")
    assert told["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Hello!"},
    ]
    assert (told["stop_reason"], told["stop_sequence"]) == ("end_turn", None)
    counts = ("input_tokens", "cache_read_input_tokens", "output_tokens")
    assert [told["usage"][name] for name in counts] == [4, 1, 4]
    assert {"timings", "metrics", "outrider"} < told.keys()


@pytest.mark.parametrize(
    ("reason", "stop", "told"),
    [
        (generation_pb2.FINISH_REASON_STOP, "!", ("stop_sequence", "!")),
        (generation_pb2.FINISH_REASON_STOP, "", ("stop_sequence", None)),
        (generation_pb2.FINISH_REASON_MAX_TOKENS, "", ("max_tokens", None)),
        (generation_pb2.FINISH_REASON_CONTEXT_FULL, "", ("model_context_window_exceeded", None)),
    ],
)
async def test_why_it_ended(reason: Any, stop: str, told: tuple[str, str | None]) -> None:
    async with face(lambda request: [chunk("Hello"), summary(finish_reason=reason, stop=stop)]) as made:
        answer = (await made.post(PATH, ASKED | {"stop_sequences": ["?", "!"]})).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == told
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": 3}


async def test_events_in_their_order() -> None:
    events = await events_of(thinking)
    assert [each["type"] for each in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [each["index"] for each in events if "index" in each] == [0] * 4 + [1] * 3
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": ""},
        {"type": "text_delta", "text": "Hello!"},
    ]
    end = events[-2]
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (4, 4)
    assert end["timings"]["draft_n"] == 3


async def test_the_first_event_tells_how_long_the_prompt_is() -> None:
    first = chunk("Hello")
    first.usage.CopyFrom(generation_pb2.Usage(num_prompt_tokens=5, num_cached_prompt_tokens=1))
    start, *_ = await events_of(lambda request: [first, chunk("!"), summary()])
    assert start["message"]["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 1,
        "output_tokens": 0,
    }


async def test_an_answer_without_text_has_no_block() -> None:
    events = await events_of(lambda request: [summary()])
    assert [each["type"] for each in events] == ["message_start", "ping", "message_delta", "message_stop"]


async def test_pings_are_events_once_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.001)
    exchange = Exchange(PATH, ASKED | {"stream": True})

    async def until_pinged() -> None:
        await soon(lambda: exchange.content.count("event: ping") >= 2)

    async with face(lambda request: [chunk("Hello"), until_pinged, summary()]) as made:
        await exchange.run(made.app)
    assert exchange.events[-1]["type"] == "message_stop"


async def test_an_error_is_an_event() -> None:
    away = ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "away")
    last = (await events_of(lambda request: [chunk("Hello"), away]))[-1]
    assert last == {"type": "error", "error": {"type": "overloaded_error", "message": "away"}}


async def test_counts_of_tokens() -> None:
    asked = {"model": "big", "messages": [{"role": "user", "content": "a b"}], "system": "c"}
    async with face() as made:
        assert (await made.post(f"{PATH}/count_tokens", asked)).json() == {"input_tokens": 5}
        (request,) = made.texts.asked
        assert request.add_generation_prompt
        assert [each.role for each in request.messages] == ["system", "user"]
        refused = await made.post(f"{PATH}/count_tokens", asked | {"max_tokens": 1})
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
