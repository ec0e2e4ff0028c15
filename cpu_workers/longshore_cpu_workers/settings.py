"""What a worker is told when it is made."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from longshore_cpu_workers.memory import MemoryLimit
from longshore_cpu_workers.wire import Needs


class EnvSource(NamedTuple):
    """Where a worker reads the value of a variable: a file, or a variable of its own."""

    file: str = ""
    variable: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """One worker. Durations are seconds.

    Attributes:
        worker_id: unique among all workers, ever.
        pool: the pool it belongs to.
        capacity: what its running attempts may take together.
        artifacts: files of results go to `<artifacts>/<job_id>/<fence>/`.
        scratch: folders that attempts use; deleted when they end, and by the guardian where the
            worker did not live to see it.
        modules: task modules, in addition to the entry points `longshore.tasks`.
        max_runners: processes that run attempts at once; a spare one may be warm besides.
        runner_max_attempts: after so many a process is replaced by a fresh one; 0 never.
        runner_max_memory: bytes that a process may hold after an attempt, beyond what it held
            before its first; then it is replaced. The first may leave half as much as is held
            later, whatever that is: libraries, and models. 0 never.
        share_runners: attempts of different tenants may follow one another in one process.
        memory_limit: whether an attempt may have more memory than it asked for.
        hidden_env: variables of the worker that runners do not inherit, such as `AWS_*`.
        env: variables for runners, on top of the cleaned environment of the worker.
        node: the machine, as people know it.
        max_assigned: unfinished attempts it takes; what is beyond is returned at once.
        term_grace: from SIGTERM to SIGKILL.
        idle_timeout: an idle runner beyond the spare one is stopped after this long.
        start_timeout: a runner that is not ready after this long has failed to start.
        start_tries: failed starts in a row before the waiting attempts fail.
        ahead_seconds: measured work that a runner is handed before it has begun it.
        ahead_count: the same as a number of attempts.
        made_for: the build of the scheduler that makes it.
        abandon_after: a worker that no scheduler polled for this long is ended with all its
            processes, by its guardian; None never. Longer than a lease: by then nothing that
            runs on it counts.
    """

    worker_id: str
    pool: str
    capacity: Needs
    artifacts: Path
    scratch: Path
    modules: tuple[str, ...] = ()
    max_runners: int = field(default_factory=lambda: 2 * (os.cpu_count() or 1))
    runner_max_attempts: int = 100_000
    runner_max_memory: int = 512 << 20
    share_runners: bool = False
    memory_limit: MemoryLimit = "soft"
    hidden_env: tuple[str, ...] = ()
    env: Mapping[str, str | EnvSource] = field(default_factory=dict)
    node: str = field(default_factory=socket.gethostname)
    max_assigned: int = 20_000
    term_grace: float = 2.0
    idle_timeout: float = 60.0
    start_timeout: float = 60.0
    start_tries: int = 3
    ahead_seconds: float = 0.020
    ahead_count: int = 512
    made_for: str = ""
    abandon_after: float | None = None
