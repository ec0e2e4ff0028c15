"""Why an attempt ended without the runner saying so, in words and classes."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from longshore.sdk.failures import CODES, FailureClass
from longshore_cpu_workers.attempt import Attempt
from longshore_cpu_workers.wire import Failure

_CANCELLED = Failure(
    FailureClass.CANCELLED, CODES["CANCELLED"], "CANCELLED", "the attempt was cancelled"
)
_DRAINED = Failure(
    FailureClass.DRAINED,
    CODES["UNAVAILABLE"],
    "WORKER_STOPPING",
    "the worker stops and the attempt had not ended; another worker takes it from its checkpoint",
)
RUNNER_LOST = Failure(
    FailureClass.WORKER_LOST,
    CODES["UNAVAILABLE"],
    "RUNNER_LOST",
    "the process it shared with other attempts of its task ended; one of them is to blame, and "
    "each gets a process of its own from now on",
)
NEIGHBOUR = Failure(
    FailureClass.PREEMPTED,
    CODES["UNAVAILABLE"],
    "NEIGHBOUR_STOPPED",
    "another attempt of its task did not end when it was told to, and the process they shared was "
    "killed; this attempt is not to blame and costs nothing",
)


def ordered(attempt: Attempt, told: Failure | None = None) -> Failure:
    """The failure of an attempt that was told to end; `told` is what its code said of it."""
    if attempt.ending is FailureClass.TIMEOUT:
        failure = _timeout(attempt)
    else:
        failure = _DRAINED if attempt.ending is FailureClass.DRAINED else _CANCELLED
    return failure._replace(traceback=told.traceback) if told else failure


def start_failed(trouble: str) -> Failure:
    """No runner could be started."""
    message = f"this worker cannot start a process for task code: {trouble}"
    return Failure(FailureClass.WORKER_LOST, CODES["UNAVAILABLE"], "RUNNER_START_FAILED", message)


def too_large(needs: str, capacity: str) -> Failure:
    """It would wait for ever."""
    message = f"needs {needs} exceed this worker, which has {capacity}"
    code = CODES["FAILED_PRECONDITION"]
    return Failure(FailureClass.WORKER_LOST, code, "NEEDS_EXCEED_WORKER", message)


def too_much_memory(asked: int, used: int) -> Failure:
    """It had more memory than it had asked for."""
    return Failure(
        FailureClass.OUT_OF_MEMORY,
        CODES["RESOURCE_EXHAUSTED"],
        "OUT_OF_MEMORY",
        f"the attempt asked for {asked >> 20} MiB of memory and had {used >> 20} MiB: it was ended;"
        " ask for more memory",
        (("memory", "host"), ("asked_bytes", str(asked)), ("peak_bytes", str(used))),
    )


def died(code: int, *, out_of_memory: bool, peak: int = 0, stack: str = "") -> Failure:
    """The runner of an attempt died by itself. A negative code is the number of a signal.

    stack: where its threads were, for the traceback.
    """
    if code == -signal.SIGKILL and out_of_memory:
        return Failure(
            FailureClass.OUT_OF_MEMORY,
            CODES["RESOURCE_EXHAUSTED"],
            "OUT_OF_MEMORY",
            "the kernel killed the process of the task for memory; ask for more memory",
            (("signal", "SIGKILL"), ("memory", "host"), ("peak_bytes", str(peak))),
        )
    if code < 0:
        name = signal_name(-code)
        message = f"the process of the task was ended by {name}"
        facts = (("signal", name),)
    else:
        message = f"the process of the task exited with code {code}"
        facts = (("exit_code", str(code)),)
    told = Failure(FailureClass.CRASH, CODES["INTERNAL"], "CRASH", message, facts)
    return told._replace(traceback=stack)


def signal_name(number: int) -> str:
    """SIGSEGV for 11; numbers that have no name are written out."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class OomWatch:
    """Tells whether the kernel killed something for memory since the last look."""

    def __init__(self) -> None:
        self._files = [path for path in _counters() if path.is_file()][:1]
        self._seen = self._count()

    def happened(self) -> bool:
        """True where the counter grew since the last call."""
        try:
            count = self._count()
        except OSError:  # too many open files, say: then nobody knows
            return False
        grew, self._seen = count > self._seen, count
        return grew

    def _count(self) -> int:
        total = 0
        for path in self._files:
            match = re.search(r"^oom_kill (\d+)", path.read_text(), re.MULTILINE)
            total += int(match[1]) if match else 0
        return total


def _counters() -> list[Path]:
    """Where kills are counted: of this cgroup (version 2, version 1), or of the machine."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            found.append(Path(f"/sys/fs/cgroup{path}/memory.events"))
        elif "memory" in controllers.split(","):
            found.append(Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    return [*found, Path("/proc/vmstat")]


def _timeout(attempt: Attempt) -> Failure:
    limit = attempt.assignment.attempt_timeout or 0.0
    return Failure(
        FailureClass.TIMEOUT,
        CODES["DEADLINE_EXCEEDED"],
        "ATTEMPT_TIMEOUT",
        f"the attempt ran longer than its limit of {limit:g} s",
        (("attempt_timeout", f"{limit:g}s"),),
    )
