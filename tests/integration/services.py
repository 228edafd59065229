"""Real servers in this process, and clients of them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from orchestrator.application import OrchestratorApplication
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from services.draft.application import DraftApplication
from services.draft.settings import DraftSettings
from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.scheduling.engine import Engine
from services.engine.startup.model_service import LoadedModel
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.waiting import PATIENCE_S, soon

# Small and quick to start: nothing is measured, probed or shared out.
ENGINE_SETTINGS: dict[str, Any] = {
    "threads": 1,
    "slots": 4,
    "context": 256,
    "batch_rows": 256,
    "prefill_rows": 64,
    "flash_attention": "off",
}


class Gate:
    """Lets decodes pass, or holds one back until it is opened again."""

    def __init__(self) -> None:
        self._hold_at: int | None = None
        self._is_open = threading.Event()
        self._is_open.set()
        self.num_decodes = 0
        self.is_holding = False

    def hold_after(self, num_decodes: int) -> None:
        """Let so many decodes more pass, and hold the next one."""
        self._hold_at = self.num_decodes + num_decodes

    def open(self) -> None:
        """Let the decode that is held, and all others, pass."""
        self._hold_at = None
        self._is_open.set()

    async def reached(self) -> None:
        """Return once a decode is held."""
        await soon(lambda: self.is_holding)

    def enter(self) -> None:
        """Called by a decode."""
        if self.num_decodes == self._hold_at:
            self._is_open.clear()
            self.is_holding = True
            self._is_open.wait(PATIENCE_S)
            self.is_holding = False
        self.num_decodes += 1


class GatedRuntime:
    """A runtime behind a gate."""

    def __init__(self, inner: Runtime, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        self._gate.enter()
        return self._inner.decode(segments)


class GatedTarget(TargetApplication):
    """A target whose decodes go through a gate."""

    gate: Gate

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        # Rounded keys and values would flip a choice now and then where a target is not exact.
        precise = replace(loaded, options=replace(loaded.options, cache_in_f32=True))
        return GatedRuntime(super().make_runtime(precise), self.gate)


class GatedDraft(DraftApplication):
    """A draft whose decodes go through a gate."""

    gate: Gate

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        return GatedRuntime(super().make_runtime(loaded), self.gate)


def target_server(
    model: Path, gate: Gate | None = None, telemetry: Telemetry | None = None, **settings: Any
) -> FrameServer:
    """A target service on a free port, not started."""
    values = TargetSettings(**{"model": model, "port": 0, "exact": "off", **ENGINE_SETTINGS, **settings})
    application = GatedTarget(values)
    application.gate = gate or Gate()
    return FrameServer(values, application, telemetry)


def draft_server(
    model: Path, gate: Gate | None = None, telemetry: Telemetry | None = None, **settings: Any
) -> FrameServer:
    """A draft service on a free port, not started."""
    values = DraftSettings(**{"model": model, "port": 0, **ENGINE_SETTINGS, **settings})
    application = GatedDraft(values)
    application.gate = gate or Gate()
    return FrameServer(values, application, telemetry)


def orchestrator_server(
    target: str, draft: str = "", telemetry: Telemetry | None = None, **settings: Any
) -> FrameServer:
    """An orchestrator on a free port, not started. It tries again soon, and leaves lookup to tests of it."""
    values = OrchestratorSettings(
        **{
            "port": 0,
            "target": target,
            "draft": draft,
            "drafter": "remote",
            "draft_retry_s": 0.05,
            "draft_timeout_s": PATIENCE_S,
            **settings,
        }
    )
    return FrameServer(values, OrchestratorApplication(values), telemetry)


@dataclass
class Generated:
    """A whole answer."""

    chunks: list[generation_pb2.GenerateChunk] = field(default_factory=list)
    prompt: list[generation_pb2.PromptToken] = field(default_factory=list)
    summary: generation_pb2.GenerateSummary = field(default_factory=generation_pb2.GenerateSummary)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def tokens(self) -> list[generation_pb2.GeneratedToken]:
        return [token for chunk in self.chunks for token in chunk.tokens]

    @property
    def ids(self) -> list[int]:
        return [token.token for token in self.tokens]

    @property
    def counts(self) -> generation_pb2.SpeculationStatistics:
        return self.summary.speculation


async def until_idle(server: FrameServer) -> None:
    """Return once a draft or target service has nothing left to do: no request in the queue, no slot at work."""
    engine: Engine = server._application.engine  # type: ignore[attr-defined]
    await soon(lambda: engine.num_unanswered == engine.num_waiting == engine.num_active == 0)
    assert not any(slot.is_busy for slot in engine._scheduler.admission.slots.slots)


async def model_of(server: FrameServer) -> common_pb2.ModelInfo:
    """Return what a draft or target service says of its model."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        return (await model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest())).model


OFF = generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_OFF)
AUTO = generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_AUTO)


def fixed(num_draft_tokens: int) -> generation_pb2.Speculation:
    """Speculation with so many draft tokens in every cycle."""
    return generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_FIXED, num_draft_tokens=num_draft_tokens)


def generate_request(text: str = "def main(", **fields: Any) -> generation_pb2.GenerateRequest:
    """A request for 48 tokens after a text."""
    values: dict[str, Any] = {"text": text, "max_tokens": 48, "seed": 5}
    if "tokens" in fields or "chat" in fields:
        del values["text"]
    temperature = fields.pop("temperature", None)
    if temperature is not None:
        values["sampling"] = common_pb2.Sampling(temperature=temperature)
    return generation_pb2.GenerateRequest(**{**values, **fields})


class Client:
    """A client of an orchestrator."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = generation_pb2_grpc.GenerationServiceStub(channel)

    async def generate(
        self, text: str = "def main(", *, metadata: Sequence[tuple[str, str]] = (), **fields: Any
    ) -> Generated:
        """Return a whole answer."""
        generated = Generated()
        request = generate_request(text, **fields)
        async for message in self.stub.Generate(request, timeout=PATIENCE_S, metadata=metadata):
            if message.HasField("chunk"):
                generated.chunks.append(message.chunk)
            elif message.HasField("prompt"):
                assert not generated.chunks
                generated.prompt.extend(message.prompt.tokens)
            else:
                generated.summary = message.summary
        return generated

    async def status(self) -> generation_pb2.GetStatusResponse:
        """Return the orchestrator's state."""
        return await self.stub.GetStatus(generation_pb2.GetStatusRequest(), timeout=PATIENCE_S)

    async def until_draft(self, is_available: bool) -> None:
        """Return once the orchestrator has found out whether there is a draft."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.status()).draft.is_available != is_available:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(server: FrameServer) -> AsyncIterator[Client]:
    """A client of an orchestrator that has been started."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Client(channel)
