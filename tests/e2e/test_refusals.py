"""What keeps a program from starting: one sentence on stderr, exit code 2, no traceback, nothing left behind."""

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Pair
from tests.e2e.programs import MODULES, Finished, run

pytestmark = pytest.mark.e2e


PROGRAMS = {module: f"outrider-{name}" for name, module in MODULES.items()}


def _check(finished: Finished, *expected: str) -> None:
    """One sentence that holds every expected text."""
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stderr.endswith("\n")
    assert "Traceback" not in finished.stderr
    for text in expected:
        assert text in finished.stderr


@pytest.fixture
def corrupt(tmp_path: Path, pair: Pair) -> Path:
    """A model file that was not written to its end."""
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(pair.target.read_bytes()[:1_000_000])
    return path


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_service_without_a_model(tmp_path: Path) -> None:
    _check(run(tmp_path, "--port", "0", module="services.target"), "outrider-target: ", "--model is missing")
    flags = ("--port", "0", "--model", "no/such.gguf", "--log-level", "error")
    _check(run(tmp_path, *flags, module="services.draft"), "outrider-draft: ", "no/such.gguf", "No such file")


def test_a_service_with_a_corrupt_model(corrupt: Path, tmp_path: Path) -> None:
    flags = ("--model", str(corrupt), "--port", "0", "--log-level", "error")
    _check(run(tmp_path, *flags, module="services.target"), "outrider-target: ", str(corrupt))


def test_a_port_that_is_busy(tmp_path: Path, busy_port: int) -> None:
    flags = ("--target", "127.0.0.1:1", "--port", str(busy_port))
    _check(run(tmp_path, *flags, module="orchestrator"), f"cannot listen on 127.0.0.1:{busy_port}", "--port")


@pytest.mark.parametrize("module", MODULES.values())
def test_a_flag_that_does_not_exist(tmp_path: Path, module: str) -> None:
    _check(run(tmp_path, "--no-such-flag", module=module), f"{PROGRAMS[module]}: ", "--no-such-flag")


@pytest.mark.parametrize("is_target", [True, False], ids=["target", "draft"])
def test_a_pair_with_a_corrupt_model(corrupt: Path, pair: Pair, tmp_path: Path, is_target: bool) -> None:
    models = (corrupt, pair.draft) if is_target else (pair.target, corrupt)
    _check(run(tmp_path, "pair", *map(str, models)), str(corrupt))


def test_a_chat_with_a_model_that_has_no_template(pair: Pair, tmp_path: Path) -> None:
    finished = run(tmp_path, "chat", *pair.flags, "--exact", "off")
    _check(finished, "the model has no chat template: use `outrider generate`")
    assert finished.stdout == ""


def test_generate_with_a_corrupt_model(corrupt: Path, tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    finished = run(tmp_path, "generate", "--target", str(corrupt), "a")
    _check(finished, str(corrupt))
    assert finished.stdout == ""
    left = [process for process in psutil.process_iter() if process.pid not in before]
    assert not [process for process in left if _serves(process, corrupt)]


def _serves(process: psutil.Process, model: Path) -> bool:
    try:
        return str(model) in process.cmdline()
    except psutil.Error:
        return False


def test_generate_with_a_corrupt_draft(pair: Pair, corrupt: Path, tmp_path: Path) -> None:
    finished = run(tmp_path, "generate", "--target", str(pair.target), "--draft", str(corrupt), "--exact", "off", "a")
    _check(finished, str(corrupt))


def test_serve_on_a_busy_port(pair: Pair, tmp_path: Path, busy_port: int) -> None:
    flags = ("--port", str(busy_port), "--log-level", "error", "--exact", "off")
    finished = run(tmp_path, "serve", *pair.flags, *flags)
    _check(finished, f"cannot listen on 127.0.0.1:{busy_port}", "--port")


def test_bad_use_of_the_command_line(tmp_path: Path) -> None:
    _check(run(tmp_path, "generate", "a", "--no-such-flag"), "outrider: ", "--no-such-flag")
    _check(run(tmp_path, "serve", "--target", "no/such.gguf"), "outrider: ", "no/such.gguf")


def test_a_variable_of_the_environment_that_does_not_exist(pair: Pair, tmp_path: Path) -> None:
    flags = ("--model", str(pair.target), "--port", "0")
    finished = run(tmp_path, *flags, module="services.target", OUTRIDER_TARGET_THREAD="1")
    _check(finished, "OUTRIDER_TARGET_THREAD")


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("services.target", "TARGET_MODEL_PATH", "no/such.gguf"),
        ("services.draft", "DRAFT_MODEL_PATH", "no/such.gguf"),
        ("orchestrator", "SPECULATION_DEPTH", "deep"),
        ("orchestrator", "ENABLE_SPECULATIVE", "maybe"),
    ],
)
def test_names_of_other_engines_with_bad_values(tmp_path: Path, module: str, name: str, value: str) -> None:
    """A service refuses the model that is not there, as it does by its own name."""
    quiet = () if module == "orchestrator" else ("--log-level", "error")
    finished = run(tmp_path, "--port", "0", *quiet, module=module, **{name: value})
    _check(finished, f"{PROGRAMS[module]}: ", value)
