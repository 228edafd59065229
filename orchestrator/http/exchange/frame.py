"""What every request passes: refused while nothing is served, counted while under way, and its defects told."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.http.exchange.errors import ClientGoneError, error_response, stopping
from services.frame.rpc.errors import as_service_error

# Answered from the first moment to the last: these paths, and that of the page itself.
ALWAYS_SERVED = ("/health", "/docs", "/openapi.json", "/metrics", "/page/")


class RequestFrame:
    """An ASGI middleware, outside of which no exception gets but those of a client that has vanished."""

    def __init__(self, app: ASGIApp, counting: Callable[[], AbstractContextManager[None]], max_body_bytes: int) -> None:
        """`counting` gives the block in which a request is under way; it raises ServiceError where none may begin."""
        self._app = app
        self._counting = counting
        self._max_body_bytes = max_body_bytes

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
            is_always_served = path == "/" or path.startswith(ALWAYS_SERVED)
            with nullcontext() if is_always_served else self._counting():
                await self._app(scope, self._limited(scope, receive), sending)
        except asyncio.CancelledError:
            # By the end of the server alone.
            if not has_begun:
                await error_response(stopping(), path)(scope, receive, send)
        except ClientGoneError:
            return
        except Exception as error:
            told = as_service_error(error)
            if not has_begun:
                await error_response(told, path)(scope, receive, send)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return `receive`, which raises HTTPException where the body is too large, before it is read if it says so."""
        num_bytes = 0
        (announced,) = [value for name, value in scope["headers"] if name == b"content-length"][:1] or [b"0"]

        async def receiving() -> Message:
            nonlocal num_bytes
            if int(announced) > self._max_body_bytes:
                raise self._too_large()
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        return receiving

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"the body has more than {self._max_body_bytes} bytes, which --max-message-bytes allows"
        )
