"""The committed table, to the last digit: whoever changes what speculation does sees here what it changes.

`outrider simulate --json` prints it; a row of the file is an object of that list.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.simulation.scenario import Scenario, scenarios
from orchestrator.simulation.table import row_of

_COMMITTED = Path(orchestrator.__file__).parents[1] / "benchmarks" / "results" / "simulate.json"


def committed(scenario: Scenario) -> list[dict[str, Any]]:
    rows = json.loads(_COMMITTED.read_text())
    return [row for row in rows if (row["scenario"], row["variant"]) == (scenario.number, scenario.variant)]


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.title) for each in scenarios()])
def test_rows_are_those_that_were_committed(scenario: Scenario) -> None:
    rows = committed(scenario)
    assert [row["policy"] for row in rows] == ["plain", "fixed", "auto"]
    for row in rows:
        # Which number is best is taken from the file: to find it takes many times as long as to try it.
        number = row["num_draft_tokens"] if row["policy"] == "fixed" else None
        assert asdict(row_of(scenario, row["policy"], number)) == row


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.title) for each in scenarios() if each.number <= 5])
def test_the_best_fixed_number_reaches_the_ideal(scenario: Scenario) -> None:
    (fixed,) = (row for row in committed(scenario) if row["policy"] == "fixed")
    assert fixed["achieved"] == pytest.approx(fixed["ideal"], rel=0.02)


def test_the_best_number_is_found_by_trying() -> None:
    slow_draft = next(each for each in scenarios() if each.number == 4)
    assert row_of(slow_draft, "fixed").num_draft_tokens == 2


def test_the_most_is_tried_too() -> None:
    always_right = replace(scenarios()[0], acceptance=(1.0,))
    assert row_of(always_right, "fixed").num_draft_tokens == always_right.most
