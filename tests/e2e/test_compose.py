"""The containers of docker-compose.yml, on a Docker engine.

`pytest -m docker` builds the images, which takes minutes. Otherwise they are used where they were built from this very
code, and nothing is built.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest

from tests.e2e.programs import ROOT
from tests.integration.services import Client, Generated
from tests.ports import free_port
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.docker]

SERVICES = ("target", "draft", "orchestrator")
BASE_IMAGE = "python:3.11-slim-bookworm"
BUILD_S = 3600.0
# Prints a digest of the project's code as it is installed.
DIGEST = """
import hashlib
from importlib.util import find_spec
digest = hashlib.sha256()
for name in ("orchestrator", "outrider", "services"):
    folder = Path(find_spec(name).submodule_search_locations[0])
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{name}/{path.relative_to(folder)}".encode() + path.read_bytes())
print(digest.hexdigest())
"""


def call(*command: str, timeout_s: float = 4 * PATIENCE_S, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, in the checkout, with further variables and without those of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OUTRIDER_", "OTEL_"))}
    return subprocess.run(
        command, cwd=ROOT, env=inherited | variables, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def succeeds(*command: str) -> bool:
    return call(*command).returncode == 0


def compose_command() -> list[str]:
    """The compose that is installed; empty where none is."""
    if succeeds("docker", "compose", "version"):
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def obstacle() -> str:
    """Why containers cannot be run here, empty where they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if not succeeds("docker", "info"):
        return "no Docker engine answers"
    if not compose_command():
        return "neither docker compose nor docker-compose is installed"
    return ""


def obstacle_to_build() -> str:
    """Why the images cannot be built here, empty where they can."""
    image = os.environ.get("BASE_IMAGE", BASE_IMAGE)
    if not succeeds("docker", "image", "inspect", image) and not succeeds("docker", "pull", image):
        return f"{image} is neither here nor can it be pulled"
    return ""


def obstacle_to_reuse() -> str:
    """Why images that were built earlier cannot be used, empty where they can."""
    expected = call(sys.executable, "-c", DIGEST).stdout
    for service in SERVICES:
        image = f"outrider-{service}"
        if not succeeds("docker", "image", "inspect", image):
            return f"there is no image {image}: build it with docker-compose build, or with pytest -m docker"
        if call("docker", "run", "--rm", "--entrypoint", "python", image, "-c", DIGEST).stdout != expected:
            return f"the image {image} is of other code: build it with docker-compose build, or with pytest -m docker"
    return ""


class Stack:
    """Draft, target and orchestrator as a compose project of their own, with small slots and exact text."""

    def __init__(self) -> None:
        self.port = free_port()
        self._command = [
            *compose_command(),
            *("--project-name", f"outrider-test-{os.getpid()}", "--file", str(ROOT / "docker-compose.yml")),
        ]
        self._variables = {
            "OUTRIDER_PORT": str(self.port),
            "OUTRIDER_TARGET_EXACT": "on",
            "OUTRIDER_ORCHESTRATOR_DRAFTER": "remote",
            "OTEL_SDK_DISABLED": "true",
        } | {
            f"OUTRIDER_{service}_{name}": value
            for service in ("TARGET", "DRAFT")
            for name, value in (("THREADS", "1"), ("SLOTS", "2"), ("CONTEXT", "256"))
        }

    def compose(self, *arguments: str, timeout_s: float = 10 * PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """Run compose, whatever comes of it."""
        return call(*self._command, *arguments, timeout_s=timeout_s, **self._variables)

    def must(self, *arguments: str, timeout_s: float = 10 * PATIENCE_S) -> str:
        """Run compose, which must succeed, and return what it printed."""
        finished = self.compose(*arguments, timeout_s=timeout_s)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def until_healthy(self, service: str) -> None:
        """Return once the image's own health check says so: after the probe, on a target that is to be exact."""
        container = self.must("ps", "--quiet", service).strip()
        state = ("docker", "inspect", "--format", "{{.State.Health.Status}}", container)
        eventually(lambda: call(*state).stdout.strip() == "healthy", patience_s=10 * PATIENCE_S)

    async def generate(self, has_draft: bool) -> Generated:
        """A whole answer through the public port, once the orchestrator knows whether there is a draft."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            client = Client(channel)
            await client.until_draft(is_available=has_draft)
            return await client.generate(temperature=0.8, max_tokens=96)


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack with the bundled pair, up and healthy."""
    is_to_build = "docker" in request.config.getoption("markexpr")
    if reason := obstacle() or (obstacle_to_build() if is_to_build else obstacle_to_reuse()):
        pytest.skip(reason)
    stack = Stack()
    if is_to_build:
        stack.must("build", timeout_s=BUILD_S)
    try:
        stack.must("up", "--detach", "--no-build", "draft", "orchestrator")
        for service in SERVICES:
            stack.until_healthy(service)
        yield stack
    finally:
        print(stack.compose("logs", "--no-color").stdout)
        stack.must("down", "--volumes")


async def test_text_goes_on_when_the_draft_is_killed(stack: Stack) -> None:
    drafted = await stack.generate(has_draft=True)
    assert drafted.summary.exact
    assert drafted.counts.num_draft_tokens > 0
    stack.must("kill", "draft")
    alone = await stack.generate(has_draft=False)
    assert alone.counts.num_draft_tokens == 0
    assert alone.ids == drafted.ids
    stack.must("start", "draft")
    again = await stack.generate(has_draft=True)
    assert again.counts.num_draft_tokens > 0
    assert again.ids == drafted.ids

    for service in SERVICES:
        assert stack.must("exec", "-T", service, "id", "-u").strip() not in ("", "0")
        assert "Read-only file system" in stack.compose("exec", "-T", service, "touch", "/written").stderr
