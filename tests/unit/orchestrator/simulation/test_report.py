"""What is said of results."""

import io

from rich.console import Console

from orchestrator.costs import Costs, ModelCosts, Point
from orchestrator.simulation.report import assumed_line, costs_lines, in_a_sentence, rows_table, streams_lines
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.table import Row


def row(policy: str, num_draft_tokens: float, achieved: float) -> Row:
    # The formula of plain decoding says 400, and 100 were simulated.
    return Row(0, "", policy, num_draft_tokens, achieved, 500.0, 400.0, None, 10, 1.0)


ROWS = [row("plain", 0, 100.0), row("fixed", 3, 160.0)]


def test_a_draft_is_compared_with_the_plain_decoding_that_was_simulated() -> None:
    told = in_a_sentence(ROWS, is_best_tried=True)
    assert told == "A draft is worth it here: 3 draft tokens give 1.60 times the 100.0 tokens/s of plain decoding."
    out = io.StringIO()
    Console(file=out, width=80).print(rows_table(ROWS, ["one", "one"]))
    assert "1.60" in out.getvalue()


def test_costs_of_a_busy_machine_and_of_one_time_are_named() -> None:
    points = Point(1, 1, 0, 10.0, num_times=1), Point(1, 2, 0, 11.0, num_times=5)
    costs = Costs("a test", "a machine", ModelCosts("t", points), settings={"busy_elsewhere": 0.8})
    busy, once = costs_lines({"costs.json": costs})
    assert "other programs kept 0.8 cores busy" in busy
    assert "1 of 2 points were timed only once" in once
    assert not [*costs_lines({"idle": Costs("a test", "a machine", ModelCosts("t", points[1:]))})]


def test_more_streams_than_costs_were_measured_with_are_named() -> None:
    costs = ModelCosts("m", (Point(1, 1, 0, 10.0), Point(2, 2, 0, 11.0)))
    assert not [*streams_lines(Scenario(0, "", costs, costs, [0.2] * 2))]
    target, draft = streams_lines(Scenario(0, "", costs, costs, [0.2] * 64))
    assert target == "Decodes of the target were measured with 2 sessions at most: what 64 streams give is a guess."
    assert "of the draft" in draft


def test_what_is_assumed_is_named() -> None:
    costs = ModelCosts("m", (Point(1, 1, 0, 10.0),))
    told = assumed_line(Scenario(0, "", costs, costs, [0.2] * 4, (0.95, 0.2), target_round_trip_ms=0.3))
    assert told == (
        "Assumed: 4 streams; 0.95, then 0.2 of the draft tokens accepted, each after accepted ones; round trips of "
        "0.2 ms to the draft and 0.3 ms to the target. "
        "At most 16 draft tokens are tried."
    )
