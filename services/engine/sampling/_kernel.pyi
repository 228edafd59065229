import numpy as np
from numpy.typing import NDArray

def survivors(
    logits: NDArray[np.float32],
    temperature: float,
    key: int,
    start: int,
    num_best: int,
    edge: float,
    last_tie: int,
    /,
) -> tuple[int, ...] | None: ...
def weigh(
    logits: NDArray[np.float32],
    temperature: float,
    best: float,
    lowest: float,
    buckets_per_unit: float,
    sums: NDArray[np.float64],
    buckets: NDArray[np.uint16],
    /,
) -> None: ...
def mass(logits: NDArray[np.float32], best: float, /) -> float: ...
def available() -> tuple[str, ...]: ...
def select(name: str, /) -> None: ...
