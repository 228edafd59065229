"""What the orchestrator sends to a service that holds this much, that much, or something else."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN

from outrider.v1 import common_pb2, target_pb2
from services.frame.telemetry import headers_of
from services.session.client import ServiceSession
from services.session.sequence import TokenSequence
from tests.waiting import PATIENCE_S

Reply = target_pb2.VerifyBatchResponse
Session = ServiceSession[target_pb2.VerifyStreamRequest, Reply]
PROMPT = [5, 6, 7, 8]


class Service:
    """Holds one sequence, answers as the protocol says, and remembers what it was sent."""

    def __init__(self) -> None:
        self.held = TokenSequence()
        self.contexts: list[common_pb2.Context] = []
        self.request_ids: list[int] = []

    async def send(self, context: common_pb2.Context, request_id: int) -> Reply:
        """Answer a request: a cache miss, or a result once the whole sequence is held."""
        self.contexts.append(context)
        self.request_ids.append(request_id)
        assert context.tokens, "the last token is always evaluated"
        assert len(context.cached_digest) == (16 if context.cached_length else 0)
        if not self.held.has_prefix(context.cached_length, context.cached_digest):
            miss = common_pb2.CacheMiss(held_length=len(self.held), held_digest=self.held.digests[-1])
            return Reply(request_id=request_id, cache_miss=miss)
        self.held.cut(context.cached_length)
        self.held.extend(context.tokens)
        return Reply(request_id=request_id, held_length=len(self.held), result=target_pb2.VerifyBatchResult())

    @property
    def sent(self) -> list[tuple[int, list[int]]]:
        """Cached length and tokens of every request so far."""
        return [(context.cached_length, list(context.tokens)) for context in self.contexts]


def session(session_id: str) -> Session:
    """A session whose stream is not used."""
    return ServiceSession(session_id, lambda: None)


async def ask(cache: Session, service: Service, sequence: TokenSequence, ahead: Sequence[int] = ()) -> None:
    """Ask about the whole sequence; the service goes on to hold `ahead` after it."""
    reply = await cache.request(sequence, INVALID_SPAN, service.send)
    assert reply.WhichOneof("outcome") == "result"
    assert service.held.tokens == sequence.tokens
    service.held.extend(ahead)
    cache.learn(sequence, len(service.held), ahead)


async def test_the_first_request_sends_everything() -> None:
    cache, service = session("the session"), Service()
    await ask(cache, service, TokenSequence(PROMPT))
    assert service.sent == [(0, PROMPT)]
    assert service.contexts[0].session_id == "the session"
    assert service.contexts[0].traceparent == ""


async def test_later_requests_send_what_is_new() -> None:
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence)
    await ask(cache, service, sequence.extend([9]))
    await ask(cache, service, sequence.extend([1, 2]))
    assert service.sent == [(0, PROMPT), (4, [9]), (5, [1, 2])]
    assert service.request_ids == [1, 2, 3]
    assert cache.num_resyncs == 0


async def test_a_sequence_that_has_not_grown_is_evaluated_at_its_end() -> None:
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence)
    await ask(cache, service, sequence)
    assert service.sent[1] == (3, PROMPT[-1:])


@pytest.mark.parametrize(
    ("ahead", "committed", "expected"),
    [
        pytest.param([1, 2], [1, 2, 3], (6, [3]), id="held draft tokens that were accepted are not sent again"),
        pytest.param([1, 2], [1, 9], (5, [9]), id="nor those before the first that was rejected"),
        pytest.param([1, 2], [9], (4, [9]), id="rejected at once"),
        pytest.param([1, 2], [9, 3, 4], (4, [9, 3, 4]), id="rejected long ago"),
        pytest.param([1, 2, 3], [1, 9, 3, 4], (5, [9, 3, 4]), id="nothing counts after the first that was rejected"),
        pytest.param([1, 2], [1, 2], (5, [2]), id="the last token is sent though it is held"),
        pytest.param([1, 2, 3], [1], (4, [1]), id="more is held than was committed"),
    ],
)
async def test_draft_tokens_that_the_service_holds(
    ahead: list[int], committed: list[int], expected: tuple[int, list[int]]
) -> None:
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence, ahead)
    await ask(cache, service, sequence.extend(committed))
    assert service.sent[1] == expected
    assert cache.num_resyncs == 0


async def test_only_what_is_held_counts() -> None:
    """The last draft token is proposed and not held."""
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await cache.request(sequence, INVALID_SPAN, service.send)
    service.held.extend([1, 2])
    cache.learn(sequence, len(service.held), [1, 2, 3])
    await ask(cache, service, sequence.extend([1, 2, 3, 4]))
    assert service.sent[1] == (6, [3, 4])


@pytest.mark.parametrize(
    ("held", "replay"),
    [
        pytest.param([], (0, [*PROMPT, 9]), id="nothing"),
        pytest.param(PROMPT[:2], (2, [*PROMPT[2:], 9]), id="a prefix"),
        pytest.param([5, 1], (0, [*PROMPT, 9]), id="something else"),
        pytest.param([1, 2, 3, 4, 5, 6, 7], (0, [*PROMPT, 9]), id="something longer"),
    ],
)
async def test_what_is_missing_is_replayed(held: list[int], replay: tuple[int, list[int]]) -> None:
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence)
    service.held = TokenSequence(held)
    await ask(cache, service, sequence.extend([9]))
    assert service.sent[1:] == [(4, [9]), replay]
    assert service.request_ids == [1, 2, 3]
    assert cache.num_resyncs == 1


async def test_a_service_that_misses_what_it_says_that_it_holds_is_sent_everything() -> None:
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence)
    sequence.extend([9])

    async def send(context: common_pb2.Context, request_id: int) -> Reply:
        await asyncio.sleep(0)
        if context.cached_length:
            service.contexts.append(context)
            miss = common_pb2.CacheMiss(held_length=len(sequence), held_digest=sequence.digests[-1])
            return Reply(request_id=request_id, cache_miss=miss)
        return await service.send(context, request_id)

    async with asyncio.timeout(PATIENCE_S):
        await cache.request(sequence, INVALID_SPAN, send)
    assert service.sent[1:] == [(4, [9]), (0, [*PROMPT, 9])]


async def test_a_service_that_is_another_one_now_gets_everything() -> None:
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence, ahead=[9])
    cache.forget()
    await ask(cache, Service(), sequence.extend([9]))
    assert cache.num_resyncs == 1


async def test_forgetting_nothing_is_no_resync() -> None:
    cache, sequence = session("a"), TokenSequence(PROMPT)
    cache.forget()
    cache.forget()
    await ask(cache, Service(), sequence)
    assert cache.num_resyncs == 0


async def test_the_span_travels_in_the_message_and_hears_of_a_resync() -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("a span")
    cache, service, sequence = session("a"), Service(), TokenSequence(PROMPT)
    await ask(cache, service, sequence)
    service.held = TokenSequence(PROMPT[:2])
    await cache.request(sequence.extend([9]), span, service.send)
    headers = headers_of(span)
    assert headers.traceparent
    assert [context.traceparent for context in service.contexts] == ["", headers.traceparent, headers.traceparent]
    (event,) = span.events  # type: ignore[attr-defined]
    assert (event.name, dict(event.attributes)) == ("outrider.resync", {"outrider.held_length": 2})


@given(st.data())
async def test_whatever_becomes_of_the_service_it_ends_up_with_the_sequence(data: st.DataObject) -> None:
    """Drafts right and wrong, services that lose all or some or hold something else."""
    tokens = st.lists(st.integers(0, 2), max_size=4)
    cache, service = session("a"), Service()
    sequence = TokenSequence(data.draw(tokens.filter(bool)))
    for _ in range(data.draw(st.integers(1, 6))):
        num_sent = len(service.sent)
        # A draft is held up to some token, perhaps more than the orchestrator will commit of it.
        draft = data.draw(tokens)
        await ask(cache, service, sequence, draft)
        # At most a miss where it holds something else, and another one where that is not a prefix.
        assert len(service.sent) - num_sent <= 2
        sequence.extend(draft[: data.draw(st.integers(0, len(draft)))])
        sequence.extend([data.draw(st.integers(0, 2))])
        accident = data.draw(st.sampled_from(["none", "none", "cut", "other", "forget"]))
        if accident == "cut":
            service.held.cut(data.draw(st.integers(0, len(service.held))))
        elif accident == "other":
            service.held = TokenSequence(data.draw(tokens))
        elif accident == "forget":
            cache.forget()
    await ask(cache, service, sequence)
    assert service.request_ids == list(range(1, len(service.request_ids) + 1))
