"""A server that ends calls while their clients write."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_status import rpc_status

from services.frame.rpc.errors import ServiceError


class EndingServer:
    """Answers a stream's first message with `reply`, and ends the stream when it is told to."""

    def __init__(self, error: ServiceError | None, reply: bytes) -> None:
        self.address = ""
        self._error = error
        self._reply = reply
        self._may_end, self._has_ended = threading.Event(), threading.Event()

    def end(self) -> None:
        """End the stream that was answered last; block the event loop meanwhile, so that its client does not know."""
        self._may_end.set()
        assert self._has_ended.wait(30)
        self._may_end.clear()
        self._has_ended.clear()

    def duplex(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        next(iter(requests))
        context.add_callback(self._has_ended.set)
        yield self._reply
        self._end(context)

    def collector(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        next(iter(requests))
        context.add_callback(self._has_ended.set)
        self._end(context)
        return self._reply

    def _end(self, context: grpc.ServicerContext) -> None:
        assert self._may_end.wait(30)
        if self._error is not None:
            context.abort_with_status(rpc_status.to_status(self._error.to_status()))


@contextmanager
def ending_server(error: ServiceError | None = None, reply: bytes = b"") -> Iterator[EndingServer]:
    """Serve `/test.Ending/Duplex` and `/test.Ending/Collector`, from threads; `error` None ends streams well."""
    ending = EndingServer(error, reply)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_registered_method_handlers(
        "test.Ending",
        {
            "Duplex": grpc.stream_stream_rpc_method_handler(ending.duplex),
            "Collector": grpc.stream_unary_rpc_method_handler(ending.collector),
        },
    )
    ending.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield ending
    finally:
        server.stop(None).wait()
