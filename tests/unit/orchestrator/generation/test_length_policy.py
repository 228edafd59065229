"""Length policies: the fixed one, and one that adapts to load, as anybody can write it after reading one folder."""

import math
from math import prod

import pytest

from orchestrator.drafting.drafter import Draft, Wanted
from orchestrator.generation.cycle import Cycle, FixedLength, LengthPolicy
from tests.unit.orchestrator.fakes import (
    FakeDrafter,
    FakeTarget,
    Strategy,
    empty,
    perfect,
    plain_text,
    run_policy,
    wrong,
)

PROMPT = [3, 1, 2]
NUM_TOKENS = 40
MOST = 8
ALONE, CROWDED = 4, 64
SURE, UNSURE = 0.99, 0.3


class Adaptive:
    """One token more after a draft that was sure of itself and right, half as many after one that was not.

    In a decode with many rows of other sessions a rejected token costs them time: no more than two then.
    """

    def __init__(self) -> None:
        self._num_draft_tokens = 2
        self._is_crowded = False

    def choose(self, most: int, num_left: float = math.inf) -> Wanted:
        return Wanted(min(self._num_draft_tokens, 2 if self._is_crowded else most, most))

    def chances(self, draft: Draft) -> None:
        """All are verified."""

    def observe(self, cycle: Cycle) -> None:
        self._is_crowded = cycle.verification.batch_rows > 32
        num_drafted = len(cycle.draft.tokens)
        if cycle.verification.result.num_accepted < num_drafted or prod(cycle.draft.probabilities) < 0.5:
            self._num_draft_tokens = max(1, self._num_draft_tokens // 2)
        else:
            self._num_draft_tokens += 1


async def chosen(
    policy: LengthPolicy, strategy: Strategy = perfect, *, batch_rows: int = ALONE, probability: float = SURE
) -> list[int]:
    """How many draft tokens a policy asks for, cycle by cycle. The text is the target's own, whatever it chooses."""
    target, drafter = FakeTarget(batch_rows=batch_rows), FakeDrafter(strategy, probability=probability)
    drafter.most = MOST
    cycles, text = await run_policy(policy, target, drafter, PROMPT, NUM_TOKENS)
    assert text == plain_text(PROMPT, NUM_TOKENS)
    assert [list(draft) for draft in target.drafts] == [list(cycle.draft.tokens) for cycle in cycles]
    return drafter.asked


async def test_a_draft_that_is_sure_and_right_grows_to_what_there_is_room_for() -> None:
    assert await chosen(Adaptive()) == [2, 3, 4, 5, 6, 7, 6]


async def test_a_draft_that_is_wrong_shrinks() -> None:
    assert (await chosen(Adaptive(), wrong))[:4] == [2, 1, 1, 1]


async def test_a_draft_that_is_right_and_unsure_shrinks() -> None:
    assert (await chosen(Adaptive(), probability=UNSURE))[:4] == [2, 1, 1, 1]


async def test_a_crowded_decode_is_spared() -> None:
    assert set((await chosen(Adaptive(), batch_rows=CROWDED))[:-1]) == {2}


async def test_a_draft_grows_again_once_there_is_room_in_the_decode() -> None:
    target = FakeTarget(batch_rows=CROWDED)

    def then_alone(sequence: list[int], num_draft_tokens: int) -> list[int]:
        if len(sequence) > len(PROMPT) + 5:
            target.batch_rows = ALONE
        return plain_text(sequence, num_draft_tokens)

    drafter = FakeDrafter(then_alone, probability=SURE)
    drafter.most = MOST
    _, text = await run_policy(Adaptive(), target, drafter, PROMPT, NUM_TOKENS)
    assert drafter.asked[:4] == [2, 2, 2, 5]
    assert text == plain_text(PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("strategy", [perfect, wrong, empty])
@pytest.mark.parametrize("batch_rows", [ALONE, CROWDED])
async def test_a_fixed_length_stays_the_same_whatever_comes_of_it(strategy: Strategy, batch_rows: int) -> None:
    asked = await chosen(FixedLength(3), strategy, batch_rows=batch_rows)
    # But at the end of the text, where there is less room.
    assert set(asked[:-3]) == {3}
    assert all(number <= 3 for number in asked)


def test_a_fixed_length_is_no_longer_than_there_is_room_for() -> None:
    policy = FixedLength(3)
    assert [policy.choose(most).num_draft_tokens for most in (0, 2, 3, 8)] == [0, 2, 3, 3]
