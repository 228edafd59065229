"""Addresses of servers."""

import pytest

from orchestrator.settings import OrchestratorSettings
from services.frame.program.address import check_address, check_addresses, split_addresses
from services.frame.program.settings import load_settings
from services.frame.program.startup import StartupError


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:1",
        "127.0.0.1:65535",
        "[::1]:50052",
        "dns:///host:50052",
        "dns://8.8.8.8/host:50052",
        "dns:host:50052",
        "ipv4:10.0.0.1:50052,10.0.0.2:50052",
        "ipv6:[::1]:1,[::2]:1",
        "ipv6:[::1%25lo]:1",
        "unix:/run/a:99999",
        "unix:///run/with blanks",
        "unix-abstract:name:0",
        "vsock:2:4294967295",
        "xds:///name",
    ],
)
def test_addresses(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "host:",
        "host:0",
        "host:65536",
        "127.0.0.1:99999",
        "host:-1",
        "host:+9",
        "host:http",
        "host:9 ",
        "host:9\n",
        "host:\u0669",
        "[::1]:99999",
        "::1",
        "dns:///host:99999",
        "ipv4:10.0.0.1:50052,10.0.0.2:99999",
        "http://host:50052",
        " ",
        "a b:1",
        "dns:",
        "ipv4:host:1",
        "ipv4:10.0.0.1",
        "ipv4:10.0.0.1:1,",
        "ipv6:10.0.0.1:1",
        "host:" + "9" * 5000,
    ],
)
def test_a_port_that_no_server_has(address: str) -> None:
    with pytest.raises(ValueError, match="an address is HOST:PORT, with a port from 1 to 65535"):
        check_address(address)


def test_a_path_that_is_too_long_for_a_socket() -> None:
    assert check_address("unix:" + "x" * 107)
    with pytest.raises(ValueError, match="the path of a socket has at most 107 bytes"):
        check_address("unix:///" + "\xe9" * 54)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a:1", ["a:1"]),
        ("a:1,b:2", ["a:1", "b:2"]),
        ("a:1, unix:/run/b ,dns:///c:3", ["a:1", "unix:/run/b", "dns:///c:3"]),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", ["ipv4:10.0.0.1:1,10.0.0.2:1"]),
        ("ipv4:10.0.0.1:1,ipv4:10.0.0.2:1", ["ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1"]),
        ("ipv6:[::1]:1,[::2]:1,10.0.0.1:1", ["ipv6:[::1]:1,[::2]:1", "10.0.0.1:1"]),
        ("10.0.0.1:1,ipv4:10.0.0.2:1,10.0.0.3:1,host:1", ["10.0.0.1:1", "ipv4:10.0.0.2:1,10.0.0.3:1", "host:1"]),
    ],
)
def test_several_addresses(text: str, expected: list[str]) -> None:
    assert split_addresses(check_addresses(text)) == expected
    assert OrchestratorSettings(draft=text).draft_addresses == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (",", "addresses have one comma between, and none before or after them"),
        ("a:1,", "addresses have one comma between"),
        ("a:1,,b:1", "addresses have one comma between"),
        ("a:1,b:99999", "an address is HOST:PORT, with a port from 1 to 65535"),
        ("ipv4:10.0.0.1:1,10.0.0.2:99999", "an address is HOST:PORT, with a port from 1 to 65535"),
        ("a:1,b:1,a:1", "an address is named twice"),
    ],
)
def test_several_addresses_of_which_one_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(StartupError, match=problem):
        load_settings(OrchestratorSettings, {"draft": text})


@pytest.mark.parametrize("name", ["target", "draft"])
def test_a_peer_that_nobody_can_be(name: str) -> None:
    with pytest.raises(StartupError, match=rf"^--{name} is 'host:99999': an address is HOST:PORT, with a port from 1"):
        load_settings(OrchestratorSettings, {name: "host:99999"})
