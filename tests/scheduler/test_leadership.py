"""One leads, the others wait, and a leader that was replaced writes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_cpu_workers.endings import too_large
from longshore_cpu_workers.wire import Assignment, Started
from longshore_scheduler.roster import WorkerState
from longshore_scheduler.scheduler import Scheduler
from longshore_store.needs import needs_json
from longshore_store.orders import WorkerOrder
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeCluster, FakeWorker, hang, never_begin
from tests.scheduler.harness import GIB, Harness, make_job, make_settings, until


def make_scheduler(harness: Harness, cluster: FakeCluster, leader_id: str) -> Scheduler:
    scheduler = Scheduler(
        harness.store,
        cluster,
        make_settings(term=1.0),
        leader_id=leader_id,
        clock=harness.clock.seconds,
    )
    # A pause of the machine that is longer than its term must not end it.
    scheduler._leadership._clock = harness.clock.seconds
    harness.schedulers.append(scheduler)
    return scheduler


async def test_a_standby_takes_over_when_the_leader_resigns(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = make_scheduler(harness, harness.cluster, "one")
    standby = make_scheduler(harness, FakeCluster(harness.clock.seconds), "two")
    await leader.start()
    await until(lambda: leader.leading)
    lead, answers = harness.store.lead, list[int | None]()

    async def listening(leader_id: str, ttl_us: int) -> int | None:
        term = await lead(leader_id, ttl_us)
        if leader_id == "two":
            answers.append(term)
        return term

    monkeypatch.setattr(harness.store, "lead", listening)
    await standby.start()
    await until(lambda: len(answers) == 2)
    assert answers == [None, None]
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
    assert await harness.replace_leader("two", 3600.0) == 2
    worker = harness.cluster.only()
    worker.succeed(worker.assigned[0])
    await until(lambda: not leader.leading)
    assert (await harness.job(job_id)).state is JobState.RUNNING
    await harness.store.resign("two")
    await until(lambda: leader.leading)  # it stands by, and takes what the worker still says
    await harness.reach(JobState.SUCCEEDED, job_id)
    assert len(harness.cluster.workers) == 1


async def test_a_standby_that_starts_changes_nothing_of_the_leaders_pools(
    harness: Harness,
) -> None:
    shape = {"cpu": 4, "memory": GIB}
    old = make_settings(pools={"cpu": shape, "highmem": {**shape, "memory": 64 * GIB}})
    leader = await harness.launch(old, keep_workers=True)
    await harness.sweeps()
    before = await harness.store.list_pools()
    assert {pool.name: pool.ready_workers for pool in before} == {"cpu": 1, "highmem": 1}
    new = make_settings(pools={"cpu": shape}, term=1.0)
    standby = Scheduler(harness.store, harness.cluster, new, clock=harness.clock.seconds)
    harness.schedulers.insert(0, standby)
    await standby.start()
    assert await harness.store.list_pools() == before
    await leader.stop(0.0)
    await until(lambda: standby.leading)
    assert [pool.name for pool in await harness.store.list_pools()] == ["cpu"]


async def test_a_worker_of_another_protocol_ends_what_it_runs_and_is_replaced(
    harness: Harness,
) -> None:
    harness.cluster.default = hang
    first = await harness.launch(keep_workers=True)
    (running,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, running)
    old = harness.cluster.only()
    await first.stop(0.0)
    old.info = old.info._replace(protocol=0)
    await harness.launch(keep_workers=True)
    (waiting,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, waiting)
    assert [job.job_id for job in old.assigned] == [running], "it gets nothing new"
    old.succeed(old.assigned[0])
    (record,) = await harness.reach(JobState.SUCCEEDED, running)
    assert len(record.attempts) == 1
    await until(lambda: not old.alive)


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
    await harness.sweeps()  # the store knows the worker
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


def hang_if_it_fits(worker: FakeWorker, job: Assignment) -> None:
    """As a worker does it."""
    if job.needs.cpu_millis > worker.info.capacity.cpu_millis:
        worker.fail(job, too_large("more", "less"))
    else:
        hang(worker, job)


async def test_workers_of_a_pool_declared_anew_end_what_they_run_and_go(harness: Harness) -> None:
    harness.cluster.default = hang_if_it_fits
    small = {"cpu": {"cpu": 1, "memory": 8 * GIB}}
    first = await harness.launch(make_settings(pools=small), keep_workers=True)
    (running,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, running)
    old = harness.cluster.only()
    await first.stop(0.0)
    (large,) = await harness.submit(make_job(needs_json=needs_json(cpu_millis=4000)))
    await harness.launch(keep_workers=True)
    (record,) = await harness.reach(JobState.RUNNING, large)
    assert len(record.attempts) == 1, "it was given to the new one, and to no other"
    await harness.sweeps()  # both are published
    rows = {worker.id: worker for worker in await harness.store.list_workers()}
    row = rows[old.info.worker_id]
    assert (row.state, '"cpu_millis":1000' in row.shape_json) == (WorkerState.CORDONED, True)
    await harness.store.order_workers([row.id], WorkerState.READY, None)
    await harness.sweeps()
    assert [WorkerOrder(row.id, 2, None, 0, 0)] == await harness.store.worker_orders()
    assert harness.schedulers[-1].ready_workers == 1, "nobody can put it to work again"
    old.succeed(old.assigned[0])
    (record,) = await harness.reach(JobState.SUCCEEDED, running)
    assert len(record.attempts) == 1
    await until(lambda: not old.alive)
    assert harness.cluster.created == 2


async def test_workers_of_a_pool_that_is_gone_end_what_they_run_and_go(harness: Harness) -> None:
    harness.cluster.default = hang
    shape = {"cpu": 1, "memory": 8 * GIB}
    before = {"old": {**shape, "maximum_workers": 2, "minimum_workers": 2}}
    first = await harness.launch(make_settings(pools=before), keep_workers=True)
    (running,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, running)
    (busy,) = [worker for worker in harness.cluster.workers.values() if worker.jobs]
    (idle,) = [worker for worker in harness.cluster.workers.values() if not worker.jobs]
    await first.stop(0.0)
    (waiting,) = await harness.submit(make_job())
    await harness.launch(make_settings(pools={"new": shape}), keep_workers=True)
    await until(lambda: not idle.alive)
    (record,) = await harness.reach(JobState.RUNNING, waiting)
    assert record.attempts[0].worker_id.startswith("new-")
    assert [pool.name for pool in await harness.store.list_pools()] == ["new"]
    assert busy.alive
    busy.succeed(busy.assigned[0])
    (record,) = await harness.reach(JobState.SUCCEEDED, running)
    assert len(record.attempts) == 1
    await until(lambda: not busy.alive)


async def test_an_answer_that_nobody_came_to_read_is_no_silence(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.cluster.default = never_begin
    first = await harness.launch(keep_workers=True)
    ids = await harness.submit(make_job(), make_job())
    await harness.handed_over(*ids)
    await first.stop(0.0)
    worker = harness.cluster.only()
    worker.deaf = True  # it has begun, and is about to say so
    start, writing, answer = harness.store.start_attempts, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        writing.set()
        await answer.wait()
        return await start(*arguments)

    monkeypatch.setattr(harness.store, "start_attempts", slow)
    await harness.launch(make_settings(lease=5.0))
    one, other = worker.assigned
    worker.report(Started(one.job_id, one.fence, worker.clock()))
    await writing.wait()
    worker.report(Started(other.job_id, other.fence, worker.clock()))
    for _ in range(70):
        harness.clock.advance(0.1)
        await harness.sweeps(1)
    answer.set()
    jobs = await harness.reach(JobState.RUNNING, *ids)
    assert [len(job.attempts) for job in jobs] == [1, 1]


async def test_a_silent_worker_that_nobody_knows_is_ended(harness: Harness) -> None:
    first = await harness.launch(keep_workers=True)
    await first.stop(0.0)
    stranger = harness.cluster.only()
    stranger.frozen = True  # an earlier leader made it, and it was not up before that one died
    term = await harness.store.lead("between", 1_000_000) or 0
    await harness.store.remove_workers(term, [stranger.info.worker_id])
    await harness.store.resign("between")
    await harness.launch()
    await until(lambda: not stranger.alive)
    assert harness.cluster.created == 2
