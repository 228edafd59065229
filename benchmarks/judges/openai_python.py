"""OpenAI's Python client, strict: an answer that differs from its types is an error.

Streams of completions are read by a client that is not: its types have no chunk that has not ended yet. A tool is
called by the model of `caller.py`.
"""

import asyncio
import json
import operator
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest

URL = os.environ["OUTRIDER_URL"]
CALLER_URL = os.environ["OUTRIDER_CALLER_URL"]
PROMPT = "def main(argv):\n"
CHAT = [{"role": "user", "content": PROMPT}]
GREEDY = {"temperature": 0, "seed": 3}
WARM = {"temperature": 0.8, "seed": 3}
OFF = {"outrider": {"mode": "off"}}
FIXED = {"outrider": {"num_draft_tokens": 5, "drafter": "remote"}}
PREDICTION = {"outrider": {"drafter": "prediction"}}
WEATHER = [{"role": "user", "content": "Will it rain in Zürich?"}]
PLACE = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL = {"name": "get_weather", "description": "Tell the weather.", "parameters": PLACE}
TOOLS = [{"type": "function", "function": TOOL}]
ARGUMENTS = {"city": "Zürich", "days": 3}


def make_client(url: str, *, is_strict: bool = True) -> openai.OpenAI:
    """Return a client that gives up at the first error."""
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=is_strict
    )


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """A strict client."""
    with make_client(URL) as client:
        yield client


@pytest.fixture(scope="module")
def lenient() -> Iterator[openai.OpenAI]:
    """One that takes what it is given."""
    with make_client(URL, is_strict=False) as client:
        yield client


@pytest.fixture(scope="module")
def caller() -> Iterator[openai.OpenAI]:
    """A strict client of the model that calls a tool."""
    with make_client(CALLER_URL) as client:
        yield client


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    """The target's name."""
    return client.models.list().data[0].id


# Models


def test_models_are_listed_and_found(client: openai.OpenAI, model: str) -> None:
    listed = list(client.models.list())
    assert [each.id for each in listed] == [model, "draft"]
    assert client.models.retrieve(model) == listed[0]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


# Completions


def test_a_completion(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=16, **GREEDY)
    assert answer.object == "text_completion" and answer.model == model
    (choice,) = answer.choices
    assert choice.text and choice.finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16
    assert answer.system_fingerprint


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_drafts_change_no_text(client: openai.OpenAI, model: str, sampling: dict[str, float]) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 48, **sampling}
    plain = client.completions.create(**asked, extra_body=OFF)
    drafted = client.completions.create(**asked, extra_body=FIXED)
    assert drafted.choices[0].text == plain.choices[0].text
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens == 0
    assert drafted.usage.completion_tokens_details.accepted_prediction_tokens > 0


def test_a_completion_streams_the_same_text(lenient: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 32, **WARM}
    whole = lenient.completions.create(**asked)
    chunks = list(lenient.completions.create(**asked, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.usage for chunk in chunks} == {None}


def test_a_completions_stream_ends_with_its_usage(lenient: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 8, **GREEDY}
    stream = lenient.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream
    assert last.choices == [] and last.usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks)


def test_several_prompts_and_choices(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "max_tokens": 8, **WARM}
    answer = client.completions.create(prompt=[PROMPT, "import "], n=2, **asked)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(prompt=PROMPT, **asked)
    assert answer.choices[0].text == alone.choices[0].text
    assert answer.usage.completion_tokens == 32


def test_several_choices_stream(lenient: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 8, "n": 3, **WARM}
    whole = lenient.completions.create(**asked)
    texts = ["", "", ""]
    for chunk in lenient.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_a_stop_is_not_in_the_text(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 32, **GREEDY}
    text = client.completions.create(**asked).choices[0].text
    stop = text[10:13]
    (choice,) = client.completions.create(**asked, stop=[stop, "never in there"]).choices
    assert choice.finish_reason == "stop"
    assert choice.text == text[: text.index(stop)]


def test_log_probabilities_of_a_completion(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 8, **GREEDY}
    (choice,) = client.completions.create(**asked, logprobs=3).choices
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text
    assert [
        choice.text[at : at + len(token)] for at, token in zip(told.text_offset, told.tokens, strict=True)
    ] == told.tokens
    for chosen, top in zip(told.token_logprobs, told.top_logprobs, strict=True):
        assert len(top) == 3 and max(top.values()) == chosen <= 0


def test_echo_scores_the_prompt(lenient: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "echo": True, "logprobs": 1, **GREEDY}
    (choice,) = lenient.completions.create(**asked, max_tokens=1).choices
    told = choice.logprobs
    # The model's own first token, which is none of the text, comes before it.
    assert choice.text.startswith(PROMPT) and "".join(told.tokens).endswith(choice.text)
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert all(each <= 0 for each in told.token_logprobs[1:])
    (alone,) = lenient.completions.create(**asked, max_tokens=0).choices
    assert alone.text == PROMPT
    assert alone.logprobs.token_logprobs == told.token_logprobs[:-1]


def test_a_prompt_of_token_ids(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "max_tokens": 8, **GREEDY}
    answer = client.completions.create(prompt=[5, 6, 7, 8], **asked)
    assert answer.usage.prompt_tokens == 4
    both = client.completions.create(prompt=[[5, 6, 7, 8], [5, 6]], **asked)
    assert both.choices[0].text == answer.choices[0].text


def test_a_bias_forbids_a_token(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 1, **GREEDY}
    (token,) = client.completions.create(**asked, logprobs=1).choices[0].logprobs.tokens
    # A text of several tokens has the id of its first one.
    ids = client.post("/../tokenize", body={"content": token}, cast_to=dict[str, list[int]])["tokens"]
    answer = client.completions.create(**asked, logit_bias={str(ids[0]): -100})
    assert answer.choices[0].text != token


# Chats


def test_a_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=CHAT, max_completion_tokens=16, **GREEDY)
    assert answer.object == "chat.completion"
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and answer.usage.completion_tokens == 16


def test_a_chat_says_what_a_completion_says(client: openai.OpenAI, model: str) -> None:
    # The template adds nothing to one message.
    completion = client.completions.create(model=model, prompt=PROMPT, max_tokens=32, **WARM)
    chat = client.chat.completions.create(model=model, messages=CHAT, max_tokens=32, **WARM)
    assert chat.choices[0].message.content == completion.choices[0].text


def test_a_chat_of_parts_and_roles(client: openai.OpenAI, model: str) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "import os"}]},
        {"role": "assistant", "content": "import sys"},
        {"role": "user", "content": PROMPT},
    ]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=4, **GREEDY)
    assert answer.usage.completion_tokens == 4


def test_a_chat_streams_the_same(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 32, **WARM}
    whole = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage.completion_tokens == 32
    assert {chunk.id for chunk in chunks} == {last.id}


def test_the_clients_own_stream_puts_it_together(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 16, **GREEDY}
    with client.chat.completions.stream(**asked, logprobs=True, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        # An answer that was cut off by its limit is parsed as little as a whole one.
        completion = stream.current_completion_snapshot
    whole = client.chat.completions.create(**asked)
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert completion.choices[0].message.content == whole.choices[0].message.content
    assert len(completion.choices[0].logprobs.content) == 16


def test_log_probabilities_of_a_chat(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 8, **GREEDY}
    (choice,) = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices
    told = choice.logprobs.content
    assert b"".join(bytes(each.bytes) for each in told).decode() == choice.message.content
    assert all(len(each.top_logprobs) == 2 and each.top_logprobs[0].logprob == each.logprob for each in told)


def test_several_choices_of_a_chat_stream(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 8, "n": 2, **WARM}
    whole = client.chat.completions.create(**asked)
    contents, ends = ["", ""], {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            contents[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason
    assert contents == [choice.message.content for choice in whole.choices]
    assert ends == {0: "length", 1: "length"}


def test_a_stop_ends_a_chat(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 32, **GREEDY}
    text = client.chat.completions.create(**asked).choices[0].message.content
    (choice,) = client.chat.completions.create(**asked, stop=text[10:13]).choices
    assert choice.finish_reason == "stop" and choice.message.content == text[: text.index(text[10:13])]


def test_what_a_draft_did_is_told(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 32, **GREEDY}
    told = client.chat.completions.create(**asked, extra_body=FIXED).model_extra
    timings, steps = told["timings"], told["metrics"]["speculative_decoding"]
    assert timings["draft_n_accepted"] == steps["num_accepted_draft_tokens"] > 0
    assert sum(steps["acceptance_histogram"]) == steps["num_spec_steps"]
    assert told["outrider"]["exact"] is True


def test_an_asynchronous_client_runs_many_at_once(model: str, client: openai.OpenAI) -> None:
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 16, **WARM}
    alone = client.completions.create(**asked).choices[0].text

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as many:
            answers = await asyncio.gather(*(many.completions.create(**asked) for _ in range(8)))
        return [answer.choices[0].text for answer in answers]

    assert set(asyncio.run(together())) == {alone}


def test_a_stream_that_is_left_frees_what_it_holds(client: openai.OpenAI, model: str) -> None:
    for _ in range(6):
        with client.chat.completions.create(model=model, messages=CHAT, max_tokens=400, stream=True) as stream:
            next(iter(stream))
    assert client.chat.completions.create(model=model, messages=CHAT, max_tokens=1).usage.completion_tokens == 1


def test_a_prediction_is_drafted(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": CHAT, "max_tokens": 48, **WARM}
    text = client.chat.completions.create(**asked).choices[0].message.content
    expected = {"type": "content", "content": text}
    answer = client.chat.completions.create(**asked, prediction=expected, extra_body=PREDICTION)
    assert answer.choices[0].message.content == text
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens > 24


# Tools


def test_a_tool_is_called(caller: openai.OpenAI) -> None:
    (choice,) = caller.chat.completions.create(model="target", messages=WEATHER, tools=TOOLS).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == ARGUMENTS


def test_a_call_streams(caller: openai.OpenAI) -> None:
    content, arguments, names, ends = "", "", [], []
    for chunk in caller.chat.completions.create(model="target", messages=WEATHER, tools=TOOLS, stream=True):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            ends.append(choice.finish_reason)
            for call in choice.delta.tool_calls or ():
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
    assert (content, names, ends[-1]) == ("Let me look.", ["get_weather"], "tool_calls")
    assert json.loads(arguments) == ARGUMENTS


def test_the_result_of_a_call_goes_back(caller: openai.OpenAI) -> None:
    asked = {"model": "target", "tools": TOOLS}
    message = caller.chat.completions.create(messages=WEATHER, **asked).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    answer = caller.chat.completions.create(messages=[*WEATHER, message, result], **asked)
    assert answer.choices[0].message.content == "Let me look."


def test_tools_are_not_told_of_where_none_is_to_be_called(caller: openai.OpenAI) -> None:
    asked = {"model": "target", "messages": WEATHER, "tools": TOOLS, "tool_choice": "none"}
    message = caller.chat.completions.create(**asked).choices[0].message
    assert not message.tool_calls and "<tool_call>" in message.content


def test_a_response_calls_a_tool(caller: openai.OpenAI) -> None:
    asked = {"model": "target", "tools": [{"type": "function", "strict": False, **TOOL}]}
    question = [{"role": "user", "content": WEATHER[0]["content"]}]
    answer = caller.responses.create(input=question, **asked)
    message, call = answer.output
    assert answer.output_text == "Let me look." and answer.status == "completed" and message.type == "message"
    assert call.type == "function_call" and call.name == "get_weather" and json.loads(call.arguments) == ARGUMENTS
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    again = caller.responses.create(input=[*question, *answer.output, result], **asked)
    assert again.output_text == "Let me look."


def test_a_call_of_a_response_streams(caller: openai.OpenAI) -> None:
    asked = {"model": "target", "tools": [{"type": "function", "strict": False, **TOOL}]}
    events = list(caller.responses.create(input=WEATHER[0]["content"], **asked, stream=True))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(deltas) == done.arguments and json.loads(done.arguments) == ARGUMENTS
    assert [item.type for item in events[-1].response.output] == ["message", "function_call"]


# Responses


def test_a_response(client: openai.OpenAI, model: str) -> None:
    answer = client.responses.create(model=model, input=PROMPT, max_output_tokens=32, store=False, **WARM_RESPONSE)
    assert answer.object == "response" and answer.output_text
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 32
    chat = client.chat.completions.create(model=model, messages=CHAT, max_tokens=32, **WARM)
    assert answer.output_text == chat.choices[0].message.content


def test_a_response_of_messages(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(model=model, input=PROMPT, instructions="import os", max_output_tokens=8)
    conversation = [{"role": "user", "content": PROMPT}, *first.output, {"role": "user", "content": "import sys"}]
    second = client.responses.create(model=model, input=conversation, max_output_tokens=8)
    assert second.usage.input_tokens > first.usage.input_tokens and second.output_text


def test_a_response_streams_the_same(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "input": PROMPT, "max_output_tokens": 32, **WARM_RESPONSE}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text


def test_the_clients_own_stream_of_a_response(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "input": PROMPT, "max_output_tokens": 16, **WARM_RESPONSE}
    text = client.responses.create(**asked).output_text
    with client.responses.stream(**asked) as stream:
        told = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert told == text


def test_log_probabilities_of_a_response(client: openai.OpenAI, model: str) -> None:
    include = ["message.output_text.logprobs"]
    asked = {"model": model, "input": PROMPT, "max_output_tokens": 8, "top_logprobs": 2, "include": include}
    part = client.responses.create(**asked).output[0].content[0]
    assert "".join(each.token for each in part.logprobs) == part.text
    assert all(len(each.top_logprobs) == 2 for each in part.logprobs)


# Errors

WARM_RESPONSE = {"temperature": 0.8, "extra_body": {"seed": 3}}
REFUSED = {
    "a field that is not known": {"extra_body": {"grammar": "x"}},
    "a field that is not supported": {"functions": [{"name": "f"}]},
    "a value out of range": {"temperature": -1},
    "a value of another kind": {"max_tokens": "many"},
    "more stop strings than are taken": {"stop": [str(number) for number in range(10_000)]},
}
FIELDS = ["grammar", "functions", "temperature", "max_tokens", "stop"]


@pytest.mark.parametrize(("asked", "field"), list(zip(REFUSED.values(), FIELDS, strict=True)), ids=REFUSED)
def test_what_is_refused_is_named(client: openai.OpenAI, model: str, asked: dict[str, object], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model=model, messages=CHAT, **asked)
    error = refusal.value
    assert error.status_code == 400 and error.param == field and error.code and error.type == "invalid_request_error"
    assert field in error.message


def test_a_model_that_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(model="gpt-4", messages=CHAT)
    assert refusal.value.code == "model_not_found"


def test_a_prompt_that_is_too_long(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model=model, prompt="a b " * 4000, max_tokens=1)
    assert refusal.value.code == "context_length_exceeded"


def test_what_is_not_served_is_not_found(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=model, input="text")


def test_a_refusal_of_a_stream_has_its_status(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=CHAT, stream=True, top_p=7)


# What the docs show

METHODS = {"/v1/completions": "completions", "/v1/chat/completions": "chat.completions", "/v1/responses": "responses"}
EXAMPLES = [each for each in json.loads(os.environ["OUTRIDER_EXAMPLES"]) if each[0] in METHODS]


@pytest.mark.parametrize(("path", "body"), EXAMPLES)
def test_an_example_of_the_docs(client: openai.OpenAI, lenient: openai.OpenAI, path: str, body: dict[str, Any]) -> None:
    create = operator.attrgetter(f"{METHODS[path]}.create")(lenient if body.get("stream") else client)
    known = {name: value for name, value in body.items() if name != "outrider"}
    extra = {name: value for name, value in body.items() if name == "outrider"}
    answer = create(**{"model": "target"} | known, extra_body=extra)
    *_, last = answer if body.get("stream") else [answer]
    assert last.model_extra["outrider"]["seed"] >= 0
