"""What keeps a program from starting: one sentence on stderr, exit code 2, no traceback, nothing left behind."""

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Pair
from tests.e2e.programs import MODULES, Finished, run

pytestmark = pytest.mark.e2e


def _check(finished: Finished, *expected: str) -> None:
    """One sentence that holds every expected text."""
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stderr.endswith("\n")
    assert "Traceback" not in finished.stderr
    for text in expected:
        assert text in finished.stderr


@pytest.fixture
def broken(tmp_path: Path, pair: Pair) -> dict[str, Path]:
    """Files that are no models, by what is wrong with them."""
    whole = pair.target.read_bytes()
    contents = {
        "empty": b"",
        "text": b"I am no model.\n" * 100,
        "header only": whole[:4],
        "cut short": whole[: len(whole) // 2],
        "scrambled": whole[:200] + bytes(len(whole) - 200),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = tmp_path / f"{name.replace(' ', '-')}.gguf"
        paths[name].write_bytes(content)
    return paths


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("name", ["empty", "text", "header only", "cut short", "scrambled"])
def test_a_service_with_a_corrupt_model(broken: dict[str, Path], tmp_path: Path, name: str) -> None:
    finished = run(
        tmp_path, "--model", str(broken[name]), "--port", "0", "--log-level", "error", module="services.target"
    )
    _check(finished, "python -m services.target: ", str(broken[name]))


@pytest.mark.parametrize("module", ["services.target", "services.draft"])
def test_a_service_without_a_model(tmp_path: Path, module: str) -> None:
    _check(run(tmp_path, "--port", "0", module=module), f"python -m {module}: ", "--model is missing")
    missing = run(tmp_path, "--port", "0", "--model", "no/such.gguf", "--log-level", "error", module=module)
    _check(missing, "no/such.gguf", "No such file")


@pytest.mark.parametrize("module", MODULES.values())
def test_a_port_that_is_busy(pair: Pair, tmp_path: Path, busy_port: int, module: str) -> None:
    flags = ["--target", "127.0.0.1:1"] if module == "orchestrator" else ["--model", str(pair.target)]
    _check(run(tmp_path, *flags, "--port", str(busy_port), module=module), f"cannot listen on 127.0.0.1:{busy_port}")


@pytest.mark.parametrize("module", MODULES.values())
def test_a_flag_that_does_not_exist(tmp_path: Path, module: str) -> None:
    _check(run(tmp_path, "--no-such-flag", module=module), f"python -m {module}: ", "--no-such-flag")


def test_generate_with_a_corrupt_model(broken: dict[str, Path], tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    finished = run(tmp_path, "generate", "--target", str(broken["cut short"]), "a")
    _check(finished, str(broken["cut short"]))
    assert finished.stdout == ""
    left = [process for process in psutil.process_iter() if process.pid not in before]
    assert not [process for process in left if _serves(process)]


def _serves(process: psutil.Process) -> bool:
    try:
        return bool(set(MODULES.values()) & set(process.cmdline()))
    except psutil.Error:
        return False


def test_generate_with_a_corrupt_draft(pair: Pair, broken: dict[str, Path], tmp_path: Path) -> None:
    finished = run(tmp_path, "generate", "--target", str(pair.target), "--draft", str(broken["text"]), "a")
    _check(finished, str(broken["text"]), "not a GGUF file")


def test_serve_on_a_busy_port(pair: Pair, tmp_path: Path, busy_port: int) -> None:
    finished = run(tmp_path, "serve", *pair.flags, "--port", str(busy_port), "--log-level", "error")
    _check(finished, f"cannot listen on 127.0.0.1:{busy_port}", "--port")


def test_bad_use_of_the_command_line(tmp_path: Path) -> None:
    _check(run(tmp_path, "generate", "a", "--no-such-flag"), "outrider: ", "--no-such-flag")
    _check(run(tmp_path, "serve", "--target", "no/such.gguf"), "outrider: ", "no/such.gguf")


def test_a_variable_of_the_environment_that_does_not_exist(pair: Pair, tmp_path: Path) -> None:
    flags = ("--model", str(pair.target), "--port", "0")
    finished = run(tmp_path, *flags, module="services.target", OUTRIDER_TARGET_THREAD="1")
    _check(finished, "OUTRIDER_TARGET_THREAD")
