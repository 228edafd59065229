"""Lookup in the request's own text: the longest earlier match of its end, found without reading it again."""

from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drafting import ngram
from orchestrator.drafting.drafter import Draft, FirstDrafter, Wanted
from orchestrator.drafting.ngram import NgramDrafter, NgramIndex
from orchestrator.generation.cycle import FixedLength, run_cycles
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import NUM_TOKENS, FakeTarget, next_token

END = 99


def rescan(tokens: Sequence[int], shortest: int, longest: int) -> tuple[int, int]:
    """What `find` finds, by looking everywhere for every length."""
    for length in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[len(tokens) - length :]:
                return end, length
    return 0, 0


async def drafted(tokens: Iterable[int], num_draft_tokens: int = 16, shortest: int = 3, longest: int = 8) -> list[int]:
    drafter = NgramDrafter(shortest, longest, [END])
    return list((await drafter.propose(TokenSequence(tokens), Wanted(num_draft_tokens))).tokens)


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6),
    st.integers(3, 5),
    st.integers(0, 4),
)
def test_the_index_finds_what_a_rescan_finds(parts: list[list[int]], shortest: int, more: int) -> None:
    """However much is added between two calls."""
    index = NgramIndex(shortest, shortest + more)
    tokens: list[int] = []
    for part in parts:
        tokens += part
        assert index.find(tokens) == rescan(tokens, shortest, shortest + more)


def test_a_token_is_indexed_once() -> None:
    """Whatever is asked of it later: a request of n tokens costs n steps, not n²."""

    class Counted(list[int]):
        num_read = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            got = super().__getitem__(key)
            Counted.num_read += len(got) if isinstance(key, slice) else 1
            return got

    tokens = Counted(range(1000))
    index = NgramIndex(4, 12)
    index.find(tokens)
    first = Counted.num_read
    for token in range(2000, 2010):
        tokens.append(token)
        index.find(tokens)
    assert first >= 4 * 996
    assert Counted.num_read - first == 10 * (4 + 4), "the run that came and the one looked for"


def test_a_run_that_is_everywhere_is_not_followed_for_ever() -> None:
    """Each time something else stands before it, so that no match is longer than the shortest."""
    tokens = [token for number in range(1000) for token in (100 + number, 1, 2, 3)]
    end, length = NgramIndex(3, 8).find(tokens)
    assert (end, length) == (len(tokens) - 4, 3)
    # One that is longer is found among the last places, and missed far back.
    near, far = tokens[-4 * ngram._MAX_PLACES :], tokens[:8]
    assert NgramIndex(3, 8).find([*near, *near[:4]])[1] == 4
    assert NgramIndex(3, 8).find([*tokens, *far[4:]])[1] == 3


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param([], [], id="no text"),
        pytest.param([1, 2, 3], [], id="shorter than a match"),
        pytest.param([1, 2, 3, 4, 5, 6], [], id="nothing twice"),
        pytest.param([1, 2, 3, 4, 9, 2, 3], [], id="a match of two"),
        pytest.param([1, 2, 3, 4, 5, 9, 1, 2, 3], [4], id="a match of three"),
        pytest.param([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 4, 5], [6, 7, 9], id="a match of five"),
        pytest.param([8, 1, 2, 3, 4, 9, 1, 2, 3, 5, 8, 1, 2, 3], [4, 9], id="the longest of two"),
        pytest.param([1, 2, 3, 4, 9, 1, 2, 3, 5, 8, 1, 2, 3], [5], id="the later of two that are equally long"),
        pytest.param([5, 5, 5, 5, 5, 5, 5, 5, 5], [5] * 6, id="the same token for ever"),
        pytest.param([0, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2], id="two tokens for ever"),
        pytest.param([1, 2, 3, 4, 5, END, 7, 8, 1, 2, 3, 4, 5], [], id="the end follows"),
        pytest.param([1, 2, 3, 4, 5, 6, END, 7, 8, 1, 2, 3, 4, 5], [6], id="the end is near"),
    ],
)
async def test_what_it_proposes(tokens: list[int], expected: list[int]) -> None:
    assert await drafted(tokens) == expected


@pytest.mark.parametrize(("num_draft_tokens", "expected"), [(-1, []), (0, []), (1, [6]), (2, [6, 7]), (3, [6, 7, 9])])
async def test_never_more_than_asked_for(num_draft_tokens: int, expected: list[int]) -> None:
    assert await drafted([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 4, 5], num_draft_tokens) == expected


async def test_one_that_is_weighed_is_as_long_as_it_may_be() -> None:
    sequence = TokenSequence([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3])
    drafter = NgramDrafter(3, 8, [])
    draft = await drafter.propose(sequence, Wanted(0, num_looked_up=5))
    assert (list(draft.tokens), list(draft.margins)) == ([4, 5, 6, 7, 9], [3.0, 4.0, 5.0, 6.0, 7.0])
    assert list((await drafter.propose(sequence, Wanted(5))).tokens) == [4]
    assert drafter.room(len(sequence)) == 11
    assert await NgramDrafter(3, 8, []).propose(TokenSequence([1, 2, 3, 4]), Wanted(0, num_looked_up=5)) == Draft()


async def test_a_draft_has_its_name_and_none_has_not() -> None:
    drafter = NgramDrafter(3, 8, [])
    sequence = TokenSequence([1, 2, 3])
    assert await drafter.propose(sequence, Wanted(4)) == Draft()
    assert await drafter.propose(sequence.extend([4, 1, 2, 3]), Wanted(4)) == Draft([4], margins=[3.0], drafter="ngram")
    assert (drafter.num_resyncs, drafter.num_fallbacks) == (0, 0)
    await drafter.close()


def forgetful(sequence: Sequence[int]) -> int:
    """The token that follows the last two: a text that comes back to where it was."""
    return next_token(sequence[-2:])


@pytest.mark.parametrize("next_token", [next_token, forgetful], ids=["never again", "over and over"])
@settings(max_examples=12)
@given(st.lists(st.integers(0, NUM_TOKENS - 1), min_size=1, max_size=40), st.integers(0, 8))
async def test_the_text_is_the_targets_own(
    next_token: Callable[[Sequence[int]], int], prompt: list[int], num_draft_tokens: int
) -> None:
    texts, cycles = [], []
    for drafter in (FirstDrafter(), NgramDrafter(3, 8, [])):
        sequence = TokenSequence(prompt)
        cycles = [
            cycle
            async for cycle in run_cycles(
                sequence,
                FakeTarget(next_token=next_token),
                drafter,
                FixedLength(num_draft_tokens),
                max_length=len(prompt) + 300,
                telemetry=Telemetry.off(),
            )
        ]
        texts.append(sequence.tokens)
    assert texts[0] == texts[1]
    for cycle in cycles:
        assert cycle.draft.drafter == ("ngram" if cycle.draft.tokens else "none")
        assert len(cycle.draft.tokens) <= num_draft_tokens
    # Of 144 pairs of tokens one comes again before long, and everything after it is known.
    assert next_token is not forgetful or num_draft_tokens == 0 or len(cycles) < 300


async def test_an_id_that_may_not_be_said_is_not_proposed_nor_what_follows() -> None:
    sequence = TokenSequence([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5])
    for never, expected in (([], [6, 7, 8]), ([7], [6]), ([6], [])):
        assert list((await NgramDrafter(3, 8, never).propose(sequence, Wanted(4))).tokens) == expected
