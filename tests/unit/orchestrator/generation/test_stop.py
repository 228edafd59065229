"""Stop strings, whatever the pieces in which the text comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.generation.text import StopStrings


def told(stop: list[str], pieces: list[str]) -> tuple[str, bool]:
    watch = StopStrings(stop)
    text = "".join(map(watch.feed, pieces))
    return text + watch.finish(), watch.is_found


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        ([], ["ab", "c"], ("abc", False)),
        (["c"], ["ab", "cd"], ("ab", True)),
        (["bcd"], ["ab", "c", "d", "e"], ("a", True)),
        (["bcd"], ["ab", "c", "e"], ("abce", False)),
        (["aab"], ["a", "a", "a", "b"], ("a", True)),
        (["xyz", "b"], ["ab", "xyz"], ("a", True)),
        (["bc", "abcd"], ["abcd"], ("a", True)),
        (["bc", "abc"], ["abcd"], ("", True)),
        (["\n\n"], ["a\n", "\nb"], ("a", True)),
    ],
)
def test_named_cases(stop: list[str], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert told(stop, pieces) == expected


def test_text_that_cannot_begin_a_stop_string_is_told_at_once() -> None:
    watch = StopStrings(["END"])
    assert watch.feed("abcE") == "abc"
    assert watch.feed("x") == "Ex"
    assert watch.feed("EN") == ""
    assert watch.feed("D and more") == ""
    assert (watch.is_found, watch.found) == (True, "END")


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.text("ab", max_size=20), st.data())
def test_the_pieces_do_not_matter(stop: list[str], text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert told(stop, pieces) == told(stop, list(text))
    before, is_found = told(stop, pieces)
    assert is_found == any(each in text for each in stop)
    assert text.startswith(before) if is_found else text == before
    assert not any(each in before for each in stop)
