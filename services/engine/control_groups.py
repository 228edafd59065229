"""What the control groups of this process leave it: time on CPUs, and memory.

Version 1 (a tree for each controller), version 2 (one tree) and both at once. Every group above the process's own
limits it too. In a container the tree often begins at the container's group. See cgroups(7), and in the kernel's
documentation admin-guide/cgroup-v2, admin-guide/cgroup-v1/memory and scheduler/sched-bwc.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Tests put a tree of their own here.
ROOT = Path("/")
# The tree of version 2 has this for the name of a controller in /proc/self/cgroup.
_VERSION_2 = ""
# memory.high kills nobody, but caches cannot be dropped: above it the process would crawl.
_MEMORY_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_MEMORY_USAGES = ("memory.current", "memory.usage_in_bytes")
_DROPPABLE = ("inactive_file", "active_file")


@dataclass(frozen=True)
class MemoryLimit:
    """The limit of a group on its memory, and what is left of it once page cache is dropped; both in bytes."""

    limit_bytes: int
    free_bytes: int


def usable_cores() -> int:
    """Return how many threads can run all the time: the cores this process may use, or the time it may have on them."""
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), cpu_quota())))


def cpu_quota() -> float:
    """Return how many CPUs' time this process may use, infinity where nothing limits it."""
    quotas = (_quota(group) for group in _groups("cpu"))
    return min((quota for quota in quotas if quota is not None), default=math.inf)


def tightest_memory_limit() -> MemoryLimit | None:
    """Return the limit that leaves least, None where nothing limits the process."""
    limits = (_memory_limit(group) for group in _groups("memory"))
    return min((limit for limit in limits if limit is not None), key=lambda limit: limit.free_bytes, default=None)


def _quota(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    if not period:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    # Without a limit the quota is `max` or -1.
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _memory_limit(group: Path) -> MemoryLimit | None:
    limits = _numbers(group, _MEMORY_LIMITS)
    if not limits:
        return None
    held_bytes = max(0, sum(_numbers(group, _MEMORY_USAGES)) - _droppable_bytes(group))
    return MemoryLimit(min(limits), max(0, min(limits) - held_bytes))


def _droppable_bytes(group: Path) -> int:
    """Return the size of the page cache of a group and of those below it; mapped weights are in it."""
    counts = dict(line.partition(" ")[::2] for line in _text(group / "memory.stat").splitlines())
    # Version 1 tells of the group alone by the names that version 2 has for all.
    return sum(int(counts.get(f"total_{name}", counts.get(name, 0))) for name in _DROPPABLE)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, as far as they can be seen."""
    mounts = list(_mounts())
    for line in _text(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        tree = controller if controllers else _VERSION_2
        if controllers and controller not in controllers.split(","):
            continue
        places = [mount for mount in mounts if tree in mount.trees]
        # Where no mount has the group in it, a container names it otherwise than its mounts do, which begin with it.
        for place in [place for place in places if place.holds(path)] or places:
            yield from place.folders(path)


@dataclass(frozen=True)
class _Mount:
    """A tree of groups that can be seen: the controllers it is for, the group at its top, and the folder of that."""

    trees: frozenset[str]
    top: PurePosixPath
    folder: Path

    def holds(self, path: str) -> bool:
        return PurePosixPath(path).is_relative_to(self.top)

    def folders(self, path: str) -> list[Path]:
        """Return the folders from the top down to the group `path`, of which some may not be there."""
        parts = PurePosixPath(path).relative_to(self.top).parts if self.holds(path) else ()
        if ".." in parts:  # outside of what this namespace shows
            return []
        return [self.folder.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _mounts() -> Iterator[_Mount]:
    for line in _text(ROOT / "proc/self/mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        top, folder = (_unescaped(name) for name in place.split(" ")[3:5])
        kind, *_, options = source.split(" ")
        if kind in ("cgroup", "cgroup2"):
            trees = frozenset(options.split(",")) if kind == "cgroup" else frozenset([_VERSION_2])
            yield _Mount(trees, PurePosixPath(top), ROOT / folder.lstrip("/"))


def _unescaped(name: str) -> str:
    """Return a name of mountinfo, which writes spaces and the like as octal numbers."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), name)


def _numbers(group: Path, names: tuple[str, ...]) -> list[int]:
    """Return the numbers in those files of a group that hold one; `max`, for no limit, is none."""
    return [int(text) for text in (_text(group / name) for name in names) if text.isdecimal()]


def _text(path: Path) -> str:
    """Return what a file says, nothing where it is not there or cannot be read."""
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""
