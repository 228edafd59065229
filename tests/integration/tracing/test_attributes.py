"""What the spans of a request tell of it."""

import json

import pytest

from tests.integration.services import fixed
from tests.integration.tracing.traced import REQUEST, Traced, only

pytestmark = pytest.mark.integration


async def test_the_request_alone_is_an_answer_of_a_model(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    assert {(span.name, span.attributes["openinference.span.kind"]) for span in traced.spans} == {
        (REQUEST, "LLM"),
        *((name, "CHAIN") for name in ("cycle", "propose", "draft.propose", "verify", "target.verify")),
    }


async def test_a_cycle_tells_what_it_did(traced: Traced) -> None:
    generated = await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    told = [span.attributes for span in traced.named("cycle")]
    assert [each["outrider.cycle.index"] for each in told] == list(range(generated.counts.num_cycles))
    assert sum(each["outrider.cycle.num_draft_tokens"] for each in told) == generated.counts.num_draft_tokens
    assert sum(each["outrider.cycle.num_accepted"] for each in told) == generated.counts.num_accepted_tokens
    # The last cycle has one token left to make, and nothing to draft.
    for each in told:
        assert each["outrider.cycle.drafter"] == ("remote" if each["outrider.cycle.num_draft_tokens"] else "none")
    sizes = [len(chunk.tokens) - 1 for chunk in generated.chunks if chunk.tokens]
    assert [each["outrider.cycle.num_accepted"] for each in told] == sizes


async def test_the_root_tells_of_the_request(traced: Traced) -> None:
    generated = await traced.client.generate(temperature=0.5, speculation=fixed(3), stop=["no such text"])
    await traced.finished()
    usage, counts = generated.summary.usage, generated.counts
    told = dict(only(traced.named(REQUEST)).attributes)
    assert told.pop("outrider.first_token_ms") == generated.summary.timings.first_token_ms
    assert told == {
        "openinference.span.kind": "LLM",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "outrider",
        "gen_ai.request.model": "outrider-target",
        "gen_ai.response.model": "outrider-target",
        "gen_ai.request.stream": True,
        "gen_ai.request.seed": 5,
        "gen_ai.request.max_tokens": 48,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ["no such text"],
        "gen_ai.usage.input_tokens": usage.num_prompt_tokens,
        "gen_ai.usage.output_tokens": usage.num_generated_tokens,
        "gen_ai.response.finish_reasons": ["length"],
        "outrider.exact": False,
        "outrider.seed": "5",
        "outrider.num_cycles": counts.num_cycles,
        "outrider.num_draft_tokens": counts.num_draft_tokens,
        "outrider.num_accepted_tokens": counts.num_accepted_tokens,
        "outrider.num_fallbacks": 0,
        "outrider.num_resyncs": 0,
    }


async def test_servers_tell_of_the_queue_and_the_decode(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    for span in (*traced.named("target.verify"), *traced.named("draft.propose")):
        assert span.event_names == ["outrider.queued", "outrider.decode", "outrider.computed"]
        queued, decode, computed = span.events
        # Microseconds may be lost between two clocks.
        times = [span.started_ns - 100_000, queued.time_ns, decode.time_ns, computed.time_ns, span.ended_ns + 100_000]
        assert times == sorted(times)
        assert 0 <= decode.attributes["outrider.queued_ms"] <= (decode.time_ns - queued.time_ns) / 1e6 + 0.1
        assert decode.attributes["outrider.num_decodes"] >= 1
        assert decode.attributes["outrider.batch_rows"] >= 1
        assert 0 < decode.attributes["outrider.decode_ms"] <= (computed.time_ns - decode.time_ns) / 1e6 + 0.1


@pytest.fixture
def _content_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")


@pytest.mark.usefixtures("_content_told")
async def test_texts_are_told_where_that_is_asked_for(traced: Traced) -> None:
    generated = await traced.client.generate("def main(", speculation=fixed(3))
    await traced.finished()
    told = only(traced.named(REQUEST)).attributes
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "def main("}]}
    ]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": generated.text}], "finish_reason": "length"}
    ]
