"""How a generation ended, as an orchestrator tells it."""

from typing import Any

from outrider.v1 import generation_pb2


def summary(**speculation: Any) -> generation_pb2.GenerateSummary:
    return generation_pb2.GenerateSummary(
        usage=generation_pb2.Usage(num_prompt_tokens=3, num_generated_tokens=10),
        timings=generation_pb2.GenerationTimings(total_ms=500.0),
        speculation=generation_pb2.SpeculationStatistics(**speculation),
        seed=2**64 - 1,
    )
