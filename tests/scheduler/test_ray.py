"""Everything real: Ray, the actor, its runners, the store."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from longshore_scheduler.ray_cluster import RayCluster
from longshore_scheduler.roster import WorkerState
from longshore_scheduler.scheduler import Scheduler
from longshore_scheduler.worker_place import WorkerPlace
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration, WorkerRecord
from tests.scheduler.fake_cluster import FakeCluster
from tests.scheduler.harness import Clock, Harness, make_job, make_settings, make_spec, until


def make_cluster(folder: Path) -> RayCluster:
    here = str(Path(__file__).parent)
    return RayCluster(
        WorkerPlace(
            artifacts=folder / "artifacts",
            scratch=folder / "scratch",
            modules=("ray_tasks",),
            env={"PYTHONPATH": here},
        )
    )


@pytest.mark.timeout(300)  # a start of Ray alone may take a minute
@pytest.mark.filterwarnings("ignore")  # Ray's own
async def test_jobs_run_on_ray(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    await store.open()
    await store.declare_queues([QueueDeclaration("default", 0, None, "")])
    scheduler = Scheduler(store, make_cluster(tmp_path), make_settings(sweep_interval=0.2))
    clock = Clock()
    harness = Harness(store, FakeCluster(clock.seconds), clock)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        await scheduler.start()
        await until(lambda: scheduler.ready_workers == 1, 60.0)
        check_signals()
        check_what_ray_tells()
        await check_echo(harness)
        await check_crash(harness)
        await check_cancel(harness)
        await check_drain(harness)
        await check_lost_worker(harness)
    finally:
        await scheduler.stop(0.0)
        await store.close()
        signal.signal(signal.SIGTERM, before)


def check_signals() -> None:
    """Ray's handler sets an alarm, which aborts a process that takes its time to stop."""
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.alarm(0) == 0


def check_what_ray_tells() -> None:
    """The command line of a driver may hold a secret, or a path that is not UTF-8."""
    ray, _ = RayCluster.load()
    told = ray._private.worker.global_worker.gcs_client.get_all_job_info().values()
    assert "longshore" in [job.entrypoint for job in told]
    assert not [job.entrypoint for job in told if "pytest" in job.entrypoint]


async def check_echo(harness: Harness) -> None:
    ids = await harness.submit(*(make_job("ray_test.echo", payload='{"n":5}') for _ in range(500)))
    jobs = await harness.reach(JobState.SUCCEEDED, *ids)
    assert {job.value_json for job in jobs} == {'{"n":5}'}


async def check_crash(harness: Harness) -> None:
    spec = make_spec("ray_test.crash", retry={"initial_backoff": 0.01, "jitter": 0.0})
    (job_id,) = await harness.submit(make_job("ray_test.crash", spec=spec))
    (job,) = await harness.reach(JobState.DEAD_LETTERED, job_id)
    assert [a.failure_class for a in job.attempts] == [4, 4, 4]


async def check_cancel(harness: Harness) -> None:
    (job_id,) = await harness.submit(make_job("ray_test.linger"))
    await harness.reach(JobState.RUNNING, job_id)
    await harness.store.cancel_jobs([job_id], "enough", False)
    await harness.reach(JobState.CANCELLED, job_id)


async def check_drain(harness: Harness) -> None:
    """This Ray has no room for a second worker: the drained one gives up its place."""
    worker = await only_worker(harness)
    spec = make_spec("ray_test.drained", cancel_grace=10.0)
    (job_id,) = await harness.submit(make_job("ray_test.drained", spec=spec, payload='{"n":5}'))
    await harness.reach(JobState.RUNNING, job_id)
    until_us = harness.store.now_us() + 500_000
    await harness.store.order_workers([worker.id], WorkerState.DRAINING, until_us)
    end = time.monotonic() + 60.0
    while (job := await harness.job(job_id)).state is not JobState.SUCCEEDED:
        assert time.monotonic() < end, job
        await asyncio.sleep(0.05)
    assert [a.failure_class for a in job.attempts] == [8, 0]
    assert job.value_json == '{"n":6}'
    assert (await only_worker(harness)).id != worker.id


async def only_worker(harness: Harness) -> WorkerRecord:
    """Waits until the store shows one worker alone."""
    end = time.monotonic() + 60.0
    while len(found := await harness.store.list_workers()) != 1:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.02)
    return found[0]


async def check_lost_worker(harness: Harness) -> None:
    (job_id,) = await harness.submit(make_job("ray_test.linger"))
    await harness.reach(JobState.RUNNING, job_id)
    worker = await only_worker(harness)
    os.kill(worker.pid, signal.SIGKILL)
    while len((await harness.job(job_id)).attempts) < 2:
        await harness.reach(JobState.RUNNING, job_id)
    assert (await harness.job(job_id)).attempts[0].failure_class == 6
