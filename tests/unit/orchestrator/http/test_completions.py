"""Answers of `/v1/completions`, whole and as events."""

from typing import Any

from outrider.v1 import common_pb2, generation_pb2
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import chunk, face, summary

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
        "completion_tokens_details": {"accepted_prediction_tokens": 2, "rejected_prediction_tokens": 1},
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
