"""Starting a runner: its environment, its socket, its session."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from longshore_cpu_workers.reaping import TOKEN
from longshore_cpu_workers.settings import WorkerSettings

# What a worker knows and task code must not: credentials of the cluster and of the store.
# Settings of tasks have a prefix of their own.
_HIDDEN = ("RAY_", "LONGSHORE_", "CUDA_VISIBLE_DEVICES")
_SHOWN = ("LONGSHORE_TASK_", "LONGSHORE_TASKS_")


class Spawned(NamedTuple):
    """A runner process, our end of its socket, and the token that its children carry."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    token: str


def spawn(settings: WorkerSettings, device_env: Mapping[str, str], worker: str) -> Spawned:
    """Starts a runner in a session of its own; it inherits one end of a socket pair.

    Its token begins with `worker`, the token of the worker. The calling thread must live as
    long as the runner may: the kernel kills the runner when the thread that started it exits.

    Raises:
        OSError: the machine refuses another process.
    """
    ours, theirs = socket.socketpair()
    token = f"{worker}-{secrets.token_hex(8)}"
    with theirs:
        try:
            process = subprocess.Popen(
                _command(settings, worker, theirs.fileno()),
                env=runner_env(settings.env, device_env, token),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return Spawned(process, ours, token)


def scratch_prefix(settings: WorkerSettings, worker: str) -> str:
    """What the path of every scratch folder begins with: by this the guardian finds them."""
    return f"{settings.scratch}/{worker}-"


def _command(settings: WorkerSettings, worker: str, fd: int) -> list[str]:
    command = [sys.executable, "-m", "longshore_cpu_workers.runner", str(fd), str(os.getpid())]
    folders = [str(settings.artifacts), scratch_prefix(settings, worker)]
    bounds = [str(settings.runner_max_attempts), str(settings.runner_max_memory)]
    return [*command, *folders, *bounds, *settings.modules]


def runner_env(extra: Mapping[str, str], devices: Mapping[str, str], token: str) -> dict[str, str]:
    """This process's environment, cleaned, with the import path of this process."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(_HIDDEN) or k.startswith(_SHOWN)
    }
    path = os.pathsep.join(dict.fromkeys(entry or str(Path.cwd()) for entry in sys.path))
    return {**kept, "PYTHONPATH": path, **extra, **devices, TOKEN: token}
