"""The target as the cycle sees it."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
from opentelemetry.trace import Span, SpanKind

from orchestrator.peers.patient_session import PatientSession
from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.limits import MAX_SCORED_TOKENS
from services.frame.telemetry import Telemetry, child_span
from services.session.client import ServiceSession
from services.session.sequence import TokenSequence


@dataclass(frozen=True)
class Verification:
    """The target's verdict on one draft, and the time it took: waited for; queued, computed by the service's account.

    `num_verified` draft tokens were looked at: the target leaves out those that are not worth their rows, and one that
    has taken another's place may take fewer than it is sent. `quote` is what draft tokens cost now, where it was told.
    The last decode had `batch_rows` rows of all sessions together, and decodes took `decode_s` of what was computed.
    Of the sequence `num_cached_tokens` were in the target's cache.
    """

    result: target_pb2.VerifyBatchResult
    num_verified: int
    waited_s: float
    computed_s: float
    decode_s: float = 0.0
    batch_rows: int = 0
    queued_s: float = 0.0
    quote: target_pb2.Quote | None = None
    num_cached_tokens: int = 0

    @property
    def plain_s(self) -> float:
        """Seconds that it would have taken without draft tokens, as modelled; 0 where no quote was told."""
        return self.waited_s - self.decode_s + self.quote.decode_ms / 1e3 if self.quote is not None else 0.0


class TargetSession(PatientSession[target_pb2.VerifyStreamRequest, target_pb2.VerifyBatchResponse]):
    """One session of the target service."""

    name = "target"

    def __init__(
        self,
        stub: target_pb2_grpc.TargetServiceStub,
        session_id: str,
        sampling: common_pb2.Sampling,
        telemetry: Telemetry,
        *,
        model: common_pb2.ModelInfo,
        describe: Callable[[], Awaitable[common_pb2.ModelInfo]],
        patience_s: float,
        on_verified: Sequence[Callable[[float], object]] = (),
        num_log_probabilities: int | None = None,
        require_exact: bool = False,
        wants_quotes: bool = False,
    ) -> None:
        """Open a session on the target that serves `model`, with `describe` and `patience_s` as `PatientSession` has.

        All of `on_verified` are told the seconds that each verification took. Quotes come with chances, and without
        them where they are wanted.
        """
        super().__init__(
            ServiceSession(session_id, lambda: stub.VerifyStream(metadata=(("x-session-id", session_id),))),
            telemetry,
            model=model,
            describe=describe,
            patience_s=patience_s,
            require_exact=require_exact,
        )
        self._sampling = sampling
        self._on_verified = on_verified
        self._num_log_probabilities = num_log_probabilities
        self._wants_quotes = wants_quotes
        self._quote = target_pb2.Quote()

    async def verify(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
    ) -> Verification:
        """Verify draft tokens after the sequence; none is plain decoding.

        Of a draft that is longer than the target takes, only the beginning is verified; with the `chances` of its
        tokens only what is worth its rows, and a quote comes with the verdict.

        Raises:
            ServiceError: the target refused, or was away for longer than the patience lasts.
            ContextFullError: the sequence is as long as the target's context, or a message to it.
        """
        started_s = time.perf_counter()
        with child_span(self._telemetry, "verify", SpanKind.CLIENT) as span:
            reply, taken = await self._answer(span, lambda: self._attempt(sequence, draft_tokens, chances, span))
            self._session.learn(sequence, reply.held_length, taken[: reply.result.num_accepted])
        waited_s = time.perf_counter() - started_s
        for tell in self._on_verified:
            tell(waited_s)
        if reply.result.HasField("quote"):
            self._quote = reply.result.quote
        return self._verification(reply, len(taken) - reply.result.num_skipped, waited_s)

    async def score(self, prompt: TokenSequence, num_top: int) -> AsyncGenerator[Verification, None]:
        """Have all tokens of a prompt but the first scored, with so many most probable tokens in the place of each.

        Each verification has the scores of the next few, and nothing else that counts. Raises as `verify` does.
        """
        part = TokenSequence(prompt.tokens[:1])
        while num_scored := min(MAX_SCORED_TOKENS, len(prompt) - len(part)):
            part.extend(prompt.tokens[len(part) : len(part) + num_scored])
            started_s = time.perf_counter()
            with child_span(self._telemetry, "score", SpanKind.CLIENT) as span:
                reply = await self._answer(span, lambda: self._attempt_score(part, num_scored, num_top, span))
                # The row of the last token is evaluated again for the first one of the next part.
                self._session.learn(part, reply.held_length - 1)
            yield self._verification(reply, 0, time.perf_counter() - started_s)

    async def close(self) -> None:
        """Release the session and end its stream."""
        await self._session.send(target_pb2.VerifyStreamRequest(release=common_pb2.ReleaseMessage()))
        await self._session.close()

    def _verification(self, reply: target_pb2.VerifyBatchResponse, num_verified: int, waited_s: float) -> Verification:
        timings = reply.timings
        return Verification(
            reply.result,
            num_verified,
            waited_s,
            timings.computed_ms / 1e3,
            timings.decode_ms / 1e3,
            timings.batch_rows,
            timings.queued_ms / 1e3,
            self._quote if self._quote.version else None,
            timings.num_cached_tokens,
        )

    async def _attempt(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None, span: Span
    ) -> tuple[target_pb2.VerifyBatchResponse, Sequence[int]]:
        """Ask whoever is the target now; return its reply, and the draft tokens that it takes. Raises ServiceError."""
        taken = draft_tokens[: self._room(len(sequence))]
        reply = await self._session.request(
            sequence, span, lambda context, request_id: self._send(context, request_id, taken, chances)
        )
        return reply, taken

    async def _attempt_score(
        self, part: TokenSequence, num_scored: int, num_top: int, span: Span
    ) -> target_pb2.VerifyBatchResponse:
        """Have the last tokens scored by whoever is the target now. Raises ServiceError, also where it cannot."""
        self._room(len(part))
        reply = await self._session.request(
            part, span, lambda context, request_id: self._send_score(context, request_id, num_scored, num_top)
        )
        if len(reply.result.scored_tokens) != num_scored:
            sentence = "the target is of a version that gives no log-probabilities of prompts"
            raise ServiceError(grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", sentence)
        return reply

    async def _recognize(self, span: Span) -> None:
        await super()._recognize(span)
        # Another one may quote nothing at all.
        self._quote = target_pb2.Quote()

    async def _send(
        self,
        context: common_pb2.Context,
        request_id: int,
        draft_tokens: Sequence[int],
        chances: Sequence[float] | None,
    ) -> target_pb2.VerifyBatchResponse:
        request = target_pb2.VerifyBatchRequest(
            request_id=request_id,
            context=context,
            draft_tokens=draft_tokens,
            sampling=self._sampling,
            num_log_probabilities=self._num_log_probabilities,
        )
        if chances is not None:
            request.draft_chance.extend(chances[: len(draft_tokens)])
        if chances is not None or self._wants_quotes:
            request.quote_version = self._quote.version
        return await self._session.exchange(request_id, target_pb2.VerifyStreamRequest(verify=request), None)

    async def _send_score(
        self, context: common_pb2.Context, request_id: int, num_scored: int, num_top: int
    ) -> target_pb2.VerifyBatchResponse:
        request = target_pb2.VerifyBatchRequest(
            request_id=request_id,
            context=context,
            sampling=self._sampling,
            num_log_probabilities=num_top,
            num_scored_tokens=num_scored,
        )
        return await self._session.exchange(request_id, target_pb2.VerifyStreamRequest(verify=request), None)
