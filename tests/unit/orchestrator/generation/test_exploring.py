"""How mode AUTO finds out whether drafts are worth it that were not, and what it may spend on that."""

from orchestrator.drafting.drafter import REMOTE, Draft
from orchestrator.drafting.experience import Experience, Exploration
from orchestrator.generation.cycle import Cycle
from orchestrator.peers.target import Verification
from outrider.v1 import target_pb2
from tests.unit.orchestrator.generation.paid_sessions import MOST, SURE, UNSURE, Session, quote, request_after_request


def test_exploration_takes_a_hundredth_of_the_time() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    wanted = session.cycles(1000, num_accepted=0, margin=UNSURE)
    explored_s = sum(wanted) * 0.007
    assert 0 < explored_s <= 0.01 * (1200 * 0.021 + 1.0)


def test_a_draft_that_has_become_right_is_found() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    assert session.cycles(3000, margin=SURE)[-1] > 1


def test_one_that_hangs_is_given_up_though_it_would_have_to_catch_up() -> None:
    session = Session()
    session.cycles(20)
    for _ in range(60):
        session.policy.choose(MOST)
        session.policy.chances(Draft(waited_s=0.042, drafter=REMOTE, follows_prompt=True))
        verification = Verification(target_pb2.VerifyBatchResult(), 0, 0.021, 0.02, 0.02, quote=session.quote)
        session.policy.observe(Cycle(0, Draft(), verification, [7]))
    assert session.policy.choose(MOST).num_draft_tokens in (0, 1)


def test_a_new_request_asks_no_draft_that_is_worth_nothing() -> None:
    experience = Experience()
    request_after_request(experience, 1, 200, draft_s=0.005)
    wanted = request_after_request(experience, 100, 20, draft_s=0.005)
    assert {request[0] for request in wanted} <= {0, 1}
    assert 0 < sum(map(sum, wanted)) * 0.007 <= 0.01 * 2000 * 0.021 + 0.014


def test_short_requests_find_out_together() -> None:
    """Each of them lasts 0.4 s, and to try a draft takes 16 ms."""
    experience = Experience()
    request_after_request(experience, 1, 200, draft_s=0.014)
    wanted = request_after_request(experience, 20, 20, draft_s=0.014)
    assert 0 < sum(map(sum, wanted)) <= 6


def test_a_long_time_without_a_draft_does_not_make_up_for_it_at_once() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    for _ in range(10_000):
        # The service is away, and is not even asked.
        session.policy.choose(MOST)
        session.policy.chances(Draft())
        verification = Verification(target_pb2.VerifyBatchResult(), 0, 0.021, 0.02, 0.02, quote=session.quote)
        session.policy.observe(Cycle(0, Draft(), verification, [7]))
    assert sum(session.cycles(10, num_accepted=0, margin=UNSURE)) <= 3


def test_drafts_that_have_become_quick_are_found_though_each_has_to_catch_up_first() -> None:
    session = Session(draft_s=0.5)
    session.cycles(30, num_accepted=3, margin=SURE)
    assert set(session.cycles(50, num_accepted=3, margin=SURE)) == {0}, "it takes half a second"
    session.draft_s, session.follows_prompt = 0.0005, True
    for _ in range(20_000):
        wanted = session.cycle(num_accepted=3, margin=SURE)
        # What was asked for in the cycle before has been read by now.
        session.follows_prompt = not wanted.num_draft_tokens
    assert wanted.num_draft_tokens > 1


def test_a_draft_that_never_comes_is_given_up() -> None:
    session = Session()
    session.cycles(20)
    for _ in range(60):
        session.policy.choose(MOST)
        draft = Draft(waited_s=0.042, drafter=REMOTE)
        session.policy.chances(draft)
        verification = Verification(target_pb2.VerifyBatchResult(), 0, 0.021, 0.02, 0.02, quote=session.quote)
        session.policy.observe(Cycle(0, draft, verification, [7]))
    assert session.policy.choose(MOST).num_draft_tokens in (0, 1)


def test_one_session_of_many_explores_at_a_time() -> None:
    company = quote(num_sessions=4, row_ms=20.0, tokens_per_ms=0.3)
    experience = Experience()
    sessions = [Session(company, experience) for _ in range(4)]
    for _ in range(40):
        for session in sessions:
            session.cycle(num_accepted=0, margin=UNSURE)
    record = experience.of(REMOTE)
    assert record is not None
    saved_s = 1.5 * 4 * record.usual_s(1)
    experience.exploration = Exploration()
    experience.exploration.elapse(100 * saved_s, saved_s)
    assert [session.policy.choose(MOST).num_draft_tokens for session in sessions] == [1, 0, 0, 0]


def test_a_prompt_that_the_draft_has_not_read_is_part_of_the_price() -> None:
    experience = Experience()
    old = Session(quote(row_ms=3.0), experience)
    old.cycles(60)
    assert old.policy.choose(MOST).num_draft_tokens > 0
    record = experience.of(REMOTE)
    assert record is not None
    record.note_times(Draft([7], margins=[2.0], waited_s=20.0, computed_s=20.0, drafter=REMOTE, follows_prompt=True))
    new = Session(quote(row_ms=3.0), experience)
    assert new.cycles(3) == [0, 0, 0]
