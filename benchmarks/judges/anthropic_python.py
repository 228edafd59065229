"""Anthropic's Python client, strict: an answer that differs from its types is an error.

Tools are called by the model of `caller.py`.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

URL = os.environ["OUTRIDER_URL"]
CALLER_URL = os.environ["OUTRIDER_CALLER_URL"]
PROMPT = "def main(argv):\n"
CHAT = [{"role": "user", "content": PROMPT}]
OFF = {"outrider": {"mode": "off"}}
FIXED = {"outrider": {"num_draft_tokens": 5, "drafter": "remote"}}
PLACE = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
WEATHER = {
    "model": "target",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Will it rain in Zürich?"}],
    "tools": [{"name": "get_weather", "description": "Tell the weather.", "input_schema": PLACE}],
}
ARGUMENTS = {"city": "Zürich", "days": 3}


def make_client(url: str) -> anthropic.Anthropic:
    """Return a strict client that gives up at the first error."""
    options = {"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 60}
    return anthropic.Anthropic(**options, _strict_response_validation=True)


@pytest.fixture(scope="module")
def client() -> Iterator[anthropic.Anthropic]:
    """One of the pair."""
    with make_client(URL) as client:
        yield client


@pytest.fixture(scope="module")
def caller() -> Iterator[anthropic.Anthropic]:
    """One of the model that calls a tool."""
    with make_client(CALLER_URL) as client:
        yield client


def asked(num_tokens: int = 32, **more: object) -> dict[str, object]:
    """Return a request at a temperature of 0.8."""
    body = {"seed": 3, "temperature": 0.8, **more.pop("extra_body", {})}
    return {"model": "target", "messages": CHAT, "max_tokens": num_tokens, "extra_body": body, **more}


def text_of(message: anthropic.types.Message) -> str:
    """Return what a message says."""
    return "".join(block.text for block in message.content if block.type == "text")


def num_prompt_tokens(usage: anthropic.types.Usage) -> int:
    """Return how many tokens a prompt had; those that were cached count apart."""
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**asked())
    assert message.type == "message" and message.role == "assistant" and text_of(message)
    assert message.stop_reason == "max_tokens" and message.stop_sequence is None
    assert message.usage.output_tokens == 32


def test_drafts_change_no_text(client: anthropic.Anthropic) -> None:
    plain = client.messages.create(**asked(48, extra_body=OFF))
    drafted = client.messages.create(**asked(48, extra_body=FIXED))
    assert text_of(drafted) == text_of(plain)
    assert drafted.model_extra["timings"]["draft_n_accepted"] > 0
    assert "draft_n" not in plain.model_extra["timings"]


def test_events_say_the_same(client: anthropic.Anthropic) -> None:
    events = list(client.messages.create(**asked(), stream=True))
    assert events[0].type == "message_start" and events[-1].type == "message_stop"
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == text_of(client.messages.create(**asked()))
    (end,) = [event for event in events if event.type == "message_delta"]
    assert end.delta.stop_reason == "max_tokens" and end.usage.output_tokens == 32


def test_the_clients_own_stream_puts_it_together(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**asked()) as stream:
        told = "".join(stream.text_stream)
        message = stream.get_final_message()
    whole = client.messages.create(**asked())
    assert told == text_of(message) == text_of(whole)
    assert message.usage.output_tokens == 32
    assert num_prompt_tokens(message.usage) == num_prompt_tokens(whole.usage) > 0


def test_a_stream_begins_with_the_length_of_its_prompt(client: anthropic.Anthropic) -> None:
    # What coding agents show, and by which they know how full a context is.
    (start, *_) = client.messages.create(**asked(1), stream=True)
    whole = client.messages.create(**asked(1))
    assert num_prompt_tokens(start.message.usage) == num_prompt_tokens(whole.usage)


def test_a_chat_with_a_system_and_blocks(client: anthropic.Anthropic) -> None:
    cached = {"type": "text", "text": PROMPT, "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "import os"}]},
        {"role": "assistant", "content": "import sys"},
        {"role": "user", "content": [cached]},
    ]
    system = [{"type": "text", "text": "# Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = client.messages.create(**asked(8) | {"messages": messages}, system=system, metadata={"user_id": "a"})
    alone = client.messages.create(**asked(8))
    assert num_prompt_tokens(message.usage) > num_prompt_tokens(alone.usage)


def test_an_answer_goes_on_as_a_turn_of_the_next_request(client: anthropic.Anthropic) -> None:
    first = client.messages.create(**asked(8))
    messages = [*CHAT, {"role": "assistant", "content": first.content}, {"role": "user", "content": "import os"}]
    assert client.messages.create(**asked(8) | {"messages": messages}).usage.output_tokens == 8


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    text = text_of(client.messages.create(**asked()))
    stop = text[10:13]
    message = client.messages.create(**asked(), stop_sequences=[stop])
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == stop
    assert text_of(message) == text[: text.index(stop)]


def test_of_several_stop_sequences_the_one_that_was_met_is_named(client: anthropic.Anthropic) -> None:
    stop = text_of(client.messages.create(**asked()))[10:13]
    message = client.messages.create(**asked(), stop_sequences=["never in there", stop])
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == stop


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="target", messages=CHAT, system="# Be brief.")
    message = client.messages.create(**asked(1), system="# Be brief.")
    assert counted.input_tokens == num_prompt_tokens(message.usage) > 0


def test_thinking_is_a_variable_of_the_template(client: anthropic.Anthropic) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert text_of(client.messages.create(**asked(8), thinking=thinking))


def test_models_are_listed_and_found(client: anthropic.Anthropic) -> None:
    ids = [model.id for model in client.models.list()]
    assert len(ids) == 2 and client.models.retrieve(ids[0]).id == ids[0]


def test_an_asynchronous_client_runs_many_at_once(client: anthropic.Anthropic) -> None:
    async def together() -> set[str]:
        async with anthropic.AsyncAnthropic(base_url=URL, api_key="none", max_retries=0) as many:
            return {
                text_of(each) for each in await asyncio.gather(*(many.messages.create(**asked()) for _ in "12345678"))
            }

    assert asyncio.run(together()) == {text_of(client.messages.create(**asked()))}


def test_a_stream_that_is_left_frees_what_it_holds(client: anthropic.Anthropic) -> None:
    for _ in range(6):
        with client.messages.stream(**asked(400)) as stream:
            next(iter(stream.text_stream))
    assert client.messages.create(**asked(1)).usage.output_tokens == 1


def test_a_tool_is_called(caller: anthropic.Anthropic) -> None:
    message = caller.messages.create(**WEATHER)
    text, call = message.content
    assert message.stop_reason == "tool_use" and text.text == "Let me look."
    assert call.type == "tool_use" and call.name == "get_weather" and call.input == ARGUMENTS


def test_a_call_streams(caller: anthropic.Anthropic) -> None:
    with caller.messages.stream(**WEATHER) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert "input_json" in kinds and message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].input == ARGUMENTS


def test_the_result_of_a_call_goes_back(caller: anthropic.Anthropic) -> None:
    first = caller.messages.create(**WEATHER)
    result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "rain"}
    turns = [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    again = caller.messages.create(**WEATHER | {"messages": [*WEATHER["messages"], *turns]})
    assert text_of(again) == "Let me look."


def test_tools_are_counted_with_the_rest(caller: anthropic.Anthropic) -> None:
    asked = {name: value for name, value in WEATHER.items() if name != "max_tokens"}
    counted = caller.messages.count_tokens(**asked)
    assert counted.input_tokens == num_prompt_tokens(caller.messages.create(**WEATHER).usage)


REFUSED = {
    "a field that is not known": ("grammar", {"extra_body": {"grammar": "x"}}),
    "a value out of range": ("temperature", {"extra_body": {"temperature": -1}}),
    "a server of tools": ("mcp_servers", {"extra_body": {"mcp_servers": [{"name": "f"}]}}),
}


@pytest.mark.parametrize(("field", "more"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named(client: anthropic.Anthropic, field: str, more: dict[str, object]) -> None:
    with pytest.raises(anthropic.BadRequestError) as refusal:
        client.messages.create(**asked(**more))
    assert refusal.value.type == "invalid_request_error" and field in refusal.value.message


def test_a_model_that_is_not_there(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as refusal:
        client.messages.create(**asked() | {"model": "claude-3"})
    assert refusal.value.type == "not_found_error"


def test_a_refusal_of_a_stream_has_its_status(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(**asked(extra_body={"top_p": 7}), stream=True)


def test_a_prompt_that_is_too_long(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(**asked() | {"messages": [{"role": "user", "content": "a b " * 4000}]})


EXAMPLES = [body for path, body in json.loads(os.environ["OUTRIDER_EXAMPLES"]) if path == "/v1/messages"]


@pytest.mark.parametrize("body", EXAMPLES)
def test_an_example_of_the_docs(client: anthropic.Anthropic, body: dict[str, Any]) -> None:
    message = client.messages.create(**body)
    assert message.model_extra["outrider"]["seed"] >= 0 and message.usage.output_tokens <= body["max_tokens"]
