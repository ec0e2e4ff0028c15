"""The memory that an attempt asked for is also its bound: measured by sampling its processes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from longshore_cpu_workers.reaping import descendants

MemoryLimit = Literal["off", "soft", "hard"]
"""off: nobody looks. soft: it is ended soon after it has more. hard: it cannot get more, too."""

SAMPLE_INTERVAL = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


class Sample(NamedTuple):
    """One runner to look at: what its attempt asked for, and what it had before that began."""

    pid: int
    asked: int
    before: int


def resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 if there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    return 0


def exceeding(samples: Iterable[Sample]) -> dict[int, int]:
    """The runners whose attempts have more than they asked for, and how much they have.

    Reads some files of /proc for each process of each runner: call it in a thread.
    """
    grown = {sample.pid: _grown(sample) for sample in samples}
    return {pid: used for pid, used in grown.items() if used}


def _grown(sample: Sample) -> int:
    pids = [sample.pid, *(process.pid for process in descendants(sample.pid))]
    used = sum(map(resident, pids)) - sample.before
    if used > sample.asked and len(pids) > 1:
        # Forks share pages, which were counted for each of them. To count right takes longer.
        used = sum(map(_proportional, pids)) - sample.before
    return used if used > sample.asked else 0


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        if found := _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text()):
            return int(found[1]) * 1024
    return resident(pid)
