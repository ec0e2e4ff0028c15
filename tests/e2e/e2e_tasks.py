"""Tasks that the tests of the running service submit; loaded by `tasks` of its settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from longshore.sdk import (
    Context,
    JobCancelled,
    PermanentError,
    Resources,
    Retry,
    TaskError,
    Timeouts,
    task,
)

_SMALL = Resources(cpu=0.1)
_SOON = Retry(max_attempts=3, initial_backoff=0.05, jitter=0.0)


class Steps(BaseModel):
    """How many reports, and how far apart in seconds."""

    count: int = 5
    pause: float = 0.0


@task(resources=_SMALL, retry=_SOON)
def steps(ctx: Context, params: Steps) -> int:
    """Reports progress and a log line at each step."""
    for done in range(1, params.count + 1):
        time.sleep(params.pause)
        ctx.log.info("step %d", done)
        ctx.progress(completed=done, total=params.count, unit="steps")
    return params.count


class Gate(BaseModel):
    """The file that is waited for."""

    path: Path


@task(resources=_SMALL, retry=_SOON)
def gate(ctx: Context, params: Gate) -> int:
    """Runs until a file exists; returns its attempt."""
    while not params.path.exists():
        ctx.check_cancelled()
        time.sleep(0.02)
    return ctx.attempt


@task(resources=_SMALL, retry=_SOON, timeouts=Timeouts(cancel_grace=0.5))
def stubborn(ctx: Context, params: Gate) -> None:
    """Ignores every way of being asked to stop, and so does its child; writes both pids."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"]
    )
    params.path.write_text(f"{os.getpid()} {child.pid}")
    while True:
        time.sleep(0.05)


class Failing(BaseModel):
    """How often it fails, and how."""

    times: int = 1
    permanent: bool = False
    crash: bool = False


@task(resources=_SMALL, retry=_SOON)
def failing(ctx: Context, params: Failing) -> int:
    """Fails its first attempts; returns the attempt that did not."""
    if ctx.attempt <= params.times:
        if params.crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        error = PermanentError if params.permanent else TaskError
        raise error(f"attempt {ctx.attempt} fails as it was asked to", reason="ASKED_TO")
    return ctx.attempt


class Marked(BaseModel):
    """The file that gets a line for each execution, and how long one takes, in seconds."""

    path: Path
    seconds: float = 0.0


@task(resources=_SMALL, retry=_SOON)
def marked(ctx: Context, params: Marked) -> int:
    """Says in a file which job and attempt is executed."""
    with params.path.open("a") as file:
        file.write(f"{ctx.job_id} {ctx.attempt}\n")
    time.sleep(params.seconds)
    return ctx.attempt


@task(resources=_SMALL, retry=_SOON)
def patient(ctx: Context, params: Steps) -> list[int]:
    """Runs until its worker is drained; the attempt after that ends at once.

    Returns what was saved: how far it was, and that it could save once more when cancelled.
    """
    if ctx.restored is not None:
        return [ctx.attempt, *ctx.restored]
    while not ctx.draining:
        ctx.progress(0.5)
        time.sleep(0.02)
    ctx.checkpoint([1])
    try:
        while True:
            ctx.check_cancelled()
            time.sleep(0.02)
    except JobCancelled:
        ctx.checkpoint([1, 2])
        raise


class Nothing(BaseModel):
    """No parameters."""


@task(resources=_SMALL)
def devices(ctx: Context, params: Nothing) -> dict[str, str]:
    """What this attempt sees of accelerators."""
    return {
        "devices": ",".join(ctx.devices),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "unset"),
    }


@task(name="gpu_devices", resources=Resources(cpu=0.1, gpu=0.25))
def gpu_devices(ctx: Context, params: Nothing) -> dict[str, str]:
    """The same on a GPU worker."""
    return {
        "devices": ",".join(ctx.devices),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "unset"),
    }
