"""A task that fails in every way there is; loaded by the service of test_failure_classes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import BaseModel

from longshore.sdk import (
    Context,
    JobCancelled,
    PermanentError,
    Resources,
    Retry,
    TaskError,
    task,
)

SECRET = "hunter2hunter2"


class How(BaseModel):
    """A name in `WAYS`."""

    how: str


def _raise() -> None:
    try:
        raise OSError(f"cannot reach postgres://bob:{SECRET}@db/jobs")
    except OSError as error:
        error.add_note(f"Authorization: Bearer {SECRET}")
        raise ValueError("x" * 20_000 + f" password={SECRET}") from error


def _reason() -> None:
    facts = {"host": "a", "password": SECRET}
    raise TaskError(f"busy, token={SECRET}", reason="BUSY", code="UNAVAILABLE", metadata=facts)


def _permanent() -> None:
    wrong = [("codec", f"api_key={SECRET} is none")]
    raise PermanentError("no", reason="NO_CODEC", code="INVALID_ARGUMENT", violations=wrong)


def _memory() -> None:
    raise MemoryError


def _device_memory() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _device() -> None:
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")


def _print_and_exit() -> None:
    print(f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\npwd={SECRET}")
    sys.exit(f"secret={SECRET}")


WAYS: Mapping[str, Callable[[], object]] = MappingProxyType(
    {
        "raise": _raise,
        "reason": _reason,
        "permanent": _permanent,
        "timeout": lambda: None,
        "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "exit": lambda: os._exit(3),
        "sys.exit": _print_and_exit,
        "memory": _memory,
        "device memory": _device_memory,
        "device": _device,
        "worker": lambda: os.kill(os.getppid(), signal.SIGKILL),
    }
)


@task(resources=Resources(cpu=0.1), retry=Retry(max_attempts=2, initial_backoff=0.05, jitter=0.0))
def failing(ctx: Context, params: How) -> None:
    """Fails, each time; at the latest when it is told to end."""
    ctx.progress(0.5)
    WAYS[params.how]()
    while True:
        ctx.check_cancelled()
        time.sleep(0.02)


@task(resources=Resources(cpu=0.1), retry=Retry(max_attempts=2, initial_backoff=0.05, jitter=0.0))
def interrupted(ctx: Context, params: How) -> int:
    """Runs for ever; the attempt after an interruption ends at once."""
    ctx.progress(0.5)
    while ctx.attempt == 1:
        ctx.check_cancelled()
        time.sleep(0.02)
    return ctx.attempt


@task(resources=Resources(cpu=0.1), retry=Retry(max_attempts=1))
def long_winded(ctx: Context, params: How) -> list[object]:
    """Never ends in its first attempt, and says in the next one what that has saved."""
    try:
        while ctx.attempt == 1:
            ctx.check_cancelled()
            time.sleep(0.02)
    except JobCancelled:
        ctx.checkpoint({"page": 7})
        raise
    return [ctx.attempt, ctx.restored]
