"""Training windows cut from a token file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.train.tokenizer import BOS_ID


class Windows:
    """Windows of a token stream in a seeded random order; every epoch cuts them at another phase.

    Each window starts with BOS in place of its first token: as llama.cpp gives it, position 0 is always BOS.
    """

    def __init__(self, stream: npt.NDArray[np.uint16], seed: int) -> None:
        self.stream = stream
        self.seed = seed
        self.epochs = 0.0
        self._length = 0
        self._starts: list[int] = []
        self._draws = 0

    def _refill(self, length: int) -> None:
        random = np.random.default_rng((self.seed, self._draws, length))
        self._draws += 1
        phase = int(random.integers(length))
        starts = np.arange(phase, len(self.stream) - length - 1, length)
        self._length, self._starts = length, random.permutation(starts).tolist()

    def next(self, batch: int, length: int) -> npt.NDArray[np.int64]:
        """Return (batch, length + 1) ids; inputs are all but the last column, labels all but the first."""
        if self._length != length:
            self._refill(length)
        rows: list[npt.NDArray[np.uint16]] = []
        while len(rows) < batch:
            if not self._starts:
                self._refill(length)
            start = self._starts.pop()
            rows.append(self.stream[start : start + length + 1])
        self.epochs += batch * length / len(self.stream)
        ids = np.stack(rows).astype(np.int64)
        ids[:, 0] = BOS_ID
        return ids

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs; it starts a fresh permutation."""
        return {"draws": self._draws, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what state_dict gave."""
        self._draws, self.epochs = int(state["draws"]), state["epochs"]
        self._length = 0
