"""When a proposal stops, and what it promises of each token."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.draft.proposal import DraftToken, Proposal
from services.engine.sampling import SamplingParams
from services.engine.scheduling.work import Finished, More, Prefix
from tests.unit.engine.fakes import fake_logits, true_text

PROMPT = [1, 2, 3]
SAMPLED = SamplingParams(temperature=0.8, seed=5)


def _propose(
    num_draft_tokens: int,
    params: SamplingParams = SAMPLED,
    end_of_generation: Sequence[int] = (),
    min_joint_confidence: float = 0.0,
) -> tuple[list[DraftToken], list[int]]:
    """Run a proposal as the engine would; return its draft tokens and the tokens that were evaluated."""
    proposal = Proposal(
        Prefix("a", 0, b"", PROMPT),
        num_draft_tokens,
        params,
        end_of_generation,
        min_joint_confidence=min_joint_confidence,
    )
    held = list(PROMPT)
    while True:
        step = proposal.take(fake_logits(tuple(held))[np.newaxis], held)
        if isinstance(step, Finished):
            assert step.keep_length == len(held)
            return step.value, held
        assert isinstance(step, More)
        held.extend(step.tokens)


@pytest.mark.parametrize("params", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_it_proposes_the_models_own_text(params: SamplingParams) -> None:
    draft_tokens, held = _propose(5, params)
    tokens = [draft_token.token for draft_token in draft_tokens]
    assert tokens == true_text(PROMPT, 5, params)
    # The last one is never evaluated here.
    assert held == [*PROMPT, *tokens[:-1]]


def test_each_token_comes_with_its_probability_and_margin() -> None:
    draft_tokens, _ = _propose(3, SamplingParams())
    held = list(PROMPT)
    for draft_token in draft_tokens:
        logits = fake_logits(tuple(held)).astype(np.float64)
        assert draft_token.probability == pytest.approx(math.exp(logits[draft_token.token]) / np.exp(logits).sum())
        best, second = sorted(logits, reverse=True)[:2]
        assert draft_token.margin == pytest.approx(best - second)
        held.append(draft_token.token)


def test_it_stops_at_the_end_of_generation() -> None:
    text = true_text(PROMPT, 5, SAMPLED)
    end = text[2]
    draft_tokens, held = _propose(5, SAMPLED, [end])
    assert [draft_token.token for draft_token in draft_tokens] == text[: text.index(end) + 1]
    assert len(held) == len(PROMPT) + text.index(end)


@given(st.floats(0, 1), st.integers(1, 8))
def test_it_stops_before_the_joint_confidence_falls_too_low(min_joint_confidence: float, num_draft_tokens: int) -> None:
    everything, _ = _propose(num_draft_tokens)
    expected: list[DraftToken] = []
    joint_confidence = 1.0
    for draft_token in everything:
        joint_confidence *= draft_token.probability
        if joint_confidence < min_joint_confidence:
            break
        expected.append(draft_token)
    draft_tokens, held = _propose(num_draft_tokens, min_joint_confidence=min_joint_confidence)
    assert draft_tokens == expected
    # A token that is not proposed is not evaluated either; the one before it was, to find out.
    assert len(held) == len(PROMPT) + min(len(expected), num_draft_tokens - 1)


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_a_confidence_that_is_just_reached_is_enough(num_tokens: int) -> None:
    everything, _ = _propose(num_tokens)
    joint_confidence = math.prod(draft_token.probability for draft_token in everything)
    assert _propose(num_tokens, min_joint_confidence=joint_confidence)[0] == everything
    assert len(_propose(num_tokens, min_joint_confidence=math.nextafter(joint_confidence, 1.0))[0]) == num_tokens - 1


def test_it_may_propose_nothing() -> None:
    assert _propose(5, min_joint_confidence=1.0) == ([], PROMPT)
