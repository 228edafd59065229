"""The target as the cycle sees it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
from opentelemetry.trace import Span, SpanKind

from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import ServiceError, error_from_rpc
from services.frame.telemetry import Telemetry, child_span
from services.session.client import Limits, ServiceSession
from services.session.sequence import TokenSequence

_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 1.0
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


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


class ContextFullError(ServiceError):
    """The target that answers takes no longer sequence: the end of a generation, an error where it has not begun."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.OUT_OF_RANGE, "PROMPT_TOO_LONG", message)


class TargetSession:
    """One session of the target service. A broken stream is opened again and the sequence replayed."""

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
        """Open a session on the target that serves `model`.

        `describe` asks the target again what it serves, after it was away. `patience_s` is how long a target that is
        away is waited for, in each verification. All of `on_verified` are told the seconds that each one took. Quotes
        come with chances, and without them where they are wanted.
        """
        self.is_same_model = True
        self.limits = Limits.of(model)
        self._model = model
        self._describe = describe
        self._require_exact = require_exact
        self._was_away = False
        self._session: ServiceSession[target_pb2.VerifyStreamRequest, target_pb2.VerifyBatchResponse] = ServiceSession(
            session_id, lambda: stub.VerifyStream(metadata=(("x-session-id", session_id),))
        )
        self._sampling = sampling
        self._telemetry = telemetry
        self._patience_s = patience_s
        self._on_verified = on_verified
        self._num_log_probabilities = num_log_probabilities
        self._wants_quotes = wants_quotes
        self._quote = target_pb2.Quote()

    @property
    def num_resyncs(self) -> int:
        """Times that the target had to be brought back to the sequence."""
        return self._session.num_resyncs

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
            retry_s = _FIRST_RETRY_S
            until_s: float | None = None
            while True:
                try:
                    reply, taken = await self._attempt(sequence, draft_tokens, chances, span)
                    break
                except ServiceError as error:
                    if self.limits.learn(error):
                        continue
                    if not self._is_worth_another_try(error):
                        raise
                    if is_too_large(error):
                        raise ContextFullError(too_large(error).message) from error
                    # From the first failure on: a connection that has fallen silent is found to be lost much later.
                    until_s = until_s or time.perf_counter() + self._patience_s
                    if time.perf_counter() + retry_s >= until_s:
                        raise self._unavailable(error) from error
                    span.add_event("outrider.target_retry", {"outrider.reason": error.message})
                self._was_away = True
                self._session.forget()
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            self._session.learn(sequence, reply.held_length, taken[: reply.result.num_accepted])
        waited_s = time.perf_counter() - started_s
        for tell in self._on_verified:
            tell(waited_s)
        timings = reply.timings
        if reply.result.HasField("quote"):
            self._quote = reply.result.quote
        return Verification(
            reply.result,
            len(taken) - reply.result.num_skipped,
            waited_s,
            timings.computed_ms / 1e3,
            timings.decode_ms / 1e3,
            timings.batch_rows,
            timings.queued_ms / 1e3,
            self._quote if self._quote.version else None,
            timings.num_cached_tokens,
        )

    async def close(self) -> None:
        """Release the session and end its stream."""
        await self._session.send(target_pb2.VerifyStreamRequest(release=common_pb2.ReleaseMessage()))
        await self._session.close()

    async def _attempt(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None, span: Span
    ) -> tuple[target_pb2.VerifyBatchResponse, Sequence[int]]:
        """Ask whoever is the target now; return its reply, and the draft tokens that it takes. Raises ServiceError."""
        if self._was_away or self._session.has_broken:
            await self._recognize(span)
        taken = draft_tokens[: self._room(len(sequence))]
        reply = await self._session.request(
            sequence, span, lambda context, request_id: self._send(context, request_id, taken, chances)
        )
        return reply, taken

    def _room(self, length: int) -> int:
        """Return how many draft tokens the target takes after so many tokens. Raises ContextFullError."""
        # The target's own token follows them.
        room = self.limits.context_length - length - 1
        if room < 0:
            raise ContextFullError(f"the prompt has {length} tokens, the target holds {self.limits.context_length} now")
        return min(self.limits.max_draft_tokens, room)

    async def _recognize(self, span: Span) -> None:
        """Find out whether the target that is back is the one that was away. Raises ServiceError where it is no use."""
        try:
            model = await self._describe()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        self._was_away = self._session.has_broken = False
        self.limits = Limits.of(model)
        # Another one may quote nothing at all.
        self._quote = target_pb2.Quote()
        if model.tokenizer_fingerprint != self._model.tokenizer_fingerprint:
            raise ServiceError(
                grpc.StatusCode.ABORTED, "TARGET_REPLACED", "the target came back with another tokenizer: start again"
            )
        if model.numerics_fingerprint != self._model.numerics_fingerprint:
            span.add_event("outrider.target_changed", {"outrider.model": model.name})
            self.is_same_model = False
            if self._require_exact:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "EXACT_UNAVAILABLE",
                    "the target came back with other numerics, so the rest of the text would not be exact",
                )

    def _is_worth_another_try(self, error: ServiceError) -> bool:
        """Whether the target may answer yet: it is away or busy, or a proxy has cut the stream, whatever its status."""
        return error.code in _RETRIED or self._session.was_cut(error)

    def _unavailable(self, error: ServiceError) -> ServiceError:
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error
        return target_unavailable(f"the target has been away for {self._patience_s:g} s: {error.message}")

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


def is_too_large(error: ServiceError) -> bool:
    """Whether gRPC refused a message for its size; it has no reason of its own for that."""
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in error.message


def too_large(error: ServiceError) -> ServiceError:
    """Return the error of a request whose tokens no message to or from the target holds."""
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "PROMPT_TOO_LONG",
        f"prompt and text do not fit into a message of --max-message-bytes: {error.message}",
    )


def target_unavailable(sentence: str) -> ServiceError:
    """Return the error of a request that waited for its target in vain."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", sentence, retry_after_s=_LAST_RETRY_S)
