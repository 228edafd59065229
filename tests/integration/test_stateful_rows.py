"""Models that keep a recurrent state in random schedules of the engine: rows of logits are those of each alone."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.engine.model.model import Model
from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.exactness import candidates, choose_on, runtime_of
from services.engine.startup.measuring import Budget, Measuring, findings
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.probe import fixed_sequences, is_exact
from services.engine.startup.trial import tried
from tests import foreign_models
from tests.integration import sparse_models, unusual_models
from tests.integration.schedules import Row, Schedule, row_by_row

pytestmark = pytest.mark.integration

STATEFUL: dict[str, Callable[[Path], Path]] = {
    "recurrent": foreign_models.recurrent,
    "hybrid": foreign_models.hybrid,
    "hybrid with a window": foreign_models.windowed_hybrid,
    "compressed attention": sparse_models.deepseek4,
}
# Those of which llama.cpp has snapshots.
WITH_SNAPSHOTS: dict[str, Callable[[Path], Path]] = {
    "short convolution": foreign_models.hybrid,
    "delta rule": unusual_models.qwen35,
}
MAX_DRAFT_TOKENS = 7
NUM_ROWS = 2000
LENGTHS = (200, 170, 140, 90, 40, 20)
# Tokens that the first three begin with.
NUM_COMMON = 80
OPTIONS = RuntimeOptions(
    num_slots=6, context_length=256, max_batch_rows=128, num_threads=1, cache_in_f32=True, checkpoint_bytes=1 << 20
)
# Kernels of other batches round otherwise; a wrong state makes a difference of about 1.
TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=STATEFUL)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(STATEFUL[request.param](tmp_path_factory.mktemp("stateful") / "model.gguf"))


def sequences_of(runtime: Runtime) -> list[list[int]]:
    sequences = fixed_sequences(runtime.vocabulary_size, LENGTHS, seed=7)
    return [sequences[0][:NUM_COMMON] + tokens[NUM_COMMON:] for tokens in sequences[:3]] + sequences[3:]


def from_scratch(model: Model, sequences: list[list[int]]) -> list[Logits]:
    """The logits of each sequence, evaluated at once by the model alone."""
    runtime = LlamaRuntime(model, replace(OPTIONS, max_batch_rows=256))
    expected = []
    for tokens in sequences:
        expected.append(runtime.decode([Segment(0, 0, tokens, len(tokens))])[0].copy())
        runtime.cut(0, 0)
    runtime.close()
    return expected


def count_different(
    runtime: Runtime, sequences: list[list[int]], is_right: Callable[[Row], bool], num_rows: int
) -> int:
    """Run schedules until so many rows were compared; return how many are not right."""
    num_compared = num_different = num_copied = num_rewound = seed = 0
    while num_compared < num_rows:
        schedule = Schedule(runtime, sequences, MAX_DRAFT_TOKENS, seed)
        for _ in range(40):
            for row in schedule.step():
                num_compared += 1
                num_different += not is_right(row)
        for slot in range(len(sequences)):
            runtime.cut(slot, 0)
        num_copied, num_rewound = num_copied + schedule.num_copied, num_rewound + schedule.num_rewound
        seed += 1
    assert min(num_copied, num_rewound) > 5
    return num_different


def exact_widths(model: Model) -> Iterator[int]:
    """Yield the widths that a target would be found to be exact with."""
    for way in candidates(MAX_DRAFT_TOKENS, keeps_state=model.keeps_state, saves_window=model.saves_window):
        runtime = runtime_of(model, OPTIONS, way, MAX_DRAFT_TOKENS)
        if is_exact(runtime, MAX_DRAFT_TOKENS):
            yield way.width
        runtime.close()


def test_a_window_that_is_saved_takes_whole_vectors(tmp_path: Path) -> None:
    """Whatever a probe says: with fewer slots it does not find out that two rows are not exact."""
    model = Model(foreign_models.windowed_hybrid(tmp_path / "model.gguf"))
    loaded = LoadedModel(model, replace(OPTIONS, num_slots=4), "some digest", "some device")
    assert choose_on(loaded, MAX_DRAFT_TOKENS, Measuring(Budget(0.0), findings())).width == 16
    model.close()


@pytest.mark.parametrize("shares_decodes", [True, False], ids=["together", "one by one"])
def test_random_schedules_are_exact(model: Model, shares_decodes: bool) -> None:
    widths = [width for width in exact_widths(model) if width in (2, 16)]
    assert widths
    for width in widths:
        check_exactness(model, width, shares_decodes=shares_decodes)


def check_exactness(model: Model, width: int, *, shares_decodes: bool) -> None:
    options = replace(OPTIONS, shares_decodes=shares_decodes)
    runtime = runtime_of(model, options, Exactness(ExactMode.ROW_MULTIPLE, width), MAX_DRAFT_TOKENS)
    sequences = sequences_of(runtime)
    expected = row_by_row(runtime, sequences)
    for rows, others in zip(expected, from_scratch(model, sequences), strict=True):
        assert np.abs(rows - others).max() < TOLERANCE

    def is_right(row: Row) -> bool:
        return bool(row.logits.tobytes() == expected[row.sequence][row.position].tobytes())

    assert count_different(runtime, sequences, is_right, NUM_ROWS) == 0, f"width {width}"
    runtime.close()


@pytest.fixture(scope="module", params=WITH_SNAPSHOTS)
def with_snapshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(WITH_SNAPSHOTS[request.param](tmp_path_factory.mktemp("snapshots") / "model.gguf"))


@pytest.mark.parametrize("num_snapshots", [2, 8])
@pytest.mark.parametrize("width", [1, 2])
def test_what_is_taken_back_from_snapshots_leaves_no_trace(
    with_snapshots: Model, width: int, num_snapshots: int
) -> None:
    options = replace(OPTIONS, num_snapshots=num_snapshots)
    exactness = Exactness(ExactMode.ROW_MULTIPLE, width) if width > 1 else None
    runtime = runtime_of(with_snapshots, options, exactness, MAX_DRAFT_TOKENS)
    sequences = sequences_of(runtime)
    expected = row_by_row(runtime, sequences) if exactness else from_scratch(with_snapshots, sequences)

    def is_right(row: Row) -> bool:
        right = expected[row.sequence][row.position]
        return bool(np.abs(row.logits - right).max() <= (0.0 if exactness else TOLERANCE))

    assert count_different(runtime, sequences, is_right, NUM_ROWS) == 0
    runtime.close()


@pytest.mark.parametrize(
    ("write", "has_some"),
    [
        (foreign_models.hybrid, True),
        (unusual_models.qwen35, True),
        # What is saved of a window goes by whole blocks.
        (foreign_models.windowed_hybrid, False),
        (foreign_models.recurrent, False),
        (unusual_models.granite_hybrid, False),
        (foreign_models.llama, False),
    ],
)
def test_snapshots_are_asked_for_where_there_are_some(
    write: Callable[[Path], Path], has_some: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = Model(write(tmp_path / "model.gguf"))
    loaded = LoadedModel(model, replace(OPTIONS, num_snapshots=5), str(tmp_path), "some device")
    options = tried(loaded, Measuring(Budget(0.0), findings())).options
    runtime = LlamaRuntime(model, options)
    assert runtime.num_snapshots == (5 if has_some else 0)
    runtime.close()
    model.close()


@pytest.mark.parametrize("checkpoint_bytes", [0, 1 << 20])
def test_rows_of_any_number_are_right_but_for_rounding(model: Model, checkpoint_bytes: int) -> None:
    runtime = runtime_of(model, replace(OPTIONS, checkpoint_bytes=checkpoint_bytes), None, MAX_DRAFT_TOKENS)
    sequences = sequences_of(runtime)
    expected = from_scratch(model, sequences)

    def is_right(row: Row) -> bool:
        return bool(np.abs(row.logits - expected[row.sequence][row.position]).max() < TOLERANCE)

    assert count_different(runtime, sequences, is_right, NUM_ROWS) == 0
    runtime.close()
