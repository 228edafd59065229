"""Exact mode on real kernels: random schedules give the logits of each session alone, to the bit."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.tiny import write_tiny_model
from services.engine.errors import ModelLoadError
from services.engine.exactness import choose_auto, choose_on, padded_runtime
from services.engine.model import Model
from services.engine.padding import ExactMode, Exactness, PaddedRuntime
from services.engine.probe import Comparison, compare, fixed_sequences, is_exact, references
from services.engine.quantize import quantize_file
from services.engine.runtime import LlamaRuntime, RuntimeOptions, Segment

Q4_K_M = 15
MAX_DRAFT_TOKENS = 7
LENGTHS = (90, 40, 30, 30, 25, 20)
FIRST_POSITIONS = (70, 20, 5, 5, 1, 0)
OPTIONS = RuntimeOptions(
    num_slots=6, context_length=256, max_batch_rows=256, num_threads=1, count_passes=True, trace_rows=True
)


@pytest.fixture(scope="module", params=["BF16", "Q8_0", "Q4_K_M"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("exact")
    written = "F32" if request.param == "Q4_K_M" else request.param
    path = write_tiny_model(folder / "model.gguf", dim=256, num_layers=2, file_type=written)
    if request.param == "Q4_K_M":
        quantize_file(path, folder / "quantized.gguf", Q4_K_M, num_threads=1)
        path = folder / "quantized.gguf"
    return Model(path)


def schedules(runtime: PaddedRuntime, count: int) -> Comparison:
    sequences = fixed_sequences(runtime.vocabulary_size, LENGTHS, seed=7)
    expected = references(runtime, sequences, FIRST_POSITIONS)
    results = [
        compare(
            runtime,
            sequences,
            FIRST_POSITIONS,
            expected,
            num_steps=10,
            max_draft_tokens=MAX_DRAFT_TOKENS,
            seed=seed,
        )
        for seed in range(count)
    ]
    return Comparison(sum(each.num_rows for each in results), sum(each.num_different for each in results))


@pytest.mark.integration
@pytest.mark.parametrize(
    "exactness",
    [Exactness(ExactMode.ROW_MULTIPLE, 8), Exactness(ExactMode.CONSTANT_ROWS, 8)],
    ids=lambda exactness: exactness.mode.value,
)
def test_random_schedules_are_exact_in_one_pass_a_decode(model: Model, exactness: Exactness) -> None:
    runtime = padded_runtime(model, OPTIONS, exactness, MAX_DRAFT_TOKENS)
    result = schedules(runtime, count=5)
    assert result.num_rows > 200
    assert result.num_different == 0
    inner = runtime._inner
    assert isinstance(inner, LlamaRuntime)
    assert inner.num_passes == inner.num_decodes
    runtime.close()


@pytest.mark.integration
def test_a_copied_prefix_gives_the_same_logits_to_the_bit(model: Model) -> None:
    runtime = padded_runtime(model, OPTIONS, Exactness(ExactMode.ROW_MULTIPLE, 8), MAX_DRAFT_TOKENS)
    first, second = fixed_sequences(runtime.vocabulary_size, (60, 60), seed=3)
    shared = first[:40]
    runtime.decode([Segment(0, 0, [*shared, *second[40:50]], 1)])
    alone = runtime.decode([Segment(0, 50, second[50:53], 3)])[0].copy()
    runtime.cut(0, 40)
    runtime.decode([Segment(0, 40, first[40:], 1)])
    runtime.copy(0, 2, 40)
    runtime.decode([Segment(0, 60, [5], 1), Segment(2, 40, second[40:48], 8)])
    runtime.decode([Segment(2, 48, second[48:50], 1)])
    (copied,) = runtime.decode([Segment(2, 50, second[50:53], 3)])
    assert (copied == alone).all()
    runtime.close()


@pytest.mark.integration
@pytest.mark.parametrize("file_type", ["BF16", "Q8_0"])
def test_without_padding_rows_differ_and_the_probe_finds_out(tmp_path: Path, file_type: str) -> None:
    model = Model(write_tiny_model(tmp_path / "model.gguf", dim=256, file_type=file_type))
    runtime = padded_runtime(model, OPTIONS, Exactness(ExactMode.ROW_MULTIPLE, 1), MAX_DRAFT_TOKENS)
    assert schedules(runtime, count=5).num_different > 0
    assert not is_exact(runtime, MAX_DRAFT_TOKENS)
    runtime.close()


@pytest.mark.integration
def test_rows_that_are_traced_show_what_quantized_activations_hide(tmp_path: Path) -> None:
    model = Model(write_tiny_model(tmp_path / "model.gguf", dim=256, file_type="Q8_0"))
    num_different = []
    for traces_rows in (False, True):
        options = replace(OPTIONS, trace_rows=traces_rows)
        runtime = padded_runtime(model, options, Exactness(ExactMode.ROW_MULTIPLE, 1), MAX_DRAFT_TOKENS)
        num_different.append(schedules(runtime, count=5).num_different)
        runtime.close()
    assert 2 * num_different[0] < num_different[1]


@pytest.mark.integration
def test_what_is_chosen_is_exact_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = Model(write_tiny_model(tmp_path / "model.gguf", dim=256, file_type="BF16"))
    caplog.set_level("INFO")
    chosen = choose_on(model, OPTIONS, MAX_DRAFT_TOKENS, "some identity")
    assert "probed exactness" in caplog.text
    caplog.clear()
    assert choose_on(model, OPTIONS, MAX_DRAFT_TOKENS, "some identity") == chosen
    assert "probed exactness" not in caplog.text
    runtime = padded_runtime(model, OPTIONS, chosen, MAX_DRAFT_TOKENS)
    assert schedules(runtime, count=2).num_different == 0
    runtime.close()


@pytest.mark.integration
def test_on_is_refused_where_nothing_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("services.engine.exactness.is_exact", lambda runtime, max_draft_tokens: False)
    model = Model(write_tiny_model(tmp_path / "model.gguf"))
    with pytest.raises(ModelLoadError, match="cannot be served exactly"):
        choose_on(model, OPTIONS, MAX_DRAFT_TOKENS, "some identity")
    assert choose_auto(model, OPTIONS, MAX_DRAFT_TOKENS, "another identity") is None


@pytest.mark.integration
def test_what_auto_decided_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("services.engine.exactness._MAX_COST", 1000.0)
    model = Model(write_tiny_model(tmp_path / "model.gguf"))
    caplog.set_level("INFO")
    chosen = choose_auto(model, OPTIONS, MAX_DRAFT_TOKENS, "some identity")
    assert chosen is not None
    assert "probed cost" in caplog.text
    caplog.clear()
    monkeypatch.setattr("services.engine.exactness._MAX_COST", 0.0)
    assert choose_auto(model, OPTIONS, MAX_DRAFT_TOKENS, "some identity") == chosen
    assert "probed" not in caplog.text
