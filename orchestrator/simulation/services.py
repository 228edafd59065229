"""The service's half of both services: real requests, checks and replies; works that follow a script."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul

from opentelemetry.trace import Span

from orchestrator.simulation.engine import CONTEXT_LENGTH
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.script import VOCABULARY_SIZE, Script
from outrider.v1 import common_pb2, draft_pb2, target_pb2
from services.engine.runtime.interface import Logits
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.work import Prefix, Work
from services.engine.wire import SessionMethod, checked_prefix, deadline_s
from services.frame.server import FrameServer

MAX_DRAFT_TOKENS = 64


# The scripts of all streams, by the id of their sessions, which is the same at both services.
Scripts = Mapping[str, Script]


def scripts_of(scenario: Scenario, seed: int) -> Scripts:
    """Return what target and draft say in a scenario."""
    return {
        str(index): Script(seed, index, scenario.acceptance, scenario.phase_length)
        for index in range(scenario.num_streams)
    }


def model_info(name: str) -> common_pb2.ModelInfo:
    """Return what a service says of itself."""
    return common_pb2.ModelInfo(
        name=name,
        tokenizer_fingerprint="script",
        vocabulary_size=VOCABULARY_SIZE,
        context_length=CONTEXT_LENGTH,
        max_draft_tokens=MAX_DRAFT_TOKENS,
    )


class ScriptedVerification(Work[target_pb2.VerifyBatchResult]):
    """Compares draft tokens with the script, once their rows have been decoded."""

    def __init__(self, prefix: Prefix, request: target_pb2.VerifyBatchRequest, script: Script) -> None:
        super().__init__(prefix, request.draft_tokens, deadline_s=deadline_s(request.timeout_ms))
        self.worths = list(accumulate(request.draft_chance, mul))
        self.wants_quote = request.HasField("quote_version")
        self._request = request
        self._script = script

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Accept draft tokens up to the first that is not the script's; that one follows."""
        length, num_accepted = self.prefix.length, 0
        draft_tokens = self._request.draft_tokens[: len(logits) - 1]
        while (
            num_accepted < len(draft_tokens) and self._script.token(length + num_accepted) == draft_tokens[num_accepted]
        ):
            num_accepted += 1
        next_token = self._script.token(length + num_accepted)
        num_skipped = len(self._request.draft_tokens) - len(draft_tokens)
        result = target_pb2.VerifyBatchResult(num_accepted=num_accepted, next_token=next_token, num_skipped=num_skipped)
        if self.quote is not None and self.quote.version != self._request.quote_version:
            result.quote.CopyFrom(self.quote)
        return self.finish(result, length + num_accepted, num_accepted + 1)


class ScriptedProposal(Work[draft_pb2.ProposeResult]):
    """Proposes the script's guesses, one after each decode, as `services.draft.servicer.ProposalWork` does."""

    def __init__(self, prefix: Prefix, request: draft_pb2.ProposeRequest, script: Script) -> None:
        super().__init__(prefix, deadline_s=deadline_s(request.timeout_ms))
        self.waits_for_slot = self.deadline_s is None
        self.is_awaited = not request.reads_ahead
        self._num_draft_tokens = request.num_draft_tokens
        self._min_joint_confidence = request.min_joint_confidence
        self._joint_confidence = 1.0
        self._early_end = request.early_end if request.HasField("early_end") else None
        self._joint_chance = 1.0
        self._script = script
        self.result = draft_pb2.ProposeResult()

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Guess the next token."""
        token, chance = self._script.draft_token(len(held)), self._script.guess(len(held)).chance
        self._joint_confidence *= chance
        if self._joint_confidence < self._min_joint_confidence:
            return self._finished(held)
        margin = _margin(chance)
        self.result.draft_tokens.add(token=token, probability=chance, margin=margin)
        if len(self.result.draft_tokens) == self._num_draft_tokens:
            return self._finished(held)
        if self._early_end is not None:
            self._joint_chance *= self._early_end.chances[bisect_right(self._early_end.margins, margin)]
            if self._joint_chance < self._early_end.min_joint_chance:
                return self._finished(held)
        return [token]

    def _finished(self, held: Sequence[int]) -> Sequence[int]:
        return self.finish(self.result, len(held), len(self.result.draft_tokens))


class Verify(
    SessionMethod[target_pb2.VerifyBatchRequest, target_pb2.VerifyBatchResult, target_pb2.VerifyBatchResponse]
):
    """VerifyStream of a target that follows scripts."""

    def __init__(self, server: FrameServer, engine: Engine, scripts: Scripts) -> None:
        super().__init__(
            server, engine, "target.verify", target_pb2.VerifyBatchResponse, target_pb2.VerifyStreamResponse
        )
        self._scripts = scripts

    def work(self, request: target_pb2.VerifyBatchRequest) -> ScriptedVerification:
        """Return the verification that a request asks for."""
        prefix = checked_prefix(request.context, VOCABULARY_SIZE)
        return ScriptedVerification(prefix, request, self._scripts[prefix.session_id])

    def trace(self, span: Span, result: target_pb2.VerifyBatchResult) -> None:
        """Say how much of the draft stood."""
        span.set_attribute("outrider.cycle.num_accepted", result.num_accepted)


class Propose(SessionMethod[draft_pb2.ProposeRequest, draft_pb2.ProposeResult, draft_pb2.ProposeResponse]):
    """ProposeStream of a draft that follows scripts."""

    def __init__(self, server: FrameServer, engine: Engine, scripts: Scripts) -> None:
        super().__init__(server, engine, "draft.propose", draft_pb2.ProposeResponse, draft_pb2.ProposeStreamResponse)
        self._scripts = scripts

    def work(self, request: draft_pb2.ProposeRequest) -> ScriptedProposal:
        """Return the proposal that a request asks for."""
        prefix = checked_prefix(request.context, VOCABULARY_SIZE)
        return ScriptedProposal(prefix, request, self._scripts[prefix.session_id])

    def trace(self, span: Span, result: draft_pb2.ProposeResult) -> None:
        """Say how long the draft is."""
        span.set_attribute("outrider.cycle.num_draft_tokens", len(result.draft_tokens))


def _margin(chance: float) -> float:
    """Return the margin of a token with such a chance, as if the second best had what is left of it."""
    if chance <= 0.5:
        return 0.0
    return math.log(chance / (1 - chance)) if chance < 1 else math.inf
