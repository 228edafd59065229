"""What the span of a request tells, by OpenTelemetry's conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from opentelemetry.trace import Span

from outrider.v1 import common_pb2, generation_pb2
from services.frame.program.api_keys import caller_name

_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_END_OF_GENERATION: "stop",
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}
_LARGEST_NUMBER = 2**63 - 1
# By the name of the field; the others have no conventional name.
_SAMPLING = {
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
}


def span_name(request: generation_pb2.GenerateRequest, model: common_pb2.ModelInfo) -> str:
    """Return the conventional name of a request's span: what is done, and the model."""
    return f"{_operation(request)} {model.name}"


def request_attributes(request: generation_pb2.GenerateRequest, model: common_pb2.ModelInfo) -> dict[str, str]:
    """Return what the conventions say of a request on its span and on its metrics alike."""
    return {
        "gen_ai.operation.name": _operation(request),
        "gen_ai.provider.name": "outrider",
        # A request need not name a model; its other names for one stand for the same.
        "gen_ai.request.model": model.name,
        "gen_ai.response.model": model.name,
    }


class RequestSpan:
    """Puts on a span what was asked for and what came of it. Texts only where `is_content_told`: they are private.

    Lists of requests are made of OpenInference's `input.value` and `output.value`, which Phoenix and MLflow look for.
    https://arize-ai.github.io/openinference/spec/semantic_conventions.html
    """

    def __init__(self, span: Span, *, is_content_told: bool) -> None:
        self._span = span
        self.is_content_told = is_content_told and span.is_recording()
        self._is_chat = self._has_tools = False

    def begin(self, request: generation_pb2.GenerateRequest, model: common_pb2.ModelInfo, seed: int) -> None:
        """Tell what was asked for."""
        self._is_chat, self._has_tools = request.HasField("chat"), bool(request.chat.tools)
        span = self._span
        if not span.is_recording():
            return
        span.set_attributes(
            {
                **request_attributes(request, model),
                "gen_ai.request.stream": True,
                "gen_ai.request.max_tokens": request.max_tokens,
                "gen_ai.request.temperature": request.sampling.temperature,
                # As text: it may exceed the 63 bits of a number, as clients may name it.
                "outrider.seed": str(seed),
            }
        )
        if caller := caller_name.get():
            span.set_attribute("outrider.caller", caller)
        if seed <= _LARGEST_NUMBER:
            span.set_attribute("gen_ai.request.seed", seed)
        span.set_attributes(
            {_SAMPLING[name]: value for name, value in _set_fields(request.sampling) if name in _SAMPLING}
        )
        if request.stop:
            span.set_attribute("gen_ai.request.stop_sequences", list(request.stop))
        if self.is_content_told and not request.HasField("tokens"):
            self._tell_input(request)

    def end(
        self,
        summary: generation_pb2.GenerateSummary,
        answer: Sequence[generation_pb2.GenerateChunk] = (),
        *,
        num_tool_calls: int,
    ) -> None:
        """Tell what came of it. `answer` is all that was sent; it is needed only where `is_content_told`."""
        span = self._span
        if not span.is_recording():
            return
        reason = _FINISH_REASONS.get(summary.finish_reason, "length")
        span.set_attributes(
            {
                "gen_ai.usage.input_tokens": summary.usage.num_prompt_tokens,
                "gen_ai.usage.output_tokens": summary.usage.num_generated_tokens,
                "gen_ai.response.finish_reasons": (reason,),
                "outrider.exact": summary.exact,
                "outrider.first_token_ms": summary.timings.first_token_ms,
            }
        )
        if self._has_tools:
            # The conventions have names for what a call says alone, and for spans of whoever executes it.
            span.set_attribute("outrider.num_tool_calls", num_tool_calls)
        if summary.draft_problem:
            span.set_attribute("outrider.draft_problem", summary.draft_problem)
        counts = summary.speculation
        span.set_attributes(
            {
                f"outrider.{name}": getattr(counts, name)
                for name in ("num_cycles", "num_draft_tokens", "num_accepted_tokens", "num_fallbacks", "num_resyncs")
            }
        )
        if self.is_content_told:
            said = "".join(chunk.content if self._is_chat else chunk.text for chunk in answer)
            thought = "".join(chunk.reasoning for chunk in answer)
            message = _message("assistant", said, thought) | {"finish_reason": reason}
            span.set_attributes(
                {
                    "gen_ai.output.messages": _json([message]),
                    "output.value": said,
                    "output.mime_type": "text/plain",
                }
            )

    def _tell_input(self, request: generation_pb2.GenerateRequest) -> None:
        if self._is_chat:
            messages = [_message(each.role, each.content, each.reasoning) for each in request.chat.messages]
            spoken = [{"role": each.role, "content": each.content} for each in request.chat.messages]
            value, kind = _json({"messages": spoken}), "application/json"
        else:
            messages = [_message("user", request.text)]
            value, kind = request.text, "text/plain"
        self._span.set_attributes(
            {"gen_ai.input.messages": _json(messages), "input.value": value, "input.mime_type": kind}
        )


def _operation(request: generation_pb2.GenerateRequest) -> str:
    return "chat" if request.HasField("chat") else "text_completion"


def _set_fields(message: Message) -> list[tuple[str, float]]:
    return [(field.name, value) for field, value in message.ListFields()]


def _message(role: str, content: str, reasoning: str = "") -> dict[str, Any]:
    """Return a message as the conventions have it."""
    parts = [{"type": "reasoning", "content": reasoning}] if reasoning else []
    if content or not reasoning:
        parts.append({"type": "text", "content": content})
    return {"role": role, "parts": parts}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
