"""Commands beside processes of their own: these are started, waited for, kept, and stopped at the end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from orchestrator.cli.model_files import find_model
from orchestrator.cli.progress import waiting
from orchestrator.peers.pair import Difference, ServedModel, differences, fetch_model
from orchestrator.stack.process import ServerProcess
from orchestrator.stack.stack import Processes, Stack, while_kept
from outrider.v1 import model_pb2_grpc
from services.frame.rpc.channel import Credentials, open_channel
from services.frame.rpc.errors import error_from_rpc


async def run_beside(stack: Stack, use: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Call `use` with the address of the orchestrator once it serves. Raises RefusedError and CrashedError."""
    try:
        async with waiting(stack.obstacles):
            await stack.start()
            await stack.wait_ready()
        await while_kept(use(stack.address), stack.keep())
    finally:
        async with waiting(stack.survivor):
            await stack.stop()


async def pair_differences(target: str, draft: str, credentials: Credentials) -> list[Difference]:
    """Return in what the draft differs from the target. Both are served for a moment, to read their tokens.

    Raises RefusedError and CrashedError, and ServiceError where they cannot be called with these `credentials`.
    """
    flags = ("--log-level", "warning", "--slots", "1", "--context", "256")
    processes = Processes(credentials)
    services = [
        processes.add(ServerProcess(module, ("--model", str(find_model(name)), *flags, *more)))
        for module, name, more in (("services.target", target, ("--exact", "off")), ("services.draft", draft, ()))
    ]
    try:
        async with waiting(processes.obstacles):
            addresses = [await service.start() for service in services]
            await while_kept(_until_serving(services), processes.keep())
            served = [await _fetch(address, credentials) for address in addresses]
    finally:
        async with waiting(processes.survivor):
            await processes.stop()
    return list(differences(*served))


async def _until_serving(services: list[ServerProcess]) -> None:
    await asyncio.gather(*(service.serving.wait() for service in services))


async def _fetch(address: str, credentials: Credentials) -> ServedModel:
    async with open_channel(address, credentials=credentials) as channel:
        try:
            return await fetch_model(model_pb2_grpc.ModelServiceStub(channel), wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
