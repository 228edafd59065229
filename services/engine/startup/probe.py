"""Finding out, by trying, under which row width a model's logits are the same for every batch composition.

Nothing is assumed about kernels. Sessions with fixed tokens go through random schedules of prompts, drafts of every
length, rollbacks, evictions, replays and copies of what others hold, and each row of logits is compared, to the bit,
with the row that the session got alone, one token at a time. Where the runtime can digest it, what attention gave in
every layer is compared as well: where activations are quantized, most of what differs there is rounded away, and few
rows of logits show it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.runtime.runtime import digest

# Two are so long that a model with a state keeps one where their common beginning ends.
_PROBED_LENGTHS = (300, 220, 44, 60, 90, 44)
# Positions of each session that are compared, and rows after which the probe is content. A width that is not enough may
# show at one position in thirty, however often that is evaluated, so it takes many of both.
_NUM_COMPARED = 40
_MIN_ROWS = 1200
_NUM_STEPS = 12


@dataclass(frozen=True)
class Comparison:
    """Rows that were compared, and how many of them differed."""

    num_rows: int
    num_different: int


def fixed_sequences(vocabulary_size: int, lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Return random token sequences of these lengths."""
    rng = random.Random(seed)
    return [[rng.randrange(vocabulary_size) for _ in range(length)] for length in lengths]


def begin_alike(sequences: Sequence[Sequence[int]], first_positions: Sequence[int]) -> list[list[int]]:
    """Return the sequences with the first one's tokens before the first position of each."""
    return [[*sequences[0][:first], *tokens[first:]] for tokens, first in zip(sequences, first_positions, strict=True)]


def references(
    runtime: Runtime,
    sequences: Sequence[Sequence[int]],
    first_positions: Sequence[int],
    on_rows: Callable[[int], None] = lambda num_rows: None,
) -> list[list[bytes]]:
    """Return the digest of each position's logits, each sequence alone in slot 0.

    What comes before the first position of a sequence is evaluated at once, as a prompt; the rest token by token. The
    digests of the prompt's rows are empty but for its last. `on_rows` hears of digests as they are found.
    """
    digests: list[list[bytes]] = []
    for tokens, first in zip(sequences, first_positions, strict=True):
        rows = [b""] * first
        _evaluate(runtime, Segment(0, 0, tokens[: first + 1], 1), rows)
        for position in range(first + 1, len(tokens)):
            _evaluate(runtime, Segment(0, position, tokens[position : position + 1], 1), rows)
            on_rows(1)
        runtime.cut(0, 0)
        digests.append(rows)
    return digests


def _evaluate(runtime: Runtime, segment: Segment, rows: list[bytes]) -> None:
    for group in runtime.group([segment]):
        (logits,) = runtime.decode(group)
        end = group[0].first_position + len(group[0].tokens)
        rows.extend(_seen(runtime, segment.slot, end - len(logits) + index, row) for index, row in enumerate(logits))


def _seen(runtime: Runtime, slot: int, position: int, row: Logits) -> bytes:
    """Return a digest of all that can be seen of a row of the last decode."""
    return digest(row) + runtime.attention_digest(slot, position)


def compare(
    runtime: Runtime,
    sequences: Sequence[Sequence[int]],
    first_positions: Sequence[int],
    expected: Sequence[Sequence[bytes]],
    *,
    num_steps: int,
    max_draft_tokens: int,
    seed: int,
    stop_early: bool = False,
    on_rows: Callable[[int], None] = lambda num_rows: None,
) -> Comparison:
    """Run one random schedule, session i in slot i, and compare rows of logits with their references.

    Sessions prefill at once or in parts, begin with what another one holds, verify drafts that are right up to a random
    place, roll back, rewind, lose their cache and replay; at each step some of them rest. With `stop_early` it ends at
    the first difference. `on_rows` hears, after each decode, how many rows of it were compared.
    """
    rng = random.Random(seed)
    held = [0] * len(sequences)
    num_rows = num_different = 0
    for _ in range(num_steps):
        segments = []
        right_until: dict[int, int] = {}
        for slot, (tokens, first) in enumerate(zip(sequences, first_positions, strict=True)):
            if rng.random() < 0.3:
                continue
            if held[slot] == len(tokens) or rng.random() < 0.05:
                held[slot] = runtime.reachable(slot, rng.choice((0, min(held[slot], first + 1))))
                runtime.cut(slot, held[slot])
            if held[slot] == 0 and rng.random() < 0.5:
                held[slot] = _copy(runtime, rng, slot, held, sequences)
            segment, right_until[slot] = _next_segment(rng, slot, held[slot], tokens, first, max_draft_tokens)
            segments.append(segment)
        for group in runtime.group(segments) if segments else ():
            num_before = num_rows
            for segment, logits in zip(group, runtime.decode(group), strict=True):
                end = segment.first_position + len(segment.tokens)
                for position, row in zip(range(end - segment.num_outputs, end), logits, strict=True):
                    reference = expected[segment.slot][position]
                    if reference and position < right_until[segment.slot]:
                        num_rows += 1
                        num_different += _seen(runtime, segment.slot, position, row) != reference
                held[segment.slot] = min(end, right_until[segment.slot])
            on_rows(num_rows - num_before)
        for slot in right_until:
            runtime.cut(slot, held[slot])
        if stop_early and num_different:
            break
    for slot in range(len(sequences)):
        runtime.cut(slot, 0)
    return Comparison(num_rows, num_different)


def _copy(
    runtime: Runtime, rng: random.Random, slot: int, held: Sequence[int], sequences: Sequence[Sequence[int]]
) -> int:
    """Give an empty slot what another one holds of its sequence; return how much that is."""
    donors = [other for other in range(len(sequences)) if held[other]]
    if not donors:
        return 0
    donor = rng.choice(donors)
    length = runtime.reachable(donor, min(_num_common(sequences[slot], sequences[donor]), held[donor]))
    if length:
        runtime.copy(donor, slot, length)
    return length


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def _next_segment(
    rng: random.Random, slot: int, held: int, tokens: Sequence[int], first: int, max_draft_tokens: int
) -> tuple[Segment, int]:
    """Return a prompt's part, or a draft, from position `held` on, and the position up to which it is right."""
    if held <= first:
        is_whole = rng.random() < 0.7
        end = first + 1 if is_whole else rng.randint(held + 1, first + 1)
        return Segment(slot, held, tokens[held:end], 1), end
    num_rows = rng.randint(1, min(len(tokens) - held, max_draft_tokens + 1))
    rows = list(tokens[held : held + num_rows])
    num_right = rng.randint(1, num_rows)
    for index in range(num_right, num_rows):
        rows[index] = tokens[rng.randrange(len(tokens))]
    return Segment(slot, held, rows, num_rows, num_tentative=num_rows - 1), held + num_right


def is_exact(runtime: Runtime, max_draft_tokens: int, on_share: Callable[[float], None] = lambda share: None) -> bool:
    """Whether random schedules, with short and long contexts, agree with each session alone, to the bit.

    `on_share` is told after each decode which share of the work is done, and may raise to end it.
    """
    most = min(runtime.context_length, runtime.max_batch_rows)
    lengths = [min(length, most) for length in _PROBED_LENGTHS][: runtime.num_slots]
    # Most of each is a prompt, so that the reference takes few decodes.
    first_positions = [max(0, length - _NUM_COMPARED) for length in lengths]
    num_done, num_in_all = 0, len(lengths) * _NUM_COMPARED + _MIN_ROWS

    def on_rows(num_rows: int) -> None:
        nonlocal num_done
        num_done += num_rows
        on_share(min(1.0, num_done / num_in_all))

    sequences = begin_alike(fixed_sequences(runtime.vocabulary_size, lengths, seed=1), first_positions)
    expected = references(runtime, sequences, first_positions, on_rows)
    num_rows = seed = 0
    while num_rows < _MIN_ROWS:
        schedule = compare(
            runtime,
            sequences,
            first_positions,
            expected,
            num_steps=_NUM_STEPS,
            max_draft_tokens=max_draft_tokens,
            seed=seed,
            stop_early=True,
            on_rows=on_rows,
        )
        if schedule.num_different:
            return False
        num_rows += schedule.num_rows
        seed += 1
    return True
