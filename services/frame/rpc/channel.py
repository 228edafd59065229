"""Client channels: keepalive, quick reconnection, retries of unary calls, TLS, no proxy that nobody asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.frame.program.api_keys import ClientKey
from services.frame.program.settings import DEFAULT_MAX_MESSAGE_BYTES, PeerSettings
from services.frame.program.startup import StartupError
from services.frame.rpc.keyed_channel import keyed
from services.frame.rpc.tls import read_authority, read_key_pair

ChannelOption = tuple[str, str | int]

# No more often than servers allow, see `server.KEEPALIVE_OPTIONS`. A connection that has fallen silent is given up
# after 25 s: gRPC 1.85 waits for the answer to a ping as long as `ping_timeout_ms` says, a minute by default, and has
# the kernel wait for the other side as long as `keepalive_timeout_ms`.
KEEPALIVE_OPTIONS: tuple[ChannelOption, ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
# By gRPC's own limit a service that is back could stay unused for two minutes.
RECONNECT_OPTIONS: tuple[ChannelOption, ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one attempt may take: an address that swallows packets must not hide a service for gRPC's 20 seconds.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A service that moves keeps its name and changes its address at once. gRPC by itself asks every half minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)

RETRY_POLICY: Mapping[str, object] = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@dataclass(frozen=True)
class ClientTls:
    """Files of a TLS client: who signs servers (the system's authorities where None), and what it shows to them."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Credentials:
    """By what a client knows servers, and what it shows to them: TLS files, none without TLS, and a key."""

    tls: ClientTls | None = None
    # Returns the key, which may change while a channel is open.
    key: Callable[[], str] | None = None


ANONYMOUS = Credentials()


def client_credentials(settings: PeerSettings) -> Credentials:
    """Return how peers are called. Raises StartupError for a key that is of no use."""
    tls = ClientTls(settings.peer_ca, settings.peer_cert, settings.peer_key) if settings.peer_tls else None
    return Credentials(tls, ClientKey(settings.peer_api_key_file) if settings.peer_api_key_file else None)


def service_config(retry_methods: Sequence[tuple[str, str]]) -> str:
    """Return gRPC's service config as JSON: which methods it calls again where nobody was reached.

    `retry_methods` are (full service name, method), an empty method standing for all of the service. Name unary ones
    only: a stream that breaks has to be opened anew by somebody who can replay.
    """
    names = [{"service": service, "method": method} for service, method in retry_methods]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}]})


def channel_options(max_message_bytes: int, config: str | None = None, proxy: str = "") -> list[ChannelOption]:
    """Return the options of a channel; `config` comes from `service_config`, `proxy` is as in `open_channel`."""
    options: list[ChannelOption] = [
        *KEEPALIVE_OPTIONS,
        *RECONNECT_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Only a request that gRPC has kept is sent again: of itself it keeps 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        # A config that a name server offers must not replace ours.
        ("grpc.service_config_disable_resolution", 1),
        # The environment's proxy is for the world outside: it knows neither loopback nor the names of peers.
        ("grpc.http_proxy", proxy) if proxy else ("grpc.enable_http_proxy", 0),
    ]
    if config is not None:
        options.append(("grpc.service_config", config))
    return options


def open_channel(
    address: str,
    *,
    credentials: Credentials = ANONYMOUS,
    proxy: str = "",
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    config: str | None = None,
    options: Sequence[ChannelOption] = (),
) -> grpc.aio.Channel:
    """Return a channel to `address`, a gRPC name: HOST:PORT, dns:///NAME:PORT, ipv4:A:PORT,B:PORT or unix:/path.

    It connects with the first call, through the HTTP proxy http://HOST:PORT where `proxy` names one: what `no_proxy` in
    the environment lists is called directly. `options` are added to ours. Raises StartupError for unusable TLS files,
    and for an address that is no text.
    """
    try:
        address.encode()
    except UnicodeEncodeError as error:
        raise StartupError(f"the address {address} is not valid UTF-8") from error
    every_option = [*channel_options(max_message_bytes, config, proxy), *options]
    if credentials.tls is None:
        channel = grpc.aio.insecure_channel(address, options=every_option)
    else:
        channel = grpc.aio.secure_channel(address, _channel_credentials(credentials.tls), options=every_option)
    return channel if credentials.key is None else keyed(channel, credentials.key)


def _channel_credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    authority = None if tls.ca is None else read_authority(tls.ca, "--peer-ca")
    if tls.cert is None or tls.key is None:
        return grpc.ssl_channel_credentials(authority)
    key, cert = read_key_pair(tls.cert, tls.key, ("--peer-cert", "--peer-key"))
    return grpc.ssl_channel_credentials(authority, key, cert)
