"""Which rows go into the next decode. Pure."""

from collections.abc import Sequence


def plan_rows(pending: Sequence[tuple[int, int]], max_rows: int, prefill_rows: int) -> list[int]:
    """Say how many rows of each work go into the next decode.

    `pending` gives rows and rows with logits of each work. Works that finish with few rows go first, so that a long
    prompt never keeps them waiting; prompts share what is left, at most `prefill_rows` while others are at work. Rows
    with logits are never parted from each other. Earlier works go before later ones.
    """
    num_rows = [0] * len(pending)
    budget = max_rows
    is_short = [rows <= min(outputs + 1, max_rows) for rows, outputs in pending]
    for index, (rows, _) in enumerate(pending):
        if is_short[index] and rows <= budget:
            num_rows[index] = rows
            budget -= rows
    if any(num_rows):
        budget = min(budget, prefill_rows)
    for index, (rows, outputs) in enumerate(pending):
        if not is_short[index]:
            taken = rows if rows <= budget else min(budget, rows - outputs)
            num_rows[index] = taken
            budget -= taken
    return num_rows
