"""Whether waiting pays: both ways are tried and compared."""

from services.engine.scheduling.comparison import Comparison


def rate(compared: Comparison, *, waiting: float, not_waiting: float, num_rounds: int) -> float:
    """Let rounds of 0.1 s follow each other, with so many tokens each; return the share of them that did not wait."""
    num_not_waiting = 0
    for _ in range(num_rounds):
        waits = compared.waits(4)
        num_not_waiting += not waits
        compared.count(waiting if waits else not_waiting, 0.1, 4)
    return num_not_waiting / num_rounds


def test_waiting_that_pays_goes_on_and_is_doubted_in_one_percent_of_the_time() -> None:
    compared = Comparison()
    share = rate(compared, waiting=10.0, not_waiting=7.0, num_rounds=20_000)
    assert 0.002 < share <= 0.01
    assert compared.waits(4)


def test_waiting_that_does_not_pay_ends() -> None:
    compared = Comparison()
    rate(compared, waiting=7.0, not_waiting=10.0, num_rounds=3_000)
    assert not compared.waits(4)
    assert rate(compared, waiting=7.0, not_waiting=10.0, num_rounds=20_000) >= 0.99
    assert compared.waits(16), "a larger company is another question"


def test_waiting_begins_again_when_it_pays_again() -> None:
    compared = Comparison()
    rate(compared, waiting=7.0, not_waiting=10.0, num_rounds=3_000)
    rate(compared, waiting=10.0, not_waiting=7.0, num_rounds=3_000)
    assert compared.waits(4)


def test_a_company_that_changes_is_not_compared_with_itself() -> None:
    compared = Comparison()
    for number in range(20_000):
        compared.count(10.0 if number % 2 else 1.0, 0.1, 4 + number % 2)
    assert compared.waits(4) and compared.waits(5)
