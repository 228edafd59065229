"""What is learned of a drafter: chances by margin and depth, and times."""

import random
from unittest.mock import Mock

import pytest

from orchestrator.drafting.chances import Chances
from orchestrator.drafting.drafter import REMOTE, Breaker, Draft
from orchestrator.drafting.experience import Experience, Exploration, Mean, Record

EDGES = (1.0, 3.0)
PRIOR = 0.5


def chances() -> Chances:
    return Chances(EDGES, lambda margin: PRIOR)


def draft(*margins: float) -> Draft:
    return Draft([7] * len(margins), margins=margins, drafter=REMOTE)


def learn(table: Chances, margins: list[float], rates: list[float], num_drafts: int = 2000) -> None:
    """Verify drafts whose tokens are right at the rate of their place."""
    draw = random.Random(1)
    for _ in range(num_drafts):
        num_accepted = 0
        while num_accepted < len(margins) and draw.random() < rates[num_accepted]:
            num_accepted += 1
        table.observe(draft(*margins), num_accepted)


def test_at_first_there_is_the_prior() -> None:
    assert chances().of(draft(0.5, 2.0, 9.0)) == [PRIOR] * 3
    assert chances().by_margin() == [PRIOR] * 3


def test_chances_are_those_that_were_seen() -> None:
    table = chances()
    learn(table, [0.5], [0.2])
    learn(table, [2.0], [0.6])
    learn(table, [5.0], [0.9])
    assert table.of(draft(0.5))[0] == pytest.approx(0.2, abs=0.05)
    assert table.of(draft(2.9))[0] == pytest.approx(0.6, abs=0.05)
    assert table.of(draft(3.0))[0] == pytest.approx(0.9, abs=0.05)
    assert table.by_margin() == pytest.approx([0.2, 0.6, 0.9], abs=0.05)


def test_the_same_margin_is_less_sure_deeper_in_a_draft() -> None:
    table = chances()
    learn(table, [2.0, 2.0, 2.0], [0.9, 0.6, 0.3], 4000)
    assert table.of(draft(2.0, 2.0, 2.0)) == pytest.approx([0.9, 0.6, 0.3], abs=0.06)


def test_a_depth_that_was_never_seen_has_what_is_known_of_the_margin() -> None:
    table = chances()
    learn(table, [2.0], [0.9])
    assert table.of(draft(2.0, 2.0))[1] == pytest.approx(table.by_margin()[1])


def test_nothing_is_learned_of_what_follows_a_rejected_token() -> None:
    table, without = chances(), chances()
    table.observe(draft(2.0, 5.0, 5.0), 0)
    without.observe(draft(2.0), 0)
    assert table.by_margin() == without.by_margin()


def test_another_model_is_noticed() -> None:
    table = chances()
    learn(table, [2.0], [0.9], 4000)
    learn(table, [2.0], [0.1], 2000)
    assert table.of(draft(2.0))[0] == pytest.approx(0.1, abs=0.05)


def test_a_margin_without_a_second_candidate_is_the_surest() -> None:
    assert chances().of(draft(float("inf"))) == [PRIOR]


def test_a_mean_is_plain_at_first_and_forgets_later() -> None:
    mean = Mean(4)
    for value in (1.0, 2.0, 3.0):
        mean.add(value)
    assert mean.value == pytest.approx(2.0)
    for _ in range(50):
        mean.add(8.0)
    assert mean.value == pytest.approx(8.0, abs=0.01)


def test_times_are_of_a_draft_and_of_its_tokens() -> None:
    record = Record(chances())
    record.note_times(Draft([1, 2, 3, 4], waited_s=0.05, computed_s=0.04, drafter=REMOTE))
    assert (record.fixed_s.value, record.token_s.value) == pytest.approx((0.01, 0.01))
    assert record.usual_s(10) == pytest.approx(0.11)


def test_one_that_does_not_come_counts_by_how_often_that_happens() -> None:
    record = Record(chances())
    came = Draft([1], waited_s=0.02, computed_s=0.01, drafter=REMOTE)
    for draft in (came, came, came, Draft(waited_s=0.5, drafter=REMOTE)):
        record.note_times(draft)
    assert record.comes.value == pytest.approx(0.75)
    assert record.usual_s(1) == pytest.approx(0.75 * 0.02 + 0.25 * 0.5)


def test_a_few_late_ones_of_a_company_say_little() -> None:
    """As the first of 16 ended, three drafts were late, and all decoded plainly from then on."""
    came, late = (Draft(tokens, waited_s=0.02, computed_s=0.01, drafter=REMOTE) for tokens in ([1], []))
    shares = []
    for num_drafting in (1, 16):
        record = Record(chances())
        for draft in [came] * 400 + [late] * 3:
            record.note_times(draft, num_drafting)
        shares.append(record.comes.value)
    assert shares == pytest.approx([(15 / 16) ** 3, 1 - 3 / 256], abs=0.001)


def test_what_follows_a_prompt_says_nothing_of_other_drafts() -> None:
    record = Record(chances())
    record.note_times(Draft([1], waited_s=5.0, computed_s=5.0, drafter=REMOTE, follows_prompt=True))
    assert record.comes.count == record.token_s.value == 0


def test_a_draft_that_prompts_of_others_kept_from_coming_is_not_missed() -> None:
    """Two of the first 16 drafts of a company waited a second for these, and a draft was 0.3 tokens dearer for it."""
    record = Record(chances())
    late = Draft(waited_s=1.0, drafter=REMOTE, follows_prompt=True)
    record.note_times(late, is_delayed=True)
    assert record.comes.count == 0
    record.note_times(late)
    assert (record.comes.count, record.comes.value) == (1, 0), "one that hangs is missed"


def test_where_prompts_of_others_are_always_read_that_is_usual() -> None:
    record = Record(chances())
    delayed = Draft([1], waited_s=0.5, computed_s=0.01, drafter=REMOTE)
    for _ in range(64):
        record.note_times(delayed, is_delayed=True)
    assert record.comes.count == 0
    record.note_times(delayed, is_delayed=True)
    assert (record.comes.count, record.fixed_s.value) == (1, pytest.approx(0.49))


def test_joint_chances_are_no_powers_of_one() -> None:
    record = Record(chances())
    for _ in range(200):
        record.note_chances([0.95, 0.95, 0.95, 0.5])
    first, second, third, fourth, unseen = record.joint(5)
    assert [first, second / first, third / second] == pytest.approx([0.95] * 3, abs=0.01)
    assert fourth / third == pytest.approx(0.5, abs=0.03)
    assert unseen / fourth == pytest.approx(record.chance.value), "as on the mean"


def test_a_request_that_is_drafted_for_badly_has_lower_ones() -> None:
    record = Record(chances())
    for _ in range(200):
        record.note_chances([0.9, 0.7])
    assert record.joint(2, 0.4) == pytest.approx([0.45, 0.45 * 0.35], abs=0.01)


def test_nothing_is_hoped_for_from_one_that_never_drafted() -> None:
    assert Record(chances()).joint(2, 0.0) == [0.0, 0.0]


def test_computing_that_others_disturbed_is_not_what_a_token_takes() -> None:
    record = Record(chances())
    for computed_s in (0.05, 0.01, 0.05, 0.01, 0.01, 0.05, 0.05, 0.05):
        record.note_times(Draft([1], waited_s=computed_s, computed_s=computed_s, drafter=REMOTE))
    assert record.token_s.value == pytest.approx(0.01)


def test_an_accident_is_none_of_the_usual() -> None:
    record = Record(chances())
    for computed_s in (0.01, 0.01, 3.0, 0.01):
        record.note_times(Draft([1], waited_s=computed_s + 0.001, computed_s=computed_s, drafter=REMOTE))
    assert record.usual_s(1) == pytest.approx(0.011)


def test_the_speedup_is_what_plain_decoding_would_have_taken() -> None:
    experience = Experience()
    assert experience.speedup == 0
    experience.note_cycle(0.3, 0.1)
    experience.note_cycle(0.1, 0.1)
    assert experience.speedup == pytest.approx(2.0)


def test_a_hundredth_of_the_time_is_for_exploration() -> None:
    exploration = Exploration()
    assert not exploration.may_take(0.1)
    exploration.elapse(10.0, 1.0)
    assert exploration.may_take(0.1)
    exploration.take(0.06)
    assert exploration.may_take(0.04) and not exploration.may_take(0.05)
    assert exploration.elapsed_s == 10.0


def test_what_was_tried_lately_waits_until_so_much_has_come_in_since() -> None:
    exploration = Exploration()
    exploration.elapse(50.0, 1.0)
    assert exploration.may_take(0.1, 40.0) and not exploration.may_take(0.1, 41.0)


def test_little_of_it_is_saved_up_and_what_takes_longer_goes_into_debt() -> None:
    exploration = Exploration()
    exploration.elapse(100_000.0, 1.0)
    assert exploration.may_take(1.0) and not exploration.may_take(1.1)
    exploration.take(3.0)
    exploration.elapse(199.0, 1.0)
    assert not exploration.may_take(0.01)
    exploration.elapse(3.0, 1.0)
    assert exploration.may_take(0.01)


def test_each_draft_service_has_a_record_of_its_own() -> None:
    experience = Experience([Mock(), Mock()])
    first, second = experience.of(REMOTE, 0), experience.of(REMOTE, 1)
    assert first is not None and second is not None
    first.note_times(Draft([1], waited_s=0.02, computed_s=0.01, drafter=REMOTE))
    assert (first.comes.count, second.comes.count) == (1, 0)


def test_a_service_that_is_lost_proposes_nothing() -> None:
    services = [Mock(), Mock(), Mock()]
    for service, most in zip(services, (4, 64, 64), strict=True):
        service.breaker = Breaker(1.0)
        service.model.max_draft_tokens = most
    services[2].breaker.fail("it was late")
    assert Experience(services).rooms(16) == [4, 16, 0]
    assert Experience().rooms(16) == [16]
