"""Models that cannot be served: one sentence that says so, before anybody waits for them."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider.v1 import generation_pb2
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.startup import application as engine_application
from services.frame.program.startup import StartupError
from services.frame.server import FrameServer
from tests.control_groups import MIB, make_groups
from tests.integration.conftest import Pair
from tests.integration.services import client_of, draft_server, orchestrator_server, target_server
from tests.integration.unusual_models import learned_positions

pytestmark = pytest.mark.integration

# A user id that has no name.
NOBODY = 2_000_000_000
Make = Callable[[Path], FrameServer]


def _scrambled(whole: bytes) -> bytes:
    """The header as it was, zeros for everything that follows."""
    return whole[:200] + bytes(len(whole) - 200)


@pytest.mark.parametrize("make", [target_server, draft_server])
@pytest.mark.parametrize(
    "break_off",
    [
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"I am no model.\n" * 100, id="text"),
        pytest.param(lambda whole: whole[:4], id="header only"),
        pytest.param(lambda whole: whole[:60_000], id="cut in its metadata"),
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut short"),
        pytest.param(lambda whole: whole[:-1], id="one byte short"),
        pytest.param(_scrambled, id="scrambled"),
        pytest.param(lambda whole: b"GGUF" + b"\xff" * 1000, id="absurd sizes"),
    ],
)
async def test_a_corrupt_model(pair: Pair, tmp_path: Path, make: Make, break_off: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(break_off(pair.target.read_bytes()))
    with pytest.raises(StartupError) as info:
        async with make(path):
            pass
    assert str(path) in str(info.value)
    assert "\n" not in str(info.value)
    assert "no reason" not in str(info.value)


@pytest.mark.parametrize("name", ["no-such.gguf", "."])
async def test_a_model_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartupError, match="cannot read model"):
        async with target_server(tmp_path / name):
            pass


@pytest.mark.parametrize("make", [target_server, draft_server])
async def test_a_pipe_in_the_place_of_a_model(tmp_path: Path, make: Make) -> None:
    """Whoever opened it would wait for ever."""
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(StartupError, match=r"cannot read model .*: it is not a file"):
        async with make(tmp_path / "model.gguf"):
            pass


@pytest.mark.parametrize("make", [target_server, draft_server])
async def test_a_file_in_the_place_of_the_model_s_folder(pair: Pair, make: Make) -> None:
    with pytest.raises(StartupError, match=r"cannot read model .*: Not a directory"):
        async with make(pair.target / "model.gguf"):
            pass


@pytest.mark.parametrize("cache", ["/dev/null/cache", ""], ids=["a folder that cannot be made", "no home"])
async def test_a_user_without_a_cache_folder(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: str
) -> None:
    """What is measured is found out all the same, and again by the next start."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    async with target_server(pair.target, exact="auto"):
        pass
    (warning,) = [record.getMessage() for record in caplog.records if "XDG_CACHE_HOME" in record.getMessage()]
    assert "\n" not in warning


async def test_a_control_group_that_leaves_too_little(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the weights are loaded, which could end the process."""
    groups = make_groups(tmp_path / "root", monkeypatch)
    groups.version_2()
    groups.write("/sys/fs/cgroup", {"memory.max": 64 * MIB, "memory.current": 60 * MIB})
    monkeypatch.setattr(engine_application, "Model", None)
    with pytest.raises(StartupError, match="4 MiB are free within the control group's limit of 64 MiB: take a smaller"):
        async with target_server(pair.target):
            pass


async def test_caches_that_do_not_fit(pair: Pair) -> None:
    with pytest.raises(StartupError, match=r"256 slots of 1048576 tokens at \d+ bytes a token need \d+ MiB"):
        async with target_server(pair.target, slots=256, context=1 << 20):
            pass


async def test_no_more_positions_than_were_learned(tmp_path: Path) -> None:
    path = learned_positions(tmp_path / "model.gguf", 128)
    with pytest.raises(StartupError, match=r"it knows 128 positions, 32 of them are for padding: .* at most 96"):
        async with target_server(path, context=97):
            pass
    async with target_server(path, context=96) as target:
        orchestrator = orchestrator_server(target.address)
        async with orchestrator, client_of(orchestrator) as client:
            generated = await client.generate("7" * 80, max_tokens=200)
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL
    assert generated.summary.usage.num_prompt_tokens + len(generated.ids) == 96


def test_a_model_that_is_given_up_is_not_loaded(pair: Pair) -> None:
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(ModelLoadError, match="cannot load model"):
        Model(pair.target, given_up=given_up)
