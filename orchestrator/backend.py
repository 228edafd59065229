"""The services behind the orchestrator: channels, what they serve, whether they fit, and sessions on them."""

import asyncio
import logging
import uuid
from collections.abc import Callable

import grpc

from orchestrator.draft_peer import DRAFT_SERVICE, DraftPeer
from orchestrator.draft_view import DraftView
from orchestrator.drafter import Drafter, FirstDrafter, NoDrafter
from orchestrator.ngram import NgramDrafter
from orchestrator.obstacle import find_obstacle
from orchestrator.pair import ServedModel, fetch_loading_model
from orchestrator.remote import RemoteDrafter
from orchestrator.settings import OrchestratorSettings
from orchestrator.speculation import DRAFTERS, Plan
from orchestrator.target import TargetSession, target_unavailable
from orchestrator.watch import until_away, words_of
from outrider.v1 import common_pb2, generation_pb2, model_pb2, model_pb2_grpc, target_pb2_grpc
from services.frame.channel import client_tls, open_channel, service_config
from services.frame.startup import StartupError
from services.frame.telemetry import Telemetry
from services.frame.waiting import saying

_log = logging.getLogger(__name__)
TARGET_SERVICE = "outrider.v1.TargetService"
# Between looks at a target that is away or has no health service.
_RETRY_S = 0.2
# How long a target is given to say why it does not serve.
_REASON_S = 5.0
_REMOTE = (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_REMOTE)
_NGRAM = (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_NGRAM)


class Backend:
    """One target and at most one draft, shared by all generations. `connect` it first, `close` it last."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        telemetry: Telemetry,
        announce: Callable[[str], object] = lambda what: None,
    ) -> None:
        """Make it. `announce` is told what `connect` waits for, whenever that is another thing."""
        self._settings = settings
        self._announce = announce
        self.telemetry = telemetry
        self._target_channel = self._open(settings.target, TARGET_SERVICE)
        self.target_stub = target_pb2_grpc.TargetServiceStub(self._target_channel)
        self._target: ServedModel | None = None
        # Why it is not there.
        self._target_problem = ""
        # Set while the target is there and `_target` is what it serves.
        self._target_known = asyncio.Event()
        self._draft_channel = self._open(settings.draft, DRAFT_SERVICE) if settings.draft else None
        self._draft = (
            DraftPeer(settings, self._draft_channel, lambda: self.target) if self._draft_channel is not None else None
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Return once the target has answered; go on watching it, and looking for the draft, in the background.

        Raises:
            StartupError: what answers at the target's address is no target service.
        """
        try:
            self._know(await self._fetch_target())
        except grpc.aio.AioRpcError as error:
            address = self._settings.target
            raise StartupError(
                f"what answers at {address} is no target service ({words_of(error)}): name another --target"
            ) from error
        self._tasks.append(asyncio.create_task(self._follow_target()))
        if self._draft is not None:
            self._tasks.append(asyncio.create_task(self._draft.follow()))

    async def close(self) -> None:
        """Close the channels."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._target_channel.close()
        if self._draft_channel is not None:
            await self._draft_channel.close()

    @property
    def target(self) -> ServedModel:
        """What the target serves, or served when it was last there. It must have been connected."""
        assert self._target is not None, "methods are served once the backend is connected"
        return self._target

    async def ready_target(self) -> ServedModel:
        """Return what the target serves, once it is there. Raises ServiceError when patience ends before."""
        try:
            async with asyncio.timeout(self._settings.target_patience_s):
                await self._target_known.wait()
        except TimeoutError as error:
            waited = f"the target has been away for {self._settings.target_patience_s:g} s"
            raise target_unavailable(f"{waited}: {self._target_problem}") from error
        return self.target

    def open_target(
        self, sampling: common_pb2.Sampling, *, num_log_probabilities: int | None, require_exact: bool
    ) -> TargetSession:
        """Start a session on the target, which must have been connected."""
        return TargetSession(
            self.target_stub,
            uuid.uuid4().hex,
            sampling,
            self.telemetry,
            model=self.target.info,
            describe=self._describe_target,
            patience_s=self._settings.target_patience_s,
            on_verified=self._draft.patience.note_cycle if self._draft is not None else None,
            num_log_probabilities=num_log_probabilities,
            require_exact=require_exact,
        )

    def open_drafter(self, sampling: common_pb2.Sampling, plan: Plan) -> Drafter:
        """Return who drafts for a request. The target must have been connected."""
        drafters: list[Drafter] = []
        if plan.drafter in _REMOTE and self._draft is not None:
            drafters.append(self._remote_drafter(self._draft, sampling, plan.min_joint_confidence))
        elif plan.drafter == generation_pb2.DRAFTER_REMOTE:
            drafters.append(NoDrafter("the orchestrator has no draft service"))
        if plan.drafter in _NGRAM:
            drafters.append(self._ngram_drafter(sampling))
        if drafters and not self.target.info.max_draft_tokens:
            drafters = [NoDrafter("the target is set to take no draft tokens")]
        return FirstDrafter(*drafters)

    def note_draft_problem(self, problem: str) -> None:
        """Take note of what kept a request that ends from using the draft, if anything did."""
        if self._draft is not None:
            self._draft.note_problem(problem)

    def target_status(self) -> generation_pb2.ServiceStatus:
        """Return the target's state."""
        is_ready = self._target_known.is_set()
        return generation_pb2.ServiceStatus(
            address=self._settings.target,
            is_available=is_ready,
            reason="" if is_ready else f"the target service is away: {self._target_problem}",
            model=self.target.info,
        )

    def draft_status(self) -> generation_pb2.ServiceStatus | None:
        """Return the draft's state, None when there is none."""
        return self._draft.status() if self._draft is not None else None

    def drafter(self) -> generation_pb2.Drafter.ValueType:
        """Return who drafts at the moment, where a request leaves it open."""
        drafter = DRAFTERS[self._settings.drafter if self._settings.num_draft_tokens else "none"]
        if drafter in _REMOTE and self._draft is not None and not self._draft.breaker.is_open:
            return generation_pb2.DRAFTER_REMOTE
        return generation_pb2.DRAFTER_NGRAM if drafter in _NGRAM else generation_pb2.DRAFTER_NONE

    def draft_overhead(self) -> float:
        """Return the memory of the draft, weights and caches, in percent of the target's."""
        if self._draft is None or self._draft.served is None:
            return 0.0
        target, draft = self.target.info, self._draft.served.info
        return 100 * (draft.model_bytes + draft.cache_bytes) / (target.model_bytes + target.cache_bytes)

    def _remote_drafter(self, draft: DraftPeer, sampling: common_pb2.Sampling, min_joint_confidence: float) -> Drafter:
        target = self.target
        return RemoteDrafter(
            draft,
            uuid.uuid4().hex,
            DraftView(sampling, target.info.suppressed_tokens, target.stand_in),
            self.telemetry,
            vocabulary_size=target.info.vocabulary_size,
            min_joint_confidence=min_joint_confidence,
        )

    def _ngram_drafter(self, sampling: common_pb2.Sampling) -> Drafter:
        info = self.target.info
        never = {*info.end_of_generation_tokens, *info.suppressed_tokens, *sampling.suppressed_tokens}
        return NgramDrafter(self._settings.ngram_min, self._settings.ngram_max, never)

    def _open(self, address: str, service: str) -> grpc.aio.Channel:
        return open_channel(
            address,
            tls=client_tls(self._settings),
            proxy=self._settings.peer_proxy,
            max_message_bytes=self._settings.max_message_bytes,
            config=service_config([(service, ""), ("outrider.v1.ModelService", "")]),
        )

    async def _describe_target(self) -> common_pb2.ModelInfo:
        stub = model_pb2_grpc.ModelServiceStub(self._target_channel)
        return (await stub.GetModel(model_pb2.GetModelRequest())).model

    def _know(self, target: ServedModel) -> None:
        """Take note of what the target serves."""
        if self._target is None or target.info.numerics_fingerprint != self._target.info.numerics_fingerprint:
            _log.info("target %s at %s", target.info.name, self._settings.target)
        self._target = target
        self._target_known.set()

    async def _follow_target(self) -> None:
        """Know what the target serves; find out again whenever it was away, as it may be another one."""
        while True:
            before = self.target
            self._target_problem = await until_away(self._target_channel, TARGET_SERVICE, before.info)
            self._target_known.clear()
            _log.warning("the target service at %s is away: %s", self._settings.target, self._target_problem)
            await self._find_target_again()
            _log.info("the target service is back")
            if self._draft is not None and self.target.info.tokenizer_fingerprint != before.info.tokenizer_fingerprint:
                self._draft.compare()

    async def _find_target_again(self) -> None:
        while not self._target_known.is_set():
            await asyncio.sleep(_RETRY_S)
            try:
                self._know(await self._fetch_target())
            except grpc.aio.AioRpcError as error:
                problem = f"what answers at {self._settings.target} is no target service: {words_of(error)}"
                if problem != self._target_problem:
                    _log.error("%s", problem)
                self._target_problem = problem

    async def _fetch_target(self) -> ServedModel:
        """Ask the target what it serves once it is there; say why it is not where that takes long."""
        self._announce(f"waiting for the target at {self._settings.target}")
        async with saying(self._complain):
            return await fetch_loading_model(self._target_channel, service=TARGET_SERVICE)

    async def _complain(self, waited_s: float) -> None:
        """Say that the target has been waited for so long, and why it does not answer."""
        obstacle = await find_obstacle(self._target_channel, _REASON_S)
        if obstacle is not None:
            what = f"waiting for the target at {self._settings.target}"
            self._announce(f"{what}: {obstacle.text}")
            level = logging.INFO if obstacle.is_not_ready else logging.WARNING
            _log.log(level, "%s, for %.0f s so far: %s", what, waited_s, obstacle.text)
