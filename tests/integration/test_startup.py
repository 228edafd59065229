"""Models that cannot be served, and peers that are not what they should be: one sentence that says so."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from orchestrator import backend
from outrider.v1 import generation_pb2
from services.engine import exactness
from services.engine.errors import ModelLoadError
from services.engine.model import Model
from services.engine.model_service import Served
from services.engine.runtime import Runtime
from services.frame.server import FrameServer
from services.frame.startup import StartupError
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.integration.conftest import Pair
from tests.integration.services import ENGINE_SETTINGS, client_of, draft_server, orchestrator_server, target_server
from tests.integration.unusual_models import learned_positions
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

Make = Callable[[Path], FrameServer]


def _scrambled(whole: bytes) -> bytes:
    """The header as it was, zeros for everything that follows."""
    return whole[:200] + bytes(len(whole) - 200)


@pytest.mark.parametrize("make", [target_server, draft_server])
@pytest.mark.parametrize(
    "break_off",
    [
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"I am no model.\n" * 100, id="text"),
        pytest.param(lambda whole: whole[:4], id="header only"),
        pytest.param(lambda whole: whole[:60_000], id="cut in its metadata"),
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut short"),
        pytest.param(lambda whole: whole[:-1], id="one byte short"),
        pytest.param(_scrambled, id="scrambled"),
        pytest.param(lambda whole: b"GGUF" + b"\xff" * 1000, id="absurd sizes"),
    ],
)
async def test_a_corrupt_model(pair: Pair, tmp_path: Path, make: Make, break_off: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(break_off(pair.target.read_bytes()))
    with pytest.raises(StartupError) as info:
        async with make(path):
            pass
    assert str(path) in str(info.value)
    assert "\n" not in str(info.value)
    assert "no reason" not in str(info.value)


@pytest.mark.parametrize("name", ["no-such.gguf", "."])
async def test_a_model_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartupError, match="cannot read model"):
        async with target_server(tmp_path / name):
            pass


async def test_caches_that_do_not_fit(pair: Pair) -> None:
    with pytest.raises(StartupError, match=r"256 slots of 1048576 tokens at \d+ bytes a token need \d+ MiB"):
        async with target_server(pair.target, slots=256, context=1 << 20):
            pass


async def test_no_more_positions_than_were_learned(tmp_path: Path) -> None:
    path = learned_positions(tmp_path / "model.gguf", 128)
    with pytest.raises(StartupError, match=r"it knows 128 positions, 32 of them are for padding: .* at most 96"):
        async with target_server(path, context=97):
            pass
    async with target_server(path, context=96) as target:
        orchestrator = orchestrator_server(target.address)
        async with orchestrator, client_of(orchestrator) as client:
            generated = await client.generate("7" * 80, max_tokens=200)
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL
    assert generated.summary.usage.num_prompt_tokens + len(generated.ids) == 96


class SlowTarget(TargetApplication):
    """A target that takes its time once the weights are there, as a probe of exactness does."""

    is_loading = threading.Event()
    may_go_on = threading.Event()
    is_stopping = False

    def make_runtime(self, served: Served) -> Runtime:
        self.is_loading.set()
        assert self.may_go_on.wait(PATIENCE_S)
        # Whoever freed the weights meanwhile ends the process here.
        return super().make_runtime(served)

    async def stop(self) -> None:
        self.is_stopping = True
        await super().stop()


async def test_a_service_that_is_asked_to_end_while_it_loads(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[Model] = []

    def free(model: Model) -> None:
        freed.append(model)

    monkeypatch.setattr(Model, "close", free)
    settings = TargetSettings(**{"model": pair.target, "port": 0, "exact": "off", **ENGINE_SETTINGS})
    application = SlowTarget(settings)
    server = FrameServer(settings, application)
    starting = asyncio.create_task(server.start())
    await soon(application.is_loading.is_set)
    starting.cancel()
    await asyncio.wait({starting})
    stopping = asyncio.create_task(server.stop(0))
    await soon(lambda: application.is_stopping)
    assert not freed
    application.may_go_on.set()
    async with asyncio.timeout(PATIENCE_S):
        await stopping
    assert freed == [application.model]
    assert application.engine is None, "it is not loaded to the end"


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


async def test_a_target_that_does_not_answer_is_told_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It speaks TLS, and the orchestrator does not."""
    monkeypatch.setattr(backend, "_SILENCE_S", 0.05)
    certificate = trustme.CA().issue_cert("localhost")
    server = grpc.aio.server()
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    orchestrator = orchestrator_server(f"127.0.0.1:{port}")
    starting = asyncio.create_task(orchestrator.start())
    await soon(lambda: "does not answer and is waited for" in caplog.text)
    assert f"127.0.0.1:{port}" in caplog.text
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


async def test_a_target_in_the_place_of_the_draft(pair: Pair) -> None:
    """It has a model, and proposes nothing."""
    async with target_server(pair.target) as target, target_server(pair.target) as other:
        # It is not tried again within the test.
        orchestrator = orchestrator_server(target.address, other.address, draft_retry_s=60.0)
        async with orchestrator, client_of(orchestrator) as client:
            await client.until_draft(is_available=True)
            generated = await client.generate(max_tokens=8)
            assert (len(generated.tokens), generated.counts.num_drafts) == (8, 0)
            assert not (await client.status()).draft.is_available


async def test_a_target_that_is_stopped_while_it_probes_its_model(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe would never end."""
    monkeypatch.setattr("services.engine.probe._MIN_ROWS", math.inf)
    probed: list[bool] = []
    runtime = exactness.padded_runtime

    def make(*arguments: Any) -> Runtime:
        probed.append(True)
        return runtime(*arguments)

    monkeypatch.setattr(exactness, "padded_runtime", make)
    server = target_server(pair.target, exact="on")
    starting = asyncio.create_task(server.start())
    await soon(lambda: probed)
    starting.cancel()
    await asyncio.wait({starting})
    async with asyncio.timeout(PATIENCE_S):
        await server.stop(0)


def test_a_model_that_is_given_up_is_not_loaded(pair: Pair) -> None:
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(ModelLoadError, match="cannot load model"):
        Model(pair.target, given_up=given_up)
