"""Child processes of a task that cannot outlive it: ffmpeg dies with the runner in every case."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longshore.sdk.context import Context

_POLL = 0.1
_GRACE = 2.0

# Runs in the child, between fork and the real program. It is a program of its own because a
# preexec_fn is not safe where threads run, and a fork copies the page tables of a large parent.
# The kernel is asked to kill this process when its parent dies; if the parent died before that,
# getppid tells. Python ignores SIGPIPE and SIGXFSZ, and exec would pass that on.
_TRAMPOLINE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(137)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(f"cannot run {sys.argv[2]}: {error}\\n")
    os._exit(127)
"""

_REFUSED = ("shell", "executable", "preexec_fn")
_lock = threading.Lock()
_spawners: dict[int, ThreadPoolExecutor] = {}


def popen(args: Sequence[str], **kwargs: Any) -> subprocess.Popen[bytes]:
    """Starts a child that the kernel kills (SIGKILL) when this process ends, however it ends.

    Costs about 15 ms more than subprocess.Popen. Grandchildren are not covered by the kernel;
    the worker kills the runner's whole process group and its descendants.

    Args:
        args: the program and its arguments; the program is looked up in PATH.
        kwargs: what subprocess.Popen takes, except shell, executable and preexec_fn.

    Raises:
        FileNotFoundError: there is no such program.
        ValueError: shell, executable or preexec_fn was given, or args is empty.
    """
    refused = [name for name in _REFUSED if kwargs.get(name)]
    if refused or not args:
        raise ValueError(f"popen takes a program and no {', '.join(refused or _REFUSED)}")
    program, *rest = (os.fspath(arg) for arg in args)
    env = kwargs.get("env")
    search = None if env is None else env.get("PATH", os.defpath)
    if os.sep not in program and shutil.which(program, path=search) is None:
        raise FileNotFoundError(2, "no such program in PATH; install it or give its path", program)
    prefix = [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid())]
    command = [*prefix, program, *rest]
    process: subprocess.Popen[bytes] = (
        _spawner().submit(lambda: subprocess.Popen(command, **kwargs)).result()
    )
    process.args = [program, *rest]  # what exceptions show
    return process


def run_process(
    args: Sequence[str],
    *,
    ctx: Context | None = None,
    timeout: float | None = None,
    **kwargs: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end with its output captured, and ends it when the job ends.

    Args:
        args: the program and its arguments.
        ctx: where given, its cancellation stops the program within about 0.1 s.
        timeout: seconds; None sets none.
        kwargs: as for `popen`; stdout and stderr are captured unless given.

    Raises:
        FileNotFoundError: there is no such program.
        subprocess.TimeoutExpired: it ran longer than timeout, and was killed.
        JobCancelled: ctx was cancelled, and the program was stopped.
    """
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("stderr", subprocess.PIPE)
    with popen(args, **kwargs) as process:
        try:
            stdout, stderr = _communicate(process, ctx, timeout)
        except BaseException:
            stop(process)
            raise
    return subprocess.CompletedProcess(list(args), process.returncode, stdout, stderr)


def stop(process: subprocess.Popen[bytes], *, grace: float = _GRACE) -> None:
    """Asks a child to end, and kills it after `grace` seconds. Returns once it is gone."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _communicate(
    process: subprocess.Popen[bytes], ctx: Context | None, timeout: float | None
) -> tuple[bytes, bytes]:
    left = timeout
    while True:
        step = _POLL if left is None else min(_POLL, left)
        try:
            return process.communicate(timeout=step)
        except subprocess.TimeoutExpired:
            left = None if left is None else left - step
            if timeout is not None and left is not None and left <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout) from None
        if ctx is not None:
            ctx.check_cancelled()


def _spawner() -> ThreadPoolExecutor:
    """One lasting thread: the kernel's parent-death signal counts the spawning thread as parent."""
    with _lock:
        pid = os.getpid()  # a forked copy of this process has the entry but not the thread
        if pid not in _spawners:
            _spawners.clear()
            _spawners[pid] = ThreadPoolExecutor(1, thread_name_prefix="longshore-popen")
        return _spawners[pid]
