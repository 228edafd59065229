"""Whether the client's rate is that of the spans."""

import pytest

from orchestrator.bench.cycles import Cycle
from orchestrator.bench.load.streams import Chunk, Stream
from orchestrator.bench.traced import span_agreements


def cycle(session: str, index: int, ended_ms: int, num_tokens: int) -> Cycle:
    return Cycle(session, index, 0, ended_ms * 1_000_000, num_tokens, None, None)


def test_rates_are_compared_after_the_first_cycle_of_each_stream() -> None:
    chunks = [Chunk(1.0, 1), Chunk(1.1, 4), Chunk(1.2, 4)]
    streams = [Stream(chunks, summary={"trace_id": name}) for name in ("a", "b", "c")]
    cycles = [cycle("a", 0, 0, 1), cycle("a", 1, 100, 4), cycle("a", 2, 200, 4)]
    # Told to be half as long.
    cycles += [cycle("b", 0, 0, 1), cycle("b", 1, 50, 4), cycle("b", 2, 100, 4)]
    assert span_agreements(streams, cycles) == pytest.approx([1.0, 0.5])
