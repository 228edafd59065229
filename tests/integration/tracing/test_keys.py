"""A whole system whose servers know their callers by key, and what is told of keys: names, never the keys."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from orchestrator.cli.options import PeerOptions
from orchestrator.stack.client import fetch_status, generate
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import ANONYMOUS, Credentials, open_channel
from services.frame.rpc.errors import ServiceError
from services.frame.server import FrameServer
from services.frame.telemetry import configure_telemetry
from tests.collector import Collector
from tests.integration.conftest import Pair
from tests.integration.services import Client, draft_server, fixed, generate_request, orchestrator_server, target_server
from tests.integration.tracing.traced import REQUEST
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

INNER, ALICE, MALLORY = "orchestrators-own-key", "alice-0123456789", "mallory-01234567"
PROMPT = "def a_private_matter("


def written(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(text)
    return path


@dataclass
class Keyed:
    """An orchestrator that knows alice, before a target and a draft that know it alone."""

    target: FrameServer
    orchestrator: FrameServer
    inner: Path
    shown: Path

    @property
    def url(self) -> str:
        """Where the orchestrator answers HTTP."""
        application: Any = self.orchestrator._application
        return str(application.http.url)

    @property
    def credentials(self) -> Credentials:
        """Those of `outrider` with alice's key."""
        return PeerOptions(peer_api_key_file=str(self.shown)).credentials(self.orchestrator.address)


@pytest.fixture
async def keyed(pair: Pair, collector: Collector, tmp_path: Path) -> AsyncIterator[Keyed]:
    inner = written(tmp_path / "inner.txt", f"orchestrator: {INNER}")
    outer = written(tmp_path / "outer.txt", f"alice: {ALICE}")
    shown = written(tmp_path / "shown.txt", ALICE)
    async with AsyncExitStack() as stack:
        telemetry = configure_telemetry("outrider-orchestrator")
        stack.callback(telemetry.shutdown)
        target = await stack.enter_async_context(target_server(pair.target, api_key_file=inner))
        draft = await stack.enter_async_context(draft_server(pair.draft, api_key_file=inner))
        server = orchestrator_server(
            target.address,
            draft.address,
            telemetry,
            api_key_file=outer,
            peer_api_key_file=inner,
            target_patience_s=0.2,
            http="127.0.0.1:0",
        )
        yield Keyed(target, await stack.enter_async_context(server), inner, shown)


async def test_a_caller_with_a_key_is_served_by_services_with_keys(keyed: Keyed) -> None:
    async with open_channel(keyed.orchestrator.address, credentials=keyed.credentials) as channel:
        client = Client(channel)
        await client.until_draft(is_available=True)
        generated = await client.generate(max_tokens=12, speculation=fixed(3))
        assert len(generated.tokens) == 12
        assert generated.counts.num_accepted_tokens > 0


@pytest.mark.parametrize("key", [None, MALLORY, INNER])
async def test_a_caller_without_one_is_not(keyed: Keyed, key: str | None) -> None:
    credentials = Credentials(key=None if key is None else lambda: key)
    with pytest.raises(ServiceError) as refused:
        await fetch_status(keyed.orchestrator.address, credentials)
    with pytest.raises(ServiceError) as refused_too:
        async for _ in generate(keyed.orchestrator.address, generate_request(), credentials):
            pass
    for each in (refused, refused_too):
        assert (each.value.code, each.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")


async def test_spans_and_logs_hold_neither_keys_nor_prompts(
    keyed: Keyed,
    collector: Collector,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    request = generate_request(PROMPT, max_tokens=4)
    async for _ in generate(keyed.orchestrator.address, request, keyed.credentials):
        pass
    with pytest.raises(ServiceError):
        async for _ in generate(keyed.orchestrator.address, request, Credentials(key=lambda: MALLORY)):
            pass
    body = {"model": "outrider-target", "prompt": PROMPT, "max_tokens": 4}
    async with httpx2.AsyncClient(base_url=keyed.url, timeout=PATIENCE_S) as http:
        for headers in ({"authorization": f"Bearer {ALICE}"}, {"x-api-key": ALICE}):
            assert (await http.post("/v1/completions", json=body, headers=headers)).status_code == 200
        for headers in ({}, {"authorization": f"Bearer {MALLORY}"}, {"x-api-key": INNER}):
            refused = await http.post("/v1/completions", json=body, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    await soon(lambda: len(collector.named(REQUEST)) == 3)
    assert {span.attributes["outrider.caller"] for span in collector.named(REQUEST)} == {"alice"}
    told = f"{collector.spans} {caplog.text} {[record.__dict__ for record in caplog.records]} {capfd.readouterr()}"
    for secret in (ALICE, MALLORY, INNER, PROMPT, json.dumps(PROMPT), "a_private_matter"):
        assert secret not in told


async def test_a_key_that_the_target_takes_no_more_is_not_the_clients_fault(keyed: Keyed) -> None:
    """The orchestrator's file has another one now, and the target's has not yet."""
    credentials = keyed.credentials
    assert keyed.target.keys is not None
    async for _ in generate(keyed.orchestrator.address, generate_request(max_tokens=2), credentials):
        pass
    keyed.target.keys._names.clear()
    with pytest.raises(ServiceError) as failed:
        async for _ in generate(keyed.orchestrator.address, generate_request(max_tokens=2), credentials):
            pass
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
    # Tokens need no tokenizer: the stream of the session is the first to be refused.
    with pytest.raises(ServiceError) as failed:
        tokens = generate_request(tokens={"tokens": [1, 2, 3]}, max_tokens=2)
        async for _ in generate(keyed.orchestrator.address, tokens, credentials):
            pass
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")


async def test_an_orchestrator_whose_key_is_none_of_the_targets_does_not_start(
    keyed: Keyed, pair: Pair, tmp_path: Path
) -> None:
    for settings in ({}, {"peer_api_key_file": written(tmp_path / "other.txt", MALLORY)}):
        with pytest.raises(StartupError, match=rf"^the target at {keyed.target.address} does not take the orch"):
            async with orchestrator_server(keyed.target.address, **settings):
                pass
    with pytest.raises(StartupError, match=r"^--peer-api-key-file \S+ cannot be read"):
        async with orchestrator_server(keyed.target.address, peer_api_key_file=tmp_path / "none.txt"):
            pass


async def test_a_draft_that_takes_no_key_of_ours_is_done_without(keyed: Keyed, pair: Pair, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        other = written(tmp_path / "other.txt", f"somebody: {MALLORY}")
        draft = await stack.enter_async_context(draft_server(pair.draft, api_key_file=other))
        server = orchestrator_server(keyed.target.address, draft.address, peer_api_key_file=keyed.inner)
        server = await stack.enter_async_context(server)
        async with open_channel(server.address, credentials=ANONYMOUS) as channel:
            client = Client(channel)
            assert len((await client.generate(max_tokens=4)).tokens) == 4
            expected = f"the draft at {draft.address} does not take the orchestrator's key: see --peer-api-key-file"
            async with asyncio.timeout(PATIENCE_S):
                while (await client.status()).draft.reason != expected:
                    pass
