"""A session of a service that decides tokens: while that is away it is waited for, and who comes back is recognized."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import grpc
from opentelemetry.trace import Span

from outrider.v1 import common_pb2
from services.frame.rpc.errors import ServiceError, error_from_rpc
from services.frame.telemetry import Telemetry
from services.session.client import Limits, MessageT, ReplyT, ServiceSession

_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 1.0
# A key that is not taken is the orchestrator's fault, not the client's, and may be another in a moment.
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
)

AnswerT = TypeVar("AnswerT")


class ContextFullError(ServiceError):
    """The service that answers takes no longer sequence: the end of a generation, an error where it has not begun."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.OUT_OF_RANGE, "PROMPT_TOO_LONG", message)


class PatientSession(Generic[MessageT, ReplyT]):
    """One session of a service. A broken stream is opened again and the sequence replayed.

    Attributes:
        limits: what the service takes, as far as is known.
        is_same_model: whether all that answered so far compute the same logits.
    """

    # What messages call the service.
    name: str

    def __init__(
        self,
        session: ServiceSession[MessageT, ReplyT],
        telemetry: Telemetry,
        *,
        model: common_pb2.ModelInfo,
        describe: Callable[[], Awaitable[common_pb2.ModelInfo]],
        patience_s: float,
        require_exact: bool = False,
    ) -> None:
        """Go on with `session`, whose service serves `model`.

        `describe` asks it again what it serves, after it was away. `patience_s` is how long one that is away is waited
        for, in each request.
        """
        self.is_same_model = True
        self.limits = Limits.of(model)
        self._model = model
        self._describe = describe
        self._require_exact = require_exact
        self._was_away = False
        self._session = session
        self._telemetry = telemetry
        self._patience_s = patience_s

    @property
    def num_resyncs(self) -> int:
        """Times that the service had to be brought back to the sequence."""
        return self._session.num_resyncs

    async def _answer(self, span: Span, attempt: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Return what an attempt comes to, once one succeeds with whoever the service is then.

        Raises:
            ServiceError: the service refused, or was away for longer than the patience lasts.
            ContextFullError: no message holds the sequence.
        """
        retry_s = _FIRST_RETRY_S
        until_s: float | None = None
        while True:
            try:
                if self._was_away or self._session.has_broken:
                    await self._recognize(span)
                return await attempt()
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
                span.add_event(f"outrider.{self.name}_retry", {"outrider.reason": error.message})
            self._was_away = True
            self._session.forget()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    def _room(self, length: int) -> int:
        """Return how many tokens the service takes after so many and its own one. Raises ContextFullError."""
        room = self.limits.context_length - length - 1
        if room < 0:
            sentence = f"the prompt has {length} tokens, the {self.name} holds {self.limits.context_length} now"
            raise ContextFullError(sentence)
        return min(self.limits.max_draft_tokens, room)

    async def _recognize(self, span: Span) -> None:
        """Find out whether the one that is back is the one that was away. Raises ServiceError where it is no use."""
        try:
            model = await self._describe()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        self._was_away = self._session.has_broken = False
        self.limits = Limits.of(model)
        if model.tokenizer_fingerprint != self._model.tokenizer_fingerprint:
            raise ServiceError(
                grpc.StatusCode.ABORTED,
                "TARGET_REPLACED",
                f"the {self.name} came back with another tokenizer: start again",
            )
        if model.numerics_fingerprint != self._model.numerics_fingerprint:
            span.add_event(f"outrider.{self.name}_changed", {"outrider.model": model.name})
            self.is_same_model = False
            if self._require_exact:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "EXACT_UNAVAILABLE",
                    f"the {self.name} came back with other numerics, so the rest of the text would not be exact",
                )

    def _is_worth_another_try(self, error: ServiceError) -> bool:
        """Whether it may answer yet: it is away or busy, or a proxy has cut the stream, whatever its status."""
        return error.code in _RETRIED or self._session.was_cut(error)

    def _unavailable(self, error: ServiceError) -> ServiceError:
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error
        return target_unavailable(f"the {self.name} has been away for {self._patience_s:g} s: {error.message}")


def is_too_large(error: ServiceError) -> bool:
    """Whether gRPC refused a message for its size; it has no reason of its own for that."""
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in error.message


def too_large(error: ServiceError) -> ServiceError:
    """Return the error of a request whose tokens no message to or from the service holds."""
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "PROMPT_TOO_LONG",
        f"prompt and text do not fit into a message of --max-message-bytes: {error.message}",
    )


def target_unavailable(sentence: str) -> ServiceError:
    """Return the error of a request that waited in vain for the model that is to answer."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", sentence, retry_after_s=_LAST_RETRY_S)
