"""Text with the target's final states beside it: what the draft is distilled from.

From a state the target's whole distribution follows by one product with its embedding matrix, so the target reads
(or writes) every row once, and the draft can be shown it many times.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.frame.program.atomic_file import replacing


@dataclass(frozen=True, slots=True)
class Store:
    """``num_rows`` rows of ``length`` ids and ``length`` states of ``dim`` numbers: state t came of the ids up to t."""

    name: str
    num_rows: int
    length: int
    dim: int

    def create(self, folder: Path) -> None:
        """Make the files, zeroed, and the note of their sizes."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, dtype, shape in (("ids", "<u2", self._ids_shape), ("states", "<f2", self._states_shape)):
            np.memmap(folder / f"{self.name}.{suffix}", dtype=dtype, mode="w+", shape=shape)
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self)))

    @property
    def _ids_shape(self) -> tuple[int, ...]:
        return self.num_rows, self.length

    @property
    def _states_shape(self) -> tuple[int, ...]:
        return self.num_rows, self.length, self.dim

    def open(
        self, folder: Path, *, is_writable: bool = False
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float16]]:
        """Map ids (rows, length) and states (rows, length, dim) into memory."""
        ids_path, states_path = folder / f"{self.name}.ids", folder / f"{self.name}.states"
        if is_writable:
            return (
                np.memmap(ids_path, dtype="<u2", mode="r+", shape=self._ids_shape),
                np.memmap(states_path, dtype="<f2", mode="r+", shape=self._states_shape),
            )
        return (
            np.memmap(ids_path, dtype="<u2", mode="r", shape=self._ids_shape),
            np.memmap(states_path, dtype="<f2", mode="r", shape=self._states_shape),
        )


def mark_complete(folder: Path, stores: list[Store], target_digest: str) -> None:
    """Say that the stores are filled by the target of this digest; until then a run fills them again."""
    with replacing(folder / "complete.json") as temporary:
        temporary.write_text(json.dumps(_note(stores, target_digest)))


def are_complete(folder: Path, stores: list[Store], target_digest: str) -> bool:
    """Say whether just these stores are filled, and by the target of this digest; what cannot be read is not."""
    try:
        note = json.loads((folder / "complete.json").read_text())
        for store in stores:
            store.open(folder)
    except (OSError, ValueError):
        return False
    return bool(note == _note(stores, target_digest))


def _note(stores: list[Store], target_digest: str) -> dict[str, Any]:
    return {"target": target_digest, "stores": [asdict(store) for store in stores]}
