"""Metrics of the orchestrator. Counters follow vLLM's definitions; rates are derived from them."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar

from opentelemetry.metrics import Histogram

from orchestrator.generation.statistics import Statistics
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import error_type
from services.frame.telemetry import Telemetry, observed

ChunkT = TypeVar("ChunkT")
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics; the SDK's own bounds suit milliseconds.
_FIRST_TOKEN_BOUNDS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKEN_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_INTERVAL_BOUNDS_S = (0.001, 0.0025, 0.005, *_TOKEN_BOUNDS_S)
_DURATION_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class GenerationInstruments:
    """Counts generations as they end."""

    def __init__(
        self,
        telemetry: Telemetry,
        num_active: Callable[[], int],
        draft_overhead: Callable[[], float],
        speedup: Callable[[], float],
    ) -> None:
        """`num_active`, `draft_overhead` and `speedup` are read whenever an exporter collects."""
        meter = telemetry.meter
        self._drafts = meter.create_counter("outrider.drafts", "{draft}", "cycles with draft tokens")
        self._draft_tokens = meter.create_counter("outrider.draft_tokens", "{token}", "draft tokens verified")
        self._accepted = meter.create_counter("outrider.accepted_tokens", "{token}", "draft tokens accepted")
        self._accepted_at = meter.create_counter(
            "outrider.accepted_tokens_per_position", "{token}", "draft tokens accepted, by position in the draft"
        )
        self._skipped = meter.create_counter(
            "outrider.skipped_tokens", "{token}", "draft tokens that were not worth their rows, and not verified"
        )
        self._cycles = meter.create_counter("outrider.cycles", "{cycle}", "verifications")
        self._generated = meter.create_counter("outrider.generated_tokens", "{token}", "tokens generated")
        self._prompt = meter.create_counter("outrider.prompt_tokens", "{token}", "tokens of prompts")
        self._fallbacks = meter.create_counter("outrider.fallbacks", "{fallback}", "times a working draft was lost")
        self._resyncs = meter.create_counter("outrider.resyncs", "{resync}", "times a service was brought back")
        # To Prometheus a counter has not risen that is first seen with a value.
        for counter in (self._skipped, self._cycles, self._generated, self._prompt, self._fallbacks, self._resyncs):
            counter.add(0)
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "from the request to the first token, of requests that succeed",
            explicit_bucket_boundaries_advisory=_FIRST_TOKEN_BOUNDS_S,
        )
        self._token = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "from one token to the next, after the first",
            explicit_bucket_boundaries_advisory=_TOKEN_BOUNDS_S,
        )
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            "from the request to its end, whichever it is",
            explicit_bucket_boundaries_advisory=_DURATION_BOUNDS_S,
        )
        self._interval = meter.create_histogram(
            "outrider.chunk_interval",
            "s",
            "from one chunk of an answer to the next, each what one cycle commits",
            explicit_bucket_boundaries_advisory=_INTERVAL_BOUNDS_S,
        )
        self._is_metering = telemetry.is_metering
        meter.create_observable_gauge(
            "outrider.active_generations", [observed(num_active)], "{generation}", "under way"
        )
        meter.create_observable_gauge(
            "outrider.draft.memory_overhead", [observed(draft_overhead)], "%", "memory of the draft, of the target's"
        )
        meter.create_observable_gauge(
            "outrider.speedup",
            [observed(speedup)],
            # Not "1", of which some make a suffix for Prometheus and others none.
            "{time}",
            "time of plain decoding, as modelled, by the time that it took",
        )

    def request(self, attributes: dict[str, str]) -> "CountedRequest":
        """Return the measure of a request that begins now, with what the conventions say of a request."""
        return CountedRequest(self._first_token, self._token, self._duration, attributes)

    def record_prompt(self, num_tokens: int) -> None:
        """Count the tokens of a prompt that is to be gone on with."""
        self._prompt.add(num_tokens)

    def paced(self, chunks: AsyncGenerator[ChunkT, None]) -> AsyncGenerator[ChunkT, None]:
        """Return the chunks of an answer, whose intervals are recorded as they come."""
        return self._paced(chunks) if self._is_metering else chunks

    async def _paced(self, chunks: AsyncGenerator[ChunkT, None]) -> AsyncGenerator[ChunkT, None]:
        last_s: float | None = None
        async with aclosing(chunks):
            async for chunk in chunks:
                now_s = time.perf_counter()
                if last_s is not None:
                    self._interval.record(now_s - last_s)
                last_s = now_s
                yield chunk

    def record(self, statistics: Statistics, num_generated_tokens: int) -> None:
        """Count what a generation did, however it has ended."""
        for counter, counts in (
            (self._drafts, statistics.num_drafts),
            (self._draft_tokens, statistics.num_draft_tokens),
            (self._accepted, statistics.num_accepted_tokens),
        ):
            for drafter, count in counts.items():
                counter.add(count, {"outrider.drafter": drafter})
        for position, count in statistics.num_accepted_per_position.items():
            self._accepted_at.add(count, {"outrider.position": position})
        self._skipped.add(statistics.num_skipped_tokens)
        self._cycles.add(statistics.num_cycles)
        self._generated.add(num_generated_tokens)
        self._fallbacks.add(statistics.num_fallbacks)
        self._resyncs.add(statistics.num_resyncs)


class CountedRequest:
    """Counts one request when it ends: answered, or with the block and the error that leaves it."""

    def __init__(
        self, first_token: Histogram, token: Histogram, duration: Histogram, attributes: dict[str, str]
    ) -> None:
        self._first_token = first_token
        self._token = token
        self._duration = duration
        self._attributes = attributes
        self._started_s = time.perf_counter()
        self._has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if not self._has_ended:
            self._end({"error.type": error_type(error)} if error is not None else {})

    def answer(self, summary: generation_pb2.GenerateSummary) -> None:
        """Count it as answered; what happens to its last message is no failure of the request."""
        timings, num_tokens = summary.timings, summary.usage.num_generated_tokens
        if num_tokens:
            self._first_token.record(timings.first_token_ms / 1e3, self._attributes)
        if num_tokens > 1:
            rest_s = (timings.total_ms - timings.first_token_ms) / 1e3
            self._token.record(rest_s / (num_tokens - 1), self._attributes)
        self._end({})

    def _end(self, error: dict[str, str]) -> None:
        self._has_ended = True
        self._duration.record(time.perf_counter() - self._started_s, self._attributes | error)
