"""What each cycle did, as JSON, in the choices of an answer whose request has `report_cycles`."""

from collections.abc import Iterable
from typing import Any

from orchestrator.http.exchange.told import drafter_name
from outrider.v1 import generation_pb2


def reports(chunks: Iterable[generation_pb2.GenerateChunk]) -> dict[str, Any]:
    """Return what a choice says of the cycles of these chunks; nothing where none has one."""
    cycles = [_cycle(chunk) for chunk in chunks if chunk.HasField("cycle")]
    return {"outrider": {"cycles": cycles}} if cycles else {}


def _cycle(chunk: generation_pb2.GenerateChunk) -> dict[str, Any]:
    cycle = chunk.cycle
    return {
        "index": cycle.index,
        "tokens": [{"id": each.token, "text": each.text, "origin": _origin(each.origin)} for each in chunk.tokens],
        "drafter": drafter_name(cycle.drafter),
        "draft_address": cycle.draft_address or None,
        "num_draft_tokens": cycle.num_draft_tokens,
        "num_accepted": cycle.num_accepted,
        "num_skipped": cycle.num_skipped,
        "draft_tokens": [_draft_token(each) for each in cycle.draft_tokens],
        "drafting": _timings(cycle.drafting),
        "verifying": _timings(cycle.verifying) | {"decode_ms": _rounded(cycle.verifying.decode_ms)},
        "batch_rows": cycle.batch_rows,
        "num_sessions": cycle.num_sessions or None,
        "choice": _choice(cycle.choice) if cycle.HasField("choice") else None,
        "plain_ms": _rounded(cycle.plain_ms) or None,
    }


def _draft_token(token: generation_pb2.DraftTokenReport) -> dict[str, Any]:
    return {
        "id": token.token,
        "text": token.text,
        "is_accepted": token.is_accepted,
        "probability": _rounded(token.probability) if token.HasField("probability") else None,
        "chance": _rounded(token.chance) if token.HasField("chance") else None,
    }


def _timings(timings: generation_pb2.CycleTimings) -> dict[str, float]:
    return {
        "waited_ms": _rounded(timings.waited_ms),
        "queued_ms": _rounded(timings.queued_ms),
        "computed_ms": _rounded(timings.computed_ms),
    }


def _choice(choice: generation_pb2.LengthChoice) -> dict[str, Any]:
    return {
        "num_draft_tokens": choice.num_draft_tokens,
        "chance": _rounded(choice.chance),
        "worth": _rounded(choice.worth),
        "draft_ms": _rounded(choice.draft_ms),
        "token_ms": _rounded(choice.token_ms),
        "row_ms": _rounded(choice.row_ms),
        "tokens_per_s": _rounded(choice.tokens_per_s),
        "draft_address": choice.draft_address or None,
    }


def _origin(origin: generation_pb2.TokenOrigin.ValueType) -> str:
    return generation_pb2.TokenOrigin.Name(origin).removeprefix("TOKEN_ORIGIN_").lower()


def _rounded(value: float) -> float:
    """Return a number without digits that mean nothing: of a time, less than a microsecond."""
    return round(value, 4)
