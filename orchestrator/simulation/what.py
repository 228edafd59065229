"""What to change in a scenario, as it is written: `draft=2.5,streams=4,round_trip_ms=10`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.costs import load_costs
from orchestrator.simulation.scenario import ModelCosts, Scenario, TokenCosts
from services.frame.program.startup import StartupError

_MOST_STREAMS, _MOST_DRAFT_TOKENS = 256, 64


def read_what(text: str) -> dict[str, str]:
    """Return the changes by name. Raises StartupError for what is none, and for two changes of the same."""
    changes: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, sign, value = (each.strip() for each in part.partition("="))
        if not sign or name not in (*_CHANGES, "num_draft_tokens"):
            names = ", ".join((*_CHANGES, "num_draft_tokens"))
            raise StartupError(f"--what has {part.strip()!r}: write NAME=VALUE with a name of {names}")
        if name in changes:
            raise StartupError(f"--what has {name} twice, as {changes[name]} and as {value}: give it once")
        changes[name] = value
    return changes


def changed(scenario: Scenario, changes: Mapping[str, str]) -> Scenario:
    """Return a scenario with some things changed. Raises StartupError for a value that cannot be."""
    for name, value in changes.items():
        if name in _CHANGES:
            scenario = _CHANGES[name](scenario, value)
    return scenario


def draft_tokens_of(changes: Mapping[str, str]) -> int | None:
    """Return the number of draft tokens that is asked for, if one is. Raises StartupError."""
    value = changes.get("num_draft_tokens")
    return None if value is None else int(_number("num_draft_tokens", value, 1, _MOST_DRAFT_TOKENS, is_whole=True))


def _draft(scenario: Scenario, value: str) -> Scenario:
    return replace(scenario, draft=_costs("draft", value) or TokenCosts(_number("draft", value, 0.001, 1e6)))


def _target(scenario: Scenario, value: str) -> Scenario:
    costs = _costs("target", value)
    if costs is None:
        raise StartupError(f"--what has target={value}: name a file that `outrider costs` wrote")
    return replace(scenario, target=costs)


def _streams(scenario: Scenario, value: str) -> Scenario:
    number = int(_number("streams", value, 1, _MOST_STREAMS, is_whole=True))
    return replace(scenario, round_trips_ms=[scenario.round_trips_ms[0]] * number)


def _round_trip(scenario: Scenario, value: str) -> Scenario:
    round_trip_ms = _number("round_trip_ms", value, 0, 1e5)
    return replace(scenario, round_trips_ms=[round_trip_ms] * scenario.num_streams)


def _acceptance(scenario: Scenario, value: str) -> Scenario:
    return replace(scenario, acceptance=(_number("acceptance", value, 0, 1),))


_CHANGES: dict[str, Callable[[Scenario, str], Scenario]] = {
    "draft": _draft,
    "target": _target,
    "streams": _streams,
    "round_trip_ms": _round_trip,
    "acceptance": _acceptance,
}


def _costs(name: str, value: str) -> ModelCosts | None:
    """Return the costs of a model from a file, None for what names none."""
    if not Path(value).is_file():
        return None
    costs = load_costs(Path(value))
    found = costs.draft if name == "draft" else costs.target
    if found is None:
        raise StartupError(f"{value} has no costs of a draft")
    return found


def _number(name: str, value: str, least: float, most: float, *, is_whole: bool = False) -> float:
    try:
        number = int(value) if is_whole else float(value)
    except ValueError:
        number = None
    if number is None or not least <= number <= most:
        kind = "whole number" if is_whole else "number"
        raise StartupError(f"--what has {name}={value}: a {kind} from {least:g} to {most:g} is wanted")
    return number
