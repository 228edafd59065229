"""How many threads and how much memory control groups leave, from trees as the kernel shows them."""

import math
import os
from pathlib import Path

import pytest

from services.engine.control_groups import MemoryLimit, cpu_quota, tightest_memory_limit, usable_cores
from services.engine.runtime.runtime import RuntimeOptions
from tests.control_groups import MIB, UNLIMITED, Groups, make_groups

TREE = "/sys/fs/cgroup"
LIMIT = MemoryLimit(600 * MIB, 500 * MIB)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    return make_groups(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))


@pytest.mark.parametrize(
    ("cpu_max", "num_threads"),
    [
        pytest.param("100000 100000", 1, id="one"),
        pytest.param("250000 100000", 2, id="rounded down"),
        pytest.param("20000 100000", 1, id="a part of one"),
        pytest.param("150000 50000", 3, id="another period"),
        pytest.param("1600000 100000", 8, id="more than there are"),
        pytest.param("max 100000", 8, id="no limit"),
        pytest.param("", 8, id="nothing"),
    ],
)
def test_threads_are_worth_the_quota(groups: Groups, cpu_max: str, num_threads: int) -> None:
    groups.version_2("/mine")
    groups.write(f"{TREE}/mine", {"cpu.max": cpu_max})
    assert RuntimeOptions().threads() == usable_cores() == num_threads


def test_threads_that_are_set_are_taken(groups: Groups) -> None:
    groups.version_2()
    groups.write(TREE, {"cpu.max": "100000 100000"})
    assert RuntimeOptions(num_threads=3).threads() == 3


def test_without_control_groups_affinity_decides(groups: Groups) -> None:
    assert usable_cores() == 8
    assert cpu_quota() == math.inf
    assert tightest_memory_limit() is None


@pytest.mark.parametrize("tight", ["", "/a", "/a/b", "/a/b/c"])
def test_every_group_above_limits_too(groups: Groups, tight: str) -> None:
    groups.version_2("/a/b/c")
    for path in ("", "/a", "/a/b", "/a/b/c"):
        groups.write(TREE + path, {"cpu.max": "300000 100000", "memory.max": 900 * MIB, "memory.current": 0})
    groups.write(TREE + "/a/sibling", {"cpu.max": "100000 100000", "memory.max": MIB, "memory.current": 0})
    groups.write(TREE + tight, {"cpu.max": "200000 100000", "memory.max": 600 * MIB, "memory.current": 100 * MIB})
    assert cpu_quota() == 2
    assert tightest_memory_limit() == LIMIT


FILES = {
    "cpu.max": "200000 100000",
    "memory.max": 600 * MIB,
    "memory.current": 100 * MIB,
}


@pytest.mark.parametrize(
    ("path", "top", "folder"),
    [
        pytest.param("/", "/", "", id="a namespace of its own"),
        pytest.param("/docker/x", "/docker/x", "", id="no namespace, and the mount begins at the group"),
        pytest.param("/docker/x/y", "/docker/x", "/y", id="a group below where the mount begins"),
        pytest.param("/docker/x", "/", "", id="only the group is to be seen"),
        pytest.param("/", "/docker/x", "", id="other names inside than outside"),
        pytest.param("/", "/../..", "", id="the mount is from outside of the namespace"),
        pytest.param("/../x", "/..", "/x", id="moved to a group beside the namespace"),
    ],
)
def test_a_container_s_group_is_found(groups: Groups, path: str, top: str, folder: str) -> None:
    groups.join(f"0::{path}")
    groups.mount("cgroup2", TREE, top)
    groups.write(TREE + folder, FILES)
    assert cpu_quota() == 2
    assert tightest_memory_limit() == LIMIT


def test_a_group_that_cannot_be_seen_says_nothing(groups: Groups) -> None:
    groups.version_2("/../x")
    groups.write("/sys/fs/x", FILES)
    groups.write(TREE, FILES)
    assert cpu_quota() == math.inf
    assert tightest_memory_limit() is None


def test_a_mount_that_holds_the_group_counts_and_others_do_not(groups: Groups) -> None:
    groups.version_2("/a")
    groups.mount("cgroup2", "/somewhere/else", "/b")
    groups.write(f"{TREE}/a", FILES)
    groups.write("/somewhere/else", {"cpu.max": "100000 100000", "memory.max": 1})
    assert cpu_quota() == 2
    assert tightest_memory_limit() == LIMIT


def test_a_mount_with_a_space_in_its_name(groups: Groups) -> None:
    groups.join("0::/")
    groups.mount("cgroup2", "/sys/fs/control\\040groups")
    groups.write("/sys/fs/control groups", FILES)
    assert cpu_quota() == 2


def version_1(groups: Groups) -> None:
    """A tree for each controller, two of them in one, as most distributions have it."""
    groups.join("12:pids:/", "4:memory:/docker/x", "3:cpu,cpuacct:/docker/x", "1:name=systemd:/docker/x")
    for controllers in ("pids", "memory", "cpu,cpuacct"):
        groups.mount("cgroup", f"{TREE}/{controllers}", options=f"rw,{controllers}")
    groups.mount("cgroup", f"{TREE}/systemd", options="rw,xattr,name=systemd")


def test_version_1(groups: Groups) -> None:
    version_1(groups)
    unlimited = {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000}
    groups.write(f"{TREE}/cpu,cpuacct/docker/x", unlimited)
    assert cpu_quota() == math.inf
    groups.write(f"{TREE}/cpu,cpuacct/docker", {"cpu.cfs_quota_us": 150000, "cpu.cfs_period_us": 50000})
    assert cpu_quota() == 3
    groups.write(f"{TREE}/memory/docker/x", {"memory.limit_in_bytes": UNLIMITED, "memory.usage_in_bytes": 100 * MIB})
    groups.write(f"{TREE}/memory/docker", {"memory.limit_in_bytes": 600 * MIB, "memory.usage_in_bytes": 100 * MIB})
    assert tightest_memory_limit() == LIMIT


def test_both_versions_at_once(groups: Groups) -> None:
    """Memory by version 2, CPUs by version 1."""
    groups.join("3:cpu,cpuacct:/old", "0::/new")
    groups.mount("cgroup", f"{TREE}/cpu,cpuacct", options="rw,cpu,cpuacct")
    groups.mount("cgroup2", f"{TREE}/unified")
    groups.write(f"{TREE}/cpu,cpuacct/old", {"cpu.cfs_quota_us": 200000, "cpu.cfs_period_us": 100000})
    groups.write(f"{TREE}/unified/new", {"memory.max": 600 * MIB, "memory.current": 100 * MIB})
    # A group of the same name in a tree that the process is not in by it.
    groups.write(f"{TREE}/unified/old", {"cpu.max": "100000 100000", "memory.max": 1})
    assert cpu_quota() == 2
    assert tightest_memory_limit() == LIMIT


def test_page_cache_counts_as_free(groups: Groups) -> None:
    """Weights that an earlier process mapped are part of it."""
    groups.version_2()
    stat = f"anon {80 * MIB}\nfile {440 * MIB}\ninactive_anon 7\ninactive_file {90 * MIB}\nactive_file {310 * MIB}"
    groups.write(TREE, {"memory.max": 600 * MIB, "memory.current": 500 * MIB, "memory.stat": stat})
    assert tightest_memory_limit() == LIMIT


def test_page_cache_of_version_1_is_that_of_the_groups_below_too(groups: Groups) -> None:
    version_1(groups)
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {90 * MIB}\ntotal_active_file {310 * MIB}"
    files = {"memory.limit_in_bytes": 600 * MIB, "memory.usage_in_bytes": 500 * MIB, "memory.stat": stat}
    groups.write(f"{TREE}/memory/docker", files)
    assert tightest_memory_limit() == LIMIT


def test_more_page_cache_than_usage_is_no_debt(groups: Groups) -> None:
    """The files are read one after the other, and things change meanwhile."""
    groups.version_2()
    files = {"memory.max": 600 * MIB, "memory.current": 0, "memory.stat": f"inactive_file {MIB}"}
    groups.write(TREE, files)
    assert tightest_memory_limit() == MemoryLimit(600 * MIB, 600 * MIB)
    groups.write(TREE, {"memory.current": 700 * MIB})
    assert tightest_memory_limit() == MemoryLimit(600 * MIB, 0)


@pytest.mark.parametrize("memory_max", ["max", 900 * MIB])
def test_a_group_that_is_slowed_down_has_no_more_either(groups: Groups, memory_max: object) -> None:
    groups.version_2()
    groups.write(TREE, {"memory.max": memory_max, "memory.high": 600 * MIB, "memory.current": 100 * MIB})
    assert tightest_memory_limit() == LIMIT


def test_files_that_cannot_be_read_say_nothing(groups: Groups, tmp_path: Path) -> None:
    groups.version_2("/a")
    groups.write(f"{TREE}/a", {"memory.max": "max", "memory.high": "max"})
    for name in ("cpu.max", "memory.current", "memory.stat"):
        (tmp_path / TREE.lstrip("/") / "a" / name).mkdir()
    assert cpu_quota() == math.inf
    assert tightest_memory_limit() is None
