"""The limits of a container, on trees of files as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from longshore_embedded.cgroups import CgroupLimits, read_limits
from longshore_embedded.machine import usable_cores, usable_memory

GIB = 1024**3
NONE_V1 = "9223372036854771712"  # what version 1 says where there is no limit


def tree(folder: Path, cgroup: str, files: dict[str, str]) -> CgroupLimits:
    """What is read where /proc/self/cgroup and /sys/fs/cgroup are like that."""
    own = folder / "proc" / "self" / "cgroup"
    own.parent.mkdir(parents=True)
    own.write_text(cgroup)
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_limits(folder / "proc", folder / "cgroup")


def test_version_2_takes_the_tightest_of_all_groups_above(tmp_path: Path) -> None:
    files = {
        "memory.max": "max\n",
        "a/memory.max": f"{2 * GIB}\n",
        "a/cpu.max": "max 100000\n",
        "a/b/memory.max": f"{4 * GIB}\n",
        "a/b/cpu.max": "150000 100000\n",
        "other/memory.max": "1\n",
    }
    assert tree(tmp_path, "0::/a/b\n", files) == (2 * GIB, 1.5)


def test_a_container_of_version_2_is_the_top_of_its_tree(tmp_path: Path) -> None:
    files = {"memory.max": f"{GIB}\n", "cpu.max": "50000 100000\n"}
    assert tree(tmp_path, "0::/system.slice/docker-1.scope\n", files) == (GIB, 0.5)


def test_version_1(tmp_path: Path) -> None:
    cgroup = "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n1:name=systemd:/docker/1\n0::/x\n"
    files = {
        "memory/memory.limit_in_bytes": NONE_V1,
        "memory/docker/1/memory.limit_in_bytes": f"{3 * GIB}\n",
        "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "400000\n",
        "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert tree(tmp_path, cgroup, files) == (3 * GIB, 4.0)


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "0::/../../x\n", "0::/a:b\n"])
def test_without_limits_there_are_none(tmp_path: Path, cgroup: str) -> None:
    assert tree(tmp_path, cgroup, {"memory.max": "max\n", "cpu.max": "max 100000\n"}) == (
        None,
        None,
    )


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert read_limits(tmp_path / "no", tmp_path / "no") == (None, None)


def test_what_is_usable_is_the_smaller_of_machine_and_container() -> None:
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
    assert usable_cores(CgroupLimits(None, None)) == cores
    assert usable_cores(CgroupLimits(None, 10_000.0)) == cores
    assert usable_cores(CgroupLimits(None, 0.5)) == 1
    assert usable_memory(CgroupLimits(None, None)) == memory
    assert usable_memory(CgroupLimits(int(NONE_V1), None)) == memory
    assert usable_memory(CgroupLimits(GIB, None)) == GIB
