"""Control groups as files: what /proc and /sys/fs/cgroup show to a process, below a folder of a test."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from services.engine import control_groups

MIB = 1 << 20
UNLIMITED = 9223372036854771712
"""What version 1 says where there is no limit on memory."""


class Groups:
    """The control groups of this process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounts: list[str] = []

    def join(self, *lines: str) -> None:
        """Say which groups the process is in, as /proc/self/cgroup does: hierarchy:controllers:path."""
        self._write("proc/self/cgroup", "\n".join(lines) + "\n")

    def mount(self, kind: str, folder: str, top: str = "/", options: str = "rw") -> None:
        """Show a tree at `folder`, of a kind (cgroup or cgroup2), from the group `top` on."""
        number = 30 + len(self._mounts)
        # The optional fields vary: shared:1 and the like.
        shared = "shared:9 " if number % 2 else ""
        self._mounts.append(f"{number} 23 0:{number} {top} {folder} rw,nosuid {shared}- {kind} {kind} {options}")
        root = "23 1 0:22 / / rw,relatime - ext4 /dev/vda1 rw"
        self._write("proc/self/mountinfo", "\n".join([root, *self._mounts]) + "\n")

    def write(self, folder: str, files: Mapping[str, object]) -> None:
        """Make a group with files of that content."""
        for name, content in files.items():
            self._write(f"{folder.lstrip('/')}/{name}", f"{content}\n")

    def version_2(self, path: str = "/") -> None:
        """Be in one group of version 2, and see the whole tree."""
        self.join(f"0::{path}")
        self.mount("cgroup2", "/sys/fs/cgroup", options="rw,nsdelegate")

    def _write(self, name: str, content: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def make_groups(root: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Return groups that are read in place of the machine's."""
    monkeypatch.setattr(control_groups, "ROOT", root)
    return Groups(root)
