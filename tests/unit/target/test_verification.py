"""Which draft tokens stand."""

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.target.verification import Verdict, accept

END = 9


@pytest.mark.parametrize(
    ("draft_tokens", "samples", "expected"),
    [
        pytest.param([], [4], Verdict(0, 4, False), id="an empty draft is plain decoding"),
        pytest.param([1, 2, 3], [1, 2, 3, 4], Verdict(3, 4, False), id="a perfect match earns the bonus token"),
        pytest.param([1, 2, 3], [7, 2, 3, 4], Verdict(0, 7, False), id="a mismatch at once"),
        pytest.param([1, 2, 3], [1, 7, 3, 4], Verdict(1, 7, False), id="nothing counts after the first mismatch"),
        pytest.param([1, 2, 3], [1, 2, 7, 4], Verdict(2, 7, False), id="a mismatch at the end"),
        pytest.param([], [END], Verdict(0, END, True), id="plain decoding ends"),
        pytest.param([1, END, 3], [1, END, 3, 4], Verdict(1, END, True), id="the draft foresaw the end"),
        pytest.param([1, 2, END], [1, 2, END, 4], Verdict(2, END, True), id="the draft ended with the end"),
        pytest.param([1, 2], [1, 2, END], Verdict(2, END, True), id="the bonus token is the end"),
        pytest.param([1, 2], [1, END, 4], Verdict(1, END, True), id="the recovered token is the end"),
        pytest.param([END, 2], [1, 2, 3], Verdict(0, 1, False), id="an end that only the draft wanted"),
        pytest.param([1, 2], [3, END, END], Verdict(0, 3, False), id="an end beyond the mismatch"),
    ],
)
def test_named_cases(draft_tokens: list[int], samples: list[int], expected: Verdict) -> None:
    assert accept(draft_tokens, samples, {END}) == expected


def test_any_of_several_ends_counts() -> None:
    assert accept([1], [8, 2], {8, 9}) == Verdict(0, 8, True)
    assert accept([1], [8, 2], {7, 9}) == Verdict(0, 8, False)


def test_a_sample_is_needed_for_every_draft_token_and_one_more() -> None:
    with pytest.raises(ValueError, match="2 draft tokens need 3 samples"):
        accept([1, 2], [1, 2], {END})


def test_what_cannot_matter_is_not_sampled() -> None:
    samples = iter([1, 7, 3, 4])
    assert accept([1, 2, 3], samples, {END}) == Verdict(1, 7, False)
    assert list(samples) == [3, 4]


def _plain_decoding(draft_tokens: Sequence[int], samples: Sequence[int], ends: Collection[int]) -> list[int]:
    """What decoding without a draft would have said so far: the samples, while the draft does not mislead them."""
    text: list[int] = []
    for index, sample in enumerate(samples):
        text.append(sample)
        if sample in ends or list(draft_tokens[: index + 1]) != text:
            break
    return text


@given(st.data())
def test_it_commits_what_plain_decoding_says(data: st.DataObject) -> None:
    # Few ids, so that drafts often agree.
    draft_tokens = data.draw(st.lists(st.integers(0, 2), max_size=6))
    samples = data.draw(st.lists(st.integers(0, 2), min_size=len(draft_tokens) + 1, max_size=len(draft_tokens) + 1))
    ends = data.draw(st.sets(st.integers(0, 2), max_size=1))
    verdict = accept(draft_tokens, samples, ends)
    expected = _plain_decoding(draft_tokens, samples, ends)
    assert [*draft_tokens[: verdict.num_accepted], verdict.next_token] == expected
    assert verdict.is_end_of_generation == (expected[-1] in ends)
