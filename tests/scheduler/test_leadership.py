"""One leads, the others wait, and a leader that was replaced writes nothing."""

from __future__ import annotations

import asyncio

from longshore_scheduler.scheduler import Scheduler
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeCluster, hang
from tests.scheduler.harness import Harness, make_job, make_settings, until


def make_scheduler(harness: Harness, cluster: FakeCluster, leader_id: str) -> Scheduler:
    scheduler = Scheduler(
        harness.store,
        cluster,
        make_settings(term=1.0),
        leader_id=leader_id,
        clock=harness.clock.seconds,
    )
    harness.schedulers.append(scheduler)
    return scheduler


async def test_a_standby_takes_over_when_the_leader_resigns(harness: Harness) -> None:
    leader = make_scheduler(harness, harness.cluster, "one")
    standby = make_scheduler(harness, FakeCluster(harness.clock.seconds), "two")
    await leader.start()
    await until(lambda: leader.leading)
    await standby.start()
    await asyncio.sleep(0.3)
    assert not standby.leading
    await leader.stop(0.0)
    await until(lambda: standby.leading and standby.ready_workers == 1)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_a_replaced_leader_stops_at_once_and_writes_nothing(harness: Harness) -> None:
    harness.cluster.default = hang
    leader = make_scheduler(harness, harness.cluster, "one")
    await leader.start()
    await until(lambda: leader.ready_workers == 1)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    harness.clock.advance(5.0)  # longer than its term
    assert await harness.store.lead("two", 3600_000_000) == 2
    worker = harness.cluster.only()
    worker.succeed(worker.assigned[0])
    await until(lambda: not leader.leading)
    assert (await harness.job(job_id)).state is JobState.RUNNING
    await harness.store.resign("two")
    await until(lambda: leader.leading)  # it stands by, and takes what the worker still says
    await harness.reach(JobState.SUCCEEDED, job_id)
    assert len(harness.cluster.workers) == 1


async def test_a_fixed_id_leads_again_at_once(harness: Harness) -> None:
    assert await harness.store.lead("embedded", 3600_000_000) == 1
    scheduler = make_scheduler(harness, harness.cluster, "embedded")
    await scheduler.start()
    await until(lambda: scheduler.leading)


async def test_a_worker_slow_to_answer_a_new_leader_keeps_what_it_runs(harness: Harness) -> None:
    harness.cluster.default = hang
    first = await harness.launch(keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    worker = harness.cluster.only()
    worker.frozen = True
    await first.stop(0.0)
    second = Scheduler(harness.store, harness.cluster, make_settings(), clock=harness.clock.seconds)
    await second.start()
    harness.schedulers.append(second)
    await until(lambda: second.leading)
    await harness.sweeps()
    assert second.ready_workers == 0, "it gets nothing new before it answers"
    worker.thaw()
    await until(lambda: second.ready_workers == 1)
    worker.succeed(worker.assigned[0])
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert len(record.attempts) == 1
