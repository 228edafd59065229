"""A circuit breaker: a service that fails is left alone for a while, then tried once."""

import math
import time


class Breaker:
    """Open after a failure: nobody asks the service, but for one try each `retry_s` seconds.

    Shared by all sessions of a service, so that one of them finds out for all.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._next_try_s = 0.0
        self._is_disabled = False
        self.reason = ""

    @property
    def is_disabled(self) -> bool:
        """Whether the service is of no use, whatever it answers yet."""
        return self._is_disabled

    @property
    def is_open(self) -> bool:
        """Whether the last try failed."""
        return bool(self.reason)

    def may_try(self) -> bool:
        """Whether to ask the service now. While open, this claims the try, so that only one caller makes it."""
        if not self.is_open:
            return True
        now_s = time.monotonic()
        if now_s < self._next_try_s:
            return False
        self._next_try_s = now_s + self._retry_s
        return True

    def fail(self, reason: str) -> None:
        """Note a failure."""
        if not self._is_disabled:
            self.reason = reason
            self._next_try_s = time.monotonic() + self._retry_s

    def succeed(self) -> bool:
        """Note a success: close. Return whether it was open."""
        # Not for an answer that was on its way when the service was found to be of no use.
        if self._is_disabled or not self.is_open:
            return False
        self.reason = ""
        return True

    def disable(self, reason: str) -> None:
        """Open until `enable`, without any try."""
        self._is_disabled = True
        self.reason = reason
        self._next_try_s = math.inf

    def enable(self) -> None:
        """Close, whatever was."""
        self._is_disabled = False
        self.reason = ""
