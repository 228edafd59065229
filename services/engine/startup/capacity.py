"""How many rows a decode can have."""

from services.engine.runtime.memory import free_ram

_MANY_ROWS, _FEW_ROWS = 2048, 1024


def batch_rows(vocabulary_size: int) -> int:
    """Return 2048 where the logits of so many rows take little of the free memory, else 1024."""
    logits_bytes = _MANY_ROWS * vocabulary_size * 4
    return _MANY_ROWS if logits_bytes * 8 <= free_ram() else _FEW_ROWS
