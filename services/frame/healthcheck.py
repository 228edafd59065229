"""`python -m services.frame.healthcheck`: whether a server is healthy, as an exit code for container engines."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import asyncio
import sys
from collections.abc import Sequence
from typing import ClassVar

import grpc
from pydantic import Field

from services.frame.program.output import guarded_output, say
from services.frame.program.settings import Address, PeerSettings, ProgramSettings, parse_settings
from services.frame.program.startup import StartupError, refuse
from services.frame.rpc.channel import client_credentials, open_channel
from services.frame.rpc.health import check_health

CODE_UNHEALTHY = 1


class HealthcheckSettings(ProgramSettings, PeerSettings, env_prefix="OUTRIDER_HEALTHCHECK_"):
    """Flags of `python -m services.frame.healthcheck`, and variables that start with OUTRIDER_HEALTHCHECK_."""

    program: ClassVar[str] = "python -m services.frame.healthcheck"
    address: Address = Field(min_length=1, description="server that is asked by grpc.health.v1")
    service: str = Field("", description="full name of the service in question; empty is the server as a whole")
    timeout_s: float = Field(3.0, gt=0, le=60, description="seconds that an answer is waited for")


@guarded_output(HealthcheckSettings.program)
def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 for a server that serves, 1 for one that does not, and say on stderr why not."""
    settings = parse_settings(HealthcheckSettings, argv)
    try:
        problem = asyncio.run(_problem(settings))
    except StartupError as error:
        refuse(error, settings.program)
    if problem:
        say(settings.address, problem)
        return CODE_UNHEALTHY
    return 0


async def _problem(settings: HealthcheckSettings) -> str:
    """Return why the server is not healthy, empty when it is."""
    credentials = client_credentials(settings)
    async with open_channel(settings.address, credentials=credentials, proxy=settings.peer_proxy) as channel:
        try:
            is_serving = await check_health(channel, settings.service, settings.timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.details() or error.code().name
    return "" if is_serving else "it does not serve yet"


if __name__ == "__main__":
    sys.exit(main())
