"""Services whose spans a collector receives over OTLP, and what is found in them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind

from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry, child_span
from tests.collector import CollectedSpan, Collector
from tests.integration.services import Client, Gate
from tests.waiting import soon

REQUEST = "text_completion outrider-target"
ORCHESTRATOR, TARGET, DRAFT, CLIENT = "outrider-orchestrator", "outrider-target", "outrider-draft", "a client"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


T = TypeVar("T")


@dataclass
class Traced:
    """Three services whose spans end up in one collector, and a client that can have spans of its own."""

    client: Client
    target: FrameServer
    draft: FrameServer
    target_gate: Gate
    draft_gate: Gate
    collector: Collector
    telemetries: dict[str, Telemetry]

    @property
    def spans(self) -> list[CollectedSpan]:
        return self.collector.spans

    def named(self, name: str) -> list[CollectedSpan]:
        """The spans of a name, in the order in which they began."""
        return self.collector.named(name)

    async def finished(self, num_requests: int = 1) -> None:
        """Return once so many requests have been received, and what ended before them."""
        await soon(lambda: len(self.named(REQUEST)) == num_requests)
        for telemetry in self.telemetries.values():
            assert telemetry.recorder is not None
            await asyncio.to_thread(telemetry.recorder.flush)

    @contextmanager
    def asking(self) -> Iterator[list[tuple[str, str]]]:
        """A span of the client's. Gives the metadata with which it asks."""
        with child_span(self.telemetries[CLIENT], "ask", SpanKind.CLIENT):
            carrier: dict[str, str] = {}
            inject(carrier)
            yield list(carrier.items())


def only(found: Sequence[T]) -> T:
    (one,) = found
    return one
