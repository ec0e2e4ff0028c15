"""Linux process calls that leave nothing behind: adopt orphans, find and end descendants."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int, how: signal.Signals) -> None:
    """Asks for a signal when the parent ends, and ends now if it already has."""
    _prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), how)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, children before grandchildren; zombies left out."""
    children: dict[int, list[int]] = {}
    for each in _all():
        if (parent := _parent(Path(f"/proc/{each}"))) is not None:
            children.setdefault(parent, []).append(each)
    found: list[int] = []
    wanted = [pid]
    while wanted:
        below = children.get(wanted.pop(), [])
        found.extend(below)
        wanted.extend(below)
    return found


def _parent(entry: Path) -> int | None:
    try:
        text = (entry / "stat").read_text()
    except OSError:  # it ended meanwhile
        return None
    # The name in parentheses may hold anything, spaces and parentheses too.
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)


def end_descendants(grace: float) -> int:
    """Ends all below this process: TERM, and KILL after `grace` seconds. Returns how many."""
    doomed = descendants(os.getpid())
    _signal_all(doomed, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.02)
    while left:
        _signal_all(left, signal.SIGKILL)
        _reap()
        time.sleep(0.02)
        left = descendants(os.getpid())
    _reap()
    return len(doomed)


def end_strays(marker: str, *, patience: float = 0.0) -> int:
    """Kills processes that carry `marker` ("NAME=value") in their environment, except this one,
    its parents and what is below it. Waits so many seconds for them to be gone; one that nobody
    reaps never goes. Returns how many they were.

    Ray's helpers outlive a service and a parent that are killed in the same moment; whoever
    holds the lock of the data folder next is the one who may end them.
    """
    spared = {os.getpid(), *_ancestors(), *descendants(os.getpid())}
    wanted = os.fsencode(marker)
    strays = [pid for pid in _all() if pid not in spared and wanted in _environment(pid)]
    _signal_all(strays, signal.SIGKILL)
    deadline = time.monotonic() + patience
    while any(Path(f"/proc/{pid}").exists() for pid in strays) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(strays)


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _ancestors() -> list[int]:
    found: list[int] = []
    pid: int | None = os.getpid()
    while pid and (pid := _parent(Path(f"/proc/{pid}"))):
        found.append(pid)
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return []


def _signal_all(pids: list[int], how: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)


def _reap() -> None:
    """Takes the exit status of orphans that were adopted."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
