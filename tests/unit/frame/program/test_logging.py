import io
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.sdk.resources import Resource

from services.frame.program.logging import configure_logging
from services.frame.telemetry import NO_HEADERS, Telemetry, configure_telemetry, server_span
from services.frame.telemetry.recording import Recorder


def test_text_has_level_service_logger_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text", "outrider-target")
    logging.getLogger("services.target").info("loaded %s", "m.gguf", extra={"num_slots": 8})
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith(" INFO outrider-target services.target: loaded m.gguf num_slots=8\n")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json", "outrider-draft")
    logger = logging.getLogger("services.draft")
    logger.debug("two\nlines: %d", 2, extra={"session": "é"})
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["message"] == "two\nlines: 2"
    assert (first["level"], first["service"], first["logger"]) == ("debug", "outrider-draft", "services.draft")
    assert first["session"] == "é"
    assert first["time"].endswith("+00:00")
    assert "exception" not in first
    assert "ValueError: bad" in second["exception"]


def test_what_others_wrote_is_one_line_that_no_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text", "outrider")
    logging.getLogger("a").info(
        "target %s", "\x1b]0;x\x07\n2026-01-31 12:00:00.000 INFO", extra={"name_": "\x9b\u202e\udcff"}
    )
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.endswith(" a: target \\x1b]0;x\\x07 2026-01-31 12:00:00.000 INFO name_=\\x9b\\u202e\\udcff\n")


def test_a_traceback_has_its_lines_and_no_terminal_obeys_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text", "outrider")
    try:
        raise ValueError("\x1b[2J\x9b")
    except ValueError:
        logging.getLogger("a").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: \\x1b[2J\\x9b"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_opentelemetry_stumbles_over_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, log_format: Literal["text", "json"]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "soon")
    configure_logging("info", log_format, "outrider")
    configure_telemetry("outrider").shutdown()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "OTEL_BSP_SCHEDULE_DELAY" in line]
    assert "(ValueError: invalid literal" in line
    assert "Traceback" not in line


def test_json_is_ascii_that_every_reader_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """A stderr in Latin-1 would make `\\xe9` of é, which is no JSON, and a surrogate no UTF-8."""
    configure_logging("info", "json", "outrider")
    path = Path("\udcff.gguf")
    logging.getLogger("a").info("é %s", path, extra={"text": "\x9b\u202e", "path": path, "number": 3})
    line = capsys.readouterr().err
    assert line.isascii()
    told = json.loads(line)
    assert (told["message"], told["text"], told["number"]) == ("é \\udcff.gguf", "\x9b\u202e", 3)
    assert told["path"] == "\\udcff.gguf"


def test_less_severe_messages_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "text", "s")
    logging.getLogger("a").info("quiet")
    logging.getLogger("a").warning("loud")
    assert "quiet" not in (text := capsys.readouterr().err)
    assert "loud" in text


def test_configuring_again_replaces_the_earlier_setting(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text", "first")
    configure_logging("info", "text", "second")
    logging.getLogger("a").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_lines_within_a_span_carry_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json", "s")
    telemetry = Telemetry(Recorder(Resource({}), []))
    with server_span(telemetry, "work", NO_HEADERS) as span:
        logging.getLogger("a").info("inside")
    logging.getLogger("a").info("outside")
    inside, outside = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert inside["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert inside["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in outside


def test_warnings_become_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging("info", "text", "s")
        warnings.warn("old way", FutureWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "py.warnings" in (text := capsys.readouterr().err)
    assert "old way" in text


def test_it_goes_to_what_stderr_is_at_the_moment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A progress line takes its place for a while."""
    configure_logging("info", "text", "outrider")
    other = io.StringIO()
    monkeypatch.setattr(sys, "stderr", other)
    logging.getLogger("orchestrator").info("above the line")
    monkeypatch.undo()
    logging.getLogger("orchestrator").info("without it")
    assert other.getvalue().endswith(": above the line\n")
    assert "above" not in (text := capsys.readouterr().err)
    assert text.endswith(": without it\n")
