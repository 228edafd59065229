"""The frame around every method of a service: readiness, requests under way, and errors as rich statuses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from services.frame.program.api_keys import ApiKeys, bearer_key, caller_name
from services.frame.rpc.errors import METADATA_WAIT, REASON_NOT_READY, ServiceError, abort

# The parameters that generated stubs give ServicerContext are those of iterators and awaitables, not of messages.
RpcContext: TypeAlias = grpc.aio.ServicerContext[Any, Any]
UnaryBehavior: TypeAlias = Callable[[Any, RpcContext], Awaitable[Any]]
StreamBehavior: TypeAlias = Callable[[Any, RpcContext], AsyncGenerator[Any, None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

RETRY_WHILE_LOADING_S = 1.0

# By (request is a stream, response is a stream). Untyped, as the types describe synchronous servers only.
_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class HandlerRegistry(grpc.GenericRpcHandler):
    """The handlers of a server's methods. They may be added after it has started, as a model takes its time to load.

    Until `is_open`, and again while draining, every method is answered UNAVAILABLE with reason NOT_READY. During the
    start its message and metadata name `wait`, what takes so long, as in "loading a.gguf (30 MiB)".

    With `keys`, callers without one of them are answered UNAUTHENTICATED, whatever they call. A stream is asked once.

    Behaviours are coroutines or asynchronous generators; what they raise becomes the call's status, see `errors.abort`.
    Where requests and answers are streams, the headers go out before the first request is read: a client may wait for
    them before it sends one.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.is_draining = False
        self.wait = ""
        self.keys: ApiKeys | None = None
        self._handlers: dict[str, Handler] = {}
        self._num_under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._not_ready_refusal = _refusal(self._not_ready)
        self._keyless_refusal = _refusal(_no_key)

    @property
    def num_under_way(self) -> int:
        """Calls that have begun and not ended; a stream counts as one."""
        return self._num_under_way

    async def wait_idle(self) -> None:
        """Return once no call is under way."""
        await self._idle.wait()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count a call that came by another way than gRPC. Raises ServiceError where none may begin."""
        if not self.is_open or self.is_draining:
            raise self._not_ready()
        self._count_up()
        try:
            yield
        finally:
            self._count_down()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call; None makes gRPC answer UNIMPLEMENTED."""
        if self.keys is not None:
            name = self.keys.name_of(_shown_key(handler_call_details))
            if name is None:
                return self._keyless_refusal
            # The task is the call's own.
            caller_name.set(name)
        if not self.is_open or self.is_draining:
            return self._not_ready_refusal
        return self._handlers.get(handler_call_details.method)

    def as_server(self) -> grpc.aio.Server:
        """Return this registry in the place of a server, for generated `add_..._to_server` functions."""
        return cast(grpc.aio.Server, self)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Add the handlers of one service; generated `add_..._to_server` functions call this."""
        for method, handler in method_handlers.items():
            path = f"/{service_name}/{method}"
            self._handlers[path] = self._framed(path, handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Ignore them: generated code hands over the same handlers once more, in the older way."""

    def _not_ready(self) -> ServiceError:
        if self.is_draining:
            return ServiceError(grpc.StatusCode.UNAVAILABLE, REASON_NOT_READY, "the service is stopping")
        return ServiceError(
            grpc.StatusCode.UNAVAILABLE,
            REASON_NOT_READY,
            "the service is still starting" + (f": {self.wait}" if self.wait else ""),
            metadata={METADATA_WAIT: self.wait} if self.wait else None,
            retry_after_s=RETRY_WHILE_LOADING_S,
        )

    def _framed(self, path: str, handler: Handler) -> Handler:
        """Return `handler` with its behaviour wrapped. Raises TypeError for a behaviour that would block the loop."""
        attribute, make = _KINDS[handler.request_streaming, handler.response_streaming]
        behavior = getattr(handler, attribute)
        is_duplex = handler.request_streaming and handler.response_streaming
        framed: UnaryBehavior | StreamBehavior
        if inspect.iscoroutinefunction(behavior):
            framed = self._framed_coroutine(behavior, is_duplex=is_duplex)
        elif handler.response_streaming and inspect.isasyncgenfunction(behavior):
            framed = self._framed_generator(behavior, is_duplex=is_duplex)
        else:
            raise TypeError(f"{path} must be a coroutine function, or an asynchronous generator function if it streams")
        wrapped: Handler = make(framed, _deserializer(handler), handler.response_serializer)
        return wrapped

    def _framed_coroutine(self, behavior: UnaryBehavior, *, is_duplex: bool) -> UnaryBehavior:
        """Wrap a coroutine: one that returns its answer, or one that writes its answers to the context."""

        async def framed(request: Any, context: RpcContext) -> Any:
            self._count(context)
            try:
                await self._begin(request, context, is_duplex=is_duplex)
                return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, error)

        return framed

    def _framed_generator(self, behavior: StreamBehavior, *, is_duplex: bool) -> StreamBehavior:
        async def framed(request: Any, context: RpcContext) -> AsyncGenerator[Any, None]:
            self._count(context)
            try:
                await self._begin(request, context, is_duplex=is_duplex)
                # Closed here and now when the caller vanishes between two replies, not when garbage is collected.
                async with aclosing(behavior(request, context)) as replies:
                    async for reply in replies:
                        yield reply
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, error)

        return framed

    async def _begin(self, request: Any, context: RpcContext, *, is_duplex: bool) -> None:
        """Let a call begin, unless it cannot be served.

        Raises ServiceError where `_deserializer` could not read the request, and where the server began to stop between
        the call and its request: nobody waits for such a call, and it would be cut off in the middle.
        """
        if self.is_draining:
            raise self._not_ready()
        if isinstance(request, ServiceError):
            raise request
        if is_duplex:
            await context.send_initial_metadata(())

    def _count(self, context: RpcContext) -> None:
        """Count a call until its status is sent, which is after its behaviour has returned."""
        self._count_up()
        # The stubs describe the callback as a class and not as a protocol.
        context.add_done_callback(self._count_down)  # type: ignore[arg-type]

    def _count_up(self) -> None:
        self._num_under_way += 1
        self._idle.clear()

    def _count_down(self, _: object = None) -> None:
        self._num_under_way -= 1
        if self._num_under_way == 0:
            self._idle.set()


def _refusal(describe: Callable[[], ServiceError]) -> Handler:
    """Return the handler of calls that end with an error.

    A stream on both sides fits calls of every kind: nothing is read, and only a status is sent.
    """

    async def refuse(requests: AsyncIterator[bytes], context: RpcContext) -> None:
        await abort(context, describe())

    handler: Handler = _KINDS[True, True][1](refuse)
    return handler


def _shown_key(details: grpc.HandlerCallDetails) -> str:
    """Return the key that a call came with, empty where there is none."""
    values = (value for key, value in details.invocation_metadata or () if key == "authorization")
    return next((bearer_key(value) for value in values if isinstance(value, str)), "")


def _no_key() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAUTHENTICATED,
        "INVALID_API_KEY",
        "the call has no key that this server takes: send one as metadata, authorization: Bearer KEY",
    )


def _deserializer(handler: Handler) -> Callable[[bytes], Any] | None:
    """Return a handler's deserializer, which answers a message that cannot be read like any bad request.

    On a stream it raises, and so does the behaviour's next read. A single request is read where only gRPC could answer,
    so the error is returned in the place of the request.
    """
    deserialize = handler.request_deserializer
    if deserialize is None:
        return None

    def deserialize_or_refuse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            refusal = _unreadable(error)
            if handler.request_streaming:
                raise refusal from error
            return refusal

    return deserialize_or_refuse


def _unreadable(error: DecodeError) -> ServiceError:
    if "UTF-8" in str(error):
        return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_UTF8", "a text of the request is not UTF-8")
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "the request is not a message of this method"
    )
