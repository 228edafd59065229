"""When a proposal stops, and what it promises of each token."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.v1.draft_pb2 import DraftToken, ProposeResult
from services.draft.servicer import ProposalWork
from services.engine.sampling import SamplingParams, sample_with_confidence
from services.engine.scheduling.work import Prefix
from tests.unit.engine.fakes import fake_logits, true_text

PROMPT = [1, 2, 3]
SAMPLED = SamplingParams(temperature=0.8, seed=5)


def _propose(
    num_draft_tokens: int,
    params: SamplingParams = SAMPLED,
    end_of_generation: Sequence[int] = (),
    min_joint_confidence: float = 0.0,
) -> tuple[ProposeResult, list[int]]:
    """Run a proposal as the engine would; return its result and the tokens that were evaluated."""
    proposal = ProposalWork(
        Prefix("a", 0, b"", PROMPT),
        num_draft_tokens,
        params,
        end_of_generation,
        min_joint_confidence=min_joint_confidence,
    )
    held = list(PROMPT)
    while True:
        more = proposal.next_step(fake_logits(tuple(held))[np.newaxis], held)
        if not more:
            assert proposal.held_length == len(held)
            return proposal.result, held
        held.extend(more)


def _confidences(num_draft_tokens: int) -> list[float]:
    """How sure each token of a whole proposal is. Messages round that."""
    held = list(PROMPT)
    found = []
    for _ in range(num_draft_tokens):
        token, probability, _ = sample_with_confidence(fake_logits(tuple(held)), len(held), SAMPLED, held)
        found.append(probability)
        held.append(token)
    return found


@pytest.mark.parametrize("params", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_it_proposes_the_models_own_text(params: SamplingParams) -> None:
    result, held = _propose(5, params)
    tokens = [draft_token.token for draft_token in result.draft_tokens]
    assert tokens == true_text(PROMPT, 5, params)
    assert not result.is_end_of_generation
    # The last one is never evaluated here.
    assert held == [*PROMPT, *tokens[:-1]]


def test_each_token_comes_with_its_probability_and_margin() -> None:
    result, _ = _propose(3, SamplingParams())
    held = list(PROMPT)
    assert len(result.draft_tokens) == 3
    for draft_token in result.draft_tokens:
        logits = fake_logits(tuple(held)).astype(np.float64)
        assert draft_token.probability == pytest.approx(math.exp(logits[draft_token.token]) / np.exp(logits).sum())
        best, second = sorted(logits, reverse=True)[:2]
        assert draft_token.margin == pytest.approx(best - second)
        held.append(draft_token.token)


def test_it_stops_at_the_end_of_generation() -> None:
    text = true_text(PROMPT, 5, SAMPLED)
    end = text[2]
    result, held = _propose(5, SAMPLED, [end])
    assert [draft_token.token for draft_token in result.draft_tokens] == text[: text.index(end) + 1]
    assert result.is_end_of_generation
    assert len(held) == len(PROMPT) + text.index(end)


@given(st.floats(0, 1), st.integers(1, 8))
def test_it_stops_before_the_joint_confidence_falls_too_low(min_joint_confidence: float, num_draft_tokens: int) -> None:
    everything = _propose(num_draft_tokens)[0].draft_tokens
    expected: list[DraftToken] = []
    joint_confidence = 1.0
    for draft_token, confidence in zip(everything, _confidences(num_draft_tokens), strict=True):
        joint_confidence *= confidence
        if joint_confidence < min_joint_confidence:
            break
        expected.append(draft_token)
    result, held = _propose(num_draft_tokens, min_joint_confidence=min_joint_confidence)
    assert list(result.draft_tokens) == expected
    # A token that is not proposed is not evaluated either; the one before it was, to find out.
    assert len(held) == len(PROMPT) + min(len(expected), num_draft_tokens - 1)


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_a_confidence_that_is_just_reached_is_enough(num_tokens: int) -> None:
    joint_confidence = math.prod(_confidences(num_tokens))
    result, _ = _propose(num_tokens, min_joint_confidence=joint_confidence)
    assert result == _propose(num_tokens)[0]
    result, _ = _propose(num_tokens, min_joint_confidence=math.nextafter(joint_confidence, 1.0))
    assert len(result.draft_tokens) == num_tokens - 1


def test_it_may_propose_nothing() -> None:
    assert _propose(5, min_joint_confidence=1.0) == (ProposeResult(), PROMPT)
