"""Calls from languages that have no example, by code that the machine's tools generate.

Whatever a machine lacks (Debian: ruby-grpc; libgrpc-java, libnetty-java, libguava-java, libperfmark-java,
libgeronimo-annotation-1.3-spec-java, protobuf-compiler-grpc-java-plugin) skips its part with the reason.
"""

import os
from pathlib import Path

import pytest

from tests.compilers import check, need, need_ruby, protoc, services
from tests.e2e.programs import ROOT, Serving, run

pytestmark = pytest.mark.e2e

CLIENTS = ROOT / "tests" / "e2e" / "clients"
PROMPT = "def main("
SEED = str(2**64 - 1)
JARS = Path("/usr/share/java")
GRPC_JARS = (
    *(f"grpc-{name}" for name in ("api", "context", "core", "netty", "protobuf", "protobuf-lite", "stub")),
    *(
        "geronimo-annotation-1.3-spec",
        "guava",
        "netty-all",
        "netty-transport",
        "opencensus-api",
        "perfmark-api",
        "protobuf",
    ),
)


def _check_call(system: Serving, home: Path, *command: str) -> None:
    """Check what a client says: our text to stdout, to stderr the seed and the field that is refused."""
    asked = ("--max-tokens", "16", "--seed", SEED, PROMPT)
    expected = run(home, "generate", "--address", system.address, *asked)
    said = check(*command, system.address, PROMPT)
    # Ours shows what it goes on with.
    assert PROMPT + said.stdout == expected.stdout.removesuffix("\n")
    assert said.stderr.splitlines()[-2:] == [f"seed {SEED}", "sampling.temperature"]


def test_ruby(system: Serving, home: Path, tmp_path: Path) -> None:
    need("protoc", "grpc_ruby_plugin")
    need_ruby("grpc")
    protoc(f"--ruby_out={tmp_path}")
    services("grpc_ruby_plugin", tmp_path)
    _check_call(system, home, "ruby", "-I", str(tmp_path), str(CLIENTS / "generate.rb"))


def test_java(system: Serving, home: Path, tmp_path: Path) -> None:
    need("protoc", "grpc_java_plugin", "javac", "java")
    jars = [JARS / f"{name}.jar" for name in GRPC_JARS]
    if missing := [jar.name for jar in jars if not jar.exists()]:
        pytest.skip(f"{missing[0]} is not installed")
    path = os.pathsep.join(str(jar) for jar in (*jars, *sorted(JARS.glob("netty-*.jar"))))
    protoc(f"--java_out={tmp_path}")
    services("grpc_java_plugin", tmp_path)
    classes = str(tmp_path / "classes")
    check(
        "javac", "-proc:none", "-cp", path, "-sourcepath", str(tmp_path), "-d", classes, str(CLIENTS / "Generate.java")
    )
    _check_call(system, home, "java", "-cp", f"{classes}:{path}", "Generate")
