"""What is simulated: what decodes cost, how far the draft is, how often it is right. The ten of the table are data."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from orchestrator.simulation.engine import ModelCosts

# Rows that a draft reads in the time of one token: a prompt costs it as many tokens as it has such parts.
_ROWS_A_TOKEN = 256


@dataclass(frozen=True)
class LinearCosts:
    """A target: so many ms for a decode and so many more for each row of it."""

    fixed_ms: float
    row_ms: float

    def decode_ms(self, num_sessions: int, num_rows: int, context: int) -> float:
        """Return ms."""
        return self.fixed_ms + self.row_ms * num_rows


@dataclass(frozen=True)
class TokenCosts:
    """A draft: so many ms a token, the same for all sessions together, or as measured for some numbers of them."""

    token_ms: Sequence[tuple[int, float]]

    def decode_ms(self, num_sessions: int, num_rows: int, context: int) -> float:
        """Return ms."""
        return _interpolated(self.token_ms, num_sessions) * max(1.0, num_rows / num_sessions / _ROWS_A_TOKEN)


@dataclass(frozen=True)
class MeasuredCosts:
    """A target whose decodes were measured: ms by rows of each session, for some numbers of sessions."""

    decodes_ms: Sequence[tuple[int, Sequence[tuple[int, float]]]]

    def decode_ms(self, num_sessions: int, num_rows: int, context: int) -> float:
        """Return ms, on lines between what was measured."""
        rows = num_rows / num_sessions
        return _interpolated([(sessions, _interpolated(ms, rows)) for sessions, ms in self.decodes_ms], num_sessions)


@dataclass(frozen=True)
class Scenario:
    """One row of the table. Times are in ms, and those of the draft are of its round trip and of one token.

    `acceptance` goes from one rate to the next every `phase_length` tokens. `max_sessions` go into a decode of the
    target. One in `late_one_in` requests to the draft takes `late_ms` in the place of its round trip, and the draft is
    away for `away_s` of every `away_every_s`.
    """

    number: int
    name: str
    target: ModelCosts
    draft: ModelCosts
    round_trips_ms: Sequence[float]
    acceptance: Sequence[float] = (0.8,)
    variant: str = ""
    phase_length: int = 50
    max_sessions: int | None = None
    late_one_in: int = 0
    late_ms: float = 0.0
    away_s: float = 0.0
    away_every_s: float = 0.0
    most: int = field(default=16)

    @property
    def num_streams(self) -> int:
        """Streams that are served at a time, each with a round trip of its own."""
        return len(self.round_trips_ms)

    @property
    def title(self) -> str:
        """Number, name and variant."""
        return f"{self.number} {self.name}" + (f", {self.variant}" if self.variant else "")


def scenarios() -> list[Scenario]:
    """Return the ten scenarios, two of them in two variants."""
    fast, slow = TokenCosts([(1, 2.0)]), TokenCosts([(1, 8.0)])
    target = LinearCosts(20, 0.3)
    lan = Scenario(1, "LAN", target, fast, [0.5])
    weak = replace(lan, number=5, name="weak draft", round_trips_ms=[1.0])
    h200 = Scenario(9, "H200", _H200_TARGET, _H200_DRAFT, [0.5], (0.943,), "1 stream", most=24)
    return [
        lan,
        replace(lan, number=2, name="metro", round_trips_ms=[10.0]),
        replace(lan, number=3, name="WAN", target=LinearCosts(50, 0.3), round_trips_ms=[40.0], most=20),
        replace(lan, number=4, name="slow draft", target=LinearCosts(20, 0.5), draft=slow, round_trips_ms=[1.0]),
        replace(weak, acceptance=(0.3,), variant="acceptance 0.3"),
        replace(weak, acceptance=(0.2,), variant="acceptance 0.2"),
        replace(weak, number=6, name="changing", acceptance=(0.95, 0.2)),
        replace(
            lan, number=7, name="saturated", draft=TokenCosts([(1, 2.5)]), round_trips_ms=[5.0] * 16, max_sessions=8
        ),
        replace(lan, number=8, name="faulty", late_one_in=20, late_ms=500.0, away_s=2.0, away_every_s=10.0),
        h200,
        replace(h200, variant="8 streams", round_trips_ms=[0.5] * 8),
        replace(lan, number=10, name="far", round_trips_ms=[0.5, 0.5, 0.5, 150.0]),
    ]


# An 8B model in BF16 on an H200 with flash attention, and a draft of 0.48 GB that is bound by its launches.
_H200_TARGET = MeasuredCosts(
    [
        (1, [(1, 5.13), (2, 7.29), (4, 7.28), (8, 7.48), (16, 7.96)]),
        (8, [(1, 7.66), (2, 10.14), (4, 9.21), (8, 9.82), (16, 11.83)]),
    ]
)
_H200_DRAFT = TokenCosts([(1, 0.70), (8, 1.31)])


def _interpolated(points: Sequence[tuple[float, float]], at: float) -> float:
    """Return a value on the lines between points; beyond them on the line of the last two, never below the last."""
    if len(points) == 1 or at <= points[0][0]:
        return points[0][1]
    index = min(bisect_left(points, at, key=lambda point: point[0]), len(points) - 1)
    (first, first_value), (last, last_value) = points[index - 1 : index + 1]
    value = first_value + (last_value - first_value) * (at - first) / (last - first)
    return max(value, last_value) if at > last else value
