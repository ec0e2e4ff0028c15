"""Tasks that leave something behind in their process, and tasks that look for it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from longshore.sdk import Context, task

LONG = 600.0
KEPT: list[Any] = []


class How(BaseModel):
    how: str = ""
    value: int = 0
    path: str = ""


def _thread(target: Callable[..., object], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def _files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 + 64
    KEPT.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(most))


def _limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


def _daemon() -> int:
    """In a session of its own, with no variable, and nothing above it."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.closerange(0, 3)
            os.execve("/bin/sleep", ["sleep", "600"], {})
        os.write(write, str(pid).encode())
        os._exit(0)
    os.wait()
    return int(os.read(read, 20))


WAYS: dict[str, Callable[[Context], Any]] = {
    "nothing": lambda _: None,
    "folder": lambda ctx: os.chdir(ctx.scratch),
    "umask": lambda _: os.umask(0o777),
    "variable": lambda _: os.environ.update(LEFT_SECRET="of-a"),
    "thread": lambda _: _thread(time.sleep, LONG),
    "timer": lambda _: signal.setitimer(signal.ITIMER_REAL, LONG),
    "handler": lambda _: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "mask": lambda _: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}),
    "limit": lambda _: _limit(),
    "nice": lambda _: os.nice(1),
    "stdout": lambda _: setattr(sys, "stdout", sys.__stderr__),
    "descriptor": lambda _: os.dup2(os.open("/dev/null", os.O_WRONLY), 1),
    "log handlers": lambda _: logging.basicConfig(force=True),
    "no logging": lambda _: logging.disable(logging.CRITICAL),
    "recursion": lambda _: sys.setrecursionlimit(5000),
    "files": lambda _: _files(),
    "child": lambda _: subprocess.Popen(["sleep", "600"]).pid,
    "daemon": lambda _: _daemon(),
}


@task
def leaves(ctx: Context, params: How) -> list[int]:
    """Returns its process, and the one it has left, if any."""
    left = WAYS[params.how](ctx)
    return [os.getpid(), left if params.how in ("child", "daemon") else 0]


@task
def looks(ctx: Context, params: How) -> dict[str, Any]:
    print("looks prints")
    ctx.log.info("looks logs")
    return {"pid": os.getpid(), "secret": os.environ.get("LEFT_SECRET"), "in": str(Path.cwd())}


@task
def grows(ctx: Context, params: How) -> int:
    """Keeps so many MiB."""
    block = bytearray(params.value << 20)
    block[::4096] = b"x" * len(block[::4096])
    KEPT.append(block)
    return os.getpid()


@task
def takes(ctx: Context, params: How) -> int:
    """Takes so many MiB and holds them until it is told to end."""
    block = bytearray(params.value << 20)
    block[::4096] = b"x" * len(block[::4096])
    while params.how == "hold":
        ctx.check_cancelled()
        time.sleep(0.01)
    return len(block)


@task
def child_prints(ctx: Context, params: How) -> int:
    """Leaves a child that prints until the file is there."""
    code = (
        "import os, sys, time\n"
        "while not os.path.exists(sys.argv[1]): print('of the first', flush=True); time.sleep(.01)"
    )
    return subprocess.Popen([sys.executable, "-S", "-c", code, params.path]).pid


@task
def waits(ctx: Context, params: How) -> str:
    while not Path(params.path).exists():
        ctx.check_cancelled()
        time.sleep(0.005)
    return "done"


@task
def on_device(ctx: Context, params: How) -> int:
    """Fails with that text; without one it works."""
    if params.how:
        raise RuntimeError(params.how)
    return os.getpid()


@task
def pools(ctx: Context, params: How) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(_works, range(4))


def _works(number: int) -> int:
    print(f"child prints {number}")
    logging.getLogger("child").warning("child logs %d", number)
    return number * number


@task
def forks_in_a_storm(ctx: Context, params: How) -> int:
    """Forks while threads report; returns how many copies ended by themselves."""
    stop = threading.Event()

    def report() -> None:
        while not stop.is_set():
            ctx.log.info("storm %s", "x" * 500)
            ctx.progress(0.5)
            print("storm")

    threads = [threading.Thread(target=report) for _ in range(3)]
    for thread in threads:
        thread.start()
    pids = []
    for _ in range(params.value):
        if (pid := os.fork()) == 0:
            for _ in range(3):
                ctx.log.info("copy logs")
                print("copy prints")
                ctx.progress(0.6)
            sys.stdout.flush()
            os._exit(0)
        pids.append(pid)
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    stop.set()
    for thread in threads:
        thread.join()
    return ended.count(0)


@task
def artifact(ctx: Context, params: How) -> str:
    path = ctx.artifacts.write("out", optional=params.how == "optional")
    match params.how:
        case "link":
            (ctx.scratch / "big").write_text("x")
            path.symlink_to(ctx.scratch / "big")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "open":
            KEPT.append(path.open("w"))
            KEPT[-1].write("not flushed")
        case "whole":
            path.write_text("whole")
    return json.dumps(sorted(path.name for path in ctx.artifacts.folder.iterdir()))


@task
def counts_syncs(ctx: Context, params: How) -> None:
    real = os.fsync

    def sync(fd: int) -> None:
        KEPT.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    os.fsync = sync  # type: ignore[assignment]
    ctx.artifacts.write("out").write_text("x")


@task
def synced(ctx: Context, params: How) -> list[str]:
    return KEPT


@task
def streams(ctx: Context, params: How) -> list[str]:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    out = sys.stdout
    print("after")
    return [out.name, out.mode, str(out.line_buffering), str(out.errors), str(out.isatty())]


@task
def crashes(ctx: Context, params: How) -> None:
    ctypes.string_at(0)


@task
def sees_env(ctx: Context, params: How) -> dict[str, str]:
    return dict(os.environ)


# Async


@task
async def beats(ctx: Context, params: How) -> str:
    """Runs until the file is there."""
    while not await asyncio.to_thread(Path(params.path).exists):
        await asyncio.sleep(0.005)
    return "done"


@task
async def saves_async(ctx: Context, params: How) -> str:
    """Two values wait for the store at once, in one process: neither stops the other."""
    if params.how == "plain":
        ctx.checkpoint({"at": params.value}, timeout=LONG)
        return "went on"
    await ctx.acheckpoint({"at": params.value}, timeout=LONG)
    return "durable"


@task
async def saves_in_vain(ctx: Context, params: How) -> str:
    try:
        await ctx.acheckpoint(1, timeout=0.05)
    except TimeoutError as error:
        return str(error)
    return "taken"


@task
async def writes_async(ctx: Context, params: How) -> int:
    ctx.artifacts.write("out").write_text("async")
    (ctx.scratch / "x").write_text("x")
    return os.getpid()


@task
async def leaves_async(ctx: Context, params: How) -> int:
    if params.how == "task":
        KEPT.append(asyncio.create_task(asyncio.sleep(LONG)))
    if params.how == "child":
        KEPT.append(await asyncio.create_subprocess_exec("sleep", "600"))
    return os.getpid()


@task
async def crashes_async(ctx: Context, params: How) -> None:
    await asyncio.to_thread(_until, params.path)
    if params.how:
        os._exit(7)


def _until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)


@task
async def prints_aside(ctx: Context, params: How) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, print, f"aside {params.value}")
    await asyncio.to_thread(_until, params.path)


@task
def keeps_a_pool(ctx: Context, params: How) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(str, range(10)))
