"""Measured times of decodes, and the time of any other decode as it lies between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from pydantic import ConfigDict, Field

_Count = Annotated[int, Field(ge=1)]
_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_CONFIG = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Point:
    """The median time of one decode.

    Attributes:
        num_rows: rows of all sessions together, the same number of each.
        context: positions that each session held before it, in tokens.
        flash_attention: None where nobody wrote it down.
        spread_ms: what lies between the first and the third quartile.
        num_times: how often it was measured.
    """

    __pydantic_config__ = _CONFIG

    num_sessions: Annotated[int, Field(ge=1, alias="sessions")]
    num_rows: Annotated[int, Field(ge=1, alias="rows")]
    context: Annotated[int, Field(ge=0)]
    ms: _Milliseconds
    flash_attention: bool | None = None
    spread_ms: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    num_times: Annotated[int | None, Field(ge=1, alias="times")] = None

    @property
    def place(self) -> tuple[int, int, int]:
        """Sessions, rows and context: what was decoded, however attention was computed."""
        return self.num_sessions, self.num_rows, self.context


@dataclass(frozen=True)
class ModelCosts:
    """What one model's decodes take, from points that were measured.

    Attributes:
        points: with flash attention and without, where both were measured.
        flash_attention: which of the points count. With None, the quicker kind by the points that both kinds have, or
            the kind of the most points where they have none in common.
        left_out: what was to be measured and was not, in words.
    """

    __pydantic_config__ = _CONFIG

    name: Annotated[str, Field(min_length=1)]
    points: Annotated[tuple[Point, ...], Field(min_length=1)]
    flash_attention: bool | None = None
    left_out: tuple[str, ...] = ()

    def decode_ms(self, num_sessions: int, num_rows: int, context: int = 0) -> float:
        """Return the milliseconds of a decode of `num_rows` rows, those of all sessions together.

        Each session is taken to give as many rows as the others, and to hold `context` positions before. A time lies
        on the straight lines between measured ones: for each measured number of sessions, those by rows of a session at
        each context, then between the contexts; at last between the numbers of sessions. Steps and dips that were
        measured are kept. Above the measured range a line goes on as it was last, though never falling; below it, the
        first measured time holds. What was measured at one context only costs the same at every. Where only one number
        of sessions was measured, rows cost the same whoever's they are.

        Raises ValueError for numbers that no decode has.
        """
        if not 1 <= num_sessions <= num_rows or context < 0:
            raise ValueError(f"no decode has {num_sessions} sessions, {num_rows} rows and {context} positions")
        counted = self._lines[0][0] if len(self._lines) == 1 else num_sessions
        rows_each = num_rows / counted
        by_sessions = [
            (float(sessions), _read_off([(at, _read_off(times, rows_each)) for at, times in contexts], context))
            for sessions, contexts in self._lines
        ]
        return _read_off(by_sessions, num_sessions)

    def token_ms(self, num_sessions: int, context: int = 0) -> float:
        """Return the milliseconds of one more token of each session, as a draft decodes them: a row of each."""
        return self.decode_ms(num_sessions, num_sessions, context)

    @property
    def uses_flash_attention(self) -> bool | None:
        """Which kind of points counts; None where it is not known how they were measured."""
        if self.flash_attention is not None:
            return self.flash_attention
        kinds: dict[bool | None, dict[tuple[int, int, int], float]] = {}
        for point in self.points:
            kinds.setdefault(point.flash_attention, {})[point.place] = point.ms
        shared = set.intersection(*(set(times) for times in kinds.values()))
        if shared:
            return min(kinds, key=lambda kind: sum(kinds[kind][place] for place in shared))
        return max(kinds, key=lambda kind: len(kinds[kind]))

    @cached_property
    def _lines(self) -> list[tuple[int, list[tuple[float, list[tuple[float, float]]]]]]:
        """By sessions, then by context: rows of a session and milliseconds. All ascending."""
        kind = self.uses_flash_attention
        tree: dict[int, dict[int, dict[float, float]]] = {}
        for point in self.points:
            if point.flash_attention is kind:
                contexts = tree.setdefault(point.num_sessions, {})
                contexts.setdefault(point.context, {})[point.num_rows / point.num_sessions] = point.ms
        return [
            (sessions, [(float(context), sorted(times.items())) for context, times in sorted(contexts.items())])
            for sessions, contexts in sorted(tree.items())
        ]


@dataclass(frozen=True)
class Costs:
    """What decodes cost on one machine.

    Attributes:
        source: who measured it, when and how, in a sentence.
        machine: what it was measured on, in words.
        settings: versions, threads and whatever else somebody needs who wants to measure it again.
    """

    __pydantic_config__ = _CONFIG

    source: Annotated[str, Field(min_length=1)]
    machine: Annotated[str, Field(min_length=1)]
    target: ModelCosts
    draft: ModelCosts | None = None
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def _read_off(line: Sequence[tuple[float, float]], at: float) -> float:
    """Return the height at `at` of a line through points, ascending; see `ModelCosts.decode_ms` on its two ends."""
    if at <= line[0][0] or len(line) == 1:
        return line[0][1]
    index = next((i for i, (place, _) in enumerate(line) if place >= at), len(line) - 1)
    (first, first_height), (last, last_height) = line[index - 1], line[index]
    slope = (last_height - first_height) / (last - first)
    if at > last:
        slope = max(0.0, slope)
    return last_height + slope * (at - last)
