"""Whether attention is computed by flash attention: as set, or by where the model is and what a measurement says.

On a GPU it is quicker. On a CPU that depends on the processor, on the model and on how long contexts are: it is taken
where it is nowhere slower than the usual way, and somewhere quicker.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.engine.runtime.padding import Exactness
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.measuring import Budget, Finding, Measuring, OutOfTimeError, least_times, rows_after
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.settings import FlashAttention

_log = logging.getLogger(__name__)

# Long contexts first: there it loses most often, and no more needs to be measured.
_LENGTHS = (1000, 100)
_NUM_ROWS = (1, 4)
_MOST_SLOTS = 4
_MOST_S, _ENOUGH_S = 2.0, 0.4
# Of two equal costs the lesser of a few times has differed by less.
_NOISE = 0.04
# What takes so many times as long in a first round is not measured further.
_CLEARLY_SLOWER = 1.2
# The number rises when the measurement becomes another one.
_VERSION = 1


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
    longest = min(_LENGTHS[0] + max(_NUM_ROWS), options.context_length)
    return replace(options, num_slots=num_slots, context_length=longest, reserve=0, max_batch_rows=256, can_fill=True)


def _is_quicker(loaded: LoadedModel, options: RuntimeOptions, budget: Budget) -> bool:
    runtimes: list[LlamaRuntime] = []
    try:
        for flash_attention in (False, True):
            runtimes.append(LlamaRuntime(loaded.model, replace(options, flash_attention=flash_attention)))
            if budget.left_s <= 0:
                raise OutOfTimeError
        ratios = _ratios(runtimes, budget)
    finally:
        for runtime in runtimes:
            runtime.close()
    _log.info(
        "measured flash attention: decodes take %s of the time that they take without",
        ", ".join(f"{ratio:.2f}" for ratio in ratios),
    )
    return max(ratios) <= 1 + _NOISE and min(ratios) < 1 - _NOISE


def _ratios(runtimes: Sequence[LlamaRuntime], budget: Budget) -> list[float]:
    """Return what decodes of the second runtime take of the time of the first one's, until one takes clearly longer."""
    ratios: list[float] = []
    num_slots, held = runtimes[0].num_slots, 0
    for length in sorted({min(length, runtimes[0].context_length - max(_NUM_ROWS)) for length in _LENGTHS})[::-1]:
        for runtime in runtimes:
            for slot in range(num_slots):
                runtime.fill(slot, held, length) if held < length else runtime.cut(slot, length)
        held = length
        turns = [
            {
                (num_rows, index): rows_after(runtime, length, num_rows, num_slots)
                for index, runtime in enumerate(runtimes)
            }
            for num_rows in _NUM_ROWS
        ]
        ratios += _slowdowns(least_times(turns, budget, _ENOUGH_S, is_enough=_is_clear))
        if max(ratios) > 1 + _NOISE:
            break
    return ratios


def _is_clear(times: Mapping[tuple[int, int], float]) -> bool:
    return max(_slowdowns(times)) > _CLEARLY_SLOWER


def _slowdowns(times: Mapping[tuple[int, int], float]) -> list[float]:
    return [times[num_rows, 1] / times[num_rows, 0] for num_rows in _NUM_ROWS if (num_rows, 1) in times]
