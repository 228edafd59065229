"""What caches take, by the files' metadata, is what llama.cpp takes; and models in several files are one model."""

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest
from gguf import GGUFReader, GGUFWriter

from services.engine import complaints
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime import memory
from services.engine.runtime.interface import Segment
from services.engine.runtime.memory import Room, cache_bytes, check_ram, layers_that_fit, read_sizes, state_bytes
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.model_service import digest_of_files
from services.frame.program.startup import StartupError
from tests import foreign_models
from tests.integration import sparse_models, unusual_models
from tests.integration.conftest import Pair
from tests.integration.services import model_of, target_server

pytestmark = pytest.mark.integration

# Together 2**16 positions: llama.cpp tells sizes with two decimals of a MiB, which is a sixth of a byte a position.
OPTIONS = RuntimeOptions(num_slots=4, context_length=1 << 14, max_batch_rows=64, num_threads=1)
KINDS: dict[str, Callable[[Path], Path]] = {
    "plain": foreign_models.llama,
    "sliding window": foreign_models.sliding,
    "heads by layer": unusual_models.heads_by_layer,
    "head sizes": unusual_models.head_sizes,
    "shared caches": unusual_models.shared_caches,
    "latent attention": unusual_models.latent,
    "sparse attention": unusual_models.indexed,
    "sparse attention with values": sparse_models.minimax_m3,
}
WITH_STATES: dict[str, Callable[[Path], Path]] = {
    "mamba": foreign_models.recurrent,
    "short convolution": foreign_models.hybrid,
    "mamba 2": unusual_models.mamba2,
    "states or attention": unusual_models.granite_hybrid,
    "states beside attention": unusual_models.falcon_h1,
    "attention at intervals": unusual_models.qwen35,
}
# What is saved of these has some numbers more, by which it is told apart.
WITH_LONGER_STATES: dict[str, Callable[[Path], Path]] = {
    "states of embeddings": sparse_models.qwen4exp,
    "compressed attention": sparse_models.deepseek4,
}
_SIZE = r"(?:llama_(?:kv_cache|memory_recurrent): size|llama_dsv4_comp_state: .*, size) = +([0-9.]+) MiB"


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What llama.cpp tells meanwhile."""
    lines: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        lines.append(text.decode())
        complaints.keep_complaint(level, text, user_data)

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    yield lines
    llama_cpp.llama_log_set(complaints.keep_complaint, ctypes.c_void_p(0))


@pytest.mark.parametrize("kind", WITH_STATES)
def test_snapshots_take_what_the_metadata_say(kind: str, tmp_path: Path, told: list[str]) -> None:
    model = Model(WITH_STATES[kind](tmp_path / "model.gguf"))
    runtime = LlamaRuntime(model, replace(OPTIONS, num_snapshots=5))
    assert runtime.num_snapshots in (0, 5)
    options = replace(OPTIONS, num_snapshots=runtime.num_snapshots)
    runtime.close()
    (size,) = re.findall(r"llama_memory_recurrent: size = +([0-9.]+) MiB", "".join(told))
    saved_bytes = options.num_slots * model.cache_shape.saved_bytes()
    assert float(size) == pytest.approx((state_bytes(model, options) - saved_bytes) / 2**20, abs=0.01)
    model.close()


@pytest.mark.parametrize("reserve", [0, 17])
@pytest.mark.parametrize("flash_attention", [False, True], ids=["plain", "flash attention"])
@pytest.mark.parametrize("kind", [*KINDS, *WITH_STATES, *WITH_LONGER_STATES])
def test_caches_take_what_the_metadata_say(
    kind: str, flash_attention: bool, reserve: int, tmp_path: Path, told: list[str]
) -> None:
    model = Model((KINDS | WITH_STATES | WITH_LONGER_STATES)[kind](tmp_path / "model.gguf"))
    options = replace(OPTIONS, flash_attention=flash_attention, reserve=reserve)
    LlamaRuntime(model, options).close()
    sizes = [float(size) for size in re.findall(_SIZE, "".join(told))]
    kept_bytes = sum(memory._by_layer(model.cache_shape, options))
    assert sum(sizes) == pytest.approx(kept_bytes / 2**20, abs=0.01 * len(sizes))
    assert kept_bytes > 0
    model.close()


@pytest.mark.parametrize("kind", WITH_STATES)
def test_a_saved_state_takes_what_the_header_says(kind: str, tmp_path: Path) -> None:
    model = Model(WITH_STATES[kind](tmp_path / "model.gguf"))
    runtime = LlamaRuntime(model, replace(OPTIONS, context_length=256))
    runtime.decode([Segment(1, 0, [0, 7, 300], 1)])
    assert len(runtime.save(1)) == model.cache_shape.saved_bytes()
    runtime.close()
    model.close()


@pytest.mark.parametrize("kind", WITH_LONGER_STATES)
def test_what_a_longer_state_takes(kind: str, tmp_path: Path) -> None:
    model = Model(WITH_LONGER_STATES[kind](tmp_path / "model.gguf"))
    options = replace(OPTIONS, context_length=256)
    runtime = LlamaRuntime(model, options)
    for first in range(0, 256, 64):
        runtime.decode([Segment(1, first, [7] * 64, 1)])
    assert len(runtime.save(1)) == pytest.approx(memory._saved_slot_bytes(model.cache_shape, options), rel=0.02)
    assert read_sizes(model.path).keeps_state
    runtime.close()
    model.close()


def test_headers_that_tell_of_other_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="compress_ratios is shorter than block_count"):
        Model(sparse_models.deepseek4(tmp_path / "ratios.gguf", ratios=[0, 4]))
    with pytest.raises(ModelLoadError, match="PLE layer 9 is out of range"):
        Model(sparse_models.qwen4exp(tmp_path / "layer.gguf", embedding_layer=9))


def test_a_saved_state_has_what_is_within_a_window(tmp_path: Path) -> None:
    model = Model(foreign_models.hybrid(tmp_path / "model.gguf", {"attention.sliding_window": 16}))
    options = replace(OPTIONS, num_slots=1, context_length=256)
    runtime = LlamaRuntime(model, options)
    runtime.decode([Segment(0, 0, [0] * 64, 0)])
    runtime.decode([Segment(0, 64, [0] * 64, 0)])
    shape, position_bytes = model.cache_shape, 2 * 2 * foreign_models.DIM
    assert len(runtime.save(0)) - shape.saved_bytes() == pytest.approx(16 * position_bytes, rel=0.1)
    assert state_bytes(model, options) == sum(shape.state_bytes()) + shape.saved_bytes() + 16 * position_bytes
    runtime.close()
    model.close()


def test_layers_that_only_predict_further_tokens_are_not_counted(tmp_path: Path, told: list[str]) -> None:
    path = unusual_models.qwen35(tmp_path / "model.gguf")
    model = Model(path)
    unused = re.findall(r"model has unused tensor (\S+) \(size = (\d+) bytes\)", "".join(told))
    assert {name.split(".")[1] for name, _ in unused} == {"4"}
    skipped_bytes = sum(int(size) for _, size in unused)
    assert model.num_bytes == llama_cpp.llama_model_size(model.handle) - skipped_bytes
    options = replace(OPTIONS, num_slots=1, context_length=32)
    needed_bytes = path.stat().st_size - skipped_bytes + cache_bytes(model, options)
    check_ram(read_sizes(path), options, [Room(needed_bytes)], 0)
    with pytest.raises(ModelLoadError, match="are free: lower --slots or --context"):
        check_ram(read_sizes(path), options, [Room(needed_bytes - 1)], 0)
    model.close()


def write_in_parts(source: Path, folder: Path, num_tensors: int) -> list[Path]:
    """Write a model again, at most so many tensors to a file, as llama.cpp's own tool names them."""
    reader = GGUFReader(source)
    writer = GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=num_tensors)
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(name, field.contents(), *field.types[:2])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("model-*.gguf"))


@pytest.fixture
def parts(pair: Pair, tmp_path: Path) -> list[Path]:
    found = write_in_parts(pair.target, tmp_path, 32)
    assert [path.name for path in found] == [f"model-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    return found


def test_a_model_in_parts_is_the_whole_model(pair: Pair, parts: list[Path]) -> None:
    whole, model = Model(pair.target), Model(parts[0])
    assert model.parts == parts
    assert (model.num_bytes, model.num_parameters) == (whole.num_bytes, whole.num_parameters)
    rows = []
    for each in (whole, model):
        runtime = LlamaRuntime(each, replace(OPTIONS, context_length=256))
        rows.append(runtime.decode([Segment(0, 0, [0, 7, 300], 1)])[0].tobytes())
        runtime.close()
        each.close()
    assert rows[0] == rows[1]


def test_every_part_counts_for_the_digest_and_the_size(parts: list[Path]) -> None:
    digest = digest_of_files(parts)
    # A GPU that holds a model of the first part's size, but not of all three.
    options = replace(OPTIONS, num_slots=1, context_length=32)
    free_bytes = 2 * parts[0].stat().st_size
    assert 0 <= layers_that_fit(read_sizes(parts[0]), options, free_bytes) < 9
    data = bytearray(parts[2].read_bytes())
    data[-1] ^= 1
    parts[2].write_bytes(data)
    assert digest_of_files(parts) != digest


async def test_a_change_in_a_later_part_changes_the_numerics(parts: list[Path]) -> None:
    async with target_server(parts[0]) as server:
        before = (await model_of(server)).numerics_fingerprint
    data = bytearray(parts[2].read_bytes())
    data[-1] ^= 1
    parts[2].write_bytes(data)
    async with target_server(parts[0]) as server:
        assert (await model_of(server)).numerics_fingerprint != before


def test_a_later_part_is_not_the_model(parts: list[Path]) -> None:
    with pytest.raises(ModelLoadError, match=r"name its first part, which ends in -00001-of-00003\.gguf"):
        Model(parts[1])


async def test_a_part_that_is_missing(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(StartupError, match=f"cannot read model {re.escape(str(parts[1]))}: No such file"):
        async with target_server(parts[0]):
            pass
