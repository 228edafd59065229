"""Statuses of errors, in the two forms that clients know."""

import grpc
import pytest

from orchestrator.http.exchange.errors import error_body, error_response
from services.frame.rpc.errors import ServiceError
from tests.unit.orchestrator.http.scripted_face import chunk, face

COMPLETION = {"prompt": "Hello"}


@pytest.mark.parametrize(
    ("code", "reason", "status", "told"),
    [
        (grpc.StatusCode.OUT_OF_RANGE, "PROMPT_TOO_LONG", 400, "context_length_exceeded"),
        (grpc.StatusCode.FAILED_PRECONDITION, "CHAT_TEMPLATE", 400, "chat_template"),
        (grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY", 401, "unknown_key"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "UNREAD", 408, "unread"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 429, "queue_full"),
        (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", 503, "target_unavailable"),
        (grpc.StatusCode.ABORTED, "TARGET_REPLACED", 503, "target_replaced"),
        (grpc.StatusCode.INTERNAL, "DECODE_FAILED", 500, "decode_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_answer_is_its_status(
    code: grpc.StatusCode, reason: str, status: int, told: str, stream: bool
) -> None:
    async with face(lambda request: [ServiceError(code, reason, "a sentence")]) as made:
        answer = await made.post("/v1/completions", COMPLETION | {"stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, told)
    assert answer.json()["error"]["message"] == "a sentence"
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_when_to_come_again_is_told_in_whole_seconds() -> None:
    error = ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", retry_after_s=1.2)
    assert error_response(error, "").headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request_error"),
        (grpc.StatusCode.NOT_FOUND, "not_found_error"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limit_error"),
        (grpc.StatusCode.UNAVAILABLE, "overloaded_error"),
        (grpc.StatusCode.INTERNAL, "api_error"),
    ],
)
def test_errors_to_clients_of_anthropic(code: grpc.StatusCode, kind: str) -> None:
    told = error_body(ServiceError(code, "REASON", "a sentence"), "/v1/messages/count_tokens")
    assert told == {"type": "error", "error": {"type": kind, "message": "a sentence"}}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_defect_is_told_without_what_it_holds(stream: bool) -> None:
    async with face(lambda request: [KeyError("secret")]) as made:
        answer = await made.post("/v1/completions", COMPLETION | {"stream": stream})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "its log tells more" in answer.json()["error"]["message"]


async def test_an_error_after_the_answer_has_begun_is_its_last_event() -> None:
    error = ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "the target is away")
    async with face(lambda request: [chunk("Hello"), error]) as made:
        answer = await made.post("/v1/completions", COMPLETION | {"stream": True})
    assert answer.status_code == 200
    *_, last, end = answer.text.split("\n\n")
    assert '"code":"target_unavailable"' in last
    assert end == ""


async def test_one_of_several_choices_that_fails_ends_all() -> None:
    error = ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "the target is away")
    async with face(lambda request: [error]) as made:
        answer = await made.post("/v1/completions", {"prompt": ["a", "b", "c"]})
        assert answer.status_code == 503
        assert made.service.num_active == 0
