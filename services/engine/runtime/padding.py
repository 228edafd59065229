"""A runtime that pads: so that a decode takes one pass, and where it is asked for, so that logits are exact.

llama.cpp evaluates a decode in one pass only if its sequences sit on consecutive slots with equal numbers of rows. So
shorter segments and gaps between working slots are filled with throw-away rows, whose cache entries are removed at
once, where that costs less than another decode.

Kernels change with the number of rows and with what else is in a batch, and with them the last bits of the logits. Two
ways keep them the same to the bit for every batch composition; docs/exactness.md has the measurements:

- row multiple: every sequence gives a multiple of `width` rows to every decode, and asks for the logits of a multiple
  of `width` rows;
- constant rows: every decode has exactly `width` rows of every slot, all with logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from services.engine.runtime.interface import Logits, Runtime, Segment

# More rows are decoded where that takes less than this share of the time: times are never equal.
_QUICKER = 0.9
# One decode takes the place of several up to this factor of their time: who is answered before others is out of step.
_TOGETHER = 1.1


class ExactMode(Enum):
    """How logits are kept equal."""

    ROW_MULTIPLE = "row-multiple"
    CONSTANT_ROWS = "constant-rows"


@dataclass(frozen=True)
class Exactness:
    """A way to exactness and its width in rows."""

    mode: ExactMode
    width: int


class PaddedRuntime:
    """Pads what it is given; see the module.

    Its usable context is shorter than the inner runtime's by the `reserve` that throw-away rows need.
    """

    def __init__(self, inner: Runtime, exactness: Exactness | None, max_draft_tokens: int) -> None:
        self._inner = inner
        self.costs = inner.costs
        self._width = exactness.width if exactness else 1
        self._is_constant = exactness is not None and exactness.mode is ExactMode.CONSTANT_ROWS
        self._reserve = reserve(exactness, max_draft_tokens)
        self._held = [0] * inner.num_slots
        self.num_slots = inner.num_slots
        self.max_sessions = inner.max_sessions
        self.vocabulary_size = inner.vocabulary_size
        self.context_length = inner.context_length - self._reserve
        self.max_batch_rows = inner.max_batch_rows - inner.max_batch_rows % self._width

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        """Return how many rows one decode has of so many neighbours, of which the one with most has `num_rows`."""
        return (self.num_slots if self._is_constant else num_sessions) * _round_up(num_rows, self._width)

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Part segments into decodes of one pass each: verifications together where they are neighbours, prompts alone.

        Logits depend on nothing but each segment, so any grouping is right; this one is about cost.
        """
        if self._is_constant:
            return _rounds(segments, self._width)
        # A part of a prompt would force its many rows on every neighbour.
        prompts = [[segment] for segment in segments if len(segment.tokens) > self._reserve]
        others = [segment for segment in segments if len(segment.tokens) <= self._reserve]
        return self._neighbours(sorted(others, key=lambda segment: segment.slot)) + prompts

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Evaluate one group; see `Runtime.decode`."""
        by_slot = {segment.slot: segment for segment in segments}
        num_rows = _round_up(max(len(segment.tokens) for segment in segments), self._width)
        slots = range(self.num_slots) if self._is_constant else range(min(by_slot), max(by_slot) + 1)
        if not self._is_constant and num_rows <= self._reserve:
            num_rows = self._quickest_rows(len(slots), num_rows)
        padded = {slot: self._pad(slot, by_slot.get(slot), num_rows) for slot in slots}
        logits = dict(zip(slots, self._inner.decode(list(padded.values())), strict=True))
        for segment in segments:
            self._held[segment.slot] = segment.first_position + len(segment.tokens)
        for slot, segment in padded.items():
            if segment.num_padding:
                self._inner.cut(slot, self._held[slot])
        ends = [padded[segment.slot].num_outputs for segment in segments]
        return [
            logits[segment.slot][end - segment.num_outputs : end] for segment, end in zip(segments, ends, strict=True)
        ]

    def attention_digest(self, slot: int, position: int) -> bytes:
        """Return the inner runtime's digest for a row."""
        return self._inner.attention_digest(slot, position)

    def reachable(self, slot: int, length: int) -> int:
        """Return `length`: a cache can be cut anywhere."""
        return self._inner.reachable(slot, length)

    def cut(self, slot: int, length: int) -> None:
        """Drop the cache of `slot` from position `length` on."""
        self._inner.cut(slot, length)
        self._held[slot] = length

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` positions of slot `source`."""
        self._inner.copy(source, target, length)
        self._held[target] = length

    def close(self) -> None:
        """Free everything."""
        self._inner.close()

    def _neighbours(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Part segments, slots ascending, where rows and what each decode costs by itself are least in sum."""
        if not segments:
            return []
        rows = [_round_up(len(segment.tokens), self._width) for segment in segments]
        whole_rows = max(rows) * (segments[-1].slot - segments[0].slot + 1)
        # Most often one decode is best, and is found without weighing every way: a second one costs `decode_in_rows`,
        # and can save no more than the padding.
        decode_in_rows = self.costs.decode_in_rows
        if whole_rows <= self.max_batch_rows and whole_rows - sum(rows) <= decode_in_rows:
            return [list(segments)]
        # For each number of segments: the least cost of the first ones, and where their last group begins.
        best = [(0.0, 0)]
        for end in range(1, len(segments) + 1):
            longest = 0
            found: list[tuple[float, int]] = []
            for start in reversed(range(end)):
                longest = max(longest, rows[start])
                num_rows = longest * (segments[end - 1].slot - segments[start].slot + 1)
                if found and num_rows > self.max_batch_rows:
                    break
                found.append((best[start][0] + decode_in_rows + num_rows, start))
            best.append(min(found))
        if whole_rows <= self.max_batch_rows and decode_in_rows + whole_rows <= _TOGETHER * best[-1][0]:
            return [list(segments)]
        groups: list[list[Segment]] = []
        end = len(segments)
        while end:
            start = best[end][1]
            groups.insert(0, list(segments[start:end]))
            end = start
        return groups

    def _quickest_rows(self, num_slots: int, num_rows: int) -> int:
        """Return how many rows of each slot to decode, at least `num_rows`: with some kernels more are quicker."""
        most = min(self._reserve, self.max_batch_rows // num_slots)
        options = range(num_rows, max(most, num_rows) + 1, self._width)

        def decode_s(rows: int) -> float:
            return self.costs.company_s(num_slots * rows, num_slots)

        quickest = min(options, key=decode_s)
        return quickest if decode_s(quickest) < _QUICKER * decode_s(num_rows) else num_rows

    def _pad(self, slot: int, segment: Segment | None, num_rows: int) -> Segment:
        if segment is None:
            segment = Segment(slot, self._held[slot], (), 0)
        num_padding = num_rows - len(segment.tokens)
        if self._is_constant:
            return replace(
                segment, num_outputs=len(segment.tokens), num_padding=num_padding, num_padding_outputs=num_padding
            )
        num_outputs = _round_up(segment.num_outputs, self._width)
        num_padding_outputs = min(num_padding, num_outputs - segment.num_outputs)
        return replace(
            segment,
            num_outputs=num_outputs - num_padding_outputs,
            num_padding=num_padding,
            num_padding_outputs=num_padding_outputs,
        )


def reserve(exactness: Exactness | None, max_draft_tokens: int) -> int:
    """Return how many throw-away rows a slot may have to hold beside its context."""
    if exactness is None:
        return max_draft_tokens + 1
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
