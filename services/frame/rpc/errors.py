"""Errors with a gRPC status, a stable reason and details, for those who raise them and those who get them.

A `ServiceError` travels as a `google.rpc.Status`: in the trailers of a call that ends with it, or inside a reply of a
stream that goes on.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

ERROR_DOMAIN = "outrider"
REASON_INTERNAL = "INTERNAL"
REASON_NOT_READY = "NOT_READY"
# The key in the metadata of NOT_READY under which a service that is starting says what it is at.
METADATA_WAIT = "wait"

# In bytes of UTF-8. gRPC drops trailers beyond 8 KB, and the reason with them. The message goes out twice, once with
# percent signs, which make three bytes of one.
MAX_MESSAGE_LENGTH = 1024
MAX_METADATA_LENGTH = 128

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FieldViolation:
    """A field of a request, as a path with dots, and the rule that it breaks."""

    field: str
    description: str


class ServiceError(Exception):
    """An error that a caller can act on: `reason` is stable and in UPPER_SNAKE, `message` says what to change.

    `retry_after_s` tells the caller when trying again makes sense, `metadata` carries the figures of the message.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        field_violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.field_violations = tuple(field_violations)

    def to_status(self) -> status_pb2.Status:
        """Return the error with ErrorInfo, and RetryInfo and BadRequest where they apply. Long texts are cut."""
        number: int = self.code.value[0]
        status = status_pb2.Status(code=number, message=_cut(self.message, MAX_MESSAGE_LENGTH))
        metadata = {key: _cut(value, MAX_METADATA_LENGTH) for key, value in self.metadata.items()}
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=ERROR_DOMAIN, metadata=metadata)
        status.details.add().Pack(info)
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMicroseconds(round(self.retry_after_s * 1e6))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.field_violations:
            bad_request = error_details_pb2.BadRequest()
            for violation in self.field_violations:
                description = _cut(violation.description, MAX_METADATA_LENGTH)
                bad_request.field_violations.add(field=violation.field, description=description)
            status.details.add().Pack(bad_request)
        return status


def invalid_argument(reason: str, field: str, message: str, **metadata: str) -> ServiceError:
    """Return an INVALID_ARGUMENT error about one field of a request."""
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        message,
        metadata=metadata,
        field_violations=[FieldViolation(field, message)],
    )


def as_service_error(error: Exception) -> ServiceError:
    """Return a ServiceError as it is; log any other with its traceback and return an INTERNAL one that refers to it.

    The caller learns a reference and no more: texts of unexpected exceptions may hold paths or other callers' data.
    """
    if isinstance(error, ServiceError):
        return error
    reference = uuid.uuid4().hex[:12]
    _logger.error("unexpected error %s", reference, exc_info=error)
    message = f"the service failed unexpectedly; its log tells more under {reference}"
    return ServiceError(grpc.StatusCode.INTERNAL, REASON_INTERNAL, message, metadata={"reference": reference})


def error_type(error: BaseException) -> str:
    """Return the `error.type` of traces and metrics: the reason of a ServiceError, the full name of any other.

    A request that is given up ends with exceptions of Python's own, which are all CANCELLED.
    """
    if isinstance(error, ServiceError):
        return error.reason
    return "CANCELLED" if isinstance(error, asyncio.CancelledError | GeneratorExit) else full_name(type(error))


def full_name(kind: type[BaseException]) -> str:
    """Return the name of an exception with its module, without one for Python's own, as OpenTelemetry names them."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def status_of(error: Exception) -> status_pb2.Status:
    """Return what a reply inside a stream says about `error`; see `as_service_error`."""
    return as_service_error(error).to_status()


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End the call with the status of `error`, details in its trailers; see `as_service_error`."""
    status = rpc_status.to_status(status_of(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def error_from_status(status: status_pb2.Status) -> ServiceError:
    """Return the error that a reply inside a stream carries.

    One without our details keeps its code and message and gets the reason `RPC_` and the name of its code.
    """
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, metadata = f"RPC_{code.name}", {}
    retry_after_s: float | None = None
    violations: list[FieldViolation] = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMicroseconds() / 1e6
        elif detail.Unpack(bad_request):
            violations += [FieldViolation(each.field, each.description) for each in bad_request.field_violations]
    return ServiceError(
        code, reason, status.message, metadata=metadata, retry_after_s=retry_after_s, field_violations=violations
    )


def is_from_server(error: grpc.aio.AioRpcError) -> bool:
    """Whether one of our servers ended the call, and not gRPC, which reached nobody, a proxy or another program."""
    return _details(error) is not None


def error_from_rpc(error: grpc.aio.AioRpcError) -> ServiceError:
    """Return the error that ended a call; see `error_from_status`."""
    status = _details(error)
    if status is None:
        number: int = error.code().value[0]
        status = status_pb2.Status(code=number, message=error.details() or "")
    return error_from_status(status)


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        # The stubs know the synchronous call only, which has the same three methods.
        status: status_pb2.Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]
    except ValueError:
        # Details that contradict the call's own code or message: trust the call.
        return None
    return status


def _cut(text: str, length: int) -> str:
    encoded = text.encode(errors="backslashreplace")
    return encoded.decode() if len(encoded) <= length else encoded[: length - 3].decode(errors="ignore") + "..."
