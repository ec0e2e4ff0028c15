"""What task code prints and logs, line by line, as log events of the attempt it belongs to."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import select
import sys
import threading
import time
from contextvars import ContextVar
from typing import BinaryIO

from longshore_cpu_workers.runner.channel import AttemptChannel
from longshore_cpu_workers.runner.lines import LONGEST_LINE, LineGate

# As much as an unprivileged process gets. C code that prints while it holds the GIL fills the
# pipe with nobody to read it; the larger it is, the less likely that is.
_PIPE_BYTES = 1 << 20
_READ = 1 << 16
_YIELD = 0.0005


class Router:
    """Knows which attempt a line belongs to.

    Attributes:
        sole: the only attempt that runs; None where none does, or several do.
        current: the attempt of the running context, where attempts share an event loop.
        is_copy: True in a process that task code forked; the runner reads what it prints.
    """

    def __init__(self) -> None:
        self.sole: AttemptChannel | None = None
        self.is_copy = False
        self.current: ContextVar[AttemptChannel | None] = ContextVar("attempt", default=None)

    def find(self) -> AttemptChannel | None:
        """The attempt whose code calls."""
        return self.current.get() or self.sole


class Unclaimed:
    """Lines that are of no attempt go where the worker's own output goes, under the same bounds."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._gate = LineGate()
        self._lock = threading.Lock()

    def log(self, line: str) -> None:
        """Writes a line, or drops it over the rate."""
        with self._lock, contextlib.suppress(OSError):
            if (admitted := self._gate.admit(line)) is not None:
                os.write(self._fd, admitted.encode() + b"\n")


class LineWriter(io.TextIOBase):
    """Stands for sys.stdout or sys.stderr: whole lines go to the attempt without a system call."""

    def __init__(self, router: Router, fd: int, unclaimed: Unclaimed) -> None:
        self._router = router
        self._fd = fd
        self._unclaimed = unclaimed
        self._partial = ""
        self._owner: AttemptChannel | None = None
        self._lock = threading.RLock()
        self._buffer = os.fdopen(fd, "wb", buffering=0, closefd=False)

    @property
    def buffer(self) -> BinaryIO:
        """For bytes: they take the way through the file descriptor."""
        return self._buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def name(self) -> str:
        return "<stdout>" if self._fd == 1 else "<stderr>"

    @property
    def mode(self) -> str:
        return "w"

    @property
    def line_buffering(self) -> bool:
        return True

    @property
    def write_through(self) -> bool:
        return False

    def reconfigure(self, **options: object) -> None:
        """Lines go as they are, whatever is asked for: libraries ask for UTF-8 and for lines."""

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        owner = self._router.find()
        with self._lock:
            if owner is not self._owner:
                self.finish()
                self._owner = owner
            *lines, partial = (self._partial + text).split("\n")
            self._partial = partial[:LONGEST_LINE]  # no more of it is looked at
            for line in lines:
                self._emit(line)
        return len(text)

    def finish(self) -> None:
        """Sends a line that had no end yet."""
        if not self._partial:
            return
        with self._lock:
            line, self._partial = self._partial, ""
            self._emit(line)

    def flush(self) -> None:
        if self._router.is_copy:  # nobody else sends what a copy has begun to print
            self.finish()

    def after_fork(self) -> None:
        """In a copy of this process: another thread may have held the lock."""
        self._lock = threading.RLock()
        self._partial = ""

    def _emit(self, line: str) -> None:
        if self._router.is_copy:
            os.write(self._fd, line.encode("utf-8", "replace") + b"\n")
        else:
            (self._owner or self._unclaimed).log(line)


class PipeCapture:
    """Reads what goes to file descriptors 1 and 2: C code, and child processes of a task."""

    def __init__(self, router: Router) -> None:
        self.original = os.dup(2)
        self.unclaimed = Unclaimed(self.original)
        self._router = router
        self._lock = threading.Lock()
        self._wanted = False
        self._partial = b""
        # Our own copy of the end to write to stays open: task code may close its two, and a pipe
        # that nobody can write to is always ready and never has anything.
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.dup2(self._write, 1)
        os.dup2(self._write, 2)
        self._poll = _poll_on(self._read)
        threading.Thread(target=self._watch, name="output", daemon=True).start()

    def drain(self) -> None:
        """Reads all there is now, and ends the last line: an attempt ends.

        Not more than the pipe holds: a child that it left may go on printing for ever.
        """
        self._wanted = True
        with self._lock:
            self._wanted = False
            if self._poll.poll(0):  # half the price of a read that finds nothing
                for _ in range(_PIPE_BYTES // _READ):
                    if not self._read_some():
                        break
            if self._partial:
                line, self._partial = self._partial, b""
                self._emit(line)

    def _watch(self) -> None:
        poll = _poll_on(self._read)
        while True:
            poll.poll()
            if self._wanted:  # locks are not fair: during a flood, this thread would have it always
                time.sleep(_YIELD)
                continue
            with self._lock:
                self._read_some()

    def _read_some(self) -> bool:
        """Reads once; False where there was nothing."""
        try:
            data = os.read(self._read, _READ)
        except BlockingIOError:
            return False
        *lines, partial = (self._partial + data).split(b"\n")
        self._partial = partial[:LONGEST_LINE]
        for line in lines:
            self._emit(line)
        return True

    def _emit(self, line: bytes) -> None:
        # A progress bar rewrites its line: only what it shows at last is worth keeping.
        text = line.decode("utf-8", "replace").rstrip("\r")
        (self._router.sole or self.unclaimed).log(text.rpartition("\r")[2])


class LogHandler(logging.Handler):
    """Records of `logging` during an attempt become lines of it."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self._router = router
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        owner = self._router.find()
        if owner is None:
            return
        try:
            lines = self.format(record).splitlines()
        except Exception:  # noqa: BLE001 - a broken record must not break the task
            lines = [f"{record.levelname} a record of {record.name} cannot be formatted"]
        for line in lines:
            owner.log(line)


class Output:
    """All three ways out of task code, installed for the life of the process."""

    def __init__(self) -> None:
        self.router = Router()
        self._pipe = PipeCapture(self.router)
        self.original = self._pipe.original
        self._writers = [LineWriter(self.router, fd, self._pipe.unclaimed) for fd in (1, 2)]
        sys.stdout, sys.stderr = self._writers
        logging.root.addHandler(LogHandler(self.router))
        logging.root.setLevel(logging.INFO)

    def after_fork(self) -> None:
        """In a copy of this process: what it prints goes through the pipe."""
        self.router.is_copy = True
        for writer in self._writers:
            writer.after_fork()

    def finish(self) -> None:
        """The sole attempt ends: what it has printed so far becomes lines of it."""
        for writer in self._writers:
            writer.finish()
        self._pipe.drain()
        self.router.sole = None


def _poll_on(fd: int) -> select.poll:
    """A poll object; each thread needs its own."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll
