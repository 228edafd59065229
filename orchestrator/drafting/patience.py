"""How long a draft is waited for."""

import math
from collections import defaultdict, deque
from statistics import median

# Proposals and cycles of which the times are remembered.
_NUM_REMEMBERED = 16
# A proposal may take as many times as long as the longest of the last ones, and a cycle more: on the cores that it
# shares with the target it has to wait for a decode of others.
_MOST_TIMES_USUAL = 3
# Draft tokens save at most a cycle each, and about half of that as a rule.
_CYCLES_PER_TOKEN = 0.5
_LEAST_CYCLES = 2
# Threads of a busy machine wait for each other as long as this, whatever they do.
LEAST_S = 0.02
# Tokens that a draft reads beside those it proposes without taking notably longer for it.
MOST_READ_TOKENS = 32


class DraftPatience:
    """Limits of the wait for proposals, from how long they and the target's cycles took. All sessions share one."""

    def __init__(self, most_s: float) -> None:
        """`most_s` limits every wait, but for two cycles of the target where these take longer."""
        self.most_s = most_s
        self._proposals_s: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_NUM_REMEMBERED))
        self._cycles_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)

    def note_proposal(self, num_draft_tokens: int, num_read_tokens: int, waited_s: float) -> None:
        """Learn how long a proposal of at most so many tokens took, or was waited for in vain."""
        if num_read_tokens <= MOST_READ_TOKENS:
            self._proposals_s[num_draft_tokens].append(waited_s)

    def note_cycle(self, waited_s: float) -> None:
        """Learn how long the target took for a verification."""
        self._cycles_s.append(waited_s)

    def limit_s(
        self, num_draft_tokens: int, num_read_tokens: int, wanted_s: float = math.inf, *, is_try: bool = False
    ) -> float:
        """Return how long to wait for a proposal before which the draft has to read `num_read_tokens` tokens.

        That is `wanted_s` at most. A draft that reads a prompt is waited for as long as the setting says, unless
        `is_try`: it was lost, and this finds out whether it is back. What it has read by then it need not read again.
        """
        is_prompt = num_read_tokens > MOST_READ_TOKENS
        cycle_s = median(self._cycles_s) if self._cycles_s else 0.0
        most_s = max(self.most_s, _LEAST_CYCLES * cycle_s)
        if is_prompt and not is_try:
            return most_s
        limits_s = [most_s, wanted_s]
        if cycle_s:
            limits_s.append(max(_LEAST_CYCLES, _CYCLES_PER_TOKEN * num_draft_tokens) * cycle_s)
        if not is_prompt and (usual_s := self._proposals_s.get(num_draft_tokens)):
            limits_s.append(_MOST_TIMES_USUAL * max(usual_s) + cycle_s)
        return min(most_s, max(LEAST_S, min(limits_s)))
