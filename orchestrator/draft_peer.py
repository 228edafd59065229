"""The draft service, as all requests share it: found, compared with the target, watched, and found again."""

import asyncio
import itertools
import logging
from collections.abc import Callable

import grpc

from orchestrator.breaker import Breaker
from orchestrator.pair import PairError, ServedModel, check_pair, fetch_loading_model
from orchestrator.patience import DraftPatience
from orchestrator.settings import OrchestratorSettings
from orchestrator.watch import describe_silence, until_away, words_of
from outrider.v1 import draft_pb2_grpc, generation_pb2
from services.frame.errors import REASON_NOT_READY

_log = logging.getLogger(__name__)
DRAFT_SERVICE = "outrider.v1.DraftService"
# A draft that does not answer for so long is told about, and again as often as this.
_SILENCE_S = 5.0
_REMINDER_S = 30.0


class DraftPeer:
    """One draft service. `follow` it for as long as it is to be used; meanwhile the breaker says whether it can be."""

    def __init__(
        self, settings: OrchestratorSettings, channel: grpc.aio.Channel, target: Callable[[], ServedModel]
    ) -> None:
        """`channel` leads to the draft of the settings; `target` tells what the target serves."""
        self.breaker = Breaker(settings.draft_retry_s)
        self.breaker.disable("the draft service has not answered yet")
        self.stub = draft_pb2_grpc.DraftServiceStub(channel)
        self.served: ServedModel | None = None
        self.patience = DraftPatience(settings.draft_timeout_s)
        self._address = settings.draft
        self._retry_s = settings.draft_retry_s
        self._channel = channel
        self._target = target
        self._told = ""

    @property
    def max_draft_tokens(self) -> int:
        """Most draft tokens that it proposes at a time, 0 while that is not known."""
        return self.served.info.max_draft_tokens if self.served else 0

    def status(self) -> generation_pb2.ServiceStatus:
        """Return its state."""
        return generation_pb2.ServiceStatus(
            address=self._address,
            is_available=not self.breaker.is_open,
            reason=self.breaker.reason,
            model=self.served.info if self.served else None,
        )

    async def follow(self) -> None:
        """Use the draft while it is there and fits; find out again whenever it was away, as it may be another one."""
        while True:
            try:
                self.served = await self._fetch()
            except grpc.aio.AioRpcError as error:
                self._do_without(f"what answers at {self._address} is no draft service: {words_of(error)}")
            else:
                self.compare()
                reason = await until_away(self._channel, DRAFT_SERVICE, self.served.info)
                self._do_without(f"the draft service at {self._address} is away: {reason}")
            await asyncio.sleep(self._retry_s)

    def compare(self) -> None:
        """Use the draft, if one has been found, where its tokens are the target's; else say why not."""
        if self.served is None:
            return
        try:
            check_pair(self._target(), self.served)
        except PairError as error:
            self._do_without(f"the draft does not fit the target: {error}")
            return
        info = self.served.info
        _log.info("draft %s at %s, at most %d draft tokens a cycle", info.name, self._address, info.max_draft_tokens)
        self._told = ""
        self.breaker.enable()

    def _do_without(self, reason: str) -> None:
        """Ask the draft nothing until it is found again."""
        if reason != self._told:
            _log.warning("decoding goes on without a draft: %s", reason)
        self._told = reason
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
                _log.log(level, "the draft at %s does not answer and is done without: %s", self._address, error.message)
