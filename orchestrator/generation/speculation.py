"""How one request is speculated for: what it asks, within what the orchestrator is set to and the target takes."""

from dataclasses import dataclass

from orchestrator.drafting.drafter import DRAFTERS
from orchestrator.drafting.experience import Experience
from orchestrator.generation.cycle import FixedLength, LengthPolicy
from orchestrator.generation.length_policy import PaidLength
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.frame.rpc.errors import invalid_argument


@dataclass(frozen=True)
class Plan:
    """Who drafts, never unspecified, who says how many tokens, and when the draft service stops early.

    With `uses_prediction` what the request expects is drafted as well.
    """

    drafter: generation_pb2.Drafter.ValueType
    policy: LengthPolicy
    min_joint_confidence: float
    uses_prediction: bool = False


def check_speculation(speculation: generation_pb2.Speculation, target: common_pb2.ModelInfo) -> None:
    """Raise ServiceError for what cannot be done."""
    for field, values in (
        ("mode", generation_pb2.SpeculationMode.values()),
        ("drafter", generation_pb2.Drafter.values()),
    ):
        if getattr(speculation, field) not in values:
            raise invalid_argument("INVALID_REQUEST", f"speculation.{field}", f"{field} has no such value")
    if speculation.mode == generation_pb2.SPECULATION_MODE_FIXED and (
        not 1 <= speculation.num_draft_tokens <= target.max_draft_tokens
    ):
        raise invalid_argument(
            "INVALID_REQUEST",
            "speculation.num_draft_tokens",
            f"1 to {target.max_draft_tokens} draft tokens can be fixed, not {speculation.num_draft_tokens}",
        )
    if not 0 <= speculation.min_joint_confidence <= 1:
        raise invalid_argument("INVALID_REQUEST", "speculation.min_joint_confidence", "a confidence is between 0 and 1")


def most_draft_tokens(speculation: generation_pb2.Speculation, settings: OrchestratorSettings) -> int:
    """Return how many draft tokens a cycle of a request may have; 0 is plain decoding."""
    if speculation.mode == generation_pb2.SPECULATION_MODE_OFF:
        return 0
    if speculation.mode == generation_pb2.SPECULATION_MODE_FIXED:
        return speculation.num_draft_tokens
    return min(settings.max_draft_tokens, speculation.max_draft_tokens or settings.max_draft_tokens)


def plan_speculation(
    speculation: generation_pb2.Speculation, settings: OrchestratorSettings, experience: Experience
) -> Plan:
    """Return how to speculate for a request that was checked. `experience` is of the drafters that it may have."""
    is_fixed = speculation.mode == generation_pb2.SPECULATION_MODE_FIXED
    if not (most := most_draft_tokens(speculation, settings)):
        # Nobody is asked, so that nobody has a problem.
        return Plan(generation_pb2.DRAFTER_NONE, FixedLength(0), 0.0)
    drafter = speculation.drafter or DRAFTERS[settings.drafter]
    # One that the request names drafts alone, unless it is all of them.
    is_open = not speculation.drafter and drafter != generation_pb2.DRAFTER_NONE
    return Plan(
        drafter,
        FixedLength(most, experience) if is_fixed else PaidLength(experience, most),
        speculation.min_joint_confidence
        if speculation.HasField("min_joint_confidence")
        else settings.min_joint_confidence,
        is_open or drafter in (generation_pb2.DRAFTER_AUTO, generation_pb2.DRAFTER_PREDICTION),
    )
