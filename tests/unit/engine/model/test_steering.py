"""Texts are parted so that they spell no token that steers, in a time that does not grow with the spellings."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.model.steering import Spellings, is_marker

texts = st.text("<|a>b\u2581", max_size=40)


def parted(spellings: list[str], text: str) -> list[str]:
    """The same by trying every spelling everywhere."""
    starts = [i for i in range(len(text)) if any(text.startswith(s, i) for s in spellings if len(s) > 1)]
    ends = [start + 1 for start in starts]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.lists(st.text("<|a>b", min_size=1, max_size=6), max_size=12), texts, st.integers(1, 9))
def test_every_spelling_is_parted(spellings: list[str], text: str, searched: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.engine.model.steering._SEARCHED", searched)
        assert Spellings(spellings).parts(text) == parted(spellings, text)


@given(st.lists(st.text("<|a>b", min_size=2, max_size=6), max_size=12), texts)
def test_a_text_is_split_at_the_longest_spellings(spellings: list[str], text: str) -> None:
    longest_first = sorted(spellings, key=len, reverse=True)
    expected = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if spellings else [text]
    assert Spellings(spellings).split(text) == expected


def test_a_pattern_tries_each_character_once() -> None:
    """An alternation of all of them is tried one by one at every `<`."""
    pattern = Spellings(f"<unused{i}>" for i in range(6242))._pattern.pattern
    assert "|<" not in pattern
    assert re.search(r"<unused\(\?:", pattern)


def test_spellings_that_branch_at_every_character() -> None:
    spellings = ["a" * count + "b" for count in range(1, 2000, 7)]
    assert Spellings(spellings).parts("xaab") == parted(spellings, "xaab")


STEER = [
    "<|start|>",
    "<|channel>",
    "<tool_call|>",
    "<tool_call>",
    "<start_of_turn>",
    "[INST]",
    "<\uff5cUser\uff5c>",
    "◁think▷",
]
HARMLESS = ["    ", "\n\n", "<h1>", "</table>", "<b>", "[]", "hello", "<0", "==>"]


@pytest.mark.parametrize("spelling", STEER)
def test_markers(spelling: str) -> None:
    assert is_marker(spelling)


@pytest.mark.parametrize("spelling", HARMLESS)
def test_tokens_that_steer_nothing(spelling: str) -> None:
    assert not is_marker(spelling)
