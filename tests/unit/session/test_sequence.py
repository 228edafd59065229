"""Digests of prefixes: the arithmetic that protos/outrider/v1/common.proto promises, and the sequences that keep it."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.session.sequence import DIGEST_SIZE, EMPTY_DIGEST, TokenSequence, extend_digest

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=30)


def _digest(tokens: list[int]) -> bytes:
    """The definition, written out once more."""
    digest = b"\0" * 16
    for token in tokens:
        little_endian = bytes((token >> shift) & 0xFF for shift in (0, 8, 16, 24))
        digest = hashlib.sha256(digest + little_endian).digest()[0:16]
    return digest


# From another implementation: `(head -c 16 /dev/zero; printf '\001\000\000\000') | sha256sum | head -c 32`, and so on.
@pytest.mark.parametrize(
    ("tokens", "digest"),
    [
        ([], "00000000000000000000000000000000"),
        ([1], "7813d556ac524c47f15e6bc6c5ae0a4f"),
        ([1, 2], "0cca00dae9dfb46018a8d7cf52937109"),
        ([0xDEADBEEF], "f598016ed1015d54cf1bca6c77fefb3b"),
    ],
)
def test_vectors(tokens: list[int], digest: str) -> None:
    assert TokenSequence(tokens).digests[-1].hex() == digest


def test_a_token_beyond_32_bits_is_refused() -> None:
    with pytest.raises(struct.error):
        extend_digest(EMPTY_DIGEST, 2**32)


@given(TOKENS)
def test_every_prefix_has_the_defined_digest(tokens: list[int]) -> None:
    sequence = TokenSequence(tokens)
    assert sequence.tokens == tokens
    assert sequence.digests == [_digest(tokens[:length]) for length in range(len(tokens) + 1)]
    assert all(len(digest) == DIGEST_SIZE for digest in sequence.digests)


@given(TOKENS, TOKENS, st.data())
def test_cut_and_extended_it_is_as_if_made_anew(tokens: list[int], others: list[int], data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(tokens)))
    sequence = TokenSequence(tokens)
    sequence.cut(length)
    assert len(sequence) == length
    sequence.extend(others)
    assert sequence.tokens == tokens[:length] + others
    assert sequence.digests == TokenSequence(tokens[:length] + others).digests


@given(TOKENS, TOKENS, st.data())
def test_a_prefix_is_recognised_by_its_digest_alone(tokens: list[int], others: list[int], data: st.DataObject) -> None:
    sequence = TokenSequence(tokens)
    prefix = data.draw(st.sampled_from([tokens[:length] for length in range(len(tokens) + 1)] + [others]))
    is_prefix = tokens[: len(prefix)] == prefix
    assert sequence.has_prefix(len(prefix), _digest(prefix)) == is_prefix


def test_the_empty_prefix_needs_no_digest() -> None:
    assert TokenSequence([1]).has_prefix(0, b"")
    assert not TokenSequence([1]).has_prefix(2, _digest([1]))


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12), st.data())
def test_common_length(held: list[int], tokens: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(held)))
    expected = max(
        start + count
        for count in range(len(tokens) + 1)
        if held[start : start + count] == tokens[:count] and start + count <= len(held)
    )
    assert TokenSequence(held).common_length(start, tokens) == expected
