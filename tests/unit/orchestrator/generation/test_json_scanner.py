"""A JSON value is followed to its end, and no further than it is one."""

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.generation.json_scanner import JsonScanner, NotJsonError, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PIECES = ["{", "}", "[", "]", ",", ":", '"', "\\", "u00e9", "1", "-", ".5", "e3", "true", "nul", "NaN", " ", "\n", "a"]


def end_of(text: str, length: int) -> int | None:
    """Where the value at the start of a text ends, which comes in pieces of this length; None where it is none."""
    scanner, position = JsonScanner(), 0
    while position < len(text) and not scanner.is_complete:
        try:
            position += scanner.feed(text[position : position + length])
        except NotJsonError:
            return None
    return position if scanner.is_complete else None


@given(VALUES, st.booleans(), st.sampled_from([None, 2]), st.integers(1, 9))
def test_values_end_where_they_do(value: object, ensure_ascii: bool, indent: int | None, length: int) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    assert end_of(text + ' "more"', length) == len(text)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=10).map("".join), st.integers(1, 9))
def test_what_is_a_value_is_what_json_says(text: str, length: int) -> None:
    found = end_of("[" + text + "] ", length)
    if found is not None:
        assert isinstance(loads(("[" + text + "] ")[:found]), list)
    else:
        try:
            json.JSONDecoder(parse_constant=int).raw_decode("[" + text + "]")
        except ValueError:
            return
        raise AssertionError("it is JSON")


def test_it_says_where_it_is_no_json() -> None:
    scanner = JsonScanner()
    assert scanner.feed('{"a": ') == 6
    try:
        scanner.feed("1, }")
    except NotJsonError as error:
        assert error.position == 3
