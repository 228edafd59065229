"""Token ids to text, locally, from the target's token table."""

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Turns one generation's tokens into text as they come; a character split across tokens waits for its end."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """`token_bytes[i]` is what token i adds to the output."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Return the text that this token completes; bytes that cannot be UTF-8 become U+FFFD."""
        return self._decoder.decode(self._token_bytes[token])

    def finish(self) -> str:
        """Return what is left of a character that never ended."""
        return self._decoder.decode(b"", final=True)
