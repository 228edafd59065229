"""What fits: caches where their layers are, in RAM or on a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.engine import memory
from services.engine.cache_shape import CacheShape
from services.engine.devices import Accelerator
from services.engine.errors import ModelLoadError
from services.engine.memory import cache_bytes, check_memory
from services.engine.runtime import RuntimeOptions

MIB = 1 << 20
# Two slots of 1024 tokens: with caches of F16, 256 numbers a position are a MiB a layer.
OPTIONS = RuntimeOptions(num_slots=2, context_length=1024)
EVERY_LAYER = -1


def model(num_layers: int = 4, weights_mib: int = 50) -> Any:
    """Its layers keep 1, 2, 3 and so on MiB; its weights are shared evenly by the layers and the output."""
    keys = [256 * (layer + 1) for layer in range(num_layers)]
    shape = CacheShape(num_layers, keys, [0] * num_layers)
    return SimpleNamespace(cache_shape=shape, num_bytes=weights_mib * MIB)


def gpu(free_mib: int, name: str = "Fake GPU") -> Accelerator:
    return Accelerator(name, free_mib * MIB, 1000 * MIB)


def test_caches_by_type_and_flash_attention() -> None:
    shape = CacheShape(2, [64, 32], [64, 16])
    made: Any = SimpleNamespace(cache_shape=shape)
    num_positions = 2 * 1024
    assert cache_bytes(made, OPTIONS) == num_positions * 2 * (64 + 64 + 32 + 64)
    flash = RuntimeOptions(num_slots=2, context_length=1024, flash_attention=True)
    assert cache_bytes(made, flash) == num_positions * 2 * (64 + 64 + 32 + 16)
    exact = RuntimeOptions(num_slots=2, context_length=1024, flash_attention=True, cache_in_f32=True)
    assert cache_bytes(made, exact) == 2 * cache_bytes(made, flash)


@pytest.mark.parametrize(
    ("gpu_layers", "ram_mib", "gpu_mib"),
    [
        pytest.param(0, 50 + 10, 0, id="all in RAM"),
        pytest.param(1, 40 + 10, 0, id="only the output on the GPU"),
        pytest.param(2, 30 + 6, 4, id="the last layer on the GPU"),
        pytest.param(4, 10 + 1, 9, id="all but the first on the GPU"),
        pytest.param(5, 0, 10, id="every layer on the GPU"),
        pytest.param(EVERY_LAYER, 0, 10, id="all that there are"),
        pytest.param(99, 0, 10, id="more than there are"),
    ],
)
def test_each_place_must_hold_its_layers(gpu_layers: int, ram_mib: int, gpu_mib: int) -> None:
    check_memory(model(), OPTIONS, ram_mib * MIB, [gpu(gpu_mib)], gpu_layers)
    if ram_mib:
        with pytest.raises(ModelLoadError, match=f"{ram_mib - 1} MiB are free: lower --slots or --context"):
            check_memory(model(), OPTIONS, (ram_mib - 1) * MIB, [gpu(gpu_mib)], gpu_layers)
    if gpu_mib:
        with pytest.raises(ModelLoadError, match=f"need {gpu_mib} MiB on Fake GPU, {gpu_mib - 1} MiB are free there"):
            check_memory(model(), OPTIONS, ram_mib * MIB, [gpu(gpu_mib - 1)], gpu_layers)


def test_without_a_gpu_everything_is_in_ram() -> None:
    check_memory(model(), OPTIONS, 60 * MIB, [], EVERY_LAYER)
    with pytest.raises(ModelLoadError, match="at 5120 bytes a token need 10 MiB beside 50 MiB of weights, 59 MiB are"):
        check_memory(model(), OPTIONS, 59 * MIB, [], EVERY_LAYER)


def test_gpus_share() -> None:
    check_memory(model(), OPTIONS, 0, [gpu(4, "A"), gpu(6, "B")], EVERY_LAYER)
    with pytest.raises(ModelLoadError, match="on A, B, 9 MiB are free there: lower --slots, --context or --gpu-layers"):
        check_memory(model(), OPTIONS, 0, [gpu(4, "A"), gpu(5, "B")], EVERY_LAYER)


@pytest.mark.parametrize(
    ("free_mib", "num_layers"),
    [(0, 0), (14, 0), (16, 1), (31, 2), (74, 4), (76, -1), (1000, -1)],
)
def test_layers_that_fit_with_their_caches(
    free_mib: int, num_layers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Five equal parts of 12 MiB, in two files; a fifth of the free memory is left for graphs."""
    parts = [tmp_path / name for name in ("a", "b")]
    for path, num_mib in zip(parts, (30, 20), strict=True):
        with path.open("wb") as file:
            file.truncate(num_mib * MIB)

    class Opened:
        def __init__(self, path: Path) -> None:
            self.parts = lambda: parts

        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(memory, "GgufFile", Opened)
    monkeypatch.setattr(memory, "cache_shape", lambda file: model().cache_shape)
    assert memory.layers_that_fit(parts[0], OPTIONS, free_mib * MIB) == num_layers
