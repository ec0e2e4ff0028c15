"""A leader that was replaced and does not know it yet: it must do no harm on workers either.

Its writes are fenced by the store. What it says to workers is not, so it has to ask first.
"""

from __future__ import annotations

from typing import Any

import pytest

from longshore_cpu_workers.wire import Started, Succeeded
from longshore_scheduler.crew import Crew
from longshore_scheduler.roster import Worker
from longshore_scheduler.scheduler import Scheduler
from longshore_store.model import Fenced, Lease
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeWorker, hang, never_begin
from tests.scheduler.harness import Harness, make_job, make_settings, until

LONG = 300.0  # between two looks at its leadership: longer than any test


async def launch(harness: Harness, **options: Any) -> tuple[Crew, Worker, FakeWorker]:
    scheduler: Scheduler = await harness.launch(make_settings(term=LONG), **options)
    led = scheduler._led
    assert led is not None
    (worker,) = led.term.roster
    return led.crew, worker, harness.cluster.only()


async def depose(harness: Harness) -> int:
    term = await harness.replace_leader("the next one", 1e6)
    assert term == 2
    return term


async def test_it_ends_no_attempt_that_the_next_leader_began(harness: Harness) -> None:
    harness.cluster.default = hang
    _, _, fake = await launch(harness, keep_workers=True)
    await harness.store.pause_queue("default", "so that it places nothing")
    (job_id,) = await harness.submit(make_job())
    term = await depose(harness)
    (leased,) = await harness.store.lease_jobs(term, [Lease(job_id, 0, fake.info.worker_id)])
    fake.report(Started(job_id, leased.fence, fake.clock()))
    await until(lambda: not harness.schedulers[0].leading)
    assert fake.cancelled == []


async def test_it_kills_no_worker(harness: Harness) -> None:
    harness.cluster.default = hang
    crew, worker, fake = await launch(harness, keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    await depose(harness)
    with pytest.raises(Fenced):
        await crew.lose(worker, "it seemed silent")
    assert fake.alive
    assert (await harness.job(job_id)).state is JobState.RUNNING


async def test_it_kills_no_worker_that_it_thinks_is_idle(harness: Harness) -> None:
    crew, worker, fake = await launch(harness, keep_workers=True)
    await harness.sweeps()  # it is published
    await depose(harness)
    with pytest.raises(Fenced):
        await crew.lose(worker, "it seemed silent")
    assert fake.alive
    assert [record.id for record in await harness.store.list_workers()] == [worker.id]


async def test_it_takes_no_attempt_back(harness: Harness) -> None:
    harness.cluster.default = never_begin
    crew, worker, fake = await launch(harness, keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.LEASED, job_id)
    await until(lambda: bool(fake.jobs))
    await depose(harness)
    with pytest.raises(Fenced):
        await crew.give_up(list(worker.held.values()))
    assert fake.cancelled == []
    assert list(fake.jobs) == [job_id]


async def test_it_acknowledges_no_outcome_that_the_next_leader_waits_for(harness: Harness) -> None:
    harness.cluster.default = hang
    _, _, fake = await launch(harness, keep_workers=True)
    await harness.store.pause_queue("default", "so that it places nothing")
    (job_id,) = await harness.submit(make_job())
    term = await depose(harness)
    (leased,) = await harness.store.lease_jobs(term, [Lease(job_id, 0, fake.info.worker_id)])
    fake.report(Succeeded(job_id, leased.fence, fake.clock(), 0.01, "1"))
    await until(lambda: not harness.schedulers[0].leading)
    assert len(fake._reports) == 1
