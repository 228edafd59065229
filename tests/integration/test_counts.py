"""What a token costs in passes, rows, messages and bytes, compared with numbers that are committed.

A change to the cycle that makes tokens dearer shows here on any machine, as nothing is timed. Counted is what does not
depend on time: of one stream everything, of several the cycles in which all of them are made to meet. How many sessions
meet by themselves, what is copied between their slots and how prompts are cut into decodes are left out: these depend
on when requests come. Times in messages are left out too, as numbers of any length.

`counts.json` has the numbers. Where a change of them is wanted, take those that the test shows.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    Generated,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

COMMITTED = Path(__file__).with_name("counts.json")
NUM_STREAMS = 4
NUM_TOKENS = 48
# Fewer than any stream has cycles, as one that ends is not waited for.
NUM_ROUNDS = 4
PROMPTS = [f"class {name}:\n    def __init__(self" for name in ("Reader", "Writer", "Table", "Stack")]
# Closer choices could be other ones with another machine's rounding.
LEAST_MARGIN = 0.02


class Meeting(Gathering):
    """Once each session was answered, holds so many decodes until all have come; then decodes begin as they may."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.num_rounds = 0

    def until_s(self, num_ready_rows: int) -> float:
        is_complete = len(self._sessions) == NUM_STREAMS and not self._away()
        return self._clock() if is_complete or self.num_rounds >= NUM_ROUNDS else self._clock() + PATIENCE_S

    def begin(self, num_ready_rows: int) -> None:
        self.num_rounds += len(self._sessions) == NUM_STREAMS
        super().begin(num_ready_rows)

    @property
    def is_counted(self) -> bool:
        """Whether what is decoded now was held until all had come."""
        return 1 <= self.num_rounds <= NUM_ROUNDS


@dataclass
class Counts:
    """Messages of the cycles and decodes of both services."""

    num_messages: int = 0
    num_bytes: int = 0
    least_margin: float = 1.0
    decodes: dict[str, list[Decode]] = field(default_factory=lambda: {"target": [], "draft": []})

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


@asynccontextmanager
async def system(pair: Pair, counts: Counts) -> AsyncIterator[Client]:
    """A client of a whole system whose decodes are counted."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        for name, service in (("target", target), ("draft", draft)):
            _engine(service).observe(_observer(_engine(service), counts.decodes[name]))
        yield client


def _observer(engine: Engine, decodes: list[Decode]) -> Any:
    """Note the decodes that are no prompts', of streams that are made to meet those that were held for all."""
    gathering = engine._scheduler._gathering

    def note(decode: Decode) -> None:
        if decode.is_verification and (not isinstance(gathering, Meeting) or gathering.is_counted):
            decodes.append(decode)

    return note


def _engine(server: FrameServer) -> Engine:
    engine: Engine = server._application.engine  # type: ignore[attr-defined]
    return engine


async def _generate(client: Client, num_streams: int, speculation: generation_pb2.Speculation) -> list[Generated]:
    speculation.min_joint_confidence = 0.0
    asking = (
        client.generate(prompt, max_tokens=NUM_TOKENS, speculation=speculation, num_log_probabilities=2)
        for prompt in PROMPTS[:num_streams]
    )
    return list(await asyncio.gather(*asking))


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
    async with system(pair, counts) as client:
        (generated,) = await _generate(client, 1, speculation)
    num_tokens = len(generated.ids)
    found = {
        "num_tokens": num_tokens,
        "passes_per_token": generated.counts.num_cycles / num_tokens,
        "messages_per_token": counts.num_messages / num_tokens,
        "bytes_per_token": counts.num_bytes / num_tokens,
        **per_decode(counts.decodes["target"]),
        "draft_decodes_per_token": len(counts.decodes["draft"]) / num_tokens,
    }
    assert counts.least_margin > LEAST_MARGIN
    compare(f"1 stream, {setting}", found)


@pytest.mark.parametrize("speculation", SETTINGS)
async def test_what_a_token_of_streams_that_meet_costs(
    pair: Pair,
    counts: Counts,
    speculation: generation_pb2.Speculation,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "Gathering", Meeting)
    setting = request.node.callspec.id
    async with system(pair, counts) as client:
        generated = await _generate(client, NUM_STREAMS, speculation)
    num_tokens = sum(len(each.ids) for each in generated)
    draft = counts.decodes["draft"]
    found = {
        "num_tokens": num_tokens,
        "passes_per_token": sum(each.counts.num_cycles for each in generated) / num_tokens,
        "messages_per_token": counts.num_messages / num_tokens,
        "bytes_per_token": counts.num_bytes / num_tokens,
        **per_decode(counts.decodes["target"]),
        **({f"draft_{name}": each for name, each in per_decode(draft).items()} if draft else {}),
    }
    assert counts.least_margin > LEAST_MARGIN
    compare(f"{NUM_STREAMS} streams, {setting}", found)
