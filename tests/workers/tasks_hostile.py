"""Tasks that do to their runner what task code should not do, and sometimes does."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from pydantic import BaseModel

from longshore.sdk import Context, TaskError, task

SECRET = "hunter2"
KEY_LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"


class Number(BaseModel):
    value: int = 0


class Flag(BaseModel):
    path: str


class Fraction(BaseModel):
    said: str


@task
def quick(ctx: Context, params: Number) -> int:
    return params.value


@task
def reads(ctx: Context, params: Number) -> str:
    return ctx.inputs["text"].path.read_text()


@task
def closes_its_output(ctx: Context, params: Number) -> str:
    """As code does that makes itself a daemon."""
    os.write(1, b"before\n")
    os.close(1)
    os.close(2)
    return "done"


@task
def closes_everything(ctx: Context, params: Number) -> None:
    """The socket to the worker too, while a thread goes on that Python would wait for."""
    threading.Thread(target=time.sleep, args=(120,)).start()
    os.closerange(3, 256)


@task
async def closes_everything_async(ctx: Context, params: Number) -> None:
    closes_everything(ctx, params)


@task
def leaves_a_flood(ctx: Context, params: Number) -> int:
    """A child prints for ever and nobody waits for it; 1 fails."""
    child = subprocess.Popen(["yes"])
    while _written(child.pid) < 1 << 21:  # more than the pipe holds
        time.sleep(0.001)
    if params.value:
        raise ValueError("no")
    return child.pid


def _written(pid: int) -> int:
    """Bytes that a process has written so far."""
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])


@task
def forks(ctx: Context, params: Number) -> int:
    """The copy leaves the task in one of three ways; returns how the copy ended."""
    pid = os.fork()
    if pid == 0:
        if params.value == 0:
            sys.exit(7)
        if params.value == 1:
            raise ValueError("of the copy")
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@task
def nests(ctx: Context, params: Number) -> None:
    """Folders in folders, deeper than a path can name; a negative number of them crashes."""
    os.chdir(ctx.scratch)
    for _ in range(abs(params.value)):
        Path("d").mkdir()
        os.chdir("d")
    os.chdir("/")
    if params.value < 0:
        os._exit(3)


@task
def prints_long(ctx: Context, params: Number) -> None:
    """A secret lies across the bound of a line."""
    line = "x" * params.value + f" postgres://me:{SECRET}{'y' * 60}@host/"
    print(line)
    os.write(1, line.encode())
    while _unread(1):  # it is to be read without its end
        time.sleep(0.001)
    os.write(1, b"\n")


def _unread(fd: int) -> int:
    """Bytes that are in a pipe, given either end."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


@task
def prints_a_key_in_a_flood(ctx: Context, params: Number) -> None:
    """It begins among lines that are dropped, and lasts until some are not."""
    for _ in range(1000):
        print("x")
    print("-----BEGIN PRIVATE KEY-----")
    for _ in range(5):
        time.sleep(0.02)  # at 200 lines a second the next one passes
        print(KEY_LINE)
    print("-----END PRIVATE KEY-----")


@task
async def writes_past_python(ctx: Context, params: Flag) -> None:
    """While two of them run, nobody knows whose line it is."""
    await _exists(params.path)
    os.write(1, f"password={SECRET}\n".encode())
    await _exists(params.path + ".end")


async def _exists(path: str) -> None:
    while not Path(path).exists():
        await asyncio.sleep(0.005)


@task
def says_a_fraction(ctx: Context, params: Fraction) -> None:
    """Once only: of reports that nobody has read yet, the newest takes the place of the others."""
    ctx.progress(float(params.said), params.said)


@task
def has_an_odd_code(ctx: Context, params: Number) -> None:
    error = TaskError("odd")
    error.code = params.value
    raise error
