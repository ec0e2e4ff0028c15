"""Workers taken out of service: cordons, drains, and what becomes of their pool."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from longshore_cpu_workers.wire import Checkpointed
from longshore_scheduler.draining import KEPT, PATIENCE, SEEN
from longshore_scheduler.roster import WorkerState
from longshore_store.model import StoreUnavailable
from longshore_store.orders import WorkerOrder
from longshore_store.states import JobState
from longshore_store.topology_records import WorkerRecord
from tests.scheduler.fake_cluster import FakeWorker, echo, hang, never_begin
from tests.scheduler.harness import DEADLINE, GIB, Harness, make_job, make_settings, until

READY, CORDONED, DRAINING = WorkerState.READY, WorkerState.CORDONED, WorkerState.DRAINING
SECOND = 1_000_000
WIDE = {"cpu": {"cpu": 4, "maximum_workers": 2}}


async def rows(harness: Harness) -> dict[str, WorkerRecord]:
    return {worker.id: worker for worker in await harness.store.list_workers()}


async def shown(harness: Harness, worker: FakeWorker, state: int = 0) -> WorkerRecord:
    """Waits until the store shows the worker, in a state."""
    end = time.monotonic() + DEADLINE
    while True:
        row = (await rows(harness)).get(worker.info.worker_id)
        if row is not None and row.state == (state or row.state):
            return row
        assert time.monotonic() < end, row
        await asyncio.sleep(0.005)


async def order(harness: Harness, worker: FakeWorker, state: int, grace: float = 30.0) -> None:
    await shown(harness, worker)
    end = harness.store.now_us() + round(grace * SECOND)
    until_us = end if state == DRAINING else None
    await harness.store.order_workers([worker.info.worker_id], state, until_us)


async def drained(harness: Harness, worker: FakeWorker) -> WorkerOrder:
    """Waits until the store says that nothing is left on the worker."""
    end = time.monotonic() + DEADLINE
    while True:
        orders = {o.worker_id: o for o in await harness.store.worker_orders()}
        found = orders.get(worker.info.worker_id)
        if found is not None and found.drain_until_us is None:
            return found
        assert time.monotonic() < end, found
        await asyncio.sleep(0.005)


async def working(harness: Harness, **settings: object) -> tuple[FakeWorker, str]:
    """A worker that runs one job."""
    harness.cluster.default = hang
    await harness.launch(make_settings(**settings), keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    return harness.cluster.only(), job_id


async def test_a_cordoned_worker_finishes_what_it_has_and_takes_nothing(harness: Harness) -> None:
    worker, running = await working(harness)
    await order(harness, worker, CORDONED)
    await shown(harness, worker, CORDONED)
    (waiting,) = await harness.submit(make_job())
    worker.succeed(worker.assigned[0])
    await harness.reach(JobState.SUCCEEDED, running)
    await harness.sweeps()
    assert (await harness.job(waiting)).state is JobState.QUEUED
    assert harness.cluster.created == 1, "a cordoned worker is not replaced"
    await harness.schedulers[-1].stop(0.0)
    none = {"cpu": {"cpu": 4, "memory": 8 * GIB, "minimum_workers": 0}}
    scheduler = await harness.launch(make_settings(pools=none))
    await shown(harness, worker, CORDONED)
    assert scheduler.ready_workers == 0, "the next leader knows of it"
    harness.cluster.default = echo
    await order(harness, worker, READY)
    await harness.reach(JobState.SUCCEEDED, waiting)
    await shown(harness, worker, READY)


async def test_a_drain_lets_work_finish_and_gives_the_rest_back(harness: Harness) -> None:
    worker, running = await working(harness, pools=WIDE)
    harness.cluster.default = never_begin
    waiting = await harness.submit(make_job(), make_job())
    await harness.reach(JobState.LEASED, *waiting)
    await harness.handed_over(*waiting)
    harness.cluster.default = echo
    await order(harness, worker, DRAINING)
    await harness.reach(JobState.SUCCEEDED, *waiting)  # by the replacement, before it is over
    assert worker.stops == [30.0]
    worker.succeed(worker.assigned[0])
    await harness.reach(JobState.SUCCEEDED, running)
    done = await drained(harness, worker)
    assert (done.finished, done.released) == (1, 2)
    record = (await rows(harness))[worker.info.worker_id]
    assert (record.state, record.active_attempts) == (DRAINING, 0)
    for job_id in (running, *waiting):
        assert [a.number for a in (await harness.job(job_id)).attempts] == [1]


async def test_what_does_not_finish_goes_on_elsewhere_from_its_checkpoint(
    harness: Harness,
) -> None:
    worker, job_id = await working(harness, pools=WIDE)
    await order(harness, worker, DRAINING, 5.0)
    await shown(harness, worker, DRAINING)
    first = worker.assigned[0]
    worker.report(Checkpointed(job_id, first.fence, worker.clock(), '{"page":7}'))
    await until(lambda: len(harness.cluster.alive) == 2)
    harness.clock.advance(5.1)
    await until(lambda: len(harness.cluster.alive[-1].assigned) == 1)
    successor = harness.cluster.alive[-1]
    assert successor.assigned[0].checkpoint == '{"page":7}'
    successor.succeed(successor.assigned[0])
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in job.attempts] == [8, 0]
    done = await drained(harness, worker)
    assert (done.finished, done.released) == (0, 1)


async def test_a_drain_outlives_the_leader_that_began_it(harness: Harness) -> None:
    worker, job_id = await working(harness, pools=WIDE)
    await order(harness, worker, DRAINING, 40.0)
    await until(lambda: worker.stops == [40.0])
    await harness.schedulers[-1].stop(0.0)
    harness.clock.advance(10.0)
    await harness.launch(make_settings(pools=WIDE), keep_workers=True)
    await until(lambda: worker.stops == [40.0, 30.0])
    (other,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, other)
    assert len(worker.assigned) == 1, "adopted, and given nothing new"
    worker.succeed(worker.assigned[0])
    await harness.reach(JobState.SUCCEEDED, job_id)
    await drained(harness, worker)


async def test_a_drained_worker_holds_its_place_for_a_while(harness: Harness) -> None:
    await harness.launch(make_settings(pools=WIDE))
    worker = harness.cluster.only()
    await order(harness, worker, DRAINING)
    await drained(harness, worker)
    await until(lambda: harness.schedulers[-1].ready_workers == 1)
    harness.clock.advance(PATIENCE + SEEN)
    await harness.sweeps()
    assert worker.alive
    for _ in range(2):  # its polls are heard in between: the clock alone silences nobody
        harness.clock.advance(KEPT / 2)
        await harness.sweeps()
    await until(lambda: not worker.alive)
    await harness.sweeps()
    assert list(await rows(harness)) == [harness.cluster.only().info.worker_id]


async def test_the_only_place_is_given_up_for_the_replacement(harness: Harness) -> None:
    await harness.launch()
    worker = harness.cluster.only()
    harness.cluster.places = 1
    await order(harness, worker, DRAINING)
    await drained(harness, worker)
    harness.clock.advance(SEEN)
    await harness.sweeps()
    assert worker.alive, "the replacement may still come up elsewhere"
    harness.clock.advance(PATIENCE)
    await until(lambda: not worker.alive)
    await until(lambda: harness.schedulers[-1].ready_workers == 1)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_a_pool_that_is_gone_keeps_no_place(harness: Harness) -> None:
    """Nothing replaces its drained worker, and the workers of other pools may need the place."""
    shape = {"cpu": 4, "memory": 8 * GIB}
    worker, job_id = await working(harness, pools={"old": shape})
    await harness.schedulers[-1].stop(0.0)
    harness.cluster.places = 1
    await order(harness, worker, DRAINING)
    renamed = make_settings(pools={"new": shape})
    launching = asyncio.create_task(harness.launch(renamed, keep_workers=True))
    await until(lambda: bool(worker.stops))
    worker.succeed(worker.assigned[0])
    await harness.reach(JobState.SUCCEEDED, job_id)
    await drained(harness, worker)
    harness.clock.advance(SEEN)
    await until(lambda: not worker.alive)
    await launching


@pytest.mark.parametrize("how", ["dead", "frozen"])
async def test_a_worker_that_fails_in_its_drain_loses_what_it_held(
    harness: Harness, how: str
) -> None:
    worker, job_id = await working(harness, pools=WIDE, lease=1.0)
    await order(harness, worker, DRAINING)
    await until(lambda: bool(worker.stops))
    harness.cluster.default = echo
    if how == "dead":
        worker.die()
    worker.frozen = True
    while worker.alive:
        harness.clock.advance(0.1)
        await harness.sweeps(1)
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in job.attempts] == [8, 0]
    await harness.sweeps()
    assert worker.info.worker_id not in await rows(harness)


async def test_an_order_is_heard_at_once(harness: Harness) -> None:
    """Its commit is the hint; the next sweep by itself is an hour of waiting away."""
    await harness.launch(make_settings(pools=WIDE, sweep_interval=60.0))
    worker = harness.cluster.only()
    await order(harness, worker, DRAINING)
    await drained(harness, worker)


async def test_a_lease_is_lost_on_time(harness: Harness) -> None:
    worker, job_id = await working(harness, pools=WIDE, lease=2.0)
    harness.cluster.default = echo
    worker.frozen = True
    worker.report()  # wakes its poll, which now hangs
    heard = (await shown(harness, worker, READY)).heartbeat_us
    while worker.alive:
        harness.clock.advance(0.1)
        await harness.sweeps(1)
    assert 2.0 < (harness.store.now_us() - heard) / SECOND <= 2.3
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in job.attempts] == [6, 0]


async def test_a_heartbeat_is_when_the_worker_was_heard(harness: Harness) -> None:
    worker, _ = await working(harness)
    worker.frozen = True
    worker.report()  # wakes its poll, which now hangs
    heard = (await shown(harness, worker, READY)).heartbeat_us
    for _ in range(4):
        harness.clock.advance(2.0)
        await harness.sweeps()
    assert (await rows(harness))[worker.info.worker_id].heartbeat_us == heard
    worker.thaw()
    end = time.monotonic() + DEADLINE
    while (await rows(harness))[worker.info.worker_id].heartbeat_us < heard + 8 * SECOND:
        assert time.monotonic() < end
        harness.clock.advance(3.0)
        await harness.sweeps()


async def test_an_attempt_counts_once_though_the_word_of_it_was_lost(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, running = await working(harness)
    record_drains = harness.store.record_drains

    async def lose_the_answer(*arguments: Any) -> None:
        monkeypatch.setattr(harness.store, "record_drains", record_drains)
        await record_drains(*arguments)
        raise StoreUnavailable("after the commit")

    monkeypatch.setattr(harness.store, "record_drains", lose_the_answer)
    await order(harness, worker, DRAINING)
    await until(lambda: bool(worker.stops))
    worker.succeed(worker.assigned[0])
    await harness.reach(JobState.SUCCEEDED, running)
    found = await drained(harness, worker)
    await harness.sweeps()
    (after,) = await harness.store.worker_orders()
    assert (after.finished, after) == (1, found)
