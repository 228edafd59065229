"""How many rows go into a decode: what memory holds, and what others can wait for."""

import time

from services.engine.memory import free_ram
from services.engine.runtime import Runtime, Segment

_MANY_ROWS, _FEW_ROWS = 2048, 1024
_PATIENCE_IN_ROWS = 4.0
_FEWEST_ROWS = 8
_NUM_TIMED = 5


def batch_rows(vocabulary_size: int) -> int:
    """Return 2048 where the logits of so many rows take little of the free memory, else 1024."""
    logits_bytes = _MANY_ROWS * vocabulary_size * 4
    return _MANY_ROWS if logits_bytes * 8 <= free_ram() else _FEW_ROWS


def rows_worth(runtime: Runtime, num_single_rows: float = _PATIENCE_IN_ROWS) -> int:
    """Return how many rows of one slot, a power of two, take at most the time of so many one-row decodes.

    This is what a long prompt may add to a decode that other sessions wait for. Measured, since cost curves have steps
    that depend on weight type and device; the measurement stops at the first size that takes too long.
    """
    limit_s = num_single_rows * _decode_s(runtime, 1)
    rows = _FEWEST_ROWS
    while 2 * rows <= _most_rows(runtime) and _decode_s(runtime, 2 * rows) <= limit_s:
        rows *= 2
    return rows


def decode_worth(runtime: Runtime) -> float:
    """Return how many rows take as long as one decode takes by itself, whatever its rows."""
    one_s, several_s = _decode_s(runtime, 1), _decode_s(runtime, _FEWEST_ROWS)
    row_s = max((several_s - one_s) / (_FEWEST_ROWS - 1), 0.01 * one_s)
    return max(0.0, one_s / row_s - 1)


def copy_worth(runtime: Runtime, prompt_rows: int) -> int:
    """Return how many tokens of a prompt, in parts of `prompt_rows`, are evaluated while one slot is copied to another.

    Caches are shared where they hold more of a prompt than that.
    """
    if runtime.num_slots == 1:
        return 0
    prompt_rows = min(prompt_rows, _most_rows(runtime))
    row_s = _decode_s(runtime, prompt_rows) / prompt_rows
    runtime.decode([Segment(0, 0, [0], 1)])

    def decode_s(*, after_copy: bool) -> float:
        started_s = time.perf_counter()
        if after_copy:
            runtime.copy(0, 1, 1)
        runtime.decode([Segment(int(after_copy), 1, [0], 1)])
        duration_s = time.perf_counter() - started_s
        runtime.cut(0, 1)
        runtime.cut(1, 0)
        return duration_s

    copying_s = min(decode_s(after_copy=True) for _ in range(_NUM_TIMED))
    without_s = min(decode_s(after_copy=False) for _ in range(_NUM_TIMED))
    runtime.cut(0, 0)
    return int(max(0.0, copying_s - without_s) / row_s)


def _most_rows(runtime: Runtime) -> int:
    return min(runtime.max_batch_rows, runtime.context_length)


def _decode_s(runtime: Runtime, num_rows: int) -> float:
    """Return the least time of several decodes of so many rows in seconds: what else runs can only add to it."""
    times = []
    for _ in range(_NUM_TIMED):
        started_s = time.perf_counter()
        for group in runtime.group([Segment(0, 0, [0] * num_rows, 1)]):
            runtime.decode(group)
        times.append(time.perf_counter() - started_s)
        runtime.cut(0, 0)
    return min(times)
