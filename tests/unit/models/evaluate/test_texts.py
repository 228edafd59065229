"""Function headers, functions cut off in the middle, repetition, and places drawn from files."""

from __future__ import annotations

import pytest

from models.evaluate.texts import excerpts, function_headers, function_parses, repeated_share, whole_lines

SOURCE = '''import os


def plain(a, b=1):
    return a + b


class Thing:
    @property
    def long(  # the first line
        self,
        other: int = 3,
    ) -> dict[str, int]:
        # a comment before the body

        """Doc: string."""
        async def inner():
            pass
        return {":": 1}

    def short(self): return 1

    def commented(self):  # why
        return 2
'''


def test_headers_end_at_their_colon() -> None:
    headers = {header.header.split("(")[0].strip(): header for header in function_headers(SOURCE)}

    assert set(headers) == {"def plain", "def long", "async def inner"}
    assert headers["def plain"].header == "def plain(a, b=1):"
    assert headers["def long"].header.endswith(") -> dict[str, int]:")
    assert headers["def long"].rest.startswith("\n        # a comment before the body")
    assert headers["async def inner"].rest.startswith("\n            pass")
    for header in headers.values():
        assert header.before + header.header + header.rest == SOURCE


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("a", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("a\n\nb\nc", "a\n\nb\n")]
)
def test_whole_lines(text: str, expected: str) -> None:
    assert whole_lines(text) == expected


FUNCTIONS = {
    "whole": ("def f():", "\n    return 1\n", True),
    "last line cut off": ("def f():", "\n    x = 1\n    return (", True),
    "comment behind the colon": ("def f():", "  # why\n    return 1\n", True),
    "blank lines": ("def f():", "\n\n    x = 1\n\n    return x\n", True),
    "what follows it is left out": ("def f():", "\n    return 1\n\n\ndef g(\n    x,\n", True),
    "next method is left out": ("    def f(self):", "\n        return 1\n\n    def g(self):\n        if x:\n", True),
    "method": ("    def f(self):", "\n        return self.x\n", True),
    "deeper method": ("            async def f(self):", "\n                await x\n", True),
    "no line at all": ("def f():", " retur", False),
    "no body": ("def f():", "\nx = 1\n", False),
    "open string": ("def f():", '\n    """Doc\n    more\n', False),
    "open block": ("def f():", "\n    if x:\n", False),
    "nonsense": ("def f():", "\n    return return\n", False),
    "bad indent": ("def f():", "\n        x = 1\n      y = 2\n", False),
    "null byte": ("def f():", "\n    x = '\0'\n", False),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_parse_or_not(case: str) -> None:
    header, continuation, expected = FUNCTIONS[case]

    assert function_parses(header, continuation) is expected


def test_held_out_functions_parse_as_a_whole() -> None:
    assert all(function_parses(header.header, header.rest) for header in function_headers(SOURCE))


def test_repetition_is_the_share_of_runs_seen_before() -> None:
    assert repeated_share([[1, 2, 3, 4]], 2) == 0.0
    assert repeated_share([[1, 2, 1, 2, 1]], 2) == pytest.approx(2 / 4)
    assert repeated_share([[1, 1, 1, 1]], 2) == pytest.approx(2 / 3)
    assert repeated_share([[1, 2, 3], [1, 2, 3]], 2) == 0.0, "texts are compared with themselves only"
    assert repeated_share([[1, 2], []], 8) == 0.0


def test_excerpts_hold_what_stands_in_the_file() -> None:
    files = [list(range(1000 * number, 1000 * number + 200)) for number in (1, 2, 3)] + [[7] * 50]
    places = excerpts(files, 0, 30, prompt_tokens=40, num_tokens=100, seed=4)

    assert len(places) == 30
    assert [sum(place.continuation[0] // 1000 == number for place in places) for number in (1, 2, 3)] == [10, 10, 10]
    for place in places:
        assert place.prompt[0] == 0
        assert 10 <= len(place.prompt) - 1 <= 40 and len(place.continuation) == 100
        first = place.prompt[1]
        assert [*place.prompt[1:], *place.continuation] == list(range(first, first + len(place.prompt) - 1 + 100))
    assert places == excerpts(files, 0, 30, prompt_tokens=40, num_tokens=100, seed=4)
    assert places != excerpts(files, 0, 30, prompt_tokens=40, num_tokens=100, seed=5)


def test_no_file_long_enough_gives_no_excerpt() -> None:
    assert excerpts([[1] * 50], 0, 3, prompt_tokens=40, num_tokens=100, seed=4) == []
