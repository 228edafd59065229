"""A runtime whose logits are the same to the bit for every batch composition.

Kernels change with the number of rows and with what else is in a batch, and with them the last bits of the logits. Two
ways keep them equal, both with separate streams and no flash attention; docs/exactness.md has the measurements:

- row multiple: every sequence gives a multiple of `width` rows to every decode, real rows first, then throw-away rows
  whose cache entries are removed at once, and asks for the logits of a multiple of `width` rows;
- constant rows: every decode has exactly `width` rows of every slot, all with logits.

llama.cpp evaluates a decode in one pass only if its sequences sit on consecutive slots with equal numbers of rows. So
gaps between working slots are filled with throw-away rows where that costs less than another decode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.engine.runtime import Logits, Runtime, Segment


class ExactMode(Enum):
    """How logits are kept equal."""

    ROW_MULTIPLE = "row-multiple"
    CONSTANT_ROWS = "constant-rows"


@dataclass(frozen=True)
class Exactness:
    """A way to exactness and its width in rows."""

    mode: ExactMode
    width: int


class ExactRuntime:
    """Pads what it is given; see the module.

    Its usable context is shorter than the inner runtime's by the `reserve` that throw-away rows need.
    """

    def __init__(self, inner: Runtime, exactness: Exactness, max_draft_tokens: int) -> None:
        self._inner = inner
        self._width = exactness.width
        self._is_constant = exactness.mode is ExactMode.CONSTANT_ROWS
        self._reserve = reserve(exactness, max_draft_tokens)
        self._held = [0] * inner.num_slots
        self.can_copy = False
        self.num_slots = inner.num_slots
        self.vocabulary_size = inner.vocabulary_size
        self.context_length = inner.context_length - self._reserve
        self.max_batch_rows = inner.max_batch_rows - inner.max_batch_rows % self._width

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Part segments into decodes of one pass each: verifications together where they are neighbours, prompts alone.

        Logits depend on nothing but each segment, so any grouping is right; this one is about cost.
        """
        if self._is_constant:
            return _rounds(segments, self._width)
        groups: list[list[Segment]] = []
        for segment in sorted(segments, key=lambda segment: (self._is_long(segment), segment.slot)):
            if groups and self._can_join(groups[-1], segment):
                groups[-1].append(segment)
            else:
                groups.append([segment])
        return groups

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Evaluate one group; see `Runtime.decode`."""
        by_slot = {segment.slot: segment for segment in segments}
        num_rows = _round_up(max(len(segment.tokens) for segment in segments), self._width)
        slots = range(self.num_slots) if self._is_constant else range(min(by_slot), max(by_slot) + 1)
        padded = [self._pad(slot, by_slot.get(slot), num_rows) for slot in slots]
        logits = dict(zip(slots, self._inner.decode(padded), strict=True))
        for segment in segments:
            self._held[segment.slot] = segment.first_position + len(segment.tokens)
        for segment in padded:
            if segment.num_padding:
                self._inner.cut(segment.slot, self._held[segment.slot])
        return [self._real(logits[segment.slot], segment, num_rows) for segment in segments]

    def cut(self, slot: int, length: int) -> None:
        """Drop the cache of `slot` from position `length` on."""
        self._inner.cut(slot, length)
        self._held[slot] = length

    def copy(self, source: int, target: int, length: int) -> None:
        """Not to be called: separate streams cannot share a part of a sequence."""
        raise NotImplementedError

    def close(self) -> None:
        """Free everything."""
        self._inner.close()

    def _is_long(self, segment: Segment) -> bool:
        """Whether the segment is a part of a prompt, which would force its many rows on every neighbour."""
        return len(segment.tokens) > self._reserve

    def _can_join(self, group: Sequence[Segment], segment: Segment) -> bool:
        if self._is_long(segment) or self._is_long(group[-1]):
            return False
        needed = [_round_up(len(member.tokens), self._width) for member in (*group, segment)]
        num_rows = max(needed) * (segment.slot - group[0].slot + 1)
        # Gaps and padding to the longest may not cost more rows than are needed.
        return num_rows <= min(2 * sum(needed), self.max_batch_rows)

    def _pad(self, slot: int, segment: Segment | None, num_rows: int) -> Segment:
        if segment is None:
            return Segment(slot, self._held[slot], (), 0, num_rows)
        num_padding = num_rows - len(segment.tokens)
        return Segment(slot, segment.first_position, segment.tokens, self._outputs(segment, num_rows), num_padding)

    def _outputs(self, segment: Segment, num_rows: int) -> int:
        """Return how many real rows have logits: as many as bring the padding up to a multiple of the width."""
        num_padding = num_rows - len(segment.tokens)
        num_outputs = _round_up(segment.num_outputs + num_padding, self._width) - num_padding
        return min(len(segment.tokens), num_outputs)

    def _real(self, logits: Logits, segment: Segment, num_rows: int) -> Logits:
        end = self._outputs(segment, num_rows)
        return logits[end - segment.num_outputs : end]


def reserve(exactness: Exactness, max_draft_tokens: int) -> int:
    """Return how many throw-away rows a slot may have to hold beside its context."""
    if exactness.mode is ExactMode.CONSTANT_ROWS:
        return exactness.width
    return _round_up(max_draft_tokens + 1, exactness.width)


def _rounds(segments: Sequence[Segment], width: int) -> list[list[Segment]]:
    """Cut every segment into pieces of at most `width` rows; the n-th pieces of all are decoded together.

    A segment has logits for at most `width` rows: the caller allows no longer drafts.
    """
    rounds: list[list[Segment]] = []
    for segment in segments:
        num_pieces = -(-len(segment.tokens) // width)
        first_piece = len(segment.tokens) - width * (num_pieces - 1)
        # The short piece comes first, so that the rows with logits, at the end, stay together.
        starts = [0, *range(first_piece, len(segment.tokens), width)]
        for index, start in enumerate(starts):
            tokens = segment.tokens[start : starts[index + 1] if index + 1 < num_pieces else None]
            num_outputs = segment.num_outputs if index + 1 == num_pieces else 0
            if index == len(rounds):
                rounds.append([])
            rounds[index].append(Segment(segment.slot, segment.first_position + start, tokens, num_outputs))
    return rounds


def _round_up(count: int, width: int) -> int:
    return -(-count // width) * width
