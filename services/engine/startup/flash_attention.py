"""Whether attention is computed by flash attention: as set, or by where the model is and what a measurement says.

On a GPU it is quicker. On a CPU that depends on the processor, on the model's heads and on how long contexts are: while
they are short it is quicker. So it is taken where it is at a quarter of the context: that is where a session is on
average which comes to fill half of it. Nothing but attention is measured, so that the time that a start has suffices
for any model, and the rest of a decode hides no difference.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace

from services.engine.errors import ModelLoadError
from services.engine.runtime.padding import Exactness
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.measuring import Budget, Finding, Measuring, OutOfTimeError, least_times, rows_after
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.one_layer import one_layer_of
from services.engine.startup.settings import FlashAttention

_log = logging.getLogger(__name__)

# The share of the context, and the most of a longer one.
_SHARE, _MOST_LENGTH = 0.25, 1000
# Sessions, and the numbers of rows of each that are weighed together: kernels differ in what they gain.
_MOST_SLOTS, _NUMS_ROWS = 4, (1, 2, 4)
_MOST_S, _ENOUGH_S, _MOST_ROUNDS = 1.0, 0.2, 50
# Of two equal costs the least of a few times has differed by less.
_NOISE = 0.05
# The number rises when the measurement becomes another one.
_VERSION = 5


def choose_flash_attention(
    setting: FlashAttention, loaded: LoadedModel, exactness: Exactness | None, measuring: Measuring
) -> bool:
    """Return whether to use it; where a setting cannot be followed or time was short, the log says so."""
    if exactness is not None:
        if setting == "on":
            _log.warning("flash attention off: exact mode goes without it; --exact off would use it")
        return False
    if setting == "auto":
        # Of a model that keeps a state attention is the lesser part, and no cut brings it back to measure again.
        is_measured = not loaded.model.keeps_state
        return loaded.model.num_gpu_layers != 0 or (is_measured and _is_worth_it(loaded, measuring))
    return setting == "on"


def _is_worth_it(loaded: LoadedModel, measuring: Measuring) -> bool:
    options = _measured_options(loaded.options)
    key = f"flash attention {_VERSION} {loaded.identity} {options}"
    found: Finding = measuring.find_out(key, lambda: _is_quicker(loaded, options, measuring.budget.part(_MOST_S)))
    if found is None:
        _log.info(
            "flash attention off: a start has a few seconds to measure what it gains, and they did not suffice; "
            "--flash-attention on uses it all the same"
        )
    return bool(found)


def _measured_options(options: RuntimeOptions) -> RuntimeOptions:
    num_slots = min(_MOST_SLOTS, options.num_slots)
    length = min(_MOST_LENGTH, int(_SHARE * options.context_length)) + max(_NUMS_ROWS)
    return replace(options, num_slots=num_slots, context_length=length, reserve=0, max_batch_rows=256, can_fill=True)


def _is_quicker(loaded: LoadedModel, options: RuntimeOptions, budget: Budget) -> bool:
    if budget.left_s <= 0:
        raise OutOfTimeError
    num_slots, length = options.num_slots, options.context_length - max(_NUMS_ROWS)
    with ExitStack() as opened:
        try:
            layer = opened.enter_context(one_layer_of(loaded.model))
        except OSError as error:
            raise ModelLoadError(f"what attention takes: {error}") from error
        turns: list[dict[tuple[bool, int], Callable[[], None]]] = [{} for _ in _NUMS_ROWS]
        for flash_attention in (False, True):
            runtime = LlamaRuntime(layer, replace(options, flash_attention=flash_attention))
            opened.enter_context(closing(runtime))
            for slot in range(num_slots):
                runtime.fill(slot, 0, length)
            for num_rows, turn in zip(_NUMS_ROWS, turns, strict=True):
                turn[flash_attention, num_rows] = rows_after(runtime, length, num_rows, num_slots)
        times = least_times(turns, budget, _ENOUGH_S, num_rounds=_MOST_ROUNDS)
    with_it, without = (sum(times[is_on, num_rows] for num_rows in _NUMS_ROWS) for is_on in (True, False))
    ratio = with_it / without
    _log.info("measured flash attention: it takes %.2f of the time that attention takes without", ratio)
    return ratio < 1 - _NOISE
