"""What is measured again, what is faster, and what is noise."""

from orchestrator.bench.comparison import best_case, best_setting, kept_cases, ratio
from tests.unit.orchestrator.bench.runs import run


def test_the_best_number_of_draft_tokens_is_the_one_with_the_highest_median() -> None:
    runs = [run("ours", "plain", 90), run("ours", "1", 10), run("ours", "3", 30), run("ours", "7", 20)]
    assert best_setting(runs, "ours", 4) == "3"
    assert best_case(runs, "ours", 4) == ("ours", "plain")
    assert best_setting(runs[:1], "ours", 4) is None
    assert best_case(runs, "theirs", 4) is None


def test_halving_keeps_plain_decoding_and_the_best_number_which_checkouts_share() -> None:
    runs = [run("ours", "1", 10), run("ours", "3", 30), run("before", "1", 20), run("before", "3", 10)]
    runs += [run("floor", "1", 10), run("floor", "3", 20)]
    settings = {"ours": ["plain", "1", "3"], "before": ["alone", "1", "3"], "floor": ["plain", "1", "3"]}
    kept = kept_cases(runs, settings, ["ours", "before"], 4)
    ours = {("ours", "plain"), ("ours", "1"), ("ours", "3")}
    assert kept == ours | {("before", "alone"), ("before", "1"), ("before", "3"), ("floor", "plain"), ("floor", "3")}


def test_a_yardstick_may_be_one_of_several_systems() -> None:
    runs = [run("floor", "3", 40), run("floor, flash attention", "3", 50)]
    assert best_case(runs, "floor", 4) == ("floor, flash attention", "3")


def test_a_ratio_is_the_median_of_the_rounds_that_have_both() -> None:
    runs = [run("ours", "3", rate, number) for number, rate in enumerate((10, 30, 50, 999))]
    runs += [run("theirs", "3", rate, number) for number, rate in enumerate((10, 10, 10))]
    assert ratio(runs, ("ours", "3"), ("theirs", "3"), 4) == 3.0
    assert ratio(runs, ("ours", "3"), ("theirs", "7"), 4) is None
    assert ratio(runs, ("ours", "3"), None, 4) is None
