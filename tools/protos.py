"""Generates, checks and lints the stubs of `protos/outrider/v1`.

`generate` writes them, `check` fails where the committed ones differ from what the installed compiler gives, `lint`
and `breaking` run buf on a descriptor set, so that buf needs neither the network nor a copy of google/rpc.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("outrider/v1")
STUB_PATTERN = "*_pb2*.py*"
BUF_PACKAGE = "@bufbuild/buf@1.75.0"
CODE_DIFFERENT = 1
CODE_UNUSABLE = 2


class ProtoError(Exception):
    """What went wrong, in one sentence, with the compiler's own words where there are any."""


def proto_files(root: Path) -> list[Path]:
    """Paths of our protos, relative to `root`, in a stable order."""
    files = sorted(path.relative_to(root) for path in (root / PACKAGE).glob("*.proto"))
    if not files:
        raise ProtoError(f"there are no .proto files in {root / PACKAGE}")
    return files


def run_protoc(root: Path, arguments: Sequence[str], files: Sequence[Path]) -> None:
    """Run the compiler of grpcio-tools with google/rpc of googleapis-common-protos on its path."""
    google_protos = importlib.metadata.distribution("googleapis-common-protos").locate_file("")
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"-I{root}", f"-I{google_protos}", *arguments]
    # protoc looks its mypy plugins up on PATH; they are installed beside the interpreter.
    plugins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    result = subprocess.run(
        [*command, *(path.as_posix() for path in files)],
        cwd=root,
        env={**os.environ, "PATH": plugins},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise ProtoError(f"protoc refused the protos:\n{result.stderr.strip()}")


def generate(out: Path, root: Path = PROTOS) -> list[Path]:
    """Write every stub of the protos under `root` below `out` and return their paths, relative to `out`.

    Files that define no service get no `_pb2_grpc` module: it would be empty.
    """
    files = proto_files(root)
    services = [path for path in files if re.search(r"^service\s", (root / path).read_text(), re.MULTILINE)]
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        run_protoc(root, [f"--python_out={fresh}", f"--mypy_out=quiet:{fresh}"], files)
        if services:
            grpc_outputs = [f"--grpc_python_out={fresh}", f"--mypy_grpc_out=quiet,only_async:{fresh}"]
            run_protoc(root, grpc_outputs, services)
        stubs = sorted(path.relative_to(fresh) for path in (fresh / PACKAGE).glob(STUB_PATTERN))
        (out / PACKAGE).mkdir(parents=True, exist_ok=True)
        for old in (out / PACKAGE).glob(STUB_PATTERN):
            if old.relative_to(out) not in stubs:
                old.unlink()
        for stub in stubs:
            shutil.copyfile(fresh / stub, out / stub)
    return stubs


def differences(root: Path = PROTOS) -> list[str]:
    """One sentence for each stub that is not what the protos give."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        expected = set(generate(fresh, root))
        present = {path.relative_to(root) for path in (root / PACKAGE).glob(STUB_PATTERN)}
        sentences = [f"{stub.as_posix()} is missing" for stub in sorted(expected - present)]
        sentences += [f"{stub.as_posix()} belongs to no proto" for stub in sorted(present - expected)]
        for stub in sorted(expected & present):
            if (fresh / stub).read_bytes() != (root / stub).read_bytes():
                sentences.append(f"{stub.as_posix()} differs from what its proto gives")
    return sentences


def buf_command() -> list[str] | None:
    """How buf is called here: an installed one, else the pinned one through npx; None where neither works."""
    for command in (["buf"], ["npx", "--yes", BUF_PACKAGE]):
        if shutil.which(command[0]) is None:
            continue
        # npx is at hand on machines that cannot fetch anything, so ask it.
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


def build_image(root: Path, image: Path) -> None:
    """Write a descriptor set of the protos, imports and comments included, in the form that buf reads."""
    arguments = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    run_protoc(root, arguments, proto_files(root))


def checkout_protos(ref: str, target: Path) -> None:
    """Copy the protos of a git revision to `target`."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", ref, f"protos/{PACKAGE.as_posix()}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        raise ProtoError(f"git has no protos at {ref}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(target), "--strip-components=1"], input=archive.stdout, check=True)


def run_buf(against: str | None = None) -> int:
    """Run `buf lint`, or `buf breaking` against a git revision; returns buf's exit code, 0 where buf is not at hand."""
    command = buf_command()
    if command is None:
        print("buf skipped: neither buf nor a working npx is installed")
        return 0
    config = ["--config", str(PROTOS / "buf.yaml")]
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "new.binpb"
        build_image(PROTOS, image)
        if against is None:
            return subprocess.run([*command, "lint", str(image), *config], check=False).returncode
        earlier = Path(scratch) / "earlier"
        earlier.mkdir()
        checkout_protos(against, earlier)
        earlier_image = Path(scratch) / "earlier.binpb"
        build_image(earlier, earlier_image)
        comparison = ["breaking", str(image), "--against", str(earlier_image), *config]
        return subprocess.run([*command, *comparison], check=False).returncode


def check() -> int:
    sentences = differences()
    for sentence in sentences:
        print(f"{sentence}: run `make protos`", file=sys.stderr)
    return CODE_DIFFERENT if sentences else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Generate, check and lint the protocol's stubs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="write the stubs")
    commands.add_parser("check", help="fail where the committed stubs differ")
    commands.add_parser("lint", help="buf lint")
    breaking = commands.add_parser("breaking", help="buf breaking against a git revision")
    breaking.add_argument("--against", default="HEAD", metavar="REVISION")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "generate":
            print(f"wrote {len(generate(PROTOS))} stubs to {(PROTOS / PACKAGE).relative_to(ROOT)}")
            return 0
        if arguments.command == "check":
            return check()
        return run_buf(arguments.against if arguments.command == "breaking" else None)
    except ProtoError as error:
        print(f"protos: {error}", file=sys.stderr)
        return CODE_UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
