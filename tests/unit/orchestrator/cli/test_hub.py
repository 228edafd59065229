"""What goes wrong on the way to a model of the hub: one sentence that says what to change."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from orchestrator.cli import download
from orchestrator.cli.hub import HubFile, fetch
from services.frame.program.startup import StartupError
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
    with pytest.raises(StartupError, match=r"^there is no home folder to keep models in: set HF_HOME"):
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


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_is_cached_needs_no_answer(stand_in: StandIn, status: int) -> None:
    files = (HubFile(REPO, "model.gguf", None), HubFile(REPO, "big/model-00001-of-00002.gguf", "v1"))
    paths = [fetch(file) for file in files]
    stand_in.status = status
    assert [fetch(file) for file in files] == paths
    with pytest.raises(StartupError) as info:
        fetch(HubFile(REPO, "none.gguf", None))
    assert str(info.value).startswith(f"none.gguf is not cached and {stand_in.url} does not answer: {status} ")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("is_cached", [True, False])
def test_a_hub_that_wants_to_know_who_asks(stand_in: StandIn, status: int, is_cached: bool) -> None:
    """What is cached may be what somebody else is not to have: it is used where the user says so."""
    file = HubFile(REPO, "model.gguf", None)
    if is_cached:
        fetch(file)
    stand_in.status = status
    with pytest.raises(StartupError) as info:
        fetch(file)
    for expected in ("model.gguf", stand_in.url, "HF_TOKEN", "HF_HUB_OFFLINE=1"):
        assert expected in str(info.value)
    assert len(str(info.value).splitlines()) == 1


def test_offline(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    file = HubFile(REPO, "model.gguf", None)
    path = fetch(file)
    stand_in.status = 401
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    assert fetch(file) == path
    with pytest.raises(StartupError, match=f"none.gguf is not cached and {stand_in.url} does not answer: .*offline"):
        fetch(HubFile(REPO, "none.gguf", None))


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
    with pytest.raises(StartupError) as info:
        fetch(HubFile(REPO, "model.gguf", None))
    assert str(info.value).startswith(f"model.gguf cannot be fetched from {REPO} of {stand_in.url}: ")
    assert f"({tmp_path / 'cache'}" in str(info.value)
    assert str(info.value).endswith("set HF_HOME to a folder that can be written and has room")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device ({cache}): set HF_HOME to"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "Permission denied (/a/b): set HF_HOME to"),
        (OSError("Consistency check failed: 10 bytes.\nPlease retry."), ": Consistency check failed: 10 bytes"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "cannot be fetched from"),
    ],
    ids=["disk full", "not ours", "wrong size", "a token that is none"],
)
def test_what_can_go_wrong_on_the_disk(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(download, "hf_hub_download", fail)
    with pytest.raises(StartupError) as info:
        fetch(HubFile(REPO, "model.gguf", None))
    assert expected.format(cache=tmp_path / "cache") in str(info.value)
    assert len(str(info.value).splitlines()) == 1


def test_a_download_that_breaks_off_leaves_nothing_that_is_used(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between tries to go on where it broke off.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    file = HubFile(REPO, "model.gguf", None)
    stand_in.num_missing = 3
    with pytest.raises(StartupError, match=f"model.gguf cannot be fetched from {REPO} of "):
        fetch(file)
    stand_in.status = 503
    with pytest.raises(StartupError, match="is not cached"):
        fetch(file)
    stand_in.status, stand_in.num_missing = None, 0
    assert fetch(file).read_text() == "model.gguf"


def test_without_a_home(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(StartupError, match="there is no home folder to keep models in: set HF_HOME"):
        fetch(HubFile(REPO, "model.gguf", None))


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "orchestrator.cli.download")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StartupError, match=r"pip install 'outrider\[hub\]'"):
        fetch(HubFile(REPO, "model.gguf", None))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"all_proxy": "socks5://127.0.0.1:1"}, "a SOCKS proxy needs the package socksio: pip install socksio"),
        ({"SSL_CERT_FILE": "/no/such/file"}, "SSL_CERT_FILE or SSL_CERT_DIR cannot be used: No such file or directory"),
    ],
    ids=["proxy", "certificates"],
)
def test_a_session_that_cannot_be_opened(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """As without an answer, what is cached is good enough."""
    path = fetch(HubFile(REPO, "model.gguf", None))
    close_session()
    monkeypatch.setitem(sys.modules, "socksio", None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetch(HubFile(REPO, "model.gguf", None)) == path
    with pytest.raises(StartupError) as info:
        fetch(HubFile(REPO, "none.gguf", None))
    assert str(info.value) == f"none.gguf is not cached and {stand_in.url} does not answer: {expected}"


@pytest.mark.parametrize("variables", [{"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, {"HF_ENDPOINT": "http://["}])
def test_a_variable_that_the_library_cannot_read(variables: dict[str, str]) -> None:
    """It reads them when it is imported."""
    program = (
        "from orchestrator.cli.hub import HubFile, fetch\n"
        "from services.frame.program.startup import StartupError, refuse\n"
        "try: fetch(HubFile('a/b', 'c.gguf', None))\n"
        "except StartupError as error: refuse(error)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("outrider: an HF_ variable has a value that huggingface_hub cannot read: ")
    assert finished.stderr.count("\n") == 1
