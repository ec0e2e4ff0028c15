"""Tasks that runners of the Ray test import."""

from __future__ import annotations

import os
import time

from pydantic import BaseModel

from longshore import Context, task


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


@task(name="ray_test.linger")
def linger(ctx: Context, params: Number) -> Number:
    """Runs for ten minutes, unless it is cancelled."""
    for n in range(6000):
        ctx.progress(n / 6000)
        time.sleep(0.1)
    return params
