"""What one cycle did, for a client that asks."""

from collections.abc import Sequence

from orchestrator.drafting.drafter import DRAFTERS, REMOTE
from orchestrator.generation.cycle import Cycle
from outrider.v1 import generation_pb2


def cycle_report(cycle: Cycle, *, token_bytes: Sequence[bytes], addresses: Sequence[str]) -> generation_pb2.CycleReport:
    """Return what a cycle did.

    `token_bytes[i]` is what token i adds to the output; `addresses` are those of the draft services, in their order.
    """
    draft, verification = cycle.draft, cycle.verification
    has_service = draft.drafter == REMOTE and len(addresses) > 1
    report = generation_pb2.CycleReport(
        index=cycle.index,
        drafter=DRAFTERS[draft.drafter],
        draft_address=addresses[draft.service] if has_service else "",
        num_draft_tokens=len(draft.tokens),
        num_accepted=verification.result.num_accepted,
        num_skipped=verification.result.num_skipped,
        drafting=generation_pb2.CycleTimings(
            waited_ms=draft.waited_s * 1e3,
            queued_ms=draft.queued_s * 1e3,
            computed_ms=draft.computed_s * 1e3,
        ),
        verifying=generation_pb2.CycleTimings(
            waited_ms=verification.waited_s * 1e3,
            queued_ms=verification.queued_s * 1e3,
            computed_ms=verification.computed_s * 1e3,
            decode_ms=verification.decode_s * 1e3,
        ),
        batch_rows=verification.batch_rows,
        num_sessions=verification.quote.num_sessions if verification.quote is not None else 0,
        choice=cycle.choice,
        plain_ms=verification.plain_s * 1e3,
    )
    for place, token in enumerate(draft.tokens):
        report.draft_tokens.add(
            token=token,
            text=token_bytes[token].decode(errors="replace"),
            is_accepted=place < verification.result.num_accepted,
            probability=_at(draft.probabilities, place),
            chance=_at(cycle.chances, place),
        )
    return report


def _at(values: Sequence[float], place: int) -> float | None:
    return values[place] if place < len(values) else None
