"""The same cycles over real gRPC: services that sleep through their decodes, as processes."""

import pytest

from orchestrator.simulation.real import run_real
from orchestrator.simulation.scenario import LinearCosts, Scenario, TokenCosts

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("num_draft_tokens", [0, 2])
def test_the_parts_of_a_cycle(num_draft_tokens: int) -> None:
    scenario = Scenario(1, "quick", LinearCosts(2.0, 0.1), TokenCosts(0.5), [0.0])
    parts = run_real(scenario, num_draft_tokens, seconds=1.0)
    assert parts.num_cycles > 1
    assert parts.models_ms == pytest.approx(2.0 + 0.1 * (num_draft_tokens + 1) + 0.5 * num_draft_tokens)
    assert parts.services_ms > 0
    assert parts.round_trips_ms > 0
    assert parts.orchestrator_ms > 0
    assert parts.cycle_ms > parts.models_ms
