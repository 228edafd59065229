"""A runtime for models that keep a recurrent state, which cannot be cut back: it goes back to saved states instead.

A slot has a base: a length that the state of is saved, and a tail: the tokens that it holds beyond. Where snapshots do
not reach all rows that may be taken back (`held_slots.py`), these are evaluated after a base has been saved; once some
of them are taken back, the state of the base is put back, and what was accepted is evaluated again, together with what
comes next. Else the base stays behind, and moves on now and then.

Older states are kept where prompts end, and where parts of them do, so that others can begin with the same prompt.

With an exact width, all logits and states come from decodes of whole blocks of so many rows, the last bits depend on
nothing else (docs/exactness.md). Without snapshots these are blocks of the sequence, from its beginning on.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from services.engine.errors import DecodeError
from services.engine.runtime.held_slots import HeldSlot, HeldSlots, StatefulRuntime
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.kept_states import KeptStates

# Tokens of a tail that are evaluated by themselves at the latest, so that they need not be again and again.
MOST_TAIL = 16
# A base follows a slot that goes on from token to token once it is so far behind.
_MOST_BEHIND = 64
# Prompts that are longer leave a state right before their last row: who asks the same again begins there. Where they
# come in parts they leave others on the way, so far apart at least.
_LONG_PROMPT = 64
# Tails of which their usual length is a mean.
_NUM_TAILS = 16


class CheckpointRuntime:
    """Serves a model that keeps a state; see the module."""

    def __init__(
        self, inner: StatefulRuntime, width: int, max_draft_tokens: int, most_bytes: int, *, is_shared: bool = True
    ) -> None:
        """Evaluate blocks of `width` rows, 1 for any number; keep states of `most_bytes` beside the bases.

        Unless the decodes are `is_shared`, each has rows of one slot only.
        """
        self._inner = inner
        self._width = width
        self._kept = KeptStates(most_bytes)
        self._most_rows = max_draft_tokens + 1
        self._slots = HeldSlots(inner)
        self._tail_rows = 0.0
        self.costs = inner.costs
        self.num_slots = inner.num_slots
        self.max_sessions = inner.max_sessions if is_shared else 1
        self.vocabulary_size = inner.vocabulary_size
        self.context_length = inner.context_length - state_reserve(width, max_draft_tokens)
        self._most_block = inner.max_batch_rows - inner.max_batch_rows % width
        self.max_batch_rows = self._most_block - MOST_TAIL - width

    @property
    def num_checkpoint_bytes(self) -> int:
        """Size of the states that are kept now, in bytes; those of bases are not counted. Any thread may ask."""
        return self._kept.num_bytes

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        """Return how many rows one decode has of so many neighbours, of which the one with most has `num_rows`.

        Those that verify a draft evaluate again what was accepted before, as a rule where there are no snapshots.
        """
        tail_rows = round(self._tail_rows) if num_rows > 1 else 0
        return num_sessions * _round_up(num_rows + tail_rows, self._width)

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Part segments into decodes of one pass each: neighbours with as many rows, prompts alone.

        Those who verify drafts are padded to the same number of rows. Others go on from the state that a decode leaves,
        which padding would spoil where there are no snapshots.
        """
        prompts = [[segment] for segment in segments if self._is_prompt(segment)]
        others = sorted((each for each in segments if not self._is_prompt(each)), key=lambda each: each.slot)
        groups: list[list[Segment]] = []
        for segment in others:
            if groups and self._go_together([*groups[-1], segment]):
                groups[-1].append(segment)
            else:
                groups.append([segment])
        return groups + prompts

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Evaluate one group; see `Runtime.decode`. After a failure the slots hold nothing."""
        try:
            self._shorten_tails(segments)
            if len(segments) == 1 and self._leaves_state(segments[0]):
                return [self._evaluate_prompt(segments[0])]
            return self._evaluate(segments)
        except DecodeError:
            for segment in segments:
                self._kept.drop(segment.slot, 0)
            self._slots.clear({segment.slot for segment in segments})
            raise

    def reachable(self, slot: int, length: int) -> int:
        """Return the largest length, `length` at most, that the slot can be cut to."""
        known = self._slots[slot]
        if length >= known.base.length:
            return min(length, known.length)
        return self._kept.last(slot, length).length

    def cut(self, slot: int, length: int) -> None:
        """Drop what `slot` holds from position `length` on. Raises DecodeError where that is not reachable."""
        known = self._slots[slot]
        if length == known.length:
            return
        is_back = self._slots.take_back(slot, length)
        if length < known.base.length:
            checkpoint = self._kept.last(slot, length)
            if checkpoint.length != length:
                raise DecodeError(f"slot {slot} has no state of length {length} to go back to")
            self._kept.drop(slot, length)
            known.base, known.is_ahead = checkpoint, True
        known.tail = known.tail[: length - known.base.length]
        known.num_firm, known.is_in_prompt = min(known.num_firm, length), False
        if is_back:
            return
        if known.is_ahead:
            self._slots.put_back(slot)
        known.is_ahead = not known.tail

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target`, which is empty, the first `length` positions of slot `source`; they are reachable."""
        known = self._slots[source]
        is_after_base = length >= known.base.length
        base = known.base if is_after_base else self._kept.last(source, length)
        tail = known.tail[: length - base.length] if is_after_base else []
        self._slots.share(source, target, HeldSlot(base, tail, num_firm=length))

    def attention_digest(self, slot: int, position: int) -> bytes:
        """Return nothing: no digest is taken."""
        return b""

    def close(self) -> None:
        """Free everything."""
        self._inner.close()

    def _is_prompt(self, segment: Segment) -> bool:
        return len(segment.tokens) > self._most_rows or self._leaves_state(segment)

    def _leaves_state(self, segment: Segment) -> bool:
        """Whether a state is kept for those who begin alike: at the end of a long prompt, or on the way there."""
        end = segment.first_position + len(segment.tokens)
        if end <= _LONG_PROMPT or self._num_rest(segment) >= len(segment.tokens):
            return False
        if segment.num_outputs:
            num_firm = len(segment.tokens) - segment.num_tentative
            return num_firm > self._most_rows or self._slots[segment.slot].is_in_prompt
        return end - self._kept.last(segment.slot, end).length > _LONG_PROMPT

    def _num_rest(self, segment: Segment) -> int:
        """Return how many of the last rows follow whole blocks: where logits are wanted one at least, and the draft."""
        num_rows = len(self._slots[segment.slot].rows_before) + len(segment.tokens)
        most = num_rows - min(1, segment.num_outputs) - segment.num_tentative
        return num_rows - (most - most % self._width)

    def _go_together(self, group: Sequence[Segment]) -> bool:
        """Whether neighbours, of which the last one is new, go into one decode."""
        rows = [self._num_rows(segment) for segment in group]
        is_next = all(after.slot == before.slot + 1 for before, after in pairwise(group[-2:]))
        has_room = len(group) * max(rows) <= self.max_batch_rows and len(group) <= self.max_sessions
        return is_next and has_room and (len(set(rows)) == 1 or self._may_pad(group))

    def _may_pad(self, group: Sequence[Segment]) -> bool:
        return self._width > 1 or any(segment.num_outputs > 1 for segment in group)

    def _num_rows(self, segment: Segment) -> int:
        return _round_up(len(self._slots[segment.slot].rows_before) + len(segment.tokens), self._width)

    def _shorten_tails(self, segments: Sequence[Segment]) -> None:
        """Evaluate long tails by themselves, as whole blocks, and move the bases."""
        most = self._most_tail(segments)
        for segment in segments:
            while (num_rows := self._num_whole(segment)) > most:
                self._slots.shorten(segment.slot, min(num_rows, self._most_block))

    def _most_tail(self, segments: Sequence[Segment]) -> int:
        """Return how long tails may be that go with what comes; by what decodes cost, longer ones are better off alone.

        Rows beside a draft are dear: all neighbours have as many, and most of them come again with the next draft.
        """
        whole = [self._num_whole(segment) for segment in segments]
        rows = [self._num_rows(segment) for segment in segments]
        lengths = sorted((length for length in {0, *whole} if length < MOST_TAIL), reverse=True)
        if len(lengths) == 1 or not any(segment.num_tentative for segment in segments):
            return lengths[0]

        def duration_s(most: int) -> float:
            num_rows = max(count - (tail if tail > most else 0) for count, tail in zip(rows, whole, strict=True))
            together_s = self.costs.company_s(len(segments) * num_rows, len(segments))
            return 2 * together_s + sum(self.costs.company_s(tail, 1) for tail in whole if tail > most)

        return min(lengths, key=duration_s)

    def _num_whole(self, segment: Segment) -> int:
        """Return how many rows of a slot's tail are whole blocks."""
        num_rows = len(self._slots[segment.slot].rows_before)
        return num_rows - num_rows % self._width

    def _evaluate_prompt(self, segment: Segment) -> Logits:
        """Evaluate a part of a prompt: whole blocks, whose state is kept, and what is left of it.

        Where logits are wanted at least the last row is left, so that who asks the same again finds a state.
        """
        known = self._slots[segment.slot]
        end = segment.first_position + len(segment.tokens)
        num_rest = self._num_rest(segment)
        num_rows, num_outputs = len(segment.tokens) - num_rest, max(0, segment.num_outputs - num_rest)
        first = replace(segment, tokens=segment.tokens[:num_rows], num_outputs=num_outputs, num_tentative=0)
        (logits,) = self._evaluate([first])
        if num_outputs:
            logits = logits.copy()
        self._slots.move_base(segment.slot)
        self._kept.add(segment.slot, known.base)
        rest = segment.tokens[num_rows:]
        if not segment.num_outputs:
            known.tail, known.is_ahead = list(rest), not rest
            known.num_firm = end
            return logits
        num_last = segment.num_outputs - num_outputs
        last = Segment(segment.slot, end - num_rest, rest, num_last, num_tentative=segment.num_tentative)
        (last_logits,) = self._evaluate([last])
        return np.concatenate([logits, last_logits]) if num_outputs else last_logits

    def _evaluate(self, segments: Sequence[Segment]) -> list[Logits]:
        num_rows = max(self._num_rows(segment) for segment in segments)
        padded = [self._prepare(segment, num_rows) for segment in segments]
        logits = self._slots.decode(padded)
        for segment, whole in zip(segments, padded, strict=True):
            self._hold(segment, whole)
        ends = [whole.num_outputs for whole in padded]
        return [
            rows[end - segment.num_outputs : end] for segment, rows, end in zip(segments, logits, ends, strict=True)
        ]

    def _prepare(self, segment: Segment, num_rows: int) -> Segment:
        """Return what the model has to evaluate, in so many rows; move the base before rows that may be taken back."""
        known = self._slots[segment.slot]
        assert segment.first_position == known.length, "a slot goes on where it ends"
        if len(segment.tokens) > segment.num_tentative:
            known.num_firm = known.length
        num_padding = num_rows - len(known.rows_before) - len(segment.tokens)
        is_reached = num_padding + segment.num_tentative <= self._slots.reached(num_rows)
        is_due = not is_reached or len(known.tail) >= _MOST_BEHIND
        if is_due and known.is_ahead and known.tail and known.num_firm == known.length:
            self._slots.move_base(segment.slot)
        before = known.rows_before
        if segment.num_outputs > 1:
            self._tail_rows += (len(before) - self._tail_rows) / _NUM_TAILS
        num_outputs = _round_up(segment.num_outputs, self._width)
        num_padding_outputs = min(num_padding, num_outputs - segment.num_outputs)
        tokens = [*before, *segment.tokens]
        return Segment(
            segment.slot,
            known.length - len(before),
            tokens,
            num_outputs - num_padding_outputs,
            num_padding=num_padding,
            num_padding_outputs=num_padding_outputs,
        )

    def _hold(self, segment: Segment, whole: Segment) -> None:
        known = self._slots[segment.slot]
        self._slots.hold(segment.slot, segment.tokens, whole.num_rows, whole.num_padding)
        if len(segment.tokens) > segment.num_tentative:
            known.num_firm = known.length - segment.num_tentative
        known.is_in_prompt = not segment.num_outputs


def state_reserve(width: int, max_draft_tokens: int) -> int:
    """Return how many rows beside its context a slot may have in a decode: a tail, a draft, and what fills a block."""
    return _round_up(MOST_TAIL + width + max_draft_tokens + 1, width)


def _round_up(count: int, width: int) -> int:
    return -(-count // width) * width
