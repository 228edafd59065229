"""Models that cannot be served, and peers that are not what they should be: one sentence that says so."""

import asyncio
import logging
import math
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import trustme

from orchestrator.peers import draft_peer, target_peer
from orchestrator.peers.pair import ServedModel
from orchestrator.peers.watch import Obstacle, find_obstacle
from outrider.v1 import generation_pb2
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.runtime import Runtime
from services.engine.startup import application as engine_application
from services.engine.startup import exactness
from services.engine.startup.model_service import LoadedModel
from services.frame.program.startup import StartupError
from services.frame.program.waiting import saying
from services.frame.server import FrameServer
from services.target import application as target_application
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.control_groups import MIB, make_groups
from tests.integration.conftest import Pair
from tests.integration.services import ENGINE_SETTINGS, client_of, draft_server, orchestrator_server, target_server
from tests.integration.unusual_models import learned_positions
from tests.ports import free_port
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

# A user id that has no name.
NOBODY = 2_000_000_000
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


@pytest.mark.parametrize("make", [target_server, draft_server])
async def test_a_pipe_in_the_place_of_a_model(tmp_path: Path, make: Make) -> None:
    """Whoever opened it would wait for ever."""
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(StartupError, match=r"cannot read model .*: it is not a file"):
        async with make(tmp_path / "model.gguf"):
            pass


@pytest.mark.parametrize("make", [target_server, draft_server])
async def test_a_file_in_the_place_of_the_model_s_folder(pair: Pair, make: Make) -> None:
    with pytest.raises(StartupError, match=r"cannot read model .*: Not a directory"):
        async with make(pair.target / "model.gguf"):
            pass


@pytest.mark.parametrize("cache", ["/dev/null/cache", ""], ids=["a folder that cannot be made", "no home"])
async def test_a_user_without_a_cache_folder(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: str
) -> None:
    """What is measured is found out all the same, and again by the next start."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    async with target_server(pair.target, exact="auto"):
        pass
    (warning,) = [record.getMessage() for record in caplog.records if "XDG_CACHE_HOME" in record.getMessage()]
    assert "\n" not in warning


async def test_a_control_group_that_leaves_too_little(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the weights are loaded, which could end the process."""
    groups = make_groups(tmp_path / "root", monkeypatch)
    groups.version_2()
    groups.write("/sys/fs/cgroup", {"memory.max": 64 * MIB, "memory.current": 60 * MIB})
    monkeypatch.setattr(engine_application, "Model", None)
    with pytest.raises(StartupError, match="4 MiB are free within the control group's limit of 64 MiB: take a smaller"):
        async with target_server(pair.target):
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

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        self.is_loading.set()
        assert self.may_go_on.wait(PATIENCE_S)
        # Whoever freed the weights meanwhile ends the process here.
        return super().make_runtime(loaded)

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


async def test_what_a_service_is_at_while_it_loads(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_application, "saying", partial(saying, after_s=0.0, again_s=0.0))
    caplog.set_level("INFO")
    may_end = threading.Event()

    def choose(*_: Any) -> None:
        assert may_end.wait(PATIENCE_S)

    monkeypatch.setattr(target_application, "choose_on", choose)
    monkeypatch.setattr(SlowTarget, "may_go_on", threading.Event())
    settings = TargetSettings(**{"model": pair.target, "port": 0, "exact": "on", **ENGINE_SETTINGS})
    server = FrameServer(settings, SlowTarget(settings))
    await server.listen()
    starting = asyncio.create_task(server.start())
    size = f"loading {pair.target.name} ({pair.target.stat().st_size >> 20} MiB)"
    async with grpc.aio.insecure_channel(server.address) as channel:

        async def until(text: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while await find_obstacle(channel, PATIENCE_S) != Obstacle(text, is_not_ready=True):
                    await asyncio.sleep(0.005)

        await until(size)
        await soon(lambda: f"{size}, for 0 s so far" in caplog.messages)
        SlowTarget.may_go_on.set()
        await until(f"probing {pair.target.name} for exactness")
        may_end.set()
        await starting
        assert await find_obstacle(channel, PATIENCE_S) is None
    await server.stop(0)
    assert not any(message.startswith(",") for message in caplog.messages), "it says from the first what it is at"


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
        f"decoding goes on without a draft: {status.reason}"
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


async def test_a_target_that_is_stopped_while_it_probes_its_model(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe would never end."""
    monkeypatch.setattr("services.engine.startup.probe._MIN_ROWS", math.inf)
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
