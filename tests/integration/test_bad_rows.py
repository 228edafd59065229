"""Rows that cannot be decoded: refused before llama.cpp sees them, and nobody else is harmed."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from services.engine.errors import DecodeError
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.scheduling.engine import Engine
from tests import foreign_models
from tests.foreign_models import VOCABULARY_SIZE
from tests.integration.model_options import NUM_SLOTS, OPTIONS, TOLERANCE
from tests.unit.engine.works import Greedy, prefix

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(foreign_models.llama(tmp_path_factory.mktemp("plain") / "model.gguf"))


BAD_SEGMENTS = {
    "no rows": ([], "0 rows"),
    "too many rows": ([Segment(slot, 0, [1] * 100, 1) for slot in range(3)], "301 rows"),
    "too many rows with padding": ([Segment(0, 0, [1] * 200, 1, 57)], "258 rows"),
    "past the context": ([Segment(0, 255, [1, 2], 1)], "positions 255 to 256"),
    "padding past the context": ([Segment(0, 250, [1, 2], 1, 5)], "positions 250 to 256"),
    "before the context": ([Segment(0, -1, [1, 2], 1)], "positions -1 to 0"),
    "slot that does not exist": ([Segment(NUM_SLOTS, 0, [1], 1)], "slot 4"),
    "negative slot": ([Segment(-1, 0, [1], 1)], "slot -1"),
    "id outside the vocabulary": ([Segment(0, 0, [1, VOCABULARY_SIZE], 1)], "vocabulary of 512"),
    "id outside what is stored": ([Segment(0, 0, [2**40, 1], 1)], "vocabulary of 512"),
    "negative id": ([Segment(0, 0, [-1], 1)], "vocabulary of 512"),
    "more outputs than tokens": ([Segment(0, 0, [1, 2], 3)], "3 outputs for 2 tokens"),
    "negative outputs": ([Segment(0, 0, [1, 2], -1)], "-1 outputs for 2 tokens"),
}


@pytest.mark.parametrize("name", BAD_SEGMENTS)
def test_bad_rows_are_refused_before_llama_cpp_sees_them(plain: Model, name: str) -> None:
    segments, reason = BAD_SEGMENTS[name]
    runtime = LlamaRuntime(plain, OPTIONS)
    (before,) = runtime.decode([Segment(1, 0, [1, 2, 3], 1)])
    before = before.copy()
    with pytest.raises(DecodeError, match=reason):
        runtime.decode([Segment(1, 3, [4], 1), *segments] if segments else [])
    runtime.cut(1, 2)
    assert np.abs(runtime.decode([Segment(1, 2, [3], 1)])[0] - before).max() < TOLERANCE
    runtime.close()


def test_a_batch_is_no_larger_than_the_caches(plain: Model) -> None:
    runtime = LlamaRuntime(plain, RuntimeOptions(num_slots=2, context_length=256, max_batch_rows=2048, num_threads=1))
    assert runtime.max_batch_rows == 512
    segments = [Segment(slot, 0, [1] * 256, 1) for slot in range(2)]
    assert [logits.shape for logits in runtime.decode(segments)] == [(1, VOCABULARY_SIZE)] * 2
    runtime.close()


@pytest.fixture
async def engine(plain: Model) -> AsyncIterator[Engine]:
    engine = Engine(LlamaRuntime(plain, OPTIONS))
    engine.start()
    yield engine
    engine.stop()


@pytest.mark.parametrize("tokens", [[5, VOCABULARY_SIZE], [1] * 257, [-1]])
async def test_work_that_nobody_checked_fails_alone(engine: Engine, tokens: list[int]) -> None:
    good = await engine.run(Greedy(prefix("a", [1, 2, 3])))
    with pytest.raises(DecodeError):
        await engine.run(Greedy(prefix("b", tokens)))
    assert await engine.run(Greedy(prefix("c", [1, 2, 3]))) == good
