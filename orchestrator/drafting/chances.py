"""How likely draft tokens are accepted: by what the drafter said of each, and before a draft is made."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from orchestrator.drafting.drafter import Draft

# Depths are told apart by powers of two, up to this one.
_MOST_DEPTHS = 5
# A chance counts as seen in so many tokens, before it was: at a margin, and beyond that at a depth.
_PRIOR_TOKENS, _DEPTH_TOKENS = 4.0, 24.0
# Drafts of which the chances by depth are a mean, and what the mean of all depths counts for.
_NUM_JOINT, _PRIOR_DRAFTS = 64, 4.0
# Tokens after which what was seen counts e times less.
MEMORY = 512


class Chances:
    """The chance that a draft token is accepted if those before it are: a table of depth and margin, of decayed counts.

    A cell of which little is known has what is known of its margin at all depths, and that the `prior`.
    """

    def __init__(self, edges: Sequence[float], prior: Callable[[float], float]) -> None:
        """Tell margins apart at `edges`, ascending; `prior` is the chance at a margin before anything was seen."""
        self.edges = edges
        middles = [(low + high) / 2 for low, high in zip((0.0, *edges), (*edges, 1.5 * edges[-1]), strict=True)]
        self._prior = [prior(middle) for middle in middles]
        self._pooled = [[0.0, 0.0] for _ in middles]
        self._cells = [[[0.0, 0.0] for _ in middles] for _ in range(_MOST_DEPTHS)]

    def by_margin(self) -> list[float]:
        """Return the chances below the first edge, below the second and so on, whatever the depth."""
        return [
            (accepted + _PRIOR_TOKENS * prior) / (tried + _PRIOR_TOKENS)
            for (tried, accepted), prior in zip(self._pooled, self._prior, strict=True)
        ]

    def of(self, draft: Draft) -> list[float]:
        """Return the chance of each token of a draft."""
        pooled = self.by_margin()
        found = []
        for depth, margin in enumerate(draft.margins):
            place = bisect_right(self.edges, margin)
            tried, accepted = self._cells[_level(depth)][place]
            found.append((accepted + _DEPTH_TOKENS * pooled[place]) / (tried + _DEPTH_TOKENS))
        return found

    def observe(self, draft: Draft, num_accepted: int) -> None:
        """Learn from a draft that was verified: only the tokens up to the first that was rejected tell anything."""
        for depth, margin in enumerate(draft.margins[: num_accepted + 1]):
            place = bisect_right(self.edges, margin)
            for cell in (self._pooled[place], self._cells[_level(depth)][place]):
                cell[0] += 1 - cell[0] / MEMORY
                cell[1] += (depth < num_accepted) - cell[1] / MEMORY


class JointChances:
    """The chance that the first tokens of a draft are all accepted, before it is made: what earlier drafts had.

    It is no power of one chance: a draft that is right at first is likely to go on being right, and the other way
    round. Each depth has the share of those who came so far, decayed.
    """

    def __init__(self) -> None:
        # By depth: the sums of the chances that all tokens before one are accepted, and it too.
        self._sums: list[tuple[float, float]] = []

    def add(self, chances: Sequence[float]) -> None:
        """Take note of a draft, by the chance of each of its tokens."""
        joint = 1.0
        for depth, chance in enumerate(chances):
            if depth == len(self._sums):
                self._sums.append((0.0, 0.0))
            before, after = self._sums[depth]
            kept = 1 - 1 / _NUM_JOINT
            self._sums[depth] = kept * before + joint, kept * after + joint * chance
            joint *= chance

    def of_first(self, number: int, mean: float, factor: float = 1.0) -> list[float]:
        """Return the chance that the first is accepted, the first two and so on, of so many tokens.

        At a depth of which little is known it is the `mean` of all; each token's own is `factor` times that of others.
        """
        found, joint = list[float](), 1.0
        for depth in range(number):
            before, after = self._sums[depth] if depth < len(self._sums) else (0.0, 0.0)
            joint *= min(1.0, factor * (after + _PRIOR_DRAFTS * mean) / (before + _PRIOR_DRAFTS))
            found.append(joint)
        return found


def _level(depth: int) -> int:
    return min(depth.bit_length(), _MOST_DEPTHS - 1)
