"""What a request means, and what is refused of it by name."""

import json
from typing import Any

import pytest

from outrider.v1 import generation_pb2
from services.frame.rpc.errors import invalid_argument
from tests.unit.orchestrator.http.scripted_face import MODEL, face, summary, told_of

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "Hello"},
    CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
}


@pytest.mark.parametrize("path", BODIES)
async def test_what_the_fields_mean(path: str) -> None:
    asked = {
        "model": "big",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "repetition_penalty": 1.1,
        "repeat_last_n": 32,
        "logit_bias": {"3": -100, "4": 1.5},
        "seed": 2**64 - 1,
        "stop": ["\n", "!"],
        "stop_token_ids": [2],
        "max_tokens": 9,
        "outrider": {"mode": "fixed", "num_draft_tokens": 3, "drafter": "ngram", "require_exact": True},
        "user": "me",
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
    }
    async with face() as made:
        assert (await made.post(path, BODIES[path] | asked)).status_code == 200
        (request,) = made.service.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.1)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) == (0.2, 0.3, 1.1)
    assert (sampling.penalty_last_n, dict(sampling.logit_bias)) == (32, {3: -100, 4: 1.5})
    assert (request.seed, list(request.stop), list(request.stop_tokens)) == (2**64 - 1, ["\n", "!"], [2])
    assert (request.max_tokens, request.require_exact) == (9, True)
    assert request.speculation == generation_pb2.Speculation(
        mode=generation_pb2.SPECULATION_MODE_FIXED, num_draft_tokens=3, drafter=generation_pb2.DRAFTER_NGRAM
    )


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_meant_where_nothing_is_said(path: str) -> None:
    """Temperature 1, as everybody's clients expect, and no seed, so that one is drawn."""
    async with face() as made:
        await made.post(path, BODIES[path] | {"temperature": None, "stop": None, "n": None, "model": "target"})
        (request,) = made.service.requests
    assert request.sampling.temperature == 1
    assert not request.sampling.HasField("top_p")
    assert not request.HasField("seed")
    assert not request.HasField("num_log_probabilities")
    assert not request.HasField("speculation")
    assert request.max_tokens == (16 if path == COMPLETIONS else MODEL.context_length)


async def test_a_number_of_draft_tokens_alone_fixes_it() -> None:
    async with face() as made:
        await made.post(COMPLETIONS, BODIES[COMPLETIONS] | {"outrider": {"num_draft_tokens": 2}})
        assert made.service.requests[0].speculation.mode == generation_pb2.SPECULATION_MODE_FIXED


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
async def test_prompts_of_every_form(prompt: Any, expected: list[Any]) -> None:
    async with face() as made:
        assert (await made.post(COMPLETIONS, {"prompt": prompt})).status_code == 200
        asked = [request.text or list(request.tokens.tokens) for request in made.service.requests]
    assert asked == expected


async def test_messages_variables_and_parts() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "refusal": None, "tool_calls": []},
        {"role": "user", "content": "c"},
    ]
    body = {
        "messages": messages,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False, "list": [1, {"a": None}]},
        "max_completion_tokens": 3,
    }
    async with face() as made:
        assert (await made.post(CHAT, body)).status_code == 200
        (request,) = made.service.requests
    told = told_of(request)
    assert told == [("developer", "Be brief.", ""), ("user", "a|b", ""), ("assistant", "", "hm"), ("user", "c", "")]
    variables = request.chat.template_variables
    assert (variables["reasoning_effort"], variables["enable_thinking"]) == ("low", False)
    assert request.max_tokens == 3


@pytest.mark.parametrize("path", BODIES)
async def test_choices_have_seeds_that_follow_each_other(path: str) -> None:
    async with face() as made:
        told = (await made.post(path, BODIES[path] | {"n": 3, "seed": 2**64 - 1})).json()
        assert [request.seed for request in made.service.requests] == [2**64 - 1, 0, 1]
        assert [each["index"] for each in told["choices"]] == [0, 1, 2]
        assert [each["seed"] for each in told["outrider"]["choices"]] == [2**64 - 1, 0, 1]
        made.service.requests.clear()
        await made.post(path, BODIES[path] | {"n": 2})
        first, second = (request.seed for request in made.service.requests)
        assert second == first + 1


async def test_several_prompts_have_their_choices_one_after_the_other() -> None:
    async with face() as made:
        told = (await made.post(COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "seed": 5})).json()
        asked = [(request.text, request.seed) for request in made.service.requests]
    assert asked == [("a", 5), ("a", 6), ("b", 5), ("b", 6)]
    # Each prompt counts once.
    assert told["usage"]["prompt_tokens"] == 2 * summary().usage.num_prompt_tokens
    assert told["usage"]["completion_tokens"] == 4 * summary().usage.num_generated_tokens


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (path, fields, param)
    for path in BODIES
    for fields, param in (
        ({"seeed": 1}, "seeed"),
        ({"temperature": "0.5"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"outrider": {"mode": "sometimes"}}, "outrider.mode"),
        ({"outrider": {"model": "x"}}, "outrider.model"),
        ({"stream_options": {"usage": True}}, "stream_options.usage"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_p": 1e999}, "top_p"),
    )
] + [
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (COMPLETIONS, {"prompt": [1, "a"]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt"),
    (COMPLETIONS, {"prompt": [1] * ((1 << 20) + 1)}, "prompt"),
    (COMPLETIONS, {"stop_token_ids": [2] * ((1 << 14) + 1)}, "stop_token_ids"),
    (COMPLETIONS, {"suffix": "b"}, "suffix"),
    (COMPLETIONS, {"best_of": 2}, "best_of"),
    (COMPLETIONS, {"logprobs": True}, "logprobs"),
    (CHAT, {"response_format": {"type": "json_object"}}, "response_format.type"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities[1]"),
    (CHAT, {"audio": {"voice": "x"}}, "audio"),
    (CHAT, {"functions": [{"name": "f"}]}, "functions"),
    (CHAT, {"web_search_options": {}}, "web_search_options"),
    (CHAT, {"top_logprobs": 3}, "top_logprobs"),
    (CHAT, {"messages": [{"role": "user", "content": "a", "function_call": {}}]}, "messages[0].function_call"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools[0].function.strict"),
    (CHAT, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"add_generation_prompt": False}, "add_generation_prompt"),
    (CHAT, {"prediction": {"type": "content", "content": 5}}, "prediction.content"),
    (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": "a"}] * ((1 << 14) + 1)}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    (CHAT, {"chat_template_kwargs": {"a": nested(120)}}, "chat_template_kwargs"),
]


@pytest.mark.parametrize(("path", "fields", "param"), REFUSED)
async def test_what_is_not_served_is_refused_by_its_name(path: str, fields: dict[str, Any], param: str) -> None:
    async with face() as made:
        body = to_json(BODIES[path] | fields)
        answer = await made.client.post(path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert param.split("[", maxsplit=1)[0] in answer.json()["error"]["message"]
        assert not made.service.requests


def to_json(body: Any) -> str:
    """JSON with numbers that are too large for Python's own."""
    return json.dumps(body).replace("Infinity", "1e999")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "EOF"),
        (b'{"prompt": NaN}', "expected value"),
        (b'{"prompt": "\\ud800"}', "escape"),
        (b'{"prompt": "\xff"}', "unicode"),
        (b"[" * 100_000, "recursion"),
        (b'{"prompt": "a"} x', "trailing"),
    ],
)
async def test_bodies_that_are_no_json(content: bytes, said: str) -> None:
    async with face() as made:
        answer = await made.client.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
        assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"[]", b"5", b'"a"', b"null", b""])
async def test_bodies_that_are_no_objects(content: bytes) -> None:
    async with face() as made:
        answer = await made.client.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, None)


async def test_a_body_of_another_type_is_refused() -> None:
    """A page of somebody else's can send such a body without asking."""
    async with face() as made:
        answer = await made.client.post(COMPLETIONS, content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
        assert answer.status_code == 400
        assert "application/json" in answer.json()["error"]["message"]


async def test_a_body_that_is_too_large_is_refused_before_it_was_read() -> None:
    async with face(max_message_bytes=1 << 16) as made:

        async def endless() -> Any:
            while True:
                yield b" " * 4096

        for body in (b" " * (1 << 17), endless()):
            answer = await made.client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("model", ["other", "draft", "x" * 5000])
@pytest.mark.parametrize("path", BODIES)
async def test_models_that_are_not_served(path: str, model: str) -> None:
    async with face() as made:
        answer = await made.post(path, BODIES[path] | {"model": model})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert len(answer.content) < 500


@pytest.mark.parametrize(
    ("path", "field", "param"),
    [
        (COMPLETIONS, "sampling.temperature", "temperature"),
        (COMPLETIONS, "sampling.penalty_last_n", "repeat_last_n"),
        (COMPLETIONS, "tokens.tokens", "prompt"),
        (COMPLETIONS, "num_log_probabilities", "logprobs"),
        (CHAT, "num_log_probabilities", "top_logprobs"),
        (CHAT, "chat.messages", "messages"),
        (CHAT, "chat.template_variables", "chat_template_kwargs"),
        (CHAT, "speculation.num_draft_tokens", "outrider.num_draft_tokens"),
        (CHAT, "stop", "stop"),
        (CHAT, "stop_tokens", "stop_token_ids"),
    ],
)
async def test_what_the_service_refuses_has_the_name_of_the_api(path: str, field: str, param: str) -> None:
    async with face(lambda request: [invalid_argument("INVALID_REQUEST", field, "no")]) as made:
        answer = await made.post(path, BODIES[path])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def members(num: int, value: object) -> dict[str, object]:
    return {str(index): value for index in range(num)}


async def test_what_a_client_shows_of_an_error_names_the_field() -> None:
    refused = invalid_argument("INVALID_REQUEST", "num_log_probabilities", "at most 20 can be asked for")
    async with face(lambda request: [refused]) as made:
        error = (await made.post(CHAT, {"messages": [{"role": "user", "content": "a"}]})).json()["error"]
    assert (error["param"], error["message"]) == ("top_logprobs", "top_logprobs: at most 20 can be asked for")


async def test_only_an_assistant_says_nothing() -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": []}, {"role": "user"}]
    async with face() as made:
        answer = await made.post(CHAT, {"messages": asked})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "messages[2]: content is needed")


LARGE: list[tuple[str, dict[str, Any], str | None]] = [
    (COMPLETIONS, {"prompt": [1] * 1_050_000}, "prompt"),
    (COMPLETIONS, {"prompt": [1] * 1000 + ["a"] + [{}] * 1000}, "prompt[1000]"),
    (COMPLETIONS, {"prompt": "a", "stop": [1] * 1000}, "stop[0]"),
    (COMPLETIONS, {"prompt": "a"} | members(1000, 1), None),
    (COMPLETIONS, {"prompt": "a", "outrider": members(1000, 1)}, "outrider"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": members(5000, "x")}, "logit_bias"),
    (CHAT, {"messages": [{}] * 1000}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": ""}] * 20_000}, "messages"),
]


@pytest.mark.parametrize(("path", "body", "param"), LARGE, ids=range(len(LARGE)))
async def test_large_bodies_are_refused_by_their_first_problem(
    path: str, body: dict[str, Any], param: str | None
) -> None:
    """Telling of a million problems would take seconds, in which nobody else is answered."""
    async with face() as made:
        answer = await made.post(path, body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert len(answer.content) < 1000
