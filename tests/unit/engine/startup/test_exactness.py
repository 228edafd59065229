"""How a target chooses its way to exactness: what that may take, what is believed, and what a later start does."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from services.engine.errors import DecodeError, ModelLoadError
from services.engine.runtime.interface import Runtime, Segment
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.startup import exactness, flash_attention
from services.engine.startup.exactness import candidates, choose_auto, choose_on
from services.engine.startup.flash_attention import choose_flash_attention
from services.engine.startup.probe import is_exact
from tests.unit.engine.fakes import FakeRuntime
from tests.unit.engine.startup.timed import Machine, known, loaded

MAX_DRAFT_TOKENS = 16
TWO, FOUR, EIGHT, SIXTEEN = (Exactness(ExactMode.ROW_MULTIPLE, width) for width in (2, 4, 8, 16))


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One whose decodes take 10 ms, and 4 ms for each row but the first."""
    machine = Machine(by_rows(1.0, 1.4, 2.2, 3.8, 7.0))
    for module in (exactness, flash_attention):
        monkeypatch.setattr(module, "LlamaRuntime", machine.make)
    monkeypatch.setattr(flash_attention, "one_layer_of", nullcontext)
    return machine


def by_rows(*relative: float, row_s: float = 0.01) -> Callable[[Sequence[Segment], RuntimeOptions], float]:
    """Costs of decodes of 1, 2, 4, 8 and 16 rows, as parts of that of the first; of more rows by their number."""
    costs = dict(zip((1, 2, 4, 8, 16), relative, strict=True))

    def cost(segments: Sequence[Segment], options: RuntimeOptions) -> float:
        num_rows = sum(segment.num_rows for segment in segments)
        return row_s * costs.get(num_rows, num_rows)

    return cost


class Probe:
    """Stands in for the probe: takes its time, and finds those exact that it was told to."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.duration_s = 1.0
        self.exact: set[Exactness] = set()
        self.tried: list[Exactness] = []
        self._machine = machine
        monkeypatch.setattr(exactness, "is_exact", self._probe)

    def _probe(self, runtime: Runtime, max_draft_tokens: int, on_share: Callable[[float], None]) -> bool:
        mode = ExactMode.CONSTANT_ROWS if runtime._is_constant else ExactMode.ROW_MULTIPLE  # type: ignore[attr-defined]
        self.tried.append(Exactness(mode, runtime._width))  # type: ignore[attr-defined]
        for step in range(1, 101):
            self._machine.clock.now_s += self.duration_s / 100
            on_share(step / 100)
        return self.tried[-1] in self.exact


@pytest.fixture
def probe(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Probe:
    return Probe(machine, monkeypatch)


def test_a_width_of_one_is_no_candidate() -> None:
    assert {each.width for each in candidates(0)} == {2, 4, 8, 16}


def test_where_no_width_is_cheap_nothing_is_probed(machine: Machine, probe: Probe) -> None:
    started_s = machine.clock()
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring()) is None
    assert not probe.tried
    assert len(machine.runtimes) == 1
    # Each cost twice, and one decode before; what more than four rows cost is clear by then.
    assert machine.num_decodes == 7
    assert machine.clock() - started_s < 0.2
    assert all(runtime.is_closed for runtime in machine.runtimes)


def test_a_second_start_measures_nothing(machine: Machine, probe: Probe) -> None:
    first = choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring())
    num_decodes = machine.num_decodes
    machine.cost = by_rows(1.0, 1.0, 1.0, 1.0, 1.0)
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring()) == first
    assert (machine.num_decodes, len(machine.runtimes)) == (num_decodes, 1)
    # Other settings are another matter.
    choose_auto(loaded(context_length=512), MAX_DRAFT_TOKENS, machine.measuring())
    assert machine.num_decodes > num_decodes


@pytest.mark.parametrize(
    ("costs", "exact", "tried", "chosen"),
    [
        pytest.param((1.0, 1.02, 1.1, 1.3, 2.0), {TWO, FOUR, EIGHT}, [TWO], TWO, id="the first"),
        pytest.param((1.0, 1.9, 1.04, 1.04, 2.0), {TWO, FOUR, EIGHT}, [FOUR], FOUR, id="steps in the costs"),
        pytest.param((1.0, 1.0, 1.0, 1.0, 1.0), {EIGHT}, [TWO, FOUR, EIGHT], EIGHT, id="two that are not exact"),
        pytest.param((1.0, 1.04, 1.1, 1.3, 2.0), {EIGHT}, [TWO], None, id="exact ones are dear"),
    ],
)
def test_the_first_that_is_cheap_and_exact_is_taken(
    costs: Sequence[float],
    exact: set[Exactness],
    tried: list[Exactness],
    chosen: Exactness | None,
    machine: Machine,
    probe: Probe,
) -> None:
    machine.cost = by_rows(*costs)
    probe.exact = exact
    for _ in range(2):
        assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring()) == chosen
        assert probe.tried == tried


def test_a_probe_that_would_not_end_in_time(machine: Machine, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    machine.cost = by_rows(1.0, 1.0, 1.0, 1.0, 1.0)
    probe.exact, probe.duration_s = {TWO}, 60.0
    started_s = machine.clock()
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring(4.0)) is None
    # Its pace gives it away.
    assert machine.clock() - started_s < 2.5
    assert all(runtime.is_closed for runtime in machine.runtimes)
    (sentence,) = [message for message in caplog.messages if message.startswith("exact off")]
    assert "row-multiple 2" in sentence
    assert "--exact on" in sentence

    # Later starts decide alike and say it again, however much time they have.
    caplog.clear()
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring(1000.0)) is None
    assert probe.tried == [TWO]
    assert "--exact on" in caplog.text

    # What it asks for is heeded.
    assert choose_on(loaded(), MAX_DRAFT_TOKENS, machine.measuring(0.0)) == TWO
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring(0.0)) == TWO
    assert probe.tried == [TWO, TWO]


@pytest.mark.parametrize("budget_s", [0.0, 0.02, 0.1, 0.5])
def test_costs_that_cannot_be_measured_in_time(
    budget_s: float, machine: Machine, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    machine.cost = by_rows(1.0, 1.0, 1.0, 1.0, 1.0, row_s=0.3)
    probe.exact = {TWO}
    started_s = machine.clock()
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring(budget_s)) is None
    # One decode warms up, and the last one does not know that it is.
    assert machine.clock() - started_s <= budget_s + 2 * 0.3 + 0.01
    assert "--exact on" in caplog.text
    num_decodes = machine.num_decodes
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring(1000.0)) is None
    assert machine.num_decodes == num_decodes


@pytest.mark.parametrize("row_s", [0.002, 0.01, 0.06, 0.3, 1.5])
@pytest.mark.parametrize("loading_s", [0.1, 0.5, 2.0])
def test_all_that_is_measured_stays_within_the_budget(
    row_s: float, loading_s: float, machine: Machine, probe: Probe
) -> None:
    machine.cost = by_rows(1.0, 1.0, 1.06, 1.3, 2.0, row_s=row_s)
    budget_s, started_s = 2 * loading_s, machine.clock()
    measuring = machine.measuring(budget_s)
    chosen = choose_auto(loaded(), MAX_DRAFT_TOKENS, measuring)
    choose_flash_attention("auto", loaded(), chosen, measuring)
    # What is begun is not broken off: a decode, and the one before that brings the weights into memory.
    assert machine.clock() - started_s <= budget_s + 2 * 16 * row_s


def test_a_model_that_cannot_be_measured_is_served_all_the_same(
    machine: Machine, probe: Probe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(model: object, options: RuntimeOptions) -> Runtime:
        raise ModelLoadError("cannot make a context for model.gguf: out of memory")

    monkeypatch.setattr(exactness, "LlamaRuntime", refuse)
    assert choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring()) is None
    assert "out of memory" in caplog.text


def test_a_start_that_is_given_up_decides_nothing(machine: Machine, probe: Probe) -> None:
    def fail(segments: Sequence[Segment], options: RuntimeOptions) -> float:
        raise DecodeError("the model was given up")

    machine.cost = fail
    with pytest.raises(DecodeError):
        choose_auto(loaded(), MAX_DRAFT_TOKENS, machine.measuring())
    assert all(runtime.is_closed for runtime in machine.runtimes)
    assert known() == {}


@pytest.mark.parametrize(("slot_cost", "chosen"), [(0.0, Exactness(ExactMode.CONSTANT_ROWS, 8)), (0.1, None)])
def test_constant_rows_cost_what_all_slots_do(
    slot_cost: float, chosen: Exactness | None, machine: Machine, probe: Probe
) -> None:
    machine.cost = lambda segments, options: 0.01 * (1 + slot_cost * (len(segments) - 1))
    probe.exact = {Exactness(ExactMode.CONSTANT_ROWS, 8)}
    for _ in range(2):
        assert choose_auto(loaded(), 7, machine.measuring(10.0)) == chosen
    assert probe.tried == [TWO, FOUR, EIGHT, SIXTEEN] + [chosen] * (chosen is not None)


def test_on_takes_the_time_that_it_needs_and_says_so(
    machine: Machine, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    probe.exact, probe.duration_s = {FOUR}, 30.0
    announced: list[str] = []
    assert choose_on(loaded(), MAX_DRAFT_TOKENS, machine.measuring(0.0, announced.append)) == FOUR
    assert probe.tried == [TWO, FOUR]
    # After two seconds, and then every ten.
    assert [line.rpartition(", ")[2] for line in announced] == ["7% done", "41% done", "75% done"] * 2
    assert "row-multiple 4" in announced[-1]
    assert caplog.text.count("starting takes long: a probe whether logits are exact with row-multiple 2") == 3
    assert choose_on(loaded(), MAX_DRAFT_TOKENS, machine.measuring(0.0, announced.append)) == FOUR
    assert probe.tried == [TWO, FOUR]
    assert len(announced) == 6


def test_on_is_quiet_where_it_is_quick(machine: Machine, probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    probe.exact = {TWO}
    choose_on(loaded(), MAX_DRAFT_TOKENS, machine.measuring())
    assert not caplog.records


def test_on_is_refused_where_nothing_is_exact(machine: Machine, probe: Probe) -> None:
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=r"model\.gguf cannot be served exactly"):
            choose_on(loaded(), MAX_DRAFT_TOKENS, machine.measuring())
    assert probe.tried == [TWO, FOUR, EIGHT, SIXTEEN]


def test_a_probe_tells_how_far_it_is_and_can_be_ended() -> None:
    shares: list[float] = []
    assert is_exact(FakeRuntime(), 7, shares.append)
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] == 1.0

    def end(share: float) -> None:
        if share > 0.05:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        is_exact(FakeRuntime(), 7, end)
