"""What an answer says of its cycles, where a request asks for it."""

from typing import Any

import pytest

from orchestrator.settings import OrchestratorSettings
from outrider.v1 import generation_pb2
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import chunk, face, summary

ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
}
REPORTED = {"outrider": {"report_cycles": True}}


def told_chunk(*texts: str, **cycle: Any) -> generation_pb2.GenerateChunk:
    """A chunk whose first tokens were drafted and accepted, all but the last, with a report of its cycle."""
    made = chunk(*texts)
    for token in made.tokens:
        token.origin = generation_pb2.TOKEN_ORIGIN_ACCEPTED
    made.tokens[-1].origin = generation_pb2.TOKEN_ORIGIN_RECOVERED
    made.cycle.CopyFrom(generation_pb2.CycleReport(**cycle))
    return made


def drafted() -> generation_pb2.GenerateChunk:
    """One draft token accepted of two."""
    timings = generation_pb2.CycleTimings
    return told_chunk(
        "Hello",
        "!",
        index=3,
        drafter=generation_pb2.DRAFTER_REMOTE,
        draft_address="here:1",
        num_draft_tokens=2,
        num_accepted=1,
        num_skipped=1,
        draft_tokens=[
            generation_pb2.DraftTokenReport(token=0, text="Hello", is_accepted=True, probability=0.1, chance=0.7),
            generation_pb2.DraftTokenReport(token=4, text="€"),
        ],
        drafting=timings(waited_ms=3.3, queued_ms=0.25, computed_ms=2),
        verifying=timings(waited_ms=10.1, queued_ms=1, computed_ms=8, decode_ms=7.5),
        batch_rows=4,
        num_sessions=2,
        choice=generation_pb2.LengthChoice(num_draft_tokens=3, chance=0.75, worth=1.5, draft_ms=1, tokens_per_s=50),
        plain_ms=9,
    )


def plain() -> generation_pb2.GenerateChunk:
    return told_chunk(" world", index=4, drafter=generation_pb2.DRAFTER_NONE)


def script(request: Any) -> list[Any]:
    return [drafted(), plain(), summary()]


DRAFTED = {
    "index": 3,
    "tokens": [{"id": 0, "text": "Hello", "origin": "accepted"}, {"id": 2, "text": "!", "origin": "recovered"}],
    "drafter": "remote",
    "draft_address": "here:1",
    "num_draft_tokens": 2,
    "num_accepted": 1,
    "num_skipped": 1,
    # What a message holds in single precision is told without the digits that come of it.
    "draft_tokens": [
        {"id": 0, "text": "Hello", "is_accepted": True, "probability": 0.1, "chance": 0.7},
        {"id": 4, "text": "€", "is_accepted": False, "probability": None, "chance": None},
    ],
    "drafting": {"waited_ms": 3.3, "queued_ms": 0.25, "computed_ms": 2.0},
    "verifying": {"waited_ms": 10.1, "queued_ms": 1.0, "computed_ms": 8.0, "decode_ms": 7.5},
    "batch_rows": 4,
    "num_sessions": 2,
    "choice": {
        "num_draft_tokens": 3,
        "chance": 0.75,
        "worth": 1.5,
        "draft_ms": 1.0,
        "token_ms": 0.0,
        "row_ms": 0.0,
        "tokens_per_s": 50.0,
        "draft_address": None,
    },
    "plain_ms": 9.0,
}


async def choices_of(path: str, script: Any, **more: Any) -> list[Any]:
    """The choices of all events of a stream."""
    async with face(script) as made:
        exchange = Exchange(path, ASKED[path] | {"stream": True} | more)
        await exchange.run(made.app)
        assert made.service.requests[0].report_cycles == ("outrider" in more)
        return [event["choices"][0] for event in exchange.events if event != "[DONE]"]


@pytest.mark.parametrize("path", ASKED)
async def test_each_event_has_its_cycle(path: str) -> None:
    told = [
        choice["outrider"]["cycles"] for choice in await choices_of(path, script, **REPORTED) if "outrider" in choice
    ]
    assert [len(cycles) for cycles in told] == [1, 1]
    assert told[0][0] == DRAFTED
    (second,) = told[1]
    assert (second["drafter"], second["draft_tokens"], second["choice"]) == ("none", [], None)
    assert (second["draft_address"], second["num_sessions"], second["plain_ms"]) == (None, None, None)


@pytest.mark.parametrize("path", ASKED)
async def test_nothing_is_told_unless_it_is_asked_for(path: str) -> None:
    unasked = await choices_of(path, lambda request: [chunk("Hello"), summary()])
    assert not any("outrider" in choice for choice in unasked)


async def test_a_cycle_is_told_before_what_it_says() -> None:
    """Text is held back while it may be the beginning of a marker; the token is there."""
    silent = drafted()
    silent.content = ""
    choices = await choices_of("/v1/chat/completions", lambda request: [silent, summary()], **REPORTED)
    assert [choice["delta"] for choice in choices if "outrider" in choice] == [{}]


@pytest.mark.parametrize("path", ASKED)
async def test_a_whole_answer_has_all_cycles(path: str) -> None:
    async with face(script) as made:
        (choice,) = (await made.post(path, ASKED[path] | REPORTED)).json()["choices"]
        assert [cycle["index"] for cycle in choice["outrider"]["cycles"]] == [3, 4]
        assert choice["outrider"]["cycles"][0] == DRAFTED


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_where_cycles_have_no_place_they_are_refused_by_name(path: str, body: dict[str, Any]) -> None:
    async with face() as made:
        answer = await made.post(path, body | REPORTED)
        assert answer.status_code == 400
        assert "outrider.report_cycles" in answer.json()["error"]["message"]


async def test_where_a_trace_is_seen() -> None:
    async with face(lambda request: [summary(trace_id="ab12")], trace_url="http://here/{trace_id}/x") as made:
        told = (await made.post("/v1/completions", ASKED["/v1/completions"])).json()["outrider"]
        assert (told["trace_id"], told["trace_url"]) == ("ab12", "http://here/ab12/x")
    for script, settings in (
        (lambda request: [summary(trace_id="ab12")], {}),
        (lambda request: [summary()], {"trace_url": "http://here/{trace_id}"}),
    ):
        async with face(script, **settings) as made:
            told = (await made.post("/v1/completions", ASKED["/v1/completions"])).json()["outrider"]
            assert told["trace_url"] is None


@pytest.mark.parametrize("url", ["http://here/trace", "javascript:alert('{trace_id}')"])
def test_an_address_of_traces_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"with \{trace_id\} in it"):
        OrchestratorSettings(trace_url=url)
