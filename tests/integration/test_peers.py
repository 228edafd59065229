"""Peers that do not answer, or are not what they should be: one sentence that says so."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from types import ModuleType

import grpc
import pytest
import trustme

from orchestrator.peers import draft_peer, target_peer
from orchestrator.peers.pair import ServedModel
from services.frame.program.startup import StartupError
from services.frame.program.waiting import saying
from tests.integration.conftest import Pair
from tests.integration.services import client_of, draft_server, orchestrator_server, target_server
from tests.ports import free_port
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration


@pytest.fixture
async def stranger() -> AsyncIterator[str]:
    """The address of a server that knows nothing of our protocol."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_target_that_is_something_else(stranger: str) -> None:
    with pytest.raises(StartupError) as info:
        async with orchestrator_server(stranger):
            pass
    assert stranger in str(info.value)


async def test_a_target_that_does_not_answer_is_told_about_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It speaks TLS, and the orchestrator does not."""
    monkeypatch.setattr(target_peer, "saying", partial(saying, after_s=0.0, again_s=0.0))
    certificate = trustme.CA().issue_cert("localhost")
    server = grpc.aio.server()
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    orchestrator = orchestrator_server(f"127.0.0.1:{port}")
    await orchestrator.listen()
    starting = asyncio.create_task(orchestrator.start())

    def said() -> list[str]:
        told = rf"waiting for the target at 127.0.0.1:{port}, for \d+ s so far: failed to connect .*"
        return [line for line in caplog.messages if re.fullmatch(told, line)]

    await soon(lambda: len(said()) >= 2)
    async with client_of(orchestrator) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=f"the target at 127.0.0.1:{port}: failed to connect"):
            await client.status()
    starting.cancel()
    await asyncio.wait({starting})
    await orchestrator.stop(0)
    await server.stop(None)


async def test_a_draft_that_is_something_else(pair: Pair, stranger: str) -> None:
    async with target_server(pair.target) as target:
        orchestrator = orchestrator_server(target.address, stranger)
        async with orchestrator, client_of(orchestrator) as client:
            generated = await client.generate(max_tokens=8)
            assert (len(generated.tokens), generated.counts.num_drafts) == (8, 0)
            async with asyncio.timeout(PATIENCE_S):
                while stranger not in (await client.status()).draft.reason:
                    await asyncio.sleep(0.005)


async def test_a_target_in_the_place_of_the_draft(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a model, and proposes nothing. That is said once, however often it is looked at."""
    caplog.set_level(logging.INFO, "orchestrator")
    tries = _counted(monkeypatch, draft_peer)
    async with target_server(pair.target) as target, target_server(pair.target) as other:
        orchestrator = orchestrator_server(target.address, other.address, draft_retry_s=0.01)
        async with orchestrator, client_of(orchestrator) as client:
            await soon(lambda: len(tries) > 3)
            generated = await client.generate(max_tokens=8)
            assert (len(generated.tokens), generated.counts.num_drafts) == (8, 0)
            status = (await client.status()).draft
    assert not status.is_available
    assert status.reason.startswith(f"what answers at {other.address} is no draft service: ")
    assert [each for each in caplog.messages if "draft" in each] == [
        f"decoding goes on without the draft at {status.address}: {status.reason}"
    ]


async def test_a_draft_in_the_place_of_the_target(pair: Pair) -> None:
    async with draft_server(pair.draft) as draft:
        with pytest.raises(StartupError, match=f"what answers at {draft.address} is no target service"):
            async with orchestrator_server(draft.address):
                pass


async def test_a_draft_that_takes_the_place_of_the_target(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        target = target_server(pair.target)
        await target.start()
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await target.stop(0)
        monkeypatch.setattr(target_peer, "_RETRY_S", 0.01)
        await stack.enter_async_context(draft_server(pair.draft, port=target.port))
        problem = f"what answers at {target.address} is no target service: "
        await soon(lambda: problem in caplog.text)
        tries = _counted(monkeypatch, target_peer)
        await soon(lambda: len(tries) > 3)
        assert (await client.status()).target.reason.startswith(f"the target service is away: {problem}")
    assert len([each for each in caplog.messages if each.startswith(problem)]) == 1


def _counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[str]:
    """The services that a module looks for from now on, one entry for each try."""
    tries: list[str] = []
    fetch = module.fetch_loading_model

    async def counted(channel: grpc.aio.Channel, retry_s: float = 0.2, service: str = "") -> ServedModel:
        tries.append(service)
        served: ServedModel = await fetch(channel, retry_s, service)
        return served

    monkeypatch.setattr(module, "fetch_loading_model", counted)
    return tries


async def test_a_draft_that_does_not_answer_is_told_about_again_and_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(draft_peer, "_SILENCE_S", 0.05)
    monkeypatch.setattr(draft_peer, "_REMINDER_S", 0.01)
    address = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await soon(lambda: caplog.text.count(f"the draft at {address} does not answer") > 2)
        reason = (await client.status()).draft.reason
    assert reason.startswith("the draft service does not answer: ")
