"""What a container or a unit may use of its machine: the limits of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
ROOT = Path("/sys/fs/cgroup")


class CgroupLimits(NamedTuple):
    """Bytes, and cores by quota; None is no limit."""

    memory: int | None
    cores: float | None


def read_limits(proc: Path = PROC, root: Path = ROOT) -> CgroupLimits:
    """The tightest limits of this process's groups and of all above them, version 1 or 2."""
    memory: list[int] = []
    cores: list[float] = []
    for controllers, path in _groups(proc / "self" / "cgroup"):
        for folder in _folders(root, controllers, path):
            memory += _numbers(folder / "memory.max", folder / "memory.limit_in_bytes")
            cores += _cores(folder)
    return CgroupLimits(min(memory, default=None), min(cores, default=None))


def _groups(file: Path) -> Iterator[tuple[str, str]]:
    """(controllers, path) of each hierarchy; version 2 has no controllers here."""
    with suppress(OSError):
        for line in file.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            yield controllers, path


def _folders(root: Path, controllers: str, path: str) -> Iterator[Path]:
    """The folder of the group and those above it, up to the root of its hierarchy."""
    # Version 1 mounts a hierarchy under the names of its controllers, or under each of them.
    names = {controllers, *controllers.split(",")} if controllers else {"."}
    for top in (root / name for name in names):
        folder = top / path.lstrip("/")
        # A container sees its own group as the top, whatever the path says outside of it.
        while folder != top and top in folder.parents:
            yield folder
            folder = folder.parent
        yield top


def _cores(folder: Path) -> list[float]:
    quota: list[int] = []
    period: list[int] = []
    with suppress(OSError, ValueError):
        first, second = (folder / "cpu.max").read_text().split()
        quota, period = [int(first)], [int(second)]
    quota += _numbers(folder / "cpu.cfs_quota_us")
    period += _numbers(folder / "cpu.cfs_period_us")
    return [quota[0] / period[0]] if quota and period else []


def _numbers(*files: Path) -> list[int]:
    """The positive numbers in these files; "max" and -1 are no limit, nor is a missing file."""
    found = []
    for file in files:
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    return [number for number in found if number > 0]
