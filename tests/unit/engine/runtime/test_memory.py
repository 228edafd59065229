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
from services.engine.runtime.memory import (
    Room,
    cache_bytes,
    check_gpus,
    check_ram,
    free_ram,
    layers_that_fit,
    read_sizes,
    room_for_checkpoints,
    rooms,
    state_bytes,
    with_room_for_snapshots,
)
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


# It keeps a MiB of keys in its first layer, and a MiB of states a slot in its second one.
HYBRID: Any = SimpleNamespace(cache_shape=CacheShape(2, [256, 0], [0, 0], [0, MIB // 4]))


@pytest.fixture
def hybrid(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 50 MiB with states; a saved state takes 52 bytes more than a MiB."""
    monkeypatch.setattr(memory, "cache_shape", lambda file: HYBRID.cache_shape)
    return path


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
    check_ram(read_sizes(path), OPTIONS, ram(ram_mib), gpu_layers)
    check_gpus(MODEL, OPTIONS, [gpu(gpu_mib)], gpu_layers)
    if ram_mib:
        with pytest.raises(ModelLoadError, match=f"{ram_mib - 1} MiB are free: lower --slots or --context$"):
            check_ram(read_sizes(path), OPTIONS, ram(ram_mib - 1), gpu_layers)
    if gpu_mib:
        with pytest.raises(ModelLoadError, match=f"need {gpu_mib} MiB on Fake GPU, {gpu_mib - 1} MiB are free there"):
            check_gpus(MODEL, OPTIONS, [gpu(gpu_mib - 1)], gpu_layers)


def test_the_arithmetic_is_told(path: Path) -> None:
    with pytest.raises(ModelLoadError, match="at 5120 bytes a token need 10 MiB beside 50 MiB of weights, 59 MiB are"):
        check_ram(read_sizes(path), OPTIONS, ram(59), 0)


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
    assert layers_that_fit(read_sizes(path), OPTIONS, free_mib * MIB) == num_layers


def test_layers_that_are_not_loaded_are_before_the_output(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five equal parts of 12 MiB, as above, with two layers between the fourth and the output."""
    shape = replace(MODEL.cache_shape, num_skipped=2)
    monkeypatch.setattr(memory, "cache_shape", lambda file: shape)
    fitting = {
        free_mib: layers_that_fit(read_sizes(path), OPTIONS, free_mib * MIB) for free_mib in (14, 16, 31, 74, 76)
    }
    assert fitting == {14: 0, 16: 1, 31: 4, 74: 6, 76: -1}
    for gpu_layers, ram_mib in ((1, 40 + 10), (3, 40 + 10), (4, 30 + 6), (6, 10 + 1)):
        check_ram(read_sizes(path), OPTIONS, ram(ram_mib), gpu_layers)
        with pytest.raises(ModelLoadError):
            check_ram(read_sizes(path), OPTIONS, ram(ram_mib - 1), gpu_layers)


@pytest.mark.parametrize(
    ("free_mib", "num_rows"), [(64, 512), (8 << 10, 1024), ((16 << 10) - 1, 1024), (16 << 10, 2048)]
)
def test_rows_whose_logits_are_a_small_part_of_what_is_free(
    free_mib: int, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "rooms", lambda: ram(free_mib))
    assert memory.rows_that_fit(1 << 18) == num_rows
    assert memory.rows_that_fit(1 << 8) == 2048


def test_states_are_kept_by_the_context_and_beside_it() -> None:
    assert state_bytes(HYBRID, OPTIONS) == 2 * MIB + 2 * (MIB + 52)
    assert cache_bytes(HYBRID, OPTIONS) == MIB + state_bytes(HYBRID, OPTIONS)
    longer = replace(OPTIONS, context_length=2048)
    assert state_bytes(HYBRID, longer) == state_bytes(HYBRID, OPTIONS)
    more = replace(OPTIONS, checkpoint_bytes=5 * MIB)
    assert cache_bytes(HYBRID, more) == cache_bytes(HYBRID, OPTIONS) + 5 * MIB
    assert state_bytes(MODEL, OPTIONS) == 0


def test_states_are_in_the_arithmetic(hybrid: Path) -> None:
    options = replace(OPTIONS, checkpoint_bytes=5 * MIB)
    check_ram(read_sizes(hybrid), options, ram(50 + 11), 0)
    sentence = (
        "2 slots of 1024 tokens at 512 bytes a token, with 9 MiB of states, need 10 MiB beside 50 MiB of weights, "
        "60 MiB are free: lower --slots, --context or --checkpoint-mib"
    )
    with pytest.raises(ModelLoadError, match=f"^{re.escape(sentence)}$"):
        check_ram(read_sizes(hybrid), options, ram(60), 0)


def test_what_is_saved_is_in_ram_wherever_the_layers_are(hybrid: Path) -> None:
    check_ram(read_sizes(hybrid), OPTIONS, ram(3), EVERY_LAYER)
    with pytest.raises(ModelLoadError, match="need 2 MiB beside 0 MiB of weights, 2 MiB are free: lower --slots"):
        check_ram(read_sizes(hybrid), OPTIONS, ram(2), EVERY_LAYER)
    check_gpus(HYBRID, OPTIONS, [gpu(3)], EVERY_LAYER)
    with pytest.raises(ModelLoadError, match="with 4 MiB of states, need 3 MiB on Fake GPU, 2 MiB are free there"):
        check_gpus(HYBRID, OPTIONS, [gpu(2)], EVERY_LAYER)


@pytest.mark.parametrize(
    ("num_mebibytes", "free_mib", "room_bytes"),
    [
        pytest.param(-1, 1000, 8 * (MIB + 52), id="four states for each of two slots"),
        pytest.param(-1, 50 + 6 + 8, (8 * MIB - 104) // 8, id="an eighth of what is left"),
        pytest.param(-1, 40, 0, id="nothing is left"),
        pytest.param(0, 1000, 0, id="none is asked for"),
        pytest.param(7, 1000, 7 * MIB, id="as asked for"),
    ],
)
def test_room_for_checkpoints(hybrid: Path, num_mebibytes: int, free_mib: int, room_bytes: int) -> None:
    # The context takes 3 MiB, and what is saved for the slots 2 MiB and 104 bytes.
    found = room_for_checkpoints(read_sizes(hybrid), OPTIONS, ram(free_mib - 1), 0, num_mebibytes)
    assert found == room_bytes


def test_without_states_there_are_no_checkpoints(path: Path) -> None:
    assert room_for_checkpoints(read_sizes(path), OPTIONS, ram(1000), 0, -1) == 0
    assert room_for_checkpoints(read_sizes(path), OPTIONS, ram(1000), 0, 7) == 0


def test_snapshots_are_states(hybrid: Path) -> None:
    more = replace(OPTIONS, num_snapshots=3)
    assert cache_bytes(HYBRID, more) == cache_bytes(HYBRID, OPTIONS) + 3 * 2 * MIB
    assert state_bytes(HYBRID, more) == state_bytes(HYBRID, OPTIONS) + 3 * 2 * MIB
    check_ram(read_sizes(hybrid), more, ram(50 + 12), 0)
    with pytest.raises(ModelLoadError, match="with 10 MiB of states"):
        check_ram(read_sizes(hybrid), more, ram(50 + 11), 0)
    assert cache_bytes(MODEL, replace(OPTIONS, num_snapshots=3)) == cache_bytes(MODEL, OPTIONS)


@pytest.mark.parametrize(
    ("num_mebibytes", "free_mib", "num_snapshots", "checkpoint_mib"),
    [
        pytest.param(-1, 1000, 5, 7, id="as many as are wanted"),
        # Caches take 5 MiB, and older states 7 MiB.
        pytest.param(-1, 50 + 12 + 8 * 7, 3, 7, id="an eighth of what is left"),
        pytest.param(-1, 40, 0, 7, id="nothing is left"),
        pytest.param(7, 1000, 1, 5, id="half of what is asked for"),
        pytest.param(100, 1000, 5, 90, id="no more than are wanted"),
        pytest.param(3, 1000, 0, 3, id="too little for one"),
        pytest.param(0, 1000, 0, 0, id="none is asked for"),
    ],
)
def test_room_for_snapshots(
    hybrid: Path, num_mebibytes: int, free_mib: int, num_snapshots: int, checkpoint_mib: int
) -> None:
    kept_mib = 7 if num_mebibytes < 0 else num_mebibytes
    options = replace(OPTIONS, num_snapshots=5, checkpoint_bytes=kept_mib * MIB)
    found = with_room_for_snapshots(options, read_sizes(hybrid), ram(free_mib), [], 0, num_mebibytes)
    assert found == replace(options, num_snapshots=num_snapshots, checkpoint_bytes=checkpoint_mib * MIB)
    if num_mebibytes >= 0:
        assert cache_bytes(HYBRID, found) == cache_bytes(HYBRID, replace(options, num_snapshots=0))


@pytest.mark.parametrize(("free_mib", "num_snapshots"), [(1000, 5), (3 + 8 * 4, 2), (1, 0)])
def test_snapshots_are_where_their_layers_are(hybrid: Path, free_mib: int, num_snapshots: int) -> None:
    options = replace(OPTIONS, num_snapshots=5)
    gpus = [gpu(free_mib)]
    found = with_room_for_snapshots(options, read_sizes(hybrid), ram(1000), gpus, EVERY_LAYER, -1)
    assert found.num_snapshots == num_snapshots


def test_without_states_there_are_no_snapshots(path: Path) -> None:
    options = replace(OPTIONS, num_snapshots=5)
    assert with_room_for_snapshots(options, read_sizes(path), ram(1000), [], 0, -1) == OPTIONS


def test_of_a_window_there_are_no_snapshots(hybrid: Path) -> None:
    sizes = read_sizes(hybrid)
    windowed = replace(sizes, shape=replace(sizes.shape, saved_window=16))
    options = replace(OPTIONS, num_snapshots=5)
    assert with_room_for_snapshots(options, windowed, ram(1000), [], 0, -1) == OPTIONS


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
        check_ram(read_sizes(path), options, rooms(), 0)
    check_ram(read_sizes(path), replace(OPTIONS, context_length=44 * 1024), rooms(), 0)


def test_the_address_space_holds_weights_and_caches(limited: dict[int, int], path: Path) -> None:
    kept = ", of which 512 MiB are kept for threads"
    limited[resource.RLIMIT_AS] = (512 + 360) * MIB
    check_ram(read_sizes(path), OPTIONS, rooms(), 0)
    limited[resource.RLIMIT_AS] = (512 + 359) * MIB
    sentence = f"need 10 MiB beside 50 MiB of weights, 59 MiB are free within the 871 MiB of ulimit -v{kept}: lower"
    with pytest.raises(ModelLoadError, match=sentence):
        check_ram(read_sizes(path), OPTIONS, rooms(), 0)
    limited[resource.RLIMIT_AS] = 100 * MIB
    with pytest.raises(ModelLoadError, match=f"weights, 0 MiB are free within the 100 MiB of ulimit -v{kept}: take"):
        check_ram(read_sizes(path), OPTIONS, rooms(), 0)


def test_weights_are_no_data_of_the_process(limited: dict[int, int], path: Path) -> None:
    limited[resource.RLIMIT_DATA] = (256 + 210) * MIB
    check_ram(read_sizes(path), OPTIONS, rooms(), 0)
    limited[resource.RLIMIT_DATA] = (256 + 209) * MIB
    sentence = (
        "need 10 MiB, 9 MiB are free within the 465 MiB of ulimit -d, of which 256 MiB are kept for threads: lower"
    )
    with pytest.raises(ModelLoadError, match=sentence):
        check_ram(read_sizes(path), OPTIONS, rooms(), 0)


def test_weights_that_do_not_fit_alone_are_another_matter(path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"49 MiB are free: take a smaller model$"):
        check_ram(read_sizes(path), OPTIONS, ram(49), 0)
