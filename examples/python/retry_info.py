"""When a server wants a call that failed to be tried again."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def retry_delay_s(error: grpc.aio.AioRpcError) -> float | None:
    """Return the seconds in the error's `google.rpc.RetryInfo`; None where the server names none."""
    # The stubs know the synchronous call only, which has the same methods.
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    retry = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta().total_seconds()
    return None
