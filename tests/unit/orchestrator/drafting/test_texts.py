"""Drafts that are read in texts: the one after the longest match, and whether it goes before a model's."""

from orchestrator.drafting.drafter import NGRAM, PREDICTION, Draft, FirstDrafter, Wanted
from orchestrator.drafting.ngram import NgramDrafter
from orchestrator.drafting.prediction import PredictionDrafter
from orchestrator.drafting.texts import BetterDrafter, LongestMatchDrafter
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import FakeDrafter, perfect

# Seven tokens came before, and came again.
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 50]
ANSWER = [1, 2, 3, 4, 5, 6, 7]


def texts(expected: list[int]) -> LongestMatchDrafter:
    lookup = NgramDrafter(3, 12, [])
    return LongestMatchDrafter(PredictionDrafter(expected, len(PROMPT), []), lookup)


async def draft_after(answer: list[int], expected: list[int]) -> Draft:
    drafter, sequence = texts(expected), TokenSequence(PROMPT)
    for token in answer:
        await drafter.propose(sequence, Wanted(2))
        sequence.extend([token])
    return await drafter.propose(sequence, Wanted(2))


async def test_the_longest_match_is_taken() -> None:
    draft = await draft_after(ANSWER, [30, 31, 6, 7, 20])
    assert (list(draft.tokens), draft.drafter) == ([8, 9], NGRAM)
    draft = await draft_after(ANSWER, [1, 2, 3, 4, 5, 6, 7, 20, 21])
    assert (list(draft.tokens), draft.drafter) == ([20, 21], PREDICTION)


async def test_what_is_expected_comes_first_where_matches_are_equal() -> None:
    draft = await draft_after([30, 5, 6, 7], [1, 2, 5, 6, 7, 20])
    assert (list(draft.tokens), draft.drafter) == ([20], PREDICTION)


async def test_one_text_is_enough() -> None:
    assert (await draft_after(ANSWER, [])).drafter == NGRAM
    assert (await draft_after([30], [30, 31])).drafter == PREDICTION
    assert await draft_after([40], [30, 31]) == Draft()


async def test_a_text_goes_before_a_model_where_it_is_better() -> None:
    asked: list[Draft] = []

    def is_better(draft: Draft) -> bool:
        asked.append(draft)
        return draft.margins[0] >= 7

    model = FakeDrafter(perfect)
    drafter = FirstDrafter(BetterDrafter(texts([])), model, texts([]))
    sequence = TokenSequence([*PROMPT, *ANSWER[:6]])
    assert (await drafter.propose(sequence, Wanted(2, is_better=is_better))).drafter == "remote"
    assert (await drafter.propose(sequence.extend(ANSWER[6:]), Wanted(2, is_better=is_better))).drafter == NGRAM
    assert [draft.margins[0] for draft in asked] == [6, 7]
    assert model.asked == [2]


async def test_a_model_goes_first_unless_something_else_is_said() -> None:
    drafter = FirstDrafter(BetterDrafter(texts([])), FakeDrafter(perfect))
    assert (await drafter.propose(TokenSequence([*PROMPT, *ANSWER]), Wanted(2))).drafter == "remote"


async def test_a_text_takes_over_where_the_model_does_not_try() -> None:
    idle = FakeDrafter(lambda sequence, number: [], "none")
    drafter = FirstDrafter(BetterDrafter(texts([])), idle, texts([]))
    assert (await drafter.propose(TokenSequence([*PROMPT, *ANSWER]), Wanted(2))).drafter == NGRAM
