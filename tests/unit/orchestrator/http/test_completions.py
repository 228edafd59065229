"""Answers of `/v1/completions`, whole and as events."""

from types import SimpleNamespace
from typing import Any

import pytest

from outrider.v1 import common_pb2, generation_pb2
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import TEXTS, chunk, face, summary

PATH = "/v1/completions"
STREAM = {"prompt": "Hello", "stream": True}
LENGTH = generation_pb2.FINISH_REASON_MAX_TOKENS


async def events_of(body: dict[str, Any], script: Any) -> list[Any]:
    async with face(script) as made:
        exchange = Exchange(PATH, body)
        await exchange.run(made.app)
        return exchange.events


async def test_a_whole_answer() -> None:
    async with face(lambda request: [chunk("Hello"), chunk(" world"), summary(finish_reason=LENGTH)]) as made:
        told = (await made.post(PATH, {"prompt": "a"})).json()
    assert told["object"] == "text_completion"
    assert told["id"].startswith("cmpl-")
    assert (told["model"], told["system_fingerprint"]) == ("big", "fp_0123456789abcdef")
    assert told["choices"] == [{"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "length"}]
    assert told["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {
            "reasoning_tokens": 3,
            "accepted_prediction_tokens": 2,
            "rejected_prediction_tokens": 1,
        },
    }
    assert {"timings", "metrics", "outrider"} < told.keys()


async def test_events_add_up_to_the_whole_answer() -> None:
    script = lambda request: [chunk("Hello"), chunk(" world"), summary()]  # noqa: E731
    *events, last, done = await events_of(STREAM, script)
    assert "".join(each["choices"][0]["text"] for each in events) == "Hello world"
    assert [each["choices"][0]["finish_reason"] for each in (*events, last)] == [None, None, "stop"]
    # Where no usage is asked for, the end has what was measured.
    assert last["timings"]["draft_n"] == 3
    assert "usage" not in last
    assert done == "[DONE]"
    assert len({each["id"] for each in (*events, last)}) == 1


async def test_the_usage_is_an_event_of_its_own() -> None:
    asked = STREAM | {"stream_options": {"include_usage": True}}
    *events, last, done = await events_of(asked, lambda request: [chunk("Hello"), summary()])
    assert [each["usage"] for each in events] == [None, None]
    assert "timings" not in events[-1]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 9)
    assert {"timings", "metrics", "outrider"} < last.keys()
    assert done == "[DONE]"


async def test_events_of_several_choices_say_whose_they_are() -> None:
    *events, last, _ = await events_of(STREAM | {"n": 2}, lambda request: [chunk("Hello"), summary()])
    assert sorted((each["choices"][0]["index"], each["choices"][0]["text"]) for each in events) == [
        (0, ""),
        (0, "Hello"),
        (1, ""),
        (1, "Hello"),
    ]
    assert (last["choices"], last["timings"]["predicted_n"], last["metrics"]) == ([], 8, None)


def with_log_probabilities() -> generation_pb2.GenerateChunk:
    """A text, and a character in two tokens, of which the second completes it."""
    made = chunk("Hello")
    made.tokens.add(token=5)
    made.tokens.add(token=6, text="é")
    made.text += "é"
    for index, token in enumerate(made.tokens):
        told = token.log_probabilities
        told.chosen.CopyFrom(common_pb2.TokenLogProbability(token=token.token, log_probability=-0.5 - index))
        told.top.add(token=7, log_probability=-0.25)
        told.top.add(token=5, log_probability=float("-inf"))
    return made


async def test_log_probabilities() -> None:
    async with face(lambda request: [with_log_probabilities(), chunk(), summary()]) as made:
        told = (await made.post(PATH, {"prompt": "a", "logprobs": 2})).json()["choices"][0]["logprobs"]
        assert made.service.requests[0].num_log_probabilities == 2
        bare = (await made.post(PATH, {"prompt": "a", "logprobs": 0})).json()["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["Hello", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.5, -1.5, -2.5],
        # A token that adds nothing to the text is spelled.
        "top_logprobs": [{"<end>": -0.25, "bytes:\\xc3": -9999.0}] * 3,
        "text_offset": [0, 5, 5],
    }
    assert bare["top_logprobs"] is None


async def test_offsets_go_on_from_event_to_event() -> None:
    script = lambda request: [with_log_probabilities(), with_log_probabilities(), summary()]  # noqa: E731
    first, second, *_ = await events_of(STREAM | {"logprobs": 1}, script)
    offsets = [each["choices"][0]["logprobs"]["text_offset"] for each in (first, second)]
    assert offsets == [[0, 5, 5], [6, 11, 11]]


def reported(*tokens: int) -> generation_pb2.GenerateResponse:
    """A report of the prompt's tokens, of which token 0 is the first and has no log-probabilities."""
    report = generation_pb2.PromptReport()
    for token in tokens:
        added = report.tokens.add(token=token, text=TEXTS[token])
        if token:
            added.log_probabilities.chosen.CopyFrom(common_pb2.TokenLogProbability(token=token, log_probability=-token))
            added.log_probabilities.top.add(token=4, log_probability=-0.5)
    return generation_pb2.GenerateResponse(prompt=report)


async def test_a_prompt_with_its_log_probabilities() -> None:
    """As evaluation harnesses ask for it."""
    end = with_log_probabilities()
    async with face(lambda request: [reported(0, 1), reported(2), end, summary()]) as made:
        asked = {"prompt": [0, 1, 2], "echo": True, "logprobs": 1, "max_tokens": 1}
        (choice,) = (await made.post(PATH, asked)).json()["choices"]
        (request,) = made.service.requests
        exchange = Exchange(PATH, asked | {"stream": True})
        await exchange.run(made.app)
    assert (request.num_prompt_log_probabilities, request.num_log_probabilities, request.max_tokens) == (1, 1, 1)
    assert choice["text"] == "Hello world!Helloé"
    told = choice["logprobs"]
    assert told["tokens"][:4] == ["Hello", " world", "!", "Hello"]
    assert told["token_logprobs"][:4] == [None, -1.0, -2.0, -0.5]
    assert told["top_logprobs"][:2] == [None, {"€": -0.5}]
    assert told["text_offset"] == [0, 5, 11, 12, 17, 17]
    # The same in the stream, part by part.
    parts = [each["choices"][0] for each in exchange.events[:3]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [offset for part in parts for offset in part["logprobs"]["text_offset"]] == told["text_offset"]


async def test_a_prompt_alone_is_scored() -> None:
    cut = summary(finish_reason=LENGTH)
    async with face(lambda request: [reported(0, 1), cut]) as made:
        asked = {"prompt": "Hello world", "echo": True, "logprobs": 0, "max_tokens": 0}
        (choice,) = (await made.post(PATH, asked)).json()["choices"]
        (request,) = made.service.requests
    assert request.max_tokens == 0
    assert request.HasField("num_prompt_log_probabilities")
    assert (choice["text"], choice["finish_reason"]) == ("Hello world", "length")


@pytest.mark.parametrize("prompt", ["Hello world", [0, 1]])
async def test_a_prompt_without_log_probabilities_is_not_evaluated_again(prompt: Any) -> None:
    async with face(lambda request: [chunk("!"), summary()]) as made:
        asked = {"prompt": [prompt] * 2, "echo": True}
        told = (await made.post(PATH, asked)).json()["choices"]
        assert not any(request.HasField("num_prompt_log_probabilities") for request in made.service.requests)
        exchange = Exchange(PATH, asked | {"stream": True})
        await exchange.run(made.app)
    assert [choice["text"] for choice in told] == ["Hello world!"] * 2
    first, second, *_ = (each["choices"][0] for each in exchange.events[:2])
    assert [(each["index"], each["text"]) for each in (first, second)] == [(0, "Hello world"), (1, "Hello world")]


async def test_the_draft_by_itself() -> None:
    small = common_pb2.ModelInfo(name="small", context_length=64, numerics_fingerprint="f" * 32)
    async with face() as made:
        made.served.backend.drafts.append(SimpleNamespace(model=small))  # type: ignore[arg-type]
        told = (await made.post(PATH, {"prompt": "a", "model": "draft"})).json()
        assert made.service.requests[0].model == "draft"
    assert (told["model"], told["system_fingerprint"]) == ("small", "fp_ffffffffffffffff")
    # Nobody drafts for it.
    assert told["metrics"]["speculative_decoding"] is None
