"""Who may ask over HTTP: by key, and from which pages of a browser.

A page may send requests to any address that its browser reaches, loopback too. Nothing that it can send without asking
first has an effect here, as bodies are JSON and say so, and asking (CORS) is answered only for `--http-origins`. A page
whose own name is made to lead to this server (DNS rebinding) is told from others by the Host that it asks for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator

import grpc
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.http.exchange.errors import error_response
from orchestrator.http.page.routes import PAGE_PATHS
from orchestrator.settings import OrchestratorSettings
from services.frame.program.address import split_host_and_port
from services.frame.program.api_keys import ApiKeys, bearer_key, caller_name
from services.frame.rpc.errors import ServiceError

# They tell who knows no key nothing of what is served, and are asked by such: probes, and people with a browser.
_OPEN = (*PAGE_PATHS, "/docs", "/openapi.json", "/health", "/health/live", "/health/ready")
METRICS = "/metrics"


def guards(settings: OrchestratorSettings, keys: ApiKeys | None) -> Iterator[Middleware]:
    """Yield what every request passes before it is looked at, the first one outermost."""
    if keys is None:
        yield Middleware(HostGuard, names=settings.http_name_list)
    if settings.http_origin_list:
        yield Middleware(
            CORSMiddleware,
            allow_origins=settings.http_origin_list,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["retry-after"],
        )
    if keys is not None:
        open_paths = (*_OPEN, METRICS) if settings.http_metrics == "open" else _OPEN
        yield Middleware(KeyGuard, keys=keys, open_paths=open_paths)


class KeyGuard:
    """Lets requests in that show a key, as `authorization: Bearer KEY` or, like Anthropic's clients, `x-api-key`."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, by `caller_name` where it shows a key, or answer it with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = bearer_key(headers.get("authorization", "")) or headers.get("x-api-key", "")
        is_open = scope["path"] in self._open_paths
        # Who shows none where none is needed is not turned away.
        name = None if is_open and not key else self._keys.name_of(key)
        if name is None and not is_open:
            response = error_response(_no_key(), scope["path"])
            response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        known = caller_name.set(name or "")
        try:
            await self._app(scope, receive, send)
        finally:
            caller_name.reset(known)


class HostGuard:
    """Lets requests in whose Host no page can have for its own: addresses, names without a dot, and those of `names`.

    Where keys are asked for it is not needed: a page knows none.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer it with 403."""
        if scope["type"] == "http" and not self._is_known(Headers(scope=scope).get("host", "")):
            await error_response(_unknown_host(), scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        try:
            name = split_host_and_port(host)[0] if host.rpartition(":")[2].isdecimal() else host.strip("[]")
        except ValueError:
            return False
        name = name.lower().rstrip(".")
        return "." not in name or name in self._names or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _no_key() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAUTHENTICATED,
        "INVALID_API_KEY",
        "the request has no key that this server takes: send one as authorization: Bearer KEY",
    )


def _unknown_host() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.PERMISSION_DENIED,
        "INVALID_REQUEST",
        "the Host that was asked for is none of this server's: ask by its address, or name it with --http-names",
    )
