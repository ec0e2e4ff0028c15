"""Tasks that leave work to the attempt that follows."""

from __future__ import annotations

import os

from pydantic import BaseModel

from longshore.sdk import Context, TaskError, task


class Order(BaseModel):
    then: str = "succeed"


@task
def keeps(ctx: Context, params: Order) -> list[str]:
    """Adds a file to what is kept, and returns the names of all."""
    (ctx.kept / f"{ctx.fence}-work").write_text("done")
    ctx.artifacts.write("out.txt").write_text("done")
    names = sorted(path.name for path in ctx.kept.iterdir() if not path.name.startswith("."))
    if params.then == "fail":
        raise TaskError("not now", reason="LATER")
    if params.then == "crash":
        os._exit(1)
    if params.then == "be late":
        (ctx.kept / f".{ctx.fence + 1}").touch()  # as a newer attempt does when it comes
    return names


@task
def keeps_nothing(ctx: Context, params: Order) -> str:
    return "done"
