"""The services behind the orchestrator: channels, what they serve, whether they fit, and sessions on them."""

import asyncio
import contextlib
import logging
import uuid

import grpc

from orchestrator.breaker import Breaker
from orchestrator.drafter import Drafter, FirstDrafter
from orchestrator.ngram import NgramDrafter
from orchestrator.pair import PairError, ServedModel, check_pair, fetch_loading_model
from orchestrator.remote import RemoteDrafter
from orchestrator.settings import OrchestratorSettings
from orchestrator.speculation import DRAFTERS, Plan
from orchestrator.target import TargetSession
from outrider.v1 import common_pb2, draft_pb2_grpc, generation_pb2, model_pb2, model_pb2_grpc, target_pb2_grpc
from services.frame.channel import client_tls, open_channel, service_config
from services.frame.health import watch_health
from services.frame.startup import StartupError
from services.frame.telemetry import Telemetry

_log = logging.getLogger(__name__)
TARGET_SERVICE = "outrider.v1.TargetService"
DRAFT_SERVICE = "outrider.v1.DraftService"
_REMOTE = (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_REMOTE)
_NGRAM = (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_NGRAM)


class Backend:
    """One target and at most one draft, shared by all generations. `connect` it first, `close` it last."""

    def __init__(self, settings: OrchestratorSettings, telemetry: Telemetry) -> None:
        self._settings = settings
        self.telemetry = telemetry
        self._target_channel = self._open(settings.target, TARGET_SERVICE)
        self.target_stub = target_pb2_grpc.TargetServiceStub(self._target_channel)
        self.target: ServedModel | None = None
        self._draft_channel = self._open(settings.draft, DRAFT_SERVICE) if settings.draft else None
        self.draft: ServedModel | None = None
        self._breaker = Breaker(settings.draft_retry_s)
        self._following: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Return once the target has answered; go on looking for the draft in the background.

        Raises:
            StartupError: what answers at the target's address is no target service.
        """
        try:
            self.target = await fetch_loading_model(self._target_channel)
        except grpc.aio.AioRpcError as error:
            address = self._settings.target
            raise StartupError(
                f"what answers at {address} is no target service ({error.details()}): name another --target"
            ) from error
        _log.info("target %s at %s", self.target.info.name, self._settings.target)
        if self._draft_channel is not None:
            self._breaker.disable("the draft service has not answered yet")
            self._following = asyncio.create_task(self._follow_draft(self._draft_channel, self.target))

    async def close(self) -> None:
        """Close the channels."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._target_channel.close()
        if self._draft_channel is not None:
            await self._draft_channel.close()

    def open_target(
        self, sampling: common_pb2.Sampling, *, num_log_probabilities: int | None, require_exact: bool
    ) -> TargetSession:
        """Start a session on the target, which must have been connected."""
        assert self.target is not None
        return TargetSession(
            self.target_stub,
            uuid.uuid4().hex,
            sampling,
            self.telemetry,
            model=self.target.info,
            describe=self._describe_target,
            patience_s=self._settings.target_patience_s,
            num_log_probabilities=num_log_probabilities,
            require_exact=require_exact,
        )

    def open_drafter(self, sampling: common_pb2.Sampling, plan: Plan) -> Drafter:
        """Return who drafts for a request. The target must have been connected."""
        drafters: list[Drafter] = []
        if plan.drafter in _REMOTE and self._draft_channel is not None:
            drafters.append(self._remote_drafter(self._draft_channel, sampling, plan.min_joint_confidence))
        if plan.drafter in _NGRAM:
            drafters.append(self._ngram_drafter())
        return FirstDrafter(*drafters)

    def target_status(self) -> generation_pb2.ServiceStatus:
        """Return the target's state."""
        is_ready = self._target_channel.get_state() in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE)
        return generation_pb2.ServiceStatus(
            address=self._settings.target,
            is_available=is_ready,
            reason="" if is_ready else "the target service cannot be reached",
            model=self.target.info if self.target else None,
        )

    def draft_status(self) -> generation_pb2.ServiceStatus | None:
        """Return the draft's state, None when there is none."""
        if self._draft_channel is None:
            return None
        return generation_pb2.ServiceStatus(
            address=self._settings.draft,
            is_available=not self._breaker.is_open,
            reason=self._breaker.reason,
            model=self.draft.info if self.draft else None,
        )

    def drafter(self) -> generation_pb2.Drafter.ValueType:
        """Return who drafts at the moment, where a request leaves it open."""
        drafter = DRAFTERS[self._settings.drafter if self._settings.num_draft_tokens else "none"]
        if drafter in _REMOTE and self._draft_channel is not None and not self._breaker.is_open:
            return generation_pb2.DRAFTER_REMOTE
        return generation_pb2.DRAFTER_NGRAM if drafter in _NGRAM else generation_pb2.DRAFTER_NONE

    def draft_overhead(self) -> float:
        """Return the memory of the draft, weights and caches, in percent of the target's."""
        if self.target is None or self.draft is None:
            return 0.0
        target, draft = self.target.info, self.draft.info
        return 100 * (draft.model_bytes + draft.cache_bytes) / (target.model_bytes + target.cache_bytes)

    def _remote_drafter(
        self, channel: grpc.aio.Channel, sampling: common_pb2.Sampling, min_joint_confidence: float
    ) -> Drafter:
        assert self.target is not None
        return RemoteDrafter(
            draft_pb2_grpc.DraftServiceStub(channel),
            uuid.uuid4().hex,
            sampling,
            self.telemetry,
            self._breaker,
            vocabulary_size=self.target.info.vocabulary_size,
            timeout_s=self._settings.draft_timeout_s,
            most_draft_tokens=lambda: self.draft.info.max_draft_tokens if self.draft else 0,
            min_joint_confidence=min_joint_confidence,
        )

    def _ngram_drafter(self) -> Drafter:
        assert self.target is not None
        return NgramDrafter(
            self._settings.ngram_min, self._settings.ngram_max, self.target.info.end_of_generation_tokens
        )

    def _open(self, address: str, service: str) -> grpc.aio.Channel:
        return open_channel(
            address,
            tls=client_tls(self._settings),
            max_message_bytes=self._settings.max_message_bytes,
            config=service_config([(service, ""), ("outrider.v1.ModelService", "")]),
        )

    async def _describe_target(self) -> common_pb2.ModelInfo:
        stub = model_pb2_grpc.ModelServiceStub(self._target_channel)
        return (await stub.GetModel(model_pb2.GetModelRequest())).model

    async def _follow_draft(self, channel: grpc.aio.Channel, target: ServedModel) -> None:
        """Use the draft while it is there and fits; find out again whenever it was away, as it may be another one."""
        while True:
            try:
                self.draft = await fetch_loading_model(channel, self._settings.draft_retry_s)
                check_pair(target, self.draft)
            except grpc.aio.AioRpcError as error:
                reason = f"what answers at {self._settings.draft} is no draft service: {error.details()}"
                if reason != self._breaker.reason:
                    _log.warning("decoding goes on without a draft: %s", reason)
                self._breaker.disable(reason)
                await asyncio.sleep(self._settings.draft_retry_s)
                continue
            except PairError as error:
                _log.warning("the draft does not fit the target, decoding goes on without it: %s", error)
                self._breaker.disable(str(error))
            else:
                _log.info(
                    "draft %s at %s, at most %d draft tokens a cycle",
                    self.draft.info.name,
                    self._settings.draft,
                    self.draft.info.max_draft_tokens,
                )
                self._breaker.succeed()
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for is_serving in watch_health(channel, DRAFT_SERVICE):
                    if not is_serving:
                        break
            self._breaker.disable("the draft service is away")
            await asyncio.sleep(self._settings.draft_retry_s)
