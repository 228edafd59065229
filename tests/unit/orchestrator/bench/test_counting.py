"""What summaries come to: passes a token, acceptance by position and kind, wire, and rates that servers tell."""

from typing import Any

import pytest

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Chunk, Stream
from orchestrator.bench.results.checks import agreements, verdict
from orchestrator.bench.results.counting import count


def summary(accepted: list[int], num_cycles: int, num_drafts: int, queued_ms: float = 1.0) -> dict[str, Any]:
    num_tokens = num_cycles + sum(accepted)
    counts = {"num_cycles": num_cycles, "num_drafts": num_drafts, "num_draft_tokens": num_drafts * 2}
    counts |= {"num_accepted_tokens": sum(accepted), "num_resyncs": 0, "num_fallbacks": 0}
    timings = {"target_ms": 20.0, "target_computed_ms": 12.0, "target_queued_ms": queued_ms}
    timings |= {"draft_ms": 10.0, "draft_computed_ms": 7.0, "draft_queued_ms": queued_ms}
    return {
        "speculation": {**counts, "num_accepted_per_position": accepted},
        "usage": {"num_generated_tokens": num_tokens},
        "timings": timings,
        "exact": True,
    }


def test_counts_of_all_streams_are_taken_together() -> None:
    streams = [Stream(summary=summary([4, 2], 5, 5)), Stream(summary=summary([3], 5, 5))]
    told = count(streams, [Prompt("functions"), Prompt("edits")])
    assert told["num_cycles"] == 10
    assert told["passes_per_token"] == 10 / 19
    assert told["accepted_per_position"] == [0.7, 0.2]
    assert told["accepted_by_kind"] == {"functions": 0.6, "edits": 0.3}
    assert told["is_exact"]
    # Two streams of 20 - 12 - 1 for the target and 10 - 7 - 1 for the draft.
    assert told["wire_ms_per_cycle"] == pytest.approx(2 * (7 + 2) / 10)


def test_services_that_do_not_tell_their_queue_do_not_tell_the_wire() -> None:
    told = count([Stream(summary=summary([1], 2, 2, queued_ms=0.0))], [Prompt("functions")])
    assert "wire_ms_per_cycle" not in told


def test_systems_that_tell_nothing_are_not_counted() -> None:
    assert count([Stream()], [Prompt("functions")]) == {}


def test_plain_decoding_has_no_positions() -> None:
    told = count([Stream(summary=summary([], 6, 0))], [Prompt("functions")])
    assert (told["accepted_per_position"], told["accepted_by_kind"], told["passes_per_token"]) == ([], {}, 1.0)


def test_our_rate_is_compared_with_the_servers_from_its_first_token_on() -> None:
    chunks = [Chunk(1.0, 1), Chunk(1.5, 5), Chunk(2.0, 5)]
    told = Stream(chunks, summary={"timings": {"predicted_n": 11, "predicted_ms": 1000.0}})
    assert agreements([told, Stream(chunks), Stream(summary=told.summary)]) == [1.0]


def test_rates_agree_where_the_middle_is_within_two_percent() -> None:
    assert verdict("a", [0.9, 0.99, 1.0])["is_met"]
    assert not verdict("a", [0.9, 0.97, 1.0])["is_met"]
