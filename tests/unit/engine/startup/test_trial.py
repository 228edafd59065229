"""Models that are tried before they are served."""

from collections.abc import Sequence

import numpy as np
import pytest

from services.engine.errors import ModelLoadError
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.startup.trial import check_logits, has_snapshots, shares_decodes
from tests.unit.engine.fakes import FakeRuntime
from tests.unit.engine.stateful import StatefulFake

OPTIONS = RuntimeOptions()


class Noisy(FakeRuntime):
    """Logits that are wrong by so much in company, and in decodes of several rows."""

    def __init__(self, in_company: float = 0.0, in_rows: float = 0.0) -> None:
        super().__init__()
        self._in_company, self._in_rows = in_company, in_rows
        self._random = np.random.default_rng(0)

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        noise = self._in_company * (len(segments) > 1) + self._in_rows * (len(segments[0].tokens) > 1)
        return [
            (logits + noise * self._random.standard_normal(logits.shape)).astype(np.float32)
            for logits in super().decode(segments)
        ]


class Constant(FakeRuntime):
    """The same logits for everything."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        return [np.full_like(logits, self._value) for logits in super().decode(segments)]


@pytest.mark.parametrize(("noise", "is_shared"), [(0.0, True), (0.01, True), (1.0, False)])
def test_sessions_share_decodes_where_each_gets_what_it_gets_alone(noise: float, is_shared: bool) -> None:
    runtime = Noisy(in_company=noise)
    assert shares_decodes(lambda options: runtime, OPTIONS, "model.gguf") is is_shared
    assert runtime.is_closed
    assert runtime.complaints == []


def test_where_several_rows_are_wrong_no_draft_could_be_verified() -> None:
    with pytest.raises(ModelLoadError, match=r"cannot serve model\.gguf: its logits are others"):
        shares_decodes(lambda options: Noisy(in_company=1.0, in_rows=1.0), OPTIONS, "model.gguf")


@pytest.mark.parametrize(
    ("value", "reason"),
    [(float("nan"), "are no numbers"), (float("inf"), "are no numbers"), (0.0, "are the same whatever the text")],
)
def test_what_gives_no_logits_is_refused(value: float, reason: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"cannot serve model\.gguf: its logits {reason}"):
        check_logits(lambda options: Constant(value), OPTIONS, "model.gguf")


def test_what_gives_logits_is_not() -> None:
    runtime = FakeRuntime()
    check_logits(lambda options: runtime, OPTIONS, "model.gguf")
    assert runtime.is_closed


class Forgetful(StatefulFake):
    """Says that rows were cut, and goes on from their state."""

    def cut(self, slot: int, length: int) -> None:
        if not length:
            super().cut(slot, length)


@pytest.mark.parametrize("num_sessions", [1, 3])
@pytest.mark.parametrize(
    ("runtime", "has_some"),
    [
        pytest.param(StatefulFake(num_snapshots=3), True, id="as asked for"),
        pytest.param(StatefulFake(num_snapshots=0), False, id="none"),
        pytest.param(StatefulFake(num_snapshots=1), False, id="too few"),
        pytest.param(Forgetful(num_snapshots=3), False, id="wrong ones"),
    ],
)
def test_snapshots_are_used_where_rows_can_be_taken_back(
    runtime: StatefulFake, has_some: bool, num_sessions: int
) -> None:
    asked: list[RuntimeOptions] = []

    def make(options: RuntimeOptions) -> StatefulFake:
        asked.append(options)
        return runtime

    assert has_snapshots(make, OPTIONS, num_sessions) is has_some
    assert [options.num_snapshots for options in asked] == [3]
    assert runtime.is_closed
    runtime.is_closed = False
    for slot in range(runtime.num_slots):
        runtime.cut(slot, 0)
