"""`longshore up` as a child: started, waited for, stopped, and looked after when it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import psutil

from longshore import AsyncClient, LongshoreError

_MARK = "LONGSHORE_DEMO_RUN"
_START = "import sys; from longshore.cli import main; sys.exit(main())"


class ServiceFailed(Exception):
    """The service did not start, or did not end as it should."""


def real_gpus() -> int:
    """How many NVIDIA devices this machine has."""
    import pynvml  # noqa: PLC0415  where there is no driver it is of no use

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Service:
    """The service and everything it starts.

    Each process is remembered twice: as a descendant, seen every half second, and by a mark in
    its environment, which also finds what was handed to init between two looks.
    """

    def __init__(self, data: Path, log: Path, simulate_gpus: int) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = log
        self._mark = uuid.uuid4().hex
        self._seen: dict[psutil.Process, str] = {}
        command = [sys.executable, "-c", _START, "up", "--data", str(data)]
        command += ["--listen", self.address, "--simulate-gpus", str(simulate_gpus)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, _MARK: self._mark},
                start_new_session=True,
            )
        self._stopped = threading.Event()
        self._looker = threading.Thread(target=self._look, daemon=True)
        self._looker.start()

    async def ready(self, tasks: set[str], deadline: float = 60.0) -> None:
        """Waits until the service answers and offers these tasks.

        Raises:
            ServiceFailed: it ended, or did not get there within `deadline` seconds.
        """
        until = time.monotonic() + deadline
        async with AsyncClient(self.address) as client:
            while not await self._offers(client, tasks):
                if self._process.poll() is not None:
                    raise ServiceFailed(f"it ended with {self._process.returncode}{self._tail()}")
                if time.monotonic() > until:
                    raise ServiceFailed(
                        f"it does not offer {sorted(tasks)} after {deadline:g} s{self._tail()}"
                    )
                await asyncio.sleep(0.1)

    async def _offers(self, client: AsyncClient, tasks: set[str]) -> bool:
        if self._process.poll() is not None:
            return False
        try:
            return tasks <= {task.name for task in await client.tasks(timeout=2.0)}
        except LongshoreError:
            return False

    def stop(self, deadline: float = 30.0, patience: float = 10.0) -> float:
        """Ends the service by SIGTERM; returns the seconds until nothing was left of it.

        Args:
            deadline: seconds for the service itself to end, before it is killed.
            patience: seconds after that for what it started.

        Raises:
            ServiceFailed: it had to be killed, ended with an error, or left processes behind.
        """
        started = time.monotonic()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        code = self._wait(deadline)
        self._stopped.set()
        self._looker.join()
        left = self._left_after(patience)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5.0)
        if left:
            names = ", ".join(f"{p.pid} {self._seen.get(p, '')}" for p in left)
            raise ServiceFailed(f"it left {len(left)} processes behind, now killed: {names}")
        if code != 0:
            raise ServiceFailed(f"it ended with {code} after SIGTERM{self._tail()}")
        return time.monotonic() - started

    def _wait(self, deadline: float) -> int:
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return -signal.SIGKILL

    def _left_after(self, patience: float) -> list[psutil.Process]:
        until = time.monotonic() + patience
        while (left := self._alive()) and time.monotonic() < until:
            time.sleep(0.1)
        return left

    def _alive(self) -> list[psutil.Process]:
        """What still runs; a process is known by its id and its start, so no id is mistaken."""
        marked = {process for process in psutil.process_iter() if self._is_marked(process)}
        return [process for process in marked | set(self._seen) if _runs(process)]

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark
        except (psutil.Error, OSError):
            return False

    def _look(self) -> None:
        while not self._stopped.wait(0.5):
            try:
                for process in psutil.Process(self._process.pid).children(recursive=True):
                    self._seen.setdefault(process, process.name())
            except psutil.Error:
                continue  # it went while it was looked at

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return "; its last words:\n  " + "\n  ".join(lines) if lines else ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
