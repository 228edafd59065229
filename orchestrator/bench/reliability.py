"""How far the predicted chances of draft tokens hold: predicted against seen, in bins. Pure.

A token is tried where those before it in its draft were accepted: up to the first that was rejected. The expected
calibration error is that of Naeini, Cooper and Hauskrecht 2015 (AAAI), with the name of Guo et al. 2017, arXiv
1706.04599; the interval of what was seen that of Wilson 1927, which holds for few tokens and near 0 and 1 too.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from orchestrator.bench.cycles import Cycle
from orchestrator.bench.tables import Table

_NUM_BINS = 10
# Of a normal distribution so many deviations to either side hold 95 %.
_DEVIATIONS = 1.96


def reliability(cycles: Iterable[Cycle]) -> dict[str, Any]:
    """Return, for JSON, what was predicted and seen of the draft tokens that were tried; nothing if no chance is known.

    Of all tokens and of each of the `drafters`: `expected_calibration_error`, the mean distance of a bin's predicted
    chance from the share that was accepted, by its tokens, and `error_by_chance`, what that is on average where all
    chances are right, as so few tokens were tried. `bins` go from `least` to `most`; `seen_least` to `seen_most` is the
    95 % interval of `seen`.
    """
    tried: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for cycle in cycles:
        num_accepted = cycle.num_tokens - 1
        for depth, chance in enumerate(cycle.chances[: num_accepted + 1]):
            tried[cycle.drafter].append((chance, depth < num_accepted))
    drafters = [{"drafter": name, **_told(tokens)} for name, tokens in sorted(tried.items(), reverse=True)]
    if not drafters:
        return {}
    # What one drafter promises too much is not made up for by what another one does too little.
    return {**_errors(drafters), "drafters": drafters}


def _told(tokens: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    in_bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for chance, is_accepted in tokens:
        in_bins[min(int(chance * _NUM_BINS), _NUM_BINS - 1)].append((chance, is_accepted))
    bins = [_bin(place, in_bins[place]) for place in sorted(in_bins)]
    return {**_errors(bins), "bins": bins}


def _bin(place: int, tokens: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    num_tried, num_accepted = len(tokens), sum(is_accepted for _, is_accepted in tokens)
    predicted, seen = fmean(chance for chance, _ in tokens), num_accepted / num_tried
    least, most = wilson(num_accepted, num_tried)
    return {
        **{"least": place / _NUM_BINS, "most": (place + 1) / _NUM_BINS, "num_tried": num_tried},
        **{"predicted": predicted, "seen": seen, "seen_least": least, "seen_most": most},
        "expected_calibration_error": abs(predicted - seen),
        # The mean distance of a share from its chance, by the normal distribution.
        "error_by_chance": math.sqrt(2 * predicted * (1 - predicted) / (math.pi * num_tried)),
    }


def _errors(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many tokens were tried in all, and the errors of the parts by their tokens."""
    num_tried = sum(part["num_tried"] for part in parts)
    means = {
        name: sum(part[name] * part["num_tried"] for part in parts) / num_tried
        for name in ("expected_calibration_error", "error_by_chance")
    }
    return {"num_tried": num_tried, **means}


def wilson(num_accepted: int, num_tried: int) -> tuple[float, float]:
    """Return the 95 % interval of a chance of which so many were seen."""
    share, spread = num_accepted / num_tried, _DEVIATIONS**2 / num_tried
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def reliability_table(found: Mapping[str, Any]) -> str:
    """Return in Markdown what `reliability` found."""
    rows = [
        [
            drafter["drafter"],
            f"{each['least']:.1f} to {each['most']:.1f}",
            str(each["num_tried"]),
            f"{each['predicted']:.3f}",
            f"{each['seen']:.3f} ({each['seen_least']:.3f} to {each['seen_most']:.3f})",
        ]
        for drafter in found["drafters"]
        for each in drafter["bins"]
    ]
    header = ["drafter", "chance", "tokens tried", "predicted", "seen (95 % interval)"]
    of_each = [f" {each['drafter']} {in_words(each)} over {each['num_tried']} tokens." for each in found["drafters"]]
    every = f"Expected calibration error {in_words(found)}."
    return f"{Table(header, rows).markdown()}\n{every}{''.join(of_each) if len(of_each) > 1 else ''}\n"


def in_words(errors: Mapping[str, Any]) -> str:
    """Return the expected calibration error as a text, beside what chance alone makes of it."""
    return f"{errors['expected_calibration_error']:.3f} (by chance alone {errors['error_by_chance']:.3f})"
