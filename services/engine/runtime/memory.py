"""Whether weights and caches fit into memory, how much of a model fits onto a GPU, and how many rows into a decode."""

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from services.engine.control_groups import tightest_memory_limit
from services.engine.errors import ModelLoadError
from services.engine.model.cache_shape import CacheShape, cache_shape
from services.engine.model.gguf_file import GgufFile
from services.engine.model.model import Model
from services.engine.runtime.devices import Accelerator
from services.engine.runtime.runtime import RuntimeOptions, whole_units

_MEBIBYTE = 1 << 20
# Of a GPU's free memory; what is left is for graphs.
_USABLE_SHARE = 0.8
# Stacks and heaps of threads, and graphs: without room for them threads do not start, long after the check.
_KEPT_ADDRESSES, _KEPT_DATA = 512 * _MEBIBYTE, 256 * _MEBIBYTE
# Older states that are kept where nobody says how much room they have, and their share of what is left for them.
_STATES_A_SLOT, _STATES_SHARE = 4, 8
# Of a decode, and the share of what is free that their logits may take, which are all in memory at once.
_ROWS, _LOGITS_SHARE = (2048, 1024, 512), 8


@dataclass(frozen=True)
class ModelSizes:
    """What a model takes, by its header: what it keeps of sequences, and bytes of its files that are loaded.

    A header with many tokens takes half a second to read: once is enough.
    """

    shape: CacheShape
    weights_bytes: int

    @property
    def keeps_state(self) -> bool:
        """Whether some of its layers keep a state."""
        return any(self.shape.states)


@dataclass(frozen=True)
class Room:
    """Memory that this process can still have: bytes, the limit that leaves no more, and whether weights count.

    Weights are mapped from their file: they are in memory and in the address space, and no data of the process.
    """

    free_bytes: int
    limit: str = ""
    holds_weights: bool = True


def rooms() -> list[Room]:
    """Return what bounds this process, the least first; ask before a model is loaded, as mapped weights count as free.

    The machine has what can be had without swapping; a control group what its limit leaves, page cache that can be
    dropped included.
    """
    found = [Room(psutil.virtual_memory().available)]
    if (group := tightest_memory_limit()) is not None:
        found.append(Room(group.free_bytes, f"the control group's limit of {_mib(group.limit_bytes)}"))
    return sorted([*found, *_own_rooms()], key=lambda room: room.free_bytes)


def _own_rooms() -> Iterator[Room]:
    """Yield what the limits of the process itself leave, where it has any."""
    held = psutil.Process().memory_info()
    for flag, kind, held_bytes, kept_bytes in (
        ("-v", resource.RLIMIT_AS, held.vms, _KEPT_ADDRESSES),
        ("-d", resource.RLIMIT_DATA, held.data, _KEPT_DATA),
    ):
        limit_bytes, _ = resource.getrlimit(kind)
        if limit_bytes != resource.RLIM_INFINITY:
            limit = f"the {_mib(limit_bytes)} of ulimit {flag}, of which {_mib(kept_bytes)} are kept for threads"
            free_bytes = max(0, limit_bytes - held_bytes - kept_bytes)
            yield Room(free_bytes, limit, holds_weights=kind == resource.RLIMIT_AS)


def free_ram() -> int:
    """Return how many bytes of memory can be had now without anything being swapped out, within every limit."""
    return rooms()[0].free_bytes


def rows_that_fit(vocabulary_size: int) -> int:
    """Return how many rows a decode can have, 2048 at most and 512 at least, by what their logits need."""
    most_rows = free_ram() // _LOGITS_SHARE // (4 * vocabulary_size)
    return next((rows for rows in _ROWS if rows <= most_rows), _ROWS[-1])


def cache_bytes(model: Model, options: RuntimeOptions) -> int:
    """Return the size of all that is kept of sequences in bytes: keys and values of every position, and states."""
    return sum(_by_layer(model.cache_shape, options)) + _saved_bytes(model.cache_shape, options)


def state_bytes(model: Model, options: RuntimeOptions) -> int:
    """Return the size of states in bytes: what a recurrent model is at in each slot, and what it may go back to."""
    return _states_bytes(model.cache_shape, options)


def read_sizes(path: Path) -> ModelSizes:
    """Read a model's header. Raises ModelLoadError where the file cannot be read."""
    with GgufFile(path) as file:
        weights_bytes = sum(part.stat().st_size for part in file.parts()) - file.skipped_bytes()
        return ModelSizes(cache_shape(file), weights_bytes)


def room_for_checkpoints(
    sizes: ModelSizes, options: RuntimeOptions, rooms: Sequence[Room], num_gpu_layers: int, num_mebibytes: int
) -> int:
    """Return how many bytes of older states may be kept: none of a model without states, else so many MiB.

    Where `num_mebibytes` is below 0 there is room for a few states a slot, within a share of what `rooms` have beside
    all else.
    """
    if not sizes.keeps_state:
        return 0
    if num_mebibytes >= 0:
        return num_mebibytes * _MEBIBYTE
    left_bytes = _left_bytes(sizes, options, rooms, num_gpu_layers)
    wanted_bytes = _STATES_A_SLOT * options.num_slots * _saved_slot_bytes(sizes.shape, options)
    return max(0, min(wanted_bytes, left_bytes // _STATES_SHARE))


def with_room_for_snapshots(
    options: RuntimeOptions,
    sizes: ModelSizes,
    rooms: Sequence[Room],
    gpus: Sequence[Accelerator],
    num_gpu_layers: int,
    num_mebibytes: int,
) -> RuntimeOptions:
    """Return the options with as many of their snapshots as there is room for; none where states have a window.

    Where older states have so many MiB these take half of it at most; where `num_mebibytes` is below 0 another share of
    what `rooms` have beside all else. On GPUs they take that share of what is free there beside the caches.
    """
    if not sizes.keeps_state or sizes.shape.saved_window:
        return replace(options, num_snapshots=0)
    plain = replace(options, num_snapshots=0)
    shape, num_in_ram = sizes.shape, _num_in_ram(sizes.shape, num_gpu_layers)
    by_layer = [options.num_slots * state_bytes for state_bytes in shape.state_bytes()]
    shares = [plain.checkpoint_bytes // 2 // sum(by_layer)]
    if num_mebibytes < 0:
        shares = [
            _left_bytes(sizes, plain, rooms, num_gpu_layers) // _STATES_SHARE // max(1, sum(by_layer[:num_in_ram]))
        ]
    if gpus:
        left_bytes = sum(gpu.free_bytes for gpu in gpus) - sum(_by_layer(shape, plain)[num_in_ram:])
        shares.append(left_bytes // _STATES_SHARE // max(1, sum(by_layer[num_in_ram:])))
    num_snapshots = max(0, min(options.num_snapshots, *shares))
    taken_bytes = num_snapshots * sum(by_layer) if num_mebibytes >= 0 else 0
    return replace(options, num_snapshots=num_snapshots, checkpoint_bytes=options.checkpoint_bytes - taken_bytes)


def layers_that_fit(sizes: ModelSizes, options: RuntimeOptions, free_bytes: int) -> int:
    """Return how many layers of a model, with their caches, fit into a GPU's free memory; -1 is all of them."""
    shape = sizes.shape
    # The output counts as a layer: it is about as large.
    num_layers = shape.num_layers + 1
    layer_bytes = max(1, (sizes.weights_bytes + sum(_by_layer(shape, options))) // num_layers)
    num_fitting = int(free_bytes * _USABLE_SHARE) // layer_bytes
    if num_fitting >= num_layers:
        return -1
    return num_fitting + shape.num_skipped if num_fitting > 1 else num_fitting


def check_ram(sizes: ModelSizes, options: RuntimeOptions, rooms: Sequence[Room], num_gpu_layers: int) -> None:
    """Refuse a model whose layers, but for the last ones on GPUs, do not fit with their caches into all of `rooms`.

    Before it is loaded: weights that do not fit would be swapped out, or end the process. Raises ModelLoadError with
    the arithmetic.
    """
    weights_bytes, cache_bytes = _in_ram(sizes, options, num_gpu_layers)
    caches = f"{_caches(sizes.shape, options)} {_mib(cache_bytes)}"
    less = "lower --slots, --context or --checkpoint-mib" if options.checkpoint_bytes else "lower --slots or --context"
    for room in rooms:
        if room.holds_weights and weights_bytes + cache_bytes > room.free_bytes:
            remedy = less if weights_bytes <= room.free_bytes else "take a smaller model"
            raise ModelLoadError(f"{caches} beside {_mib(weights_bytes)} of weights, {_free(room, remedy)}")
        if not room.holds_weights and cache_bytes > room.free_bytes:
            raise ModelLoadError(f"{caches}, {_free(room, less)}")


def check_gpus(model: Model, options: RuntimeOptions, gpus: Sequence[Accelerator], num_gpu_layers: int) -> None:
    """Refuse caches that do not fit into what is free on GPUs now, with their layers' weights there already.

    Raises ModelLoadError with the arithmetic.
    """
    by_layer = _by_layer(model.cache_shape, options)
    cache_bytes = sum(by_layer[_num_in_ram(model.cache_shape, num_gpu_layers) :])
    free_bytes = sum(gpu.free_bytes for gpu in gpus)
    if gpus and cache_bytes > free_bytes:
        names = ", ".join(gpu.name for gpu in gpus)
        raise ModelLoadError(
            f"{_caches(model.cache_shape, options)} {_mib(cache_bytes)} on {names}, {_mib(free_bytes)} are free there: "
            "lower --slots, --context or --gpu-layers"
        )


def _left_bytes(sizes: ModelSizes, options: RuntimeOptions, rooms: Sequence[Room], num_gpu_layers: int) -> int:
    """Return how many bytes of RAM are left beside weights and caches; negative where these do not fit."""
    weights_in_ram, cache_in_ram = _in_ram(sizes, options, num_gpu_layers)
    return min(room.free_bytes - cache_in_ram - weights_in_ram * room.holds_weights for room in rooms)


def _in_ram(sizes: ModelSizes, options: RuntimeOptions, num_gpu_layers: int) -> tuple[int, int]:
    """Return the bytes of weights and of caches that are in RAM: those of the first layers, and saved states."""
    shape, num_in_ram = sizes.shape, _num_in_ram(sizes.shape, num_gpu_layers)
    cache_bytes = sum(_by_layer(shape, options)[:num_in_ram]) + _saved_bytes(shape, options)
    return sizes.weights_bytes * num_in_ram // (shape.num_layers + 1), cache_bytes


def _num_in_ram(shape: CacheShape, num_gpu_layers: int) -> int:
    """Return how many layers are not on a GPU, the first ones; the output is the last, after what is not loaded."""
    num_on_gpu = max(min(num_gpu_layers, 1), num_gpu_layers - shape.num_skipped)
    return 0 if num_gpu_layers < 0 else max(0, shape.num_layers + 1 - num_on_gpu)


def _caches(shape: CacheShape, options: RuntimeOptions) -> str:
    per_token = sum(_position_bytes(shape, options))
    states_bytes = _states_bytes(shape, options)
    states = f", with {_mib(states_bytes)} of states," if states_bytes else ""
    return f"{options.num_slots} slots of {options.context_length} tokens at {per_token} bytes a token{states} need"


def _free(room: Room, remedy: str) -> str:
    """Return how much is free, within which limit, and what to do about it."""
    within, alternative = (f" within {room.limit}", ", or raise that limit") if room.limit else ("", "")
    return f"{_mib(room.free_bytes)} are free{within}: {remedy}{alternative}"


def _by_layer(shape: CacheShape, options: RuntimeOptions) -> list[int]:
    """Return the bytes that llama.cpp keeps of all slots for each layer."""
    num_positions, num_slots, num_states = options.num_positions(), options.num_slots, 1 + options.num_snapshots
    compressed = shape.compressed or [(1, 0)] * len(shape.keys)
    layers = zip(_position_bytes(shape, options), shape.state_bytes(), compressed, strict=True)
    return [
        num_positions * position_bytes + num_slots * (num_states * state_bytes + _compressed_bytes(options, *kept))
        for position_bytes, state_bytes, kept in layers
    ]


def _compressed_bytes(options: RuntimeOptions, ratio: int, num_elements: int) -> int:
    """Return the bytes of a layer's compressed keys of a slot."""
    num_positions = options.num_positions() // options.num_slots
    return _element_bytes(options) * num_elements * whole_units(-(-num_positions // ratio))


def _position_bytes(shape: CacheShape, options: RuntimeOptions) -> list[int]:
    elements = shape.elements(flash_attention=options.flash_attention)
    return [_element_bytes(options) * num_elements for num_elements in elements]


def _element_bytes(options: RuntimeOptions) -> int:
    return 4 if options.cache_in_f32 else 2


def _states_bytes(shape: CacheShape, options: RuntimeOptions) -> int:
    return options.num_slots * (1 + options.num_snapshots) * sum(shape.state_bytes()) + _saved_bytes(shape, options)


def _saved_bytes(shape: CacheShape, options: RuntimeOptions) -> int:
    """Return the bytes of states outside llama.cpp: the base of every slot, and older ones."""
    return options.num_slots * _saved_slot_bytes(shape, options) + options.checkpoint_bytes


def _saved_slot_bytes(shape: CacheShape, options: RuntimeOptions) -> int:
    num_positions = min(shape.saved_window, options.num_positions() // options.num_slots)
    return shape.saved_bytes() + num_positions * sum(_position_bytes(shape, options))


def _mib(num_bytes: int) -> str:
    return f"{num_bytes // _MEBIBYTE} MiB"
