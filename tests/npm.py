"""Packages of Node.js for a test, installed by npm."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

# The registry is away or does not have the packages. Anything else that npm complains of is a mistake of ours.
NO_REGISTRY = re.compile(
    r"npm (?:error|ERR!) code (E40\d|E5\d\d|ENOTFOUND|ENOTCACHED|EAI_AGAIN|E[A-Z_]*(?:CONN|TIMEDOUT|TIMEOUT)\w*)"
)


def install_packages(folder: Path, oldest_node: int) -> None:
    """Install what a folder's package.json names; skip the test where Node.js or the packages are not to be had."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node.js with npm is not at hand")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < oldest_node:
        pytest.skip(f"Node.js {version.strip()} is older than {oldest_node}")
    command = ["npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=8 * PATIENCE_S, check=False)
    if found := NO_REGISTRY.search(installed.stderr):
        pytest.skip(f"npm cannot fetch packages: {found[1]}")
    assert installed.returncode == 0, installed.stderr
