"""Traces of real processes, as a collector receives them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from outrider.v1 import generation_pb2
from tests.collector import CollectedSpan, Collector, collecting
from tests.e2e.conftest import Pair
from tests.e2e.programs import Serving, run, serving
from tests.integration.services import Client, fixed, generate_request
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e


@dataclass
class Traced:
    """`outrider serve`, whose spans end up in a collector."""

    system: Serving
    collector: Collector
    summaries: list[generation_pb2.GenerateSummary] = field(default_factory=list)

    async def generate(self, num_tokens: int, on_start: Callable[[], object] = lambda: None) -> list[CollectedSpan]:
        """Generate, with a call when the first token is there. Return the spans of the request when they are there."""
        async with grpc.aio.insecure_channel(self.system.address) as channel:
            client = Client(channel)
            await client.until_draft(is_available=True)
            request = generate_request(max_tokens=num_tokens, speculation=fixed(4))
            num_chunks = 0
            async for message in client.stub.Generate(request, timeout=PATIENCE_S):
                if message.HasField("summary"):
                    self.summaries.append(message.summary)
                    break
                if not num_chunks:
                    on_start()
                num_chunks += 1
        summary = self.summaries[-1]

        def spans() -> list[CollectedSpan]:
            return [span for span in self.collector.spans if span.trace_id == summary.trace_id]

        # What is within a cycle ends before it, so the orchestrator has sent that too.
        eventually(lambda: sum(span.name == "cycle" for span in spans()) == summary.speculation.num_cycles)
        return spans()


@pytest.fixture(scope="module")
def traced(pair: Pair, home: Path) -> Iterator[Traced]:
    with collecting() as collector:
        collector.open.set()
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        with serving(home, *pair.flags, **variables) as system:
            yield Traced(system, collector)


async def test_a_draft_that_is_killed_and_comes_back_is_in_the_traces(traced: Traced) -> None:
    spans = await traced.generate(600, on_start=lambda: traced.system.kill("draft"))
    assert traced.summaries[-1].speculation.num_fallbacks == 1
    lost = [event for span in spans for event in span.events if event.name == "outrider.fallback"]
    assert lost and all(event.attributes["outrider.reason"] for event in lost)
    spans = await traced.generate(24)
    told = [event.name for span in spans for event in span.events if span.name == "propose"]
    # On a busy machine a draft may be late before or after that.
    assert [name for name in told if name != "outrider.draft_missed"] == ["outrider.attach"]


def test_what_has_not_been_sent_is_sent_at_the_end(pair: Pair, tmp_path: Path) -> None:
    with collecting() as collector:
        collector.open.set()
        # Longer than anybody waits: only the end of the processes can send them.
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=mine",
        }
        finished = run(
            tmp_path, "generate", *pair.flags, "--exact", "off", "--max-tokens", "8", "def main(", **variables
        )
        assert finished.returncode == 0
        assert Counter((span.service, span.name) for span in collector.spans if span.kind == "SERVER") == Counter(
            {
                ("mine-orchestrator", "text_completion outrider-target"): 1,
                ("mine-target", "target.verify"): len(collector.named("verify")),
                ("mine-draft", "draft.propose"): len(collector.named("propose")),
            }
        )
        assert len({span.trace_id for span in collector.spans}) == 1
        assert "gen_ai.server.request.duration" in collector.metrics
