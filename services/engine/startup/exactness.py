"""Which way to exactness a target takes, from a probe of the model as it will be run. Results are kept on disk."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.checkpoints import CheckpointRuntime, state_reserve
from services.engine.runtime.interface import Runtime, Segment
from services.engine.runtime.padding import ExactMode, Exactness, PaddedRuntime, reserve
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.measuring import Budget, Finding, Measuring, OutOfTimeError, least_times, rows_after
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.probe import is_exact

_log = logging.getLogger(__name__)
# Not 1: kernels for one row differ from those for more, in the attention at least. Where activations are quantized that
# shows in the logits of one position in hundreds, so rarely that a probe can miss it.
_WIDTHS = (2, 4, 8, 16)
_MAX_COST = 1.05
# What costs more than this at first is not measured further, nor are more rows than some that cost so much.
_CLEARLY_DEAR, _NO_WAY_BACK = 1.2, 2.0
_ENOUGH_S = 0.4
# These numbers rise when what they name becomes another one.
_PROBE_VERSION, _COST_VERSION = 3, 2


def runtime_of(model: Model, options: RuntimeOptions, exactness: Exactness | None, max_draft_tokens: int) -> Runtime:
    """Make a runtime with the context that the options ask for: exact, if the probe was right, or plain."""
    flash_attention = options.flash_attention and exactness is None
    reserved = _reserve(exactness, max_draft_tokens, keeps_state=model.keeps_state)
    options = replace(options, reserve=reserved, flash_attention=flash_attention)
    if not model.keeps_state:
        return PaddedRuntime(LlamaRuntime(model, options), exactness, max_draft_tokens)
    # A whole draft is verified in one decode, whatever has to be evaluated again before it.
    inner = LlamaRuntime(model, replace(options, max_batch_rows=max(options.max_batch_rows, reserved)))
    return CheckpointRuntime(
        inner,
        exactness.width if exactness else 1,
        max_draft_tokens,
        options.checkpoint_bytes,
        is_shared=options.shares_decodes,
    )


def most_reserve(max_draft_tokens: int, *, keeps_state: bool = False) -> int:
    """Return how many positions of a slot padding takes at most, whatever is found exact."""
    ways = (None, *candidates(max_draft_tokens, keeps_state=keeps_state))
    return max(_reserve(exactness, max_draft_tokens, keeps_state=keeps_state) for exactness in ways)


def candidates(max_draft_tokens: int, *, keeps_state: bool = False, saves_window: bool = False) -> list[Exactness]:
    """Return what is worth trying, the cheapest first. Constant rows must leave room for a whole draft.

    They take rows of slots that have nothing to do: one that `keeps_state` would have to be brought back from there.
    A window that is saved with a state is put back into other cells than it was in, by whole blocks: with fewer rows
    than a vector has numbers these are added in another order, which showed in one row of five, and not to every probe.
    """
    constant = [width for width in _WIDTHS if width > max_draft_tokens and not keeps_state]
    multiples = _WIDTHS[-1:] if saves_window else _WIDTHS
    return [Exactness(ExactMode.ROW_MULTIPLE, width) for width in multiples] + [
        Exactness(ExactMode.CONSTANT_ROWS, width) for width in constant
    ]


def _candidates_of(model: Model, max_draft_tokens: int) -> list[Exactness]:
    return candidates(max_draft_tokens, keeps_state=model.keeps_state, saves_window=model.saves_window)


def _reserve(exactness: Exactness | None, max_draft_tokens: int, *, keeps_state: bool) -> int:
    if keeps_state:
        return state_reserve(exactness.width if exactness else 1, max_draft_tokens)
    return reserve(exactness, max_draft_tokens)


def choose_on(loaded: LoadedModel, max_draft_tokens: int, measuring: Measuring) -> Exactness:
    """Return the first candidate that the probe finds exact, however long that takes.

    Raises:
        ModelLoadError: no candidate is exact.
    """
    choosing = _Choosing(loaded, max_draft_tokens, measuring)
    for exactness in _candidates_of(loaded.model, max_draft_tokens):
        if choosing.is_exact_in_full(exactness):
            return exactness
    raise ModelLoadError(
        f"{loaded.model.path} cannot be served exactly on this device: its logits change with the batch in every mode"
    )


def choose_auto(loaded: LoadedModel, max_draft_tokens: int, measuring: Measuring) -> Exactness | None:
    """Return the first candidate that costs one session under 5 % more than one plain row and is exact; else None.

    What is not found out within the budget counts as not exact, in this start and in later ones.
    """
    choosing = _Choosing(loaded, max_draft_tokens, measuring)
    for exactness in _candidates_of(loaded.model, max_draft_tokens):
        is_cheap = choosing.is_cheap(exactness)
        is_taken = is_cheap and choosing.is_exact(exactness)
        if is_taken:
            return exactness
        if is_taken is None:
            same = "the same text with and without a draft"
            _log.info(
                "exact off: a start has a few seconds to find out %s, and they did not suffice (for %s); "
                "--exact on takes as long as it needs",
                f"whether this model gives {same}" if is_cheap else f"what it costs to have {same}",
                _name(exactness),
            )
            return None
    return None


class _Choosing:
    """What is asked about candidates. Each answer is found once, and remembered."""

    def __init__(self, loaded: LoadedModel, max_draft_tokens: int, measuring: Measuring) -> None:
        self._model = loaded.model
        # How many older states are kept changes no logits, and the room for them is another one at each start.
        self._options = replace(loaded.options, flash_attention=False, checkpoint_bytes=0)
        self._max_draft_tokens = max_draft_tokens
        self._measuring = measuring
        # So it is with the number of snapshots, where there are any.
        options = replace(self._options, num_snapshots=min(1, self._options.num_snapshots))
        self._key = f"{loaded.identity} {options} {max_draft_tokens}"
        self._cheap_widths = cache(lambda: _cheap_widths(loaded.model, self._options, measuring.budget))

    def is_cheap(self, exactness: Exactness) -> Finding:
        """Whether it costs one session nearly nothing."""
        if exactness.mode is ExactMode.CONSTANT_ROWS:
            # It takes what the row multiple takes and more.
            found = self.is_cheap(Exactness(ExactMode.ROW_MULTIPLE, exactness.width))
            return found and self._find_cost(exactness, lambda: self._is_cheap_in_all_slots(exactness))
        return self._find_cost(exactness, lambda: exactness.width in self._cheap_widths())

    def is_exact(self, exactness: Exactness) -> Finding:
        """Whether its logits are exact, as far as that can be found out in time."""
        return self._measuring.find_out(
            self._probe_key(exactness), lambda: self._probe(exactness, self._measuring.budget.pace())
        )

    def is_exact_in_full(self, exactness: Exactness) -> bool:
        """Whether its logits are exact, however long it takes to find out."""
        news = self._measuring.news_of(f"a probe whether logits are exact with {_name(exactness)}")
        return self._measuring.find_out_in_full(self._probe_key(exactness), lambda: self._probe(exactness, news))

    def _find_cost(self, exactness: Exactness, measure: Callable[[], bool]) -> Finding:
        return self._measuring.find_out(f"cost {_COST_VERSION} {_name(exactness)} {self._key}", measure)

    def _is_cheap_in_all_slots(self, exactness: Exactness) -> bool:
        plain = LlamaRuntime(self._model, replace(self._options, num_slots=1))
        padded = runtime_of(self._model, self._options, exactness, self._max_draft_tokens)
        try:
            plain.decode([Segment(0, 0, [0], 1)])
            padded.decode([Segment(0, 0, [0], 1)])
            turn = {"plain": rows_after(plain, 1, 1), "padded": rows_after(padded, 1, 1)}
            times = least_times([turn], self._measuring.budget, _ENOUGH_S)
            return times["padded"] < _MAX_COST * times["plain"]
        finally:
            plain.close()
            padded.close()

    def _probe_key(self, exactness: Exactness) -> str:
        return f"exactness {_PROBE_VERSION} {_name(exactness)} {self._key}"

    def _probe(self, exactness: Exactness, on_share: Callable[[float], None]) -> bool:
        is_digested = self._model.num_gpu_layers == 0 and not self._model.keeps_state
        digesting = replace(self._options, digest_attention=is_digested)
        on_share(0.0)
        runtime = runtime_of(self._model, digesting, exactness, self._max_draft_tokens)
        try:
            return is_exact(runtime, self._max_draft_tokens, on_share)
        finally:
            runtime.close()


def _cheap_widths(model: Model, options: RuntimeOptions, budget: Budget) -> list[int]:
    """Return the numbers of rows, of one session, that cost under 5 % more than one row."""
    if budget.left_s <= 0:
        raise OutOfTimeError
    runtime = runtime_of(model, replace(options, num_slots=1, context_length=64, max_batch_rows=64), None, max(_WIDTHS))
    try:
        # The first decode brings the weights into memory.
        runtime.decode([Segment(0, 0, [0], 1)])
        turns = {rows: {rows: rows_after(runtime, 1, rows)} for rows in (1, *_WIDTHS)}
        times = least_times(list(turns.values()), budget, 0.0, is_enough=_are_more_rows_dear)
        near = [width for width in times if width > 1 and times[width] < _CLEARLY_DEAR * times[1]]
        if near:
            again = least_times([turns[rows] for rows in (1, *near)], budget, _ENOUGH_S)
            times |= {rows: min(times[rows], again[rows]) for rows in again}
    finally:
        runtime.close()
    _log.info("measured ms by rows of one session: %s", ", ".join(f"{n}: {1e3 * s:.1f}" for n, s in times.items()))
    return [width for width in near if times[width] < _MAX_COST * times[1]]


def _are_more_rows_dear(times: Mapping[int, float]) -> bool:
    """Whether some rows take so long that no step in the costs could bring those of more rows down again."""
    return max(times.values()) > _NO_WAY_BACK * times[1]


def _name(exactness: Exactness) -> str:
    return f"{exactness.mode.value} {exactness.width}"
