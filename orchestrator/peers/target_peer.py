"""The target service, as all requests share it: found, watched, and found again."""

import asyncio
import logging
from collections.abc import Callable

import grpc

from orchestrator.peers.pair import ServedModel, fetch_loading_model
from orchestrator.peers.patient_session import target_unavailable
from orchestrator.peers.watch import describe_stranger, find_obstacle, until_away
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2, model_pb2, model_pb2_grpc, target_pb2_grpc
from services.frame.program.startup import StartupError
from services.frame.program.waiting import saying

_log = logging.getLogger(__name__)
TARGET_SERVICE = "outrider.v1.TargetService"
# Between looks at a target that is away or has no health service.
_RETRY_S = 0.2
# How long a target is given to say why it does not serve.
_REASON_S = 5.0


class TargetPeer:
    """One target service. `find` it first; `follow` it for as long as it is to be used."""

    def __init__(
        self, settings: OrchestratorSettings, channel: grpc.aio.Channel, announce: Callable[[str], object]
    ) -> None:
        """`channel` leads to the target of the settings. `announce` is told what is waited for."""
        self.stub = target_pb2_grpc.TargetServiceStub(channel)
        self._address = settings.target
        self._patience_s = settings.target_patience_s
        self._channel = channel
        self._announce = announce
        self._served: ServedModel | None = None
        # Why it is not there.
        self._problem = ""
        # Set while it is there and `_served` is what it serves.
        self._is_known = asyncio.Event()

    @property
    def served(self) -> ServedModel:
        """What it serves, or served when it was last there. It must have been found."""
        assert self._served is not None, "methods are served once the target was found"
        return self._served

    @property
    def model(self) -> common_pb2.ModelInfo:
        """Of what it serves, or served when it was last there."""
        return self.served.info

    async def find(self) -> None:
        """Return once it has answered. Raises StartupError where what answers at its address is no target service."""
        try:
            self._know(await self._fetch())
        except grpc.aio.AioRpcError as error:
            stranger = describe_stranger(error, self._address, "target")
            raise StartupError(f"{stranger}; --target names it") from error

    async def ready(self) -> ServedModel:
        """Return what it serves, once it is there. Raises ServiceError when patience ends before."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._is_known.wait()
        except TimeoutError as error:
            waited = f"the target has been away for {self._patience_s:g} s"
            raise target_unavailable(f"{waited}: {self._problem}") from error
        return self.served

    async def describe(self) -> common_pb2.ModelInfo:
        """Ask it what it serves now."""
        stub = model_pb2_grpc.ModelServiceStub(self._channel)
        return (await stub.GetModel(model_pb2.GetModelRequest())).model

    async def load(self, timeout_s: float) -> model_pb2.ModelLoad | None:
        """Ask it how busy it is; None where it is away."""
        if not self._is_known.is_set():
            return None
        stub = model_pb2_grpc.ModelServiceStub(self._channel)
        try:
            return (await stub.GetModel(model_pb2.GetModelRequest(), timeout=timeout_s)).load
        except grpc.aio.AioRpcError:
            return None

    def status(self) -> generation_pb2.ServiceStatus:
        """Return its state."""
        is_ready = self._is_known.is_set()
        return generation_pb2.ServiceStatus(
            address=self._address,
            is_available=is_ready,
            reason="" if is_ready else f"the target service is away: {self._problem}",
            model=self.served.info,
        )

    async def follow(self, on_other_tokens: Callable[[], object]) -> None:
        """Know what it serves; find out again whenever it was away, as it may be another one, with other tokens."""
        while True:
            before = self.served.info
            self._problem = await until_away(self._channel, TARGET_SERVICE, before)
            self._is_known.clear()
            _log.warning("the target service at %s is away: %s", self._address, self._problem)
            await self._find_again()
            _log.info("the target service is back")
            if self.served.info.tokenizer_fingerprint != before.tokenizer_fingerprint:
                on_other_tokens()

    def _know(self, served: ServedModel) -> None:
        """Take note of what it serves."""
        if self._served is None or served.info.numerics_fingerprint != self._served.info.numerics_fingerprint:
            _log.info("target %s at %s", served.info.name, self._address)
        self._served = served
        self._is_known.set()

    async def _find_again(self) -> None:
        while not self._is_known.is_set():
            await asyncio.sleep(_RETRY_S)
            try:
                self._know(await self._fetch())
            except grpc.aio.AioRpcError as error:
                problem = describe_stranger(error, self._address, "target")
                if problem != self._problem:
                    _log.error("%s", problem)
                self._problem = problem

    async def _fetch(self) -> ServedModel:
        """Ask it what it serves once it is there; say why it is not where that takes long."""
        self._announce(f"waiting for the target at {self._address}")
        async with saying(self._complain):
            return await fetch_loading_model(self._channel, service=TARGET_SERVICE)

    async def _complain(self, waited_s: float) -> None:
        """Say that it has been waited for so long, and why it does not answer."""
        obstacle = await find_obstacle(self._channel, _REASON_S)
        if obstacle is not None:
            what = f"waiting for the target at {self._address}"
            self._announce(f"{what}: {obstacle.text}")
            level = logging.INFO if obstacle.is_not_ready else logging.WARNING
            _log.log(level, "%s, for %.0f s so far: %s", what, waited_s, obstacle.text)
