"""Costs as they are measured: lines of the measuring process in, a file's content out."""

import statistics
from collections.abc import Mapping
from datetime import date
from typing import Any

from orchestrator.costs.model_costs import Costs, ModelCosts, Point

_ATTENTION = {True: "with flash attention", False: "without flash attention"}
_Place = tuple[int, int, int, bool]


class Measurements:
    """What `python -m services.engine.costs` has said so far; its `__main__` describes the lines."""

    def __init__(
        self, first: Mapping[str, Any], machine: str, settings: Mapping[str, str | int | float | bool]
    ) -> None:
        """Take its `first` line, which says what follows.

        Empty `machine` is as the process describes it. `settings` stand in the file beside those of the process.
        """
        self._first = first
        self._machine = machine or first["machine"]
        self._settings = {**first["settings"], **settings}
        self._times: dict[str, dict[_Place, list[float]]] = {role: {} for role in first["models"]}
        self.num_planned = len(first["planned"])
        # Cores that other programs have kept busy on average.
        self.busy_elsewhere = 0.0

    @property
    def num_measured(self) -> int:
        """How many decodes have been measured at least once."""
        return sum(map(len, self._times.values()))

    def add(self, line: Mapping[str, Any]) -> None:
        """Take another line."""
        self.busy_elsewhere = line["busy_elsewhere"]
        self._times[line["role"]].setdefault(_place(line), []).extend(line["times_ms"])

    def costs(self) -> Costs | None:
        """Return what is known by now, None before there is a point of the target."""
        target, draft = self._model("target"), self._model("draft")
        if target is None:
            return None
        source = f"measured by `outrider costs` on {date.today()}"
        settings = {**self._settings, "busy_elsewhere": self.busy_elsewhere}
        return Costs(source, self._machine, target, draft, settings)

    def _model(self, role: str) -> ModelCosts | None:
        measured = self._times.get(role)
        if not measured:
            return None
        points = tuple(
            _point(place, times) for place, times in sorted(measured.items(), key=lambda item: _order(*item[0]))
        )
        return ModelCosts(
            self._first["models"][role], points, left_out=(*self._first["left_out"][role], *self._missing(role))
        )

    def _missing(self, role: str) -> list[str]:
        """Return what was planned and not measured: a sentence for all contexts that lack the same."""
        lacking: dict[tuple[bool, int], dict[int, list[int]]] = {}
        for line in self._first["planned"]:
            if line["role"] == role and (place := _place(line)) not in self._times[role]:
                sessions, rows, context, flash_attention = place
                lacking.setdefault((flash_attention, context), {}).setdefault(sessions, []).append(rows // sessions)
        contexts: dict[tuple[bool, str], list[int]] = {}
        for (flash_attention, context), rows_of in sorted(lacking.items()):
            what = "; ".join(_in_words(*each) for each in sorted(rows_of.items()))
            contexts.setdefault((flash_attention, what), []).append(context)
        return [
            f"context {', '.join(map(str, at))} {_ATTENTION[flash_attention]}: {what}"
            for (flash_attention, what), at in contexts.items()
        ]


def _in_words(sessions: int, rows: list[int]) -> str:
    return f"{sessions} session{'s' * (sessions > 1)} of {', '.join(map(str, sorted(rows)))} row{'s' * (max(rows) > 1)}"


def _place(line: Mapping[str, Any]) -> _Place:
    return line["sessions"], line["rows"], line["context"], line["flash_attention"]


def _order(sessions: int, rows: int, context: int, flash_attention: bool) -> tuple[bool, int, int, int]:
    """Return by what points are sorted in a file."""
    return flash_attention, context, sessions, rows


def _point(place: _Place, times_ms: list[float]) -> Point:
    spread_ms = None
    if len(times_ms) > 1:
        first, _, third = statistics.quantiles(times_ms, n=4, method="inclusive")
        spread_ms = round(third - first, 4)
    sessions, rows, context, flash_attention = place
    median_ms = round(statistics.median(times_ms), 4)
    return Point(sessions, rows, context, median_ms, flash_attention, spread_ms, len(times_ms))
