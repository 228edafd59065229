"""Variables without a value, as compose and Kubernetes pass them on."""

import os
import subprocess
import sys

import pytest

from services.frame.program.environment import set_default, unset_empty


def test_a_default_is_for_what_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SET", "theirs"), ("EMPTY", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)
    for name in ("SET", "EMPTY", "UNSET"):
        set_default(name, "ours")
    assert [os.environ.pop(name) for name in ("SET", "EMPTY", "UNSET")] == ["theirs", "ours", "ours"]


def test_only_empty_ones_of_the_library_are_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LIBRARY_A", ""), ("LIBRARY_B", "0"), ("OTHER", "")):
        monkeypatch.setenv(name, value)
    unset_empty("LIBRARY_")
    assert [name in os.environ for name in ("LIBRARY_A", "LIBRARY_B", "OTHER")] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "package", "value"),
    [
        ("OMP_WAIT_POLICY", "services.engine", "active"),
        ("GOMP_SPINCOUNT", "services.engine", "10000"),
        ("GRPC_EXPERIMENTS", "services.frame", "-event_engine_client,-event_engine_listener"),
    ],
)
def test_libraries_are_set_up_in_spite_of_empty_variables(name: str, package: str, value: str) -> None:
    program = f"import os, {package}; print(os.environ[{name!r}])"
    environment = os.environ | {name: ""}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed == f"{value}\n"


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("OMP_NUM_THREADS", "services.engine.model.model"),
        ("GOMP_CPU_AFFINITY", "services.engine.model.model"),
        ("GRPC_SSL_CIPHER_SUITES", "services.frame"),
    ],
)
def test_libraries_do_not_see_empty_variables(name: str, package: str) -> None:
    """OpenMP complains of them on stderr, and with an empty list of ciphers gRPC makes no connection over TLS."""
    program = f"import os, {package}; print({name!r} in os.environ)"
    finished = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {name: ""}, capture_output=True, text=True, check=True
    )
    assert (finished.stdout, finished.stderr) == ("False\n", "")
