"""What decodes cost, from those that happen. Pure."""

import math
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate

# Recent times of one size. The least of them is what a decode takes that nothing disturbs.
_NUM_RECENT = 8
# Sizes up to this are kept apart, as kernels have steps there; larger ones where they differ by an eighth.
_MOST_EXACT_ROWS = 64
# A size of which fewer were seen, or none among so many decodes, takes no longer than a line through others says: it
# would never be tried again where its times were long, as the machine did something else.
_NUM_KNOWN, _MOST_UNSEEN = 3, 1024
# Of companies, whose sizes are weighed against each other, it is so many. The next three tell then what a size takes,
# whatever it took before.
_STALE = 32
# Of what decodes take more or less than the mean of so many, the share that is taken for load at once, and the most.
_LONG, _LOAD_SHARE, _MOST_RATIO = 64, 1 / 16, 2.0
# The share, of its logarithm, in which the load of one size is taken to be that of others: decodes of few rows wait for
# memory, those of many compute. 48 rows took 1.05 to 1.10 s in minutes in which 16 took 0.42, and 0.55 and more.
_COMMON_LOAD = 0.5
# Until they are known better: what a decode and a copy cost, in rows. Copies of 0.5 to 14 rows were seen.
_START_DECODE_ROWS = 16.0
_START_COPY_ROWS = 16.0
# A copy that cost much once is tried again for prefixes longer than this.
_MOST_COPY_ROWS = 256.0


class _Curve:
    """Recent times by rows: for each size that was seen one of them and the median, and the least of larger ones.

    It learns from every decode, while whoever waits for the next one waits for this too.
    """

    def __init__(self, pick: Callable[[Sequence[float]], float], shape: "_Curve | None" = None) -> None:
        """`pick` one of the recent times of a size. Where these say too little, rows cost what they do in `shape`."""
        self._pick = pick
        self._shape = shape
        self._most_unseen = _MOST_UNSEEN if shape is None else _STALE
        self._recent: dict[int, deque[float]] = {}
        self._num_observed = 0
        # When a size was last seen, in decodes.
        self._seen: dict[int, int] = {}
        # How many of a size were seen, and the mean of many.
        self._means: dict[int, tuple[int, float]] = {}
        self.times: list[tuple[int, float]] = []
        self.usual: list[tuple[int, float]] = []
        # The least time of the sizes from each place of `times` on, and no time beyond the last.
        self._floor_s = [math.inf]

    def ratio(self, num_rows: int, duration_s: float) -> float:
        """Return how a decode's time compares with the mean of its size; 1 where too little is known of that."""
        size = _size(num_rows)
        num_seen, mean_s = self._means.get(size, (0, 0.0))
        size_s = duration_s * size / num_rows
        self._means[size] = num_seen + 1, mean_s + (size_s - mean_s) / min(num_seen + 1, _LONG)
        return size_s / mean_s if num_seen >= _NUM_RECENT // 2 else 1.0

    def observe(self, num_rows: int, duration_s: float) -> None:
        size = _size(num_rows)
        place = bisect_left(self.usual, (size,))
        if size not in self._recent:
            self._recent[size] = deque(maxlen=_NUM_RECENT)
            self.usual.insert(place, (size, 0.0))
        times = self._recent[size]
        self._num_observed += 1
        if self._num_unseen(size) > _STALE:
            while len(times) >= _NUM_KNOWN:
                times.popleft()
        times.append(duration_s * size / num_rows)
        self._seen[size] = self._num_observed
        self.usual[place] = size, statistics.median(times)
        self.times = self._times()
        floor_s = accumulate((time_s for _, time_s in reversed(self.times)), min, initial=math.inf)
        self._floor_s = list(floor_s)[::-1]

    def _times(self) -> list[tuple[int, float]]:
        """Return the time of each size, ascending."""
        times = [(size, self._pick(self._recent[size])) for size, _ in self.usual]
        known = [(size, time_s) for size, time_s in times if self._is_known(size)]
        if len(known) < 2:
            return times
        # Fewer rows than any known take no longer than these: a line says little of them.
        least = known[0][0]
        return [
            (size, time_s if self._is_known(size) else min(time_s, self._by_line(known, max(size, least))))
            for size, time_s in times
        ]

    def _is_known(self, size: int) -> bool:
        is_recent = self._num_unseen(size) <= self._most_unseen
        return is_recent and len(self._recent.get(size, ())) >= _NUM_KNOWN

    def _num_unseen(self, size: int) -> int:
        """Return the number of decodes since one of this size."""
        return self._num_observed - self._seen.get(size, 0)

    def estimate_s(self, num_rows: int) -> float:
        """Return the estimate of a decode of so many rows; see `DecodeCosts.decode_s`."""
        return self._by_line(self.times, num_rows)

    def _by_line(self, known: Sequence[tuple[int, float]], num_rows: int) -> float:
        """Return the time of so many rows by known ones; a line through sizes near each other says little of others."""
        if known and num_rows > known[-1][0] < 2 * known[0][0] and self._shape is not None:
            return self._as_in(self._shape, known[-1], num_rows)
        return _estimate_s(known, num_rows)

    def _as_in(self, shape: "_Curve", nearest: tuple[int, float], num_rows: int) -> float:
        """Return the time of so many rows if those beyond the nearest size cost what they do in another curve."""
        size, time_s = nearest
        return time_s + max(0.0, _estimate_s(shape.times, num_rows) - _estimate_s(shape.times, size))

    def _guess_s(self, num_rows: int) -> float:
        """Return what a size that is not known takes, by the largest below that is; else infinity."""
        known = [(size, time_s) for size, time_s in self.times if size <= num_rows and self._is_known(size)]
        if not known or self._shape is None or self._is_known(_size(num_rows)):
            return math.inf
        return self._as_in(self._shape, known[-1], num_rows)

    def least_s(self, num_rows: int) -> float:
        """Return the estimate of the quickest decode of at least so many rows."""
        above = bisect_left(self.times, (num_rows + 1,))
        return min(self.estimate_s(num_rows), self._floor_s[above], self._guess_s(num_rows))


class DecodeCosts:
    """Seconds of a decode by its rows, padding included, and its sessions: least of recent times. One thread owns it.

    Sessions are told apart, by powers of two, where that matters: in what a company is quoted (`company_s`, `least_s`).
    There sizes are compared that were not seen in the same minutes, with a longer or shorter context, on a machine that
    did more or less beside. So these times are kept as they would be without such a load, by which all are larger or
    smaller in part, and the present one is found from the sizes that are seen again. Medians are compared: the least of
    some times is further below them for a decode that takes long than for a short one, as more happens beside it.
    """

    def __init__(self) -> None:
        self._all = _Curve(min)
        self._least = self._all.times
        self._usual = self._all.usual
        self._of_company: dict[int, _Curve] = {}
        self._load = 1.0
        self._ratios: deque[float] = deque(maxlen=3)
        self._recent_copies: deque[float] = deque(maxlen=_NUM_RECENT)

    def observe(self, num_rows: int, duration_s: float, num_sessions: int = 1, *, after_copy: bool = False) -> None:
        """Take note of one decode; one `after_copy` did a copy between slots as well."""
        if after_copy:
            if self._least:
                self._recent_copies.append(max(0.0, duration_s - self.decode_s(num_rows)))
            return
        self._all.observe(num_rows, duration_s)
        self._least, self._usual = self._all.times, self._all.usual
        company = self._of_company.setdefault(num_sessions.bit_length(), _Curve(statistics.median, self._all))
        # A single disturbed decode is no load.
        self._ratios.append(company.ratio(num_rows, duration_s / self._load))
        self._load *= 1 + _LOAD_SHARE * (min(statistics.median(self._ratios), _MOST_RATIO) - 1)
        company.observe(num_rows, duration_s / self._common_load)

    @property
    def _common_load(self) -> float:
        """By how much sizes that were not seen lately are taken to be longer than without load."""
        return math.pow(self._load, _COMMON_LOAD)

    def decode_s(self, num_rows: int) -> float:
        """Estimate one decode of so many rows that nothing disturbs; 0 while nothing is known.

        Between sizes that were seen it is a line. Below them it is the line of the nearest two, but never less than in
        proportion to the rows; above them that of the largest and one of half as many rows, but never more than so.
        """
        return _estimate_s(self._least, num_rows)

    def company_s(self, num_rows: int, num_sessions: int) -> float:
        """Estimate one decode of so many rows of so many sessions, at the present load."""
        curve, load = self._of(num_sessions)
        return load * curve.estimate_s(num_rows)

    def least_s(self, num_rows: int, num_sessions: int) -> float:
        """Estimate the quickest of those with at least so many rows: some kernels take longer for fewer."""
        curve, load = self._of(num_sessions)
        return load * curve.least_s(num_rows)

    def most_seen(self, num_sessions: int) -> int:
        """Return the most rows of decodes of such companies, of all where these are too few; 0 where none was seen."""
        curve, _ = self._of(num_sessions)
        return curve.times[-1][0] if curve.times else 0

    def _of(self, num_sessions: int) -> tuple[_Curve, float]:
        """Return the times of companies alike, and the load to multiply them by; of all where these are too few."""
        curve = self._of_company.get(num_sessions.bit_length(), self._all)
        return (curve, self._common_load) if curve is not self._all and len(curve.times) > 1 else (self._all, 1.0)

    def rows_within(self, limit_s: float, start_rows: int, most_rows: int) -> int:
        """Return how many rows, at least 8 and at most `most_rows`, one decode evaluates in `limit_s`.

        While nothing is known it is `start_rows`.
        """
        if not self._least:
            return min(start_rows, most_rows)
        rows = step = 8
        while rows + step <= most_rows and self.decode_s(rows + step) <= limit_s:
            rows, step = rows + step, 2 * step
        while step > 1:
            step //= 2
            if rows + step <= most_rows and self.decode_s(rows + step) <= limit_s:
                rows += step
        return min(rows, most_rows)

    def usual_s(self, num_rows: int) -> float:
        """Estimate one decode of so many rows beside what goes on here: the drafts of others on the same cores, say."""
        return _estimate_s(self._usual, num_rows)

    @property
    def decode_in_rows(self) -> float:
        """What a decode costs by itself, whatever its rows: as many rows as take that long."""
        if len(self._least) < 2:
            return _START_DECODE_ROWS
        (few, few_s), (many, many_s) = self._least[0], self._few_times()
        row_s = max((many_s - few_s) / (many - few), 0.01 * few_s)
        return max(0.0, few_s / row_s - few)

    @property
    def copy_in_rows(self) -> float:
        """What a copy between slots costs: as many rows of a prompt as take that long."""
        if not self._recent_copies or len(self._least) < 2:
            return _START_COPY_ROWS
        rows, duration_s = self._least[-1]
        return min(min(self._recent_copies) / (duration_s / rows), _MOST_COPY_ROWS)

    def _few_times(self) -> tuple[int, float]:
        """Return the size near 8 times the smallest: cost curves bend beyond."""
        smallest = self._least[0][0]
        return min(self._least[1:], key=lambda known: abs(known[0] - 8 * smallest))


def _estimate_s(known: Sequence[tuple[int, float]], num_rows: int) -> float:
    if not known:
        return 0.0
    if len(known) == 1:
        return known[0][1] * (num_rows / known[0][0])
    index = bisect_left(known, (num_rows,))
    first = min(max(index - 1, 0), len(known) - 2)
    estimate_s = _line(known[first : first + 2], num_rows)
    smallest, largest = known[0], known[-1]
    if num_rows < smallest[0]:
        return min(max(estimate_s, smallest[1] * num_rows / smallest[0]), smallest[1])
    if num_rows > largest[0]:
        # Two sizes near each other say little of one that is far from both.
        half = max(bisect_left(known, (largest[0] // 2 + 1,)) - 1, 0)
        estimate_s = _line((known[half], largest), num_rows)
        return max(min(estimate_s, largest[1] * num_rows / largest[0]), largest[1])
    return estimate_s


def _line(points: Sequence[tuple[int, float]], rows: int) -> float:
    (first, first_s), (last, last_s) = points
    return first_s + (last_s - first_s) * (rows - first) / (last - first)


def _size(num_rows: int) -> int:
    if num_rows <= _MOST_EXACT_ROWS:
        return num_rows
    step = 1 << ((num_rows - 1).bit_length() - 4)
    return -(-num_rows // step) * step
