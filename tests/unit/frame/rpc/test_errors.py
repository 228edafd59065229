import logging

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.frame.rpc.errors import (
    ERROR_DOMAIN,
    FieldViolation,
    ServiceError,
    error_from_rpc,
    error_from_status,
    invalid_argument,
    status_of,
)

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_every_code_survives_the_way_through_a_status(code: grpc.StatusCode) -> None:
    status = ServiceError(code, "QUEUE_FULL", "try later").to_status()
    assert status.code == code.value[0]
    error = error_from_status(status)
    assert (error.code, error.reason, error.message) == (code, "QUEUE_FULL", "try later")
    assert (error.retry_after_s, error.metadata, error.field_violations) == (None, {}, ())


def test_details_survive_the_way_through_a_status() -> None:
    violations = [FieldViolation("sampling.top_p", "must be above 0"), FieldViolation("seed", "is missing")]
    status = ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        "32 requests are waiting",
        metadata={"waiting": "32"},
        retry_after_s=0.25,
        field_violations=violations,
    ).to_status()
    kinds = {detail.type_url.rpartition(".")[2] for detail in status.details}
    assert kinds == {"ErrorInfo", "RetryInfo", "BadRequest"}
    error = error_from_status(status)
    assert error.metadata == {"waiting": "32"}
    assert error.retry_after_s == 0.25
    assert list(error.field_violations) == violations


def test_the_domain_is_ours() -> None:
    info = error_details_pb2.ErrorInfo()
    assert ServiceError(grpc.StatusCode.ABORTED, "SUPERSEDED", "late").to_status().details[0].Unpack(info)
    assert info.domain == ERROR_DOMAIN == "outrider"


def test_an_invalid_argument_names_its_field() -> None:
    error = invalid_argument("INVALID_SAMPLING", "sampling.top_p", "top_p is 2, but must be at most 1", top_p="2")
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.metadata == {"top_p": "2"}
    assert error.field_violations == (FieldViolation("sampling.top_p", "top_p is 2, but must be at most 1"),)


@pytest.mark.parametrize("letter", ["x", "%", "é", "日", "😀"])
def test_long_texts_are_cut_so_that_trailers_are_not_dropped(letter: str) -> None:
    text = letter * 100_000
    violations = [FieldViolation("text", text)]
    status = ServiceError(
        grpc.StatusCode.INTERNAL, "X", text, metadata={"text": text}, field_violations=violations
    ).to_status()
    # Once in the details, in base64, once percent-encoded as the message: 8 KB is what peers take.
    assert status.ByteSize() * 4 / 3 + 3 * len(status.message.encode()) < 8192
    assert status.message.endswith(f"{letter}...")


def test_a_text_that_is_no_utf_8_is_told_all_the_same() -> None:
    assert ServiceError(grpc.StatusCode.INTERNAL, "X", "\udcff.gguf").to_status().message == "\\udcff.gguf"


def test_an_unexpected_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise KeyError("/home/somebody/secret")
        except KeyError as error:
            status = status_of(error)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    told = error_from_status(status)
    assert told.reason == "INTERNAL"
    assert "secret" not in str(status)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret" in caplog.text
    assert told.metadata["reference"] in caplog.text
    assert told.metadata["reference"] in told.message


def test_an_expected_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    status_of(ServiceError(grpc.StatusCode.ABORTED, "SUPERSEDED", "late"))
    assert caplog.records == []


def test_a_status_without_details_keeps_code_and_message() -> None:
    error = error_from_status(status_pb2.Status(code=8, message="too much"))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RPC_RESOURCE_EXHAUSTED")
    assert error.message == "too much"


def test_a_reason_of_another_domain_is_not_taken_for_ours() -> None:
    status = status_pb2.Status(code=14, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NOT_READY", domain="example.org"))
    assert error_from_status(status).reason == "RPC_UNAVAILABLE"


def test_an_unknown_code_is_unknown() -> None:
    assert error_from_status(status_pb2.Status(code=999)).code is grpc.StatusCode.UNKNOWN


def rpc_error(code: grpc.StatusCode, message: str, status: status_pb2.Status | None) -> grpc.aio.AioRpcError:
    trailers = [] if status is None else [("grpc-status-details-bin", status.SerializeToString())]
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), message)


def test_an_rpc_error_without_details_keeps_code_and_message() -> None:
    error = error_from_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused", None))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "RPC_UNAVAILABLE")
    assert error.message == "connection refused"


def test_details_that_contradict_the_call_are_not_believed() -> None:
    other = ServiceError(grpc.StatusCode.ABORTED, "SUPERSEDED", "late").to_status()
    error = error_from_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE, "gone", other))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.UNAVAILABLE, "RPC_UNAVAILABLE", "gone")
