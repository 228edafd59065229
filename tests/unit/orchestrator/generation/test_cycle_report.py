"""What is told of one cycle."""

import pytest

from orchestrator.drafting.drafter import Draft
from orchestrator.generation.cycle import Cycle, FixedLength
from orchestrator.generation.cycle_report import cycle_report
from orchestrator.generation.generation import Generation
from orchestrator.generation.text import TextStream
from orchestrator.peers.target import Verification
from outrider.v1 import generation_pb2, target_pb2
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import FakeDrafter, FakeTarget, perfect

TOKEN_BYTES = [b"a", b" b", b"\xf0", b"\n"]
ADDRESSES = ["one:1", "two:2"]
VERIFICATION = Verification(
    target_pb2.VerifyBatchResult(num_accepted=1, next_token=3, num_skipped=2),
    num_verified=3,
    waited_s=0.05,
    computed_s=0.04,
    decode_s=0.03,
    batch_rows=9,
    queued_s=0.005,
    quote=target_pb2.Quote(version=1, decode_ms=20.0, num_sessions=4),
)
DRAFT = Draft([0, 1, 2], [0.5, 0.25, 0.125], [1.0, 0.5, 0.1], 0.02, 0.01, "remote", 0.001, service=1)
CHOICE = generation_pb2.LengthChoice(num_draft_tokens=5, worth=1.5)


def report_of(cycle: Cycle, addresses: list[str] = ADDRESSES) -> generation_pb2.CycleReport:
    return cycle_report(cycle, token_bytes=TOKEN_BYTES, addresses=addresses)


def test_all_that_a_cycle_did() -> None:
    report = report_of(Cycle(7, DRAFT, VERIFICATION, [0, 3], [0.75, 0.5, 0.25], CHOICE))
    assert (report.index, report.drafter) == (7, generation_pb2.DRAFTER_REMOTE)
    assert (report.num_draft_tokens, report.num_accepted, report.num_skipped) == (3, 1, 2)
    assert [token.token for token in report.draft_tokens] == [0, 1, 2]
    assert [token.text for token in report.draft_tokens] == ["a", " b", "\N{REPLACEMENT CHARACTER}"]
    assert [token.is_accepted for token in report.draft_tokens] == [True, False, False]
    assert [token.probability for token in report.draft_tokens] == [0.5, 0.25, 0.125]
    assert [token.chance for token in report.draft_tokens] == [0.75, 0.5, 0.25]
    drafting, verifying = report.drafting, report.verifying
    assert [drafting.waited_ms, drafting.queued_ms, drafting.computed_ms] == pytest.approx([20, 1, 10])
    assert [verifying.waited_ms, verifying.queued_ms, verifying.computed_ms] == pytest.approx([50, 5, 40])
    assert verifying.decode_ms == pytest.approx(30)
    assert (report.batch_rows, report.num_sessions) == (9, 4)
    assert report.choice == CHOICE
    # What it took, with the decode that it would have had.
    assert report.plain_ms == pytest.approx(50 - 30 + 20)


def test_the_service_is_named_where_there_are_several() -> None:
    cycle = Cycle(0, DRAFT, VERIFICATION, [0, 3])
    assert report_of(cycle).draft_address == "two:2"
    assert report_of(cycle, ["one:1"]).draft_address == ""
    lookup = Cycle(0, Draft([1], drafter="ngram"), VERIFICATION, [1, 3])
    assert report_of(lookup).draft_address == ""


def test_what_nobody_knows_is_not_told() -> None:
    """Lookup has no probabilities, a fixed number no chances, and without a quote there is no estimate."""
    verification = Verification(target_pb2.VerifyBatchResult(num_accepted=1, next_token=3), 1, 0.05, 0.04)
    report = report_of(Cycle(0, Draft([1], margins=[6.0], drafter="ngram"), verification, [1, 3]))
    assert report.drafter == generation_pb2.DRAFTER_NGRAM
    (token,) = report.draft_tokens
    assert not (token.HasField("probability") or token.HasField("chance") or report.HasField("choice"))
    assert report.plain_ms == report.num_sessions == 0


def test_a_cycle_of_nobodys() -> None:
    verification = Verification(target_pb2.VerifyBatchResult(next_token=3), 0, 0.05, 0.04)
    report = report_of(Cycle(0, Draft(), verification, [3]))
    assert report.drafter == generation_pb2.DRAFTER_NONE
    assert not report.draft_tokens


@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_chunk_tells_of_its_cycle_where_that_is_asked(is_asked: bool) -> None:
    """What is held back to the end comes in a chunk that is no cycle."""
    generation = Generation(
        TokenSequence([3, 1, 2]),
        FakeTarget(),
        FakeDrafter(perfect, probability=0.5),
        TextStream([b"a"] * 13, ["ab"]),
        policy=FixedLength(3),
        max_tokens=10,
        context_length=1000,
        telemetry=Telemetry.off(),
        report=(lambda cycle: cycle_report(cycle, token_bytes=[b"a"] * 13, addresses=[])) if is_asked else None,
    )
    *chunks, last = [chunk async for chunk in generation.chunks()]
    assert not (last.tokens or last.HasField("cycle"))
    assert [chunk.HasField("cycle") for chunk in chunks] == [is_asked] * 3
    if is_asked:
        assert [chunk.cycle.index for chunk in chunks] == [0, 1, 2]
        for chunk in chunks:
            accepted = [token.token for token in chunk.cycle.draft_tokens if token.is_accepted]
            assert accepted == [token.token for token in chunk.tokens[:-1]]
            assert [token.probability for token in chunk.cycle.draft_tokens] == [0.5] * len(accepted)
