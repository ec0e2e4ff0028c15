"""Small tasks that the tests of workers run in real runner processes."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from longshore.sdk import Context, JobCancelled, PermanentError, TaskError, task
from longshore.sdk.processes import popen

LONG = 600.0


class Number(BaseModel):
    value: int = 0


class Order(BaseModel):
    name: str = ""
    items: list[Number] = Field(default_factory=list)


class Flag(BaseModel):
    path: str


@task
def double(ctx: Context, params: Number) -> int:
    return params.value * 2


@task
def checked(ctx: Context, params: Order) -> str:
    return params.name


@task
def fail(ctx: Context, params: Number) -> None:
    raise ValueError("cannot reach http://user:hunter2@db/ with password=abc")


@task
def fail_with_reason(ctx: Context, params: Number) -> None:
    raise TaskError("busy", reason="BUSY", code="UNAVAILABLE", metadata={"host": "a"})


@task
def fail_for_good(ctx: Context, params: Number) -> None:
    raise PermanentError(
        "no such codec", reason="NO_CODEC", code="INVALID_ARGUMENT", violations=[("codec", "x")]
    )


@task
def out_of_memory(ctx: Context, params: Number) -> None:
    match params.value:
        case 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        case 2:
            raise TaskError("the encoder ran out of memory", reason="OUT_OF_MEMORY")
        case 3:
            raise PermanentError("no machine has enough", reason="OUT_OF_MEMORY")
    raise MemoryError


@task
def writes_to_the_link(ctx: Context, params: Number) -> None:
    texts = [b"no json\n", b'["nonsense", 1]\n', b'["done", 99]\n', b"{}\n", b"x" * (32 << 20)]
    texts += [b'["fail", 1, 0, 0, []]\n', b'["done", 1, 0, 0, "1", [[]]]\n']
    rest = texts[params.value]
    link = next(fd for fd in range(3, 100) if Path(f"/proc/self/fd/{fd}").is_socket())
    while rest:
        rest = rest[os.write(link, rest) :]
    time.sleep(LONG)


@task
def result(ctx: Context, params: Number) -> Any:
    return "x" * params.value if params.value else object()


@task
def die(ctx: Context, params: Number) -> int:
    """Dies by a signal (positive), by exit (negative), by SystemExit (-1000); 0 lives."""
    if params.value == -1000:
        sys.exit(9)
    if params.value < 0:
        os._exit(-params.value)
    if params.value > 0:
        os.kill(os.getpid(), params.value)
        time.sleep(LONG)
    return 0


@task
def wait_for_file(ctx: Context, params: Flag) -> str:
    """Runs until the file is there; ends when cancelled."""
    while not Path(params.path).exists():
        ctx.check_cancelled()
        time.sleep(0.005)
    return "found"


@task
def cooperative(ctx: Context, params: Number) -> None:
    try:
        while True:
            ctx.progress(0.5)
            time.sleep(0.005)
    except JobCancelled:
        ctx.log.info("cleaned up")
        raise


@task
def stubborn(ctx: Context, params: Number) -> None:
    """Ignores cancel and TERM, and so do its child, and a grandchild in its own session."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True); print(os.getpid(), p.pid, flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    pids = [os.getpid(), *map(int, child.stdout.readline().split())]
    ctx.artifacts.write("half").write_text("half")
    (ctx.scratch / "half").write_text("half")
    ctx.checkpoint(pids, timeout=LONG)
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        time.sleep(0.01)


@task
def sleepy(ctx: Context, params: Number) -> None:
    """Blocks in a system call with a child at work; the second signal interrupts it."""
    child = popen(["sleep", "600"])
    ctx.checkpoint([os.getpid(), child.pid], timeout=LONG)
    time.sleep(LONG)


@task
def hold_gil(ctx: Context, params: Number) -> int:
    """C code that does not let go of the interpreter, for params.value milliseconds."""
    ctypes.PyDLL(None).usleep(params.value * 1000)
    return params.value


@task
def hold_gil_until_told(ctx: Context, params: Flag) -> int:
    """C code that does not let go of the interpreter until a byte comes through a named pipe."""
    code = ctypes.PyDLL(None)
    pipe = code.open(params.path.encode(), os.O_RDONLY)
    return int(code.read(pipe, ctypes.create_string_buffer(1), 1))


@task
def much_progress(ctx: Context, params: Flag) -> int:
    """Reports 1,000 times at once, then is quiet until the file is there."""
    for step in range(1000):
        ctx.progress(completed=step + 1, total=1000, unit="steps")
    while not Path(params.path).exists():
        time.sleep(0.005)
    return 1000


@task
def talkative(ctx: Context, params: Number) -> None:
    print("from print")
    print("from stderr", file=sys.stderr)
    logging.getLogger("library").warning("from logging")
    os.write(1, b"from C\n")
    subprocess.run(["echo", "from a child"], check=True)
    print("no end", end="")


@task
def flood(ctx: Context, params: Number) -> None:
    for line in range(params.value):
        print(f"line {line}")
    print("x" * 10_000)


@task
def saves(ctx: Context, params: Number) -> Any:
    """Saves a checkpoint and returns what it was restored from."""
    if params.value < 0:
        ctx.checkpoint("x" * 300_000)
    ctx.checkpoint({"page": params.value}, timeout=0.2 if params.value == 1 else LONG)
    return ctx.restored


@task
def saves_too_much(ctx: Context, params: Number) -> str:
    """Learns that a checkpoint is too large, and goes on with a smaller one."""
    ctx.checkpoint("small", timeout=LONG)
    try:
        ctx.checkpoint("x" * 300_000)
    except ValueError as error:
        ctx.checkpoint("smaller", timeout=LONG)
        return str(error)
    return "taken"


@task
def drained(ctx: Context, params: Number) -> str:
    """Saves when its worker is to go away; then ends (1), or works on and saves once more (0)."""
    assert ctx.grace is None
    ctx.checkpoint("at work", timeout=LONG)
    while not ctx.draining:
        time.sleep(0.005)
    assert ctx.grace is not None
    try:
        ctx.checkpoint("asked", timeout=LONG)
        if params.value:
            return f"{ctx.grace > 20}"
        while True:
            ctx.check_cancelled()
            time.sleep(0.005)
    except JobCancelled:
        ctx.checkpoint("at the end")
        raise


@task
def writes(ctx: Context, params: Number) -> str:
    ctx.artifacts.write("out.txt").write_text("hello")
    ctx.artifacts.write("never-written", optional=True)
    (ctx.scratch / "temporary").write_text("x")
    if params.value:
        raise ValueError("no")
    return str(ctx.scratch)


@task
def reads(ctx: Context, params: Number) -> str:
    return ctx.inputs["text"].path.read_text()


@task
def sees(ctx: Context, params: Number) -> Any:
    names = ("CUDA_VISIBLE_DEVICES", "LONGSHORE_SIMULATED_DEVICES", "LONGSHORE_STORE", "RAY_X")
    return {
        "env": {name: os.environ.get(name) for name in names},
        "devices": list(ctx.devices),
        "fds": sorted(int(fd.name) for fd in Path("/proc/self/fd").iterdir()),
        "pid": os.getpid(),
    }


@task
async def gather(ctx: Context, params: Number) -> int:
    """Async; returns the process it ran in."""
    await asyncio.sleep(params.value / 1000)
    return os.getpid()


@task
async def for_ever(ctx: Context, params: Number) -> None:
    print("async begins")
    await asyncio.sleep(LONG)


@task
async def blocks_the_loop(ctx: Context, params: Number) -> None:
    """Waits as it should (0), or in a way that stops the loop (1)."""
    if params.value:
        time.sleep(LONG)  # noqa: ASYNC251 - the point of it
    await asyncio.sleep(LONG)


@task
def untied(ctx: Context, params: Number) -> None:
    """Its child is not tied to the runner by the kernel, and has a session of its own."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    ctx.checkpoint([os.getpid(), child.pid], timeout=LONG)
    time.sleep(LONG)
