"""Errors as HTTP tells them: one table of statuses, and the form of OpenAI's API or of Anthropic's."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grpc
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from services.frame.rpc.errors import REASON_NOT_READY, FieldViolation, ServiceError, invalid_argument

# By the code that a gRPC client would get; all others are defects.
_STATUSES: Mapping[grpc.StatusCode, int] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: 400,
        grpc.StatusCode.OUT_OF_RANGE: 400,
        grpc.StatusCode.FAILED_PRECONDITION: 400,
        grpc.StatusCode.UNIMPLEMENTED: 400,
        grpc.StatusCode.UNAUTHENTICATED: 401,
        grpc.StatusCode.PERMISSION_DENIED: 403,
        grpc.StatusCode.NOT_FOUND: 404,
        grpc.StatusCode.DEADLINE_EXCEEDED: 408,
        grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
        grpc.StatusCode.ABORTED: 503,
        grpc.StatusCode.CANCELLED: 503,
        grpc.StatusCode.UNAVAILABLE: 503,
    }
)
# The type of an error to OpenAI's clients, as llama-server has it, and to Anthropic's.
_TYPES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        400: ("invalid_request_error", "invalid_request_error"),
        401: ("authentication_error", "authentication_error"),
        403: ("permission_error", "permission_error"),
        404: ("not_found_error", "not_found_error"),
        405: ("invalid_request_error", "invalid_request_error"),
        408: ("timeout_error", "timeout_error"),
        413: ("invalid_request_error", "request_too_large"),
        429: ("rate_limit_error", "rate_limit_error"),
        500: ("server_error", "api_error"),
        503: ("unavailable_error", "overloaded_error"),
    }
)
# Reasons for which clients look by another name.
_CODES: Mapping[str, str] = MappingProxyType(
    {"PROMPT_TOO_LONG": "context_length_exceeded", "MODEL_UNKNOWN": "model_not_found"}
)
# When to come again, where the error does not say so.
_RETRY_AFTER_S = 1.0
_ANTHROPIC = "/v1/messages"
_WITHOUT_VERSION = ("/chat/completions", "/completions", "/responses", "/models")
_NO_OBJECT = "the body is to be a JSON object, sent with content-type: application/json"


class ClientGoneError(Exception):
    """The client has vanished: nobody is to be answered."""


def stopping() -> ServiceError:
    """Return the error of a request that the end of the server has cut off."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, REASON_NOT_READY, "the service is stopping")


def status_of(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    return _STATUSES.get(error.code, 500)


def error_body(error: ServiceError, path: str, status: int | None = None) -> dict[str, Any]:
    """Return what an error looks like to clients of the API that `path` belongs to."""
    openai, anthropic = _TYPES.get(status or status_of(error), _TYPES[500])
    fields = [violation.field for violation in error.field_violations if violation.field]
    message = error.message
    # Clients show nothing but the sentence.
    if fields and fields[0].rpartition(".")[2] not in message:
        message = f"{fields[0]}: {message}"
    if _ANTHROPIC in path:
        return {"type": "error", "error": {"type": anthropic, "message": message}}
    code = _CODES.get(error.reason, error.reason.lower())
    return {"error": {"message": message, "type": openai, "param": fields[0] if fields else None, "code": code}}


def error_response(error: ServiceError, path: str) -> Response:
    """Return the answer to a request that was refused, or failed before its answer began."""
    status = status_of(error)
    headers = {}
    if status in (429, 503):
        headers["retry-after"] = str(math.ceil(error.retry_after_s or _RETRY_AFTER_S))
    return JSONResponse(error_body(error, path), status, headers)


def http_error_response(error: HTTPException, path: str) -> Response:
    """Return the answer to a request that is refused before an API sees it: no such path or method, a bad body."""
    if isinstance(error.__cause__, ServiceError):
        return error_response(error.__cause__, path)
    reasons = {400: "INVALID_JSON", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE"}
    reason = reasons.get(error.status_code, "INVALID_REQUEST")
    sentence = _nothing_at(path) if error.status_code == 404 else str(error.detail)
    told = ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, sentence)
    return JSONResponse(error_body(told, path, error.status_code), error.status_code, error.headers)


def _nothing_at(path: str) -> str:
    """Return what is said of a path that does not exist: most often a client has a base URL of another form."""
    hint = ""
    if path.startswith("/v1/v1/"):
        hint = ": this client adds /v1 to its base URL by itself"
    elif path in _WITHOUT_VERSION:
        hint = ": the base URL of OpenAI's clients ends with /v1"
    return f"nothing is served at {path}{hint}"


def unsupported(field: str, sentence: str = "") -> ServiceError:
    """Return the refusal of a field, or of a value of it, that is not served."""
    return invalid_argument("UNSUPPORTED_FIELD", field, sentence or f"{field} is not supported")


def validation_error(error: RequestValidationError) -> ServiceError:
    """Return the problem that pydantic found deepest in the request as an error. What it held is not repeated."""
    problems = [(path_in(error.body, each), each) for each in error.errors()]
    deepest = max(len(path) for path, _ in problems)
    # Several where a field can be one of several kinds of value.
    path, first = next((path, each) for path, each in problems if len(path) == deepest)
    field, kind = path_of(path), first["type"]
    if kind in ("extra_forbidden", "unsupported"):
        return unsupported(field)
    if kind == "missing":
        return invalid_argument("INVALID_REQUEST", field, f"{field} is needed" if field else _NO_OBJECT)
    if not field:
        return invalid_argument("INVALID_REQUEST", "", _NO_OBJECT)
    said = {str(each["msg"]).removeprefix("Value error, "): None for other, each in problems if other == path}
    sentence = " or ".join(each[:1].lower() + each[1:] for each in said)
    return invalid_argument("INVALID_REQUEST", field, f"{field}: {sentence}")


def path_in(body: Any, problem: Mapping[str, Any]) -> list[str | int]:
    """Return where in the body a problem is: pydantic's place less the kinds of value that it tried there."""
    path: list[str | int] = []
    *within, last = [part for part in problem["loc"] if part != "body"] or [""]
    for part in within:
        if _has(body, part):
            path.append(part)
            body = body[part]
    if last != "" and (_has(body, last) or problem["type"] == "missing"):
        path.append(last)
    return path


def _has(body: Any, part: str | int) -> bool:
    if isinstance(body, list):
        return isinstance(part, int) and part < len(body)
    return isinstance(body, dict) and part in body


def path_of(place: Sequence[str | int]) -> str:
    """Return the path of a field, as in `messages[0].content`."""
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def renamed(error: ServiceError, names: Mapping[str, str]) -> ServiceError:
    """Return an error of the service with its fields as the HTTP API has them.

    `names` has the new beginnings by the old ones; the first that fits counts.
    """
    violations = error.field_violations
    error.field_violations = tuple(FieldViolation(_renamed(each.field, names), each.description) for each in violations)
    return error


def _renamed(field: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if field.startswith(old):
            return new + field.removeprefix(old)
    return field
