"""What every request passes: refused while nothing is served, counted while under way, and its defects told."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import grpc
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.http.exchange.errors import error_response
from services.frame.rpc.errors import REASON_NOT_READY, ServiceError, as_service_error

# Answered from the first moment to the last.
ALWAYS_SERVED = ("/health", "/docs", "/openapi.json", "/metrics")


class RequestFrame:
    """An ASGI middleware, outside of which no exception gets but those of a client that has vanished."""

    def __init__(self, app: ASGIApp, counting: Callable[[], AbstractContextManager[None]]) -> None:
        """`counting` gives the block in which a request is under way; it raises ServiceError where none may begin."""
        self._app = app
        self._counting = counting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        path: str = scope["path"]
        try:
            with nullcontext() if path.startswith(ALWAYS_SERVED) else self._counting():
                await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            # By the end of the server alone.
            if not has_begun:
                await error_response(stopping(), path)(scope, receive, send)
        except Exception as error:
            told = as_service_error(error)
            if not has_begun:
                await error_response(told, path)(scope, receive, send)


def stopping() -> ServiceError:
    """Return the error of a request that the end of the server has cut off."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, REASON_NOT_READY, "the service is stopping")
