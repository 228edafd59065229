"""Proxies in the environment: nothing to our own servers, the usual rules for what goes out into the world."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.settings import OrchestratorSettings
from services.frame.program.settings import load_settings
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import open_channel
from services.frame.rpc.proxies import environment_proxy
from services.frame.telemetry import configure_telemetry
from tests.collector import Collector, collecting
from tests.proxy import VARIABLES, Proxy, proxying
from tests.waiting import PATIENCE_S, eventually


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with proxying() as proxy:
        yield proxy


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        collector.open.set()
        yield collector


async def _echo(address: str, **options: Any) -> bytes:
    async with open_channel(address, **options) as channel:
        reply: bytes = await channel.unary_unary("/test.Echo/Echo")(b"hello", timeout=PATIENCE_S)
        return reply


@pytest.mark.parametrize("name", VARIABLES)
async def test_our_own_servers_are_called_directly(
    serve: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, proxy.url)
    assert await _echo((await serve()).address) == b"hello"
    assert proxy.requests == []


async def test_a_health_check_is_not_sent_to_a_proxy(serve: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    command = (sys.executable, "-m", "services.frame.healthcheck", "--address", (await serve()).address)
    for flags, num_requests in (((), 0), (("--peer-proxy", proxy.url), 1)):
        process = await asyncio.create_subprocess_exec(*command, *flags)
        assert (await process.wait(), len(proxy.requests)) == (0, num_requests)


async def test_the_proxy_that_a_setting_names_is_used(serve: Any, proxy: Proxy) -> None:
    address = (await serve()).address
    assert await _echo(address, proxy=proxy.url) == b"hello"
    assert proxy.requests == [f"CONNECT {address} HTTP/1.1"]


@pytest.mark.parametrize(
    "value",
    [
        "proxy:3128",
        "https://proxy:3128",
        "http://proxy",
        "socks5://proxy:1080",
        "http://",
        "http://a:0",
        "http://a:65536",
    ],
)
def test_a_proxy_that_gRPC_cannot_use_is_refused(value: str) -> None:
    with pytest.raises(StartupError, match=r"^--peer-proxy: a proxy is http://HOST:PORT"):
        load_settings(OrchestratorSettings, {"peer_proxy": value})


def test_the_password_of_a_proxy_is_shown_nowhere() -> None:
    with pytest.raises(StartupError) as info:
        load_settings(OrchestratorSettings, {"peer_proxy": "me:secret@proxy:3128"})
    assert "secret" not in str(info.value)
    assert "secret" not in repr(load_settings(OrchestratorSettings, {"peer_proxy": "http://me:secret@proxy:3128"}))


@pytest.mark.parametrize("value", ["", "http://proxy:3128", "http://me:secret@10.0.0.1:80", "http://[::1]:3128/"])
def test_a_proxy_that_gRPC_can_use(value: str) -> None:
    assert load_settings(OrchestratorSettings, {"peer_proxy": value}).peer_proxy == value


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "grpc_proxy"])
@pytest.mark.parametrize(
    ("bypass", "is_bypassed"),
    [
        ({}, False),
        ({"no_proxy": "example.org"}, False),
        ({"no_proxy": "127.0.0.1"}, True),
        ({"NO_PROXY": "example.org,127.0.0.1"}, True),
        ({"no_proxy": "*"}, True),
    ],
)
def test_a_collector_is_called_as_the_environment_says(
    collector: Collector,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    bypass: dict[str, str],
    is_bypassed: bool,
) -> None:
    for variable, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, name: proxy.url, **bypass}.items():
        monkeypatch.setenv(variable, value)
    telemetry = configure_telemetry("outrider-target")
    telemetry.meter.create_counter("drafts").add(1)
    telemetry.shutdown()
    eventually(lambda: "drafts" in collector.metrics)
    assert {request.partition(" ")[0] for request in proxy.requests} == (set() if is_bypassed else {"CONNECT"})


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("http://collector:4317", {}, None),
        ("http://collector:4317", {"http_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://collector:4317", {"http_proxy": "http://proxy:3128"}, None),
        ("https://collector:4317", {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://collector:4317", {"https_proxy": "http://one:1", "grpc_proxy": "http://two:2"}, "http://two:2"),
        ("https://collector:4317", {"all_proxy": "socks5://proxy:1080"}, None),
        ("https://me:secret@a.example.org:4317", {"all_proxy": "http://proxy:1", "no_proxy": ".example.org"}, None),
    ],
)
def test_which_proxy_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], expected: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(url) == expected
