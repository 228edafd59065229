"""One llama_context: rows in, logits out, cache cut. Not thread-safe; one thread owns it."""

import ctypes
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from services.engine.complaints import pop_complaint
from services.engine.control_groups import usable_cores
from services.engine.errors import DecodeError, ModelLoadError
from services.engine.model.model import NO_GENERATION, Model
from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.watching import Watcher

_THROW_AWAY_TOKEN = 0
_STATE_ONLY = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
# Positions of a stream come in multiples of this.
_CACHE_UNIT = 256


@dataclass(frozen=True)
class RuntimeOptions:
    """How a context is made. Each slot has `context_length` positions, in tokens, and `reserve` more for padding.

    Of a model that keeps a state, so many `checkpoint_bytes` of older states are kept, and sessions share decodes only
    where it `shares_decodes`. `num_snapshots` are asked for: states after so many of the last rows of each slot.
    """

    num_slots: int = 8
    context_length: int = 2048
    reserve: int = 0
    max_batch_rows: int = 1024
    num_threads: int = 0
    flash_attention: bool = False
    cache_in_f32: bool = False
    count_passes: bool = False
    digest_attention: bool = False
    can_fill: bool = False
    checkpoint_bytes: int = 0
    num_snapshots: int = 0
    shares_decodes: bool = True

    def threads(self) -> int:
        """Return the number of threads: as set, else the cores this process may use."""
        return self.num_threads or usable_cores()

    def num_positions(self) -> int:
        """Return how many positions the caches of all slots have: llama.cpp rounds each slot's up."""
        return self.num_slots * whole_units(self.context_length + self.reserve)


def whole_units(num_positions: int) -> int:
    """Return how many positions llama.cpp makes of so many."""
    return -(-num_positions // _CACHE_UNIT) * _CACHE_UNIT


class LlamaRuntime:
    """The real runtime: a stream of its own for every slot.

    A cache that all slots share would take any rows in one pass, but each row would pay for the attention of all slots,
    idle ones too. With streams it pays for its own.

    Attributes:
        num_decodes: calls of llama_decode so far.
        num_snapshots: how many of a slot's last rows can be cut, once, right after their decode; its first row cannot.
    """

    def __init__(self, model: Model, options: RuntimeOptions) -> None:
        """Make a context. Raises ModelLoadError when llama.cpp refuses."""
        self.costs = DecodeCosts()
        self._has_copied = False
        self.num_slots = self.max_sessions = options.num_slots
        self.context_length = options.context_length + options.reserve
        self.vocabulary_size = model.vocabulary.size
        self._given_up = model.given_up
        self._keeps_state = model.keeps_state
        self._saves_window = model.saves_window
        self.num_decodes = 0
        is_watched = options.count_passes or options.digest_attention or options.can_fill
        self._watcher = Watcher(digests_attention=options.digest_attention) if is_watched else None
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = options.num_positions()
        parameters.n_seq_max = options.num_slots
        # One physical batch per decode: cut by n_ubatch, it takes several passes and the logits' last bits change.
        parameters.n_batch = parameters.n_ubatch = options.max_batch_rows
        # llama.cpp asserts that a decode has room for more rows than these and the last one.
        parameters.n_rs_seq = max(0, min(options.num_snapshots, options.max_batch_rows - 2))
        parameters.n_threads = parameters.n_threads_batch = options.threads()
        parameters.kv_unified = False
        parameters.flash_attn_type = int(options.flash_attention)
        if options.cache_in_f32:
            parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
        parameters.swa_full = True
        parameters.no_perf = True
        if self._watcher is not None:
            parameters.cb_eval = self._watcher.callback
        self._context = llama_cpp.llama_init_from_model(model.handle, parameters)
        if not self._context:
            raise ModelLoadError(f"cannot make a context for {model.path}: {pop_complaint()}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        if not (self._memory and llama_cpp.llama_get_causal_attn(self._context)):
            self.close()
            raise ModelLoadError(f"cannot serve {model.path}: {model.architecture} {NO_GENERATION}")
        # llama.cpp takes no more rows than all slots have positions.
        self.max_batch_rows = min(options.max_batch_rows, llama_cpp.llama_n_batch(self._context))
        # None of some architectures, whatever is asked for.
        self.num_snapshots: int = llama_cpp.llama_n_rs_seq(self._context)
        self._batch = _Batch(self.max_batch_rows)

    @property
    def num_passes(self) -> int:
        """Graph passes so far, where they are counted."""
        return self._watcher.num_passes if self._watcher is not None else 0

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        """Return the most rows that so many sessions give: nothing is padded here."""
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """One decode for all; it takes several passes unless slots are neighbours with equal numbers of rows."""
        return [list(segments)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Evaluate one group; see `Runtime.decode`."""
        if self._given_up.is_set():
            raise DecodeError("the model was given up")
        self._check(segments)
        num_outputs = self._batch.fill(segments)
        if self._watcher is not None:
            self._watcher.begin(_places(segments))
        started_s = time.perf_counter()
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        # A GPU may still be at work.
        llama_cpp.llama_synchronize(self._context)
        duration_s = time.perf_counter() - started_s
        self.num_decodes += 1
        if code != 0:
            complaint = pop_complaint()
            for segment in segments:
                self.cut(segment.slot, 0 if self._keeps_state else segment.first_position)
            raise DecodeError(f"llama_decode returned {code}: {complaint}")
        self.costs.observe(self._batch.struct.n_tokens, duration_s, len(segments), after_copy=self._has_copied)
        self._has_copied = False
        if not num_outputs:
            return [np.empty((0, self.vocabulary_size), np.float32) for _ in segments]
        pointer = llama_cpp.llama_get_logits(self._context)
        # The view drops ctypes' explicit byte order, which buffer consumers take for a foreign type.
        logits = np.ctypeslib.as_array(pointer, (num_outputs, self.vocabulary_size)).view(np.float32)
        return _split(logits, [segment.num_outputs + segment.num_padding_outputs for segment in segments])

    def attention_digest(self, slot: int, position: int) -> bytes:
        """See `Runtime.attention_digest`; it is taken where `digest_attention` asks for it."""
        return self._watcher.attention_digest(slot, position) if self._watcher is not None else b""

    def reachable(self, slot: int, length: int) -> int:
        """Return `length`, unless the model keeps a state: that can only be emptied."""
        return 0 if self._keeps_state else length

    def cut(self, slot: int, length: int) -> None:
        """Drop the cache of `slot` from position `length` on. Raises DecodeError when the cache cannot be cut there."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1):
            raise DecodeError(f"the cache of slot {slot} cannot be cut at position {length}")

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy between two slots, which takes as long for few positions as for many; the next decode does it."""
        # Between streams llama.cpp copies whole buffers, and ends the process when it is asked for a part of one.
        self.share(source, target)
        self.cut(target, length)

    def save(self, slot: int) -> NDArray[np.uint8]:
        """Return the recurrent state of `slot`; what attention keeps is not in it. Raises DecodeError."""
        size = llama_cpp.llama_state_seq_get_size_ext(self._context, slot, _STATE_ONLY)
        state = np.empty(size, np.uint8)
        if llama_cpp.llama_state_seq_get_data_ext(self._context, _bytes_of(state), size, slot, _STATE_ONLY) != size:
            raise DecodeError(f"the state of slot {slot} cannot be read")
        return state

    def put_back(self, slot: int, state: NDArray[np.uint8] | None, length: int) -> None:
        """Give `slot` a state that was saved at `length`, and cut what attention keeps to that. Raises DecodeError.

        Without a state the slot is emptied.
        """
        if state is None:
            self.cut(slot, 0)
            return
        size = len(state)
        if llama_cpp.llama_state_seq_set_data_ext(self._context, _bytes_of(state), size, slot, _STATE_ONLY) != size:
            raise DecodeError(f"the state of slot {slot} cannot be written: {pop_complaint()}")
        self.cut(slot, length)

    def share(self, source: int, target: int) -> None:
        """Let `target` hold all that `source` holds; the next decode does it, unless a state has what it would copy.

        Such a state may be put back before, into other cells than those that are copied.
        """
        if self._saves_window:
            self.cut(target, 0)
            self.restore(target, self.state(source))
            return
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._has_copied = True

    def fill(self, slot: int, first_position: int, length: int) -> None:
        """Give `slot` its positions from the first on up to `length`, without evaluating them; `can_fill` asks for it.

        What decodes cost afterwards is what they cost after a prompt, but what they give means nothing.
        """
        assert self._watcher is not None, "this runtime was not made to be filled"
        self._watcher.cancels = True
        for first in range(first_position, length, self.max_batch_rows):
            self.decode([Segment(slot, first, [_THROW_AWAY_TOKEN] * min(self.max_batch_rows, length - first), 0)])
        self._watcher.cancels = False

    def state(self, slot: int) -> Any:
        """Return all that the cache of `slot` holds, as an array of bytes that `restore` takes."""
        size = llama_cpp.llama_state_seq_get_size(self._context, slot)
        state = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self._context, state, size, slot) != size:
            raise DecodeError(f"the cache of slot {slot} cannot be read")
        return state

    def restore(self, slot: int, state: Any) -> None:
        """Give `slot`, which is empty, what a slot of this model held, of another context perhaps. Raises DecodeError.

        The two contexts must be alike in the number of slots, in flash attention and in the type of their caches.
        """
        if not llama_cpp.llama_state_seq_set_data(self._context, state, len(state), slot):
            raise DecodeError(f"the cache of slot {slot} cannot be written: {pop_complaint()}")

    def close(self) -> None:
        """Free the context; the model stays."""
        llama_cpp.llama_free(self._context)

    def _check(self, segments: Sequence[Segment]) -> None:
        """Raise DecodeError for what llama.cpp would end the process for, or write into another slot's room."""
        num_rows = sum(segment.num_rows for segment in segments)
        if not 0 < num_rows <= self.max_batch_rows:
            raise DecodeError(f"{num_rows} rows in a decode, which takes 1 to {self.max_batch_rows}")
        for segment in segments:
            if not 0 <= segment.slot < self.num_slots:
                raise DecodeError(f"slot {segment.slot} is none of the {self.num_slots} slots")
            end = segment.first_position + segment.num_rows
            if segment.first_position < 0 or end > self.context_length:
                raise DecodeError(
                    f"positions {segment.first_position} to {end - 1} leave the context of {self.context_length} tokens"
                )
            if not 0 <= segment.num_outputs <= len(segment.tokens):
                raise DecodeError(f"{segment.num_outputs} outputs for {len(segment.tokens)} tokens")
            if len(segment.tokens) and not 0 <= min(segment.tokens) <= max(segment.tokens) < self.vocabulary_size:
                raise DecodeError(f"a token is outside the vocabulary of {self.vocabulary_size} ids")


class _Batch:
    """A llama_batch whose arrays are numpy's, so that filling it costs a few slice assignments a segment."""

    def __init__(self, capacity: int) -> None:
        """Make room for `capacity` rows."""
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._num_sequences = np.ones(capacity, np.int32)
        item_bytes = self._sequences.itemsize
        self._sequence_pointers = self._sequences.ctypes.data + item_bytes * np.arange(capacity, dtype=np.uintp)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._num_sequences, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )

    def fill(self, segments: Sequence[Segment]) -> int:
        """Lay the segments down one after the other; return the number of rows with output."""
        end = num_outputs = 0
        for segment in segments:
            start, end = end, end + segment.num_rows
            padding = end - segment.num_padding
            first_output, last_output = padding - segment.num_outputs, padding + segment.num_padding_outputs
            self._tokens[start:padding] = segment.tokens
            self._tokens[padding:end] = _THROW_AWAY_TOKEN
            self._positions[start:end] = range(segment.first_position, segment.first_position + end - start)
            self._sequences[start:end] = segment.slot
            self._outputs[start:end] = 0
            self._outputs[first_output:last_output] = 1
            num_outputs += last_output - first_output
        self.struct.n_tokens = end
        return num_outputs


def _split(logits: Logits, counts: Sequence[int]) -> list[Logits]:
    parts: list[Logits] = []
    end = 0
    for count in counts:
        start, end = end, end + count
        parts.append(logits[start:end])
    return parts


def _pointer(array: NDArray[np.generic], kind: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def _bytes_of(state: NDArray[np.uint8]) -> object:
    return _pointer(state, ctypes.c_uint8)


def _places(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Return slot and position of each row."""
    return [(segment.slot, segment.first_position + index) for segment in segments for index in range(segment.num_rows)]


def digest(row: Logits) -> bytes:
    """Return a digest of one row of logits, to the bit."""
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
