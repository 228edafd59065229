"""The health check of container engines: a program, and what it says to servers in every state."""

import asyncio
import sys
from typing import Any

import pytest

from services.frame.program.settings import ServerSettings
from services.frame.server import FrameServer
from tests.ports import free_port


async def check(*arguments: str) -> tuple[int | None, str]:
    """Run the program; return its exit code and what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.frame.healthcheck", *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


async def test_a_server_that_serves(serve: Any) -> None:
    server = await serve()
    assert await check("--address", server.address) == (0, "")
    assert await check("--address", server.address, "--service", "test.Echo") == (0, "")


async def test_a_service_that_is_not_there(serve: Any) -> None:
    server = await serve()
    code, said = await check("--address", server.address, "--service", "test.Ecoh")
    assert code == 1
    assert "test.Ecoh" in said


async def test_a_server_that_is_loading(application_class: Any) -> None:
    server = FrameServer(ServerSettings(), application_class())
    try:
        await server.listen()
        assert await check("--address", server.address) == (1, f"{server.address}: it does not serve yet\n")
    finally:
        await server.stop(0)


async def test_nobody_listens() -> None:
    code, said = await check("--address", f"127.0.0.1:{free_port()}", "--timeout-s", "1")
    assert code == 1
    assert said.count("\n") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "arguments", [(), ("--address", "a:1", "--peer-tls", "--peer-ca", "no/such.pem"), ("--address", "a:99999")]
)
async def test_settings_that_cannot_work(arguments: tuple[str, ...]) -> None:
    code, said = await check(*arguments)
    assert code == 2
    assert said.count("\n") == 1
