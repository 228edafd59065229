"""The compiled passes over a row by themselves: what they add up, and what they refuse to touch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.engine.sampling import kernel

pytestmark = pytest.mark.skipif(not kernel.IS_COMPILED, reason="the compiled passes were not built")

if kernel.IS_COMPILED:
    from services.engine.sampling import _kernel

ROW = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("row", "start", "num_best", "temperature"),
    [
        (np.zeros(8), 0, 1, 1.0),
        (np.zeros((2, 4), np.float32), 0, 1, 1.0),
        (ROW, 8, 1, 1.0),
        (ROW, -1, 1, 1.0),
        (np.zeros(0, np.float32), 0, 1, 1.0),
        (ROW, 0, 3, 1.0),
        (ROW, 0, 1, 0.0),
        (ROW, 0, 1, np.nan),
    ],
)
def test_survivors_of_what_is_no_row(row: NDArray[np.float32], start: int, num_best: int, temperature: float) -> None:
    """Its callers never pass these; a slip must not read beyond the row."""
    with pytest.raises(ValueError, match=r"survivors needs|logits must be"):
        _kernel.survivors(row, temperature, 1, start, num_best, 0.0, 0)


def test_a_row_that_is_not_contiguous() -> None:
    with pytest.raises((BufferError, ValueError)):
        _kernel.survivors(np.zeros(8, np.float32)[::2], 1.0, 1, 0, 1, 0.0, 0)


def test_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="does not run"):
        _kernel.select("mmx")


@pytest.mark.parametrize(
    "change",
    [
        {"row": np.zeros(8)},
        {"temperature": 0.0},
        {"temperature": np.nan},
        {"lowest": -701.0},
        {"lowest": 0.5},
        {"lowest": np.nan},
        {"per_unit": 10.0},
        {"per_unit": -1.0},
        {"per_unit": np.inf},
        {"sums": np.zeros(70_000)},
        {"buckets": np.zeros(7, np.uint16)},
        {"buckets": np.zeros(8, np.uint32)},
    ],
)
def test_weights_that_have_no_place(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {"row": ROW, "temperature": 1.0, "best": 0.0, "lowest": -10.0, "per_unit": 9.9}
    values |= {"sums": np.zeros(100), "buckets": np.zeros(8, np.uint16)}
    _kernel.weigh(*values.values())
    with pytest.raises(ValueError, match=r"weigh needs|logits must be"):
        _kernel.weigh(*(values | change).values())


@pytest.mark.parametrize("name", ["sums", "buckets"])
def test_weights_that_may_not_be_written(name: str) -> None:
    places: dict[str, Any] = {"sums": np.zeros(100), "buckets": np.zeros(8, np.uint16)}
    places[name].flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        _kernel.weigh(ROW, 1.0, 0.0, -10.0, 9.9, *places.values())


@pytest.mark.usefixtures("implementation")
def test_weights_are_within_their_error() -> None:
    """Each alone in its bucket; what is impossible, no number, or above the best stays within the first and last."""
    best, per_unit = 3.7, 100.0
    row = np.linspace(3.7 * 0.8, -24.0, 1337).astype(np.float32)
    row[[5, 9, 11]] = -np.inf, np.nan, 99.0
    for temperature in (0.8, 1.0):
        sums, buckets = np.zeros(4000), np.zeros(row.size, np.uint16)
        for index in range(row.size):
            sums[:] = 0
            _kernel.weigh(row[index : index + 1], temperature, best, -31.0, per_unit, sums, buckets[index : index + 1])
            distance = float(row[index]) / temperature - best
            distance = -31.0 if np.isnan(distance) else min(max(distance, -31.0), 0.0)
            assert buckets[index] == int(-distance * per_unit)
            assert np.flatnonzero(sums).tolist() == [buckets[index]]
            assert sums[buckets[index]] == pytest.approx(np.exp(distance), rel=1e-11, abs=0)


@pytest.mark.parametrize("row", [np.zeros(8), np.zeros((2, 4), np.float32), np.zeros(8, np.float32)[::2]])
def test_the_mass_of_what_is_no_row(row: NDArray[np.float32]) -> None:
    with pytest.raises((BufferError, ValueError)):
        _kernel.mass(row, 0.0)
