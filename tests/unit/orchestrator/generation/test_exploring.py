"""How mode AUTO finds out whether drafts are worth it that were not, and what it may spend on that."""

from orchestrator.drafting.common_length import CommonLength
from orchestrator.drafting.drafter import REMOTE, Draft, Wanted
from orchestrator.drafting.experience import Experience, Exploration, Quantile
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


class Company:
    """Four sessions that share decodes, each of which takes `quote`d times, and that have drafted."""

    def __init__(self, row_ms: float = 5.0) -> None:
        self.now_s = 100.0
        self.experience = Experience()
        self.experience.remote[0].common = CommonLength(lambda: self.now_s)
        dear = quote(num_sessions=4, row_ms=row_ms, tokens_per_ms=0.3)
        self.sessions = [Session(dear, self.experience) for _ in range(4)]
        for _ in range(20):
            self.round(0, UNSURE)

    def round(self, num_accepted: int, margin: float) -> list[Wanted]:
        """Let all go through a cycle; return what each wanted."""
        self.now_s += 0.021
        chosen = [session.policy.choose(MOST) for session in self.sessions]
        for session, wanted in zip(self.sessions, chosen, strict=True):
            session.end_cycle(wanted, num_accepted, margin)
        return chosen

    def save_for_a_trial(self, read_s: float = 0.0) -> None:
        """Let as much time be saved as one takes of all four, beside what they read before."""
        saved_s = 4 * self.experience.remote[0].common.trial_cost * self.experience.plain_s.value + read_s
        self.experience.exploration = Exploration()
        self.experience.exploration.elapse(150 * saved_s, 1.5 * saved_s)


def test_a_company_tries_drafts_together() -> None:
    company = Company()
    company.experience.exploration = Exploration()
    assert {wanted.num_draft_tokens for wanted in company.round(0, UNSURE)} == {0}, "nothing is saved for it"
    company.save_for_a_trial()
    tried = [company.round(0, UNSURE) for _ in range(6)]
    assert [[wanted.num_draft_tokens for wanted in each] for each in tried] == [[1] * 4] * 5 + [[0] * 4]
    assert [any(wanted.reads_ahead for wanted in each) for each in tried[:3]] == [True, True, False]
    assert {wanted.num_looked_up for wanted in tried[0]} == {0}, "a draft that is looked up says nothing of the model"
    assert {wanted.num_looked_up for wanted in tried[5]} == {MOST}


def test_a_trial_before_which_all_would_read_their_prompts_on_the_cores_of_the_target_costs_that() -> None:
    """Of 16 that began together the first thought of its own prompt only, and all read theirs for three rounds."""
    company = Company()
    record = company.experience.remote[0]
    record.prompt_s = Quantile()
    record.note_times(Draft(drafter=REMOTE, read_s=0.03))
    record.note_times(Draft([7], waited_s=0.02, computed_s=0.01, turn_s=0.01, drafter=REMOTE))
    company.sessions = [Session(company.sessions[0].quote, company.experience) for _ in range(4)]
    company.experience.exploration = Exploration()
    company.round(0, UNSURE)
    for session in company.sessions:
        session.policy.choose(MOST)
    company.save_for_a_trial(read_s=4 * 0.03)
    assert not any(wanted.num_draft_tokens for wanted in company.round(0, UNSURE))
    company.save_for_a_trial(read_s=16 * 0.03)
    assert all(wanted.reads_ahead for wanted in company.round(0, UNSURE))


def test_the_first_of_a_round_begins_a_trial() -> None:
    company = Company()
    company.experience.exploration = Exploration()
    company.round(0, UNSURE)
    company.save_for_a_trial()
    assert {session.cycle(0, UNSURE).num_draft_tokens for session in company.sessions} == {0}
    assert {wanted.num_draft_tokens for wanted in company.round(0, UNSURE)} == {1}


def test_what_a_company_tries_is_verified_whatever_it_is_worth() -> None:
    company = Company()
    company.experience.exploration = Exploration()
    company.round(0, UNSURE)
    policy = company.sessions[0].policy
    draft = Draft([7], margins=[UNSURE], waited_s=0.002, computed_s=0.002, drafter=REMOTE)
    assert len(policy.chances(draft)) == 1
    company.save_for_a_trial()
    company.now_s += 0.021
    assert policy.choose(MOST).num_draft_tokens == 1
    assert not policy.chances(draft)


def test_a_company_spends_a_hundredth_of_its_time_on_trials() -> None:
    company = Company()
    tried = [sum(wanted.num_draft_tokens for wanted in company.round(0, UNSURE)) for _ in range(2000)]
    # A row takes 5 ms of a decode of 20.
    assert 0 < sum(tried) / 4 * (0.005 + 0.0025) <= 0.012 * 2000 * 0.021


def test_a_company_whose_drafts_have_become_right_finds_it() -> None:
    company = Company(row_ms=1.0)
    wanted = [[each.num_draft_tokens for each in company.round(MOST, SURE)] for _ in range(2000)]
    assert wanted[0] == [0] * 4
    assert min(wanted[-1]) > 0


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
