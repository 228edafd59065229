"""How long a draft is waited for, by what it and the target's cycles took before."""

import pytest

from orchestrator.drafting.patience import DraftPatience

FEW, PROMPT = 3, 500


def patience(*, proposals_s: tuple[float, ...] = (), cycles_s: tuple[float, ...] = ()) -> DraftPatience:
    """One that waits a second at most, and has seen proposals of four tokens and cycles of the target."""
    patience = DraftPatience(1.0)
    for waited_s in proposals_s:
        patience.note_proposal(4, FEW, waited_s)
    for waited_s in cycles_s:
        patience.note_cycle(waited_s)
    return patience


@pytest.mark.parametrize(
    ("known", "expected_s"),
    [
        pytest.param(patience(), 1.0, id="nothing is known: the setting"),
        pytest.param(patience(proposals_s=(0.03, 0.04, 0.035)), 0.12, id="three times the longest proposal"),
        pytest.param(patience(cycles_s=(0.04, 9.0, 0.05)), 0.1, id="two usual cycles"),
        pytest.param(patience(proposals_s=(0.03,), cycles_s=(0.1,)), 0.19, id="a cycle of others comes first"),
        pytest.param(patience(proposals_s=(0.1,), cycles_s=(0.04,)), 0.08, id="the shorter of both, the other way"),
        pytest.param(patience(proposals_s=(2.0,), cycles_s=(0.7,)), 1.4, id="two cycles, where the setting is less"),
        pytest.param(patience(proposals_s=(0.3,), cycles_s=(0.7,)), 1.4, id="no more than two cycles"),
        pytest.param(patience(proposals_s=(2.0,)), 1.0, id="never longer than the setting, while no cycle is known"),
        pytest.param(patience(proposals_s=(0.001,), cycles_s=(0.002,)), 0.02, id="never shorter than threads take"),
    ],
)
def test_a_draft_is_waited_for_as_long_as_it_can_be_worth(known: DraftPatience, expected_s: float) -> None:
    assert known.limit_s(4, FEW) == pytest.approx(expected_s)


def test_longer_drafts_save_more_cycles() -> None:
    known = patience(proposals_s=(0.001,), cycles_s=(0.01,))
    assert [known.limit_s(number, FEW) for number in (1, 2, 8, 16)] == pytest.approx([0.02, 0.02, 0.04, 0.08])


def test_old_times_are_forgotten() -> None:
    known = patience(proposals_s=(0.3, *[0.01] * 16))
    assert known.limit_s(4, FEW) == pytest.approx(0.03)


def test_a_draft_that_has_become_slower_is_given_more_time_step_by_step() -> None:
    known = patience(proposals_s=(0.001,) * 16, cycles_s=(0.1,) * 16)
    limits_s = []
    for _ in range(3):
        limits_s.append(known.limit_s(4, FEW))
        known.note_proposal(4, FEW, limits_s[-1])
    assert limits_s == pytest.approx([0.103, 0.2, 0.2]), "in the end as long as it can be worth"


def test_a_draft_that_reads_a_prompt_has_the_time_of_the_setting() -> None:
    known = patience(proposals_s=(0.01,), cycles_s=(0.1,))
    assert known.limit_s(4, PROMPT) == 1.0
    known.note_proposal(4, PROMPT, 0.8)
    assert known.limit_s(4, FEW) == pytest.approx(0.13), "what a prompt takes says nothing of other proposals"
    slow = patience(cycles_s=(2.0,))
    assert slow.limit_s(4, PROMPT) == 4.0, "or of two cycles"


def test_a_draft_that_was_lost_is_not_waited_for_at_length() -> None:
    known = patience(proposals_s=(0.01,), cycles_s=(0.1,))
    assert known.limit_s(4, PROMPT, is_try=True) == pytest.approx(0.2)
    assert known.limit_s(4, FEW, is_try=True) == pytest.approx(0.13)


def test_never_longer_than_a_setting_below_what_threads_take() -> None:
    known = DraftPatience(0.005)
    known.note_cycle(0.001)
    assert known.limit_s(4, FEW) == 0.005
