"""What a token costs in passes, rows, messages and bytes, compared with numbers that are committed.

A change to the cycle that makes tokens dearer shows here on any machine, as nothing is timed. Counted is what does not
depend on time: of one stream everything, of several the cycles in which all of them are made to meet in the target.

Left out is what depends on when requests come or on what decodes were measured to cost: how many sessions meet by
themselves, how prompts are cut into decodes, and how many decodes the draft takes for several streams, as its sessions
give one row or two, and unequal ones share a decode where that costs less. Times in messages are no numbers of a fixed
length.

`counts.json` has the numbers. Where a change of them is wanted, take those that the test shows.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from outrider.v1 import draft_pb2, generation_pb2, target_pb2
from services.engine.scheduling import scheduler
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.gathering import Gathering
from services.engine.scheduling.scheduler import Decode
from services.frame.server import FrameServer
from services.session.client import ServiceSession
from tests.integration.conftest import Pair
from tests.integration.services import (
    OFF,
    Client,
    Gate,
    Generated,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

COMMITTED = Path(__file__).with_name("counts.json")
NUM_STREAMS = 4
NUM_TOKENS = 96
# Many fewer than any stream has cycles: the first to come goes on until the last one is answered, and all stay to the
# end of the rounds.
NUM_ROUNDS = 4
# What follows them is chosen clearly.
PROMPTS = [*(f"class {name}:\n    def __init__(self" for name in ("Node", "Server", "Buffer")), "import os\n"]
# Closer choices could be other ones with another machine's rounding.
LEAST_MARGIN = 0.04


class Meeting(Gathering):
    """Once each session was answered, so many decodes wait until all have come; before and after they begin at once."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.num_rounds = 0

    def until_s(self, num_ready_rows: int, num_padded_rows: int = 0) -> float:
        is_waiting = self._are_all_known and self.num_rounds < NUM_ROUNDS and self._away()
        return self._clock() + (PATIENCE_S if is_waiting else 0.0)

    def begin(self, num_ready_rows: int, num_padded_rows: int = 0) -> None:
        self.num_rounds += self._are_all_known
        super().begin(num_ready_rows, num_padded_rows)

    def most_together(self) -> None:
        """All, however quick the model of a test is beside its draft."""

    @property
    def is_counted(self) -> bool:
        """Whether what is decoded now waited until all had come."""
        return 1 <= self.num_rounds <= NUM_ROUNDS

    @property
    def _are_all_known(self) -> bool:
        return len(self._sessions) == NUM_STREAMS


@dataclass
class Counts:
    """Messages of the cycles and decodes of both services."""

    num_messages: int = 0
    num_bytes: int = 0
    least_margin: float = 1.0
    verifications: list[Decode] = field(default_factory=list)
    drafts: list[Decode] = field(default_factory=list)

    def message(self, message: Any) -> None:
        """Count a request or a reply, without the times in it and what is asked for only to see margins."""
        copied = type(message)()
        copied.CopyFrom(message)
        match copied:
            case draft_pb2.ProposeStreamRequest():
                copied.propose.timeout_ms = 0
            case target_pb2.VerifyStreamRequest():
                copied.verify.ClearField("num_log_probabilities")
            case draft_pb2.ProposeResponse():
                copied.ClearField("timings")
                self._margins([each.margin for each in copied.result.draft_tokens])
            case target_pb2.VerifyBatchResponse():
                copied.ClearField("timings")
                told = [[top.log_probability for top in each.top] for each in copied.result.log_probabilities]
                self._margins([best - second for best, second in told])
                copied.result.ClearField("log_probabilities")
        self.num_messages += 1
        self.num_bytes += copied.ByteSize()

    def _margins(self, margins: Sequence[float]) -> None:
        self.least_margin = min([self.least_margin, *margins])


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counts = Counts()
    exchange = ServiceSession.exchange

    async def counted(session: Any, request_id: int, message: Any, timeout_s: float | None) -> Any:
        counts.message(message)
        reply = await exchange(session, request_id, message, timeout_s)
        counts.message(reply)
        return reply

    monkeypatch.setattr(ServiceSession, "exchange", counted)
    return counts


@dataclass(frozen=True)
class System:
    """A client of a whole system, and the gate and the engine of its target."""

    client: Client
    gate: Gate
    engine: Engine

    async def generate(self, num_streams: int, speculation: generation_pb2.Speculation) -> list[Generated]:
        """Let so many streams begin, all before the target decodes anything, and return them whole."""
        speculation.min_joint_confidence = 0.0
        self.gate.hold_after(0)
        tasks = [
            asyncio.ensure_future(
                self.client.generate(prompt, max_tokens=NUM_TOKENS, speculation=speculation, num_log_probabilities=2)
            )
            for prompt in PROMPTS[:num_streams]
        ]
        await soon(lambda: self.engine.num_unanswered == num_streams)
        self.gate.open()
        return list(await asyncio.gather(*tasks))


@asynccontextmanager
async def running(pair: Pair, counts: Counts, *, is_met: bool = False) -> AsyncIterator[System]:
    """A system whose decodes are counted, in whose target streams are made to meet where that is asked."""
    gate = Gate()
    async with AsyncExitStack() as stack:
        with patch.object(scheduler, "Gathering", Meeting if is_met else Gathering):
            target = await stack.enter_async_context(target_server(pair.target, gate))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        gathering = _engine(target)._scheduler._gathering
        assert isinstance(gathering, Meeting) == is_met

        def note(decode: Decode) -> None:
            # Of streams that are made to meet those decodes that waited for all.
            if decode.is_verification and (not isinstance(gathering, Meeting) or gathering.is_counted):
                counts.verifications.append(decode)

        _engine(target).observe(note)
        _engine(draft).observe(counts.drafts.append)
        yield System(client, gate, _engine(target))


def _engine(server: FrameServer) -> Engine:
    engine: Engine = server._application.engine  # type: ignore[attr-defined]
    return engine


def per_decode(decodes: Sequence[Decode]) -> dict[str, float]:
    """Rows and sessions a decode."""
    return {
        "rows_per_decode": sum(decode.num_rows for decode in decodes) / len(decodes),
        "sessions_per_decode": sum(len(decode.sessions) for decode in decodes) / len(decodes),
    }


def compare(name: str, found: dict[str, Any]) -> None:
    """Compare with what is committed under this name."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}
    assert json.loads(COMMITTED.read_text()).get(name) == rounded, f"{name}: {json.dumps(rounded)}"


SETTINGS = [pytest.param(OFF, id="plain"), pytest.param(fixed(3), id="3"), pytest.param(fixed(7), id="7")]


@pytest.mark.parametrize("speculation", SETTINGS)
async def test_what_a_token_of_one_stream_costs(
    pair: Pair, counts: Counts, speculation: generation_pb2.Speculation, request: pytest.FixtureRequest
) -> None:
    setting = request.node.callspec.id
    async with running(pair, counts) as system:
        (generated,) = await system.generate(1, speculation)
    num_tokens = len(generated.ids)
    found = {
        "num_tokens": num_tokens,
        "passes_per_token": generated.counts.num_cycles / num_tokens,
        "messages_per_token": counts.num_messages / num_tokens,
        "bytes_per_token": counts.num_bytes / num_tokens,
        **per_decode(counts.verifications),
        "draft_rows_per_token": sum(decode.num_rows for decode in counts.drafts) / num_tokens,
    }
    assert counts.least_margin > LEAST_MARGIN
    compare(f"1 stream, {setting}", found)


@pytest.mark.parametrize("speculation", SETTINGS)
async def test_what_a_token_of_streams_that_meet_costs(
    pair: Pair,
    counts: Counts,
    speculation: generation_pb2.Speculation,
    request: pytest.FixtureRequest,
) -> None:
    setting = request.node.callspec.id
    async with running(pair, counts, is_met=True) as system:
        generated = await system.generate(NUM_STREAMS, speculation)
    num_tokens = sum(len(each.ids) for each in generated)
    found = {
        "num_tokens": num_tokens,
        "passes_per_token": sum(each.counts.num_cycles for each in generated) / num_tokens,
        "messages_per_token": counts.num_messages / num_tokens,
        "bytes_per_token": counts.num_bytes / num_tokens,
        **per_decode(counts.verifications),
        "draft_rows_per_token": sum(decode.num_rows for decode in counts.drafts) / num_tokens,
    }
    assert counts.least_margin > LEAST_MARGIN
    compare(f"{NUM_STREAMS} streams, {setting}", found)
