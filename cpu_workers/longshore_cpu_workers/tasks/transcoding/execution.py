"""Runs ffmpeg: follows its reports and its stderr, ends it with the job, names its failure."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from longshore.sdk import Context, TaskError
from longshore.sdk.processes import popen, stop
from longshore_cpu_workers.phrases import Trouble, trouble_in
from longshore_cpu_workers.tasks.transcoding.progress import Report, ReportParser

CRASHED = "FFMPEG_CRASHED"
"""The reason of a failure that is ffmpeg's own fault: another try, in another company, may pass."""

TAIL_LINES = 40
_LINE_CHARS = 500
_LOGGED_LINES = 100
# How soon a cancel is seen, at the most.
_WAKE = 0.1
# What somebody sends; every other signal is a fault of ffmpeg itself.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")
# Lines in which ffmpeg only says that an earlier line was serious.
_EMPTY_WORDS = ("Conversion failed", "Task finished with error", "Terminating thread")


class Said(NamedTuple):
    """What ffmpeg said on stderr.

    Attributes:
        tail: the last lines.
        errors: how many lines tell of a loss: of a run that ended well, what it could not read.
        first_error: the first of them, or empty.
    """

    tail: tuple[str, ...] = ()
    errors: int = 0
    first_error: str = ""


def run_ffmpeg(argv: Sequence[str], ctx: Context, on_report: Callable[[Report], None]) -> Said:
    """Runs a command to its end and returns what it said.

    Args:
        argv: the command, with `-progress pipe:1`.
        ctx: whose cancellation stops it (TERM, 2 s later KILL) and whose log gets its warnings.
        on_report: called with each report.

    Raises:
        TaskError: DISK_FULL, OUT_OF_MEMORY, FFMPEG_KILLED, FFMPEG_CRASHED or FFMPEG_FAILED.
        JobCancelled: the job was cancelled; ffmpeg is gone.
    """
    listener = _Listener(ctx)
    with popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    ) as process:
        try:
            _follow(process, ctx, on_report, listener)
            process.wait()
        except BaseException:
            stop(process)
            raise
    if process.returncode != 0:
        ctx.check_cancelled()  # a TERM to the whole group reaches ffmpeg before our own check
        raise failure_of(process.returncode, tuple(listener.tail))
    return listener.said()


def _environment() -> dict[str, str]:
    """SVT-AV1 logs by itself unless told not to; FFREPORT would make ffmpeg write a file."""
    inherited = {name: value for name, value in os.environ.items() if name != "FFREPORT"}
    return {**inherited, "SVT_LOG": "1"}


def _follow(
    process: subprocess.Popen[bytes],
    ctx: Context,
    on_report: Callable[[Report], None],
    listener: _Listener,
) -> None:
    """Reads both pipes until they close; one thread, so nothing outlives an exception."""
    parser = ReportParser()

    def report(line: str) -> None:
        if (complete := parser.feed(line)) is not None:
            on_report(complete)

    with selectors.DefaultSelector() as selector:
        for pipe, take in ((process.stdout, report), (process.stderr, listener.take)):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, _Lines(pipe, take))
        while selector.get_map():
            for key, _ in selector.select(_WAKE):
                if not key.data.read():
                    selector.unregister(key.fileobj)
            ctx.check_cancelled()


class _Listener:
    """Takes what ffmpeg says: into the log of the job, up to a bound, and into `Said`."""

    def __init__(self, ctx: Context) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ctx = ctx
        self._lines = self._errors = 0
        self._first_error = ""

    def take(self, line: str) -> None:
        line = _ADDRESS.sub("", line)[:_LINE_CHARS]
        self.tail.append(line)
        self._lines += 1
        if self._lines <= _LOGGED_LINES:
            self._ctx.log.warning("ffmpeg: %s", line)
        if _is_loss(line):
            self._errors += 1
            self._first_error = self._first_error or line

    def said(self) -> Said:
        return Said(tuple(self.tail), self._errors, self._first_error)


def _is_error(line: str) -> bool:
    return "[error]" in line or "[fatal]" in line


def _is_loss(line: str) -> bool:
    """True if a part of the source is lost: an error, or a packet that is not whole, of which
    ffmpeg only warns."""
    return _is_error(line) or "Packet corrupt" in line


class _Lines:
    """Cuts what comes through a pipe into lines; what never ends a line is cut by length."""

    def __init__(self, pipe: IO[bytes], take: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._take = take
        self._rest = b""

    def read(self) -> bool:
        """Takes what is there; False at the end of the pipe."""
        chunk = os.read(self._pipe.fileno(), 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk or len(self._rest) > 65536:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip():
                self._take(line.decode("utf-8", "replace").rstrip())
        return bool(chunk)


def failure_of(returncode: int, tail: tuple[str, ...]) -> TaskError:
    """The error for an exit status that is not 0; -9 is a death by signal 9."""
    text = "\n".join(tail)
    facts = {"exit_code": str(returncode)}
    if "No space left on device" in text:
        return TaskError(
            "the disk is full: ffmpeg could not write its output; free space on the worker, or "
            "ask for fewer or smaller renditions",
            reason="DISK_FULL",
            code="RESOURCE_EXHAUSTED",
            metadata=facts,
        )
    if trouble_in(text) is Trouble.HOST_MEMORY:
        return TaskError(
            f"ffmpeg is out of memory: {useful_line(tail)}",
            reason="OUT_OF_MEMORY",
            code="RESOURCE_EXHAUSTED",
            metadata=facts,
        )
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = "; most likely the host ran out of memory" if name == "SIGKILL" else ""
        reason = "FFMPEG_KILLED" if -returncode in _FROM_OUTSIDE else CRASHED
        return TaskError(f"ffmpeg was ended by {name}{hint}", reason=reason, metadata=facts)
    return TaskError(
        f"ffmpeg failed with exit code {returncode}: {useful_line(tail)}",
        reason="FFMPEG_FAILED",
        metadata=facts,
    )


def useful_line(tail: tuple[str, ...]) -> str:
    """The line that says why: the last error that is more than an echo of an earlier one."""
    errors = [line for line in tail if _is_error(line)]
    telling = [line for line in errors if not any(words in line for words in _EMPTY_WORDS)]
    lines = telling or errors or list(tail)
    return lines[-1] if lines else "it said nothing"
