"""Remote drafters whose service answers as a test tells it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import Breaker
from orchestrator.drafting.patience import DraftPatience
from orchestrator.drafting.remote import RemoteDrafter
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry
from tests.unit.orchestrator.scripted import Script, ScriptedDraft, serving
from tests.waiting import PATIENCE_S

PROMPT = [1, 2, 3]
SAMPLING = common_pb2.Sampling(temperature=0.5, seed=9)
VOCABULARY_SIZE = 100
STAND_IN = 5


def proposal(*tokens: int) -> draft_pb2.ProposeResult:
    return draft_pb2.ProposeResult(draft_tokens=[draft_pb2.DraftToken(token=token) for token in tokens])


def error(code: grpc.StatusCode, reason: str = "SOME_REASON") -> ServiceError:
    return ServiceError(code, reason, "a message")


def described(**fields: Any) -> common_pb2.ModelInfo:
    """What a draft service says that it serves."""
    values: dict[str, Any] = {"tokenizer_fingerprint": "one", "vocabulary_size": VOCABULARY_SIZE}
    return common_pb2.ModelInfo(**{**values, "max_draft_tokens": 16, "context_length": 10_000, **fields})


class Service:
    """What the sessions of a draft service share."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker, patience: DraftPatience) -> None:
        self.address = "the.draft:1"
        self.stub = draft_pb2_grpc.DraftServiceStub(channel)
        self.breaker = breaker
        self.patience = patience
        self.model = described()
        self.suspicions: list[tuple[common_pb2.ModelInfo, str]] = []
        self.num_doubts = 0
        self.problems: list[str] = []

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        self.suspicions.append((model, reason))

    def doubt(self) -> None:
        self.num_doubts += 1

    def note_problem(self, problem: str) -> None:
        self.problems.append(problem)


def drafter_of(service: Service, min_joint_confidence: float = 0.0, **sampling: Any) -> RemoteDrafter:
    """A session of it."""
    params = common_pb2.Sampling(**sampling) if sampling else SAMPLING
    return RemoteDrafter(
        service,
        "the session",
        DraftView(params, [], STAND_IN),
        Telemetry.off(),
        vocabulary_size=VOCABULARY_SIZE,
        min_joint_confidence=min_joint_confidence,
    )


@asynccontextmanager
async def serviced(
    script: Script,
    *,
    breaker: Breaker | None = None,
    patience: DraftPatience | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncIterator[Service]:
    """A service that follows the script."""
    add = draft_pb2_grpc.add_DraftServiceServicer_to_server
    async with serving(add, ScriptedDraft(script), options) as channel:
        # Tries again at once.
        yield Service(channel, breaker or Breaker(retry_s=0.0), patience or DraftPatience(PATIENCE_S))


@asynccontextmanager
async def attached(
    script: Script,
    *,
    breaker: Breaker | None = None,
    patience: DraftPatience | None = None,
    min_joint_confidence: float = 0.0,
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncIterator[RemoteDrafter]:
    """A drafter whose service follows the script."""
    async with serviced(script, breaker=breaker, patience=patience, options=options) as service:
        drafter = drafter_of(service, min_joint_confidence)
        yield drafter
        await drafter.close()


def own_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our own loggers said: gRPC's event of an earlier test's loop, which is closed, is told by asyncio."""
    return [record.getMessage() for record in caplog.records if record.name.startswith(("orchestrator", "services"))]
