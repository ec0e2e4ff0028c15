"""`longshore up` as a user runs it: processes of its own, ended by pid."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from longshore_embedded.processes import descendants

T = TypeVar("T")
LONGSHORE = Path(sys.executable).with_name("longshore")
HERE = Path(__file__).parent
_LISTENS = re.compile(r"listens on (\S+),")
SETTINGS = """
tasks = ["e2e_tasks"]
[queues.default]
[queues.held]
[queues.small]
maximum_waiting = 3
[pools.cpu]
cpu = 4
memory = 4294967296
maximum_runners = 12
[pools.gpu]
cpu = 1
gpu = 1
gpu_memory = 17179869184
accelerators = ["simulated"]
[scheduler]
sweep_interval = 0.2
"""


def until(what: Callable[[], T], deadline: float = 60.0) -> T:
    """Waits until `what()` is true and returns it; fails with its last value."""
    end = time.monotonic() + deadline
    while not (found := what()):
        assert time.monotonic() < end, f"still {found!r} after {deadline} s"
        time.sleep(0.02)
    return found


class Service:
    """One data folder and the process that serves it, started and killed at will."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A path may hold any character, and need not be text.
        self.data = folder / os.fsdecode(b"da ta #1 100%25 ?x=1 \xc3\xa9\xe6\x97\xa5 \xff")
        self.log = folder / "log"
        self.config = folder / "long shore#?.toml"
        self.config.write_text(SETTINGS)
        self.process: subprocess.Popen[bytes] | None = None
        self.target = ""
        self.modules = HERE  # where the tasks of the settings lie
        self.options = ["--simulate-gpus", "1"]

    def start(self, listen: str = "127.0.0.1:0") -> str:
        """Starts it and waits until it listens. Returns where."""
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(LONGSHORE), "up", "--data", str(self.data), "--listen", listen),
                    *("--config", str(self.config), *self.options),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(self.modules)},
            )
        self.target = until(self._listens)
        return self.target

    def _listens(self) -> str:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        found = _LISTENS.findall(self.log.read_text())
        return found[-1] if found else ""

    def restarted(self) -> bool:
        """True once the parent has started the service again after a death."""
        return len(_LISTENS.findall(self.log.read_text())) > 1

    def processes(self) -> list[int]:
        """Every process of it: the parent, the service, Ray, workers and runners."""
        assert self.process is not None
        return [self.process.pid, *descendants(self.process.pid)]

    def service_pid(self) -> int:
        """The process that holds server and scheduler: not what else the parent has adopted."""
        return until(lambda: [pid for pid in self.processes() if _is_service(pid)])[0]

    def stop(self) -> int:
        """SIGTERM, as an init system would; returns the exit status."""
        self.tell_to_stop()
        return self.ended()

    def tell_to_stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Waits until it has ended; returns the exit status."""
        assert self.process is not None
        return self.process.wait(100)

    def kill(self) -> None:
        """SIGKILL to the parent and the service: neither sees the other die and does something."""
        assert self.process is not None
        service = self.service_pid()
        self.process.send_signal(signal.SIGSTOP)
        os.kill(service, signal.SIGKILL)
        self.process.kill()
        self.process.wait(60)


def gone(pids: Iterable[int], deadline: float) -> None:
    """Waits until none of the processes lives; fails with the commands of those that do."""
    end = time.monotonic() + deadline
    while left := [_command(pid) for pid in pids if alive(pid)]:
        assert time.monotonic() < end, f"still there after {deadline} s: {left}"
        time.sleep(0.02)


def _is_service(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"longshore_embedded.service" in words


def _command(pid: int) -> str:
    try:
        text = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ")
    except OSError:
        text = "just gone"
    return f"{pid} {text[:120]}"


def alive(pid: int) -> bool:
    """True while there is such a process and it is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
