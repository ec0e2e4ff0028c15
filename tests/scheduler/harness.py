"""A scheduler over a real SQLite store and fake workers, with clocks that only tests move."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from longshore.v1 import job_pb2
from longshore_scheduler.scheduler import Scheduler
from longshore_store.model import JobRecord, NewJob
from longshore_store.needs import needs_json
from longshore_store.settings import Settings, parse_settings
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration
from tests.scheduler.fake_cluster import FakeCluster, hang

GIB = 1024**3
_ids = itertools.count(1)  # rising, as a server gives them: jobs of one moment are in their order
CPU = needs_json(cpu_millis=1000)
DEADLINE = 30.0  # below the longest sweep interval, which shows what waits for no sweep


class Clock:
    """Both clocks: the store's in microseconds, the scheduler's and the workers' in seconds."""

    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.us

    def seconds(self) -> float:
        return self.us / 1e6 - 1_799_999_000.0

    def advance(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


def make_settings(**scheduler: Any) -> Settings:
    """One CPU pool of one worker with 4 cores, unless `pools` says otherwise."""
    pools = scheduler.pop("pools", {"cpu": {"cpu": 4, "memory": 8 * GIB}})
    queues = scheduler.pop("queues", {"default": {}})
    # Terms are renewed by the real clock: a pause of the machine must not end one.
    values = {"sweep_interval": 0.05, "term": 300.0, **scheduler}
    return parse_settings({"pools": pools, "queues": queues, "scheduler": values})


def make_spec(task: str, *, retry: dict[str, Any] | None = None, **timeouts: float) -> bytes:
    """A serialized JobSpec. Timeouts in seconds."""
    spec = job_pb2.JobSpec(task=task)
    for name, value in (retry or {}).items():
        if isinstance(value, list):
            getattr(spec.retry_policy, name).extend(value)
        elif name.endswith("backoff"):
            getattr(spec.retry_policy, name).CopyFrom(_duration(value))
        else:
            setattr(spec.retry_policy, name, value)
    for name, value in timeouts.items():
        getattr(spec.timeouts, name).CopyFrom(_duration(value))
    return spec.SerializeToString()


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def make_job(task: str = "echo", **changes: Any) -> NewJob:
    """A job of tenant `t` in queue `default` that needs one core."""
    values: dict[str, Any] = {
        "id": str(uuid.UUID(int=next(_ids))),
        "tenant": "t",
        "task": task,
        "queue": "default",
        "spec": make_spec(task),
        "payload": "{}",
        "needs_json": CPU,
        "fingerprint": "f",
        **changes,
    }
    return NewJob(**values)


class Harness:
    """What a test holds."""

    def __init__(self, store: SqlStore, cluster: FakeCluster, clock: Clock) -> None:
        self.store = store
        self.cluster = cluster
        self.clock = clock
        self.schedulers: list[Scheduler] = []

    async def launch(self, settings: Settings | None = None, **options: Any) -> Scheduler:
        """A scheduler that leads and has its workers up."""
        settings = settings or make_settings()
        scheduler = Scheduler(
            self.store, self.cluster, settings, clock=self.clock.seconds, **options
        )
        await scheduler.start()
        self.schedulers.append(scheduler)
        wanted = sum(pool.minimum_workers for pool in settings.pools.values())
        await until(lambda: scheduler.ready_workers >= wanted)
        return scheduler

    async def launch_hanging(self) -> str:
        """A scheduler whose worker runs one job that does not end; the job's id."""
        self.cluster.default = hang
        await self.launch()
        (job_id,) = await self.submit(make_job())
        await self.reach(JobState.RUNNING, job_id)
        return job_id

    async def submit(self, *jobs: NewJob) -> list[str]:
        accepted = await self.store.submit_jobs(jobs)
        return [one.job_id for one in accepted]

    async def job(self, job_id: str) -> JobRecord:
        job = await self.store.read_job(job_id, full=True)
        assert job is not None
        return job

    async def replace_leader(self, leader_id: str, seconds: float) -> int:
        """Lets the term run out and begins another one, whatever the leader renews meanwhile."""
        end = time.monotonic() + DEADLINE
        while True:
            self.clock.advance(301.0)
            term = await self.store.lead(leader_id, round(seconds * 1e6))
            if term is not None:
                return term
            assert time.monotonic() < end, "it renews each time"

    async def handed_over(self, *job_ids: str) -> None:
        """Waits until workers have these jobs; the store shows a lease before it is delivered."""
        cluster = self.cluster
        await until(lambda: {i for w in cluster.alive for i in w.jobs}.issuperset(job_ids))

    async def sweeps(self, count: int = 3) -> None:
        """Waits until the newest scheduler has swept so often: what it will do, it has done."""
        led = self.schedulers[-1]._led
        assert led is not None
        target = led.sweep.rounds + count
        await until(lambda: led.sweep.rounds >= target)

    async def retrying(self, job_id: str, number: int) -> JobRecord:
        """Waits until so many attempts have failed and another one is due."""
        end = time.monotonic() + DEADLINE
        while True:
            job = await self.job(job_id)
            if job.state is JobState.RETRYING and len(job.attempts) == number:
                return job
            assert time.monotonic() < end, job
            await asyncio.sleep(0.005)

    async def reach(self, state: JobState, *job_ids: str) -> list[JobRecord]:
        """Waits until every job is in that state."""
        jobs: list[JobRecord] = []
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            jobs = await self.store.read_jobs(job_ids, full=True)
            if all(job.state == state for job in jobs):
                return jobs
            await asyncio.sleep(0.005)
        raise AssertionError(f"still {[job.state.name for job in jobs][:20]}, not {state.name}")


async def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Waits for a condition, looking often."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def open_harness(folder: Path) -> AsyncIterator[Harness]:
    """Opens the store, and stops every scheduler that was launched."""
    clock = Clock()
    store = SqlStore(f"sqlite:///{folder / 'jobs.db'}", clock=clock)
    await store.open()
    await store.declare_queues([QueueDeclaration("default", 0, None, "")])
    harness = Harness(store, FakeCluster(clock.seconds), clock)
    try:
        yield harness
    finally:
        for scheduler in harness.schedulers:
            await scheduler.stop(0.0)
        await store.close()
