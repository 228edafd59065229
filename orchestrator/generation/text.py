"""Tokens to the text that a client sees: characters split across tokens, and stop strings."""

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


class StopStrings:
    """Watches one generation's text for the first stop string, which may span tokens."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Watch for any of `stop`, none of them empty."""
        self._stop = stop
        self._held = ""
        # The one that has appeared, empty before that.
        self.found = ""

    @property
    def is_found(self) -> bool:
        """Whether one has appeared."""
        return bool(self.found)

    def feed(self, text: str) -> str:
        """Return the text that can be told now. After a stop string was found that is nothing.

        What comes before the stop string is told, the stop string and what follows it is not. The one that is complete
        first counts, of two that end at the same character the longer, so that the pieces of the text do not matter.
        """
        if self.is_found:
            return ""
        self._held += text
        found = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if found:
            end, start = min(found)
            self.found = self._held[start:end]
            return self._take(start)
        return self._take(len(self._held) - self._num_undecided())

    def finish(self) -> str:
        """Return what was held back, when the generation has ended without a stop string."""
        return "" if self.is_found else self._take(len(self._held))

    def _num_undecided(self) -> int:
        """Return the length of the longest end of the text that is the beginning of a stop string."""
        longest = max(map(len, self._stop), default=0)
        for length in range(min(len(self._held), longest - 1), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _take(self, length: int) -> str:
        certain, self._held = self._held[:length], self._held[length:]
        return certain


class TextStream:
    """Turns one generation's tokens into text, up to the first stop string."""

    def __init__(self, token_bytes: Sequence[bytes], stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(token_bytes)
        self._stop = StopStrings(stop)

    @property
    def stop(self) -> str:
        """The stop string that has appeared, empty where none has."""
        return self._stop.found

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._stop.is_found

    def feed(self, token: int) -> str:
        """Return the text that can be told after this token."""
        return self._stop.feed(self._detokenizer.feed(token))

    def finish(self) -> str:
        """Return what was held back."""
        return self._stop.feed(self._detokenizer.finish()) + self._stop.finish()
