"""Workers that die, fall silent, come too late, or were left by an earlier leader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from longshore_cpu_workers.wire import (
    Assignment,
    Logged,
    Progressed,
    Returned,
    Started,
    Succeeded,
    WorkerInfo,
)
from longshore_scheduler.cluster import PoolSpec
from longshore_scheduler.roster import WorkerState
from longshore_store.model import Attempted, Completion, Lease, StoreUnavailable
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import echo, hang, never_begin
from tests.scheduler.harness import Harness, make_job, make_settings, until

TWO = {"cpu": {"cpu": 1, "minimum_workers": 2, "maximum_workers": 2}}


async def test_what_a_dead_worker_ran_is_rerun_by_its_successor(harness: Harness) -> None:
    job_id = await harness.launch_hanging()
    harness.cluster.default = echo
    dead = harness.cluster.only()
    dead.die()
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in job.attempts] == [6, 0]
    await harness.sweeps()  # it is published
    (worker,) = await harness.store.list_workers()
    assert worker.id != dead.info.worker_id


async def test_a_silent_worker_loses_its_lease_and_its_late_result_is_refused(
    harness: Harness,
) -> None:
    harness.cluster.default = hang
    await harness.launch(make_settings(pools=TWO, lease=1.0))
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    silent = next(w for w in harness.cluster.alive if w.jobs)
    job = silent.assigned[0]
    silent.frozen = True
    harness.cluster.default = echo
    # A jump of the clock alone is no silence: a step counts for two intervals at most.
    harness.clock.advance(3600.0)
    await harness.sweeps()
    assert silent.alive
    while silent.alive:
        harness.clock.advance(0.1)
        await harness.sweeps(1)
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in record.attempts] == [6, 0]
    late = Completion(job.job_id, job.fence, harness.store.now_us(), '"late"')
    assert await harness.store.complete_attempts(1, [late]) == [job_id]


async def test_a_worker_that_does_not_come_up_is_tried_again(harness: Harness) -> None:
    harness.cluster.failing_starts = 2
    await harness.launch()
    assert harness.cluster.created == 3


async def test_attempts_of_vanished_workers_are_released_by_a_new_leader(harness: Harness) -> None:
    term = await harness.store.lead("before", 1_000_000)
    assert term is not None
    ids = await harness.submit(make_job(), make_job())
    await harness.store.lease_jobs(term, [Lease(i, 0, "gone") for i in ids])
    await harness.store.cancel_jobs([ids[1]], "no need", False)
    await harness.store.resign("before")
    await harness.launch()
    (job,) = await harness.reach(JobState.SUCCEEDED, ids[0])
    assert job.attempts[0].failure_class == 6
    await harness.reach(JobState.CANCELLED, ids[1])


async def test_living_workers_are_taken_over_with_what_they_run(harness: Harness) -> None:
    harness.cluster.default = hang
    first = await harness.launch(keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    await first.stop(0.0)
    await harness.launch(keep_workers=True)
    worker = harness.cluster.only()
    worker.succeed(worker.assigned[0])
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert (len(job.attempts), harness.cluster.created) == (1, 1)


async def test_a_lease_that_never_reached_its_worker_is_released(harness: Harness) -> None:
    first = await harness.launch(keep_workers=True)
    await first.stop(0.0)
    term = await harness.store.lead("between", 1_000_000)
    (job_id,) = await harness.submit(make_job())
    worker = harness.cluster.only()
    await harness.store.lease_jobs(term or 0, [Lease(job_id, 0, worker.info.worker_id)])
    await harness.store.resign("between")
    worker.deaf = True
    await harness.launch(make_settings(lease=1.0))
    await until(lambda: bool(worker.recalled))
    harness.clock.advance(1.5)
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_a_worker_that_is_slow_to_take_work_keeps_what_it_runs(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await harness.launch_hanging()
    worker, assign = harness.cluster.only(), harness.cluster.assign

    async def slow(worker_id: str, assignments: Sequence[Assignment]) -> None:
        monkeypatch.setattr(harness.cluster, "assign", assign)
        raise TimeoutError("no answer within 10 s")

    monkeypatch.setattr(harness.cluster, "assign", slow)
    (late,) = await harness.submit(make_job())
    await until(lambda: len(worker.recalled) == 1)
    jobs = await harness.reach(JobState.RUNNING, running, late)
    assert [len(job.attempts) for job in jobs] == [1, 1], "and what it was not told is given again"
    assert worker.alive


async def test_an_orphan_of_a_failed_lease_call_is_released(harness: Harness) -> None:
    await harness.launch()
    lease_jobs, leased = harness.store.lease_jobs, asyncio.Event()

    async def lose_the_answer(*arguments: Any) -> Any:
        harness.store.lease_jobs = lease_jobs  # type: ignore[method-assign]
        await lease_jobs(*arguments)
        leased.set()
        raise StoreUnavailable("after the commit")

    harness.store.lease_jobs = lose_the_answer  # type: ignore[method-assign, assignment]
    (job_id,) = await harness.submit(make_job())
    await leased.wait()
    for _ in range(3):
        harness.clock.advance(6.0)
        await harness.sweeps()
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_reports_wait_while_the_store_is_away(harness: Harness) -> None:
    await harness.launch()
    complete = harness.store.complete_attempts
    tries = []

    async def fail_twice(*arguments: Any) -> Any:
        tries.append(1)
        if len(tries) == 2:  # it was written, and the answer was lost
            await complete(*arguments)
        if len(tries) <= 2:
            raise StoreUnavailable("away")
        return await complete(*arguments)

    harness.store.complete_attempts = fail_twice  # type: ignore[method-assign, assignment]
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, job_id)
    await until(lambda: len(tries) == 3)


async def test_what_was_handed_ahead_is_recalled_where_another_worker_is_idle(
    harness: Harness,
) -> None:
    await harness.launch(make_settings(pools=TWO))
    ids = await harness.submit(*(make_job() for _ in range(4)))
    await harness.reach(JobState.SUCCEEDED, *ids)  # echo is quick, as far as anybody knows
    harness.cluster.default = never_begin
    ids = await harness.submit(*(make_job() for _ in range(20)))
    await harness.handed_over(*ids)
    slow, idle = harness.cluster.alive
    for job in list(idle.jobs.values()):
        echo(idle, job)
    first = next(iter(slow.jobs.values()))
    slow.report(Started(first.job_id, first.fence, slow.clock()))
    harness.cluster.default = echo
    harness.clock.advance(0.3)
    await until(lambda: len(slow.recalled) > 0)
    await harness.reach(JobState.SUCCEEDED, *(i for i in ids if i != first.job_id))
    record = await harness.job(slow.recalled[0][0])
    assert (record.fence, len(record.attempts)) == (2, 1)  # what never began is no attempt


async def test_reports_of_attempts_that_are_not_its_own_are_refused(harness: Harness) -> None:
    job_id = await harness.launch_hanging()
    worker = harness.cluster.only()
    stale = worker.assigned[0].fence + 7
    worker.report(
        Started(job_id, stale, worker.clock()), Succeeded(job_id, stale, worker.clock(), 1.0, "1")
    )
    await until(lambda: len(worker.cancelled) == 1)  # whatever it runs there must end
    assert worker.cancelled[0].force
    assert (await harness.job(job_id)).state is JobState.RUNNING
    assert await harness.store.confirm_cancels(1, [Attempted(job_id, stale)]) == [job_id]


async def test_stopping_brings_everything_home(harness: Harness) -> None:
    harness.cluster.behaviour["run"] = hang
    harness.cluster.default = never_begin
    scheduler = await harness.launch()
    ids = await harness.submit(make_job("run"), make_job("wait"))
    await harness.reach(JobState.RUNNING, ids[0])
    await harness.handed_over(*ids)
    await scheduler.stop(0.0)
    jobs = await harness.reach(JobState.QUEUED, *ids)
    assert all(job.state is JobState.QUEUED for job in jobs)
    counts = [[a.failure_class for a in (await harness.job(i)).attempts] for i in ids]
    assert counts == [[8], []]  # what never began is no attempt
    assert await harness.store.list_workers() == []
    assert harness.cluster.closed
    assert await harness.store.lead("next", 1_000_000) is not None


async def test_a_worker_that_does_not_stop_in_time_loses_its_attempts(harness: Harness) -> None:
    harness.cluster.default = hang
    scheduler = await harness.launch()
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    harness.cluster.only().die()
    await scheduler.stop(0.0)
    await harness.reach(JobState.QUEUED, job_id)


async def test_what_a_worker_said_before_it_died_is_stored(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its death is seen by a call beside the one whose reports are being written just then."""
    harness.cluster.default = hang
    await harness.launch()
    (job_id,) = await harness.submit(make_job())
    await until(lambda: bool(harness.cluster.only().jobs))
    worker = harness.cluster.only()
    writing, go_on = asyncio.Event(), asyncio.Event()
    record_logs = harness.store.record_logs

    async def slow(*arguments: Any) -> None:
        writing.set()
        await go_on.wait()
        await record_logs(*arguments)

    monkeypatch.setattr(harness.store, "record_logs", slow)
    job = worker.assigned[0]
    worker.report(Logged(job.job_id, job.fence, harness.clock.seconds(), ("a line",)))
    worker.succeed(job)
    await writing.wait()
    worker.alive = False
    (other,) = await harness.submit(make_job())
    await until(lambda: harness.cluster.created == 2)
    go_on.set()
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert len(record.attempts) == 1
    assert (await harness.job(other)).state is not JobState.SUCCEEDED


async def test_what_a_dead_worker_said_may_take_long_to_be_stored(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writes go together; one that is through does not make an orphan of the attempt."""
    harness.cluster.default = hang
    await harness.launch()
    (job_id,) = await harness.submit(make_job())
    await until(lambda: bool(harness.cluster.only().jobs))
    worker = harness.cluster.only()
    writing, go_on = asyncio.Event(), asyncio.Event()
    record_logs = harness.store.record_logs

    async def slow(*arguments: Any) -> None:
        writing.set()
        await go_on.wait()
        await record_logs(*arguments)

    monkeypatch.setattr(harness.store, "record_logs", slow)
    job = worker.assigned[0]
    worker.report(
        Logged(job.job_id, job.fence, harness.clock.seconds(), ("a line",)),
        Progressed(job.job_id, job.fence, harness.clock.seconds(), "{}"),
    )
    worker.succeed(job)
    await writing.wait()
    worker.alive = False
    await harness.submit(make_job())
    await until(lambda: harness.cluster.created == 2)
    for _ in range(3):
        harness.clock.advance(6.0)
        await harness.sweeps()
    go_on.set()
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert len(record.attempts) == 1


async def test_a_refusal_that_comes_late_takes_nothing_from_the_next_attempt(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt was recalled and leased anew while the call that refused it was on its way."""
    harness.cluster.default = hang
    await harness.launch()
    called, refuse = asyncio.Event(), asyncio.Event()
    assign = harness.cluster.assign

    async def refused(worker_id: str, assignments: Sequence[Assignment]) -> None:
        monkeypatch.setattr(harness.cluster, "assign", assign)
        called.set()
        await refuse.wait()
        raise ValueError("not a batch")

    monkeypatch.setattr(harness.cluster, "assign", refused)
    (job_id,) = await harness.submit(make_job())
    await called.wait()
    worker, job = harness.cluster.only(), await harness.job(job_id)
    worker.report(Returned(job_id, job.fence, worker.clock()))
    await harness.reach(JobState.RUNNING, job_id)
    refuse.set()
    await harness.sweeps()
    record = await harness.job(job_id)
    assert (record.state, record.fence, worker.cancelled) == (JobState.RUNNING, 2, [])


async def test_a_worker_that_answers_its_start_with_an_error_is_not_left_behind(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = harness.cluster.create_worker

    async def fail_once(pool: PoolSpec, worker_id: str) -> WorkerInfo:
        monkeypatch.setattr(harness.cluster, "create_worker", create)
        await create(pool, worker_id)
        raise RuntimeError("no driver of the device")

    monkeypatch.setattr(harness.cluster, "create_worker", fail_once)
    await harness.launch()
    assert len(harness.cluster.alive) == 1


async def test_a_worker_whose_stop_fails_is_lost(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await harness.launch_hanging()
    worker = harness.cluster.only()

    async def fail(worker_id: str, grace: float) -> None:
        raise RuntimeError("its scratch folder is gone")

    monkeypatch.setattr(harness.cluster, "stop_worker", fail)
    harness.cluster.default = echo
    await harness.sweeps()  # it is published, and may be given orders
    await harness.store.order_workers([worker.info.worker_id], WorkerState.DRAINING, None)
    await harness.reach(JobState.SUCCEEDED, job_id)
    assert not worker.alive


async def test_an_attempt_that_its_worker_has_forgotten_is_released(harness: Harness) -> None:
    """Its outcome was heard by a leader that could not write it, say; the next one waits for it."""
    harness.cluster.default = hang
    first = await harness.launch(keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    await first.stop(0.0)
    harness.cluster.only().jobs.clear()
    harness.cluster.default = echo
    await harness.launch(keep_workers=True)
    for _ in range(10):
        await harness.sweeps(2)
        harness.clock.advance(31.0)
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in job.attempts] == [6, 0]


async def test_who_is_heard_while_another_one_is_mourned_stays(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.launch(make_settings(pools=TWO, lease=1.0))
    workers = harness.cluster.alive
    mourning, go_on = asyncio.Event(), asyncio.Event()
    remove_workers = harness.store.remove_workers

    async def slow(*arguments: Any) -> None:
        mourning.set()
        await go_on.wait()
        await remove_workers(*arguments)

    monkeypatch.setattr(harness.store, "remove_workers", slow)
    for worker in workers:
        worker.frozen = True
    while not mourning.is_set():
        harness.clock.advance(0.1)
        await asyncio.sleep(0.01)
    polls = workers[1].polls
    for worker in workers:
        worker.thaw()
    await until(lambda: workers[1].polls > polls)
    go_on.set()
    await harness.sweeps()
    assert [worker.alive for worker in workers] == [False, True]


async def test_a_leader_that_did_not_run_before_its_first_sweep_loses_nobody(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await harness.launch(keep_workers=True)
    await first.stop(0.0)
    worker = harness.cluster.only()
    sweeping, go_on = asyncio.Event(), asyncio.Event()
    next_due_us = harness.store.next_due_us

    async def slow() -> int | None:
        sweeping.set()
        await go_on.wait()
        return await next_due_us()

    monkeypatch.setattr(harness.store, "next_due_us", slow)
    await harness.launch(keep_workers=True)
    await sweeping.wait()
    worker.frozen = True
    harness.clock.advance(3600.0)
    go_on.set()
    await harness.sweeps()
    assert worker.alive
