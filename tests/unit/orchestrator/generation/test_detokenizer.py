"""Tokens to text, when characters are split across tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.generation.text import Detokenizer


def _feed(pieces: list[bytes]) -> list[str]:
    """What each piece completes, and what is left at the end."""
    detokenizer = Detokenizer(pieces)
    return [*map(detokenizer.feed, range(len(pieces))), detokenizer.finish()]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([b"ab", b"", b"c"], ["ab", "", "c", ""], id="text as it comes"),
        pytest.param([b"\xc3", b"\xa9"], ["", "é", ""], id="two bytes"),
        pytest.param([b"a\xf0\x9f", b"\x98", b"\x80b"], ["a", "", "😀b", ""], id="four bytes with neighbours"),
        pytest.param([b"\xc3", b"a"], ["", "\N{REPLACEMENT CHARACTER}a", ""], id="a character that is broken off"),
        pytest.param([b"\xff"], ["\N{REPLACEMENT CHARACTER}", ""], id="no UTF-8 at all"),
        pytest.param([b"a\xe2\x82"], ["a", "\N{REPLACEMENT CHARACTER}"], id="an end within a character"),
        pytest.param([], [""], id="nothing"),
    ],
)
def test_named_cases(pieces: list[bytes], expected: list[str]) -> None:
    assert _feed(pieces) == expected


def test_ids_are_looked_up_in_the_table() -> None:
    detokenizer = Detokenizer([b"zero", b"one", b"", b"three"])
    assert [detokenizer.feed(token) for token in (3, 1, 2, 1)] == ["three", "one", "", "one"]


@st.composite
def split_bytes(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes, cut into pieces anywhere."""
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(split_bytes(st.text().map(str.encode)))
def test_text_comes_out_whole_however_it_is_split(pieces: list[bytes]) -> None:
    texts = _feed(pieces)
    assert "".join(texts) == b"".join(pieces).decode()
    assert texts[-1] == ""


@given(split_bytes(st.binary()))
def test_any_bytes_give_what_decoding_at_once_gives(pieces: list[bytes]) -> None:
    assert "".join(_feed(pieces)) == b"".join(pieces).decode(errors="replace")


@given(split_bytes(st.text().map(str.encode)))
def test_nothing_is_held_back_that_is_complete(pieces: list[bytes]) -> None:
    detokenizer = Detokenizer(pieces)
    fed, told = b"", ""
    for token, piece in enumerate(pieces):
        fed += piece
        told += detokenizer.feed(token)
        assert told == fed.decode(errors="ignore")
