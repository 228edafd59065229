"""Costs that are as a test wants them."""

from services.engine.runtime.costs import DecodeCosts


class LinearCosts(DecodeCosts):
    """A decode takes as long as `decode_worth` rows, and each row `row_s`."""

    def __init__(self, decode_worth: float, row_s: float = 1e-3, copy_worth: float = 64.0) -> None:
        super().__init__()
        self._worth = decode_worth
        self._row_s = row_s
        self._copy_worth = copy_worth
        self._least = self._usual = [(rows, self.decode_s(rows)) for rows in (1, 512)]

    def observe(self, num_rows: int, duration_s: float, *, after_copy: bool = False) -> None:
        """Learn nothing."""

    def decode_s(self, num_rows: int) -> float:
        return (self._worth + num_rows) * self._row_s

    @property
    def decode_worth(self) -> float:
        return self._worth

    @property
    def copy_worth(self) -> float:
        return self._copy_worth
