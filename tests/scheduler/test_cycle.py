"""Whole cycles over the real store: what becomes of jobs when workers do well."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import pytest

from longshore_cpu_workers.wire import (
    ArtifactRef,
    Checkpointed,
    Logged,
    Progressed,
    Started,
    Succeeded,
)
from longshore_scheduler.sweep import OVERDUE
from longshore_scheduler.turns import MAXIMUM_LANES, Turns
from longshore_store.model import EventKind, Lane, Lease, Leased, OnConflict, UniqueClaim
from longshore_store.needs import needs_json
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeWorker, hang, never_begin
from tests.scheduler.harness import Harness, make_job, make_settings, make_spec, until

SUCCEEDED = [JobState.QUEUED, JobState.LEASED, JobState.RUNNING, JobState.SUCCEEDED]


async def history(harness: Harness, job_id: str) -> list[int]:
    """The states a job went through."""
    (changes,) = await harness.store.read_changes({job_id: 0})
    assert [e.sequence for e in changes.events] == list(range(1, len(changes.events) + 1))
    return [e.to_state for e in changes.events if e.kind == EventKind.STATE]


async def test_a_job_is_run_and_its_result_kept(harness: Harness) -> None:
    await harness.launch()
    (job_id,) = await harness.submit(make_job(payload='{"n":1}'))
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert job.value_json == '{"n":1}'
    assert [attempt.number for attempt in job.attempts] == [1]
    assert await history(harness, job_id) == SUCCEEDED


async def test_many_jobs_are_run_once_each(harness: Harness) -> None:
    await harness.launch()
    ids = await harness.submit(*(make_job() for _ in range(2000)))
    await harness.reach(JobState.SUCCEEDED, *ids)
    assigned = [job.job_id for job in harness.cluster.only().assigned]
    assert sorted(assigned) == sorted(ids)


async def test_an_idle_scheduler_assigns_at_once(harness: Harness) -> None:
    await harness.launch(make_settings(sweep_interval=60.0))
    worker = harness.cluster.only()
    for _ in range(5):
        (job_id,) = await harness.submit(make_job())
        await until(partial(_was_assigned, worker, job_id))  # no tick of 60 s in the way


async def test_an_assignment_carries_what_the_attempt_needs(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    spec = make_spec("echo", attempt=60.0, total=3600.0, cancel_grace=3.0)
    (job_id,) = await harness.submit(
        make_job(payload="[1]", spec=spec, total_timeout_us=20_000_000)
    )
    await harness.reach(JobState.RUNNING, job_id)
    (assignment,) = harness.cluster.only().assigned
    assert (assignment.payload, assignment.number, assignment.tenant) == ("[1]", 1, "t")
    assert assignment.attempt_timeout == 20.0  # what is left of the job is less than 60 s
    assert assignment.cancel_grace == 3.0
    assert assignment.needs.cpu_millis == 1000


async def test_progress_logs_checkpoints_and_artifacts_are_kept(harness: Harness) -> None:
    job_id = await harness.launch_hanging()
    worker = harness.cluster.only()
    (job,) = worker.assigned
    now = worker.clock()
    worker.report(
        Progressed(job.job_id, job.fence, now, '{"fraction":0.5}'),
        Logged(job.job_id, job.fence, now, ("one", "two"), 3),
        Checkpointed(job.job_id, job.fence, now, '{"page":7}'),
        Succeeded(
            job.job_id, job.fence, now, 0.5, "{}",
            (ArtifactRef("thumb", "file:///t.png", 5, "ab", "image/png"),),
        ),
    )  # fmt: skip
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert json.loads(record.artifacts_json or "")[0]["uri"] == "file:///t.png"
    assert json.loads(record.progress_json or "") == {"fraction": 0.5}
    (changes,) = await harness.store.read_changes({job_id: 0})
    (log,) = [e for e in changes.events if e.kind == EventKind.LOG]
    assert json.loads(log.body_json or "") == {"lines": ["one", "two"], "dropped": 3}
    assert changes.events[-1].to_state == JobState.SUCCEEDED


async def test_devices_of_an_attempt_are_kept(harness: Harness) -> None:
    harness.cluster.default = lambda worker, job: worker.report(
        Started(job.job_id, job.fence, worker.clock(), ("GPU-1",)),
        Succeeded(job.job_id, job.fence, worker.clock(), 0.1, "{}"),
    )
    await harness.launch()
    (job_id,) = await harness.submit(make_job())
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert record.attempts[0].devices_json == '["GPU-1"]'
    assert await history(harness, job_id) == SUCCEEDED


async def test_times_of_a_worker_become_times_of_the_store(harness: Harness) -> None:
    job_id = await harness.launch_hanging()
    harness.clock.advance(90.0)
    worker = harness.cluster.only()
    worker.succeed(worker.assigned[0], seconds=90.0)
    (record,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert record.first_started_us is not None
    assert record.ended_us is not None
    assert abs(record.ended_us - record.first_started_us - 90_000_000) < 1_000


async def test_quick_jobs_are_handed_ahead_once_their_run_time_is_known(harness: Harness) -> None:
    await harness.launch(make_settings(maximum_prefetch=512))
    first = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, *first)
    harness.cluster.default = hang
    await harness.submit(*(make_job() for _ in range(1000)))
    worker = harness.cluster.only()
    await until(lambda: len(worker.jobs) == 516)  # 4 cores, and maximum_prefetch more
    assert all(job.fence for job in worker.jobs.values())


async def test_what_turned_slow_does_not_hold_up_what_is_urgent(harness: Harness) -> None:
    """Jobs that were handed ahead while their task was quick go back once it is not."""
    await harness.launch(make_settings(pools={"cpu": {"cpu": 1}}))
    (quick,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, quick)
    worker = harness.cluster.only()
    harness.cluster.default = never_begin
    slow = await harness.submit(*(make_job(priority=10) for _ in range(5)))
    await harness.handed_over(*slow)
    running = next(iter(worker.jobs.values()))
    worker.report(Started(running.job_id, running.fence, worker.clock()))
    await harness.reach(JobState.RUNNING, running.job_id)
    harness.clock.advance(OVERDUE + 0.1)
    waiting = [job_id for job_id in slow if job_id != running.job_id]
    jobs = await harness.reach(JobState.QUEUED, *waiting)
    assert not any(job.attempts for job in jobs), "what never began is no attempt"
    (urgent,) = await harness.submit(make_job(priority=100))
    worker.succeed(running, seconds=1.5)
    await until(lambda: len(worker.jobs) == 1)
    assert set(worker.jobs) == {urgent}


async def test_jobs_of_unknown_run_time_are_not_handed_ahead(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    ids = await harness.submit(*(make_job("train") for _ in range(50)))
    await harness.reach(JobState.RUNNING, *ids[:4])
    await harness.sweeps()
    assert len(harness.cluster.only().jobs) == 4


async def test_a_paused_queue_is_left_alone_until_it_is_resumed(harness: Harness) -> None:
    await harness.launch()
    await harness.store.pause_queue("default", "test")
    (job_id,) = await harness.submit(make_job())
    await harness.sweeps()
    assert (await harness.job(job_id)).state is JobState.QUEUED
    await harness.store.resume_queue("default")
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_a_scheduled_job_waits_for_its_time(harness: Harness) -> None:
    await harness.launch()
    (job_id,) = await harness.submit(make_job(due_us=harness.store.now_us() + 60_000_000))
    await harness.sweeps()
    assert (await harness.job(job_id)).state is JobState.SCHEDULED
    harness.clock.advance(61.0)
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_a_waiting_job_expires_with_its_queue_timeout(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    running = await harness.submit(*(make_job() for _ in range(4)))
    await harness.reach(JobState.RUNNING, *running)
    (job_id,) = await harness.submit(make_job(queue_timeout_us=5_000_000))
    harness.clock.advance(6.0)
    await harness.reach(JobState.EXPIRED, job_id)


async def test_jobs_that_fit_nowhere_do_not_hide_those_behind_them(harness: Harness) -> None:
    await harness.launch()
    large = needs_json(cpu_millis=64_000)
    await harness.submit(*(make_job(needs_json=large) for _ in range(100)))
    (job_id,) = await harness.submit(make_job())
    harness.clock.advance(1.1)  # all is looked at once a second, and may have been just before
    await harness.reach(JobState.SUCCEEDED, job_id)


def test_lanes_of_which_nothing_fits_do_not_hide_the_others() -> None:
    turns, read = Turns(), 0
    stuck = [Lane("queue", f"{i:04}", 1) for i in range(MAXIMUM_LANES)]
    for _ in range(8):
        lanes = [*stuck, Lane("queue", "other", 100)]
        turns.join(lanes)
        rations = turns.ration(lanes, 64)
        assert len({lane for lane, _ in rations}) == MAXIMUM_LANES
        if lanes[-1] in dict(rations):
            read += 1
            turns.charge({("queue", "other"): 1})
    assert read >= 3


async def test_pools_are_published_before_anybody_leads(harness: Harness) -> None:
    await harness.store.lead("another", 60_000_000)
    await harness.launch(make_settings(pools={"cpu": {"minimum_workers": 0}}))
    (pool,) = await harness.store.list_pools()
    assert (pool.name, pool.ready_workers) == ("cpu", 0)


async def test_workers_and_live_numbers_are_published(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    ids = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, *ids)
    harness.clock.advance(4.0)
    await harness.sweeps()
    (worker,) = await harness.store.list_workers()
    assert (worker.pool, worker.state, worker.active_attempts) == ("cpu", 2, 1)
    (pool,) = await harness.store.list_pools()
    assert (pool.ready_workers, pool.active_attempts) == (1, 1)


def _was_assigned(worker: FakeWorker, job_id: str) -> bool:
    return any(job.job_id == job_id for job in worker.assigned)


async def test_a_job_that_was_replaced_after_it_was_planned_is_planned_anew(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = UniqueClaim("order-7", None, OnConflict.REPLACE_QUEUED)
    grown = make_job(unique=claim, needs_json=needs_json(cpu_millis=2000))
    lease_jobs = harness.store.lease_jobs

    async def late(term: int, leases: Sequence[Lease]) -> list[Leased]:
        monkeypatch.setattr(harness.store, "lease_jobs", lease_jobs)
        [answer] = await harness.store.submit_jobs([grown])
        assert answer.job_id == leases[0].job_id
        return await lease_jobs(term, leases)

    monkeypatch.setattr(harness.store, "lease_jobs", late)
    await harness.launch()
    (job_id,) = await harness.submit(make_job(unique=claim))
    await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.needs.cpu_millis for a in harness.cluster.only().assigned] == [2000]
