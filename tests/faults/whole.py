"""The whole service, for the tests that hurt its workers and runners."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from longshore import AsyncClient, JobHandle
from longshore.v1 import job_pb2
from longshore.v1.watch_pb2 import WatchProgressResponse as Event
from tests.e2e.service import LONGSHORE, Service
from tests.faults.closing import Told, close_books

LEASE = 30.0
"""Unless a test is about it: a machine that pauses must not take a worker's jobs away."""
BOUND = 60.0
_SETTINGS = """
tasks = ["faulty_tasks"]
[pools.cpu]
cpu = 4
memory = 1073741824
minimum_workers = {workers}
maximum_workers = {workers}
maximum_runners = 4
[scheduler]
lease = {lease}
abandon = {abandon}
sweep_interval = 0.1
"""


class Whole:
    """A running service and what its executions leave.

    told: what callers were told, for the closing check. marks: lines "job attempt pid ...".
    """

    def __init__(self, folder: Path, workers: int, lease: float, seed: int = 0) -> None:
        self.service = Service(folder)
        settings = _SETTINGS.format(workers=workers, lease=lease, abandon=2 * lease)
        self.service.config.write_text(settings)
        self.service.modules = Path(__file__).parent
        self.marks = folder / "marks"
        self.marks.touch()
        self.told = Told(0, seed)
        self.summary: dict[str, Any] = {}
        self.url = f"sqlite:///{self.service.data / 'longshore.db'}"

    def client(self) -> AsyncClient:
        """A client of it."""
        return AsyncClient(self.service.target, timeout=BOUND)

    async def submit(self, client: AsyncClient, task: str, **params: Any) -> JobHandle[Any]:
        """A job that leaves marks."""
        handle = await client.submit(task, {"marks": str(self.marks), **params})
        self.told.accepted.add(handle.id)
        return handle

    async def ended(self, handle: JobHandle[Any]) -> job_pb2.Job:
        """The job, with all its attempts, once it has ended; remembered for the closing check."""
        await handle.wait(BOUND)
        job = (await handle.status()).job
        self.told.ended[handle.id] = job.state
        return job

    def executions(self, job_id: str) -> list[list[str]]:
        """The marks of a job: attempt, pid, and what else the task wrote."""
        whole, _, _ = self.marks.read_text().rpartition("\n")  # the last may be half written
        lines = [line.split() for line in whole.splitlines()]
        return [rest for job, *rest in lines if job == job_id]

    async def executed(self, job_id: str, times: int) -> list[list[str]]:
        """Waits until a job was begun so often."""
        async with asyncio.timeout(BOUND):
            while len(found := self.executions(job_id)) < times:
                await asyncio.sleep(0.01)
        return found

    async def running(self, handle: JobHandle[Any]) -> list[str]:
        """The mark of a job's first execution, once the service has heard of it too."""
        [mark] = await self.executed(handle.id, 1)
        async with asyncio.timeout(BOUND):
            while not (await handle.status()).job.HasField("start_time"):
                await asyncio.sleep(0.01)
        return mark

    def report(self, row: int, seconds: float, **counts: object) -> None:
        """The line of a fault, and a doctor who finds nothing in the running service."""
        self.told.row = row
        print(self.told.heal_line(seconds, **counts))
        assert self.doctor() == []

    def doctor(self, *options: str, **environment: str) -> list[dict[str, Any]]:
        """What `longshore doctor` finds, beside the service or after it."""
        command = [str(LONGSHORE), "doctor", "--data", str(self.service.data), "--json", *options]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )
        assert done.returncode in (0, 1), done.stderr
        *findings, self.summary = map(json.loads, done.stdout.splitlines())
        return [finding for finding in findings if not finding["hint"]]

    def ask_workers(self) -> list[dict[str, Any]]:
        """What the doctor finds who asks the workers too. Its raylet knows where Ray's head is,
        and the token that it asks for."""
        for pid in self.service.processes():
            with suppress(OSError):  # one that has just ended
                if address := _pairs(pid, "cmdline").get("--gcs-address"):
                    token = _pairs(pid, "environ")["RAY_AUTH_TOKEN"]
                    break
        else:
            raise AssertionError("no raylet")
        return self.doctor("--ray", address, RAY_AUTH_TOKEN=token)


def _pairs(pid: int, name: str) -> dict[str, str]:
    """NAME=VALUE of the arguments or the environment of a process."""
    words = os.fsdecode(Path(f"/proc/{pid}/{name}").read_bytes()).split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


@contextmanager
def serving(folder: Path, workers: int, lease: float = LEASE) -> Iterator[Whole]:
    """Runs a service; when it has stopped, its books are closed and the doctor finds nothing."""
    whole = Whole(folder, workers, lease)
    whole.service.start()
    try:
        yield whole
        assert whole.service.stop() == 0
        assert whole.doctor() == []
        asyncio.run(close_books(whole.url, whole.told, whole.marks))
    finally:
        process = whole.service.process
        if process is not None and process.poll() is None:
            whole.service.stop()


async def history(client: AsyncClient, job_id: str) -> list[Event]:
    """Every durable event of an ended job, from the first one; dense, or it fails."""
    events = [
        event
        async for event in client.watch(job_id, include_logs=True, after_sequence=0)
        if event.WhichOneof("event") in ("state_change", "log_chunk")
    ]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return events


async def workers_up(client: AsyncClient, count: int, without: int = 0) -> float:
    """Waits for so many workers, none of them the process `without`. Returns the seconds."""
    begin = time.monotonic()
    async with asyncio.timeout(BOUND):
        while True:
            pids = {worker.pid for worker in await client.workers()}
            if len(pids) >= count and without not in pids:
                return time.monotonic() - begin
            await asyncio.sleep(0.05)


async def worker_of(client: AsyncClient, handle: JobHandle[Any]) -> int:
    """The process of the worker that runs a job."""
    attempt = (await handle.status()).job.attempts[-1]
    return next(w.pid for w in await client.workers() if w.worker_id == attempt.worker_id)
