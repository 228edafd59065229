"""Where `outrider serve` serves HTTP: by default, where that is taken, and where it is told to."""

import socket
from collections.abc import Iterator

import pytest

from orchestrator.cli import http_address as module
from orchestrator.cli.http_address import http_address, http_line
from services.frame.program.startup import StartupError
from tests.ports import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_default_is_a_port_of_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PORT", port := free_port())
    assert http_address(None) == f"127.0.0.1:{port}"
    assert http_line(f"127.0.0.1:{port}", None, {}) == f"HTTP at http://127.0.0.1:{port}"


def test_where_it_is_taken_another_one_is_found_and_that_is_said(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr(module, "_PORT", taken)
    address = http_address(None)
    assert address.startswith("127.0.0.1:")
    assert address != f"127.0.0.1:{taken}"
    assert http_line(address, None, {}) == f"HTTP at http://{address}, as port {taken} is taken"


def test_an_address_that_was_given_is_kept_or_refused(taken: int) -> None:
    given = f"127.0.0.1:{free_port()}"
    assert http_address(given) == given
    assert http_address("") == ""
    # A process that is started again has to have the port that was told.
    assert not http_address("127.0.0.1:0").endswith(":0")
    with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{taken} .*: choose another --http$"):
        http_address(f"127.0.0.1:{taken}")
    for wrong in ("8080", "127.0.0.1", "127.0.0.1:99999", "unix:/tmp/socket"):
        with pytest.raises(StartupError, match=r"--http is .*: an address to listen on is HOST:PORT"):
            http_address(wrong)


def test_with_a_certificate_it_is_https() -> None:
    assert http_line("127.0.0.1:1", "127.0.0.1:1", {"tls_cert": "a.pem", "tls_key": "b.pem"}) == (
        "HTTP at https://127.0.0.1:1"
    )
