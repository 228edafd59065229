"""What a draft sees of a request that has ids which it lacks."""

import pytest

from orchestrator.drafting import draft_view
from orchestrator.drafting.draft_view import DraftView
from outrider.v1 import common_pb2
from services.session.sequence import TokenSequence

SIZE, STAND_IN = 10, 4


def model(vocabulary_size: int = SIZE, **fields: list[int]) -> common_pb2.ModelInfo:
    return common_pb2.ModelInfo(vocabulary_size=vocabulary_size, **fields)


def view(
    sampling: common_pb2.Sampling | None = None, *, suppressed: tuple[int, ...] = (), size: int = SIZE
) -> DraftView:
    made = DraftView(sampling or common_pb2.Sampling(), suppressed, STAND_IN)
    made.look_from(model(size))
    return made


async def test_a_sequence_of_known_ids_is_itself() -> None:
    sequence = TokenSequence([1, 9])
    made = view()
    assert await made.sequence(sequence) is sequence
    assert await made.sequence(sequence.extend([3])) is sequence


@pytest.mark.parametrize("many", [1, 1000], ids=["in a thread", "at once"])
async def test_unknown_ids_have_a_stand_in_and_positions_stay(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr(draft_view, "_MANY", many)
    sequence = TokenSequence([1, 9])
    made = view()
    await made.sequence(sequence)
    seen = await made.sequence(sequence.extend([10, 2]))
    assert seen.tokens == [1, 9, STAND_IN, 2]
    assert seen.digests == TokenSequence(seen.tokens).digests
    assert await made.sequence(sequence.extend([3, 77])) is seen
    assert seen.tokens == [1, 9, STAND_IN, 2, 3, STAND_IN]


async def test_a_draft_without_the_stand_in_gets_its_first_id() -> None:
    assert (await view(size=3).sequence(TokenSequence([1, 9]))).tokens == [1, 0]


async def test_another_draft_may_know_more() -> None:
    sequence = TokenSequence([1, 12])
    made = view()
    assert (await made.sequence(sequence)).tokens == [1, STAND_IN]
    made.look_from(model(13))
    assert await made.sequence(sequence) is sequence


def test_parameters_name_no_id_that_the_draft_lacks() -> None:
    asked = common_pb2.Sampling(
        temperature=0.5, logit_bias={3: 1.0, 10: 2.0}, suppressed_tokens=[11, 2], penalty_last_n=3
    )
    made = view(asked, suppressed=(1, 30))
    assert made.sampling == common_pb2.Sampling(
        temperature=0.5, logit_bias={3: 1.0}, suppressed_tokens=[1, 2], penalty_last_n=3
    )
    assert dict(asked.logit_bias) == {3: 1.0, 10: 2.0}


def test_a_draft_is_not_told_what_its_own_file_says() -> None:
    made = DraftView(common_pb2.Sampling(), (1, 2, 3), STAND_IN)
    made.look_from(model(suppressed_tokens=[1, 3]))
    assert list(made.sampling.suppressed_tokens) == [2]
