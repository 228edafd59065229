"""The cycle, with a target and drafters that are pure functions of the sequence."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.drafting.drafter import Draft, Wanted
from orchestrator.generation.cycle import Cycle, FixedLength, run_cycles
from orchestrator.generation.generation import origins
from orchestrator.peers.patient_session import ContextFullError
from orchestrator.peers.target import Verification
from outrider.v1 import generation_pb2
from services.frame.telemetry import Telemetry
from services.frame.telemetry.recording import Recorder
from services.session.client import Limits
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import (
    END,
    FakeDrafter,
    FakeTarget,
    Strategy,
    dying,
    empty,
    erratic,
    first_right,
    perfect,
    plain_text,
    short,
    wrong,
)

PROMPT = [3, 1, 2]
A = generation_pb2.TOKEN_ORIGIN_ACCEPTED
R = generation_pb2.TOKEN_ORIGIN_RECOVERED
B = generation_pb2.TOKEN_ORIGIN_BONUS
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "perfect": lambda: perfect,
    "wrong": lambda: wrong,
    "empty": lambda: empty,
    "right at first": lambda: first_right,
    "short": lambda: short,
    "erratic": lambda: erratic,
    "dying": dying,
}


class Numbers:
    """Chooses one number after the other."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)
        self.offered: list[int] = []
        self.observed: list[Cycle] = []

    def choose(self, most: int, num_left: float = math.inf) -> Wanted:
        self.offered.append(most)
        return Wanted(next(self._numbers))

    def chances(self, draft: Draft) -> None:
        """All are verified."""

    def observe(self, cycle: Cycle) -> None:
        self.observed.append(cycle)


async def _cycles(
    target: FakeTarget, drafter: FakeDrafter, num_draft_tokens: int, num_tokens: int
) -> tuple[list[Cycle], list[int]]:
    """Run cycles for so many tokens; return them and the text."""
    sequence = TokenSequence(PROMPT)
    cycles = [
        cycle
        async for cycle in run_cycles(
            sequence,
            target,
            drafter,
            FixedLength(num_draft_tokens),
            max_length=len(PROMPT) + num_tokens,
            telemetry=Telemetry.off(),
        )
    ]
    text = sequence.tokens[len(PROMPT) :]
    assert [token for cycle in cycles for token in cycle.tokens] == text
    assert [cycle.index for cycle in cycles] == list(range(len(cycles)))
    return cycles, text


@pytest.mark.parametrize("num_draft_tokens", [0, 1, 3, 7, 100])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_text_is_the_targets_own_whatever_the_draft(strategy: str, num_draft_tokens: int) -> None:
    _, text = await _cycles(FakeTarget(), FakeDrafter(STRATEGIES[strategy]()), num_draft_tokens, 40)
    assert text == plain_text(PROMPT, 40)


@pytest.mark.parametrize(
    ("strategy", "num_draft_tokens", "num_tokens", "expected"),
    [
        pytest.param(empty, 3, 2, [[B], [B]], id="plain decoding"),
        pytest.param(perfect, 3, 8, [[A, A, A, B], [A, A, A, B]], id="everything accepted"),
        pytest.param(wrong, 3, 2, [[R], [B]], id="everything rejected, and no room for a draft at the end"),
        pytest.param(first_right, 3, 5, [[A, R], [A, R], [B]], id="accepted up to the first mismatch"),
        pytest.param(perfect, 3, 6, [[A, A, A, B], [A, B]], id="a draft no longer than there is room for"),
        pytest.param(perfect, 3, 1, [[B]], id="a single token"),
        pytest.param(short, 4, 6, [[A, A, B], [A, B], [B]], id="a draft shorter than asked for"),
    ],
)
async def test_the_origin_of_every_token(
    strategy: Strategy, num_draft_tokens: int, num_tokens: int, expected: list[list[int]]
) -> None:
    cycles, _ = await _cycles(FakeTarget(), FakeDrafter(strategy), num_draft_tokens, num_tokens)
    assert [origins(cycle) for cycle in cycles] == expected


async def test_a_draft_is_never_longer_than_there_is_room_for() -> None:
    drafter = FakeDrafter(wrong)
    await _cycles(FakeTarget(), drafter, 4, 7)
    assert drafter.asked == [4, 4, 4, 3, 2, 1, 0]


async def test_the_number_of_draft_tokens_is_chosen_anew_in_every_cycle() -> None:
    policy, target, drafter = Numbers([2, 0, 5]), FakeTarget(), FakeDrafter(perfect)
    drafter.most = 6
    cycles = [
        cycle
        async for cycle in run_cycles(
            TokenSequence(PROMPT), target, drafter, policy, max_length=len(PROMPT) + 10, telemetry=Telemetry.off()
        )
    ]
    assert [len(cycle.tokens) for cycle in cycles] == [3, 1, 6]
    assert [len(draft) for draft in target.drafts] == [2, 0, 5]
    assert policy.offered == [6, 6, 5], "what the drafter has room for, then what the generation has"
    assert policy.observed == cycles


@pytest.mark.parametrize("strategy", [empty, perfect, wrong])
@pytest.mark.parametrize("num_tokens_before_end", range(6))
async def test_the_model_ends_the_generation(strategy: Strategy, num_tokens_before_end: int) -> None:
    target = FakeTarget(end_at=len(PROMPT) + num_tokens_before_end)
    cycles, text = await _cycles(target, FakeDrafter(strategy), 3, 40)
    assert text == [*plain_text(PROMPT, num_tokens_before_end), END]
    assert [cycle.verification.result.is_end_of_generation for cycle in cycles] == [False] * (len(cycles) - 1) + [True]


async def test_a_full_sequence_needs_no_cycle() -> None:
    target = FakeTarget()
    assert await _cycles(target, FakeDrafter(perfect), 3, 0) == ([], [])
    assert target.drafts == []


async def test_the_target_verifies_once_a_cycle() -> None:
    target, drafter = FakeTarget(), FakeDrafter(perfect)
    cycles, _ = await _cycles(target, drafter, 3, 40)
    assert len(cycles) == len(target.drafts) == len(drafter.asked) == 10
    assert [list(draft) for draft in target.drafts] == [list(cycle.draft.tokens) for cycle in cycles]


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(len(PROMPT), len(PROMPT) + 20)),
)
async def test_any_drafter_gives_the_same_text(
    num_tokens: int, drafts: list[tuple[int, int]], end_at: int | None
) -> None:
    """A drafter that is right so many times, then wrong so many times, over and over in new ways."""
    num_calls = 0

    def strategy(sequence: list[int], num_draft_tokens: int) -> list[int]:
        nonlocal num_calls
        num_right, num_wrong = drafts[num_calls % len(drafts)]
        num_calls += 1
        right = perfect(sequence, num_right)
        return [*right, *wrong([*sequence, *right], num_wrong)][:num_draft_tokens]

    _, text = await _cycles(FakeTarget(end_at), FakeDrafter(strategy), 6, num_tokens)
    expected = plain_text(PROMPT, num_tokens)
    if end_at is not None and end_at < len(PROMPT) + num_tokens:
        expected = [*expected[: end_at - len(PROMPT)], END]
    assert text == expected


async def test_a_target_that_takes_less_gets_less() -> None:
    target = FakeTarget()
    target.limits = Limits(max_draft_tokens=2, context_length=len(PROMPT) + 8)
    cycles, text = await _cycles(target, FakeDrafter(perfect), 5, 40)
    assert text == plain_text(PROMPT, 8)
    assert [len(cycle.draft.tokens) for cycle in cycles] == [2, 2, 1]


class Shrinking(FakeTarget):
    """Is restarted with a smaller context and shorter drafts before its third verification."""

    def __init__(self, context_length: int) -> None:
        super().__init__()
        self._smaller = Limits(max_draft_tokens=1, context_length=context_length)

    async def verify(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
    ) -> Verification:
        if len(self.drafts) == 2:
            self.limits = self._smaller
            if len(sequence) >= self.limits.context_length:
                raise ContextFullError("no room")
            draft_tokens = draft_tokens[:1]
        return await super().verify(sequence, draft_tokens)


async def test_only_what_was_verified_of_a_draft_counts() -> None:
    cycles, text = await _cycles(Shrinking(context_length=1000), FakeDrafter(perfect), 3, 12)
    assert text == plain_text(PROMPT, 12)
    assert [origins(cycle) for cycle in cycles] == [[A, A, A, B], [A, A, A, B], [A, B], [A, B]]


async def test_a_text_ends_at_a_smaller_context() -> None:
    _, text = await _cycles(Shrinking(context_length=len(PROMPT) + 7), FakeDrafter(perfect), 3, 40)
    assert text == plain_text(PROMPT, 8)


async def test_a_prompt_that_fits_no_more_is_an_error() -> None:
    class Full(FakeTarget):
        async def verify(
            self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
        ) -> Verification:
            raise ContextFullError("no room")

    with pytest.raises(ContextFullError):
        await _cycles(Full(), FakeDrafter(perfect), 3, 12)


class Sure(Numbers):
    """Knows a chance of every token, and has fewer verified than were drafted."""

    def chances(self, draft: Draft) -> Sequence[float]:  # type: ignore[override]
        return [0.98765, 0.5, 0.25][: len(draft.tokens)]


class Sparing(FakeTarget):
    """Verifies two tokens at most."""

    async def verify(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
    ) -> Verification:
        return await super().verify(sequence, draft_tokens[:2], chances)


async def _told(policy: Numbers, telemetry: Telemetry) -> None:
    drafter, most = FakeDrafter(perfect), len(PROMPT) + 6
    async for _ in run_cycles(TokenSequence(PROMPT), Sparing(), drafter, policy, max_length=most, telemetry=telemetry):
        pass


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(Sure([3, 0, 1, 1]), [(0.9877, 0.5), None, (0.9877,)], id="known"),
        pytest.param(Numbers([3, 0, 1, 1]), [None, None, None], id="not known"),
    ],
)
async def test_the_span_tells_the_chances_of_the_tokens_that_were_verified(
    policy: Numbers, expected: list[tuple[float, ...] | None]
) -> None:
    exporter = InMemorySpanExporter()
    recorder = Recorder(Resource({}), [SimpleSpanProcessor(exporter)])
    await _told(policy, Telemetry(recorder))
    recorder.shutdown()
    cycles = [span.attributes or {} for span in exporter.get_finished_spans() if span.name == "cycle"]
    found = [each.get("outrider.cycle.chances") for each in cycles]
    assert [each and tuple(each) for each in found] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("telemetry", [Telemetry.off(), Telemetry(is_of_requests=True)], ids=["off", "of requests"])
async def test_nothing_is_put_together_for_a_span_that_does_not_record(
    monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry
) -> None:
    monkeypatch.delattr("orchestrator.generation.cycle._attributes")
    await _told(Sure([3, 0, 1, 1]), telemetry)
