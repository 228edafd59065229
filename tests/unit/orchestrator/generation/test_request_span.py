"""What the span of a request tells of its texts, where they may be told."""

import json
from typing import Any

import pytest
from opentelemetry.sdk.trace import Span, TracerProvider

from orchestrator.generation.request_span import RequestSpan
from outrider.v1 import common_pb2, generation_pb2, target_pb2

MODEL = common_pb2.ModelInfo(name="m")
TEXT = generation_pb2.GenerateRequest(text='{"a": 1}')
CHAT = generation_pb2.GenerateRequest(
    chat=generation_pb2.ChatPrompt(
        messages=[
            target_pb2.ChatMessage(role="user", content="2 + 2?"),
            target_pb2.ChatMessage(role="assistant", content="4", reasoning="two and two"),
            target_pb2.ChatMessage(role="user", content="naïve?"),
        ]
    )
)
TOKENS = generation_pb2.GenerateRequest(tokens=generation_pb2.TokenPrompt(tokens=[1, 2]))
TEXTS = ("gen_ai.input.messages", "gen_ai.output.messages", "input.value", "output.value")


def told(
    request: generation_pb2.GenerateRequest,
    *chunks: generation_pb2.GenerateChunk,
    is_content_told: bool = True,
    num_tool_calls: int = 0,
) -> dict[str, Any]:
    """The attributes of the span of a request that was answered with `chunks`."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("request")
    assert isinstance(span, Span)
    request_span = RequestSpan(span, is_content_told=is_content_told)
    request_span.begin(request, MODEL, 1)
    request_span.end(generation_pb2.GenerateSummary(), chunks, num_tool_calls=num_tool_calls)
    return dict(span.attributes or {})


def part(kind: str, content: str) -> dict[str, str]:
    return {"type": kind, "content": content}


def test_a_text() -> None:
    attributes = told(TEXT, *(generation_pb2.GenerateChunk(text=text) for text in ("a\n", " b")))
    assert json.loads(attributes["gen_ai.input.messages"]) == [{"role": "user", "parts": [part("text", '{"a": 1}')]}]
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [part("text", "a\n b")], "finish_reason": "length"}
    ]
    assert (attributes["input.value"], attributes["input.mime_type"]) == ('{"a": 1}', "text/plain")
    assert (attributes["output.value"], attributes["output.mime_type"]) == ("a\n b", "text/plain")


def test_a_chat_is_parted_as_its_answer() -> None:
    attributes = told(
        CHAT,
        generation_pb2.GenerateChunk(text="<think>hm", reasoning="hm"),
        generation_pb2.GenerateChunk(text=".</think>Yes", reasoning=".", content="Yes"),
        generation_pb2.GenerateChunk(content="."),
    )
    assert json.loads(attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [part("text", "2 + 2?")]},
        {"role": "assistant", "parts": [part("reasoning", "two and two"), part("text", "4")]},
        {"role": "user", "parts": [part("text", "naïve?")]},
    ]
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [part("reasoning", "hm."), part("text", "Yes.")], "finish_reason": "length"}
    ]
    assert attributes["input.mime_type"] == "application/json"
    assert json.loads(attributes["input.value"]) == {
        "messages": [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "naïve?"},
        ]
    }
    assert attributes["output.value"] == "Yes."


def test_an_answer_of_thoughts_alone() -> None:
    attributes = told(CHAT, generation_pb2.GenerateChunk(text="hm", reasoning="hm"))
    assert json.loads(attributes["gen_ai.output.messages"])[0]["parts"] == [part("reasoning", "hm")]


def test_nothing_said() -> None:
    assert json.loads(told(CHAT)["gen_ai.output.messages"])[0]["parts"] == [part("text", "")]


def test_token_ids_are_no_text() -> None:
    attributes = told(TOKENS, generation_pb2.GenerateChunk(text="a"))
    assert [name for name in TEXTS if name in attributes] == ["gen_ai.output.messages", "output.value"]


@pytest.mark.parametrize("request_", [TEXT, CHAT])
def test_texts_are_private(request_: generation_pb2.GenerateRequest) -> None:
    attributes = told(request_, generation_pb2.GenerateChunk(text="a", content="a"), is_content_told=False)
    assert not {*TEXTS} & {*attributes}


@pytest.mark.parametrize("is_content_told", [True, False])
def test_calls_of_tools_are_counted_and_not_told(is_content_told: bool) -> None:
    request = generation_pb2.GenerateRequest()
    request.CopyFrom(CHAT)
    request.chat.tools.add(name="secret_tool", description="secret use")
    called = generation_pb2.GenerateChunk(text='{"name": "secret_tool", "arguments": {"place": "secret"}}')
    called.tool_calls.add(index=0, name="secret_tool", arguments='{"place": "secret"}')
    attributes = told(request, called, called, is_content_told=is_content_told, num_tool_calls=2)
    assert attributes["outrider.num_tool_calls"] == 2
    assert "secret" not in str(attributes)
    assert told(request, is_content_told=is_content_told)["outrider.num_tool_calls"] == 0
    assert "outrider.num_tool_calls" not in told(CHAT), "of who has none"
