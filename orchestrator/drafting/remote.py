"""The draft service as the cycle sees it."""

import asyncio
import logging
import math
import time
from dataclasses import replace
from itertools import takewhile
from typing import Protocol

import grpc
from opentelemetry.trace import Span, SpanKind, get_current_span

from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import REMOTE, Breaker, Draft, Wanted
from orchestrator.drafting.patience import MOST_READ_TOKENS, DraftPatience
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry, child_span
from services.session.client import Limits, ServiceSession
from services.session.sequence import TokenSequence

_log = logging.getLogger(__name__)
_REASON_TIMEOUT = "TIMEOUT"
_REASON_CHANGED = "TOKENIZER_CHANGED"
# The message is too long, or the target refuses the request as well.
_REFUSALS = (
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# Drafts of a session that are missed by chance, one after the other, before the service is taken for lost.
_MOST_MISSED = 3
# Nobody waits while a service reads ahead: so many times as long as a draft may take.
_MOST_READING = 30.0


class DraftService(Protocol):
    """What all sessions of a draft service share."""

    address: str
    stub: draft_pb2_grpc.DraftServiceStub
    breaker: Breaker
    patience: DraftPatience
    # What it served when its tokens were compared, empty until then: another one may take its place at any time.
    model: common_pb2.ModelInfo

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        """Whoever answers does not serve `model`: use it for no session until its tokens have been compared."""

    def doubt(self) -> None:
        """Too many drafts in a row were late: find out whether it is there at all."""

    def note_problem(self, problem: str) -> None:
        """A session is over; `problem` kept it from using the service, if anything did."""


class RemoteDrafter:
    """One session of the draft service. While the service is away, late or unwilling, its drafts are empty."""

    def __init__(
        self,
        service: DraftService,
        session_id: str,
        view: DraftView,
        telemetry: Telemetry,
        *,
        vocabulary_size: int,
        min_joint_confidence: float = 0.0,
    ) -> None:
        """`view` is the request as the draft may see it; `vocabulary_size` is the target's."""
        self.num_fallbacks = 0
        self.problem = ""
        self._service = service
        self._breaker = service.breaker
        self._patience = service.patience
        self._session: ServiceSession[draft_pb2.ProposeStreamRequest, draft_pb2.ProposeResponse] = ServiceSession(
            session_id,
            lambda: service.stub.ProposeStream(metadata=(("x-session-id", session_id),)),
            self._breaker.hear,
        )
        self._view = view
        self._telemetry = telemetry
        self._vocabulary_size = vocabulary_size
        self._min_joint_confidence = min_joint_confidence
        self._model = common_pb2.ModelInfo()
        self._limits = Limits()
        self._lacks_ids = False
        self._is_attached = False
        self._is_refused = False
        self._num_missed = 0
        self._is_missing = False
        self._limit_s = self._patience.most_s
        self._follows_prompt = False
        # What comes of reading ahead, while that has not been told.
        self._reading: asyncio.Task[Draft] | None = None

    @property
    def num_resyncs(self) -> int:
        """Times that the service had to be brought back to the sequence."""
        return self._session.num_resyncs

    def room(self, length: int) -> int:
        """Return the most tokens that the service proposes after so many. Where there are none, `problem` says why."""
        self._recognize()
        # The last draft token is never evaluated there.
        room = self._limits.context_length + 1 - length
        if room < 1:
            self.problem = f"the context of the draft is full: it holds {self._limits.context_length} tokens"
        if not self._limits.max_draft_tokens:
            self.problem = "the draft service is set to propose no tokens"
        if self._breaker.is_open:
            self.problem = self._breaker.reason
        return 0 if self._is_refused else max(0, min(self._limits.max_draft_tokens, room))

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the service's draft, or an empty one."""
        if self._reading is not None:
            return self._end_reading()
        num_draft_tokens = min(wanted.num_draft_tokens, self.room(len(sequence)))
        if num_draft_tokens < 1:
            return Draft()
        if not self._breaker.may_try():
            if self._is_attached:  # somebody else has found out
                self._detach(get_current_span(), self._breaker.reason)
            return Draft()
        if wanted.reads_ahead:
            self._reading = asyncio.create_task(self._ask(sequence, Wanted(1, reads_ahead=True), "read ahead"))
            return Draft(drafter=REMOTE, is_reading=True)
        return await self._ask(sequence, replace(wanted, num_draft_tokens=num_draft_tokens), "propose")

    async def close(self) -> None:
        """Release the session and end its stream."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._service.note_problem(self.problem)
        await self._session.send(draft_pb2.ProposeStreamRequest(release=common_pb2.ReleaseMessage()))
        await self._session.close()

    def _end_reading(self) -> Draft:
        """Return what came of reading ahead, or that it goes on."""
        assert self._reading is not None, "something is read"
        if not self._reading.done():
            return Draft(drafter=REMOTE, is_reading=True)
        draft, self._reading = self._reading.result(), None
        # Nobody has waited for it. Its token is of a time that is past.
        return Draft(drafter=REMOTE, read_s=max(0.0, draft.computed_s - draft.turn_s) if draft.tokens else None)

    async def _ask(self, sequence: TokenSequence, wanted: Wanted, name: str) -> Draft:
        """Return the service's draft, or an empty one. The span of that has the name."""
        started_s = time.perf_counter()
        with child_span(self._telemetry, name, SpanKind.CLIENT) as span:
            span.set_attribute("outrider.draft.address", self._service.address)
            try:
                seen = await self._view.sequence(sequence) if self._lacks_ids else sequence
                reply = await self._session.request(
                    seen, span, lambda context, request_id: self._send(context, request_id, wanted)
                )
                if self._breaker.is_disabled:
                    raise ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", self._breaker.reason)
            except ServiceError as error:
                self._miss(span, error)
                waited_s = time.perf_counter() - started_s
                return Draft(waited_s=waited_s, drafter=REMOTE, follows_prompt=self._follows_prompt)
            self._attach(span)
            known = self._known(reply)
            tokens = [draft_token.token for draft_token in known]
            self._session.learn(seen, reply.held_length, tokens if not wanted.reads_ahead else ())
        return Draft(
            tokens,
            [draft_token.probability for draft_token in known],
            [draft_token.margin for draft_token in known],
            waited_s=time.perf_counter() - started_s,
            computed_s=reply.timings.computed_ms / 1e3,
            drafter=REMOTE,
            queued_s=reply.timings.queued_ms / 1e3,
            turn_s=reply.timings.turn_ms / 1e3,
            follows_prompt=self._follows_prompt,
        )

    async def _send(self, context: common_pb2.Context, request_id: int, wanted: Wanted) -> draft_pb2.ProposeResponse:
        """Ask, and learn how long it takes. Raises ServiceError, also where it takes too long."""
        num_draft_tokens, num_read_tokens, is_try = wanted.num_draft_tokens, len(context.tokens), self._breaker.is_open
        self._follows_prompt = num_read_tokens > MOST_READ_TOKENS
        if wanted.reads_ahead:
            self._limit_s = _MOST_READING * self._patience.most_s
        else:
            self._limit_s = self._patience.limit_s(num_draft_tokens, num_read_tokens, wanted.limit_s, is_try=is_try)
        request = draft_pb2.ProposeRequest(
            request_id=request_id,
            timeout_ms=math.ceil(self._limit_s * 1e3),
            context=context,
            num_draft_tokens=num_draft_tokens,
            min_joint_confidence=self._min_joint_confidence,
            early_end=wanted.early_end,
            sampling=self._view.sampling,
            tokenizer_fingerprint=self._model.tokenizer_fingerprint,
            reads_ahead=wanted.reads_ahead,
        )
        asked_s = time.perf_counter()
        try:
            message = draft_pb2.ProposeStreamRequest(propose=request)
            reply = await self._session.exchange(request_id, message, self._limit_s)
        except TimeoutError as error:
            if not is_try:
                self._patience.note_proposal(num_draft_tokens, num_read_tokens, self._limit_s)
            sentence = f"no draft within {self._limit_s:.3g} s"
            raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, _REASON_TIMEOUT, sentence) from error
        if reply.HasField("result"):
            self._patience.note_proposal(num_draft_tokens, num_read_tokens, time.perf_counter() - asked_s)
        return reply

    def _recognize(self) -> None:
        """Find out whether another draft has taken the place of the one that was asked before."""
        before, self._model = self._model, self._service.model
        if self._model is not before and self._model != before:
            self._view.look_from(self._model)
            self._lacks_ids = self._model.vocabulary_size < self._vocabulary_size
            self._limits = Limits.of(self._model)
            self._is_refused = False
            self._session.forget()

    def _known(self, reply: draft_pb2.ProposeResponse) -> list[draft_pb2.DraftToken]:
        """Return the draft tokens up to the first that the target does not have."""
        return list(takewhile(lambda each: each.token < self._vocabulary_size, reply.result.draft_tokens))

    def _miss(self, span: Span, error: ServiceError) -> None:
        """Do without a draft in this cycle; where that was no accident, without the service."""
        is_unwilling = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and self._session.is_open
        if is_unwilling or self._limits.learn(error) or self._is_chance(error):
            span.add_event("outrider.draft_missed", {"outrider.reason": error.message})
        else:
            self._fall_back(span, error)
        # A single draft that is missing among others is no news.
        if self._is_missing or not self._is_attached:
            self.problem = error.message
        self._is_missing = True

    def _is_chance(self, error: ServiceError) -> bool:
        """Whether a draft is missing that the next one need not follow: it was late, or a proxy has cut the stream."""
        is_cut = self._is_attached and self._session.was_cut(error) and error.code not in _REFUSALS
        if self._breaker.is_open or not (self._is_late(error) or is_cut):
            return False
        self._num_missed += 1
        return self._num_missed < _MOST_MISSED

    def _is_late(self, error: ServiceError) -> bool:
        """Whether there was no draft in less time than the setting allows, or while a prompt was read.

        That may have waited for the prompts of others, and what was read is there for the next draft.
        """
        is_short = self._limit_s < self._patience.most_s
        return error.reason == _REASON_TIMEOUT and (is_short or self._follows_prompt)

    def _fall_back(self, span: Span, error: ServiceError) -> None:
        # A service that refuses what it is asked is well: other sessions may go on with it. One that takes shorter
        # drafts than it told is another service, which will be asked what it takes.
        self._is_refused = error.code in _REFUSALS and error.reason != "DRAFT_TOO_LONG"
        if error.reason == _REASON_CHANGED:
            self._service.suspect(self._model, error.message)
        elif not self._is_refused:
            is_late = self._is_late(error)
            if self._breaker.fail(error.message, is_late=is_late):
                _log.warning("the draft service is lost, decoding goes on without it: %s", error.message)
            if is_late:
                self._service.doubt()
        self._detach(span, error.message)

    def _detach(self, span: Span, reason: str) -> None:
        if self._is_attached:
            self.num_fallbacks += 1
            self._is_attached = False
        span.add_event("outrider.fallback", {"outrider.reason": reason})
        self._session.forget()
        self._num_missed = 0

    def _attach(self, span: Span) -> None:
        was_lost = self._breaker.is_lost
        if self._breaker.succeed() and was_lost:
            _log.info("the draft service is back")
        self._num_missed = 0
        self._is_missing = False
        self.problem = ""
        if not self._is_attached:
            self._is_attached = True
            span.add_event("outrider.attach")
