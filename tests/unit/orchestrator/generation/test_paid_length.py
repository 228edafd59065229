"""The length policy of mode AUTO: as many draft tokens as are worth their time, by quotes and experience."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from orchestrator.drafting.drafter import NGRAM, NOBODY, REMOTE, Draft, Wanted
from orchestrator.drafting.experience import Experience, Exploration
from orchestrator.generation.cycle import Cycle
from orchestrator.generation.length_policy import PaidLength
from orchestrator.peers.target import Verification
from outrider.v1 import target_pb2

# What the draft model is sure of, and what it is not.
SURE, UNSURE = 8.0, 0.05
MOST = 16
DECODE_MS = 20.0


def quote(
    *, row_ms: float = 0.3, tokens_per_ms: float = 0.1, num_sessions: int = 1, idle_share: float = 0.5
) -> target_pb2.Quote:
    return target_pb2.Quote(
        version=1,
        row_ms=[row_ms * number for number in range(1, 33)],
        tokens_per_ms=tokens_per_ms,
        decode_ms=DECODE_MS,
        idle_share=idle_share,
        num_sessions=num_sessions,
        num_drafting=num_sessions,
    )


@dataclass
class Session:
    """A policy with what it sees: a draft that takes `draft_s` and `token_s` more for each token."""

    quote: target_pb2.Quote | None = field(default_factory=quote)
    experience: Experience = field(default_factory=Experience)
    draft_s: float = 0.0005
    token_s: float = 0.002
    most: int = MOST
    follows_prompt: bool = False

    def __post_init__(self) -> None:
        self.policy = PaidLength(self.experience, self.most)
        self.num_cycles = 0

    def cycle(self, num_accepted: int = MOST, margin: float = SURE, drafter: str = REMOTE) -> Wanted:
        """Go through one cycle with as many draft tokens as are wanted; return what was wanted."""
        wanted = self.policy.choose(MOST)
        number = wanted.num_draft_tokens
        computed_s = self.token_s * number
        waited_s, margins = self.draft_s + computed_s, [margin] * number
        draft = Draft([7] * number, (), margins, waited_s, computed_s, drafter, follows_prompt=self.follows_prompt)
        if not number:
            draft = Draft()
        self.policy.chances(draft)
        num_accepted = min(num_accepted, number)
        result = target_pb2.VerifyBatchResult(num_accepted=num_accepted, next_token=7)
        verification = Verification(result, number, 0.021, 0.02, 0.02, quote=self.quote)
        self.policy.observe(Cycle(self.num_cycles, draft, verification, [7] * (num_accepted + 1)))
        self.num_cycles += 1
        return wanted

    def cycles(self, number: int, num_accepted: int = MOST, margin: float = SURE) -> list[int]:
        """Return how many tokens were wanted in each of so many cycles."""
        return [self.cycle(num_accepted, margin).num_draft_tokens for _ in range(number)]


def test_a_few_are_tried_while_nothing_is_known() -> None:
    session = Session(quote=None)
    assert session.cycles(3)[1:] == [4, 4]


def test_the_first_token_waits_for_no_draft_model() -> None:
    session = Session()
    session.cycles(40)
    wanted = PaidLength(session.experience, MOST).choose(MOST)
    assert (wanted.num_draft_tokens, wanted.num_looked_up) == (0, MOST)


def test_a_draft_that_is_right_is_as_long_as_it_may() -> None:
    assert Session(token_s=0.001).cycles(40)[-1] == MOST
    assert Session(most=5).cycles(40)[-1] == 5


def test_a_draft_is_not_so_long_that_it_would_be_late() -> None:
    # Two plain cycles of 21 ms are waited for, and three quarters of that relied on.
    assert Session().cycles(40)[-1] == 15
    assert Session(token_s=0.006).cycles(40)[-1] == 5


def test_a_draft_that_is_wrong_is_not_asked_for() -> None:
    session = Session(draft_s=0.005)
    wanted = session.cycles(400, num_accepted=0, margin=UNSURE)
    assert wanted[1] == 4
    assert set(wanted[100:]) == {0, 1}


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


def request_after_request(experience: Experience, number: int, num_cycles: int, **drafts: float) -> list[Sequence[int]]:
    """So many requests of so many cycles each, with drafts of which nothing is accepted; return what was wanted."""
    return [
        Session(experience=experience, **drafts).cycles(num_cycles, num_accepted=0, margin=UNSURE)
        for _ in range(number)
    ]


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


def test_no_more_is_drafted_than_was_quoted_for() -> None:
    session = Session(quote())
    assert session.quote is not None
    del session.quote.row_ms[3:]
    assert session.cycles(40)[-1] == 3
    together = Session(quote(num_sessions=4))
    assert together.quote is not None
    del together.quote.row_ms[:]
    assert together.cycles(40)[-1] == 0, "a decode has no room for more rows"


@pytest.mark.parametrize("is_quoted", [False, True])
def test_lookup_alone_is_as_long_as_its_matches_say(is_quoted: bool) -> None:
    session = Session(quote() if is_quoted else None)
    for _ in range(20):
        wanted = session.cycle(drafter=NGRAM)
    assert wanted.num_looked_up == MOST


def test_a_prompt_that_was_read_is_no_part_of_a_plain_cycle() -> None:
    session = Session()
    session.cycles(5)
    verification = Verification(target_pb2.VerifyBatchResult(), 0, 5.0, 3.0, 3.0, quote=session.quote)
    session.policy.observe(Cycle(5, Draft(), verification, [7]))
    session.cycles(5)
    assert session.policy.choose(MOST).limit_s == pytest.approx(2 * 0.021)


def test_who_is_alone_ends_a_draft_early() -> None:
    session = Session()
    session.cycles(40)
    early_end = session.policy.choose(MOST).early_end
    assert early_end is not None
    # A token's row and its draft take 2.3 ms, of 0.1 tokens each.
    assert early_end.min_joint_chance == pytest.approx(0.23, rel=0.1)
    assert len(early_end.chances) == len(early_end.margins) + 1
    assert early_end.chances[-1] > 0.9


def test_company_drafts_alike() -> None:
    experience = Experience()
    sessions = [Session(quote(num_sessions=4, row_ms=0.4, tokens_per_ms=0.3), experience) for _ in range(4)]
    for _ in range(60):
        wanted = [session.cycle(num_accepted=3, margin=2.0) for session in sessions]
    assert len({each.num_draft_tokens for each in wanted}) == 1
    assert 0 < wanted[0].num_draft_tokens < MOST
    assert all(each.early_end is None for each in wanted), "who ends early waits for the others"


def test_the_number_is_steady() -> None:
    session = Session(quote(num_sessions=4, row_ms=0.4, tokens_per_ms=0.3))
    session.cycles(60, num_accepted=3, margin=2.0)
    wanted = [session.cycle(num_accepted=2 + index % 3, margin=2.0).num_draft_tokens for index in range(400)]
    switches = sum(before != after for before, after in pairwise(wanted))
    assert switches <= len(wanted) / 20


def test_dear_rows_make_short_drafts() -> None:
    numbers = []
    for row_ms in (0.1, 1.0, 2.5, 20.0):
        session = Session(quote(num_sessions=4, row_ms=row_ms, tokens_per_ms=0.3))
        numbers.append(session.cycles(100, num_accepted=3, margin=2.0)[-1])
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[2]
    assert numbers[-1] in (0, 1), "but for what is explored"


def test_a_target_that_never_idles_makes_drafts_free() -> None:
    busy, idle = (
        Session(quote(num_sessions=8, idle_share=share, tokens_per_ms=0.8), token_s=0.004) for share in (0.0, 0.5)
    )
    assert busy.cycles(60, num_accepted=3, margin=2.0)[-1] > idle.cycles(60, num_accepted=3, margin=2.0)[-1]


def test_a_draft_that_hangs_is_waited_for_no_longer_than_two_plain_cycles() -> None:
    session = Session()
    session.cycles(20)
    # A cycle of 21 ms has 20 ms of decoding, as a plain one has.
    assert session.policy.choose(MOST).limit_s == pytest.approx(2 * 0.021)


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


def test_lookup_goes_on_where_a_model_is_not_worth_asking() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    assert session.policy.choose(MOST).num_looked_up == MOST


def test_a_long_match_is_better_than_a_model_that_is_often_wrong() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    poor = session.policy.choose(MOST).least_match
    good = Session()
    good.cycles(200)
    assert poor < good.policy.choose(MOST).least_match


def test_drafts_of_lookup_say_nothing_of_the_model() -> None:
    session = Session()
    session.cycles(20)
    record = session.experience.of(REMOTE)
    assert record is not None
    before = record.chances.by_margin(), record.chance.value, record.fixed_s.value
    session.policy.choose(MOST)
    draft = Draft([7, 7], margins=[6.0, 6.0], drafter=NGRAM)
    assert len(session.policy.chances(draft)) == 2
    verification = Verification(target_pb2.VerifyBatchResult(), 2, 0.021, 0.02, 0.02, quote=session.quote)
    session.policy.observe(Cycle(0, draft, verification, [7]))
    assert (record.chances.by_margin(), record.chance.value, record.fixed_s.value) == before


def test_nobody_has_no_chances_and_asks_for_a_quote() -> None:
    assert Session().policy.chances(Draft(drafter=NOBODY)) == ()


def test_why_is_told() -> None:
    session = Session()
    session.cycles(40)
    choice = session.policy.choose(MOST).choice
    assert choice is not None and choice == session.experience.choice
    assert (choice.num_draft_tokens, choice.row_ms) == (15, pytest.approx(0.3))
    assert (choice.draft_ms, choice.token_ms, choice.tokens_per_s) == pytest.approx((0.5, 2.0, 100.0))
    assert choice.chance > 0.9 and choice.worth > 0


def test_the_speedup_is_known() -> None:
    session = Session()
    session.cycles(300)
    # Cycles of 17 tokens in 21 and 32.5 ms, plain ones of 21.
    assert session.experience.speedup == pytest.approx(17 * 21 / 53.5, rel=0.05)


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
