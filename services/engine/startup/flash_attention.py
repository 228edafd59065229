"""Whether attention is computed by flash attention: as set, or by where the model is and what a measurement says.

On a GPU it is quicker. On a CPU that depends on the processor, on the model and on how long contexts are: while they
are short it is quicker. So it is taken where it is at a quarter of the context: that is where a session is on average
which comes to fill half of it.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from services.engine.runtime.padding import Exactness
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.measuring import Budget, Finding, Measuring, OutOfTimeError, least_times, rows_after
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.settings import FlashAttention

_log = logging.getLogger(__name__)

# The share of the context, and the most of a longer one.
_SHARE, _MOST_LENGTH = 0.25, 1000
# Sessions and rows of each: more sessions gain more.
_MOST_SLOTS, _NUM_ROWS = 4, 2
_MOST_S, _ENOUGH_S = 2.0, 0.4
# Of two equal costs the lesser of a few times has differed by less.
_NOISE = 0.05
# The number rises when the measurement becomes another one.
_VERSION = 4


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
    """Return how contexts are made to measure with: two of them hold no more than the one that will be served."""
    num_slots = max(1, min(_MOST_SLOTS, options.num_slots // 2))
    length = min(_MOST_LENGTH, int(_SHARE * options.context_length)) + _NUM_ROWS
    return replace(options, num_slots=num_slots, context_length=length, reserve=0, max_batch_rows=256, can_fill=True)


def _is_quicker(loaded: LoadedModel, options: RuntimeOptions, budget: Budget) -> bool:
    runtimes: list[LlamaRuntime] = []
    try:
        for flash_attention in (False, True):
            runtimes.append(LlamaRuntime(loaded.model, replace(options, flash_attention=flash_attention)))
            if budget.left_s <= 0:
                raise OutOfTimeError
        ratio = _ratio(runtimes, budget)
    finally:
        for runtime in runtimes:
            runtime.close()
    _log.info("measured flash attention: a decode takes %.2f of the time that it takes without", ratio)
    return ratio < 1 - _NOISE


def _ratio(runtimes: Sequence[LlamaRuntime], budget: Budget) -> float:
    """Return what a decode of the second runtime takes of the time of the first one's."""
    num_slots, length = runtimes[0].num_slots, runtimes[0].context_length - _NUM_ROWS
    for runtime in runtimes:
        for slot in range(num_slots):
            runtime.fill(slot, 0, length)
    turn = {index: rows_after(runtime, length, _NUM_ROWS, num_slots) for index, runtime in enumerate(runtimes)}
    times = least_times([turn], budget, _ENOUGH_S)
    return times[1] / times[0]
