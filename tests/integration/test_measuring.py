"""What a service measures at load: once, and told to whoever asks what it serves."""

import errno
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import llama_cpp
import numpy as np
import pytest

from outrider.v1 import common_pb2
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup import application as startup
from services.engine.startup import exactness, flash_attention
from services.engine.startup.measuring import Budget, Measuring
from services.engine.startup.one_layer import one_layer_of
from services.frame.server import FrameServer
from services.target import application
from tests.integration.conftest import Pair
from tests.integration.services import draft_server, model_of, target_server

pytestmark = pytest.mark.integration

Make = Callable[..., FrameServer]
MEASURED = {"exact": "auto", "flash_attention": "auto"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RuntimeOptions]:
    """The options of each context that is made."""
    options: list[RuntimeOptions] = []

    def make(model: Any, each: RuntimeOptions) -> LlamaRuntime:
        options.append(each)
        return LlamaRuntime(model, each)

    for module in (exactness, flash_attention):
        monkeypatch.setattr(module, "LlamaRuntime", make)
    return options


@asynccontextmanager
async def started(server: FrameServer) -> AsyncIterator[common_pb2.ModelInfo]:
    async with server:
        yield await model_of(server)


async def test_a_second_start_probes_nothing(pair: Pair, made: list[RuntimeOptions]) -> None:
    async with started(target_server(pair.target, **MEASURED)) as first:
        assert len(made) > 1
    made.clear()
    async with started(target_server(pair.target, **MEASURED)) as second:
        # The one that serves.
        assert len(made) == 1
    assert second == first


async def test_a_draft_measures_flash_attention_once(pair: Pair, made: list[RuntimeOptions]) -> None:
    num_made = []
    for _ in range(2):
        async with started(draft_server(pair.draft, flash_attention="auto")):
            num_made.append(len(made))
        made.clear()
    assert num_made[0] > num_made[1] == 1


def test_attention_is_measured_by_a_layer_with_the_heads_of_the_model(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = Model(pair.target)
    with one_layer_of(model) as layer:
        assert llama_cpp.llama_model_n_layer(layer.handle) == 1
        for size in (llama_cpp.llama_model_n_head, llama_cpp.llama_model_n_head_kv):
            assert size(layer.handle) == size(model.handle)
        assert {*layer.cache_shape.keys} == {*model.cache_shape.keys}
        assert {*layer.cache_shape.values} == {*model.cache_shape.values}
        assert layer.path.exists()
        runtime = LlamaRuntime(layer, RuntimeOptions(num_slots=2, flash_attention=True))
        assert np.isfinite(runtime.decode([Segment(1, 0, [1, 2, 3], 1)])[0]).all()
        runtime.close()
    assert not layer.path.exists()
    assert "GGUF" not in caplog.text
    model.close()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [("llama_model_n_head", 0, "has no attention"), ("llama_model_n_embd", 33, "an odd number of elements")],
)
def test_attention_that_a_layer_cannot_have_is_not_measured(
    name: str, value: int, complaint: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(pair.target)
    monkeypatch.setattr(model, "metadata", lambda key: "")
    monkeypatch.setattr(llama_cpp, name, lambda handle: value)
    if value:
        monkeypatch.setattr(llama_cpp, "llama_model_n_head", lambda handle: 1)
    with pytest.raises(ModelLoadError, match=complaint), one_layer_of(model):
        pass
    model.close()


async def test_a_probe_that_takes_all_its_time_leaves_some_for_flash_attention(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def spend(loaded: object, max_draft_tokens: int, measuring: Measuring) -> None:
        time.sleep(measuring.budget.left_s)

    monkeypatch.setattr(application, "choose_auto", spend)
    monkeypatch.setattr(startup, "budget_after", lambda loading_s: Budget(4.0))
    async with started(target_server(pair.target, **MEASURED)):
        assert "measured flash attention: it takes" in caplog.text


@pytest.mark.parametrize("make", [target_server, draft_server])
async def test_what_is_chosen_is_told_and_tells_numerics_apart(
    pair: Pair, make: Make, made: list[RuntimeOptions], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    models = {}
    for setting in ("on", "off"):
        async with started(make(pair.draft, flash_attention=setting)) as models[setting]:
            assert made[-1].flash_attention == models[setting].uses_flash_attention == (setting == "on")
            assert f"flash attention {setting}" in caplog.messages[-1]
    assert models["on"].numerics_fingerprint != models["off"].numerics_fingerprint


async def test_exactness_goes_without_flash_attention(
    pair: Pair, made: list[RuntimeOptions], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    models = []
    for setting in ("off", "on", "auto"):
        async with started(target_server(pair.draft, exact="on", flash_attention=setting)) as model:
            models.append(model)
            assert not made[-1].flash_attention
            assert "flash attention off, exact by" in caplog.messages[-1]
    # They compute the same bits.
    assert models[0] == models[1] == models[2]
    assert not models[0].uses_flash_attention
    assert caplog.text.count("exact mode goes without it") == 1


async def test_without_a_cache_folder_everything_is_served(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fail)
    async with started(target_server(pair.target, **MEASURED)) as model:
        assert model.num_slots > 0
    sentences = [record.getMessage() for record in caplog.records if "XDG_CACHE_HOME" in record.getMessage()]
    assert len(sentences) == 1
    assert "Read-only file system" in sentences[0]
