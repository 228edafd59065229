"""What draft tokens cost a session and are worth to it, by what the target quotes and a drafter has shown. Pure."""

from collections.abc import Sequence
from itertools import accumulate, count

from orchestrator.drafting.experience import Record
from outrider.v1 import target_pb2

# A target that idles for less of its time decodes for others while one drafts: a draft of that length costs nothing.
IDLE = 0.1


class Worth:
    """The costs of each number of draft tokens, and what each is worth, in tokens; zero costs and is worth nothing.

    With S_j the chance that the first j draft tokens are all accepted, a draft of n tokens is worth

        S_1 + ... + S_n - r (T(n) - T(0)) - r / m (D + n t)

    tokens: what it brings, less what its time would bring otherwise. r is the rate of all sessions together, at which
    the target's time is priced, T its decode; D and t are what drafting takes whatever the length and for each token,
    priced at a share of the rate, as the m sessions that draft do so in the same wait.
    """

    def __init__(self, record: Record, quote: target_pb2.Quote, most: int) -> None:
        """Of up to `most` draft tokens, or as many as are quoted for."""
        self._record = record
        self._quote = quote
        self._rows_ms = quote.row_ms[:most]
        self._rate = self._reachable_rate()
        drafts_ms = (self._draft_ms(record.usual_s(number)) for number in count(1))
        self.costs = [
            0.0,
            *(self._rate * (row_ms + draft_ms) for row_ms, draft_ms in zip(self._rows_ms, drafts_ms, strict=False)),
        ]

    @property
    def most(self) -> int:
        """The most draft tokens whose costs are known."""
        return len(self.costs) - 1

    def values(self, joint: Sequence[float]) -> list[float]:
        """Return what each number of draft tokens is worth that has one of the `joint` chances, or is zero."""
        tokens = accumulate(joint)
        comes = self._record.comes.value
        return [0.0, *(comes * brought - cost for brought, cost in zip(tokens, self.costs[1:], strict=False))]

    def cost_of(self, drafting_s: float) -> float:
        """Return what it costs that drafting keeps the target waiting for so long."""
        return self._rate * self._draft_ms(drafting_s)

    def _reachable_rate(self) -> float:
        """Return the tokens in a millisecond that time is priced at: those that are reached, or that soon will be.

        A company that begins has not reached yet what it will, and would take rows for cheap until it has.
        """
        quote, record = self._quote, self._record
        if quote.num_sessions < 2 or quote.idle_share < 1.0:
            return quote.tokens_per_ms
        num_drafting = max(1, quote.num_drafting)
        brought = accumulate(record.joint(len(self._rows_ms)))
        rates = (
            (quote.num_sessions + num_drafting * record.comes.value * tokens)
            / (quote.decode_ms + num_drafting * (row_ms + self._draft_ms(record.usual_s(number))))
            for number, (row_ms, tokens) in enumerate(zip(self._rows_ms, brought, strict=True), start=1)
        )
        return max(quote.tokens_per_ms, *rates)

    def _draft_ms(self, seconds: float) -> float:
        """Return a session's share of what drafting keeps the target waiting: nothing beside decodes of others."""
        quote = self._quote
        beside_ms = (1 - min(1.0, quote.idle_share / IDLE)) * quote.decode_ms
        return max(0.0, 1e3 * seconds - beside_ms) / max(1, quote.num_drafting)
