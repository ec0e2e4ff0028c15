"""Starting a runner: its environment, its socket, its session."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from longshore_cpu_workers.reaping import TOKEN
from longshore_cpu_workers.settings import EnvSource, WorkerSettings

# What a worker knows and task code must not: credentials of the cluster and of the store.
# Settings of tasks have a prefix of their own.
_HIDDEN = ("RAY_", "LONGSHORE_", "CUDA_VISIBLE_DEVICES")
_SHOWN = ("LONGSHORE_TASK_", "LONGSHORE_TASKS_")


class Spawned(NamedTuple):
    """A runner process, our end of its socket, and the token that its children carry.

    faults: a file in memory that the process writes its stack to if it crashes.
    """

    process: subprocess.Popen[bytes]
    link: socket.socket
    token: str
    faults: int


def spawn(settings: WorkerSettings, device_env: Mapping[str, str], worker: str) -> Spawned:
    """Starts a runner in a session of its own; it inherits one end of a socket pair.

    Its token begins with `worker`, the token of the worker. The calling thread must live as
    long as the runner may: the kernel kills the runner when the thread that started it exits.

    Raises:
        OSError: the machine refuses another process.
    """
    ours, theirs = socket.socketpair()
    faults = os.memfd_create("longshore-faults")
    token = f"{worker}-{secrets.token_hex(8)}"
    with theirs:
        try:
            process = subprocess.Popen(
                _command(settings, worker, theirs.fileno(), faults),
                env=runner_env(settings, device_env, token),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), faults),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(faults)
            raise
    ours.setblocking(False)
    return Spawned(process, ours, token, faults)


def scratch_prefix(settings: WorkerSettings, worker: str) -> str:
    """What the path of every scratch folder begins with: by this the guardian finds them."""
    return f"{settings.scratch}/{worker}-"


def _command(settings: WorkerSettings, worker: str, fd: int, faults: int) -> list[str]:
    command = [sys.executable, "-m", "longshore_cpu_workers.runner", str(fd), str(faults)]
    command.append(str(os.getpid()))
    folders = [str(settings.artifacts), scratch_prefix(settings, worker)]
    bounds = [str(settings.runner_max_attempts), str(settings.runner_max_memory)]
    return [*command, *folders, *bounds, *settings.modules]


def runner_env(settings: WorkerSettings, devices: Mapping[str, str], token: str) -> dict[str, str]:
    """This process's environment, cleaned, with the import path of this process.

    Raises:
        OSError: a value cannot be read.
    """
    kept = {name: value for name, value in os.environ.items() if _is_shown(name, settings)}
    path = os.pathsep.join(dict.fromkeys(entry or str(Path.cwd()) for entry in sys.path))
    given = {name: _value(name, source) for name, source in settings.env.items()}
    return {**kept, "PYTHONPATH": path, **given, **devices, TOKEN: token}


def _is_shown(name: str, settings: WorkerSettings) -> bool:
    if name.startswith(_HIDDEN) and not name.startswith(_SHOWN):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in settings.hidden_env)


def _value(name: str, source: str | EnvSource) -> str:
    if isinstance(source, str):
        return source
    if source.file:
        try:
            return Path(source.file).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise OSError(f"variable {name}: {source.file} cannot be read: {why}") from None
    if source.variable not in os.environ:
        raise OSError(f"variable {name}: the worker has no variable {source.variable}")
    return os.environ[source.variable]
