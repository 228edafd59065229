"""The proxies that the environment names, by the usual rules, for collectors of telemetry.

Our own servers are called without them, see `channel.open_channel`. gRPC by itself knows the lower-case variables only,
and neither `all_proxy` nor `no_proxy=*`.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def environment_proxy(url: str) -> str | None:
    """Return the proxy for a URL as http://HOST:PORT; None where `no_proxy` lists its host, or there is no HTTP proxy.

    The variables are `grpc_proxy`, that of the URL's scheme, as in `https_proxy`, and `all_proxy`, in either case.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get("grpc") or proxies.get(parts.scheme) or proxies.get("all") or ""
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    # gRPC speaks to no other kind.
    return proxy if proxy.startswith("http://") else None


def collector_options(signal: str) -> tuple[Any, ...]:
    """Return the options of a channel to the collector that the environment names for TRACES or METRICS.

    They are untyped: the exporters declare that they take texts only, and hand anything over to gRPC.
    """
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    url = next((os.environ[name] for name in variables if os.environ.get(name)), "http://localhost:4317")
    # The exporter reads a URL without a scheme like this.
    proxy = environment_proxy(url if "://" in url else f"https://{url}")
    return (("grpc.http_proxy", proxy),) if proxy else (("grpc.enable_http_proxy", 0),)
