"""What attempts leave behind in the process of a runner, and when it should be renewed.

Attempts follow one another in one process, so what one changes is there for the next: its folder,
its variables, its threads. Nothing is put back: a process that is not as it was takes no further
attempt, and the next one gets a fresh process. What is looked at is what can be read in some 40 µs.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import Any, NamedTuple

_OFTEN = 0.01
"""Seconds. Attempts of one task that are shorter than this share a look."""

_LEAVING = 0.02
"""Seconds for threads that are about to end."""

_MOST_NAMES = 5
_LIMITS = sorted({v for k, v in vars(resource).items() if k.startswith("RLIMIT_")})
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# Python's own module turns each answer into an enum, which costs ten times as much.
_raw: Any = importlib.import_module("_signal")
_SIGNALS = range(1, signal.NSIG)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Bounds(NamedTuple):
    """When a runner is renewed though nothing about it differs; 0 never.

    attempts: so many. memory: bytes it holds after an attempt, more than it held before the first.
    """

    attempts: int = 0
    memory: int = 0


class Wear:
    """Compares this process with what it was before its first attempt.

    Args:
        bounds: what it may take at most.
        own: names of threads that are the runner's own, as they begin.
    """

    def __init__(self, bounds: Bounds, own: tuple[str, ...]) -> None:
        self._bounds = bounds
        self._own = own
        self._variables: dict[bytes, bytes] = vars(os.environ)["_data"]
        self._environment = dict(self._variables)
        self._state = _state()
        self._threads = self._expected = frozenset(threading.enumerate())
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._memory = self._read_memory()
        self._first_growth: int | None = None
        self._attempts = 0
        self._looked_at = 0.0
        self._seen = True

    def count(self) -> None:
        """An attempt has ended."""
        self._attempts += 1
        self._seen = False

    def due(self, seconds: float | None, *, alike: bool) -> bool:
        """True where it is worth a look.

        Args:
            seconds: how long the attempt ran.
            alike: the next one is of the same task.
        """
        if self._seen:
            return False
        if not alike or seconds is None or seconds > _OFTEN:
            return True
        return time.monotonic() - self._looked_at > _OFTEN

    def look(self) -> str:
        """What is no longer as it was, in words; empty where the process may go on."""
        try:
            found = self._changed() or self._left_threads() or self._worn()
        except OSError as error:  # its files are closed, or the folder cannot be read
            found = f"it cannot look at itself ({error.strerror})"
        self._looked_at, self._seen = time.monotonic(), True
        return found

    def _changed(self) -> str:
        names = [
            name
            for name, was, now in zip(_NAMES, self._state, _state(), strict=True)
            if was is not now and was != now
        ]
        if vars(os.environ)["_data"] is not self._variables:
            names.append("os.environ")
        elif self._variables != self._environment:
            names.append(f"the environment ({self._changed_variables()})")
        return f"an attempt changed {', '.join(names)}" if names else ""

    def _changed_variables(self) -> str:
        """Names alone: the values may be secret."""
        changed = {k for k, _ in self._variables.items() ^ self._environment.items()}
        named = [os.fsdecode(name)[:64] for name in sorted(changed)]
        return ", ".join(named[:_MOST_NAMES]) + (", …" if len(named) > _MOST_NAMES else "")

    def _left_threads(self) -> str:
        if threading.active_count() == len(self._expected):
            return ""
        left = [t for t in threading.enumerate() if not self._is_expected(t)]
        end = time.monotonic() + _LEAVING
        for thread in left:
            thread.join(max(0.0, end - time.monotonic()))
        left = [thread for thread in left if thread.is_alive()]
        if left:
            return f"an attempt left {len(left)} thread(s), such as {left[0].name[:64]!r}"
        self._expected = frozenset(threading.enumerate())  # the runner's own have begun
        return ""

    def _is_expected(self, thread: threading.Thread) -> bool:
        own = thread in self._threads or thread.name.startswith(self._own)
        # A thread of C code that once called Python stays in the list after its end.
        return own or isinstance(thread, threading._DummyThread)  # noqa: SLF001 - it has no other name

    def _worn(self) -> str:
        attempts, memory = self._bounds
        if attempts and self._attempts >= attempts:
            return f"it has run {self._attempts} attempts (runner_max_attempts)"
        grown = self._read_memory() - self._memory
        if self._first_growth is None:
            self._first_growth = grown
        # The first one loads libraries, and perhaps a model, that those after it use as well.
        bound = max(memory, 2 * self._first_growth)
        if memory and grown > bound:
            return f"it holds {grown >> 20} MiB more than at first (runner_max_memory)"
        lowest = os.dup(self._statm)
        os.close(lowest)
        if lowest > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2:
            return f"attempts left {lowest} files open"
        return ""

    def _read_memory(self) -> int:
        return int(os.pread(self._statm, 256, 0).split()[1]) * _PAGE


_NAMES = (
    "the folder it is in",
    "the umask",
    "the handlers of signals",
    "the blocked signals",
    "a timer",
    "resource limits",
    "its niceness",
    "its CPU affinity",
    "sys.stdin, sys.stdout or sys.stderr",
    "where file descriptors 1 and 2 lead",
    "the root logger",
    "the recursion limit",
)


def _state() -> tuple[Any, ...]:
    """What `_NAMES` names, in that order."""
    here = os.stat(".")  # noqa: PTH116 - half the price
    out, err = os.fstat(1), os.fstat(2)
    mask = os.umask(0o077)
    os.umask(mask)
    root = logging.root
    return (
        (here.st_dev, here.st_ino, here.st_nlink == 0),
        mask,
        [_raw.getsignal(number) for number in _SIGNALS],
        _raw.pthread_sigmask(signal.SIG_BLOCK, ()),
        [_raw.getitimer(timer) != (0.0, 0.0) for timer in _TIMERS],
        [resource.getrlimit(limit) for limit in _LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getaffinity(0),
        [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
        (out.st_dev, out.st_ino, err.st_dev, err.st_ino),
        (root.level, root.manager.disable, root.disabled, list(map(id, root.handlers))),
        sys.getrecursionlimit(),
    )
