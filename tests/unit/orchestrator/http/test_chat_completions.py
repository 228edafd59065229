"""Answers of `/v1/chat/completions`, whole and as events."""

from typing import Any

from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import chunk, face, summary
from tests.unit.orchestrator.http.test_completions import with_log_probabilities

PATH = "/v1/chat/completions"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


def thinking(request: Any) -> list[Any]:
    """A thought, then an answer that is said a chunk later than it was generated."""
    return [
        chunk("hm", content="", reasoning="hm"),
        chunk("Hello", content=""),
        chunk("!", content="Hello!"),
        summary(),
    ]


async def events_of(script: Any, **more: Any) -> list[Any]:
    async with face(script) as made:
        exchange = Exchange(PATH, ASKED | {"stream": True} | more)
        await exchange.run(made.app)
        return exchange.events


async def test_a_whole_answer() -> None:
    async with face(thinking) as made:
        told = (await made.post(PATH, ASKED)).json()
    assert told["object"] == "chat.completion"
    assert told["id"].startswith("chatcmpl-")
    (choice,) = told["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello!",
        "refusal": None,
        "reasoning_content": "hm",
    }
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)


async def test_events_say_and_think() -> None:
    first, *events, last, done = await events_of(thinking)
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    # A chunk of which nothing is certain yet is no event.
    assert [each["choices"][0]["delta"] for each in events] == [{"reasoning_content": "hm"}, {"content": "Hello!"}]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert last["outrider"]["exact"]
    assert done == "[DONE]"


async def test_who_speaks_comes_with_the_first_chunk() -> None:
    """Not before: an error has a status of its own until then."""
    async with face(thinking) as made:
        exchange = Exchange(PATH, ASKED | {"stream": True})
        await exchange.run(made.app)
    assert exchange.messages[1]["body"].count(b"data: ") == 2


async def test_log_probabilities() -> None:
    async with face(lambda request: [with_log_probabilities(), summary()]) as made:
        told = (await made.post(PATH, ASKED | {"logprobs": True, "top_logprobs": 2})).json()
        assert made.service.requests[0].num_log_probabilities == 2
        await made.post(PATH, ASKED | {"logprobs": True})
        assert made.service.requests[1].HasField("num_log_probabilities")
    first, second, _ = told["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("Hello", -0.5, list(b"Hello"))
    assert (second["token"], second["bytes"]) == ("\ufffd", [0xC3])
    assert [each["token"] for each in first["top_logprobs"]] == ["<end>", "\ufffd"]
    assert first["top_logprobs"][1]["logprob"] == -9999.0


async def test_events_have_log_probabilities_though_nothing_is_said_yet() -> None:
    silent = with_log_probabilities()
    silent.content = ""
    _, event, *_ = await events_of(lambda request: [silent, summary()], logprobs=True)
    assert event["choices"][0]["delta"] == {}
    assert len(event["choices"][0]["logprobs"]["content"]) == 3


async def test_several_choices() -> None:
    first, second, *_, last, _ = await events_of(thinking, n=2, stream_options={"include_usage": True})
    assert [each["choices"][0]["index"] for each in (first, second)] == [0, 1]
    # The prompt counts once.
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (5, 8)
