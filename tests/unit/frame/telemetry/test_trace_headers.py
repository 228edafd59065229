import pytest
from opentelemetry import trace

from services.frame.telemetry import TraceHeaders, headers_of
from services.frame.telemetry.telemetry import context_from

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_a_traceparent_survives_reading_and_writing(flags: str) -> None:
    traceparent = f"00-{TRACE_ID}-{SPAN_ID}-{flags}"
    span = trace.get_current_span(context_from(TraceHeaders(traceparent)))
    assert span.get_span_context().is_remote
    assert headers_of(span).traceparent == traceparent


def test_a_later_version_is_read_as_far_as_we_know_it() -> None:
    span = trace.get_current_span(context_from(TraceHeaders(f"42-{TRACE_ID}-{SPAN_ID}-ff-more")))
    assert headers_of(span).traceparent == f"00-{TRACE_ID}-{SPAN_ID}-03"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        "x" * 100_000,
    ],
)
def test_a_bad_traceparent_is_no_error(traceparent: str) -> None:
    assert not trace.get_current_span(context_from(TraceHeaders(traceparent))).get_span_context().is_valid
