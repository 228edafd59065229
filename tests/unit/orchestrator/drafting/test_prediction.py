"""The text that a caller expects as a drafter: followed while it is right, found again where it is not."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.drafting import prediction
from orchestrator.drafting.drafter import NGRAM, Draft, Wanted
from orchestrator.drafting.prediction import Alignment, PredictionDrafter, is_followed
from orchestrator.generation.cycle import FixedLength, run_cycles
from services.frame.telemetry import Telemetry
from services.session.client import Limits
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import NUM_TOKENS, FakeTarget, plain_text

PROMPT = [90, 91]
END = 99
# Ten lines of four tokens, of which the last is the same in all.
LINES = [[10 * line + 1, 10 * line + 2, 10 * line + 3, 0] for line in range(10)]
EXPECTED = [token for line in LINES for token in line]


def text_of(*lines: Sequence[int]) -> list[int]:
    return [token for line in lines for token in line]


async def drafted(text: Sequence[int], num_draft_tokens: int = 4, expected: Sequence[int] = EXPECTED) -> list[int]:
    """What is proposed after a text that came token by token."""
    drafter = PredictionDrafter(expected, len(PROMPT), [END])
    sequence = TokenSequence(PROMPT)
    for token in text:
        await drafter.propose(sequence, Wanted(num_draft_tokens))
        sequence.extend([token])
    return list((await drafter.propose(sequence, Wanted(num_draft_tokens))).tokens)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param([], LINES[0], id="the beginning"),
        pytest.param(LINES[0], LINES[1], id="all as expected"),
        pytest.param(text_of(*LINES[:9], LINES[9][:2]), LINES[9][2:], id="near the end"),
        pytest.param(EXPECTED, [], id="at the end"),
        pytest.param([*EXPECTED, 55], [], id="behind the end"),
        pytest.param([*LINES[0], 55], [], id="something else comes"),
        pytest.param(text_of(LINES[0], [55, 56, 0], LINES[1][:2]), LINES[1][2:] + LINES[2][:2], id="a line put in"),
        pytest.param(text_of(LINES[0], [55, 56, 57, 0], LINES[2][:2]), LINES[2][2:] + LINES[3][:2], id="another line"),
        pytest.param(text_of(LINES[0], LINES[5][:2]), LINES[5][2:] + LINES[6][:2], id="four lines left out"),
        pytest.param([*LINES[0], 11, 55, 13, 0], LINES[2], id="another token"),
        pytest.param(text_of([55, 56], LINES[0]), LINES[1], id="something before it"),
        pytest.param(
            text_of([55], LINES[0][1:], LINES[1], [56], LINES[3], [57, 58], LINES[5][:3]),
            [0, *LINES[6][:3]],
            id="three changes",
        ),
        pytest.param([*EXPECTED, 55, *LINES[3][:2]], LINES[3][2:] + LINES[4][:2], id="a line once more behind the end"),
        pytest.param([*EXPECTED, *EXPECTED[:2]], EXPECTED[2:6], id="all of it once more"),
        pytest.param(text_of(LINES[0], [55] * 300, LINES[1][:2]), LINES[1][2:] + LINES[2][:2], id="a page put in"),
        pytest.param(text_of(LINES[7], LINES[8], LINES[1][:3]), [0, *LINES[2][:3]], id="in another order"),
    ],
)
async def test_where_the_text_goes_on(text: list[int], expected: list[int]) -> None:
    assert await drafted(text) == expected


async def test_the_nearest_of_equal_places() -> None:
    """The same two tokens are at many places."""
    expected = [token for number in range(8) for token in (1, 2, 30 + number)]
    text = [*expected[:10], 55, 1, 2]
    assert await drafted(text, 2, expected) == [33, 1]


async def test_a_longer_match_is_worth_a_longer_way() -> None:
    expected = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 9, 9, 9, 9, 9, 1, 2, 3, 20]
    assert await drafted([1, 2, 3, 4, 5, 6, 7, 8, 55, 9, 1, 2, 3], 1, expected) == [20]
    assert await drafted([1, 2, 3, 4, 5, 6, 7, 8, 55, 2, 3], 1, expected) == [9]


@pytest.mark.parametrize(("num_draft_tokens", "expected"), [(-1, []), (0, []), (2, [1, 2]), (50, EXPECTED)])
async def test_as_many_as_are_asked_for(num_draft_tokens: int, expected: list[int]) -> None:
    assert await drafted([], num_draft_tokens) == expected


@pytest.mark.parametrize(
    ("most_draft_tokens", "max_length", "context_length", "expected"),
    [
        pytest.param(1000, 42, 1000, [7, 7, 7, 7, 6], id="as fixed, and what is left"),
        pytest.param(3, 42, 1000, [3] * 9 + [2], id="as the target takes"),
        pytest.param(1000, 20, 1000, [7, 7, 1], id="up to the last token"),
        pytest.param(1000, 1000, 19, [7, 7, 0], id="up to the end of the context"),
    ],
)
async def test_no_more_is_proposed_than_can_be_taken(
    most_draft_tokens: int, max_length: int, context_length: int, expected: list[int]
) -> None:
    """Of a prediction of 38 tokens after a prompt of 2. A cycle adds a token of its own."""
    text = plain_text(PROMPT, 40)
    target = FakeTarget()
    target.limits = Limits(max_draft_tokens=most_draft_tokens, context_length=context_length)
    sequence = TokenSequence(PROMPT)
    drafter, policy = PredictionDrafter(text[:38], len(PROMPT), []), FixedLength(7)
    cycles = run_cycles(sequence, target, drafter, policy, max_length=max_length, telemetry=Telemetry.off())
    drafted = [len(cycle.draft.tokens) async for cycle in cycles]
    assert drafted[: len(expected)] == expected
    assert len(sequence) == min(max_length, context_length)
    assert sequence.tokens[len(PROMPT) :] == text[: len(sequence) - len(PROMPT)]


async def test_drafts_that_take_no_time_have_a_number_of_their_own() -> None:
    drafter = PredictionDrafter(EXPECTED, 0, [])
    assert len((await drafter.propose(TokenSequence(), Wanted(0, num_looked_up=6))).tokens) == 6
    assert drafter.room(3) == len(EXPECTED)


async def test_what_may_not_be_said_is_not_proposed_nor_what_follows() -> None:
    assert await drafted([1], 4, [1, 2, END, 3, 4]) == [2]
    assert await drafted([1, 2], 4, [1, 2, END, 3, 4]) == []
    assert await drafted([1, 2, 3, 4], 4, [1, 2, END, 3, 4, 5]) == [5]


async def test_a_long_prediction_is_as_good() -> None:
    expected = list(range(prediction._LONG + 10))
    drafter, sequence = PredictionDrafter(expected, 0, []), TokenSequence()
    for length in (prediction._LONG, 3):
        draft = await drafter.propose(sequence.extend(range(len(sequence), length)), Wanted(3))
        assert list(draft.tokens) == expected[len(sequence) : len(sequence) + 3]


async def test_nothing_is_expected() -> None:
    drafter = PredictionDrafter([], len(PROMPT), [])
    assert await drafter.propose(TokenSequence(PROMPT), Wanted(4)) == Draft()
    assert await drafter.propose(TokenSequence([*PROMPT, 7]), Wanted(4)) == Draft()
    assert (drafter.room(2), drafter.num_resyncs, drafter.num_fallbacks, drafter.problem) == (0, 0, 0, "")
    await drafter.close()


async def test_a_draft_tells_the_match_that_each_token_follows_where_those_before_it_are_right() -> None:
    drafter = PredictionDrafter(EXPECTED, 0, [])
    sequence = TokenSequence([*LINES[0], 55, 11, 12])
    draft = await drafter.propose(sequence, Wanted(3))
    assert (draft.drafter, list(draft.margins)) == ("prediction", [2.0, 3.0, 4.0])
    assert not is_followed(draft)
    draft = await drafter.propose(sequence.extend([13, 0]), Wanted(3))
    assert list(draft.margins) == [4.0, 5.0, 6.0]
    assert is_followed(draft)
    assert not is_followed(Draft([1], margins=[9.0], drafter=NGRAM))
    draft = await drafter.propose(sequence.extend(text_of(*LINES[2:9])), Wanted(3))
    assert list(draft.margins) == [32.0] * 3, "longer ones are not told apart"


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=40))
def test_the_place_is_behind_what_both_have(expected: list[int], text: list[int]) -> None:
    alignment = Alignment(expected)
    for number, token in enumerate(text, 1):
        alignment.follow([token])
        if alignment.match and number > alignment.match:
            ending = text[number - alignment.match : number]
            assert expected[alignment.place - len(ending) : alignment.place] == ending
        # A pair that is nowhere has no place; one that is somewhere has one.
        if number > 1 and tuple(text[number - 2 : number]) in set(pairwise(expected)):
            assert alignment.match >= 2


def test_a_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the last tokens are expected: a token costs at most so many comparisons of places."""
    alignment = Alignment([1, 2] * 5000)
    places = []
    measure = alignment._match_length
    monkeypatch.setattr(alignment, "_match_length", lambda end: places.append(end) or measure(end))
    alignment.follow([1, 2, 7, 1, 2])
    assert len(places) <= 2 * prediction._NUM_NEAR
    assert max(map(measure, places)) <= prediction._LONGEST


@pytest.mark.parametrize("num_draft_tokens", [0, 1, 7])
@given(
    st.lists(st.integers(0, NUM_TOKENS - 1), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 59), st.integers(-2, NUM_TOKENS - 1)), max_size=8),
)
async def test_the_text_is_the_targets_own(
    num_draft_tokens: int, prompt: list[int], changes: list[tuple[int, int]]
) -> None:
    """Whatever is wrong with the prediction: at a place a token is another, missing (-1) or there twice (-2)."""
    text = plain_text(prompt, 60)
    expected = list(text)
    for place, token in changes:
        at = min(place, len(expected) - 1)
        expected[at : at + 1] = {-1: [], -2: [expected[at]] * 2}.get(token, [token])
    sequence = TokenSequence(prompt)
    cycles = [
        cycle
        async for cycle in run_cycles(
            sequence,
            FakeTarget(),
            PredictionDrafter(expected, len(prompt), []),
            FixedLength(num_draft_tokens),
            max_length=len(prompt) + 60,
            telemetry=Telemetry.off(),
        )
    ]
    assert sequence.tokens[len(prompt) :] == text
    assert all(len(cycle.draft.tokens) <= num_draft_tokens for cycle in cycles)
    if not changes and num_draft_tokens:
        assert len(cycles) == -(-60 // (num_draft_tokens + 1))
