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
from contextvars import ContextVar
from typing import BinaryIO

from longshore_cpu_workers.runner.channel import LINE_BYTES, AttemptChannel

# As much as an unprivileged process gets. C code that prints while it holds the GIL fills the
# pipe with nobody to read it; the larger it is, the less likely that is.
_PIPE_BYTES = 1 << 20
_READ = 1 << 16


class Router:
    """Knows which attempt a line belongs to.

    Attributes:
        sole: the only attempt that runs; None where none does, or several do.
        current: the attempt of the running context, where attempts share an event loop.
    """

    def __init__(self) -> None:
        self.sole: AttemptChannel | None = None
        self.current: ContextVar[AttemptChannel | None] = ContextVar("attempt", default=None)

    def find(self) -> AttemptChannel | None:
        """The attempt whose code calls."""
        return self.current.get() or self.sole


class LineWriter(io.TextIOBase):
    """Stands for sys.stdout or sys.stderr: whole lines go to the attempt without a system call."""

    def __init__(self, router: Router, fd: int, fallback: int) -> None:
        self._router = router
        self._fd = fd
        self._fallback = fallback
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
            self._partial = partial[: LINE_BYTES + 1]  # the channel cuts it there anyway
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

    def _emit(self, line: str) -> None:
        if self._owner is not None:
            self._owner.log(line)
        else:
            _write_to(self._fallback, line.encode("utf-8", "replace") + b"\n")


class PipeCapture:
    """Reads what goes to file descriptors 1 and 2: C code, and child processes of a task."""

    def __init__(self, router: Router) -> None:
        self.original = os.dup(2)
        self._router = router
        self._lock = threading.Lock()
        self._partial = b""
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        self._poll = _poll_on(self._read)
        threading.Thread(target=self._watch, name="output", daemon=True).start()

    def drain(self) -> None:
        """Reads all there is now, and ends the last line: an attempt ends."""
        with self._lock:
            if self._poll.poll(0):  # half the price of a read that finds nothing
                self._read_all()
            if self._partial:
                line, self._partial = self._partial, b""
                self._emit(line)

    def _watch(self) -> None:
        poll = _poll_on(self._read)
        while True:
            poll.poll()
            with self._lock:
                self._read_all()

    def _read_all(self) -> None:
        while True:
            try:
                data = os.read(self._read, _READ)
            except BlockingIOError:
                return
            *lines, partial = (self._partial + data).split(b"\n")
            self._partial = partial[: LINE_BYTES + 1]
            for line in lines:
                self._emit(line)

    def _emit(self, line: bytes) -> None:
        if (owner := self._router.sole) is not None:
            # A progress bar rewrites its line: only what it shows at last is worth keeping.
            text = line.decode("utf-8", "replace").rstrip("\r")
            owner.log(text.rpartition("\r")[2])
        else:
            _write_to(self.original, line + b"\n")


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
        self._writers = [LineWriter(self.router, fd, self.original) for fd in (1, 2)]
        sys.stdout, sys.stderr = self._writers
        logging.root.addHandler(LogHandler(self.router))
        logging.root.setLevel(logging.INFO)

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


def _write_to(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, data)
