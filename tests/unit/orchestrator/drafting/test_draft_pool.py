"""Several draft services as one drafter: the one that is wanted drafts, or the first that tries."""

from orchestrator.drafting.draft_pool import DraftPool
from orchestrator.drafting.drafter import NOBODY, Draft, Wanted
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import FakeDrafter, empty, perfect

PROMPT = [3, 1, 2]


def idle() -> FakeDrafter:
    """A session whose service cannot be used."""
    return FakeDrafter(empty, NOBODY)


async def draft_of(*sessions: FakeDrafter, service: int = 0) -> Draft:
    return await DraftPool(*sessions).propose(TokenSequence(PROMPT), Wanted(4, service=service))


async def test_the_one_that_is_wanted_drafts() -> None:
    first, second = FakeDrafter(perfect), FakeDrafter(perfect)
    draft = await draft_of(first, second, service=1)
    assert (draft.service, len(draft.tokens)) == (1, 4)
    assert (first.asked, second.asked) == ([], [4])


async def test_the_first_that_tries_takes_its_place() -> None:
    first, second, third = idle(), FakeDrafter(perfect), idle()
    assert (await draft_of(first, second, third)).service == 1
    assert (await draft_of(first, second, third, service=2)).service == 1


async def test_one_that_tried_in_vain_is_not_helped_out() -> None:
    second = FakeDrafter(perfect)
    draft = await draft_of(FakeDrafter(empty), second)
    assert (list(draft.tokens), draft.service, second.asked) == ([], 0, [])


async def test_nobody_tries() -> None:
    assert await draft_of(idle(), idle()) == Draft()


def test_there_is_as_much_room_as_any_has() -> None:
    first, second = idle(), FakeDrafter(perfect)
    first.most, second.most = 9, 2
    assert DraftPool(first, second).room(3) == 9


async def test_there_is_a_problem_where_every_service_has_one() -> None:
    first, second = FakeDrafter(perfect), FakeDrafter(perfect)
    pool = DraftPool(first, second)
    first.problem, first.num_resyncs, first.num_fallbacks = "it is away", 2, 1
    assert pool.problem == ""
    second.problem, second.num_resyncs = "it is full", 3
    assert pool.problem == "it is away"
    assert (pool.num_resyncs, pool.num_fallbacks) == (5, 1)
    await pool.close()
    assert first.is_closed and second.is_closed
