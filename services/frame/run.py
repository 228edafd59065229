"""The life of a server process: settings to exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress

import uvloop

from services.frame.program.importing import end_at_once
from services.frame.program.logging import configure_logging
from services.frame.program.output import CODE_FAILED, announce, say
from services.frame.program.settings import ServerSettings
from services.frame.program.startup import CODE_REFUSED, StartupError, exhausted
from services.frame.server import Application, FrameServer
from services.frame.telemetry import Telemetry, configure_telemetry

_logger = logging.getLogger(__name__)


def run_server(
    settings: ServerSettings, application: Application, service_name: str, *, has_metrics_page: bool = False
) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP and return the exit code of the process.

    With `has_metrics_page` the application tells metrics to Prometheus, which are measured then without any exporter.

    Prints `listening on HOST:PORT` to stdout once bound, or `listening on unix:/path`, `serving on` the same once the
    application serves, as health tells too, and `stopping, at most N s for calls under way` when it stops.

    Returns 0 after a graceful end, 1 where the application gave up (its sentence is the last line on stderr), 2 where
    something kept the server from starting (one sentence on stderr). A second signal ends the process at once.
    """
    configure_logging(settings.log_level, settings.log_format, service_name)
    try:
        telemetry = configure_telemetry(service_name, has_page=has_metrics_page)
        try:
            failure = uvloop.run(_serve(settings, application, telemetry))
        finally:
            telemetry.shutdown()
    except StartupError as error:
        say(settings.program, str(error))
        return CODE_REFUSED
    except (MemoryError, RuntimeError) as error:
        if (problem := exhausted(error)) is None:
            raise
        say(settings.program, problem)
        return CODE_REFUSED
    if failure is not None:
        say(settings.program, failure)
        return CODE_FAILED
    return 0


async def _serve(settings: ServerSettings, application: Application, telemetry: Telemetry) -> str | None:
    """Run the server to its end; return why it failed, or None."""
    server = FrameServer(settings, application, telemetry)
    _end_on_signals(server)
    if settings.stop_with_stdin:
        _end_with_stdin(server)
    try:
        await server.listen()
        announce(f"listening on {server.address}")
        await _start_unless_ended(server)
        await server.ended.wait()
        if server.failure is None:
            announce(f"stopping, at most {settings.drain_timeout_s:g} s for calls under way")
    finally:
        # After a failure nothing under way can still be answered.
        await server.stop(0 if server.failure is not None else None)
    return server.failure


async def _start_unless_ended(server: FrameServer) -> None:
    """Start the application, and give up on that when the server is asked to end meanwhile."""
    starting = asyncio.ensure_future(server.start())
    ending = asyncio.ensure_future(server.ended.wait())
    await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if not starting.done():
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return
    starting.result()
    announce(f"serving on {server.address}")


def _end_on_signals(server: FrameServer) -> None:
    loop = asyncio.get_running_loop()
    signals = [signal.SIGTERM, signal.SIGINT]
    # Sent when a terminal is closed; ignored under nohup.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)

    def end(number: signal.Signals) -> None:
        _logger.info("%s: stopping, at most %g s for calls under way", number.name, server.settings.drain_timeout_s)
        server.ended.set()
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL if os.getpid() != 1 else end_at_once)

    for number in signals:
        loop.add_signal_handler(number, end, number)


def _end_with_stdin(server: FrameServer) -> None:
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin)
            server.ended.set()

    try:
        loop.add_reader(sys.stdin, read)
    except PermissionError as error:
        raise StartupError(
            "--stop-with-stdin waits for the end of stdin, which is a file or /dev/null: give it a pipe or a terminal"
        ) from error
