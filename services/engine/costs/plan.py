"""Which decodes are measured: rows by sessions by context, with flash attention and without, as far as memory goes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Positions that sessions hold. Where the longest that may be is another one, it is measured as well.
_LENGTHS = (128, 512, 2048, 8192)
_SESSIONS = (1, 4, 8, 16, 32, 64, 128, 256)
TARGET_ROWS = (1, 2, 4, 8, 16)
# A draft goes on by one token after the other.
DRAFT_ROWS = (1,)


@dataclass(frozen=True)
class Setup:
    """Where decodes are measured: one context of llama.cpp, whose slots hold `context` positions each."""

    context: int
    flash_attention: bool
    num_slots: int


@dataclass(frozen=True)
class Shape:
    """A decode in a setup: so many rows of each of its first slots."""

    setup: Setup
    num_sessions: int
    rows_each: int

    @property
    def num_rows(self) -> int:
        """Rows of all sessions together."""
        return self.num_sessions * self.rows_each


@dataclass(frozen=True)
class Plan:
    """The decodes to be measured, and in words what there is no memory for."""

    shapes: Sequence[Shape]
    left_out: Sequence[str]


def session_counts(num_slots: int) -> list[int]:
    """Return the numbers of sessions that are measured, up to all slots."""
    return sorted({count for count in _SESSIONS if count < num_slots} | {num_slots})


def context_lengths(most_positions: int, most_rows: int) -> list[int]:
    """Return how many positions sessions hold, so that so many rows fit behind them."""
    longest = most_positions - most_rows
    return sorted({length for length in _LENGTHS if length < longest} | {min(longest, _LENGTHS[-1])})


def plan(
    num_slots: int,
    lengths: Sequence[int],
    rows: Sequence[int],
    free_bytes: int,
    setup_bytes: Callable[[Setup], int],
) -> Plan:
    """Plan for all setups at once within `free_bytes`: short contexts first, long ones with fewer sessions if need be.

    `setup_bytes` is what a setup takes.
    """
    shapes: list[Shape] = []
    left_out: list[str] = []
    counts = session_counts(num_slots)
    for length in lengths:
        fitting = [
            count for count in counts if sum(setup_bytes(setup) for setup in _setups(length, count)) <= free_bytes
        ]
        most = max(fitting, default=0)
        if most < num_slots:
            sessions = "any session" if not most else f"more than {most} session{'s' * (most > 1)}"
            left_out.append(f"{sessions} at context {length}: no memory")
        for setup in _setups(length, most) if most else ():
            free_bytes -= setup_bytes(setup)
            shapes += [Shape(setup, count, each) for count in fitting for each in rows]
    return Plan(shapes, left_out)


def _setups(length: int, num_slots: int) -> Iterator[Setup]:
    for flash_attention in (False, True):
        yield Setup(length, flash_attention, num_slots)
