"""What a generation is served with: one target and any number of drafts, and sessions of them."""

import asyncio
import uuid
from collections.abc import Callable, Sequence

import grpc

from orchestrator.drafting.draft_pool import DraftPool
from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import Drafter, FirstDrafter, NoDrafter
from orchestrator.drafting.experience import Experience
from orchestrator.drafting.ngram import NgramDrafter
from orchestrator.drafting.prediction import PredictionDrafter
from orchestrator.drafting.remote import RemoteDrafter
from orchestrator.drafting.texts import BetterDrafter, LongestMatchDrafter
from orchestrator.peers.draft_model import DraftModelSession
from orchestrator.peers.draft_peer import DRAFT_SERVICE, DraftPeer
from orchestrator.peers.target import TargetSession
from orchestrator.peers.target_peer import TARGET_SERVICE, TargetPeer
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.frame.rpc.channel import Credentials, client_credentials, open_channel, service_config
from services.frame.telemetry import Telemetry

_REMOTE = (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_REMOTE)
_NGRAM = (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_NGRAM)


class Backend:
    """The services, shared by all generations. `connect` it first, `close` it last."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        telemetry: Telemetry,
        announce: Callable[[str], object] = lambda what: None,
    ) -> None:
        """`announce` is told what `connect` waits for, whenever that is another thing."""
        self.telemetry = telemetry
        self._settings = settings
        credentials = client_credentials(settings)
        self._channels = [_open(settings, credentials, settings.target, TARGET_SERVICE)]
        self.target = TargetPeer(settings, self._channels[0], announce)
        self.drafts: list[DraftPeer] = []
        for address in settings.draft_addresses:
            channel = _open(settings, credentials, address, DRAFT_SERVICE)
            self._channels.append(channel)
            self.drafts.append(DraftPeer(settings, address, channel, lambda: self.target.served))
        self.experience = Experience(self.drafts)
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Return once the target has answered; go on watching it, and looking for drafts, in the background.

        Raises:
            StartupError: what answers at the target's address is no target service.
        """
        await self.target.find()
        self._tasks.append(asyncio.create_task(self.target.follow(self._compare)))
        self._tasks += [asyncio.create_task(draft.follow()) for draft in self.drafts]

    async def close(self) -> None:
        """Close the channels."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    def models(self) -> dict[str, TargetPeer | DraftPeer]:
        """Return who answers requests by each name of a model; the first one is meant where none is named."""
        peers: list[TargetPeer | DraftPeer] = [self.target, *self.drafts]
        named = {"target": peers[0]}
        if self.drafts:
            named["draft"] = next((draft for draft in self.drafts if not draft.breaker.is_disabled), self.drafts[0])
        for peer in peers:
            if peer.model.name:
                named.setdefault(peer.model.name, peer)
        return named

    def open_target(
        self,
        sampling: common_pb2.Sampling,
        *,
        num_log_probabilities: int | None,
        require_exact: bool,
        wants_quotes: bool = False,
    ) -> TargetSession:
        """Start a session on the target, which must have been connected."""
        return TargetSession(
            self.target.stub,
            uuid.uuid4().hex,
            sampling,
            self.telemetry,
            model=self.target.served.info,
            describe=self.target.describe,
            patience_s=self._settings.target_patience_s,
            on_verified=[draft.patience.note_cycle for draft in self.drafts],
            num_log_probabilities=num_log_probabilities,
            require_exact=require_exact,
            wants_quotes=wants_quotes,
        )

    def open_drafter(
        self,
        sampling: common_pb2.Sampling,
        drafter: generation_pb2.Drafter.ValueType,
        *,
        min_joint_confidence: float,
        expected: Sequence[int] = (),
        num_prompt_tokens: int = 0,
    ) -> Drafter:
        """Return who drafts for a request, whose prediction joins in. The target must have been connected.

        `expected` are the tokens of the prediction, which follow those of the prompt.
        """
        drafters: list[Drafter] = []
        texts = self._text_drafters(sampling, drafter, expected, num_prompt_tokens)
        if drafter in _REMOTE and self.drafts:
            sessions = [self._remote_drafter(draft, sampling, min_joint_confidence) for draft in self.drafts]
            drafters.append(DraftPool(*sessions) if len(sessions) > 1 else sessions[0])
            if texts:
                # It has the last word as well, where the model does not try.
                drafters.insert(0, BetterDrafter(*texts))
        elif drafter == generation_pb2.DRAFTER_REMOTE:
            drafters.append(NoDrafter("the orchestrator has no draft service"))
        drafters += texts
        if drafters and not self.target.served.info.max_draft_tokens:
            problem = "the target is set to take no draft tokens"
            drafters = [NoDrafter(problem)]
            for draft in self.drafts:
                draft.note_problem(problem)
        return FirstDrafter(*drafters)

    def open_draft_model(
        self, draft: DraftPeer, sampling: common_pb2.Sampling, *, max_length: int
    ) -> DraftModelSession:
        """Start a session of a draft that answers by itself. The target must have been connected."""
        return DraftModelSession(
            draft.stub,
            uuid.uuid4().hex,
            self._draft_view(sampling),
            self.telemetry,
            model=draft.model,
            describe=draft.describe,
            patience_s=self._settings.target_patience_s,
            max_length=max_length,
            vocabulary_size=self.target.model.vocabulary_size,
        )

    def usual_drafter(self, drafter: generation_pb2.Drafter.ValueType) -> generation_pb2.Drafter.ValueType:
        """Return who drafts at the moment, where that is left to `drafter`."""
        if drafter == generation_pb2.DRAFTER_PREDICTION:
            return drafter
        if drafter in _REMOTE and not all(draft.breaker.is_open for draft in self.drafts):
            return generation_pb2.DRAFTER_REMOTE
        return generation_pb2.DRAFTER_NGRAM if drafter in _NGRAM else generation_pb2.DRAFTER_NONE

    def draft_overhead(self) -> float:
        """Return the memory of all drafts, weights and caches, in percent of the target's."""
        drafts = [draft.served.info for draft in self.drafts if draft.served is not None]
        if not drafts:
            return 0.0
        target = self.target.served.info
        num_bytes = sum(draft.model_bytes + draft.cache_bytes for draft in drafts)
        return 100 * num_bytes / (target.model_bytes + target.cache_bytes)

    def _compare(self) -> None:
        for draft in self.drafts:
            draft.compare()

    def _remote_drafter(
        self, draft: DraftPeer, sampling: common_pb2.Sampling, min_joint_confidence: float
    ) -> RemoteDrafter:
        return RemoteDrafter(
            draft,
            uuid.uuid4().hex,
            self._draft_view(sampling),
            self.telemetry,
            vocabulary_size=self.target.model.vocabulary_size,
            min_joint_confidence=min_joint_confidence,
        )

    def _draft_view(self, sampling: common_pb2.Sampling) -> DraftView:
        target = self.target.served
        return DraftView(sampling, target.info.suppressed_tokens, target.stand_in)

    def _text_drafters(
        self,
        sampling: common_pb2.Sampling,
        drafter: generation_pb2.Drafter.ValueType,
        expected: Sequence[int],
        num_prompt_tokens: int,
    ) -> list[Drafter]:
        """Return at most one, which drafts out of all texts that there are."""
        served = self.target.served
        never = {*served.info.end_of_generation_tokens, *served.info.suppressed_tokens, *sampling.suppressed_tokens}
        found: list[Drafter] = []
        if expected:
            found.append(PredictionDrafter(expected, num_prompt_tokens, never | served.control_tokens))
        if drafter in _NGRAM:
            found.append(NgramDrafter(self._settings.ngram_min, self._settings.ngram_max, never))
        return [LongestMatchDrafter(*found)] if len(found) > 1 else found


def _open(settings: OrchestratorSettings, credentials: Credentials, address: str, service: str) -> grpc.aio.Channel:
    return open_channel(
        address,
        credentials=credentials,
        proxy=settings.peer_proxy,
        max_message_bytes=settings.max_message_bytes,
        config=service_config([(service, ""), ("outrider.v1.ModelService", "")]),
    )
