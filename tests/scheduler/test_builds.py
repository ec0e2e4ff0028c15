"""A new build: jobs go to workers that have their task, and old workers go, a few at a time."""

from __future__ import annotations

from typing import Any

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.build import Build
from longshore_cpu_workers.wire import UNKNOWN_TASK, Assignment, Failure
from longshore_scheduler.scheduler import Scheduler
from longshore_scheduler.turns import MAXIMUM_HEADS
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeWorker, echo, hang
from tests.scheduler.harness import Harness, make_job, make_settings, until

OLD = Build("old000000000", "mltasks 1", ("echo",))
NEW = Build("new000000000", "mltasks 2", ("echo", "brandnew"))


def pools(count: int) -> dict[str, Any]:
    return {"cpu": {"cpu": 1, "minimum_workers": count, "maximum_workers": 2 * count}}


def builds(harness: Harness) -> list[str]:
    return sorted(worker.info.build for worker in harness.cluster.alive)


async def launch(harness: Harness, build: Build, count: int = 1, **options: Any) -> Scheduler:
    harness.cluster.tasks = frozenset(build.tasks)
    settings = make_settings(pools=pools(count))
    return await harness.launch(settings, build=build, keep_workers=True, **options)


def deploy(harness: Harness, build: Build) -> None:
    harness.cluster.tasks = frozenset(build.tasks)
    harness.schedulers[-1].deploy(build)


async def test_an_attempt_names_the_build_that_ran_it(harness: Harness) -> None:
    await launch(harness, OLD)
    (job_id,) = await harness.submit(make_job())
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [attempt.build for attempt in job.attempts] == [OLD.id]
    (worker,) = await harness.store.list_workers()
    assert worker.build == OLD.id


async def test_idle_workers_are_replaced_at_once(harness: Harness) -> None:
    await launch(harness, OLD, 2)
    deploy(harness, NEW)
    await until(lambda: builds(harness) == [NEW.id] * 2)
    (job_id,) = await harness.submit(make_job("brandnew"))
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert job.attempts[0].build == NEW.id


async def test_a_busy_worker_ends_what_it_has_on_its_own_build(harness: Harness) -> None:
    await launch(harness, OLD)
    harness.cluster.default = hang
    (old_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, old_id)
    busy = harness.cluster.only()
    deploy(harness, NEW)
    await until(lambda: builds(harness) == [NEW.id, OLD.id])
    new_ids = await harness.submit(make_job(), make_job("brandnew", needs_json="{}"))
    await harness.handed_over(new_ids[0])
    assert set(busy.jobs) == {old_id}, "it gets nothing more"
    for worker in harness.cluster.alive:
        for held in list(worker.jobs.values()):
            worker.succeed(held)
    harness.cluster.default = echo
    await until(lambda: builds(harness) == [NEW.id])
    (job,) = await harness.reach(JobState.SUCCEEDED, old_id)
    assert [(a.build, a.failure_class) for a in job.attempts] == [(OLD.id, 0)]


async def test_a_pool_is_replaced_a_few_at_a_time(harness: Harness) -> None:
    await launch(harness, OLD, 8)
    harness.cluster.places = 8 - 2  # no replacement comes up before two have gone
    deploy(harness, NEW)
    await until(lambda: len(harness.cluster.alive) == 6)
    await harness.sweeps(5)
    assert builds(harness) == [OLD.id] * 6, "a quarter is away, and no more"
    ready = harness.schedulers[-1].ready_workers
    assert ready == 6, "the others go on meanwhile"
    (job_id,) = await harness.submit(make_job())
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert job.attempts[0].build == OLD.id
    harness.cluster.places = 8
    await until(lambda: builds(harness) == [NEW.id] * 8)


async def test_a_job_whose_task_no_worker_has_waits_for_the_one_that_does(
    harness: Harness,
) -> None:
    await launch(harness, OLD)
    harness.cluster.default = hang
    (old_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, old_id)
    harness.cluster.places = 1  # the machine has no room for two
    deploy(harness, NEW)
    (new_id,) = await harness.submit(make_job("brandnew", needs_json="{}"))
    await harness.sweeps(5)
    assert (await harness.job(new_id)).state is JobState.QUEUED
    (pool,) = await harness.store.list_pools()
    assert (pool.build, pool.ready_workers) == (NEW.id, 0)
    harness.cluster.default = echo
    busy = harness.cluster.only()
    busy.succeed(busy.jobs[old_id])
    await harness.reach(JobState.SUCCEEDED, old_id, new_id)
    assert builds(harness) == [NEW.id]


async def test_what_the_settings_lost_waits_until_it_is_back(harness: Harness) -> None:
    scheduler = await launch(harness, OLD)
    (job_id,) = await harness.submit(make_job("brandnew"))
    await harness.sweeps(5)
    assert (await harness.job(job_id)).state is JobState.QUEUED
    await scheduler.stop(0.0)
    await launch(harness, NEW)
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_many_jobs_of_a_lost_task_do_not_hide_those_behind_them(harness: Harness) -> None:
    lost = [make_job("brandnew") for _ in range(MAXIMUM_HEADS + 100)]
    await harness.submit(*lost)
    await launch(harness, OLD)
    (behind,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, behind)
    deploy(harness, NEW)
    await harness.reach(JobState.SUCCEEDED, lost[0].id, lost[-1].id)


async def test_a_leader_of_another_build_replaces_what_it_adopts(harness: Harness) -> None:
    first = await launch(harness, OLD, 2)
    await first.stop(0.0)
    await launch(harness, NEW, 2)
    await until(lambda: builds(harness) == [NEW.id] * 2)
    await harness.schedulers[-1].stop(0.0)
    created = harness.cluster.created
    await launch(harness, NEW, 2)
    await harness.sweeps(5)
    assert harness.cluster.created == created, "the same build takes over what there is"


async def test_a_machine_without_the_new_code_is_not_asked_for_ever(harness: Harness) -> None:
    await launch(harness, OLD, 2)
    harness.cluster.code = OLD.id  # the code of the machines stays
    harness.schedulers[-1].deploy(NEW)
    await until(lambda: harness.cluster.created == 4 and len(harness.cluster.alive) == 2)
    await harness.sweeps(10)
    assert harness.cluster.created == 4, "each was replaced once"
    await harness.sweeps()
    (pool,) = await harness.store.list_pools()
    assert pool.lacks_json == '["brandnew"]'
    (waiting, old) = await harness.submit(make_job("brandnew"), make_job("echo"))
    await harness.reach(JobState.SUCCEEDED, old)
    assert (await harness.job(waiting)).state is JobState.QUEUED


async def test_a_worker_that_lacks_a_task_after_all_is_not_asked_again(harness: Harness) -> None:
    def lacks(worker: FakeWorker, job: Assignment) -> None:
        worker.fail(job, Failure(FailureClass.PREEMPTED, 5, UNKNOWN_TASK, "it has none"))

    await launch(harness, NEW)
    harness.cluster.behaviour["brandnew"] = lacks
    (job_id,) = await harness.submit(make_job("brandnew"))
    worker = harness.cluster.only()
    await until(lambda: len(worker.assigned) == 1)
    await harness.sweeps(5)
    job = await harness.job(job_id)
    assert (job.state, job.attempts, any(job.counted)) == (JobState.QUEUED, (), False)
    assert len(worker.assigned) == 1
    harness.cluster.behaviour.clear()
    worker.die()
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_a_worker_whose_code_changed_under_it_is_replaced(harness: Harness) -> None:
    await launch(harness, OLD)
    worker = harness.cluster.only()
    worker.outdated = "its code is now build x"
    worker.report()
    await until(lambda: not worker.alive)
    await until(lambda: len(harness.cluster.alive) == 1)
