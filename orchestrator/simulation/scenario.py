"""What is simulated: what decodes cost, how far the draft is, how often it is right. The ten of the table are data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.costs import H200, Costs, load_costs
from services.frame.program.startup import StartupError

# Rows that a draft reads in the time of one token: a prompt costs it as many tokens as it has such parts.
_ROWS_A_TOKEN = 256


class ModelCosts(Protocol):
    """What a model's decodes cost."""

    def decode_ms(self, num_sessions: int, num_rows: int, context: int) -> float:
        """Return the ms of one decode of `num_rows` rows of all sessions, at so many positions of context."""


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
    """A draft: so many ms a token, the same for all sessions together."""

    token_ms: float

    def decode_ms(self, num_sessions: int, num_rows: int, context: int) -> float:
        """Return ms."""
        return self.token_ms * max(1.0, num_rows / num_sessions / _ROWS_A_TOKEN)


@dataclass(frozen=True)
class Scenario:
    """One row of the table. Times are in ms, and those of the draft are of its round trip and of one token.

    `acceptance` goes from one rate to the next every `phase_length` tokens. `max_sessions` go into a decode of the
    target. One in `late_one_in` requests to the draft takes `late_ms` in the place of its round trip, and the draft is
    away for `away_s` of every `away_every_s`. The orchestrator takes `orchestrator_ms` between two cycles. At `most` so
    many draft tokens are tried.
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
    target_round_trip_ms: float = 0.0
    orchestrator_ms: float = 0.0
    most: int = 16

    @property
    def num_streams(self) -> int:
        """Streams that are served at a time, each with a round trip of its own."""
        return len(self.round_trips_ms)

    @property
    def title(self) -> str:
        """Number, name and variant."""
        return f"{self.number} {self.name}" + (f", {self.variant}" if self.variant else "")


def own_scenario(costs: Costs) -> Scenario:
    """Return one with measured costs: a stream, services on one machine, a draft that is right as often as a good one.

    Raises StartupError where the costs have no draft.
    """
    if costs.draft is None:
        raise StartupError("the file of costs has no draft: measure one with `outrider costs --draft`")
    return Scenario(0, costs.machine, costs.target, costs.draft, [0.2], target_round_trip_ms=0.2)


def scenarios() -> list[Scenario]:
    """Return the ten scenarios, two of them in two variants."""
    fast, slow = TokenCosts(2.0), TokenCosts(8.0)
    target = LinearCosts(20, 0.3)
    lan = Scenario(1, "LAN", target, fast, [0.5])
    weak = replace(lan, number=5, name="weak draft", round_trips_ms=[1.0])
    measured = load_costs(H200)
    assert measured.draft is not None
    h200 = Scenario(9, "H200", measured.target, measured.draft, [0.5], (0.943,), "1 stream", most=24)
    return [
        lan,
        replace(lan, number=2, name="metro", round_trips_ms=[10.0]),
        replace(lan, number=3, name="WAN", target=LinearCosts(50, 0.3), round_trips_ms=[40.0], most=20),
        replace(lan, number=4, name="slow draft", target=LinearCosts(20, 0.5), draft=slow, round_trips_ms=[1.0]),
        replace(weak, acceptance=(0.3,), variant="acceptance 0.3"),
        replace(weak, acceptance=(0.2,), variant="acceptance 0.2"),
        replace(weak, number=6, name="changing", acceptance=(0.95, 0.2)),
        replace(lan, number=7, name="saturated", draft=TokenCosts(2.5), round_trips_ms=[5.0] * 16, max_sessions=8),
        replace(lan, number=8, name="faulty", late_one_in=20, late_ms=500.0, away_s=2.0, away_every_s=10.0),
        h200,
        replace(h200, variant="8 streams", round_trips_ms=[0.5] * 8),
        replace(lan, number=10, name="far", round_trips_ms=[0.5, 0.5, 0.5, 150.0]),
    ]
