"""Channels whose calls carry an API key, with TLS and without.

gRPC's own call credentials are for TLS alone, and its interceptors stand between a stream and every message of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, cast

import grpc

from services.frame.program.api_keys import SCHEME

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def keyed(channel: grpc.aio.Channel, read_key: Callable[[], str]) -> grpc.aio.Channel:
    """Return a channel like `channel` whose calls carry the key, read anew for each."""
    return cast(grpc.aio.Channel, _KeyedChannel(channel, read_key))


class _KeyedChannel:
    def __init__(self, channel: grpc.aio.Channel, read_key: Callable[[], str]) -> None:
        self._channel = channel
        self._read_key = read_key

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        return self._keyed(found) if name in _KINDS else found

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.__aexit__(kind, error, traceback)

    def _keyed(self, make: Callable[..., Callable[..., Any]]) -> Callable[..., Callable[..., Any]]:
        """Wrap what makes the callable of a method, so that its calls carry the key."""

        def make_keyed(*arguments: Any, **options: Any) -> Callable[..., Any]:
            method = make(*arguments, **options)

            def call(*request: Any, metadata: Sequence[tuple[str, str]] | None = None, **others: Any) -> Any:
                key = ("authorization", f"{SCHEME} {self._read_key()}")
                return method(*request, metadata=(*(metadata or ()), key), **others)

            return call

        return make_keyed
