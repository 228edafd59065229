"""Trying a model before it is served: what is wrong with some kinds shows in no field of their files."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from services.engine.errors import DecodeError, ModelLoadError
from services.engine.runtime.held_slots import StatefulRuntime
from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.measuring import Measuring
from services.engine.startup.model_service import LoadedModel

_log = logging.getLogger(__name__)
# Rows of a session in a first decode and in a second one, and sessions.
_FIRST, _SECOND, _NUM_SESSIONS = 4, 3, 3
# Of the size of the logits: what kernels and quantized activations make of another batch is less, a wrong state more.
_MOST_ROUNDED = 0.2
# The number rises when the trial becomes another one.
_VERSION = 1

MakeRuntime = Callable[[RuntimeOptions], Runtime]


def tried(loaded: LoadedModel, measuring: Measuring) -> LoadedModel:
    """Return how a model is to be run. Raises ModelLoadError where it cannot be: see the functions below."""

    def make(options: RuntimeOptions) -> LlamaRuntime:
        return LlamaRuntime(loaded.model, options)

    options = replace(loaded.options, num_slots=_NUM_SESSIONS, context_length=64, reserve=0, max_batch_rows=64)
    check_logits(make, options, loaded.model.path.name)
    if not loaded.model.keeps_state:
        return loaded
    key = f"company {_VERSION} {loaded.identity}"
    is_shared = measuring.find_out_in_full(key, lambda: shares_decodes(make, options, loaded.model.path.name))
    if not is_shared:
        _log.warning("%s gives other text when sessions share a decode: each has its own", loaded.model.path.name)
    num_snapshots = 0
    # What is saved of a window goes by whole blocks, as it does without snapshots only.
    if loaded.options.num_snapshots and not loaded.model.saves_window:
        key = f"snapshots {_VERSION} {is_shared} {loaded.identity}"
        num_sessions = _NUM_SESSIONS if is_shared else 1
        if measuring.find_out_in_full(key, lambda: has_snapshots(make, options, num_sessions)):
            num_snapshots = loaded.options.num_snapshots
    options = replace(loaded.options, shares_decodes=is_shared, num_snapshots=num_snapshots)
    return replace(loaded, options=options)


def check_logits(make: MakeRuntime, options: RuntimeOptions, name: str) -> None:
    """Refuse a model whose logits are no numbers, or the same whatever the text: it would stream noise."""
    runtime = make(options)
    try:
        logits = _evaluate(runtime, [_tokens(runtime, 0)])[0]
    finally:
        runtime.close()
    if not np.isfinite(logits).all():
        raise ModelLoadError(f"cannot serve {name}: its logits are no numbers")
    if not np.any(logits - logits[:1]):
        raise ModelLoadError(f"cannot serve {name}: its logits are the same whatever the text")


def shares_decodes(make: MakeRuntime, options: RuntimeOptions, name: str) -> bool:
    """Whether sessions in one decode get what each gets alone, but for rounding.

    Raises ModelLoadError where not even several rows of one session get what one row after the other gets: no draft
    could be verified.
    """
    runtime = make(options)
    try:
        sequences = [_tokens(runtime, session) for session in range(_NUM_SESSIONS)]
        alone = [_evaluate(runtime, [tokens])[0] for tokens in sequences]
        if all(map(_is_near, alone, _evaluate(runtime, sequences))):
            return True
        by_row = _evaluate(runtime, [sequences[0]], [1] * len(sequences[0]))[0]
    finally:
        runtime.close()
    if not _is_near(by_row, alone[0]):
        raise ModelLoadError(f"cannot serve {name}: its logits are others when it evaluates several rows at once")
    return False


def has_snapshots(
    make: Callable[[RuntimeOptions], StatefulRuntime], options: RuntimeOptions, num_sessions: int
) -> bool:
    """Whether so many sessions in one decode can take rows back and go on as if these had not been, but for rounding.

    Of some architectures llama.cpp has no snapshots, whatever is asked for.
    """
    runtime = make(replace(options, num_snapshots=_SECOND))
    try:
        if not runtime.num_snapshots:
            return False
        sequences = [_tokens(runtime, session) for session in range(num_sessions)]
        alone = [_evaluate(runtime, [tokens])[0] for tokens in sequences]
        beginnings = [tokens[:_FIRST] for tokens in sequences]
        # All but their first rows are wrong.
        drafts = [[tokens[_FIRST], *tokens[: _SECOND - 1]] for tokens in sequences]
        for first, rows in ((0, beginnings), (_FIRST, drafts)):
            runtime.decode([Segment(slot, first, each, len(each)) for slot, each in enumerate(rows)])
        for slot in range(num_sessions):
            runtime.cut(slot, _FIRST + 1)
        rest = [Segment(slot, _FIRST + 1, tokens[_FIRST + 1 :], _SECOND - 1) for slot, tokens in enumerate(sequences)]
        found = [logits.copy() for logits in runtime.decode(rest)]
    except DecodeError:
        return False
    finally:
        runtime.close()
    return all(_is_near(expected[_FIRST + 1 :], logits) for expected, logits in zip(alone, found, strict=True))


def _tokens(runtime: Runtime, session: int) -> list[int]:
    """Return tokens from all over the vocabulary, others for each session."""
    number = _FIRST + _SECOND
    return [(runtime.vocabulary_size * (7 * index + session + 1)) // (7 * number + 7) for index in range(number)]


def _evaluate(
    runtime: Runtime, sequences: Sequence[Sequence[int]], sizes: Sequence[int] = (_FIRST, _SECOND)
) -> list[Logits]:
    """Return the logits of all rows of each sequence, all together, in decodes of so many rows; hold nothing after."""
    found: list[list[Logits]] = [[] for _ in sequences]
    held = 0
    for size in sizes:
        rows = [Segment(slot, held, tokens[held : held + size], size) for slot, tokens in enumerate(sequences)]
        for slot, logits in enumerate(runtime.decode(rows)):
            found[slot].append(logits.copy())
        held += size
    for slot in range(len(sequences)):
        runtime.cut(slot, 0)
    return [np.concatenate(rows) for rows in found]


def _is_near(expected: Logits, logits: Logits) -> bool:
    spread = expected - expected.mean()
    return bool(np.linalg.norm(logits - expected) <= _MOST_ROUNDED * np.linalg.norm(spread))
