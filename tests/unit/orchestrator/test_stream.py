"""A stream to a service, and what its end is taken for."""

import grpc
import pytest

from orchestrator.stream import SessionStream
from services.frame.errors import ServiceError


class EndedCall:
    """A call whose server has gone: what is written is lost, and the status is what grpc.aio makes of that."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    async def write(self, message: object) -> None:
        raise grpc.aio.AioRpcError(self._code, grpc.aio.Metadata(), grpc.aio.Metadata(), self._details)

    async def read(self) -> object:
        return grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return self._code

    async def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.INTERNAL, "Internal error from Core", grpc.StatusCode.UNAVAILABLE),
        (grpc.StatusCode.INTERNAL, "the service failed", grpc.StatusCode.INTERNAL),
        (grpc.StatusCode.UNAVAILABLE, "connection reset", grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_a_status_lost_to_a_failed_write_is_a_server_that_is_away(
    code: grpc.StatusCode, details: str, expected: grpc.StatusCode
) -> None:
    stream: SessionStream[object, object] = SessionStream(lambda: EndedCall(code, details))
    with pytest.raises(ServiceError) as caught:
        await stream.ask(1, object(), None)
    assert caught.value.code is expected
    assert stream.has_broken
