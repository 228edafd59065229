"""What records the spans and the metrics of one service. Where nothing is asked for it records nothing, and is free."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

    from services.frame.telemetry.recording import Recorder

# How long the end of a process may wait for a collector.
SHUTDOWN_S = 5.0

_logger = logging.getLogger(__name__)


class Telemetry:
    """The recorder of one service's spans and the meter of its metrics, and how both are brought to an end.

    No global provider is set, so that several services can live in one process, each under its own name. Without a
    recorder spans do nothing, and without a provider instruments do nothing.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        is_of_requests: bool = False,
        is_content_told: bool = False,
    ) -> None:
        """With `is_of_requests` somebody else records the request, and its span gets the events of what is within it.

        With `is_content_told` the spans of requests may hold what users write and what they are answered.
        """
        self.recorder = recorder
        self._meter_provider = meter_provider
        self.is_of_requests = is_of_requests
        self.is_content_told = is_content_told
        self.is_metering = meter_provider is not None
        meters: metrics.MeterProvider = meter_provider or metrics.NoOpMeterProvider()
        self.meter: metrics.Meter = meters.get_meter("outrider")

    @classmethod
    def off(cls) -> Telemetry:
        """Return telemetry that records nothing."""
        return cls()

    def of_requests(self) -> Telemetry:
        """Return the telemetry of what happens within a request, where only requests are to have spans."""
        return Telemetry(is_of_requests=self.recorder is not None)

    def shutdown(self) -> None:
        """Send what is still queued and stop the exporters. A collector that is away is not waited for."""
        parts = [part for part in (self.recorder, self._meter_provider) if part is not None]
        closing = [threading.Thread(target=part.shutdown, daemon=True) for part in parts]
        for thread in closing:
            thread.start()
        # The SDK's own limits add up to a minute.
        deadline_s = time.monotonic() + SHUTDOWN_S
        for thread in closing:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if any(thread.is_alive() for thread in closing):
            _logger.warning("telemetry could not be sent within %g s, what is left of it is lost", SHUTDOWN_S)


def observed(read: Callable[[], float]) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    """Return the callback of an observable instrument whose value is read whenever an exporter collects."""

    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(read())]

    return observe
