"""Which way to exactness a target takes, from a probe of the model as it will be run. Results are kept on disk."""

import json
import logging
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from platformdirs import user_cache_path

from services.engine.errors import ModelLoadError
from services.engine.model import Model
from services.engine.padding import ExactMode, Exactness, PaddedRuntime, reserve
from services.engine.probe import is_exact
from services.engine.runtime import LlamaRuntime, Runtime, RuntimeOptions, Segment

_log = logging.getLogger(__name__)
# Not 1: kernels for one row differ from those for more, in the attention at least. Where activations are quantized that
# shows in the logits of one position in hundreds, so rarely that a probe can miss it.
_WIDTHS = (2, 4, 8, 16)
_MAX_COST = 1.05
# The number rises when the probe becomes another one.
_PROBE_VERSION = 2
_NUM_TIMED = 15


def padded_runtime(
    model: Model, options: RuntimeOptions, exactness: Exactness | None, max_draft_tokens: int
) -> PaddedRuntime:
    """Make a runtime with the context that the options ask for: exact, if the probe was right, or plain."""
    flash_attention = options.flash_attention and exactness is None
    options = replace(options, reserve=reserve(exactness, max_draft_tokens), flash_attention=flash_attention)
    return PaddedRuntime(LlamaRuntime(model, options), exactness, max_draft_tokens)


def most_reserve(max_draft_tokens: int) -> int:
    """Return how many positions of a slot padding takes at most, whatever is found exact."""
    return max(reserve(exactness, max_draft_tokens) for exactness in (None, *candidates(max_draft_tokens)))


def candidates(max_draft_tokens: int) -> list[Exactness]:
    """Return what is worth trying, the cheapest first. Constant rows must leave room for a whole draft."""
    constant = [width for width in _WIDTHS if width > max_draft_tokens]
    return [Exactness(ExactMode.ROW_MULTIPLE, width) for width in _WIDTHS] + [
        Exactness(ExactMode.CONSTANT_ROWS, width) for width in constant
    ]


def choose_on(model: Model, options: RuntimeOptions, max_draft_tokens: int, identity: str) -> Exactness:
    """Return the first candidate that the probe finds exact.

    `identity` tells apart everything that decides the logits' bits; results are kept under it.

    Raises:
        ModelLoadError: no candidate is exact.
    """
    exactness = _first_exact(model, options, max_draft_tokens, identity, candidates(max_draft_tokens))
    if exactness is None:
        raise ModelLoadError(
            f"{model.path} cannot be served exactly on this device: its logits change with the batch in every mode"
        )
    return exactness


def choose_auto(model: Model, options: RuntimeOptions, max_draft_tokens: int, identity: str) -> Exactness | None:
    """Return the first candidate that is exact and costs one session under 5 % more than one plain row; else None."""

    def is_cheap(exactness: Exactness) -> bool:
        def measure() -> bool:
            padded_s = _decode_s(padded_runtime(model, options, exactness, max_draft_tokens))
            return padded_s < _MAX_COST * _decode_s(LlamaRuntime(model, options))

        # Remembered, as a restarted target should decide as it did before: its numerics must not depend on noise.
        return _remembered("cost", _key(identity, options, max_draft_tokens, exactness), measure)

    return _first_exact(model, options, max_draft_tokens, identity, filter(is_cheap, candidates(max_draft_tokens)))


def _first_exact(
    model: Model, options: RuntimeOptions, max_draft_tokens: int, identity: str, tried: Iterable[Exactness]
) -> Exactness | None:
    for exactness in tried:
        key = _key(identity, options, max_draft_tokens, exactness)

        def probe(exactness: Exactness = exactness) -> bool:
            traced = replace(options, trace_rows=model.num_gpu_layers == 0)
            runtime = padded_runtime(model, traced, exactness, max_draft_tokens)
            try:
                return is_exact(runtime, max_draft_tokens)
            finally:
                runtime.close()

        if _remembered("exactness", f"{_PROBE_VERSION} {key}", probe):
            return exactness
    return None


def _key(identity: str, options: RuntimeOptions, max_draft_tokens: int, exactness: Exactness) -> str:
    return f"{identity} {options} {max_draft_tokens} {exactness.mode.value} {exactness.width}"


def _remembered(what: str, key: str, probe: Callable[[], bool]) -> bool:
    path = user_cache_path("outrider", ensure_exists=True) / "exactness.json"
    try:
        known: dict[str, bool] = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    key = f"{what} {key}"
    if key not in known:
        started_s = time.perf_counter()
        known[key] = probe()
        _log.info("probed %s in %.1f s: %s", what, time.perf_counter() - started_s, known[key])
        _write(path, json.dumps(known))
    return known[key]


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        _log.warning("cannot keep the result of the probe in %s: %s", path, error.strerror)


def _decode_s(runtime: Runtime) -> float:
    """Return the median time of one session's one-token decode in seconds, and close the runtime."""
    times = []
    try:
        runtime.decode([Segment(0, 0, [0], 1)])
        for position in range(1, 1 + _NUM_TIMED):
            started_s = time.perf_counter()
            runtime.decode([Segment(0, position, [0], 1)])
            times.append(time.perf_counter() - started_s)
    finally:
        runtime.close()
    return statistics.median(times)
