"""Tasks that runners of the Ray test import."""

from __future__ import annotations

import os
import time

from pydantic import BaseModel

from longshore import Context, JobCancelled, task


class Number(BaseModel):
    """Both what goes in and what comes out."""

    n: int = 0


@task(name="ray_test.echo")
def echo(ctx: Context, params: Number) -> Number:
    """Gives back what it got."""
    return params


@task(name="ray_test.crash")
def crash(ctx: Context, params: Number) -> Number:
    """Takes its runner with it."""
    os._exit(7)


@task(name="ray_test.drained")
def drained(ctx: Context, params: Number) -> Number:
    """Saves a checkpoint when its worker is to go away, and ends where it finds one."""
    if ctx.restored is not None:
        return Number(n=ctx.restored)
    try:
        while not ctx.draining:
            ctx.progress(0.5)
            time.sleep(0.02)
        ctx.checkpoint(params.n + 1)
        while True:
            ctx.check_cancelled()
            time.sleep(0.02)
    except JobCancelled:  # on a slow machine the grace may be over before it is seen
        ctx.checkpoint(params.n + 1)
        raise


@task(name="ray_test.linger")
def linger(ctx: Context, params: Number) -> Number:
    """Runs for ten minutes, unless it is cancelled."""
    for n in range(6000):
        ctx.progress(n / 6000)
        time.sleep(0.1)
    return params
