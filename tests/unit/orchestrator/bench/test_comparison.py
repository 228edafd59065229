"""What is measured again, what is faster, and what is noise."""

from dataclasses import replace

import pytest

from orchestrator.bench.results.comparison import (
    Split,
    Verdict,
    best_case,
    best_setting,
    compare,
    draft_verdicts,
    kept_cases,
    noise,
    ratio,
    system_verdicts,
)
from orchestrator.bench.results.sentence import answer
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


def test_halving_keeps_the_best_few() -> None:
    runs = [run("ours", name, rate) for name, rate in (("plain", 9), ("1", 4), ("auto", 3), ("7", 2), ("3", 1))]
    names = {"ours": ["plain", "auto", "1", "3", "7"]}
    kept = kept_cases(runs, names, ["ours"], 4, num_best=3)
    assert kept == {("ours", name) for name in ("plain", "1", "auto", "7")}


def test_best_settings_are_those_of_so_many_streams() -> None:
    runs = [run("ours", "1", 10, num_streams=1), run("ours", "7", 50, num_streams=1), run("ours", "1", 90)]
    assert best_setting(runs, "ours", 1) == "7"
    assert best_setting(runs, "ours", 4) == "1"


@pytest.mark.parametrize(
    ("numbers", "choosing", "comparing"),
    [
        ([0], {0}, {0}),
        ([0, 1], {0}, {1}),
        ([0, 1, 2], {0, 1}, {2}),
        ([0, 1, 2, 3, 4, 5], {0, 1, 2}, {3, 4, 5}),
    ],
)
def test_rounds_that_choose_do_not_compare(numbers: list[int], choosing: set[int], comparing: set[int]) -> None:
    split = Split.of([run("ours", "1", 10, number) for number in numbers])
    assert (split.choosing, split.comparing) == (choosing, comparing)
    assert split.is_fresh == (len(numbers) > 1)


def test_a_lucky_round_chooses_but_does_not_compare() -> None:
    plain = [run("ours", name, 100, number) for number in range(6) for name in ("plain", "plain again")]
    # Equal to plain decoding but for one lucky round among those that choose.
    lucky = [run("ours", "3", 200 if number == 1 else 100, number) for number in range(6)]
    other = [run("ours", "1", 99, number) for number in range(6)]
    (verdict,) = draft_verdicts([*plain, *lucky, *other], "ours")
    assert verdict.case == ("ours", "3")
    assert (verdict.ratio, verdict.num_rounds, verdict.is_fresh, verdict.kind) == (1.0, 3, True, "same")


def test_noise_is_the_most_by_which_equal_runs_lie_apart() -> None:
    again = [100.0, 110.0, 80.0]
    runs = [run("ours", "plain", 100, number) for number in range(3)]
    runs += [run("ours", "plain again", rate, number) for number, rate in enumerate(again)]
    assert noise(runs, "ours", 4) == pytest.approx(0.25)
    assert noise(runs[:3], "ours", 4) is None


def test_where_pairs_are_few_those_of_other_numbers_of_streams_count_too() -> None:
    runs = [run("ours", "plain", 100, num_streams=num) for num in (1, 2, 4)]
    runs += [run("ours", "plain again", rate, num_streams=num) for num, rate in ((1, 100), (2, 99), (4, 125))]
    assert noise(runs, "ours", 1) == pytest.approx(0.25)


def test_fewer_than_three_equal_pairs_claim_nothing() -> None:
    def of_rounds(num_rounds: int) -> list[Verdict]:
        settings = (("plain", 100.0), ("plain again", 101.0), ("3", 300.0))
        return draft_verdicts([run("ours", *each, number) for number in range(num_rounds) for each in settings], "ours")

    assert [of_rounds(num)[0].kind for num in (1, 2, 3)] == ["unknown", "unknown", "faster"]
    assert answer(of_rounds(2)).startswith("More rounds are needed to find out whether a draft is worth it here, 3 at")


def verdict(ratio: float, noise: float | None = 0.1, num_streams: int = 1, setting: str = "3") -> Verdict:
    case, plain = ("ours", setting), ("ours", "plain")
    return Verdict(num_streams, case, plain, ratio * 100, 100.0, ratio, 3, noise, is_fresh=True)


@pytest.mark.parametrize(
    ("ratio", "noise", "kind"),
    [(1.05, 0.1, "same"), (0.92, 0.1, "same"), (1.2, 0.1, "faster"), (0.8, 0.1, "slower"), (1.01, None, "unknown")],
)
def test_a_difference_within_the_noise_is_none(ratio: float, noise: float | None, kind: str) -> None:
    assert verdict(ratio, noise).kind == kind


def test_what_has_no_round_in_common_is_not_compared() -> None:
    runs = [run("ours", "3", 10, 0), run("ours", "plain", 10, 1)]
    assert compare(runs, ("ours", "3"), ("ours", "plain"), 4, noise=0.1, is_fresh=True) is None


def test_the_best_of_ours_is_compared_with_the_best_of_each_other() -> None:
    runs = [run("ours", name, rate, number) for number in (0, 1) for name, rate in (("plain", 10), ("3", 30))]
    runs += [run("theirs", name, rate, number) for number in (0, 1) for name, rate in (("plain", 20), ("7", 15))]
    (found,) = system_verdicts(runs, "ours")
    assert (found.case, found.reference, found.ratio) == (("ours", "3"), ("theirs", "plain"), 1.5)


def test_the_answer_is_one_sentence_for_each_outcome() -> None:
    yes = answer([verdict(1.4), verdict(1.2, num_streams=4, setting="1")])
    assert yes == (
        "Yes, a draft is worth it here: with 1 stream (1.40 times the tokens/s of plain decoding, 3 draft tokens) and "
        "with 4 streams (1.20 times the tokens/s of plain decoding, 1 draft token); equal runs lay up to 10% apart."
    )
    assert answer([verdict(0.5)]).startswith("No, a draft costs more than it saves here: with 1 stream (0.50 times")
    assert answer([verdict(1.0)]).startswith("A draft makes no difference here that could be told from noise:")
    mixed = answer([verdict(1.4), verdict(1.0, num_streams=4), verdict(0.5, num_streams=8)])
    assert mixed.startswith("It depends on how many streams share the machine: worth it with 1 stream (1.40")
    assert "no difference beyond noise with 4 streams" in mixed
    assert "not worth it with 8 streams" in mixed
    unknown = answer([verdict(1.4, None)])
    assert unknown.startswith("More rounds are needed to find out whether a draft is worth it here")
    undrafted = replace(verdict(0.7), is_undrafted=True)
    assert answer([undrafted]).startswith("Whether a draft is worth it here is not known, as it was mostly not used: ")
    mixed = answer([verdict(1.4, num_streams=4), undrafted])
    assert "; not known, as the draft was mostly not used, with 1 stream (0.70" in mixed
    assert answer([]) == "Nothing was measured that says whether a draft is worth it."


def test_lookup_in_the_text_is_not_called_a_draft() -> None:
    assert answer([verdict(1.4, setting="ngram")]).startswith("Yes, lookup in the text is worth it here: with 1 stream")
    assert answer([verdict(1.0, setting="ngram")]).startswith("Lookup in the text makes no difference here")
    both = answer([verdict(1.4, setting="ngram"), verdict(1.2, num_streams=4)])
    assert both.startswith("Yes, a draft or lookup in the text is worth it here: with 1 stream")
    texts = answer([verdict(1.4, setting="ngram"), verdict(1.2, num_streams=4, setting="prediction")])
    assert texts.startswith("Yes, lookup in the text or a prediction is worth it here: with 1 stream")
