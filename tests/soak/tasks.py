"""What the soak runs: jobs of mixed length that write down every execution in a ledger."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from longshore.sdk import Context, PermanentError, Resources, Retry, TaskError, Timeouts, task

_SMALL = Resources(cpu=0.25)
_PATIENT = Retry(max_attempts=50, initial_backoff=0.05, max_backoff=1.0)


class Work(BaseModel):
    """One job: `steps` times a wait of `pause` seconds, a checkpoint after each where there are
    several. ledger: the folder where executions are noted. first: what its first attempt does."""

    ledger: Path
    steps: int = 1
    pause: float = 0.0
    first: str = ""


@task(resources=_SMALL, retry=_PATIENT, timeouts=Timeouts(cancel_grace=2.0))
def work(ctx: Context, params: Work) -> int:
    """Returns the number of steps; notes its begin and its end."""
    _note(ctx, params.ledger, "begin")
    if ctx.attempt == 1:
        _misbehave(params.first)
    if params.first == "permanent":
        raise PermanentError("it was told to fail for good", reason="TOLD_TO")
    done = ctx.restored or 0
    while done < params.steps:
        _wait(ctx, params.pause)
        done += 1
        if params.steps > 1:
            ctx.progress(completed=done, total=params.steps, unit="steps")
            ctx.checkpoint(done, timeout=60.0)
    _note(ctx, params.ledger, "end")
    return done


def _misbehave(how: str) -> None:
    if how == "error":
        raise TaskError("its first attempt was told to fail", reason="TOLD_TO")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)


def _wait(ctx: Context, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        ctx.check_cancelled()
        time.sleep(min(left, 0.1))


def _note(ctx: Context, ledger: Path, what: str) -> None:
    """One short append to a file of this process alone: it is whole, or it is not there."""
    line = f"{ctx.job_id} {ctx.attempt} {what}\n".encode()
    fd = os.open(ledger / f"{os.getpid()}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)
