"""Exact mode on real kernels: random schedules give the logits of each session alone, to the bit."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from models.tiny import write_tiny_model
from services.engine.model.model import Model
from services.engine.model.quantize import quantize_file
from services.engine.runtime.interface import Segment
from services.engine.runtime.padding import ExactMode, Exactness, PaddedRuntime
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup import exactness
from services.engine.startup.exactness import choose_auto, choose_on, runtime_of
from services.engine.startup.measuring import Budget, Measuring, findings
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.probe import Comparison, compare, fixed_sequences, is_exact, references

Q4_K_M = 15
MAX_DRAFT_TOKENS = 7
LENGTHS = (90, 40, 30, 30, 25, 20)
FIRST_POSITIONS = (70, 20, 5, 5, 1, 0)
OPTIONS = RuntimeOptions(
    num_slots=6, context_length=256, max_batch_rows=256, num_threads=1, count_passes=True, digest_attention=True
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
    "way",
    [Exactness(ExactMode.ROW_MULTIPLE, 8), Exactness(ExactMode.CONSTANT_ROWS, 8)],
    ids=lambda way: way.mode.value,
)
def test_random_schedules_are_exact_in_one_pass_a_decode(model: Model, way: Exactness) -> None:
    runtime = runtime_of(model, OPTIONS, way, MAX_DRAFT_TOKENS)
    result = schedules(runtime, count=5)
    assert result.num_rows > 200
    assert result.num_different == 0
    inner = runtime._inner
    assert isinstance(inner, LlamaRuntime)
    assert inner.num_passes == inner.num_decodes
    runtime.close()


@pytest.mark.integration
def test_a_copied_prefix_gives_the_same_logits_to_the_bit(model: Model) -> None:
    runtime = runtime_of(model, OPTIONS, Exactness(ExactMode.ROW_MULTIPLE, 8), MAX_DRAFT_TOKENS)
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
    runtime = runtime_of(model, OPTIONS, Exactness(ExactMode.ROW_MULTIPLE, 1), MAX_DRAFT_TOKENS)
    assert schedules(runtime, count=5).num_different > 0
    runtime.close()
    # A new one, as for a probe: one that has learned what decodes cost parts sessions where that is quicker, and what
    # is decoded alone does not differ.
    runtime = runtime_of(model, OPTIONS, Exactness(ExactMode.ROW_MULTIPLE, 1), MAX_DRAFT_TOKENS)
    assert not is_exact(runtime, MAX_DRAFT_TOKENS)
    runtime.close()


@pytest.mark.integration
def test_digests_of_attention_show_what_quantized_activations_hide(tmp_path: Path) -> None:
    model = Model(write_tiny_model(tmp_path / "model.gguf", dim=256, file_type="Q8_0"))
    num_different = []
    for digest_attention in (False, True):
        options = replace(OPTIONS, digest_attention=digest_attention)
        runtime = runtime_of(model, options, Exactness(ExactMode.ROW_MULTIPLE, 1), MAX_DRAFT_TOKENS)
        num_different.append(schedules(runtime, count=5).num_different)
        runtime.close()
    assert 2 * num_different[0] < num_different[1]


@pytest.mark.integration
def test_what_is_chosen_is_exact_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = Model(write_tiny_model(tmp_path / "model.gguf", dim=256, file_type="BF16"))
    loaded = LoadedModel(model, OPTIONS, "some digest", "some device")
    # A probe on a slow machine is told of.
    monkeypatch.setattr("services.engine.startup.measuring._FIRST_NEWS_S", 0.0)
    chosen = choose_on(loaded, MAX_DRAFT_TOKENS, Measuring(Budget(0.0), findings()))
    assert "a probe whether logits are exact" in caplog.text
    caplog.clear()
    assert choose_on(loaded, MAX_DRAFT_TOKENS, Measuring(Budget(0.0), findings())) == chosen
    assert not caplog.records
    runtime = runtime_of(model, OPTIONS, chosen, MAX_DRAFT_TOKENS)
    assert schedules(runtime, count=2).num_different == 0
    runtime.close()


@pytest.mark.integration
def test_auto_measures_once_and_takes_what_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where anything is cheap enough, and there is time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(exactness, "_MAX_COST", math.inf)
    monkeypatch.setattr(exactness, "_CLEARLY_DEAR", math.inf)
    model = Model(write_tiny_model(tmp_path / "model.gguf"))
    loaded = LoadedModel(model, OPTIONS, "some digest", "some device")
    caplog.set_level("INFO")
    chosen = choose_auto(loaded, MAX_DRAFT_TOKENS, Measuring(Budget(600.0), findings()))
    assert chosen == choose_on(loaded, MAX_DRAFT_TOKENS, Measuring(Budget(0.0), findings()))
    assert "measured ms by rows of one session: 1: " in caplog.text
    caplog.clear()
    monkeypatch.setattr(exactness, "_MAX_COST", 0.0)
    assert choose_auto(loaded, MAX_DRAFT_TOKENS, Measuring(Budget(0.0), findings())) == chosen
    assert not caplog.records


@pytest.mark.integration
def test_a_slot_that_is_filled_costs_no_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    model = Model(write_tiny_model(tmp_path / "model.gguf"))
    (tokens,) = fixed_sequences(model.vocabulary.size, [20], seed=5)
    expected = LlamaRuntime(model, OPTIONS).decode([Segment(1, 0, tokens, 20)])[0].copy()
    runtime = LlamaRuntime(model, replace(OPTIONS, digest_attention=False, can_fill=True, max_batch_rows=64))
    runtime.fill(1, 0, 200)
    runtime.cut(1, 100)
    runtime.fill(1, 100, 250)
    assert runtime.num_passes == 0
    (logits,) = runtime.decode([Segment(1, 250, tokens[:4], 4)])
    assert (logits.shape, runtime.num_passes) == ((4, model.vocabulary.size), 1)
    runtime.cut(1, 0)
    (logits,) = runtime.decode([Segment(1, 0, tokens, 20)])
    assert (logits == expected).all()
    runtime.close()
