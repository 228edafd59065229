"""What all sessions of a draft service share: whether it is asked, and how long it is waited for."""

import math
import time
from collections import defaultdict, deque
from statistics import median
from typing import Protocol

from outrider.v1 import common_pb2, draft_pb2_grpc

_NUM_REMEMBERED = 16
# A proposal may take as many times as long as the longest of the last ones, and a cycle more: on the cores that it
# shares with the target it has to wait for a decode of others.
_MOST_TIMES_USUAL = 3
# Draft tokens save at most a cycle each, and about half of that as a rule.
_CYCLES_PER_TOKEN = 0.5
_LEAST_CYCLES = 2
# Threads of a busy machine wait for each other as long as this, whatever they do.
_LEAST_S = 0.02
# Tokens that a draft reads beside those it proposes without taking notably longer for it.
_MOST_READ_TOKENS = 32


class Breaker:
    """A circuit breaker, open after a failure: nobody asks the service, but for one try each `retry_s` seconds.

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


class DraftPatience:
    """Limits of the wait for proposals, from how long they and the target's cycles took. All sessions share one."""

    def __init__(self, most_s: float) -> None:
        """`most_s` limits every wait, but for two cycles of the target where these take longer."""
        self.most_s = most_s
        self._proposals_s: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_NUM_REMEMBERED))
        self._cycles_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)

    def note_proposal(self, num_draft_tokens: int, num_read_tokens: int, waited_s: float) -> None:
        """Learn how long a proposal of at most so many tokens took, or was waited for in vain."""
        if num_read_tokens <= _MOST_READ_TOKENS:
            self._proposals_s[num_draft_tokens].append(waited_s)

    def note_cycle(self, waited_s: float) -> None:
        """Learn how long the target took for a verification."""
        self._cycles_s.append(waited_s)

    def limit_s(self, num_draft_tokens: int, num_read_tokens: int, *, is_try: bool = False) -> float:
        """Return how long to wait for a proposal before which the draft has to read `num_read_tokens` tokens.

        A draft that reads a prompt is waited for as long as the setting says, unless `is_try`: it was lost, and this
        finds out whether it is back. What it has read by then it need not read again.
        """
        is_prompt = num_read_tokens > _MOST_READ_TOKENS
        cycle_s = median(self._cycles_s) if self._cycles_s else 0.0
        most_s = max(self.most_s, _LEAST_CYCLES * cycle_s)
        if is_prompt and not is_try:
            return most_s
        limits_s = [most_s]
        if cycle_s:
            limits_s.append(max(_LEAST_CYCLES, _CYCLES_PER_TOKEN * num_draft_tokens) * cycle_s)
        if not is_prompt and (usual_s := self._proposals_s.get(num_draft_tokens)):
            limits_s.append(_MOST_TIMES_USUAL * max(usual_s) + cycle_s)
        return min(most_s, max(_LEAST_S, min(limits_s)))


class DraftService(Protocol):
    """What all sessions of a draft service share."""

    stub: draft_pb2_grpc.DraftServiceStub
    breaker: Breaker
    patience: DraftPatience
    # What it served when its tokens were compared, empty until then: another one may take its place at any time.
    model: common_pb2.ModelInfo

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        """Whoever answers does not serve `model`: use it for no session until its tokens have been compared."""
