"""Sessions of a target that follows a script."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from orchestrator.peers.target import TargetSession
from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry
from tests.unit.orchestrator.scripted import Script, ScriptedTarget, serving
from tests.waiting import PATIENCE_S

PROMPT = [1, 2, 3]
SAMPLING = common_pb2.Sampling(temperature=0.5, seed=9)
LIMITS: dict[str, Any] = {"max_draft_tokens": 16, "context_length": 100}
MODEL = common_pb2.ModelInfo(name="target", tokenizer_fingerprint="one", numerics_fingerprint="one", **LIMITS)
UNAVAILABLE = ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "it is stopping")


def verdict(num_accepted: int, next_token: int) -> target_pb2.VerifyBatchResult:
    return target_pb2.VerifyBatchResult(num_accepted=num_accepted, next_token=next_token)


@asynccontextmanager
async def attached(
    script: Script,
    described: Sequence[common_pb2.ModelInfo] = (),
    *,
    patience_s: float = PATIENCE_S,
    require_exact: bool = False,
    num_log_probabilities: int | None = None,
    wants_quotes: bool = False,
    model: common_pb2.ModelInfo = MODEL,
) -> AsyncIterator[TargetSession]:
    """A session whose service follows the script; `described` is what it says it serves, each time that it is asked."""
    descriptions = iter(described)

    async def describe() -> common_pb2.ModelInfo:
        return next(descriptions)

    async with serving(target_pb2_grpc.add_TargetServiceServicer_to_server, ScriptedTarget(script)) as channel:
        session = TargetSession(
            target_pb2_grpc.TargetServiceStub(channel),
            "the session",
            SAMPLING,
            Telemetry.off(),
            model=model,
            describe=describe,
            patience_s=patience_s,
            num_log_probabilities=num_log_probabilities,
            require_exact=require_exact,
            wants_quotes=wants_quotes,
        )
        yield session
        assert not list(descriptions), "it was asked less often than expected"
        await session.close()
