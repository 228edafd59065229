"""grpc.health.v1: for a server that stops gracefully, and for clients of such servers.

The servicer of grpcio-health-checking never ends a watch, so that a graceful stop would use up all of its time wherever
somebody watches. Ours sends NOT_SERVING and ends the watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.frame.rpc.handlers import RpcContext

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):
    """Tells the health of named services; the empty name is the server as a whole."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._is_ending = False
        # Replaced at every change, so that each watch waits for the next change after the one it knows.
        self._changed = asyncio.Event()

    def set(self, service: str, is_serving: bool) -> None:
        """Set the health of a service, unless `end` was called."""
        if not self._is_ending:
            self._statuses[service] = SERVING if is_serving else NOT_SERVING
            self._notify()

    def end(self) -> None:
        """Set everything to NOT_SERVING for good; every watch ends with that."""
        self._is_ending = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._notify()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: RpcContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer with the health of one service, NOT_FOUND for an unknown one."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: object, context: RpcContext) -> Any:
        """Answer with the health of everything, by name."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # the stubs are older

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: RpcContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Stream the health of one service: at once, and at every change."""
        sent: int | None = None
        while True:
            # Read at one moment: all of it may change while the answer is on its way.
            changed, is_ending = self._changed, self._is_ending
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
            if is_ending:
                return
            await changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def check_health(
    channel: grpc.aio.Channel, service: str, timeout_s: float | None = None, *, wait_for_ready: bool = False
) -> bool:
    """Return whether a service says that it serves. With `wait_for_ready` it waits until somebody can be reached.

    Raises AioRpcError: NOT_FOUND or UNIMPLEMENTED where another program answers, anything else where nobody does.
    """
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    request = health_pb2.HealthCheckRequest(service=service)
    response = await check(request, timeout=timeout_s, wait_for_ready=wait_for_ready)
    return response.status == SERVING


async def watch_health(channel: grpc.aio.Channel, service: str) -> AsyncIterator[bool]:
    """Yield whether a service says that it serves, at once and at every change.

    Ends when the server stops gracefully; raises AioRpcError when it is lost or cannot be reached.
    """
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    async for response in watch(health_pb2.HealthCheckRequest(service=service)):
        yield response.status == SERVING
