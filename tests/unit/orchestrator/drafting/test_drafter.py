"""Several drafters as one: the first that tries drafts, and the others take over where it does not."""

from orchestrator.drafting.drafter import NOBODY, Draft, FirstDrafter, NoDrafter, Wanted
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import FakeDrafter, Strategy, empty, perfect, plain_text

PROMPT = [3, 1, 2]


def idle() -> FakeDrafter:
    """A drafter that does not try."""
    return FakeDrafter(empty, NOBODY)


def drafting(name: str, strategy: Strategy = perfect) -> FakeDrafter:
    return FakeDrafter(strategy, name)


async def test_nobody_proposes_nothing() -> None:
    drafter = FirstDrafter()
    assert await drafter.propose(TokenSequence(PROMPT), Wanted(4)) == Draft()
    assert (drafter.num_resyncs, drafter.num_fallbacks) == (0, 0)
    await drafter.close()


async def test_the_first_that_tries_drafts() -> None:
    first, second, third = idle(), drafting("remote"), drafting("ngram")
    draft = await FirstDrafter(first, second, third).propose(TokenSequence(PROMPT), Wanted(2))
    assert (list(draft.tokens), draft.drafter) == (plain_text(PROMPT, 2), "remote")
    assert (first.asked, second.asked, third.asked) == ([2], [2], [])


async def test_one_that_tried_in_vain_is_not_helped_out() -> None:
    """The time for a draft is spent, and the next cycle knows better."""
    second = drafting("ngram")
    draft = await FirstDrafter(drafting("remote", empty), second).propose(TokenSequence(PROMPT), Wanted(2))
    assert (list(draft.tokens), draft.drafter, draft.waited_s) == ([], "remote", 0.125)
    assert second.asked == []


async def test_nobody_tries() -> None:
    assert await FirstDrafter(idle(), idle()).propose(TokenSequence(PROMPT), Wanted(2)) == Draft()


def test_there_is_as_much_room_as_any_has() -> None:
    full, first, second = FakeDrafter(perfect), FakeDrafter(perfect), FakeDrafter(perfect)
    full.most, first.most, second.most = 0, 3, 8
    assert FirstDrafter(full, first, second).room(10) == 8
    assert FirstDrafter(full, NoDrafter("there is none")).room(10) == FirstDrafter().room(10) == 0


def test_the_beginning_of_a_draft_keeps_what_is_known_of_it() -> None:
    draft = Draft([1, 2, 3], [0.5, 0.25, 0.125], [3.0, 2.0, 1.0], 1.0, 0.5, "remote")
    assert draft.first(2) == Draft([1, 2], [0.5, 0.25], [3.0, 2.0], 1.0, 0.5, "remote")
    assert draft.first(3) is draft


async def test_it_sums_up_and_closes_all() -> None:
    first, second = drafting("remote"), drafting("ngram")
    first.num_resyncs, first.num_fallbacks, second.num_resyncs, second.num_fallbacks = 1, 2, 3, 4
    drafter = FirstDrafter(first, second)
    assert (drafter.num_resyncs, drafter.num_fallbacks) == (4, 6)
    await drafter.close()
    assert first.is_closed and second.is_closed


async def test_the_first_problem_is_told() -> None:
    fine = FakeDrafter(perfect)
    assert FirstDrafter(fine).problem == ""
    both = FirstDrafter(fine, NoDrafter("there is none"))
    assert both.problem == "there is none"
    assert (await both.propose(TokenSequence([1]), Wanted(2))).tokens
    assert await NoDrafter("there is none").propose(TokenSequence([1]), Wanted(2)) == Draft()
