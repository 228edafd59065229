"""What rows are worth and cost: the rule, the rate that it prices time at, and quotes."""

from unittest.mock import Mock

import pytest

from outrider.v1.target_pb2 import Quote
from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.scheduling.prices import Prices

DECODE_S, ROW_S = 0.020, 0.001
# Nobody has more rows than this.
MOST_ROWS = 64


class Costs(DecodeCosts):
    """A decode costs something, and each row of it; four rows are quicker than three where there are steps."""

    def __init__(self, *, has_steps: bool = False) -> None:
        super().__init__()
        for num_rows in range(1, MOST_ROWS + 1):
            is_slow = has_steps and num_rows == 3
            self.observe(num_rows, DECODE_S + ROW_S * num_rows * (1 + is_slow))


def prices(costs: DecodeCosts | None = None, *, tokens_per_s: float | None = 100.0) -> Prices:
    """Of a company that reaches so many tokens per second."""
    found = Prices(costs or Costs(), lambda num_sessions, num_rows: num_sessions * num_rows, MOST_ROWS)
    if tokens_per_s:
        rounds(found, tokens_per_s)
    return found


def rounds(
    found: Prices,
    tokens_per_s: float,
    *,
    round_s: float = 0.1,
    begin_s: float = 1.0,
    decode_s: float = 0.05,
    num_rows: int = 1,
) -> None:
    found.pause()
    for index in range(400):
        found.decoded(begin_s + index * round_s, decode_s, num_rows)
        found.answered(round(tokens_per_s * round_s))


def quoted(found: Prices, num_sessions: int = 1, num_present: int = 1, num_drafting: int = 1) -> Quote:
    return found.quote(num_sessions, num_present, num_drafting)


def test_as_many_draft_tokens_as_are_worth_their_rows() -> None:
    # A row takes the time of a tenth of a token, and has to bring a tenth more than that.
    assert prices().most_worthwhile(1, [[0.9, 0.5, 0.115, 0.105, 0.01]]) == 3


def test_none_where_none_is_worth_it() -> None:
    assert prices().most_worthwhile(1, [[0.09, 0.08]]) == 0


def test_nobody_waits_for_a_draft_of_another_for_more_than_a_few_decodes() -> None:
    """Of eight streams some looked up 14 tokens: a decode took 1.8 s, and 0.28 without draft tokens."""
    costs = DecodeCosts()
    for num_rows in range(1, 129):
        costs.observe(num_rows, 0.12 + 0.02 * num_rows)
    found = Prices(costs, lambda num_sessions, num_rows: num_sessions * num_rows, 256)
    rounds(found, 30.0)
    # 8 rows take 0.28 s, 40 take 0.92 and 48 take 1.08.
    assert found.most_worthwhile(8, [[1.0] * 14] * 8) == 4
    assert found.most_worthwhile(8, [[1.0] * 14] * 8, num_forced=6) == 6
    assert found.most_worthwhile(1, [[1.0] * 14]) == 14, "alone"
    assert len(quoted(found, 8, 8, 8).row_ms) == 4, "no draft is made in vain"
    assert len(quoted(found, 1, 1, 1).row_ms) == 32


def test_a_row_for_one_is_a_row_for_all() -> None:
    worths = [[0.9, 0.15], [0.2]]
    assert prices().most_worthwhile(2, worths) == 1, "0.15 tokens for two rows"
    assert prices().most_worthwhile(2, [[0.9, 0.15], [0.2, 0.15]]) == 2
    assert prices().most_worthwhile(8, [[0.7]]) == 0, "seven others have a row more for it"


def test_what_is_verified_anyway_makes_room_for_all() -> None:
    assert prices().most_worthwhile(8, [[0.05, 0.04, 0.03]], num_forced=2) == 2


def test_a_loss_on_the_way_to_a_gain_is_taken() -> None:
    # Two draft tokens are three rows, which take as long as six.
    assert prices(Costs(has_steps=True)).most_worthwhile(1, [[0.5, 0.05, 0.3, 0.01]]) == 3


def test_all_while_the_rate_is_not_known() -> None:
    assert prices(tokens_per_s=None).most_worthwhile(1, [[0.1, 0.01]]) == 2


def test_the_rate_is_of_all_time_in_which_somebody_is_there() -> None:
    found = prices()
    assert found.tokens_per_s == pytest.approx(100.0)
    found.pause()
    rounds(found, 100.0, begin_s=1000.0)
    assert found.tokens_per_s == pytest.approx(100.0), "nobody was there for quarter of an hour"


def test_the_rate_follows_the_load() -> None:
    found = prices()
    rounds(found, 40.0, begin_s=1 + 400 * 0.1)
    assert found.tokens_per_s == pytest.approx(40.0, rel=0.01)


def company(num_sessions: int, tokens_per_s: float, num_rows: int = 1) -> Prices:
    found = prices(tokens_per_s=None)
    found.resize(num_sessions)
    rounds(found, tokens_per_s, num_rows=num_rows)
    return found


def test_a_smaller_company_is_priced_at_what_its_sessions_would_reach_by_themselves() -> None:
    found = company(4, 400.0, num_rows=4)
    found.resize(1)
    # A fourth of the tokens, in decodes of 24 ms instead of 36.
    assert found.tokens_per_s == pytest.approx(400.0 / 4 * 36 / 24)
    found = company(4, 100.0, num_rows=4)
    found.resize(1)
    assert found.tokens_per_s == pytest.approx(1 / 0.021), "no less than plainly"


def test_a_larger_company_reaches_no_less_and_how_much_more_nobody_knows() -> None:
    """One alone with long drafts reached 26 tokens/s; eight like it were taken to reach 84 and drafted nothing."""
    found = company(1, 400.0, num_rows=10)
    found.resize(8)
    assert found.tokens_per_s == pytest.approx(400.0)
    found = company(1, 60.0, num_rows=10)
    found.resize(8)
    assert found.tokens_per_s == pytest.approx(8 / 0.028), "no less than plainly"
    assert quoted(found, 8, 8, 8).idle_share == 1.0


def test_a_company_that_was_there_before_is_priced_at_what_it_had_reached() -> None:
    found = company(4, 400.0, num_rows=4)
    found.resize(3)
    rounds(found, 200.0, begin_s=1000.0)
    found.resize(4)
    assert found.tokens_per_s == pytest.approx(400.0)
    found.resize(0)
    found.resize(4)
    assert found.tokens_per_s == pytest.approx(400.0), "nobody is no company"
    found.resize(3)
    assert found.tokens_per_s == pytest.approx(200.0, rel=0.01)


def test_a_quote_tells_the_share_of_one_who_drafts() -> None:
    alone = quoted(prices())
    assert list(alone.row_ms[:3]) == pytest.approx([1.0, 2.0, 3.0])
    assert (alone.decode_ms, alone.tokens_per_ms) == pytest.approx((21.0, 0.1))
    company = quoted(prices(), 4, 4, 4)
    assert list(company.row_ms[:2]) == pytest.approx([1.0, 2.0]), "all four have a row more, and all four draft"
    mixed = quoted(prices(), 4, 4, 2)
    assert list(mixed.row_ms[:2]) == pytest.approx([2.0, 4.0]), "two have to pay for four"
    assert (mixed.num_sessions, mixed.num_drafting) == (4, 2)
    groups = quoted(prices(), 4, 8, 8)
    assert list(groups.row_ms[:2]) == pytest.approx([1.0, 2.0]), "four of eight in a decode"
    assert groups.idle_share == pytest.approx(0.5)
    assert alone.idle_share == company.idle_share == 1.0, "nobody is decoded for while they draft"


def test_those_who_ask_for_the_first_time_share_the_price() -> None:
    """Of 16 that began together one was known, so that a row was quoted at 16 times its price, and nobody drafted."""
    works = [Mock(wants_quote=True) for _ in range(4)]
    prices().tell(works, num_present=4, num_drafting=1)
    assert {work.quote.num_drafting for work in works} == {4}


def test_more_rows_never_cost_less() -> None:
    row_ms = quoted(prices(Costs(has_steps=True))).row_ms
    assert list(row_ms[:3]) == pytest.approx([1.0, 3.0, 3.0]), "three rows are padded to four"


def test_a_quote_holds_until_it_is_wrong() -> None:
    found = prices()
    first = quoted(found)
    rounds(found, 101.0, round_s=1.0, begin_s=100.0, decode_s=0.5)
    assert quoted(found) is first
    rounds(found, 150.0, round_s=1.0, begin_s=1000.0, decode_s=0.5)
    second = quoted(found)
    assert second.version not in (0, first.version)
    assert second.tokens_per_ms == pytest.approx(0.15, rel=0.01)


def test_another_process_has_other_versions() -> None:
    assert quoted(prices()).version != quoted(prices()).version


def test_no_more_is_quoted_than_fits_into_a_decode() -> None:
    assert len(quoted(prices(), 16, 16, 16).row_ms) == MOST_ROWS // 16 - 1


def test_costs_are_of_companies_alike() -> None:
    costs = DecodeCosts()
    for num_rows in (8, 16):
        costs.observe(num_rows, 0.010, num_sessions=1)
        costs.observe(num_rows, 0.001 * num_rows, num_sessions=8)
    assert [costs.least_s(8, number) for number in (1, 8)] == pytest.approx([0.010, 0.008])
    assert [costs.least_s(16, number) for number in (1, 8, 9)] == pytest.approx([0.010, 0.016, 0.016])


def test_costs_of_a_company_that_was_never_there_are_those_of_all() -> None:
    costs = DecodeCosts()
    for num_rows in (8, 16):
        costs.observe(num_rows, 0.001 * num_rows, num_sessions=8)
    assert costs.least_s(16, 2) == pytest.approx(0.016)


def test_no_decode_is_risked_that_is_much_larger_than_any_that_was_seen() -> None:
    costs = DecodeCosts()
    for num_rows in (4, 8):
        costs.observe(num_rows, 0.010, num_sessions=4)
    found = prices(costs)
    assert len(quoted(found, 4, 4, 4).row_ms) == 3, "of 16 rows for four sessions"
    assert found.most_worthwhile(4, [[0.9] * 8] * 4) == 3
    assert found.most_worthwhile(4, [[0.9] * 8] * 4, num_forced=6) == 6
    costs.observe(16, 0.010, num_sessions=4)
    assert found.most_worthwhile(4, [[0.9] * 8] * 4) == 7


def test_quotes_of_other_lengths_are_other_quotes() -> None:
    costs = DecodeCosts()
    for num_rows in (4, 8):
        costs.observe(num_rows, 0.010, num_sessions=4)
    found = prices(costs)
    before = quoted(found, 4, 4, 4)
    costs.observe(16, 0.010, num_sessions=4)
    after = quoted(found, 4, 4, 4)
    assert (after.version != before.version, len(after.row_ms)) == (True, 7)
