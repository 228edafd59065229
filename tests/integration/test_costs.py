"""Decodes are timed at the context that they say, and told one by one."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from models.tiny import write_tiny_model, write_tiny_pair
from services.engine.costs.__main__ import main
from services.engine.costs.measured_model import MeasuredModel
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from tests import foreign_models

pytestmark = pytest.mark.integration

PROMPT = [5, 300, 7, 41, 300, 12]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    model = Model(write_tiny_model(tmp_path / "tiny.gguf"))
    yield model
    model.close()


@pytest.mark.parametrize("flash_attention", [False, True])
def test_a_slot_goes_on_as_one_of_another_context_would(model: Model, flash_attention: bool) -> None:
    options = RuntimeOptions(num_slots=2, context_length=256, num_threads=1, flash_attention=flash_attention)
    source, other = LlamaRuntime(model, options), LlamaRuntime(model, options)
    try:
        source.decode([Segment(1, 0, PROMPT, 1)])
        other.restore(0, source.state(1))
        (expected,) = source.decode([Segment(1, len(PROMPT), [9], 1)])
        (seen,) = other.decode([Segment(0, len(PROMPT), [9], 1)])
        np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-4)
        other.cut(0, 0)
        (elsewhere,) = other.decode([Segment(0, 0, [9], 1)])
        assert not np.allclose(elsewhere, expected, rtol=1e-4, atol=1e-4)
    finally:
        source.close()
        other.close()


def test_a_model_that_keeps_a_state_is_not_measured(tmp_path: Path) -> None:
    path = foreign_models.hybrid(tmp_path / "hybrid.gguf")
    with pytest.raises(ModelLoadError, match="keeps a state, which no cut brings back: its decodes are not measured"):
        MeasuredModel(path, (1, 2), context=256, num_threads=1, gpu_layers=0)


def test_slots_hold_what_a_field_says_before_and_after_a_decode(model: Model) -> None:
    with MeasuredModel(model.path, (1, 2), context=256, num_threads=1, gpu_layers=-1) as measured:
        plan = measured.plan(4, 1.0)
        assert {shape.setup.context for shape in plan.shapes} == {128, 254}
        assert plan.left_out == []
        for shape in plan.shapes:
            times_s = measured.measure(shape)
            assert times_s and min(times_s) > 0
            runtime = measured._context_of(shape.setup)
            assert len(set(held(runtime))) == 1
            assert held(runtime) == [shape.setup.context] * 4


def test_a_model_of_few_positions_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", context_length=16)
    with pytest.raises(ModelLoadError, match="knows 16 positions, too few to measure 16 rows"):
        MeasuredModel(path, (1, 16), context=256, num_threads=1, gpu_layers=0)


def held(runtime: LlamaRuntime) -> list[int]:
    """How many positions the slots hold."""
    return [llama_cpp.llama_memory_seq_pos_max(runtime._memory, slot) + 1 for slot in range(runtime.num_slots)]


def measure_pair(folder: Path, budget_s: int) -> int:
    target, draft = write_tiny_pair(folder)
    flags = ["--target", str(target), "--draft", str(draft), "--slots", "2", "--context", "160", "--threads", "1"]
    return main([*flags, "--budget", str(budget_s)])


def test_the_process_tells_what_it_measures_and_then_the_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of somebody who has had enough after so many lines.
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" * 41))
    assert measure_pair(tmp_path, 600) == 1
    first, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(lines) == 41
    # 5 numbers of rows for the target, one for the draft; 1 and 2 sessions, 2 contexts, 2 kinds of attention.
    assert len(first["planned"]) == (5 + 1) * 2 * 2 * 2
    assert first["models"].keys() == first["left_out"].keys() == {"target", "draft"}
    for line in lines:
        assert min(line.pop("times_ms")) > 0
        assert line.pop("busy_elsewhere") >= 0
        assert line in first["planned"]
