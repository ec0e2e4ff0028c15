"""Tasks that crash, hang and eat memory, for workers and runners that are real.

Each execution writes a line "job attempt pid" to the file `marks`, which outlives a SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel

from longshore.sdk import Context, Resources, Retry, Timeouts, task
from longshore.sdk.processes import popen

_SMALL = Resources(cpu=0.1)
_SOON = Retry(max_attempts=4, initial_backoff=0.05, jitter=0.0)
_MIB = 1024**2


class Marked(BaseModel):
    """Where executions leave their mark."""

    marks: Path


def _mark(ctx: Context, marks: Path, *more: object) -> None:
    words = [ctx.job_id, ctx.attempt, os.getpid(), *more]
    with marks.open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@task(resources=Resources(cpu=0.05), retry=_SOON)
def quick(ctx: Context, params: Marked) -> int:
    """Marks, and is done."""
    _mark(ctx, params.marks)
    return ctx.attempt


class Gate(Marked):
    """The file that is waited for."""

    path: Path


@task(resources=_SMALL, retry=_SOON)
def gated(ctx: Context, params: Gate) -> int:
    """Says something, then runs until a file exists; returns its attempt."""
    for line in range(5):
        ctx.log.info("line %d", line)
    ctx.progress(0.5)
    _mark(ctx, params.marks)
    while not params.path.exists():
        time.sleep(0.01)
    return ctx.attempt


class Hold(Marked):
    """For how many seconds the interpreter stands still."""

    seconds: int


@task(resources=_SMALL, retry=_SOON)
def hold_gil(ctx: Context, params: Hold) -> int:
    """C code that does not let go of the interpreter."""
    _mark(ctx, params.marks)
    ctypes.PyDLL(None).sleep(params.seconds)
    return ctx.attempt


class Death(Marked):
    """How the process ends: the name of a signal, or "exit"."""

    how: str


@task(resources=_SMALL, retry=_SOON)
def poison(ctx: Context, params: Death) -> None:
    """Takes its process along, each time."""
    _mark(ctx, params.marks, time.time())
    if params.how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[params.how])
    time.sleep(60)


class Appetite(Marked):
    """How much is allocated; `limit` is what this process may have more than it has."""

    mebibytes: int
    limit: int = 0


@task(resources=Resources(cpu=0.1, memory=64 * _MIB), retry=_SOON)
def hungry(ctx: Context, params: Appetite) -> int:
    """Touches every page of what it allocates."""
    _mark(ctx, params.marks)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if params.limit:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        allowed = pages * resource.getpagesize() + params.limit * _MIB
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        return len(b"\x01" * (params.mebibytes * _MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# A stand-in for ffmpeg in a hang: it and its own child ignore TERM, and it writes a file.
_DEAF = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code])
open(sys.argv[1], "w").write("half a film")
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


@task(resources=_SMALL, retry=_SOON, timeouts=Timeouts(cancel_grace=0.5))
def deaf(ctx: Context, params: Marked) -> None:
    """Waits for a program that ignores TERM; asks nobody whether it was cancelled."""
    film = ctx.scratch / "half.mp4"
    child = popen([sys.executable, "-c", _DEAF, str(film)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    pids = child.stdout.readline().decode().split()
    _mark(ctx, params.marks, *pids, quote(os.fsencode(film)))  # a path may hold any character
    child.wait()
