"""What exporters of both protocols do where no collector answers.

The SDK's exporters try to reach it for ten seconds with every batch, and log an error each time. Ours look first
whether it answers, say once that it does not, and drop what is meant for it until it does. A collector that can be
connected to may be slow, as it shares the cores with models: it has the time that any export has.
"""

import logging

_logger = logging.getLogger(__name__)
# How long a connection to a collector may take that has not answered yet.
CONNECT_S = 1.0


class MayBeAway:
    """A mix-in for exporters. `WHAT` is what they export, in the plural."""

    WHAT: str
    _endpoint: str
    # The last export succeeded.
    _has_answered = False
    # A warning has said that the collector is away.
    _is_away = False

    def _answers(self) -> bool:
        """Whether the collector answers a request with nothing in it, whatever it says."""
        raise NotImplementedError

    def _can_be_reached(self) -> bool:
        """Whether to send: the collector answered the last time, or does so now."""
        if self._has_answered or self._answers():
            self._is_away = False
            return True
        if not self._is_away:
            self._is_away = True
            _logger.warning(
                "no collector answers at %s: %s are dropped until one does; OTEL_SDK_DISABLED=true does without",
                # Without the password that may stand in it.
                self._endpoint.rpartition("@")[2],
                self.WHAT,
            )
        return False
