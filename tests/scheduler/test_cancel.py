"""Cancelling: whatever the attempt does meanwhile, Cancel's answer stands."""

from __future__ import annotations

import asyncio

from longshore_store.states import JobState
from tests.scheduler.fake_cluster import hang, never_begin
from tests.scheduler.harness import Harness, make_job, make_settings, until


async def start(harness: Harness, state: JobState) -> str:
    (job_id,) = await harness.submit(make_job())
    await harness.reach(state, job_id)
    return job_id


async def test_a_queued_job_never_reaches_a_worker(harness: Harness) -> None:
    await harness.launch(make_settings(pools={"cpu": {"minimum_workers": 0}}))
    job_id = await start(harness, JobState.QUEUED)
    await harness.store.cancel_jobs([job_id], "no need", False)
    await harness.reach(JobState.CANCELLED, job_id)


async def test_a_leased_job_is_recalled(harness: Harness) -> None:
    harness.cluster.default = never_begin
    await harness.launch()
    job_id = await start(harness, JobState.LEASED)
    await harness.store.cancel_jobs([job_id], "no need", False)
    await harness.reach(JobState.CANCELLED, job_id)
    assert [i for i, _ in harness.cluster.only().recalled] == [job_id]
    assert not harness.cluster.only().cancelled


async def test_a_running_job_is_cancelled_at_once(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch(make_settings(sweep_interval=60.0))
    job_id = await start(harness, JobState.RUNNING)
    await harness.store.cancel_jobs([job_id], "no need", False)
    (job,) = await harness.reach(JobState.CANCELLED, job_id)
    (order,) = harness.cluster.only().cancelled
    assert (order.job_id, order.force) == (job_id, False)
    assert job.attempts[0].failure_class == 11


async def test_force_is_passed_on_even_after_a_gentle_order(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    worker = harness.cluster.only()
    worker.obeys = False
    job_id = await start(harness, JobState.RUNNING)
    await harness.store.cancel_jobs([job_id], "no need", False)
    await until(lambda: len(worker.cancelled) == 1)
    worker.obeys = True
    await harness.store.cancel_jobs([job_id], "now", True)
    await harness.reach(JobState.CANCELLED, job_id)
    assert [order.force for order in worker.cancelled] == [False, True]


async def test_an_order_that_is_not_followed_is_repeated(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    worker = harness.cluster.only()
    worker.obeys = False
    job_id = await start(harness, JobState.RUNNING)
    await harness.store.cancel_jobs([job_id], "no need", False)
    await until(lambda: len(worker.cancelled) == 1)
    harness.clock.advance(6.0)
    await until(lambda: len(worker.cancelled) == 2)


async def test_a_completion_that_comes_too_late_does_not_undo_a_cancel(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    worker = harness.cluster.only()
    worker.obeys = False
    job_id = await start(harness, JobState.RUNNING)
    await harness.store.cancel_jobs([job_id], "no need", False)
    worker.succeed(worker.assigned[0])
    (job,) = await harness.reach(JobState.CANCELLED, job_id)
    assert job.value_json is None


async def test_cancels_racing_completions_agree_with_their_answer(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch(make_settings(pools={"cpu": {"cpu": 64, "maximum_runners": 64}}))
    ids = await harness.submit(*(make_job() for _ in range(60)))
    await harness.reach(JobState.RUNNING, *ids)
    worker = harness.cluster.only()
    stale: list[str] = []

    async def cancel(job_id: str) -> None:
        stale.extend(await harness.store.cancel_jobs([job_id], "race", False))

    racing = [asyncio.create_task(cancel(job_id)) for job_id in ids]
    for job in list(worker.jobs.values()):
        worker.succeed(job)
        await asyncio.sleep(0)
    await asyncio.gather(*racing)
    await harness.reach(JobState.SUCCEEDED, *stale)
    await harness.reach(JobState.CANCELLED, *(set(ids) - set(stale)))
