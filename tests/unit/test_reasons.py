"""Reasons of errors are part of the protocol: clients read their names there."""

import ast
from pathlib import Path

from outrider.v1 import common_pb2
from services.engine.wire import _STATUS

ROOT = Path(__file__).parents[2]
NAMED = {name.removeprefix("ERROR_REASON_") for name in common_pb2.ErrorReason.DESCRIPTOR.values_by_name}
# A client of ours finds them out by itself; no server sends them.
FOUND_BY_CLIENTS = {"STREAM_BROKEN", "UNREACHABLE"}


def _reasons(path: Path) -> set[str]:
    """The reasons of the errors that a file makes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="ServiceError"), args=[_, ast.Constant(value=str(reason)), *_]):
                found.add(reason)
            case ast.Call(func=ast.Name(id="invalid_argument"), args=[ast.Constant(value=str(reason)), *_]):
                found.add(reason)
    return found


def test_every_reason_is_named_in_the_protocol() -> None:
    files = [path for folder in ("services", "orchestrator") for path in (ROOT / folder).rglob("*.py")]
    reasons = {reason for _, reason in _STATUS.values()}.union(*map(_reasons, files))
    assert reasons >= {"QUEUE_FULL", "EMPTY_CONTEXT", "PROMPT_TOO_LONG"}, "each way to make an error is found"
    assert reasons - FOUND_BY_CLIENTS <= NAMED
