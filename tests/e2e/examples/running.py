"""Running the clients in `examples/`, as their readers do."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from outrider.v1 import generation_pb2, generation_pb2_grpc
from tests.e2e.programs import ROOT, Finished, Serving, environment, run
from tests.waiting import PATIENCE_S

PYTHON = (sys.executable, str(ROOT / "examples" / "python" / "generate.py"))
VERIFY = (sys.executable, str(ROOT / "examples" / "python" / "verify.py"))
PROMPT = "def main("


def start(home: Path, command: Sequence[str], **variables: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a test reads of the output is gone from it, and no more than that.
        bufsize=0,
    )


def end(process: "subprocess.Popen[bytes]", read: bytes = b"") -> Finished:
    out, err = process.communicate(timeout=2 * PATIENCE_S)
    return Finished(process.returncode, (read + out).decode(), err.decode())


def run_example(home: Path, command: Sequence[str], *arguments: str, **variables: str) -> Finished:
    return end(start(home, [*command, *arguments], **variables))


def told_by_outrider(home: Path, system: Serving, *arguments: str) -> dict[str, Any]:
    """What our own client is told."""
    finished = run(home, "generate", "--address", system.address, "--json", *arguments)
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def status_of(system: Serving) -> generation_pb2.GetStatusResponse:
    with grpc.insecure_channel(system.address) as channel:
        # The stubs are typed for asyncio alone.
        stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)  # type: ignore[arg-type]
        reply: generation_pb2.GetStatusResponse = stub.GetStatus(generation_pb2.GetStatusRequest(), timeout=PATIENCE_S)
        return reply
