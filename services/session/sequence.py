"""A sequence of tokens with the digest of each of its prefixes, as callers and services both keep it."""

import hashlib
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Self

DIGEST_SIZE = 16
EMPTY_DIGEST = bytes(DIGEST_SIZE)

_TOKEN = Struct("<I").pack


def extend_digest(digest: bytes, token: int) -> bytes:
    """Return H_i = first 16 bytes of SHA-256(H_(i-1) || token as 4 little-endian bytes)."""
    return hashlib.sha256(digest + _TOKEN(token)).digest()[:DIGEST_SIZE]


class TokenSequence:
    """A growing sequence of token ids that knows the digest of each of its prefixes.

    `digests[i]` is the digest of the first i tokens, so there is always one more of them than of tokens.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self.digests: list[bytes] = [EMPTY_DIGEST]
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, tokens: Iterable[int]) -> Self:
        """Append tokens at the end."""
        digest = self.digests[-1]
        for token in tokens:
            digest = extend_digest(digest, token)
            self.tokens.append(token)
            self.digests.append(digest)
        return self

    def cut(self, length: int) -> None:
        """Forget everything from position `length` on."""
        del self.tokens[length:]
        del self.digests[length + 1 :]

    def has_prefix(self, length: int, digest: bytes) -> bool:
        """Whether the first `length` tokens are the ones with this digest. Every sequence has the empty prefix."""
        return length == 0 or (length <= len(self.tokens) and self.digests[length] == digest)

    def common_length(self, start: int, tokens: Sequence[int]) -> int:
        """Return the length of the longest held prefix that agrees with `tokens` placed at position `start`."""
        length = start
        for held, token in zip(self.tokens[start:], tokens, strict=False):
            if held != token:
                break
            length += 1
        return length
