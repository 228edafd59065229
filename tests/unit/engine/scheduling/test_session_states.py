"""Whatever callers do to their sessions, answers are as if computed from scratch, and no cache lies."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, TypeVar

import grpc
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.v1 import target_pb2
from services.engine.scheduling.engine import Engine
from services.frame.rpc.errors import ServiceError
from services.session.sequence import TokenSequence
from tests.unit.engine.fakes import FakeRuntime
from tests.unit.engine.scheduling.callers import Draft, Session
from tests.unit.target.fakes import MAX_DRAFT_TOKENS, fake_target
from tests.waiting import PATIENCE_S, eventually, soon

NAMES = ("a", "b", "c", "d")
TOKENS = st.integers(0, 14)
SESSIONS = st.sampled_from(NAMES)
# Some prompts begin alike, so that sessions have something to share.
SHARED_PROMPT = list(range(12))
PROMPTS = st.one_of(
    st.lists(TOKENS, min_size=1, max_size=14), st.lists(TOKENS, max_size=4).map(lambda tail: [*SHARED_PROMPT, *tail])
)
CONTEXT_LENGTH = 40
# Handlers never look at the call.
ANY_CALL: Any = None
ResultT = TypeVar("ResultT")


DRAFTS = st.builds(Draft, st.integers(0, 3), st.lists(TOKENS, max_size=MAX_DRAFT_TOKENS - 3))


@pytest.fixture(autouse=True, scope="module")
def _slots_change_hands_at_once() -> Iterator[None]:
    """Sessions keep their slots for moments instead of for as long as a person would not notice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.engine.scheduling.gathering._RETURNS", 0.0)
        patch.setattr("services.engine.scheduling.gathering._LEAST_EXPECTED_S", 0.0)
        patch.setattr("services.engine.scheduling.scheduler._SLOT_POLL_S", 0.001)
        yield


class SessionStates(RuleBasedStateMachine):
    """More sessions than slots, prompts longer than a decode, and callers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.runtime = FakeRuntime(num_slots=2, context_length=CONTEXT_LENGTH, max_batch_rows=9)
        self.engine = Engine(self.runtime, prompt_rows=3)
        self.engine.start()
        self.servicer = fake_target(self.engine, self.runtime)
        self.sessions = {name: Session(name) for name in NAMES}

    def teardown(self) -> None:
        self.runtime.gate.set()
        self.engine.stop()
        self.loop.close()
        assert self.runtime.complaints == []

    # What one caller does.

    @initialize(prompts=st.lists(PROMPTS, min_size=len(NAMES), max_size=len(NAMES)))
    def open_all(self, prompts: list[list[int]]) -> None:
        for name, prompt in zip(NAMES, prompts, strict=True):
            self.open(name, prompt, Draft(0, []))

    @rule(name=SESSIONS, prompt=PROMPTS, draft=DRAFTS)
    def open(self, name: str, prompt: list[int], draft: Draft) -> None:
        session = self.sessions[name]
        session.sequence = prompt
        draft_tokens = session.draft_tokens(draft)
        session.commit(self._answer(session.request(draft_tokens, 0)), draft_tokens)

    @rule(name=SESSIONS, draft=DRAFTS)
    def extend(self, name: str, draft: Draft) -> None:
        """Go on, on the belief that the service still holds what it said last."""
        session = self._session(name)
        self._verify(session, draft, min(session.held_length, len(session.sequence) - 1))

    @rule(name=SESSIONS, draft=DRAFTS, data=st.data())
    def verify_on_any_belief(self, name: str, draft: Draft, data: st.DataObject) -> None:
        session = self._session(name)
        self._verify(session, draft, data.draw(st.integers(0, len(session.sequence) - 1)))

    @rule(name=SESSIONS, draft=DRAFTS, other=TOKENS, data=st.data())
    def rewind(self, name: str, draft: Draft, other: int, data: st.DataObject) -> None:
        """Go back and on another way."""
        session = self._session(name)
        length = data.draw(st.integers(0, len(session.sequence) - 1))
        session.sequence = [*session.sequence[:length], other]
        self._verify(session, draft, min(session.held_length, length))

    @rule(name=SESSIONS, data=st.data())
    def name_a_prefix_that_never_was(self, name: str, data: st.DataObject) -> None:
        session = self.sessions[name]
        if len(session.sequence) > 1:
            cached_length = data.draw(st.integers(1, len(session.sequence) - 1))
            reply = self._answer(session.request([], cached_length, b"no such digest.."))
            self._check_miss(session, reply)

    @rule(name=SESSIONS)
    def retry(self, name: str) -> None:
        session = self.sessions[name]
        if session.last_request is not None and session.last_reply is not None:
            num_decodes = self.runtime.num_decodes
            assert self._answer(session.last_request) == session.last_reply
            assert self.runtime.num_decodes == num_decodes

    @rule(name=SESSIONS)
    def release(self, name: str) -> None:
        session = self.sessions[name]
        self.servicer._verify.exchange.release(name)
        session.last_reply = None

    @rule(name=SESSIONS, draft=DRAFTS)
    def fail_in_the_model(self, name: str, draft: Draft) -> None:
        session = self._session(name)
        draft_tokens = session.draft_tokens(draft)
        self.runtime.failing = {self.runtime.num_decodes}
        request = session.request(draft_tokens, 0)
        error = self._refusal(request)
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "DECODE_FAILED")
        self.no_cache_lies()
        # The same request again has another chance.
        session.commit(self._answer(request), draft_tokens)

    # What happens while a decode is under way.

    @rule(name=SESSIONS, draft=DRAFTS, vanishes=st.booleans())
    def give_up(self, name: str, draft: Draft, vanishes: bool) -> None:
        session = self._session(name)
        request = session.request(session.draft_tokens(draft), 0)

        async def scenario() -> None:
            task = asyncio.ensure_future(self.servicer.VerifyBatch(request, ANY_CALL))
            await soon(lambda: self.runtime.is_waiting)
            if vanishes:
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
            else:
                self.servicer._verify.exchange.cancel(name, session.request_id)
                error = await _refused(task)
                assert (error.code, error.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")

        self._while_blocked(scenario())

    @rule(name=SESSIONS, drafts=st.tuples(DRAFTS, DRAFTS))
    def supersede(self, name: str, drafts: tuple[Draft, Draft]) -> None:
        session = self._session(name)
        old = session.request(session.draft_tokens(drafts[0]), 0)
        draft_tokens = session.draft_tokens(drafts[1])
        new = session.request(draft_tokens, 0)

        async def scenario() -> asyncio.Task[target_pb2.VerifyBatchResponse]:
            first = asyncio.ensure_future(self.servicer.VerifyBatch(old, ANY_CALL))
            await soon(lambda: self.runtime.is_waiting)
            second = asyncio.ensure_future(self.servicer.VerifyBatch(new, ANY_CALL))
            error = await _refused(first)
            assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")
            return second

        second = self._while_blocked(scenario())
        session.commit(self.loop.run_until_complete(second), draft_tokens)
        self.no_cache_lies()
        stale = self._refusal(old)
        assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")

    @rule(drafts=st.lists(DRAFTS, min_size=len(NAMES), max_size=len(NAMES)))
    def all_at_once(self, drafts: list[Draft]) -> None:
        """More work than slots, in any order that comes about."""
        asked = [
            (session, session.draft_tokens(draft))
            for session, draft in zip(map(self._session, NAMES), drafts, strict=True)
        ]

        async def scenario() -> list[target_pb2.VerifyBatchResponse]:
            requests = [session.request(draft_tokens, 0) for session, draft_tokens in asked]
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.gather(*(self.servicer.VerifyBatch(request, ANY_CALL) for request in requests))

        for (session, draft_tokens), reply in zip(asked, self.loop.run_until_complete(scenario()), strict=True):
            session.commit(reply, draft_tokens)

    # What must always hold.

    @invariant()
    def no_cache_lies(self) -> None:
        eventually(lambda: not any(slot.is_busy for slot in self.engine._scheduler.admission.slots.slots))
        for slot, cache in zip(self.engine._scheduler.admission.slots.slots, self.runtime.caches, strict=True):
            assert slot.held.tokens == cache
            assert slot.held.digests == TokenSequence(cache).digests
        assert self.runtime.complaints == []

    def _session(self, name: str) -> Session:
        """The session; its caller goes back to the beginning when there is no room for a draft any more."""
        session = self.sessions[name]
        if len(session.sequence) + MAX_DRAFT_TOKENS > CONTEXT_LENGTH:
            del session.sequence[8:]
        return session

    def _verify(self, session: Session, draft: Draft, cached_length: int) -> None:
        """Verify on the belief that so much is cached, and replay where it is not."""
        draft_tokens = session.draft_tokens(draft)
        is_held = self._cache(session)[:cached_length] == session.sequence[:cached_length]
        request = session.request(draft_tokens, cached_length)
        reply = self._answer(request)
        assert reply.HasField("cache_miss") != is_held
        if not is_held:
            self._check_miss(session, reply)
            miss = reply.cache_miss
            known = TokenSequence(session.sequence)
            is_prefix = miss.held_length < cached_length and known.has_prefix(miss.held_length, miss.held_digest)
            reply = self._answer(session.request(draft_tokens, miss.held_length if is_prefix else 0))
        session.commit(reply, draft_tokens)

    def _check_miss(self, session: Session, reply: target_pb2.VerifyBatchResponse) -> None:
        """A miss tells what is really in the cache."""
        assert reply.HasField("cache_miss")
        cache = self._cache(session)
        assert reply.cache_miss.held_length == reply.held_length == len(cache)
        if cache:
            assert reply.cache_miss.held_digest == TokenSequence(cache).digests[-1]

    def _cache(self, session: Session) -> list[int]:
        slot = self.engine._scheduler.admission.slots.find(session.name)
        return self.runtime.caches[slot.index] if slot else []

    def _answer(self, request: target_pb2.VerifyBatchRequest) -> target_pb2.VerifyBatchResponse:
        return self.loop.run_until_complete(asyncio.wait_for(self.servicer.VerifyBatch(request, ANY_CALL), PATIENCE_S))

    def _refusal(self, request: target_pb2.VerifyBatchRequest) -> ServiceError:
        return self.loop.run_until_complete(_refused(self.servicer.VerifyBatch(request, ANY_CALL)))

    def _while_blocked(self, scenario: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a scenario while the next decode is under way."""
        self.runtime.gate.clear()
        try:
            return self.loop.run_until_complete(asyncio.wait_for(scenario, PATIENCE_S))
        finally:
            self.runtime.gate.set()


async def _refused(answer: Awaitable[object]) -> ServiceError:
    with pytest.raises(ServiceError) as info:
        await asyncio.wait_for(answer, PATIENCE_S)
    return info.value


SessionStates.TestCase.settings = settings(max_examples=50, stateful_step_count=20)
TestSessionStates = SessionStates.TestCase
