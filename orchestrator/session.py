"""What the orchestrator believes a service has cached, and how it brings the service back when it has not."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from opentelemetry.trace import Span

from outrider.v1 import common_pb2
from services.frame.digest import TokenSequence
from services.frame.telemetry import headers_of

ReplyT = TypeVar("ReplyT", bound=Any)


class RemoteCache:
    """The cached prefix of one session in one service, as far as the orchestrator knows.

    It is only ever a hint: a wrong one costs a cache miss and a replay.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.num_resyncs = 0
        self._request_id = 0
        self._held_length = 0
        # What the service holds beyond the sequence of the last request: draft tokens that may not have been accepted.
        self._ahead_of = 0
        self._ahead: Sequence[int] = ()

    def next_request_id(self) -> int:
        """Return an id above all earlier ones."""
        self._request_id += 1
        return self._request_id

    def context(self, sequence: TokenSequence, span: Span) -> common_pb2.Context:
        """Return the context of a request that builds on the whole sequence."""
        length = min(self._common_length(sequence), len(sequence) - 1)
        trace = headers_of(span)
        return common_pb2.Context(
            session_id=self.session_id,
            cached_length=length,
            cached_digest=sequence.digests[length] if length else b"",
            tokens=sequence.tokens[length:],
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
        )

    def learn(self, sequence: TokenSequence, held_length: int, ahead: Sequence[int] = ()) -> None:
        """Remember that the service holds `held_length` tokens of the sequence followed by `ahead`."""
        self._held_length, self._ahead_of, self._ahead = held_length, len(sequence), ahead

    def forget(self) -> None:
        """Believe nothing: the service may be another one now. Counts as a resync if there was something to lose."""
        self.num_resyncs += self._held_length > 0
        self._held_length, self._ahead = 0, ()

    async def ask(
        self, sequence: TokenSequence, span: Span, send: Callable[[common_pb2.Context, int], Awaitable[ReplyT]]
    ) -> ReplyT:
        """Send a request for the whole sequence, replaying what the service lacks, until there is a result.

        `send` takes the context and the request id. It ends: a request with `cached_length` 0 never misses.
        """
        while True:
            reply = await send(self.context(sequence, span), self.next_request_id())
            if reply.WhichOneof("outcome") != "cache_miss":
                return reply
            miss = reply.cache_miss
            self.num_resyncs += 1
            span.add_event("outrider.resync", {"outrider.held_length": miss.held_length})
            asked_length = self.context(sequence, span).cached_length
            is_prefix = sequence.has_prefix(miss.held_length, miss.held_digest) and miss.held_length < asked_length
            self.learn(sequence, miss.held_length if is_prefix else 0)

    def _common_length(self, sequence: TokenSequence) -> int:
        length = self._ahead_of
        for token, ahead in zip(sequence.tokens[length:], self._ahead, strict=False):
            if token != ahead:
                break
            length += 1
        return min(length, self._held_length)
