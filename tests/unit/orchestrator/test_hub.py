"""What goes wrong on the way to a model of the hub: one sentence that says what to change."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from orchestrator.hub import HubFile, fetch
from services.frame.startup import StartupError
from tests.hub import BROKEN, GATED, REPO, StandIn, hub
from tests.ports import free_port


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A model, and another one in two files."""
    names = ("model.gguf", "big/model-00001-of-00002.gguf", "big/model-00002-of-00002.gguf")
    paths = {name: tmp_path / name.rpartition("/")[2] for name in names}
    for name, path in paths.items():
        path.write_text(name)
    return paths


@pytest.fixture
def stand_in(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with hub(files) as server:
        use(server.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        close_session()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as if HF_ENDPOINT had been this url: the library reads it when it is imported."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_what_is_there_is_fetched_once(stand_in: StandIn) -> None:
    path = fetch(HubFile(REPO, "model.gguf", None))
    assert path.read_text() == "model.gguf"
    assert fetch(HubFile(REPO, "model.gguf", "v1")) == path, "another revision, the same commit"
    assert stand_in.fetched == ["model.gguf"]


def test_the_hub_s_variables_without_a_value_are_not_set(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would take an empty HF_ENDPOINT for an address, and an empty HF_HOME for the working directory."""
    for name in ("HF_ENDPOINT", "HF_HOME"):
        monkeypatch.setenv(name, "")
    fetch(HubFile(REPO, "model.gguf", None))
    assert not {"HF_ENDPOINT", "HF_HOME"} & set(os.environ)


def test_a_user_without_a_home_folder(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)
    with pytest.raises(StartupError, match=r"^model\.gguf cannot be fetched from .*: Could not determine home"):
        fetch(HubFile(REPO, "model.gguf", None))


def test_a_model_in_several_files_lies_together(stand_in: StandIn) -> None:
    """By the name of any of them."""
    path = fetch(HubFile(REPO, "big/model-00002-of-00002.gguf", None))
    assert path.name == "model-00001-of-00002.gguf"
    assert path.with_name("model-00002-of-00002.gguf").read_text() == "big/model-00002-of-00002.gguf"


def test_what_is_cached_needs_no_hub(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    file = HubFile(REPO, "model.gguf", None)
    path = fetch(file)
    use(f"http://127.0.0.1:{free_port()}", monkeypatch)
    assert fetch(file) == path


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(HubFile("nobody/nothing", "model.gguf", None), "there is no nobody/nothing of {url}", id="repo"),
        pytest.param(HubFile(REPO, "none.gguf", None), f"there is no file none.gguf in {REPO} of {{url}}", id="file"),
        pytest.param(HubFile(REPO, "model.gguf", "v2"), f"there is no revision v2 in {REPO} of {{url}}", id="revision"),
        pytest.param(HubFile(GATED, "model.gguf", None), f"{GATED} of {{url}} must be asked for", id="gated"),
        pytest.param(HubFile(BROKEN, "model.gguf", None), "model.gguf is not cached and {url} does not", id="broken"),
        pytest.param(HubFile("a..b/c", "model.gguf", None), "cannot be fetched from a..b/c of {url}", id="no name"),
    ],
)
def test_what_the_hub_does_not_have(stand_in: StandIn, file: HubFile, expected: str) -> None:
    with pytest.raises(StartupError) as info:
        fetch(file)
    assert expected.format(url=stand_in.url) in str(info.value)


def test_no_network(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    use(away, monkeypatch)
    with pytest.raises(StartupError, match=f"model.gguf is not cached and {away} does not answer: .*refused"):
        fetch(HubFile(REPO, "model.gguf", None))


def test_a_cache_that_cannot_be_written(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is wanted")
    with pytest.raises(StartupError, match=f"model.gguf cannot be fetched from {REPO} of "):
        fetch(HubFile(REPO, "model.gguf", None))


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StartupError, match=r"pip install 'outrider\[hub\]'"):
        fetch(HubFile(REPO, "model.gguf", None))
