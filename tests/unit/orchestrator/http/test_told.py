"""What a draft did, in the names of other servers."""

import pytest

from orchestrator.http.exchange import told
from outrider.v1 import generation_pb2
from tests.unit.orchestrator.http.scripted_face import face, summary

DRAFTED = summary(trace_id="ab", draft_problem="it is away")
PLAIN = summary(speculation=generation_pb2.SpeculationStatistics(num_cycles=4), exact=False, seed=9)


def test_timings_are_llama_servers() -> None:
    assert told.timings([DRAFTED]) == {
        "cache_n": 1,
        "prompt_n": 4,
        "prompt_ms": 20.0,
        "prompt_per_token_ms": 5.0,
        "prompt_per_second": 200.0,
        "predicted_n": 4,
        "predicted_ms": 30.0,
        "predicted_per_token_ms": 7.5,
        "predicted_per_second": pytest.approx(4000 / 30),
        "draft_n": 3,
        "draft_n_accepted": 2,
    }
    assert "draft_n" not in told.timings([PLAIN])
    # Rates are those of one generation.
    assert told.timings([DRAFTED, DRAFTED])["predicted_per_second"] == pytest.approx(4000 / 30)


def test_metrics_are_vllms() -> None:
    metrics = told.metrics([DRAFTED], 4)
    assert metrics is not None
    assert metrics.pop("speculative_decoding") == {
        "mean_acceptance_length": 2.0,
        "draft_acceptance_rate": pytest.approx(2 / 3),
        "acceptance_histogram": [1, 0, 1, 0, 0],
        "num_spec_steps": 2,
        "num_accepted_draft_tokens": 2,
        "num_draft_tokens": 3,
        "num_spec_tokens": 4,
    }
    assert metrics == {
        "time_to_first_token_ms": 20.0,
        "generation_time_ms": 30.0,
        "queue_time_ms": 2.0,
        "mean_itl_ms": 10.0,
        "tokens_per_second": 80.0,
    }
    assert told.metrics([DRAFTED, DRAFTED], 4) is None


@pytest.mark.parametrize("per_position", [[], [2], [5, 3, 3, 1]])
def test_the_histogram_adds_up(per_position: list[int]) -> None:
    """As aiperf checks it."""
    counts = generation_pb2.SpeculationStatistics(
        num_drafts=6,
        num_draft_tokens=30,
        num_accepted_tokens=sum(per_position),
        num_accepted_per_position=per_position,
    )
    metrics = told.metrics([summary(speculation=counts)], 3)
    assert metrics is not None
    found = metrics["speculative_decoding"]
    histogram = found["acceptance_histogram"]
    assert sum(histogram) == found["num_spec_steps"] == 6
    assert sum(num * steps for num, steps in enumerate(histogram)) == found["num_accepted_draft_tokens"]
    assert len(histogram) == found["num_spec_tokens"] + 1 == max(3, len(per_position)) + 1


def test_where_nobody_drafts_there_is_no_acceptance() -> None:
    metrics = told.metrics([PLAIN], 0)
    assert metrics is not None
    assert metrics["speculative_decoding"] is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, 16),
        ({"mode": "off"}, None),
        ({"drafter": "none"}, None),
        ({"max_draft_tokens": 3}, 3),
        ({"num_draft_tokens": 12}, 12),
    ],
)
async def test_how_many_draft_tokens_a_cycle_could_have(asked: dict[str, object], expected: int | None) -> None:
    async with face() as made:
        answer = (await made.post("/v1/completions", {"prompt": "a", "outrider": asked})).json()
    acceptance = answer["metrics"]["speculative_decoding"]
    assert (acceptance and acceptance["num_spec_tokens"]) == expected


def test_our_own_is_what_the_summary_says() -> None:
    assert told.outrider([DRAFTED]) == {
        "exact": True,
        "seed": 7,
        "speedup": None,
        "trace_id": "ab",
        "trace_url": None,
        "draft_problem": "it is away",
        "speculation": {
            "num_cycles": 2,
            "num_drafts": 2,
            "num_draft_tokens": 3,
            "num_accepted_tokens": 2,
            "num_accepted_per_position": [1, 1],
            "num_resyncs": 0,
            "num_fallbacks": 0,
            "num_skipped_tokens": 0,
        },
        "drafters": [{"drafter": "remote", "num_drafts": 2, "num_draft_tokens": 3, "num_accepted_tokens": 2}],
    }


def test_several_generations_are_told_together_and_apart() -> None:
    both = told.outrider([DRAFTED, PLAIN])
    # One that is not exact makes the whole answer so.
    assert (both["exact"], both["draft_problem"]) == (False, "it is away")
    assert (both["speculation"]["num_cycles"], both["speculation"]["num_accepted_per_position"]) == (6, [1, 1])
    assert [(each["index"], each["seed"], each["exact"]) for each in both["choices"]] == [(0, 7, True), (1, 9, False)]
