"""The length policy of mode AUTO: as many draft tokens as are worth their time, by quotes and experience."""

from itertools import pairwise

import pytest

from orchestrator.drafting.drafter import NGRAM, NOBODY, REMOTE, Draft
from orchestrator.drafting.experience import Experience
from orchestrator.generation.cycle import Cycle, FixedLength
from orchestrator.generation.length_policy import PaidLength
from orchestrator.peers.target import Verification
from outrider.v1 import target_pb2
from tests.unit.orchestrator.generation.paid_sessions import MOST, READING, SURE, UNSURE, Session, quote


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
    busy, idle = (Session(quote(num_sessions=8, idle_share=share, tokens_per_ms=0.4)) for share in (0.0, 0.5))
    assert busy.cycles(60, num_accepted=3, margin=2.0)[-1] > idle.cycles(60, num_accepted=3, margin=2.0)[-1]


def test_a_draft_that_hangs_is_waited_for_no_longer_than_two_plain_cycles() -> None:
    session = Session()
    session.cycles(20)
    # A cycle of 21 ms has 20 ms of decoding, as a plain one has.
    assert session.policy.choose(MOST).limit_s == pytest.approx(2 * 0.021)


def test_lookup_goes_on_where_a_model_is_not_worth_asking() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    assert session.policy.choose(MOST).num_looked_up == MOST


def test_a_long_match_is_better_than_a_model_that_is_often_wrong() -> None:
    session = Session(draft_s=0.005)
    session.cycles(200, num_accepted=0, margin=UNSURE)
    good = Session()
    good.cycles(200)
    match = Draft([7] * 6, margins=[8.0] * 6, drafter=NGRAM)
    assert session.policy.choose(MOST).is_better(match)
    assert not good.policy.choose(MOST).is_better(match)
    assert not session.policy.choose(MOST).is_better(Draft([7], margins=[8.0], drafter=REMOTE).first(0))


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


def test_in_company_prompts_are_read_ahead_and_most_are_before_anybody_drafts() -> None:
    experience = Experience()
    sessions = [Session(quote(num_sessions=4), experience) for _ in range(4)]
    for session in sessions:
        session.cycle()
    wanted = [session.policy.choose(MOST) for session in sessions]
    assert [(each.num_draft_tokens, each.reads_ahead) for each in wanted] == [(4, True)] * 4
    for session in sessions:
        session.cycle()
    early, second, third, last = sessions
    for session in (early, second):
        session.cycle()
        assert not session.policy.choose(MOST).num_draft_tokens, "the others would wait for its drafts"
    third.cycle()
    assert [session.policy.choose(MOST).num_draft_tokens for session in (early, second, third)] == [4] * 3
    assert last.policy.choose(MOST).reads_ahead


def test_those_who_draft_go_on_while_others_come_and_read() -> None:
    experience = Experience()
    drafting = [Session(quote(num_sessions=2), experience) for _ in range(2)]
    for _ in range(20):
        wanted = [session.cycle() for session in drafting]
    assert all(each.num_draft_tokens for each in wanted)
    new = [Session(quote(num_sessions=8), experience) for _ in range(6)]
    for _ in range(2):
        for session in new:
            session.cycle()
    assert all(session.cycle().num_draft_tokens for session in drafting)


@pytest.mark.parametrize("num_cycles", [2, 20])
def test_one_that_began_alone_does_not_keep_those_waiting_who_read(num_cycles: int) -> None:
    """The first of 16 had drafted once, and went on for 14 s: two decodes a cycle, and prompts in small pieces."""
    experience = Experience()
    first = Session(experience=experience)
    assert all(first.cycles(num_cycles)[1:])
    first.quote = quote(num_sessions=8, row_ms=4.0)
    new = [Session(first.quote, experience) for _ in range(7)]
    for session in (*new, first, *new):
        session.cycle()
    assert not first.cycle().num_draft_tokens
    for session in new:
        session.cycle()
    assert first.cycle().num_draft_tokens


@pytest.mark.parametrize(("row_ms", "drafts"), [(9.0, False), (0.3, True)])
def test_sessions_that_have_read_draft_beside_one_that_reads_if_that_is_worth_it_to_all(
    row_ms: float, drafts: bool
) -> None:
    """Of eight that began together six drafted, which brought little, and were decoded apart from the two others."""
    experience = Experience()
    Session(experience=experience).cycles(20)
    sessions = [Session(quote(num_sessions=8, row_ms=row_ms), experience) for _ in range(8)]
    for _ in range(2):
        for session in sessions:
            session.cycle()
    *others, reader = sessions
    for session in others:
        session.cycle()
    for _ in range(12):
        wanted = [session.cycle() for session in others]
        assert {each.num_draft_tokens > 0 for each in wanted} == {drafts}
        assert not any(each.reads_ahead for each in wanted), "it is read as they begin, by all together"
    reader.cycle()
    assert all(session.cycle().num_draft_tokens for session in others)


def reader_and_one_that_waits() -> tuple[Session, Session]:
    reader, other = sessions = [Session(quote(num_sessions=2), experience) for experience in [Experience()] * 2]
    for session in sessions:
        session.cycles(2)
    other.cycle()
    assert not other.policy.choose(MOST).num_draft_tokens
    return reader, other


def test_who_looks_up_its_drafts_keeps_nobody_waiting_who_has_read() -> None:
    """Its prompt had been read for a second, which it did not ask, and seven others decoded plainly meanwhile."""
    reader, other = reader_and_one_that_waits()
    reader.policy.chances(Draft([7], margins=[8.0], drafter=NGRAM))
    assert other.policy.choose(MOST).num_draft_tokens


def test_who_is_gone_keeps_nobody_from_drafting() -> None:
    reader, other = reader_and_one_that_waits()
    del reader.policy
    assert other.policy.choose(MOST).num_draft_tokens


def test_nobody_reads_a_prompt_for_the_last_tokens() -> None:
    """16 streams that had decoded plainly read theirs when two tokens were left, as drafts looked worth 0.06 then."""
    experience = Experience()
    Session(experience=experience).cycles(20, num_accepted=1, margin=0.2)
    experience.remote[0].note_times(Draft(drafter=REMOTE, read_s=0.1))
    session = Session(experience=experience)
    session.cycle()
    assert session.policy.choose(MOST).num_draft_tokens
    assert not session.policy.choose(MOST, num_left=3).num_draft_tokens


@pytest.mark.parametrize(("read_s", "reads_ahead"), [(0.001, False), (0.1, True)])
def test_who_is_alone_reads_ahead_where_that_takes_longer_than_a_cycle(read_s: float, reads_ahead: bool) -> None:
    experience = Experience()
    Session(experience=experience).cycles(20)
    experience.remote[0].note_times(Draft(drafter=REMOTE, read_s=read_s))
    session = Session(experience=experience)
    session.cycle()
    assert session.policy.choose(MOST).reads_ahead == reads_ahead


def test_the_turn_of_another_process_is_no_price_of_a_draft() -> None:
    """It decodes for others meanwhile; those who draft together leave it no such turn."""
    record = Experience().remote[0]
    record.note_times(Draft([7], waited_s=0.3, computed_s=0.01, turn_s=0.28, drafter=REMOTE))
    assert record.usual_s(1) == pytest.approx(0.02)


def test_a_company_that_begins_prices_time_at_what_it_soon_will_reach() -> None:
    def number(tokens_per_ms: float) -> int:
        session = Session(quote(num_sessions=4, idle_share=1.0, row_ms=1.5, tokens_per_ms=tokens_per_ms))
        session.cycles(40, num_accepted=5)
        return session.policy.choose(MOST).num_draft_tokens

    assert 1 < number(0.02) == number(0.1) < MOST


def test_drafts_beside_the_prompts_of_others_say_nothing_of_how_long_they_take() -> None:
    experience = Experience()
    record = experience.remote[0]
    reader, other = (Session(quote(num_sessions=2), experience) for _ in range(2))
    other.cycles(4)
    assert record.comes.count == 1, "its own prompt was read by then"
    reader.cycle()
    other.policy.choose(MOST)
    reader.policy.chances(READING)
    other.policy.chances(Draft([7], margins=[SURE], waited_s=2.0, computed_s=0.01, drafter=REMOTE))
    assert record.comes.count == 1, "a prompt was being read when it came"
    other.policy.choose(MOST)
    reader.policy.chances(Draft(drafter=REMOTE, read_s=0.5))
    other.policy.chances(Draft([7], margins=[SURE], waited_s=2.0, computed_s=0.01, drafter=REMOTE))
    assert record.comes.count == 1, "one was being read when it was asked for"
    other.cycle()
    assert record.comes.count == 2


def test_a_draft_that_the_target_kept_from_the_cores_to_read_prompts_says_nothing_of_those_to_come() -> None:
    """Two of the first eleven drafts came too late, and 16 streams went on plainly for as long as they ran."""
    experience = Experience()
    session = Session(quote(num_sessions=2), experience)
    session.cycles(5)
    record = experience.remote[0]
    num_known = record.comes.count
    late = Draft(waited_s=0.5, drafter=REMOTE)
    other = Session(quote(num_sessions=2), experience)
    session.policy.choose(MOST)
    session.policy.chances(late)
    assert record.comes.count == num_known, "a prompt is being read"
    session.policy.choose(MOST)
    other.cycle()
    session.policy.chances(late)
    assert record.comes.count == num_known, "one was being read when it was asked for"
    session.policy.choose(MOST)
    session.policy.chances(late)
    assert record.comes.count == num_known + 1


@pytest.mark.parametrize(("idle_share", "num_learned"), [(0.05, 0), (0.5, 1)])
def test_a_draft_that_had_no_cores_for_the_decodes_of_others_says_nothing_of_those_to_come(
    idle_share: float, num_learned: int
) -> None:
    session = Session(quote(num_sessions=3, idle_share=idle_share))
    session.cycles(5)
    record = session.experience.remote[0]
    num_known = record.comes.count
    assert num_known
    session.policy.choose(MOST)
    session.policy.chances(Draft(waited_s=0.5, drafter=REMOTE))
    assert record.comes.count == num_known + num_learned


@pytest.mark.parametrize(("turn_s", "num_learned"), [(0.01, 0), (0.0001, 1)])
def test_a_draft_that_missed_the_decode_of_others_on_its_cores_says_nothing_of_those_to_come(
    turn_s: float, num_learned: int
) -> None:
    """They had looked up theirs, and their decode took longer than one waits: drafts were 0.3 tokens dearer for it."""
    experience = Experience()
    session, other = (Session(quote(num_sessions=2), experience) for _ in range(2))
    session.cycles(5)
    other.cycles(5)
    record = experience.remote[0]
    record.note_times(Draft([7], waited_s=0.02, computed_s=0.01, turn_s=turn_s, drafter=REMOTE))
    num_known = record.comes.count
    late = Draft(waited_s=0.5, drafter=REMOTE)
    session.policy.choose(MOST)
    other.cycle()
    num_known += 1
    session.policy.chances(late)
    assert record.comes.count == num_known + num_learned
    session.policy.choose(MOST)
    session.policy.chances(late)
    assert record.comes.count == num_known + num_learned + 1, "nothing was decoded meanwhile"


@pytest.mark.parametrize("num_accepted", [0, 3])
def test_drafts_of_a_fixed_length_tell_others_what_drafts_are_worth(num_accepted: int) -> None:
    """A company that drafts little learns little: it took 0.93, 0.87 and 0.77 for 0.81, 0.62 and 0.50."""
    experience = Experience()
    record, policy = experience.remote[0], FixedLength(3, experience)
    result = target_pb2.VerifyBatchResult(num_accepted=num_accepted, next_token=7)
    verification = Verification(result, 3, 0.021, 0.02, 0.02)
    for index in range(200):
        draft = Draft([7] * 3, (), [1.0] * 3, 0.01, 0.006, REMOTE)
        assert policy.chances(draft) is None
        policy.observe(Cycle(index, draft, verification, [7]))
    assert record.joint(3) == pytest.approx([num_accepted / 3] * 3, abs=0.1)
