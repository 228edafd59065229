"""What fits: caches where their layers are, in RAM or on a GPU."""

import re
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from services.engine.errors import ModelLoadError
from services.engine.model.cache_shape import CacheShape
from services.engine.runtime import memory
from services.engine.runtime.devices import Accelerator
from services.engine.runtime.memory import Room, cache_bytes, check_gpus, check_ram, free_ram, layers_that_fit, rooms
from services.engine.runtime.runtime import RuntimeOptions
from tests.control_groups import make_groups

MIB = 1 << 20
# Two slots of 1024 tokens: with caches of F16, 256 numbers a position are a MiB a layer.
OPTIONS = RuntimeOptions(num_slots=2, context_length=1024)
EVERY_LAYER = -1


# Its four layers keep 1, 2, 3 and 4 MiB; its weights are shared evenly by the layers and the output.
MODEL: Any = SimpleNamespace(cache_shape=CacheShape(4, [256, 512, 768, 1024], [0] * 4))


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The model, 50 MiB in two files."""
    parts = [tmp_path / name for name in ("a", "b")]
    for part, num_mib in zip(parts, (30, 20), strict=True):
        with part.open("wb") as file:
            file.truncate(num_mib * MIB)

    class Opened:
        def __init__(self, path: Path) -> None:
            self.parts = lambda: parts
            self.skipped_bytes = lambda: 0

        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(memory, "GgufFile", Opened)
    monkeypatch.setattr(memory, "cache_shape", lambda file: MODEL.cache_shape)
    return parts[0]


def ram(free_mib: int) -> list[Room]:
    return [Room(free_mib * MIB)]


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
def test_each_place_must_hold_its_layers(path: Path, gpu_layers: int, ram_mib: int, gpu_mib: int) -> None:
    check_ram(path, OPTIONS, ram(ram_mib), gpu_layers)
    check_gpus(MODEL, OPTIONS, [gpu(gpu_mib)], gpu_layers)
    if ram_mib:
        with pytest.raises(ModelLoadError, match=f"{ram_mib - 1} MiB are free: lower --slots or --context$"):
            check_ram(path, OPTIONS, ram(ram_mib - 1), gpu_layers)
    if gpu_mib:
        with pytest.raises(ModelLoadError, match=f"need {gpu_mib} MiB on Fake GPU, {gpu_mib - 1} MiB are free there"):
            check_gpus(MODEL, OPTIONS, [gpu(gpu_mib - 1)], gpu_layers)


def test_the_arithmetic_is_told(path: Path) -> None:
    with pytest.raises(ModelLoadError, match="at 5120 bytes a token need 10 MiB beside 50 MiB of weights, 59 MiB are"):
        check_ram(path, OPTIONS, ram(59), 0)


def test_gpus_share() -> None:
    check_gpus(MODEL, OPTIONS, [gpu(4, "A"), gpu(6, "B")], EVERY_LAYER)
    with pytest.raises(ModelLoadError, match="on A, B, 9 MiB are free there: lower --slots, --context or --gpu-layers"):
        check_gpus(MODEL, OPTIONS, [gpu(4, "A"), gpu(5, "B")], EVERY_LAYER)


def test_without_gpus_nothing_is_on_them() -> None:
    check_gpus(MODEL, OPTIONS, [], EVERY_LAYER)


@pytest.mark.parametrize(
    ("free_mib", "num_layers"),
    [(0, 0), (14, 0), (16, 1), (31, 2), (74, 4), (76, -1), (1000, -1)],
)
def test_layers_that_fit_with_their_caches(free_mib: int, num_layers: int, path: Path) -> None:
    """Five equal parts of 12 MiB; a fifth of the free memory is left for graphs."""
    assert layers_that_fit(path, OPTIONS, free_mib * MIB) == num_layers


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[int, int]:
    """The process's limits of its own, in a machine with 1000 MiB free and a group with 600 MiB less 100."""
    groups = make_groups(tmp_path, monkeypatch)
    groups.version_2()
    groups.write("/sys/fs/cgroup", {"memory.max": 600 * MIB, "memory.current": 100 * MIB})
    limits: dict[int, int] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY), -1))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000 * MIB))
    held = SimpleNamespace(vms=300 * MIB, data=200 * MIB)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _self: held)
    return limits


def test_the_least_of_machine_and_group_is_free(limited: dict[int, int]) -> None:
    assert [room.free_bytes // MIB for room in rooms()] == [500, 1000]
    assert free_ram() == 500 * MIB


def test_a_group_that_decides_is_named(limited: dict[int, int], path: Path) -> None:
    options = replace(OPTIONS, context_length=46 * 1024)
    sentence = (
        "2 slots of 47104 tokens at 5120 bytes a token need 460 MiB beside 50 MiB of weights, 500 MiB are free within "
        "the control group's limit of 600 MiB: lower --slots or --context, or raise that limit"
    )
    with pytest.raises(ModelLoadError, match=f"^{re.escape(sentence)}$"):
        check_ram(path, options, rooms(), 0)
    check_ram(path, replace(OPTIONS, context_length=44 * 1024), rooms(), 0)


def test_the_address_space_holds_weights_and_caches(limited: dict[int, int], path: Path) -> None:
    kept = ", of which 512 MiB are kept for threads"
    limited[resource.RLIMIT_AS] = (512 + 360) * MIB
    check_ram(path, OPTIONS, rooms(), 0)
    limited[resource.RLIMIT_AS] = (512 + 359) * MIB
    sentence = f"need 10 MiB beside 50 MiB of weights, 59 MiB are free within the 871 MiB of ulimit -v{kept}: lower"
    with pytest.raises(ModelLoadError, match=sentence):
        check_ram(path, OPTIONS, rooms(), 0)
    limited[resource.RLIMIT_AS] = 100 * MIB
    with pytest.raises(ModelLoadError, match=f"weights, 0 MiB are free within the 100 MiB of ulimit -v{kept}: take"):
        check_ram(path, OPTIONS, rooms(), 0)


def test_weights_are_no_data_of_the_process(limited: dict[int, int], path: Path) -> None:
    limited[resource.RLIMIT_DATA] = (256 + 210) * MIB
    check_ram(path, OPTIONS, rooms(), 0)
    limited[resource.RLIMIT_DATA] = (256 + 209) * MIB
    sentence = (
        "need 10 MiB, 9 MiB are free within the 465 MiB of ulimit -d, of which 256 MiB are kept for threads: lower"
    )
    with pytest.raises(ModelLoadError, match=sentence):
        check_ram(path, OPTIONS, rooms(), 0)


def test_weights_that_do_not_fit_alone_are_another_matter(path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"49 MiB are free: take a smaller model$"):
        check_ram(path, OPTIONS, ram(49), 0)
