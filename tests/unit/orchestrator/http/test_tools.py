"""Tools over HTTP: what the model is told of them, and its calls in the forms of three APIs."""

import json
from typing import Any

import pytest

from outrider.v1 import generation_pb2, target_pb2
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import Face, chunk, face, summary

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
# Keys whose order is not that of the alphabet.
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}, "required": ["z"]}
EXPECTED = [target_pb2.Tool(name="look", description="looks", parameters=json.dumps(SCHEMA))]
CALLED = summary(finish_reason=generation_pb2.FINISH_REASON_TOOL_CALLS)
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": [{"role": "user", "content": "?"}],
        "tools": [{"type": "function", "function": {"name": "look", "description": "looks", "parameters": SCHEMA}}],
    },
    RESPONSES: {
        "input": "?",
        "tools": [{"type": "function", "name": "look", "description": "looks", "parameters": SCHEMA, "strict": False}],
    },
    MESSAGES: {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "?"}],
        "tools": [{"name": "look", "description": "looks", "input_schema": SCHEMA}],
    },
}


def called(*deltas: tuple[int, str, str], is_withdrawn: bool = False) -> generation_pb2.GenerateChunk:
    """A chunk with pieces of calls: which one, the name where it is the first piece, and arguments."""
    made = generation_pb2.GenerateChunk()
    for index, name, arguments in deltas:
        made.tool_calls.add(
            index=index,
            id=f"call{index}" if name else "",
            name=name,
            arguments=arguments,
            is_withdrawn=is_withdrawn,
        )
    return made


def calling(request: Any) -> list[Any]:
    """An answer that says something, then calls two tools, the second one without arguments."""
    return [chunk("Hello"), called((0, "look", '{"z": ')), called((0, "", '"é"}'), (1, "wait", "{}")), CALLED]


def failing(request: Any) -> list[Any]:
    """A call that comes to nothing: it is a text in the end."""
    return [called((0, "look", '{"z": ')), called((0, "", ""), is_withdrawn=True), chunk("!"), summary()]


async def ask(made: Face, path: str, **more: Any) -> Any:
    return (await made.post(path, ASKED[path] | more)).json()


async def events_of(path: str, script: Any) -> list[Any]:
    async with face(script) as made:
        exchange = Exchange(path, ASKED[path] | {"stream": True})
        await exchange.run(made.app)
        return [each for each in exchange.events if each != "[DONE]"]


@pytest.mark.parametrize("path", ASKED)
async def test_the_model_is_told_of_tools_unless_it_may_call_none(path: str) -> None:
    none = {"type": "none"} if path == MESSAGES else "none"
    async with face() as made:
        await ask(made, path)
        await ask(made, path, tool_choice=none)
        told, silent = made.service.requests
    assert list(told.chat.tools) == EXPECTED
    assert not silent.chat.tools


async def test_a_chat_with_calls_in_it() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"z":1}'}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": [{"type": "text", "text": "a tree"}]},
    ]
    async with face() as made:
        await ask(made, CHAT, messages=messages)
        _, asked, answered = made.service.requests[0].chat.messages
    assert asked.tool_calls == [target_pb2.ToolCall(id="c1", name="look", arguments='{"z":1}')]
    assert (answered.role, answered.tool_call_id, answered.name) == ("tool", "c1", "look")
    assert list(answered.content_parts) == ["a tree"]


async def test_items_of_calls_are_the_same_chat() -> None:
    items = [
        {"role": "user", "content": "?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call", "call_id": "c2", "name": "wait", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "a tree"},
        {"role": "assistant", "content": "A tree."},
        {"role": "assistant", "content": "Yes."},
    ]
    async with face() as made:
        await ask(made, RESPONSES, input=items)
        _, asked, answered, *said = made.service.requests[0].chat.messages
    assert (asked.role, asked.reasoning, asked.content) == ("assistant", "hm", "Let me see.")
    assert [call.id for call in asked.tool_calls] == ["c1", "c2"]
    assert (answered.role, answered.tool_call_id, answered.content) == ("tool", "c1", "a tree")
    assert [each.content for each in said] == ["A tree.", "Yes."]


async def test_blocks_of_calls_are_the_same_chat() -> None:
    use = {"type": "tool_use", "id": "c1", "name": "look", "input": {"z": "é"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a tree"}]}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
        {"role": "user", "content": [result]},
    ]
    async with face() as made:
        await ask(made, MESSAGES, messages=messages)
        _, asked, answered, said, alone = made.service.requests[0].chat.messages
    assert asked.tool_calls == [target_pb2.ToolCall(id="c1", name="look", arguments='{"z": "é"}')]
    assert (answered.role, answered.tool_call_id, list(answered.content_parts)) == ("tool", "c1", ["a tree"])
    assert (said.role, list(said.content_parts), alone.role) == ("user", ["and?"], "tool")


async def test_calls_of_a_whole_chat_completion() -> None:
    async with face(calling) as made:
        (choice,) = (await ask(made, CHAT))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Hello"
    assert choice["message"]["tool_calls"] == [
        {"id": "call0", "type": "function", "function": {"name": "look", "arguments": '{"z": "é"}'}},
        {"id": "call1", "type": "function", "function": {"name": "wait", "arguments": "{}"}},
    ]


async def test_calls_in_chunks() -> None:
    _, said, first, second, last = [each["choices"][0] for each in await events_of(CHAT, calling)]
    assert said["delta"] == {"content": "Hello"}
    begun = {"index": 0, "id": "call0", "type": "function", "function": {"name": "look", "arguments": '{"z": '}}
    assert first["delta"] == {"tool_calls": [begun]}
    assert [each["index"] for each in second["delta"]["tool_calls"]] == [0, 1]
    assert second["delta"]["tool_calls"][0] == {"index": 0, "function": {"arguments": '"é"}'}}
    assert last["finish_reason"] == "tool_calls"


async def test_calls_of_a_whole_response() -> None:
    async with face(calling) as made:
        told = await ask(made, RESPONSES)
    assert told["status"] == "completed"
    said, first, second = told["output"]
    assert said["type"] == "message"
    names = ("type", "call_id", "name", "arguments", "status")
    assert [first[name] for name in names] == ["function_call", "call0", "look", '{"z": "é"}', "completed"]
    assert [second[name] for name in names] == ["function_call", "call1", "wait", "{}", "completed"]
    assert told["tools"][0]["name"] == "look"


async def test_calls_in_events_of_a_response() -> None:
    events = await events_of(RESPONSES, calling)
    kinds = [each["type"].removeprefix("response.") for each in events]
    end = ["function_call_arguments.done", "output_item.done"]
    delta = "function_call_arguments.delta"
    assert kinds[8:] == ["output_item.added", delta, delta, *end, "output_item.added", delta, *end, "completed"]
    assert events[8]["item"]["arguments"] == ""
    assert (events[11]["arguments"], events[11]["name"]) == ('{"z": "é"}', "look")
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call", "function_call"]


async def test_calls_of_a_whole_message() -> None:
    async with face(calling) as made:
        told = await ask(made, MESSAGES)
    assert (told["stop_reason"], told["content"][0]) == ("tool_use", {"type": "text", "text": "Hello"})
    assert told["content"][1:] == [
        {"type": "tool_use", "id": "call0", "name": "look", "input": {"z": "é"}},
        {"type": "tool_use", "id": "call1", "name": "wait", "input": {}},
    ]


async def test_calls_in_events_of_a_message() -> None:
    events = await events_of(MESSAGES, calling)
    blocks = [each["content_block"] for each in events if each["type"] == "content_block_start"]
    assert blocks[1:] == [
        {"type": "tool_use", "id": "call0", "name": "look", "input": {}},
        {"type": "tool_use", "id": "call1", "name": "wait", "input": {}},
    ]
    pieces = [
        (each["index"], each["delta"].get("partial_json")) for each in events if "delta" in each and "index" in each
    ]
    assert pieces == [(0, None), (1, '{"z": '), (1, '"é"}'), (2, "{}")]
    assert [each["index"] for each in events if each["type"] == "content_block_stop"] == [0, 1, 2]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("path", ASKED)
async def test_a_call_that_came_to_nothing_is_none(path: str) -> None:
    async with face(failing) as made:
        told = await ask(made, path)
    whole = json.dumps(told)
    assert "look" not in whole.replace(json.dumps(told.get("tools")), "")
    assert '"!"' in whole


async def test_a_stream_that_has_told_of_it_says_that_nothing_is_called() -> None:
    *_, last = [each["choices"][0] for each in await events_of(CHAT, failing)]
    assert last["finish_reason"] == "stop"
    item = (await events_of(RESPONSES, failing))[-1]["response"]["output"][0]
    assert (item["type"], item["status"]) == ("function_call", "incomplete")
    assert (await events_of(MESSAGES, failing))[-2]["delta"]["stop_reason"] == "end_turn"


async def test_an_answer_that_is_begun_is_gone_on_with() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "It is"}]
    async with face() as made:
        await ask(made, CHAT, messages=messages, continue_final_message=True, add_generation_prompt=False)
        await ask(made, CHAT, messages=messages)
        # With Anthropic that is what a last message of the assistant means.
        await ask(made, MESSAGES, messages=messages)
        asked = [request.chat.continue_final_message for request in made.service.requests]
        await made.post(f"{MESSAGES}/count_tokens", {"messages": messages})
        counted = made.texts.asked[-1]
    assert asked == [True, False, True]
    assert (counted.continue_final_message, counted.add_generation_prompt) == (True, False)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("content", ["ab", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
async def test_a_text_that_is_expected(path: str, content: Any) -> None:
    asked = {"prompt": "a"} if path != CHAT else ASKED[CHAT]
    async with face() as made:
        await made.post(path, asked | {"prediction": {"type": "content", "content": content}})
        assert made.service.requests[0].prediction.text == "ab"
