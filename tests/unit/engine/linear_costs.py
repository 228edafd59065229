"""Costs that are as a test wants them."""

from services.engine.runtime.decode_costs import DecodeCosts


class LinearCosts(DecodeCosts):
    """A decode takes as long as `decode_in_rows` rows, and each row `row_s`."""

    def __init__(self, decode_in_rows: float, row_s: float = 1e-3, copy_in_rows: float = 64.0) -> None:
        super().__init__()
        self._decode_in_rows = decode_in_rows
        self._row_s = row_s
        self._copy_in_rows = copy_in_rows
        self._least = self._usual = [(rows, self.decode_s(rows)) for rows in (1, 512)]

    def observe(self, num_rows: int, duration_s: float, *, after_copy: bool = False) -> None:
        """Learn nothing."""

    def decode_s(self, num_rows: int) -> float:
        return (self._decode_in_rows + num_rows) * self._row_s

    def least_s(self, num_rows: int, num_sessions: int) -> float:
        return self.decode_s(num_rows)

    @property
    def decode_in_rows(self) -> float:
        return self._decode_in_rows

    @property
    def copy_in_rows(self) -> float:
        return self._copy_in_rows
