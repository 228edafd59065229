"""What is traced, and whether the client's rate is that of the spans."""

from pathlib import Path

import pytest

from orchestrator.bench.course import traced_cases
from orchestrator.bench.cycles import Cycle
from orchestrator.bench.load.streams import Chunk, Stream
from orchestrator.bench.measuring.bench import Results
from orchestrator.bench.systems.services import Checkout, Services
from orchestrator.bench.systems.system import Models, Setting
from orchestrator.bench.traced import span_agreements
from tests.unit.orchestrator.bench.runs import run


def cycle(session: str, index: int, ended_ms: int, num_tokens: int) -> Cycle:
    return Cycle(session, index, 0, ended_ms * 1_000_000, num_tokens, None, None)


def test_rates_are_compared_after_the_first_cycle_of_each_stream() -> None:
    chunks = [Chunk(1.0, 1), Chunk(1.1, 4), Chunk(1.2, 4)]
    streams = [Stream(chunks, summary={"trace_id": name}) for name in ("a", "b", "c")]
    cycles = [cycle("a", 0, 0, 1), cycle("a", 1, 100, 4), cycle("a", 2, 200, 4)]
    # Told to be half as long.
    cycles += [cycle("b", 0, 0, 1), cycle("b", 1, 50, 4), cycle("b", 2, 100, 4)]
    assert span_agreements(streams, cycles) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param("plain 3 7", [("plain", 4), ("7", 4)], id="not among them"),
        pytest.param("plain auto 3 7", [("plain", 4), ("7", 4), ("auto", 4)], id="among them"),
        pytest.param("plain auto 3", [("plain", 4), ("auto", 4)], id="the best"),
        pytest.param("plain", [("plain", 4)], id="nothing drafts"),
    ],
)
def test_auto_is_traced_beside_the_best(settings: str, expected: list[tuple[str, int]]) -> None:
    rates = {"plain": 100, "3": 110, "auto": 120, "7": 130}
    own = [Setting.parse(name) for name in settings.split()]
    services = Services("outrider", Checkout(), Models(Path("t"), Path("d"), 4, 256, 1), own)
    results = Results({}, runs=[run("outrider", setting.name, rates[setting.name]) for setting in own])
    assert [(setting.name, num) for setting, num in traced_cases(services, [4], results)] == expected
