"""The protos as the compilers of other languages take them: by the include path `protos` alone.

Whatever a machine lacks (Debian: protobuf-compiler, protobuf-compiler-grpc, libgrpc++-dev, protoc-gen-go and others)
skips its part with the reason.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from outrider.v1 import common_pb2, draft_pb2, generation_pb2, model_pb2, target_pb2
from tests.compilers import OURS, PROTOS, check, need, need_ruby, protoc, services

GOPATH = Path("/usr/share/gocode")
PROTOBUF_JAR = Path("/usr/share/java/protobuf.jar")
PHP_LIBRARY = Path("/usr/share/php")
USE_PHP = """<?php
spl_autoload_register(function ($class) use ($argv) {
    foreach (array_slice($argv, 1) as $root) {
        $path = "$root/" . strtr($class, '\\\\', '/') . '.php';
        if (is_file($path)) { require_once $path; return; }
    }
});
$sampling = new Outrider\\V1\\Sampling(['temperature' => 0.5]);
$sent = new Outrider\\V1\\GenerateRequest(['text' => 'a', 'seed' => -1, 'sampling' => $sampling]);
$read = new Outrider\\V1\\GenerateRequest();
$read->mergeFromString($sent->serializeToString());
echo "{$read->getText()} {$read->getPrompt()} {$read->getSeed()} {$read->getSampling()->getTemperature()}";
"""


def test_the_include_path_is_complete(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--descriptor_set_out={tmp_path / 'all'}")
    check(*command, "--include_imports", *OURS)


def messages() -> Iterator[Descriptor]:
    for file in (common_pb2, draft_pb2, generation_pb2, model_pb2, target_pb2):
        yield from file.DESCRIPTOR.message_types_by_name.values()


def test_no_field_hides_a_type_of_python() -> None:
    """`bytes: bytes` in the stubs of protoc's own makes every later `bytes` of the message that field."""
    names = {field.name for message in messages() for field in message.fields}
    assert not names & {"bool", "bytes", "dict", "float", "int", "list", "str", "type"}


def test_cpp(tmp_path: Path) -> None:
    need("protoc", "grpc_cpp_plugin")
    protoc(f"--cpp_out={tmp_path}")
    services("grpc_cpp_plugin", tmp_path)
    need("g++", "pkg-config")
    if subprocess.run(["pkg-config", "--exists", "grpc++"], check=False).returncode:
        pytest.skip("the headers of gRPC are not installed")
    # It includes all others.
    source = tmp_path / "outrider/v1/generation.grpc.pb.cc"
    check("g++", "-std=c++17", "-fsyntax-only", f"-I{tmp_path}", str(source))


def test_go(tmp_path: Path) -> None:
    need("protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    folder = tmp_path / "src"
    folder.mkdir()
    protoc(f"--go_out={folder}", f"--go-grpc_out={folder}", files=OURS)
    assert (folder / "outrider/v1/generation.pb.go").read_text().count("\npackage outriderv1\n") == 1
    need("go")
    if not (GOPATH / "src/google.golang.org/grpc").exists():
        pytest.skip("gRPC for Go is not installed")
    check("go", "vet", "outrider/v1", GO111MODULE="off", GOPATH=f"{tmp_path}:{GOPATH}", GOCACHE=str(tmp_path / "cache"))


def test_java(tmp_path: Path) -> None:
    need("protoc")
    protoc(f"--java_out={tmp_path}")
    assert (tmp_path / "outrider/v1/GenerateRequest.java").exists()
    need("javac")
    if not PROTOBUF_JAR.exists():
        pytest.skip("libprotobuf-java is not installed")
    sources = [str(path) for path in tmp_path.rglob("*.java")]
    check("javac", "-cp", str(PROTOBUF_JAR), "-d", str(tmp_path / "classes"), *sources)


def test_ruby(tmp_path: Path) -> None:
    need("protoc")
    protoc(f"--ruby_out={tmp_path}")
    need_ruby("google/protobuf")
    use = "require 'outrider/v1/generation_pb'; Outrider::V1::GenerateRequest.new(text: 'a', seed: 2**64 - 1)"
    check("ruby", "-I", str(tmp_path), "-e", use)


def test_php(tmp_path: Path) -> None:
    need("protoc")
    protoc(f"--php_out={tmp_path}")
    need("php")
    for path in tmp_path.rglob("*.php"):
        check("php", "-l", str(path))
    if not (PHP_LIBRARY / "Google/Protobuf/Any.php").exists():
        pytest.skip("php-google-protobuf is not installed")
    script = tmp_path / "use.php"
    script.write_text(USE_PHP)
    # It has no unsigned numbers.
    assert check("php", str(script), str(tmp_path), str(PHP_LIBRARY)).stdout == "a text -1 0.5"


def test_csharp(tmp_path: Path) -> None:
    need("protoc")
    protoc(f"--csharp_out={tmp_path}")
    assert "namespace Outrider.V1 {" in (tmp_path / "Generation.cs").read_text()


def test_objective_c(tmp_path: Path) -> None:
    """Names there are of no package: without a prefix there would be a Context and a Timings of everybody's."""
    need("protoc")
    protoc(f"--objc_out={tmp_path}")
    assert "@interface OTRContext :" in (tmp_path / "outrider/v1/Common.pbobjc.h").read_text()
