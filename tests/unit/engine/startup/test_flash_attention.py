"""When flash attention is used: where the model is on a GPU, and where it is quicker for a usual length of text."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import pytest

from services.engine.runtime.interface import Segment
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.startup import flash_attention
from services.engine.startup.flash_attention import choose_flash_attention
from services.engine.startup.measuring import budget_after
from tests.unit.engine.startup.timed import FakeClock, Machine, TimedRuntime, known, loaded

EXACT = Exactness(ExactMode.ROW_MULTIPLE, 2)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(costs())

    @contextmanager
    def one_layer_of(model: Any) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(is_layer_of=model)

    def make(model: Any, options: RuntimeOptions) -> TimedRuntime:
        assert model.is_layer_of.path == Path("model.gguf"), "the whole model would take too long"
        return machine.make(model, options)

    monkeypatch.setattr(flash_attention, "one_layer_of", one_layer_of)
    monkeypatch.setattr(flash_attention, "LlamaRuntime", make)
    return machine


def costs(
    ratio: float = 1.0, at: int = 500, beyond: float = 1.0, row_s: float = 0.005
) -> Callable[[Sequence[Segment], RuntimeOptions], float]:
    """What flash attention takes of the time without, `beyond` a length."""

    def cost(segments: Sequence[Segment], options: RuntimeOptions) -> float:
        usual_s = row_s * (1 + 0.2 * sum(segment.num_rows for segment in segments))
        if not options.flash_attention:
            return usual_s
        return usual_s * ratio * (beyond if segments[0].first_position > at else 1.0)

    return cost


def auto(machine: Machine, budget_s: float = 4.0) -> bool:
    return choose_flash_attention("auto", loaded(), None, machine.measuring(budget_s))


@pytest.mark.parametrize(
    ("ratio", "chosen"),
    [
        pytest.param(0.9, True, id="quicker"),
        pytest.param(1.0, False, id="no difference"),
        pytest.param(0.97, False, id="noise"),
        pytest.param(1.5, False, id="slower"),
    ],
)
def test_auto_takes_it_where_it_is_quicker(ratio: float, chosen: bool, machine: Machine) -> None:
    machine.cost = costs(ratio)
    assert auto(machine) == chosen
    assert [runtime.is_closed for runtime in machine.runtimes] == [True, True]
    # A second start has nothing to measure.
    machine.cost = costs(2.0 if chosen else 0.5)
    num_decodes = machine.num_decodes
    assert auto(machine) == chosen
    assert (machine.num_decodes, len(machine.runtimes)) == (num_decodes, 2)


@pytest.mark.parametrize(("context_length", "chosen"), [(1024, True), (1800, False), (100_000, False)])
def test_it_is_measured_at_a_quarter_of_a_context(context_length: int, chosen: bool, machine: Machine) -> None:
    machine.cost = costs(0.8, at=300, beyond=2.0)
    model = loaded(context_length=context_length)
    assert choose_flash_attention("auto", model, None, machine.measuring()) == chosen
    assert all(runtime.context_length <= 1004 for runtime in machine.runtimes)


@pytest.mark.parametrize("num_slots", [1, 2, 8, 256])
@pytest.mark.parametrize("context_length", [32, 256, 2048])
def test_contexts_of_any_size_are_measured(num_slots: int, context_length: int, machine: Machine) -> None:
    machine.cost = costs(0.8)
    model = loaded(num_slots=num_slots, context_length=context_length)
    assert choose_flash_attention("auto", model, None, machine.measuring())
    assert all(runtime.num_slots <= num_slots for runtime in machine.runtimes)


@pytest.mark.parametrize("chosen", [True, False])
def test_the_attention_of_a_large_model_is_measured_within_the_least_budget(chosen: bool, machine: Machine) -> None:
    started_s = machine.clock()
    # 9 to 21 ms for one to four rows of each of four sessions.
    machine.cost = costs(0.9 if chosen else 1.2)
    assert auto(machine, budget_s=0.5) == chosen
    assert machine.clock() - started_s < 0.3


def test_without_a_folder_for_the_layer_it_is_off_and_that_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def fail(model: object) -> NoReturn:
        raise OSError("No usable temporary directory found")

    monkeypatch.setattr(flash_attention, "one_layer_of", fail)
    assert not auto(machine)
    assert "No usable temporary directory" in caplog.text
    assert "--flash-attention on" in caplog.text


@pytest.mark.parametrize("budget_s", [0.0, 0.05, 0.3, 1.0])
def test_without_the_time_to_measure_it_is_off(
    budget_s: float, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    machine.cost = costs(0.5, row_s=0.5)
    started_s = machine.clock()
    assert not auto(machine, budget_s)
    assert machine.clock() - started_s < budget_s + 2.0
    assert "--flash-attention on" in caplog.text
    # A restart decides alike, and says it again.
    caplog.clear()
    num_decodes = machine.num_decodes
    assert not auto(machine, budget_s=1000.0)
    assert machine.num_decodes == num_decodes
    assert "--flash-attention on" in caplog.text


def test_on_a_gpu_it_is_on_without_a_measurement(machine: Machine) -> None:
    for num_gpu_layers in (-1, 5):
        model = loaded(num_gpu_layers=num_gpu_layers)
        assert choose_flash_attention("auto", model, None, machine.measuring())
        assert not choose_flash_attention("auto", model, EXACT, machine.measuring())
    assert not machine.runtimes
    assert known() == {}


def test_where_a_state_is_kept_it_is_off_on_a_cpu_without_a_measurement(machine: Machine) -> None:
    assert not choose_flash_attention("auto", loaded(keeps_state=True), None, machine.measuring())
    assert choose_flash_attention("auto", loaded(keeps_state=True, num_gpu_layers=-1), None, machine.measuring())
    assert not machine.runtimes


@pytest.mark.parametrize("num_gpu_layers", [0, -1])
@pytest.mark.parametrize(("setting", "chosen"), [("on", True), ("off", False)])
def test_a_setting_is_followed(
    setting: Literal["on", "off"], chosen: bool, num_gpu_layers: int, machine: Machine
) -> None:
    model = loaded(num_gpu_layers=num_gpu_layers)
    assert choose_flash_attention(setting, model, None, machine.measuring()) == chosen
    assert not machine.runtimes


def test_exactness_goes_without_it_and_says_so_where_it_was_asked_for(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    settings: Sequence[Literal["auto", "off", "on"]] = ("auto", "off", "on")
    for setting in settings:
        assert not caplog.records
        assert not choose_flash_attention(setting, loaded(), EXACT, machine.measuring())
    assert "exact mode goes without it" in caplog.text
    assert not machine.runtimes


@pytest.mark.parametrize(("loading_s", "budget_s"), [(0.01, 0.5), (0.25, 0.5), (1.0, 2.0), (2.0, 4.0), (100.0, 4.0)])
def test_measuring_takes_as_long_as_loading_twice_and_no_more_than_seconds(loading_s: float, budget_s: float) -> None:
    assert 0 < budget_after(loading_s).left_s <= budget_s
    assert budget_after(loading_s, FakeClock()).left_s == budget_s
