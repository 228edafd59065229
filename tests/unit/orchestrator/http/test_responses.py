"""`/v1/responses`: what its fields mean, whole answers, and events in their order."""

from typing import Any

import grpc
import pytest

from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import MODEL, chunk, face, summary, told_of
from tests.unit.orchestrator.http.test_chat_completions import thinking
from tests.unit.orchestrator.http.test_completions import with_log_probabilities

PATH = "/v1/responses"


async def events_of(script: Any, **more: Any) -> list[Any]:
    async with face(script) as made:
        exchange = Exchange(PATH, {"input": "Hello", "stream": True} | more)
        await exchange.run(made.app)
        return exchange.events


async def test_what_the_fields_mean() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    said = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
    }
    asked = {
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "a"}, thought, said, {"role": "user", "content": "b"}],
        "max_output_tokens": 8,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "text": {"format": {"type": "text"}},
        "store": False,
        "top_logprobs": 2,
    }
    async with face() as made:
        assert (await made.post(PATH, asked)).status_code == 200
        (request,) = made.service.requests
    told = told_of(request)
    assert told == [("system", "Be brief.", ""), ("user", "a", ""), ("assistant", "Hi", "hm"), ("user", "b", "")]
    assert request.chat.template_variables["reasoning_effort"] == "low"
    assert (request.max_tokens, request.num_log_probabilities) == (8, 2)


async def test_a_text_alone_is_the_users() -> None:
    async with face() as made:
        await made.post(PATH, {"input": "Hello"})
        (request,) = made.service.requests
    assert [(each.role, each.content) for each in request.chat.messages] == [("user", "Hello")]
    assert request.max_tokens == MODEL.context_length
    assert not request.HasField("num_log_probabilities")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.type"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"tools": [{"type": "web_search", "name": "f"}]}, "tools[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "f"}]}, "input[0].output"),
        ({"n": 2}, "n"),
    ],
)
async def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    async with face() as made:
        answer = await made.post(PATH, {"input": "Hello"} | fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_whole_answer() -> None:
    async with face(thinking) as made:
        told = (await made.post(PATH, {"input": "Hello", "metadata": {"a": "b"}})).json()
    assert (told["object"], told["status"], told["store"], told["metadata"]) == (
        "response",
        "completed",
        False,
        {"a": "b"},
    )
    thought, said = told["output"]
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "hm"}])
    assert (said["type"], said["role"], said["content"][0]["text"]) == ("message", "assistant", "Hello!")
    details = {"reasoning_tokens": 3, "accepted_prediction_tokens": 2, "rejected_prediction_tokens": 1}
    assert told["usage"]["output_tokens_details"] == details
    assert (told["usage"]["input_tokens"], told["usage"]["total_tokens"]) == (5, 9)
    assert told["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert {"timings", "metrics", "outrider"} < told.keys()


async def test_an_answer_that_was_cut_is_incomplete() -> None:
    cut = summary(finish_reason=generation_pb2.FINISH_REASON_MAX_TOKENS)
    async with face(lambda request: [chunk("Hello"), cut]) as made:
        told = (await made.post(PATH, {"input": "Hello"})).json()
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (await events_of(lambda request: [chunk("Hello"), cut]))[-1]["type"] == "response.incomplete"


async def test_events_in_their_order() -> None:
    events = await events_of(thinking)
    item = ["response.output_item.added", "response.content_part.added"]
    end = ["response.content_part.done", "response.output_item.done"]
    assert [each["type"] for each in events] == [
        "response.created",
        "response.in_progress",
        *item,
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        *end,
        *item,
        "response.output_text.delta",
        "response.output_text.done",
        *end,
        "response.completed",
    ]
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    places = [each["output_index"] for each in events if "output_index" in each]
    assert places == sorted(places) == [0] * 6 + [1] * 6
    assert (events[0]["response"]["output"], events[0]["response"]["usage"]) == ([], None)
    last = events[-1]["response"]
    assert [each["type"] for each in last["output"]] == ["reasoning", "message"]
    assert last["outrider"]["seed"] == 7


async def test_the_name_of_an_event_is_its_type() -> None:
    async with face(thinking) as made:
        exchange = Exchange(PATH, {"input": "Hello", "stream": True})
        await exchange.run(made.app)
    names = [line.removeprefix("event: ") for line in exchange.content.splitlines() if line.startswith("event: ")]
    assert names == [each["type"] for each in exchange.events]


async def test_an_answer_without_text_has_an_item_too() -> None:
    events = await events_of(lambda request: [summary()])
    assert [each["type"] for each in events[2:4]] == ["response.output_item.added", "response.content_part.added"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


async def test_log_probabilities_wait_for_the_text() -> None:
    silent = with_log_probabilities()
    silent.content = ""
    script = lambda request: [silent, chunk(content="Hello!"), summary()]  # noqa: E731
    events = await events_of(script, include=["message.output_text.logprobs"])
    (delta,) = (each for each in events if each["type"] == "response.output_text.delta")
    assert len(delta["logprobs"]) == 3
    assert len(events[-1]["response"]["output"][0]["content"][0]["logprobs"]) == 3


async def test_an_error_is_an_event() -> None:
    away = ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "away")
    last = (await events_of(lambda request: [chunk("Hello"), away]))[-1]
    assert (last["type"], last["code"], last["message"]) == ("error", "target_unavailable", "away")
