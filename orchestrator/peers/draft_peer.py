"""The draft service, as all requests share it: found, compared with the target, watched, and found again."""

import asyncio
import itertools
import logging
from collections.abc import Callable

import grpc

from orchestrator.drafting.drafter import Breaker
from orchestrator.drafting.patience import DraftPatience
from orchestrator.peers.pair import PairError, ServedModel, check_pair, fetch_loading_model
from orchestrator.peers.patient_session import target_unavailable
from orchestrator.peers.watch import describe_silence, describe_stranger, until_away
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, draft_pb2_grpc, generation_pb2, model_pb2, model_pb2_grpc
from services.frame.rpc.errors import REASON_NOT_READY

_log = logging.getLogger(__name__)
DRAFT_SERVICE = "outrider.v1.DraftService"
# A draft that does not answer for so long is told about, and again as often as this.
_SILENCE_S = 5.0
_REMINDER_S = 30.0
# Differences without harm that are told; `outrider pair` lists all.
_MOST_SHOWN = 3


class DraftPeer:
    """One draft service. `follow` it for as long as it is to be used; meanwhile the breaker says whether it can be."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        address: str,
        channel: grpc.aio.Channel,
        target: Callable[[], ServedModel],
    ) -> None:
        """`channel` leads to the draft at `address`; `target` tells what the target serves."""
        self.address = address
        self.breaker = Breaker(settings.draft_retry_s)
        self.breaker.disable("the draft service has not answered yet")
        self.stub = draft_pb2_grpc.DraftServiceStub(channel)
        self.served: ServedModel | None = None
        # What it serves, or served when it was last there; empty while that is not known.
        self.model = common_pb2.ModelInfo()
        self.patience = DraftPatience(settings.draft_timeout_s)
        self._retry_s = settings.draft_retry_s
        self._channel = channel
        self._target = target
        self._logged = ""
        self._differences: list[str] = []
        self._last_problem = ""
        # Set once another draft has answered than the one that is served.
        self._is_suspect = asyncio.Event()
        # Set while its drafts come too late, and nobody knows yet whether it answers at all.
        self._is_doubted = asyncio.Event()

    def status(self) -> generation_pb2.ServiceStatus:
        """Return its state."""
        return generation_pb2.ServiceStatus(
            address=self.address,
            is_available=not self.breaker.is_lost,
            reason=self.breaker.reason,
            model=self.served.info if self.served else None,
            notes=self._notes(),
        )

    def alone(self) -> ServedModel:
        """Return what it serves, where it is to answer by itself. Raises ServiceError where it cannot be used."""
        if self.served is None or self.breaker.is_disabled:
            raise target_unavailable(f"the draft model cannot answer: {self.breaker.reason}")
        if not self.model.max_draft_tokens:
            raise target_unavailable("the draft model cannot answer: its service is set to propose no tokens")
        return self.served

    async def describe(self) -> common_pb2.ModelInfo:
        """Ask it what it serves now."""
        stub = model_pb2_grpc.ModelServiceStub(self._channel)
        return (await stub.GetModel(model_pb2.GetModelRequest())).model

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        """Use it no more until it has been found and compared again: whoever answers does not serve `model`."""
        # A late word of somebody who asked for another draft than the one that was compared since proves nothing.
        if model is self.model:
            self._do_without(f"the draft at {self.address} is another one now: {reason}")
            self._is_suspect.set()

    def doubt(self) -> None:
        """Find out whether it answers at all, since its drafts do not come in time."""
        self._is_doubted.set()

    def note_problem(self, problem: str) -> None:
        """Take note of what kept a request that ends from using it, if anything did."""
        self._last_problem = problem

    async def follow(self) -> None:
        """Use the draft while it is there and fits; find out again whenever it was away, as it may be another one."""
        while True:
            try:
                self.served = await self._fetch()
                self.model = self.served.info
            except grpc.aio.AioRpcError as error:
                self._do_without(describe_stranger(error, self.address, "draft"))
            else:
                self._is_suspect.clear()
                self.compare()
                if reason := await self._until_away(self.served):
                    self._do_without(f"the draft service at {self.address} is away: {reason}")
            await asyncio.sleep(self._retry_s)

    def compare(self) -> None:
        """Use the draft, if one has been found, where its tokens are the target's; else say why not."""
        if self.served is None:
            return
        try:
            self._differences = check_pair(self._target(), self.served)
        except PairError as error:
            self._differences = []
            self._do_without(f"the draft does not fit the target: {error}")
            return
        info = self.served.info
        _log.info("draft %s at %s, at most %d draft tokens a cycle", info.name, self.address, info.max_draft_tokens)
        for note in self._shown_differences():
            _log.info("%s", note)
        self._logged = ""
        self.breaker.enable()

    def _shown_differences(self) -> list[str]:
        shown, num_left = self._differences[:_MOST_SHOWN], len(self._differences) - _MOST_SHOWN
        return shown + ([f"{num_left} more: `outrider pair` lists them"] if num_left > 0 else [])

    def _notes(self) -> list[str]:
        problem = self._last_problem
        return self._shown_differences() + ([f"the last request went on without it: {problem}"] if problem else [])

    async def _until_away(self, served: ServedModel) -> str:
        """Return why the draft is away, once it is; nothing where another one is suspected in its place."""
        suspicion = asyncio.create_task(self._is_suspect.wait())
        watch = asyncio.create_task(until_away(self._channel, DRAFT_SERVICE, served.info))
        doubts = asyncio.create_task(self._settle_doubts())
        try:
            await asyncio.wait((suspicion, watch), return_when=asyncio.FIRST_COMPLETED)
            return watch.result() if watch.done() else ""
        finally:
            for task in (suspicion, watch, doubts):
                task.cancel()

    async def _settle_doubts(self) -> None:
        """Tell a draft that is late from one that is lost, whenever there is doubt."""
        while True:
            await self._is_doubted.wait()
            self._is_doubted.clear()
            error = await describe_silence(self._channel, _SILENCE_S)
            if error and self.breaker.is_open and self.breaker.fail(error.message):
                _log.warning("the draft service is lost, decoding goes on without it: %s", error.message)

    def _do_without(self, reason: str) -> None:
        """Ask the draft nothing until it is found again."""
        if reason != self._logged:
            _log.warning("decoding goes on without the draft at %s: %s", self.address, reason)
        self._logged = reason
        self.breaker.disable(reason)

    async def _fetch(self) -> ServedModel:
        """Ask the draft what it serves once it is there; say why it is not where that takes long."""
        complaint = asyncio.create_task(self._complain())
        try:
            return await fetch_loading_model(self._channel, self._retry_s, DRAFT_SERVICE)
        finally:
            complaint.cancel()

    async def _complain(self) -> None:
        """Say why there is no answer: to status at once, to the log again and again."""
        for pause_s in itertools.chain((0.0, _SILENCE_S), itertools.repeat(_REMINDER_S)):
            await asyncio.sleep(pause_s)
            error = await describe_silence(self._channel, _SILENCE_S)
            if error is None:
                continue
            self.breaker.disable(f"the draft service does not answer: {error.message}")
            if pause_s:
                # One that loads its model is as it should be.
                level = logging.INFO if error.reason == REASON_NOT_READY else logging.WARNING
                _log.log(level, "the draft at %s does not answer and is done without: %s", self.address, error.message)
