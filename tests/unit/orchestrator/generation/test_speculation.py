"""What a request asks of speculation, the orchestrator's settings, and what the target takes."""

import math
from typing import Any

import pytest

from orchestrator.drafting.experience import Experience
from orchestrator.generation.speculation import Plan, check_speculation, plan_speculation
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.frame.rpc.errors import ServiceError

AUTO, OFF, FIXED = (
    generation_pb2.SPECULATION_MODE_AUTO,
    generation_pb2.SPECULATION_MODE_OFF,
    generation_pb2.SPECULATION_MODE_FIXED,
)
TARGET = common_pb2.ModelInfo(max_draft_tokens=8)
NGRAM, REMOTE, NONE = generation_pb2.DRAFTER_NGRAM, generation_pb2.DRAFTER_REMOTE, generation_pb2.DRAFTER_NONE
PREDICTION = generation_pb2.DRAFTER_PREDICTION


def plan(settings: dict[str, Any] | None = None, **asked: Any) -> Plan:
    speculation = generation_pb2.Speculation(**asked)
    check_speculation(speculation, TARGET)
    return plan_speculation(speculation, OrchestratorSettings(**(settings or {})), Experience())


@pytest.mark.parametrize(
    ("settings", "asked", "expected"),
    [
        pytest.param({}, {}, 16, id="nothing asked for"),
        pytest.param({"max_draft_tokens": 3}, {"mode": AUTO}, 3, id="the orchestrator's most"),
        pytest.param({}, {"mode": AUTO, "max_draft_tokens": 2}, 2, id="at most so many"),
        pytest.param({"max_draft_tokens": 2}, {"mode": AUTO, "max_draft_tokens": 3}, 2, id="at most more"),
        pytest.param({}, {"mode": FIXED, "num_draft_tokens": 8}, 8, id="fixed"),
        pytest.param({"max_draft_tokens": 0}, {"mode": FIXED, "num_draft_tokens": 1}, 1, id="fixed where none is set"),
        pytest.param({}, {"mode": OFF, "num_draft_tokens": 3}, 0, id="off"),
    ],
)
def test_how_many(settings: dict[str, Any], asked: dict[str, Any], expected: int) -> None:
    policy = plan(settings, **asked).policy
    for most, number in ((100, expected), (expected // 2, expected // 2)):
        wanted = policy.choose(most)
        # A draft model is not asked before the first token.
        assert (wanted.num_looked_up or wanted.num_draft_tokens) == number, "no more than there is room for"


@pytest.mark.parametrize(
    ("setting", "asked", "expected"),
    [
        ("auto", {}, generation_pb2.DRAFTER_AUTO),
        ("remote", {}, REMOTE),
        ("ngram", {"mode": FIXED, "num_draft_tokens": 2}, NGRAM),
        ("none", {}, NONE),
        ("none", {"drafter": NGRAM}, NGRAM),
        ("auto", {"drafter": REMOTE}, REMOTE),
        ("auto", {"drafter": NONE}, NONE),
        ("ngram", {"drafter": generation_pb2.DRAFTER_AUTO}, generation_pb2.DRAFTER_AUTO),
        ("auto", {"mode": OFF, "drafter": NGRAM}, NONE),
        ("prediction", {}, PREDICTION),
        ("auto", {"drafter": PREDICTION}, PREDICTION),
    ],
)
def test_who(setting: str, asked: dict[str, Any], expected: int) -> None:
    assert plan({"drafter": setting}, **asked).drafter == expected


@pytest.mark.parametrize(
    ("setting", "asked", "expected"),
    [
        ("auto", {}, True),
        ("remote", {}, True),
        ("prediction", {}, True),
        ("none", {}, False),
        ("none", {"drafter": PREDICTION}, True),
        ("none", {"drafter": generation_pb2.DRAFTER_AUTO}, True),
        ("prediction", {"drafter": NGRAM}, False),
        ("auto", {"drafter": REMOTE}, False),
        ("auto", {"mode": FIXED, "num_draft_tokens": 2}, True),
        ("remote", {"mode": FIXED, "num_draft_tokens": 2}, True),
        ("none", {"mode": FIXED, "num_draft_tokens": 2}, False),
        ("none", {"mode": FIXED, "num_draft_tokens": 2, "drafter": PREDICTION}, True),
        ("auto", {"mode": FIXED, "num_draft_tokens": 2, "drafter": REMOTE}, False),
        ("auto", {"mode": OFF}, False),
        ("auto", {"mode": OFF, "drafter": PREDICTION}, False),
        ("prediction", {"mode": OFF, "num_draft_tokens": 2}, False),
    ],
)
def test_whether_a_prediction_is_used(setting: str, asked: dict[str, Any], expected: bool) -> None:
    assert plan({"drafter": setting}, **asked).uses_prediction == expected


def test_a_prediction_is_used_where_the_request_fixes_what_the_orchestrator_does_without() -> None:
    settings = {"max_draft_tokens": 0}
    assert not plan(settings, drafter=PREDICTION).uses_prediction
    assert plan(settings, drafter=PREDICTION, mode=FIXED, num_draft_tokens=2).uses_prediction


def test_nobody_drafts_where_no_tokens_are_to_be_drafted() -> None:
    assert plan({"max_draft_tokens": 0}).drafter == plan({"max_draft_tokens": 0}, drafter=REMOTE).drafter == NONE


@pytest.mark.parametrize(
    ("setting", "asked", "expected"), [(0.25, {}, 0.25), (0.25, {"min_joint_confidence": 0.0}, 0.0), (0.0, {}, 0.0)]
)
def test_how_sure(setting: float, asked: dict[str, Any], expected: float) -> None:
    assert plan({"min_joint_confidence": setting}, **asked).min_joint_confidence == expected


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        pytest.param({"mode": FIXED}, "num_draft_tokens", id="fixed at nothing"),
        pytest.param({"mode": FIXED, "num_draft_tokens": 9}, "num_draft_tokens", id="more than the target takes"),
        pytest.param({"mode": 17}, "mode", id="no such mode"),
        pytest.param({"drafter": 17}, "drafter", id="no such drafter"),
        pytest.param({"min_joint_confidence": 1.5}, "min_joint_confidence", id="surer than sure"),
        pytest.param({"min_joint_confidence": -0.5}, "min_joint_confidence", id="negative"),
        pytest.param({"min_joint_confidence": math.nan}, "min_joint_confidence", id="not a number"),
    ],
)
def test_what_cannot_be_done(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(ServiceError) as info:
        plan(**asked)
    assert info.value.reason == "INVALID_REQUEST"
    assert [violation.field for violation in info.value.field_violations] == [f"speculation.{field}"]
