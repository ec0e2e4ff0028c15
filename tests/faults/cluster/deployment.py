"""What the tests of the distributed deployment hold: its parts, its jobs, and its books."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from longshore import AsyncClient, JobHandle, LongshoreError, Resources
from longshore.v1 import job_pb2
from longshore_embedded.dev_cluster import DevCluster
from longshore_embedded.member import Member
from tests.soak.accounts import read_ledger
from tests.soak.chaos import led_at

DEADLINE = 90.0
WORKERS = 2
LINES = 30


class Deployment:
    """A running cluster, a client of it, and the jobs that a test submitted."""

    def __init__(self, cluster: DevCluster, client: AsyncClient, folder: Path) -> None:
        self.cluster = cluster
        self.client = client
        self.folder = folder
        self._handles: list[JobHandle[Any]] = []
        self._gates = 0

    # -- jobs

    def begin(self) -> None:
        """Forgets the jobs of the test before."""
        self._handles = []

    async def submit(
        self, task: str, payload: dict[str, object], resources: Resources | None = None
    ) -> JobHandle[Any]:
        """Submits; the job is in the books."""
        handle = await self.client.submit(task, payload, resources=resources, timeout=DEADLINE)
        self._handles.append(handle)
        return handle

    async def work(self, count: int, *, steps: int = 1, pause: float = 0.0) -> list[JobHandle[Any]]:
        """Many jobs that note their executions."""
        payload = {"ledger": str(self.folder / "ledger"), "steps": steps, "pause": pause}
        submits = (self.submit("work", payload) for _ in range(count))
        return list(await asyncio.gather(*submits))

    async def gate(self, cpu: float = 0.1) -> tuple[JobHandle[Any], Path]:
        """A job that runs until a file exists; it is running when this returns."""
        self._gates += 1
        path = self.folder / f"gate-{self._gates}"
        handle = await self.submit("gate", {"path": str(path)}, Resources(cpu=cpu))
        await self.reach(handle, job_pb2.JOB_STATE_RUNNING)
        return handle, path

    async def reach(self, handle: JobHandle[Any], state: int) -> job_pb2.Job:
        """Waits for a state."""
        async with asyncio.timeout(DEADLINE):
            while True:
                job = (await self.client.status(handle.id, timeout=DEADLINE)).job
                if job.state == state:
                    return job
                await asyncio.sleep(0.05)

    async def _ended(self, job_id: str) -> job_pb2.Job:
        async with asyncio.timeout(DEADLINE):
            while not (job := (await self.client.status(job_id)).job).HasField("end_time"):
                await asyncio.sleep(0.05)
        return job

    async def results(self, handles: Sequence[JobHandle[Any]]) -> list[object]:
        """What they returned."""
        waits = (handle.result(timeout=DEADLINE) for handle in handles)
        return list(await asyncio.gather(*waits))

    # -- parts

    @property
    def leader(self) -> Member:
        """The scheduler that said last that it leads."""
        return max(self.cluster.schedulers, key=lambda member: led_at(member.log))

    async def new_leader(self, than: str) -> str:
        """Waits until a scheduler has said after that time that it leads."""
        async with asyncio.timeout(DEADLINE):
            while (newest := max(led_at(m.log) for m in self.cluster.schedulers)) <= than:
                await asyncio.sleep(0.05)
        return newest

    async def _worker_ids(self) -> set[str]:
        return {worker.worker_id for worker in await self.client.workers(timeout=DEADLINE)}

    async def worker_pids(self) -> list[int]:
        """The actors' processes."""
        return [worker.pid for worker in await self.client.workers(timeout=DEADLINE)]

    def raylet(self, node: int) -> int:
        """The raylet's process."""
        pid = self.cluster.nodes[node].pid
        assert pid is not None
        (raylet,) = self._raylets(pid)
        return raylet

    @staticmethod
    def _raylets(pid: int) -> list[int]:
        with suppress(psutil.NoSuchProcess):
            return [p.pid for p in psutil.Process(pid).children() if name_of(p) == "raylet"]
        return []

    async def spread(self) -> None:
        """Sees to it that both nodes have a worker: a lost node leaves them all on the other."""
        async with asyncio.timeout(DEADLINE):
            while len({w.node for w in await self.client.workers()}) < len(self.cluster.nodes):
                doomed = (await self.client.workers())[0]
                kill(doomed.pid)  # where the next one comes up is Ray's to say
                while not await self._is_whole() or doomed.worker_id in await self._worker_ids():
                    await asyncio.sleep(0.1)

    async def until_whole(self) -> None:
        """Waits until every member runs, somebody leads, and every worker is ready."""
        for member in self.cluster.members:
            await member.start()
        while not await self._is_whole():
            await asyncio.sleep(0.1)

    async def _is_whole(self) -> bool:
        pids = [member.pid for member in self.cluster.members]
        if not all(pids) or not all(self._raylets(n.pid or 0) for n in self.cluster.nodes):
            return False
        with suppress(LongshoreError):
            (pool,) = await self.client.pools(timeout=5.0)
            return pool.ready_workers >= WORKERS and not pool.starting_workers
        return False

    # -- after a failure

    async def end_jobs(self) -> None:
        """Cancels what a failed test has left, at once, and waits until all of it has ended."""
        for member in self.cluster.members:
            await member.start()
        for handle in self._handles:
            await handle.cancel(reason="its test failed", force=True, timeout=DEADLINE)
        for handle in self._handles:
            await self._ended(handle.id)

    def last_words(self) -> list[tuple[str, str]]:
        """The end of every member's log: a title and the lines."""
        return [
            (f"{member.name}, started {member.starts} times", member.tail(LINES))
            for member in self.cluster.members
        ]

    # -- the books

    async def close_the_books(self) -> None:
        """Every job of this test ends; none that was to succeed ran without a note."""
        ids = {handle.id for handle in self._handles}
        jobs = [await self._ended(job_id) for job_id in ids]
        assert {job.job_id for job in jobs} == ids
        begins, ends = read_ledger(self.folder / "ledger")
        works = [job for job in jobs if job.spec.task == "work"]
        for job in works:
            assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
            assert ends[job.job_id] >= 1
        extra = sum(begins[job.job_id] - 1 for job in works)
        print(f"{len(ids)} jobs accepted, as many ended once; {extra} extra executions")


def name_of(process: psutil.Process) -> str:
    """Its name, or "" where it has just ended."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def kill(pid: int | None, how: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a process that is there."""
    assert pid is not None
    os.kill(pid, how)


async def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Waits for it."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def recovered(row: str, began: float) -> None:
    """Prints the line that the table of recovery times is made of."""
    print(f"fault row {row}: recovered in {time.monotonic() - began:.1f} s")
