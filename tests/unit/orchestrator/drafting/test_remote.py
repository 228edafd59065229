"""The remote drafter: whatever goes wrong, it answers, and the service is left alone for a while."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from orchestrator.drafting import breaker as breaker_module
from orchestrator.drafting import patience as patience_module
from orchestrator.drafting.breaker import Breaker
from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import Draft
from orchestrator.drafting.patience import DraftPatience
from orchestrator.drafting.remote import RemoteDrafter
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry
from services.session.client import ServiceSession
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.scripted import Answer, Script, ScriptedDraft, serving
from tests.waiting import PATIENCE_S, soon

PROMPT = [1, 2, 3]
SAMPLING = common_pb2.Sampling(temperature=0.5, seed=9)
VOCABULARY_SIZE = 100
STAND_IN = 5


@pytest.fixture(autouse=True)
def _patient_with_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draft is late because the machine is busy."""
    monkeypatch.setattr(patience_module, "_LEAST_S", PATIENCE_S)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the requests that have left. One that is late before that ends its stream."""
    ids: list[int] = []
    write = ServiceSession._write

    async def note(stream: Any, message: Any) -> None:
        await write(stream, message)
        ids.append(message.propose.request_id)

    monkeypatch.setattr(ServiceSession, "_write", note)
    return ids


def pass_time(monkeypatch: pytest.MonkeyPatch, duration_s: float) -> None:
    """Let it be later for everybody who waits on this event loop."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + duration_s)


def proposal(*tokens: int) -> draft_pb2.ProposeResult:
    return draft_pb2.ProposeResult(draft_tokens=[draft_pb2.DraftToken(token=token) for token in tokens])


def error(code: grpc.StatusCode, reason: str = "SOME_REASON") -> ServiceError:
    return ServiceError(code, reason, "a message")


def described(**fields: Any) -> common_pb2.ModelInfo:
    """What a draft service says that it serves."""
    values: dict[str, Any] = {"tokenizer_fingerprint": "one", "vocabulary_size": VOCABULARY_SIZE}
    return common_pb2.ModelInfo(**{**values, "max_draft_tokens": 16, "context_length": 10_000, **fields})


class Service:
    """What the sessions of a draft service share."""

    def __init__(self, channel: grpc.aio.Channel, breaker: Breaker, patience: DraftPatience) -> None:
        self.stub = draft_pb2_grpc.DraftServiceStub(channel)
        self.breaker = breaker
        self.patience = patience
        self.model = described()
        self.suspicions: list[tuple[common_pb2.ModelInfo, str]] = []

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        self.suspicions.append((model, reason))


def drafter_of(service: Service, min_joint_confidence: float = 0.0, **sampling: Any) -> RemoteDrafter:
    """A session of it."""
    params = common_pb2.Sampling(**sampling) if sampling else SAMPLING
    return RemoteDrafter(
        service,
        "the session",
        DraftView(params, [], STAND_IN),
        Telemetry.off(),
        vocabulary_size=VOCABULARY_SIZE,
        min_joint_confidence=min_joint_confidence,
    )


@asynccontextmanager
async def serviced(
    script: Script,
    *,
    breaker: Breaker | None = None,
    patience: DraftPatience | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncIterator[Service]:
    """A service that follows the script."""
    add = draft_pb2_grpc.add_DraftServiceServicer_to_server
    async with serving(add, ScriptedDraft(script), options) as channel:
        # Tries again at once.
        yield Service(channel, breaker or Breaker(retry_s=0.0), patience or DraftPatience(PATIENCE_S))


@asynccontextmanager
async def attached(
    script: Script,
    *,
    breaker: Breaker | None = None,
    patience: DraftPatience | None = None,
    min_joint_confidence: float = 0.0,
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncIterator[RemoteDrafter]:
    """A drafter whose service follows the script."""
    async with serviced(script, breaker=breaker, patience=patience, options=options) as service:
        drafter = drafter_of(service, min_joint_confidence)
        yield drafter
        await drafter.close()


def _own(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our own loggers said: gRPC's event of an earlier test's loop, which is closed, is told by asyncio."""
    return [record.getMessage() for record in caplog.records if record.name.startswith(("orchestrator", "services"))]


async def test_it_asks_for_what_the_cycle_wants() -> None:
    script = Script([proposal(7, 8)])
    async with attached(script, patience=DraftPatience(20.0), min_joint_confidence=0.25) as drafter:
        draft = await drafter.propose(TokenSequence(PROMPT), 4)
    assert list(draft.tokens) == [7, 8]
    assert draft.drafter == "remote"
    assert draft.waited_s > 0
    (request,) = script.requests
    assert request.num_draft_tokens == 4
    assert request.min_joint_confidence == 0.25
    assert request.sampling == SAMPLING
    assert request.timeout_ms == 20_000
    assert (request.context.session_id, list(request.context.tokens)) == ("the session", PROMPT)


async def test_nothing_is_asked_where_nothing_is_wanted() -> None:
    script = Script([])
    async with attached(script) as drafter:
        assert await drafter.propose(TokenSequence(PROMPT), 0) == Draft()
        assert await drafter.propose(TokenSequence(PROMPT), -1) == Draft()
    assert script.num_streams == 0


async def as_cycles_do(drafter: RemoteDrafter, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
    """Ask for no more than there is room for."""
    return await drafter.propose(sequence, min(num_draft_tokens, drafter.room(len(sequence))))


async def test_it_asks_for_no_more_than_the_service_proposes() -> None:
    """Another service with another limit may take its place at any time, or one that proposes nothing."""
    script = Script([proposal(7), proposal(8)])
    async with serviced(script) as service:
        drafter = drafter_of(service)
        service.model = described(max_draft_tokens=3)
        assert list((await as_cycles_do(drafter, TokenSequence(PROMPT), 4)).tokens) == [7]
        service.model = described(max_draft_tokens=0)
        assert await as_cycles_do(drafter, TokenSequence(PROMPT), 4) == Draft()
        assert drafter.problem == "the draft service is set to propose no tokens"
        service.model = described(max_draft_tokens=5)
        assert list((await as_cycles_do(drafter, TokenSequence(PROMPT), 4)).tokens) == [8]
        assert drafter.problem == ""
        await drafter.close()
    assert [request.num_draft_tokens for request in script.requests] == [3, 4]


@pytest.mark.parametrize(("most", "num_asked"), [("2", 2), ("", 8)])
async def test_a_service_that_takes_less_than_it_told_is_asked_again(most: str, num_asked: int) -> None:
    """It has just been replaced, and may say itself what it takes."""
    refusal = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "DRAFT_TOO_LONG", "a message", metadata={"most": most})
    script = Script([proposal(7), refusal, proposal(8)])
    async with attached(script) as drafter:
        drafts = [await as_cycles_do(drafter, TokenSequence(PROMPT), 8) for _ in range(3)]
        assert drafter.num_fallbacks == (not most)
    assert [list(draft.tokens) for draft in drafts] == [[7], [], [8]]
    assert [request.num_draft_tokens for request in script.requests] == [8, 8, num_asked]


async def test_an_empty_draft_is_the_services_answer_too() -> None:
    """It was not sure enough of a single token."""
    async with attached(Script([proposal()])) as drafter:
        draft = await drafter.propose(TokenSequence(PROMPT), 4)
        assert (list(draft.tokens), draft.drafter) == ([], "remote")
        assert drafter.num_fallbacks == 0


async def test_it_releases_its_session() -> None:
    script = Script([proposal(7)])
    async with attached(script) as drafter:
        await drafter.propose(TokenSequence(PROMPT), 1)
        await drafter.close()
        await soon(lambda: script.num_released == 1)


async def test_it_never_proposes_a_token_that_the_target_lacks() -> None:
    script = Script([proposal(7, VOCABULARY_SIZE, 8), proposal(VOCABULARY_SIZE - 1)])
    async with attached(script) as drafter:
        assert list((await drafter.propose(TokenSequence(PROMPT), 4)).tokens) == [7]
        assert list((await drafter.propose(TokenSequence(PROMPT), 4)).tokens) == [VOCABULARY_SIZE - 1]


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL],
)
async def test_a_service_that_fails_is_left_alone_and_tried_again(code: grpc.StatusCode) -> None:
    script = Script([proposal(7), error(code), proposal(8), proposal(9)])
    breaker = Breaker(retry_s=1000.0)
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker) as drafter:
        assert list((await drafter.propose(sequence, 2)).tokens) == [7]
        assert (await drafter.propose(sequence, 2)).tokens == ()
        assert breaker.is_open
        assert breaker.reason == "a message"
        assert await drafter.propose(sequence, 2) == Draft()
        assert len(script.requests) == 2
        assert drafter.num_fallbacks == 1
        breaker.succeed()
        # Another session has found out that it is back. It may be another one now: it gets the whole sequence.
        assert list((await drafter.propose(sequence.extend([4]), 2)).tokens) == [8]
        assert list(script.requests[2].context.tokens) == [*PROMPT, 4]
        assert drafter.num_fallbacks == 1


async def test_the_try_that_succeeds_closes_the_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(breaker_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    script = Script([error(grpc.StatusCode.UNAVAILABLE), proposal(8), proposal(9)])
    breaker = Breaker(retry_s=5.0)
    async with attached(script, breaker=breaker) as drafter:
        assert (await drafter.propose(TokenSequence(PROMPT), 2)).tokens == ()
        # It was never there, so nothing was lost.
        assert drafter.num_fallbacks == 0
        now_s += 6.0
        assert list((await drafter.propose(TokenSequence(PROMPT), 2)).tokens) == [8]
        assert not breaker.is_open
        assert list((await drafter.propose(TokenSequence(PROMPT), 2)).tokens) == [9]


async def test_a_loss_that_somebody_else_has_found_counts_too() -> None:
    script = Script([proposal(7), proposal(8)])
    breaker = Breaker(retry_s=1000.0)
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker) as drafter:
        await drafter.propose(sequence, 2)
        breaker.disable("it is away")
        for _ in range(2):
            assert await drafter.propose(sequence.extend([4]), 2) == Draft()
        assert drafter.num_fallbacks == 1
        breaker.enable()
        await drafter.propose(sequence, 2)
        assert list(script.requests[1].context.tokens) == [*PROMPT, 4, 4]
        assert drafter.num_fallbacks == 1


async def test_every_loss_of_a_draft_that_worked_counts() -> None:
    lost = error(grpc.StatusCode.UNAVAILABLE)
    script = Script([lost, proposal(7), lost, lost, proposal(7), lost])
    async with attached(script) as drafter:
        for _ in range(6):
            await drafter.propose(TokenSequence(PROMPT), 1)
        assert drafter.num_fallbacks == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG"),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SAMPLING"),
        (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE"),
    ],
)
async def test_a_request_that_is_refused_costs_other_sessions_nothing(code: grpc.StatusCode, reason: str) -> None:
    script = Script([error(code, reason)])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker) as drafter:
        assert (await drafter.propose(TokenSequence(PROMPT), 2)).tokens == ()
        assert not breaker.is_open
        # This session need not ask again: its sequence only grows.
        assert await drafter.propose(TokenSequence([*PROMPT, 4]), 2) == Draft()
        assert len(script.requests) == 1


async def test_a_late_draft_is_not_waited_for_and_dropped_by_its_id(
    monkeypatch: pytest.MonkeyPatch, written: list[int]
) -> None:
    may_answer = asyncio.Event()

    async def late(request: draft_pb2.ProposeRequest) -> Answer:
        await may_answer.wait()
        return proposal(7)

    script = Script([late, proposal(8)])
    breaker = Breaker(retry_s=0.0)
    patience = DraftPatience(PATIENCE_S / 2)
    async with attached(script, breaker=breaker, patience=patience) as drafter:
        proposing = asyncio.create_task(drafter.propose(TokenSequence(PROMPT), 2))
        await soon(lambda: script.requests and written)
        pass_time(monkeypatch, PATIENCE_S / 2)
        draft = await proposing
        assert (draft.tokens, draft.drafter) == ((), "remote")
        assert draft.waited_s > 0
        assert breaker.reason == f"no draft within {PATIENCE_S / 2:g} s"
        may_answer.set()
        patience.most_s = PATIENCE_S
        assert list((await drafter.propose(TokenSequence(PROMPT), 2)).tokens) == [8]
        assert [request.request_id for request in script.requests] == [1, 2]
        assert script.num_streams == 1


class Impatient(DraftPatience):
    """Waits for the first draft, and two seconds for those after it."""

    def __init__(self) -> None:
        super().__init__(PATIENCE_S)
        self.noted: list[bool] = []

    def limit_s(self, num_draft_tokens: int, num_read_tokens: int, *, is_try: bool = False) -> float:
        return 2.0 if self.noted else self.most_s

    def note_proposal(self, num_draft_tokens: int, num_read_tokens: int, waited_s: float) -> None:
        self.noted.append(waited_s == 2.0)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, written: list[int]) -> Callable[[draft_pb2.ProposeRequest], Awaitable[None]]:
    """An answer that has not come when the two seconds are over."""

    async def let_time_pass(request: draft_pb2.ProposeRequest) -> None:
        await soon(lambda: request.request_id in written)
        pass_time(monkeypatch, 2.0)

    return let_time_pass


async def test_a_draft_that_is_later_than_usual_costs_this_cycle_and_no_more(
    late: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    script = Script([proposal(7), late, late, proposal(8), late, late, late])
    breaker, patience = Breaker(retry_s=1000.0), Impatient()
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker, patience=patience) as drafter:
        await drafter.propose(sequence, 1)
        for _ in range(2):
            draft = await drafter.propose(sequence.extend([4]), 1)
            assert (draft.tokens, draft.drafter) == ((), "remote")
            assert not breaker.is_open
        patience.noted.clear()
        assert list((await drafter.propose(sequence.extend([4]), 1)).tokens) == [8]
        assert drafter.num_fallbacks == drafter.num_resyncs == 0
        assert _own(caplog) == []
        # What it held is believed to be there all along.
        assert [request.context.cached_length for request in script.requests] == [0, 3, 3, 3]
        for is_lost in (False, False, True):
            assert (await drafter.propose(sequence.extend([4]), 1)).tokens == ()
            assert breaker.is_open == is_lost
        assert breaker.reason == "no draft within 2 s"
        assert drafter.num_fallbacks == 1
        assert patience.noted == [False, True, True, True]


async def test_a_try_that_is_late_leaves_a_lost_service_lost(
    monkeypatch: pytest.MonkeyPatch, late: Callable[[Any], Awaitable[None]]
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(breaker_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    script = Script([proposal(7), error(grpc.StatusCode.UNAVAILABLE), late, proposal(8)])
    breaker, patience = Breaker(retry_s=5.0), Impatient()
    async with attached(script, breaker=breaker, patience=patience) as drafter:
        for _ in range(2):
            await drafter.propose(TokenSequence(PROMPT), 1)
        now_s += 6.0
        assert (await drafter.propose(TokenSequence(PROMPT), 1)).tokens == ()
        assert breaker.is_open
        assert not breaker.may_try()
        # Nothing is learned from it: it took as long as it was waited for, and would next time.
        assert patience.noted == [False]
        now_s += 6.0
        patience.noted.clear()
        assert list((await drafter.propose(TokenSequence(PROMPT), 1)).tokens) == [8]


async def test_a_service_that_is_too_busy_is_asked_again_in_the_next_cycle(caplog: pytest.LogCaptureFixture) -> None:
    busy = error(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    script = Script([proposal(7), *[busy] * 5, proposal(8)])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker) as drafter:
        drafts = [await drafter.propose(TokenSequence(PROMPT), 1) for _ in range(7)]
        assert [list(draft.tokens) for draft in drafts] == [[7], [], [], [], [], [], [8]]
        assert {draft.drafter for draft in drafts} == {"remote"}
        assert drafter.problem == ""
        assert not breaker.is_open
        assert drafter.num_fallbacks == drafter.num_resyncs == 0
    assert _own(caplog) == []
    assert script.num_streams == 1


async def test_a_sequence_that_is_too_long_to_send_costs_other_sessions_nothing() -> None:
    breaker = Breaker(retry_s=1000.0)
    options = [("grpc.max_receive_message_length", 1000)]
    async with attached(Script([]), breaker=breaker, options=options) as drafter:
        for _ in range(2):
            assert (await drafter.propose(TokenSequence([1] * 1000), 2)).tokens == ()
        assert not breaker.is_open


async def test_a_stream_that_breaks_is_opened_again() -> None:
    def break_off(request: draft_pb2.ProposeRequest) -> Answer:
        raise ConnectionResetError

    script = Script([proposal(7), break_off, proposal(8)])
    async with attached(script) as drafter:
        tokens = [list((await drafter.propose(TokenSequence(PROMPT), 2)).tokens) for _ in range(3)]
    assert tokens == [[7], [], [8]]
    assert script.num_streams == 2


async def test_a_stream_that_somebody_cuts_on_the_way_costs_this_cycle_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As proxies do, where the target's answers take long."""
    cut = grpc.StatusCode.INTERNAL
    script = Script([proposal(7), cut, cut, proposal(8), cut, cut, cut])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker) as drafter:
        tokens = [list((await drafter.propose(TokenSequence(PROMPT), 2)).tokens) for _ in range(6)]
        assert tokens == [[7], [], [], [8], [], []]
        assert drafter.num_fallbacks == drafter.num_resyncs == 0
        assert _own(caplog) == []
        assert (await drafter.propose(TokenSequence(PROMPT), 2)).tokens == ()
        assert (breaker.is_open, drafter.num_fallbacks) == (True, 1)


async def test_a_service_that_is_not_there() -> None:
    breaker = Breaker(retry_s=1000.0)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        drafter = drafter_of(Service(channel, breaker, DraftPatience(PATIENCE_S)))
        assert (await drafter.propose(TokenSequence(PROMPT), 2)).tokens == ()
        assert breaker.is_open
        await drafter.close()
        assert drafter.problem


async def test_an_answer_after_the_verdict_that_the_draft_does_not_fit_is_not_used() -> None:
    breaker = Breaker(retry_s=0.0)

    def find_unfit(request: draft_pb2.ProposeRequest) -> Answer:
        breaker.disable("it does not fit")
        return proposal(8)

    script = Script([proposal(7), find_unfit, proposal(9)])
    async with attached(script, breaker=breaker) as drafter:
        drafts = [await drafter.propose(TokenSequence(PROMPT), 1) for _ in range(3)]
        assert [list(draft.tokens) for draft in drafts] == [[7], [], []]
        assert breaker.is_disabled
        assert breaker.reason == drafter.problem == "it does not fit"
        assert len(script.requests) == 2


async def test_a_draft_with_other_tokens_than_were_compared_is_suspected_and_not_used() -> None:
    changed = error(grpc.StatusCode.FAILED_PRECONDITION, "TOKENIZER_CHANGED")
    script = Script([proposal(7), changed, proposal(8)])
    async with serviced(script) as service:
        drafter, compared = drafter_of(service), service.model
        for expected in ([7], []):
            assert list((await drafter.propose(TokenSequence(PROMPT), 1)).tokens) == expected
        assert service.suspicions == [(compared, "a message")]
        assert service.suspicions[0][0] is compared
        # It was compared, and fits: it gets the whole sequence.
        service.model = described(tokenizer_fingerprint="two")
        assert list((await drafter.propose(TokenSequence(PROMPT), 1)).tokens) == [8]
        await drafter.close()
    assert [request.tokenizer_fingerprint for request in script.requests] == ["one", "one", "two"]
    assert [request.context.cached_length for request in script.requests] == [0, 2, 0]


async def test_a_draft_whose_context_is_full_was_not_lost() -> None:
    script = Script([proposal(7), proposal(8)])
    sequence = TokenSequence(PROMPT)
    breaker = Breaker(retry_s=1000.0)
    async with serviced(script, breaker=breaker) as service:
        service.model = described(context_length=4)
        drafter = drafter_of(service)
        for expected in ([7], [8], []):
            assert list((await as_cycles_do(drafter, sequence, 4)).tokens) == expected
            sequence.extend([4])
        assert drafter.problem == "the context of the draft is full: it holds 4 tokens"
        assert drafter.num_fallbacks == 0
        assert not breaker.is_open
        await drafter.close()
    # Up to the last position: the last draft token is never evaluated there.
    assert [request.num_draft_tokens for request in script.requests] == [2, 1]


async def test_a_draft_that_holds_less_than_it_told_was_not_lost() -> None:
    refusal = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG", "a message", metadata={"most": "3"})
    script = Script([refusal, proposal(7)])
    async with attached(script) as drafter:
        assert (await drafter.propose(TokenSequence(PROMPT), 4)).tokens == ()
        assert list((await drafter.propose(TokenSequence(PROMPT), 4)).tokens) == [7]
        assert (await drafter.propose(TokenSequence([*PROMPT, 4]), 4)) == Draft()
        assert drafter.problem == "the context of the draft is full: it holds 3 tokens"
        assert drafter.num_fallbacks == 0


async def test_a_draft_is_asked_with_stand_ins_for_what_it_lacks() -> None:
    script = Script([proposal(7), proposal(8)])
    async with serviced(script) as service:
        service.model = described(vocabulary_size=50)
        drafter = drafter_of(service, logit_bias={3: 1.0, 60: 1.0})
        sequence = TokenSequence([60, 1, 99])
        await drafter.propose(sequence, 1)
        await drafter.propose(sequence.extend([7, 50]), 1)
        await drafter.close()
    first, second = script.requests
    assert list(first.context.tokens) == [STAND_IN, 1, STAND_IN]
    assert second.context.cached_length == 3
    assert list(second.context.tokens) == [7, STAND_IN]
    assert dict(first.sampling.logit_bias) == {3: 1.0}


async def test_what_a_service_refuses_is_told() -> None:
    async with attached(Script([error(grpc.StatusCode.INVALID_ARGUMENT)])) as drafter:
        await drafter.propose(TokenSequence(PROMPT), 1)
        await drafter.propose(TokenSequence(PROMPT), 1)
        assert drafter.problem == "a message"


async def test_a_single_draft_that_is_missing_is_no_news() -> None:
    busy = error(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    script = Script([busy, proposal(7), busy, busy, proposal(8)])
    async with attached(script) as drafter:
        told = []
        for _ in range(5):
            await drafter.propose(TokenSequence(PROMPT), 1)
            told.append(drafter.problem)
    assert told == ["a message", "", "", "a message", ""]
