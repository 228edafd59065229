"""Tokens to the text that a client sees."""

from collections.abc import Sequence

from orchestrator.generation.detokenizer import Detokenizer
from orchestrator.generation.stop import StopStrings


class TextStream:
    """Turns one generation's tokens into text, up to the first stop string."""

    def __init__(self, token_bytes: Sequence[bytes], stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(token_bytes)
        self._stop = StopStrings(stop)

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
