"""Which rows go into the next decode. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

# Decodes that work lets pass before it goes first.
PATIENCE = 4


class Pending(NamedTuple):
    """What is left of a piece of work: rows, the last ones with logits; and decodes that it had no part in lately."""

    num_rows: int
    num_outputs: int
    num_passed_over: int = 0


def plan_rows(pending: Sequence[Pending], max_rows: int, prefill_rows: int) -> list[int]:
    """Say how many rows of each work go into the next decode.

    Works that finish with few rows go first, so that a long prompt never keeps them waiting; prompts share what is
    left, at most `prefill_rows` while others are at work. Rows with logits are never parted from each other. Earlier
    works go before later ones, but what was passed over for long goes before all: nothing is passed over for more
    decodes in a row than PATIENCE and one for each other work.
    """
    num_rows = [0] * len(pending)
    is_short = [work.num_rows <= min(work.num_outputs + 1, max_rows) for work in pending]
    room, prompt_room = max_rows, prefill_rows if any(is_short) else max_rows

    def urgency(index: int) -> tuple[int, bool]:
        return -max(pending[index].num_passed_over, PATIENCE - 1), not is_short[index]

    for index in sorted(range(len(pending)), key=urgency):
        rows, outputs, _ = pending[index]
        if is_short[index]:
            num_rows[index] = rows if rows <= room else 0
        else:
            limit = min(room, prompt_room)
            num_rows[index] = rows if rows <= limit else min(limit, rows - outputs)
            prompt_room -= num_rows[index]
        room -= num_rows[index]
    return num_rows
