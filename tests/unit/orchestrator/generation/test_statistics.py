"""The counters, by vLLM's definitions."""

from copy import deepcopy

import pytest
from google.protobuf.json_format import MessageToDict

from orchestrator.drafting.drafter import Draft
from orchestrator.generation.cycle import Cycle
from orchestrator.generation.statistics import Statistics
from orchestrator.peers.target import Verification
from outrider.v1 import target_pb2


def cycle(num_draft_tokens: int, num_accepted: int, drafter: str = "remote") -> Cycle:
    draft = Draft(range(num_draft_tokens), waited_s=2.0, computed_s=0.5, drafter=drafter, queued_s=0.25)
    result = target_pb2.VerifyBatchResult(num_accepted=num_accepted)
    verification = Verification(result, len(draft.tokens), waited_s=3.0, computed_s=1.0, queued_s=0.75)
    return Cycle(0, draft, verification, range(num_accepted + 1))


def counted(*cycles: Cycle) -> Statistics:
    statistics = Statistics()
    for each in cycles:
        statistics.count(each)
    return statistics


def test_nothing_was_counted_yet() -> None:
    assert Statistics().to_message().ByteSize() == 0


def test_cycles_drafts_and_tokens() -> None:
    statistics = counted(cycle(3, 3), cycle(3, 1), cycle(0, 0), cycle(4, 0))
    assert MessageToDict(statistics.to_message(), preserving_proto_field_name=True) == {
        "num_cycles": 4,
        "num_drafts": 3,
        "num_draft_tokens": 10,
        "num_accepted_tokens": 4,
        "num_accepted_per_position": [2, 1, 1],
        "drafters": [{"drafter": "DRAFTER_REMOTE", "num_drafts": 3, "num_draft_tokens": 10, "num_accepted_tokens": 4}],
    }


def test_each_drafter_is_counted_for_itself() -> None:
    """One that was asked in vain has drafted nothing."""
    statistics = counted(cycle(3, 2), cycle(2, 1, "ngram"), cycle(4, 4, "ngram"), cycle(0, 0), cycle(0, 0, "none"))
    message = statistics.to_message()
    assert [MessageToDict(each, preserving_proto_field_name=True) for each in message.drafters] == [
        {"drafter": "DRAFTER_NGRAM", "num_drafts": 2, "num_draft_tokens": 6, "num_accepted_tokens": 5},
        {"drafter": "DRAFTER_REMOTE", "num_drafts": 1, "num_draft_tokens": 3, "num_accepted_tokens": 2},
    ]
    assert (message.num_cycles, message.num_drafts) == (5, 3)
    assert (message.num_draft_tokens, message.num_accepted_tokens) == (9, 7)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_positions_do_not_depend_on_the_order(order: tuple[int, ...]) -> None:
    cycles = (cycle(2, 2), cycle(5, 4), cycle(5, 0))
    statistics = counted(*(cycles[index] for index in order))
    message = statistics.to_message()
    assert list(message.num_accepted_per_position) == [2, 2, 1, 1]
    assert sum(message.num_accepted_per_position) == message.num_accepted_tokens


def test_times_add_up() -> None:
    statistics = counted(cycle(1, 0), cycle(1, 1))
    assert (statistics.target_waited_s, statistics.target_computed_s) == (6.0, 2.0)
    assert (statistics.draft_waited_s, statistics.draft_computed_s) == (4.0, 1.0)
    assert (statistics.target_queued_s, statistics.draft_queued_s) == (1.5, 0.5)


@pytest.mark.parametrize("num_first", range(4))
def test_sums_of_sums_are_sums(num_first: int) -> None:
    cycles = (cycle(3, 3), cycle(3, 1, "ngram"), cycle(0, 0))
    first, second = counted(*cycles[:num_first]), counted(*cycles[num_first:])
    first.num_resyncs, second.num_resyncs = 1, 2
    first.num_fallbacks, second.num_fallbacks = 3, 4
    first.add(second)
    everything = counted(*cycles)
    everything.num_resyncs, everything.num_fallbacks = 3, 7
    assert first == everything


def test_adding_leaves_the_other_as_it_was() -> None:
    first, second = counted(cycle(3, 1)), counted(cycle(3, 3))
    before = deepcopy(second)
    first.add(second)
    first.count(cycle(3, 3))
    assert second == before
