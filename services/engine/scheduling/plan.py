"""Which rows go into the next decode. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

# Decodes that work lets pass, for each piece of work there is, before it goes first.
PATIENCE = 4
# Rows without logits beyond which work is a prompt: what a cycle brings, and what a cache lacks after a few, is less.
_FEW_ROWS = 8


class Pending(NamedTuple):
    """What is left of a piece of work: rows, the last ones with logits; and decodes that it had no part in lately."""

    num_rows: int
    num_outputs: int
    num_passed_over: int = 0

    @property
    def is_prompt(self) -> bool:
        """Whether it is more than what a few cycles bring."""
        return self.num_rows > self.num_outputs + _FEW_ROWS


def plan_rows(pending: Sequence[Pending], max_rows: int, prompt_rows: int) -> list[int]:
    """Say how many rows of each work go into the next decode.

    Works that finish with few rows go first, so that a long prompt never keeps them waiting; prompts share what is
    left, at most `prompt_rows`. Of two prompts the shorter one goes first, so that it does not queue behind long ones.
    Rows with logits are never parted from each other. What was passed over for long goes before all: nothing is passed
    over for more decodes in a row than PATIENCE and one for each work.
    """
    num_rows = [0] * len(pending)
    is_short = [work.num_rows <= max_rows and not work.is_prompt for work in pending]
    room, prompt_room = max_rows, min(prompt_rows, max_rows)
    patience = PATIENCE * len(pending)

    def urgency(index: int) -> tuple[int, bool, int]:
        work = pending[index]
        return -max(work.num_passed_over, patience - 1), not is_short[index], 0 if is_short[index] else work.num_rows

    for index in sorted(range(len(pending)), key=urgency):
        rows, outputs, _ = pending[index]
        if is_short[index]:
            num_rows[index] = rows if rows <= room else 0
        else:
            limit = min(room, prompt_room)
            num_rows[index] = rows if rows <= limit else max(0, min(limit, rows - outputs))
            prompt_room -= num_rows[index]
        room -= num_rows[index]
    return num_rows
