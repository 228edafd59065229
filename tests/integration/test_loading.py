"""A service while it loads: what it says that it is at, and that it can be told to end."""

import asyncio
import math
import threading
from functools import partial
from typing import Any

import grpc
import pytest

from orchestrator.peers.watch import Obstacle, find_obstacle
from services.engine.model.model import Model
from services.engine.runtime.interface import Runtime
from services.engine.startup import application as engine_application
from services.engine.startup import exactness
from services.engine.startup.model_service import LoadedModel
from services.frame.program.waiting import saying
from services.frame.server import FrameServer
from services.target import application as target_application
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.integration.conftest import Pair
from tests.integration.services import ENGINE_SETTINGS, target_server
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration


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


async def test_a_target_that_is_stopped_while_it_probes_its_model(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe would never end."""
    monkeypatch.setattr("services.engine.startup.probe._MIN_ROWS", math.inf)
    probed: list[bool] = []
    runtime = exactness.runtime_of

    def make(*arguments: Any) -> Runtime:
        probed.append(True)
        return runtime(*arguments)

    monkeypatch.setattr(exactness, "runtime_of", make)
    server = target_server(pair.target, exact="on")
    starting = asyncio.create_task(server.start())
    await soon(lambda: probed)
    starting.cancel()
    await asyncio.wait({starting})
    async with asyncio.timeout(PATIENCE_S):
        await server.stop(0)
