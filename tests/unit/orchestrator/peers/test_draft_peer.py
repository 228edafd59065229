"""The draft service as all requests share it: no draft is used before it was compared with the target."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.peers import draft_peer
from orchestrator.peers.draft_peer import DraftPeer
from orchestrator.peers.pair import ServedModel
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2
from services.frame.rpc.errors import ServiceError
from tests.waiting import soon


def served(*texts: str, name: str = "") -> ServedModel:
    entries = [common_pb2.TokenEntry(text=text, output=text.encode()) for text in texts]
    return ServedModel(common_pb2.ModelInfo(name=name, tokenizer_fingerprint=" ".join(texts)), entries)


TARGET = served("a", "b", "c")


Silence = Callable[..., Awaitable[ServiceError | None]]


async def answers(*_: object) -> None:
    return None


@asynccontextmanager
async def followed(
    monkeypatch: pytest.MonkeyPatch, found: Sequence[ServedModel], silence: Silence = answers
) -> AsyncIterator[DraftPeer]:
    """A draft that is followed; it is another one of `found` each time that it is asked, and never away."""
    models = iter(found)

    async def fetch(*_: object) -> ServedModel:
        return next(models)

    async def until_away(*_: object) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(draft_peer, "fetch_loading_model", fetch)
    monkeypatch.setattr(draft_peer, "until_away", until_away)
    monkeypatch.setattr(draft_peer, "describe_silence", silence)
    settings = OrchestratorSettings(draft="somewhere:1", draft_retry_s=0.001)
    channel: Any = None
    monkeypatch.setattr(draft_peer.draft_pb2_grpc, "DraftServiceStub", lambda channel: None)
    peer = DraftPeer(settings, "somewhere:1", channel, lambda: TARGET)
    following = asyncio.create_task(peer.follow())
    try:
        yield peer
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_draft_in_anothers_place_is_compared_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fits, other = served("a", "b", "c", name="one"), served("a", "x", "y")
    async with followed(monkeypatch, [fits, other]) as peer:
        assert peer.breaker.is_disabled
        await soon(lambda: not peer.breaker.is_open)
        peer.suspect(peer.model, "it has other tokens")
        assert peer.breaker.is_disabled
        assert peer.status().reason == "the draft at somewhere:1 is another one now: it has other tokens"
        await soon(lambda: "does not fit" in peer.status().reason)
        # An answer to what was asked before.
        peer.breaker.succeed()
        peer.breaker.fail("late")
        assert not peer.status().is_available
        assert peer.status().reason == (
            "the draft does not fit the target: token 1 is 'b' in the target and 'x' in the draft (and 1 more)"
        )


async def test_a_suspicion_of_the_draft_before_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = (served("a", "b", "c", name=name) for name in ("one", "two"))
    async with followed(monkeypatch, [before, after]) as peer:
        await soon(lambda: not peer.breaker.is_open)
        peer.suspect(before.info, "it has other tokens")
        await soon(lambda: not peer.breaker.is_open)
        assert peer.model is after.info
        peer.suspect(before.info, "it has other tokens")
        assert not peer.breaker.is_open


async def test_what_does_no_harm_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = served("a", "b", "c", "<pad>")
    for token in (0, 1, 2):
        padded.entries[token].is_end_of_generation = True
    async with followed(monkeypatch, [padded]) as peer:
        await soon(lambda: not peer.breaker.is_open)
        peer.note_problem("its context is full")
        assert list(peer.status().notes) == [
            "token 0 'a' ends a generation in the draft only",
            "token 1 'b' ends a generation in the draft only",
            "token 2 'c' ends a generation in the draft only",
            "1 more: `outrider pair` lists them",
            "the last request went on without it: its context is full",
        ]
        peer.note_problem("")
        assert len(peer.status().notes) == 4


async def test_a_draft_that_is_late_is_lost_where_it_answers_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    silences: asyncio.Queue[ServiceError | None] = asyncio.Queue()

    async def silence(*_: object) -> ServiceError | None:
        return await silences.get()

    async with followed(monkeypatch, [TARGET], silence) as peer:
        await soon(lambda: not peer.breaker.is_open)
        for problem, is_available in ((None, True), (ServiceError(grpc.StatusCode.UNAVAILABLE, "", "gone"), False)):
            peer.breaker.fail("no draft within 0.02 s", is_late=True)
            peer.doubt()
            assert peer.status().is_available
            assert peer.status().reason == "no draft within 0.02 s"
            await silences.put(problem)
            await soon(silences.empty)
            await soon(lambda expected=is_available: peer.status().is_available == expected)
        assert peer.status().reason == "gone"


async def test_a_draft_that_is_in_time_again_is_not_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    silences: asyncio.Queue[ServiceError | None] = asyncio.Queue()

    async def silence(*_: object) -> ServiceError | None:
        return await silences.get()

    async with followed(monkeypatch, [TARGET], silence) as peer:
        await soon(lambda: not peer.breaker.is_open)
        peer.breaker.fail("no draft within 0.02 s", is_late=True)
        peer.doubt()
        peer.breaker.hear()
        await silences.put(ServiceError(grpc.StatusCode.UNAVAILABLE, "", "gone"))
        await soon(silences.empty)
        await asyncio.sleep(0)
        assert peer.status().is_available
