"""Log lines on stderr, as text or as one JSON object each, by the standard library's logging."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from opentelemetry import trace

from services.frame.program.printable import one_line, printable

# What every record has; anything else was passed as `extra`.
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.000 INFO outrider-target services.target.main: text key=value`."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d %(levelname)s {service} %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in _extra(record).items())
        return one_line(super().formatMessage(record) + fields)

    def format(self, record: logging.LogRecord) -> str:
        # Line by line, as a traceback has several.
        return printable(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object: time (UTC, ISO 8601), level, service, logger, message, extras, and exception where there is one."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # In ASCII, which every stderr takes.
        return json.dumps({key: _valid(value) for key, value in line.items()}, default=lambda value: _valid(str(value)))


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is now: a progress line on a terminal takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        # Not by setStream, which flushes the earlier stream, and that may be closed by now.
        self.stream = sys.stderr
        super().emit(record)


def _spare_traceback(record: logging.LogRecord) -> bool:
    """Cut a record of OpenTelemetry's down to one line: what it stumbled over, without a traceback of its own code."""
    if record.exc_info and record.exc_info[0] and record.name.startswith("opentelemetry."):
        kind, error, _ = record.exc_info
        record.msg, record.args = f"{record.getMessage()} ({kind.__name__}: {error})", ()
        record.exc_info = None
    return True


def configure_logging(level: str, log_format: Literal["text", "json"], service: str) -> None:
    """Make the root logger write to stderr from `level` on. Calling it again replaces the earlier setting."""
    handler = _StderrHandler()
    handler.addFilter(_spare_traceback)
    handler.setFormatter(JsonFormatter(service) if log_format == "json" else TextFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # At debug level asyncio logs its selector's name, and grpc every wake-up of its poller.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("grpc").setLevel(logging.WARNING)


def _valid(value: object) -> object:
    """Return a text as valid UTF-8: names of files need not be, and strict readers would drop the line."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed as `extra`, and the ids of the current span, by which traces are found."""
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES}
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        fields |= {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    return fields
