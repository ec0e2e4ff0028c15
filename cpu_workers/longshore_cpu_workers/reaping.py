"""Finding and killing what a runner leaves behind, wherever its processes have gone.

A process belongs to a runner if it is in its session or group, descends from it, or carries
the runner's token in its environment: that one still finds a child that made its own session
and whose parents are dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

TOKEN = "LONGSHORE_RUNNER"  # noqa: S105 - the name of a variable
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


class ProcessStat(NamedTuple):
    """A line of /proc/<pid>/stat; `started` is in seconds since boot."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: float


def read_stat(pid: int) -> ProcessStat | None:
    """The state of a process, or None where there is none."""
    try:
        with Path(f"/proc/{pid}/stat").open("rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    parent, group, session = map(int, fields[1:4])
    return ProcessStat(pid, fields[0].decode(), parent, group, session, int(fields[19]) / _TICKS)


class Root(NamedTuple):
    """A runner: its number, when it started in seconds since boot, and its token."""

    pid: int
    started: float
    token: str


def kill_tree(runner: Root, sig: signal.Signals) -> int:
    """Signals a runner and all that belongs to it; returns how many processes got it.

    Reads all of /proc, some 30 µs a process: call it in a thread. The runner may be dead.
    """
    members = [p for p in _belonging(_all_processes(), runner) if p.state != "Z"]
    return sum(_send(member, sig) for member in members)


def bury(runner: Root, *, patience: float = 10.0) -> None:
    """Kills what is left of a runner until nothing is left.

    A fork can slip past one round, and what was killed needs the processor once more to be gone.
    What has not gone in `patience` seconds hangs in the kernel, and is waited for no longer.
    """
    end = time.monotonic() + patience
    while kill_tree(runner, signal.SIGKILL) and time.monotonic() < end:
        time.sleep(0.01)


def bury_worker(token: str, *, rounds: int = 50) -> None:
    """Kills all runners of a worker and what they started, by the token all of theirs begin with.

    A runner may be just starting: several rounds, until two in a row find nothing.
    """
    quiet = 0
    for _ in range(rounds):
        marked = [p for p in _all_processes() if _marked(p.pid, _mark(token)) and p.state != "Z"]
        quiet = 0 if sum(_send(process, signal.SIGKILL) for process in marked) else quiet + 1
        if quiet == 2:
            return
        time.sleep(0.02)


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends.

    So what it has started stays below it, whatever session and environment it gives itself.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def has_children() -> bool:
    """True where this process has a child, alive or not. Costs 2 µs.

    After `adopt_orphans` a process without children has no descendants either.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children(since: float, *, patience: float = 2.0) -> int:
    """Kills descendants that started at `since` (seconds since boot) or later; returns how many.

    Returns once they are gone and nobody need wait for them any more; what hangs in the kernel is
    waited for `patience` seconds.
    """
    killed: set[tuple[int, float]] = set()
    # The kernel counts in ticks: what started in the same tick counts as later.
    earliest, end = since - 1 / _TICKS, time.monotonic() + patience
    while True:
        _collect_dead()
        late = [p for p in descendants(os.getpid()) if p.started >= earliest and p.state != "Z"]
        if not late or time.monotonic() > end:
            return len(killed)
        killed.update((p.pid, p.started) for p in late if _send(p, signal.SIGKILL))
        time.sleep(0.001)


def descendants(pid: int) -> list[ProcessStat]:
    """All processes below one, as the kernel lists children: other processes cost nothing."""
    if not _lists_children():
        return _descendants(_all_processes(), pid)
    found: list[ProcessStat] = []
    front = [pid]
    while front:
        children = [child for parent in front for child in _children(parent)]
        stats = [stat for child in children if (stat := read_stat(child))]
        found += stats
        front = [stat.pid for stat in stats]
    return found


@functools.cache
def _lists_children() -> bool:
    """False on a kernel without CONFIG_PROC_CHILDREN."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it is gone, or its thread is
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with (thread / "children").open("rb") as file:
                found += map(int, file.read().split())
    return found


def _collect_dead() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _all_processes() -> list[ProcessStat]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [stat for pid in pids if (stat := read_stat(pid))]


def _belonging(processes: Sequence[ProcessStat], runner: Root) -> list[ProcessStat]:
    mark = _mark(runner.token)
    # A number goes to another process once no process, group or session has it: then nothing that
    # is found by the number is of the runner.
    if any(p.pid == runner.pid and p.started != runner.started for p in processes):
        return [process for process in processes if _marked(process.pid, mark)]
    below = {process.pid for process in _descendants(processes, runner.pid)}
    return [
        process
        for process in processes
        if runner.pid in (process.pid, process.session, process.group)
        or process.pid in below
        or _marked(process.pid, mark)
    ]


def _descendants(processes: Iterable[ProcessStat], root: int) -> list[ProcessStat]:
    children: dict[int, list[ProcessStat]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    found, front = [], children.get(root, [])
    while front:
        found += front
        front = [child for parent in front for child in children.get(parent.pid, ())]
    return found


def _mark(token: str) -> bytes:
    return f"{TOKEN}={token}".encode()


def _marked(pid: int, mark: bytes) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(variable.startswith(mark) for variable in variables)


def _send(process: ProcessStat, sig: signal.Signals) -> bool:
    """Signals a process unless its number now belongs to another one."""
    now = read_stat(process.pid)
    if now is None or now.started != process.started:
        return False
    with contextlib.suppress(OSError):
        os.kill(process.pid, sig)
        return True
    return False
