"""What is faster, by how much, and what is noise.

A setting is chosen by some rounds and compared by others, so that luck is not taken for speed: the best of several
equal things looks better than it is in the rounds that made it the best. How far equal things lie apart is known from
plain decoding, which every round measures twice.
"""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.bench.systems.system import AGAIN, ALONE, PLAIN

Runs = Sequence[dict[str, Any]]
# System and setting.
Case = tuple[str, str]
PLAIN_NAMES = (PLAIN, ALONE, AGAIN)
# Fewer equal pairs say too little of the noise with so many streams, so that those of all numbers of streams are
# taken; where these are fewer too, it is not known: something equal exceeds the most of k pairs with chance 1/(k+1).
FEW_PAIRS = 3


def rates(runs: Runs, case: Case, num_streams: int) -> dict[int, float]:
    """Return the tokens per second of a system with a setting, by round."""
    system, setting = case
    return {
        run["round"]: run["tokens_per_s"]
        for run in runs
        if (run["system"], run["setting"], run["num_streams"]) == (system, setting, num_streams)
    }


def without_draft(runs: Runs, case: Case, num_streams: int) -> tuple[int, int] | None:
    """Return in how many of how many cycles a case had no draft, where it should have had one in most; None otherwise.

    Lookup drafts only where it finds something, and `auto` only where that pays, so that this counts for `auto` only
    where a draft was missed and there is no other. The first cycle of a stream reads the prompt, and the last one may
    have nothing to draft.
    """
    own = [run for run in runs if (run["system"], run["setting"], run["num_streams"]) == (*case, num_streams)]
    own = [run for run in own if "num_cycles" in run]
    num_cycles, num_drafts, num_missed = (
        sum(run[name] for run in own) for name in ("num_cycles", "num_drafts", "num_fallbacks")
    )
    is_meant = case[1].isdecimal() or (case[1] == "auto" and num_missed and not num_drafts)
    if not is_meant or 2 * num_drafts >= num_cycles - 2 * num_streams * len(own):
        return None
    return num_cycles - num_drafts, num_cycles


def drafted_settings(runs: Runs, system: str, num_streams: int) -> list[str]:
    """Return the settings of a system that draft, by tokens per second, the best first."""
    names = {run["setting"] for run in runs if run["system"] == system and run["num_streams"] == num_streams}
    median = {name: _median(rates(runs, (system, name), num_streams)) for name in names - set(PLAIN_NAMES)}
    return sorted(median, key=lambda name: (-median[name], name))


def best_setting(runs: Runs, system: str, num_streams: int) -> str | None:
    """Return the setting with drafts that has the most tokens per second; None where nothing drafts."""
    return next(iter(drafted_settings(runs, system, num_streams)), None)


def best_case(runs: Runs, prefix: str, num_streams: int) -> Case | None:
    """Return the best case, plain ones included, of the systems whose names begin with `prefix`; None without any."""
    cases = {
        (run["system"], run["setting"])
        for run in runs
        if run["system"].startswith(prefix) and run["num_streams"] == num_streams and run["setting"] != AGAIN
    }
    return max(sorted(cases), key=lambda case: _median(rates(runs, case, num_streams)), default=None)


def kept_cases(
    runs: Runs, settings: Mapping[str, Sequence[str]], compared: Collection[str], num_streams: int, num_best: int = 1
) -> set[Case]:
    """Return what halving measures again of systems with these settings: plain decoding, and the best drafted ones.

    What is best for one of the `compared` systems is measured of all of them, so that they can be compared.
    """
    kept: set[Case] = set()
    for system, names in settings.items():
        kept |= {(system, name) for name in names if name in PLAIN_NAMES}
        for best in drafted_settings(runs, system, num_streams)[:num_best]:
            kept |= {(each, best) for each in (compared if system in compared else [system])}
    return kept


def ratios(runs: Runs, case: Case, reference: Case, num_streams: int) -> list[float]:
    """Return a case's tokens per second over a reference's, of each round that has both."""
    ours, theirs = rates(runs, case, num_streams), rates(runs, reference, num_streams)
    return [ours[number] / theirs[number] for number in sorted(ours) if number in theirs]


def ratio(runs: Runs, case: Case, reference: Case | None, num_streams: int) -> float | None:
    """Return the median, over the rounds that have both, of a case's tokens per second over a reference's."""
    if reference is None:
        return None
    common = ratios(runs, case, reference, num_streams)
    return statistics.median(common) if common else None


@dataclass(frozen=True)
class Split:
    """Which rounds choose a setting, and which compare it with others; the same ones where there is only one round."""

    choosing: frozenset[int]
    comparing: frozenset[int]

    @staticmethod
    def of(runs: Runs) -> "Split":
        """Return the earlier half of the rounds, the sweep over all settings among them, and the later half."""
        numbers = sorted({run["round"] for run in runs})
        if len(numbers) < 2:
            return Split(frozenset(numbers), frozenset(numbers))
        middle = (len(numbers) + 1) // 2 if len(numbers) > 2 else 1
        return Split(frozenset(numbers[:middle]), frozenset(numbers[middle:]))

    @property
    def is_fresh(self) -> bool:
        """Whether other rounds compare than those that choose."""
        return not self.choosing & self.comparing

    def chooses(self, runs: Runs) -> Runs:
        """Return the runs that choose."""
        return [run for run in runs if run["round"] in self.choosing]

    def compares(self, runs: Runs) -> Runs:
        """Return the runs that compare."""
        return [run for run in runs if run["round"] in self.comparing]


def noise(runs: Runs, system: str, num_streams: int) -> float | None:
    """Return the most by which two equal measures lay apart, as a part of their rate; None where pairs are too few."""
    return _most_apart(_equal_pairs(runs, system, [num_streams])) or _all_noise(runs, system)


def _all_noise(runs: Runs, system: str) -> float | None:
    return _most_apart(_equal_pairs(runs, system, {run["num_streams"] for run in runs}))


def _equal_pairs(runs: Runs, system: str, streams: Iterable[int]) -> list[float]:
    return [each for num in streams for each in ratios(runs, (system, AGAIN), (system, PLAIN), num)]


def _most_apart(pairs: Sequence[float]) -> float | None:
    return math.expm1(max(abs(math.log(pair)) for pair in pairs)) if len(pairs) >= FEW_PAIRS else None


@dataclass(frozen=True)
class Verdict:
    """A case against a reference, with so many streams: the median ratio of so many rounds.

    `noise` is None where it is not known. `is_fresh` says that other rounds chose it, `is_undrafted` that most of the
    case's cycles had no draft that should have had one.
    """

    num_streams: int
    case: Case
    reference: Case
    rate: float
    reference_rate: float
    ratio: float
    num_rounds: int
    noise: float | None
    is_fresh: bool
    is_undrafted: bool = False

    @property
    def kind(self) -> str:
        """`faster`, `slower`, within the noise `same`; `unknown` without noise, and `undrafted` without drafts."""
        if self.is_undrafted:
            return "undrafted"
        if self.noise is None:
            return "unknown"
        if abs(math.log(self.ratio)) <= math.log1p(self.noise):
            return "same"
        return "faster" if self.ratio > 1 else "slower"


def compare(
    runs: Runs, case: Case, reference: Case, num_streams: int, *, noise: float | None, is_fresh: bool
) -> Verdict | None:
    """Return the verdict on a case by the rounds that have both; None where none has."""
    found = ratios(runs, case, reference, num_streams)
    if not found:
        return None
    return Verdict(
        num_streams,
        case,
        reference,
        rate=_median(rates(runs, case, num_streams)),
        reference_rate=_median(rates(runs, reference, num_streams)),
        ratio=statistics.median(found),
        num_rounds=len(found),
        noise=noise,
        is_fresh=is_fresh,
        is_undrafted=without_draft(runs, case, num_streams) is not None,
    )


def draft_verdicts(runs: Runs, system: str) -> list[Verdict]:
    """Return, for each number of streams, the best setting that drafts against plain decoding."""
    split = Split.of(runs)
    found = []
    for num_streams in sorted({run["num_streams"] for run in runs if run["system"] == system}):
        best = best_setting(split.chooses(runs), system, num_streams)
        if best is None:
            continue
        level = noise(runs, system, num_streams)
        references = ((system, PLAIN), num_streams)
        verdict = compare(
            split.compares(runs), (system, best), *references, noise=level, is_fresh=split.is_fresh
        ) or compare(runs, (system, best), *references, noise=level, is_fresh=False)
        if verdict is not None:
            found.append(verdict)
    return found


def system_verdicts(runs: Runs, system: str) -> list[Verdict]:
    """Return, for each number of streams and other system, the best of this one against the best of the other."""
    split = Split.of(runs)
    others = [name for name in dict.fromkeys(run["system"] for run in runs) if name != system]
    found = []
    for num_streams in sorted({run["num_streams"] for run in runs if run["system"] == system}):
        for other in others:
            ours, theirs = (_chosen(split.chooses(runs), name, num_streams) for name in (system, other))
            if ours is None or theirs is None:
                continue
            level = noise(runs, system, num_streams)
            common = (ours, theirs, num_streams)
            verdict = compare(split.compares(runs), *common, noise=level, is_fresh=split.is_fresh) or compare(
                runs, *common, noise=level, is_fresh=False
            )
            if verdict is not None:
                found.append(verdict)
    return found


def _chosen(runs: Runs, system: str, num_streams: int) -> Case | None:
    return best_case([run for run in runs if run["system"] == system], system, num_streams)


def _median(values: dict[int, float]) -> float:
    return statistics.median(values.values()) if values else 0.0
